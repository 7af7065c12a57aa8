"""A file of every type goes in by one door, and comes out by it as something to look at, with all that it says."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from pathlib import Path
from typing import Any, Final

import imagehash
import psutil
from PIL import Image

from processing import kinds
from processing.kinds import FileType, MediaKind
from tests.client import Account, Json
from tests.processing.broken import HOSTILE, patched
from tests.processing.pdffiles import encrypted
from tests.processing.pictures import CORNERS, RED, close, corners, quadrants
from tests.processing.samples import FILM_SIZE, SIZE, TYPES, sample
from tests.server import Server, wait_for

FACTS: Final = """query($id: ID!) { media(id: $id) {
    kind status failure { code message } filename contentType sizeBytes width height duration pageCount takenAt
    location { latitude longitude } exif perceptualHash thumbhash dominantColor
    variants { name contentType width height sizeBytes url }
} }"""

# ---------------------------------------------------------------- what is to be found in each

NOTHING: Final[Json] = dict.fromkeys(("width", "height", "duration", "pageCount", "takenAt", "location"))
WHERE: Final[Json] = {"latitude": 48.2083333, "longitude": 16.37}
PLACE: Final[Json] = {
    "GPSLatitudeRef": "N",
    "GPSLatitude": [48, 12, 30],
    "GPSLongitudeRef": "E",
    "GPSLongitude": [16, 22, 12],
}
CAMERA: Final[Json] = {"DateTimeOriginal": "2024:05:01 12:00:00", "OffsetTimeOriginal": "+02:00", "LensModel": "50mm"}
EXIF: Final[Json] = {"Make": "Heirloom", "Orientation": 1, "FNumber": 2.8, **CAMERA, "GPS": PLACE}
RAW_EXIF: Final[Json] = {"Model": "Heirloom One", "Orientation": 1, **CAMERA, "GPS": PLACE}
TIFF_EXIF: Final[Json] = {
    "ImageWidth": SIZE[0],
    "ImageLength": SIZE[1],
    "BitsPerSample": [8, 8, 8],
    "SamplesPerPixel": 3,
    "Compression": 1,
    "PhotometricInterpretation": 2,
    "PlanarConfiguration": 1,
    "RowsPerStrip": SIZE[1],
}


def photo(exif: Json, size: tuple[int, int] = SIZE) -> Json:
    """As tests.processing.samples makes them: at noon in a zone two hours ahead, in Vienna."""
    here = {"takenAt": "2024-05-01T10:00:00Z", "location": WHERE} if "GPS" in exif else {}
    return NOTHING | {"width": size[0], "height": size[1], "exif": exif} | here


def film(video: str, audio: str, seconds: float = 1.0, **facts: Any) -> Json:
    here = {"takenAt": "2024-05-01T12:00:00Z", "location": {"latitude": 48.2083, "longitude": 16.37}}
    size = {"width": FILM_SIZE[0], "height": FILM_SIZE[1], "duration": seconds}
    return NOTHING | size | here | {"exif": {"VideoCodec": video, "AudioCodec": audio, "FrameRate": 8}} | facts


def recording(codec: str, seconds: float, **tags: Any) -> Json:
    return NOTHING | {"duration": seconds, "exif": {"AudioCodec": codec, "SampleRate": 48_000, "Channels": 2} | tags}


SENSOR: Final = (96, 64)
FOUND: Final[dict[FileType, Json]] = {
    **dict.fromkeys((kinds.JPEG, kinds.PNG, kinds.WEBP, kinds.HEIC), photo(EXIF)),
    kinds.AVIF: photo({name: value for name, value in EXIF.items() if name != "Orientation"}),
    kinds.TIFF: photo(EXIF | TIFF_EXIF),
    **dict.fromkeys((kinds.GIF, kinds.BMP), photo({})),
    kinds.DNG: photo(RAW_EXIF | {"Make": "Heirloom"}, SENSOR),
    kinds.NEF: photo(RAW_EXIF | {"Make": "NIKON CORPORATION"}, SENSOR),
    kinds.RAF: photo(EXIF, SENSOR),
    kinds.MP4: film("h264", "aac"),
    kinds.MOV: film("mpeg4", "pcm_s16le"),
    kinds.WEBM: film("vp8", "opus"),
    kinds.MKV: film("h264", "flac"),
    # Without room for when and where.
    kinds.AVI: film("mjpeg", "mp3", 1.125, takenAt=None, location=None),
    kinds.MP3: recording("mp3", 0.528, Title="Tone", BitRate=128_000),
    kinds.M4A: recording("aac", 0.5, Title="Tone"),
    kinds.OGG: recording("opus", 0.506),
    kinds.WAV: recording("pcm_s16le", 0.1, Title="Tone", BitRate=1_536_000),
    kinds.FLAC: recording("flac", 0.5),
    kinds.PDF: NOTHING | {"pageCount": 3, "exif": {"Title": "Pages"}},
}
# What depends on the version or the machine of who made the sample.
LEFT_OUT: Final = {
    **dict.fromkeys((kinds.M4A, kinds.OGG, kinds.FLAC), ("Software", "BitRate")),
    **dict.fromkeys((kinds.WAV, kinds.MP4, kinds.MOV, kinds.WEBM, kinds.MKV, kinds.AVI), ("Software",)),
}

PICTURES: Final = ("THUMBNAIL", "SMALL", "MEDIUM", "LARGE")
NAMES: Final = {
    **dict.fromkeys((MediaKind.IMAGE, MediaKind.AUDIO, MediaKind.DOCUMENT), PICTURES),
    MediaKind.VIDEO: ("THUMBNAIL", "SMALL", "MEDIUM", "POSTER", "PREVIEW", "STREAM"),
}
PAGE: Final = {"THUMBNAIL": (150, 150), "SMALL": (400, 200), "MEDIUM": (800, 400), "LARGE": (1600, 800)}


def variants(type_: FileType) -> list[Json]:
    """A page is drawn as large as need be; all else is smaller than its variants may be, and made no larger."""
    if type_ == kinds.WAV:  # which has no cover
        return []
    width, height = (FOUND[type_]["width"], FOUND[type_]["height"]) if FOUND[type_]["width"] else SIZE
    sizes = dict.fromkeys(NAMES[type_.kind], (width, height)) | {"THUMBNAIL": (min(width, height),) * 2}
    return [
        {"name": name, "contentType": "video/mp4" if name == "STREAM" else "image/webp", "width": wide, "height": high}
        for name, (wide, high) in (PAGE if type_ == kinds.PDF else sizes).items()
    ]


# ---------------------------------------------------------------- through the door


async def test_every_type_is_seen_and_tells_what_it_knows(server: Server, ada: Account, scratch: Path) -> None:
    files = [(f"file.{type_.extension}", sample(type_)) for type_ in TYPES]
    payload = await ada.upload_batch(files)
    assert payload["errors"] == []
    assert [result["errors"] for result in payload["results"]] == [[]] * len(TYPES)
    ids = [result["media"]["id"] for result in payload["results"]]
    await asyncio.gather(*(ada.watch(each) for each in ids))
    assert set(FOUND) == set(TYPES)
    for type_, media_id in zip(TYPES, ids, strict=True):
        await assert_found(ada, type_, await ada.ask(FACTS, id=media_id))
    wait_for(lambda: not any(scratch.glob("*/*")))


async def assert_found(ada: Account, type_: FileType, media: Json) -> None:
    made = media.pop("variants")
    looks = {name: media.pop(name) for name in ("perceptualHash", "thumbhash", "dominantColor")}
    left_out = LEFT_OUT.get(type_, ())
    assert set(left_out) <= set(media["exif"]), type_
    media["exif"] = {name: value for name, value in media["exif"].items() if name not in left_out}
    assert media == FOUND[type_] | {
        "kind": type_.kind,
        "status": "READY",
        "failure": None,
        "filename": f"file.{type_.extension}",
        "contentType": type_.content_type,
        "sizeBytes": len(sample(type_)),
    }
    files = {each["name"]: (await ada.http.get(each.pop("url"))).content for each in made}
    assert all(each.pop("sizeBytes") == len(files[each["name"]]) > 0 for each in made)
    assert made == variants(type_)
    if made:
        assert_looks(type_, looks, Image.open(io.BytesIO(files["SMALL"])))
    else:
        assert set(looks.values()) == {None}


def assert_looks(type_: FileType, looks: Json, small: Image.Image) -> None:
    expected = (RED,) * 4 if type_ == kinds.GIF else CORNERS  # an animation that begins in red
    assert close(corners(small), expected, tolerance=40), type_
    assert re.fullmatch("#[0-9a-f]{6}", looks["dominantColor"]), type_
    red, green, blue = bytes.fromhex(looks["dominantColor"][1:])
    assert any(close([(red, green, blue)], (corner,)) for corner in expected), type_
    assert 5 <= len(base64.b64decode(looks["thumbhash"], validate=True)) <= 25, type_
    assert re.fullmatch("[0-9a-f]{16}", looks["perceptualHash"]), type_
    if type_ in (kinds.PNG, kinds.TIFF, kinds.BMP):
        # Of a picture of such symmetry, some bits are the sign of a rounding error; of any other, half would differ.
        expected_hash = int(str(imagehash.phash(quadrants(*SIZE))), 16)
        assert (int(looks["perceptualHash"], 16) ^ expected_hash).bit_count() < 10, type_


# ---------------------------------------------------------------- what would rather not be seen

# Of a worker, which decodes nothing itself: it has 75 MiB.
MOST_MEMORY: Final = 200 * 2**20


def hostile(way: str, name: str) -> bytes:
    return next(each.data for each in HOSTILE[way]() if each.name == name)


async def test_hostile_files_end_with_their_codes_and_the_worker_lives(
    server: Server, ada: Account, scratch: Path
) -> None:
    film = sample(kinds.MP4)
    files = {
        "bomb.mp4": (patched(film, film.index(b"stts") + 8, b"\xff" * 4), "TOO_MANY_PIXELS"),
        "inflated.png": (hostile("bombs", "png with 64 MiB in zTXt"), "CORRUPT"),
        "cut.mp4": (film[: len(film) // 2], "CORRUPT"),
        "locked.pdf": (encrypted(b"secret"), "UNSUPPORTED"),
        "covers.mp3": (hostile("recordings", "mp3 of 200 covers"), "UNSUPPORTED"),
        "circle.jpg": (hostile("exif", "jpg with EXIF of directories in a circle"), None),
        "numbers.jpg": (hostile("exif", "jpg with EXIF of four billion values"), None),
    }
    assert server.worker is not None
    payload = await ada.upload_batch([(name, data) for name, (data, _) in files.items()])
    assert [result["errors"] for result in payload["results"]] == [[]] * len(files)
    ids = [result["media"]["id"] for result in payload["results"]]
    ended = await asyncio.gather(*(ada.watch(each) for each in ids))
    codes = {
        name: (updates[-1]["failure"] or {"code": None})["code"] for name, updates in zip(files, ended, strict=True)
    }
    assert codes == {name: code for name, (_, code) in files.items()}
    for media_id, (_, code) in zip(ids, files.values(), strict=True):
        media = await ada.ask(FACTS, id=media_id)
        assert media["status"] == ("FAILED" if code else "READY")
        assert bool(media["variants"]) == (code is None)
    good = await ada.settled((await ada.uploaded(sample(kinds.BMP), "good.bmp"))["id"])
    assert good["status"] == "READY"
    assert server.worker.poll() is None
    assert psutil.Process(server.worker.pid).memory_info().rss < MOST_MEMORY
    wait_for(lambda: not any(scratch.glob("*/*")))
