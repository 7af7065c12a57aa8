"""What phones write: HEIC of any layout comes out upright, in its colours, by its main picture alone."""

import io
import struct
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import pillow_heif
import pytest
from PIL import Image

from processing import cicp, kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.identify import HEAD_BYTES, identify
from processing.kinds import FileType
from processing.variants import VariantName
from tests.pictures import tiny_mp4
from tests.processing.pictures import (
    BLUE,
    CORNERS,
    GREEN,
    RED,
    WHITE,
    Colour,
    Produced,
    close,
    corners,
    encoded,
    exif,
    label,
    produced,
    quadrants,
    stored,
    swapping_profile,
    with_place,
)
from tests.processing.test_identify import box

SIZE: Final = (96, 64)
MEDIUM: Final = VariantName.MEDIUM


def heic(*pictures: Image.Image, **options: Any) -> bytes:
    """Written by libheif itself: Pillow's way to it would also read with another plugin than ours."""
    file = pillow_heif.HeifFile()  # type: ignore[no-untyped-call]
    for picture in pictures:
        file.add_from_pillow(picture)
    buffer = io.BytesIO()
    file.save(buffer, quality=90, chroma=444, enc_params={"preset": "ultrafast"}, **options)
    return buffer.getvalue()


@cache
def plain() -> bytes:
    return heic(quadrants(*SIZE))


def made(folder: Path, data: bytes) -> Produced:
    type_ = identify(data[:HEAD_BYTES])
    assert type_ in (kinds.HEIC, kinds.HEIF)
    return produced(folder, data, type_)


def failure(folder: Path, data: bytes) -> FailureCode:
    with pytest.raises(ProcessingFailed) as caught:
        made(folder, data)
    assert not list((folder / "variants").iterdir())
    return caught.value.code


def is_upright(found: Produced, size: tuple[int, int] = SIZE, colours: tuple[Colour, ...] = CORNERS) -> bool:
    assert (found.facts.width, found.facts.height) == size
    assert found.sizes[MEDIUM] == size
    assert all(image.mode == "RGB" for image in found.variants.values())
    return all(close(corners(image), colours) for image in found.variants.values())


# ---------------------------------------------------------------- upright


def oriented(data: bytes, orientation: int) -> bytes:
    """The same file with another orientation in its EXIF, and nothing else changed."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00"
    at = data.index(entry) + len(entry)
    return data[:at] + bytes([orientation]) + data[at + 1 :]


@pytest.mark.parametrize("in_exif", [1, 6, "the same"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_by_the_container_once(tmp_path: Path, orientation: int, in_exif: Any) -> None:
    # The encoder says the orientation in the container's own properties, as phones do, and says 1 in EXIF.
    data = heic(stored(quadrants(*SIZE), orientation), exif=exif(orientation).tobytes())
    assert is_upright(made(tmp_path, oriented(data, orientation if in_exif == "the same" else in_exif)))


def test_xmp_turns_nothing(tmp_path: Path) -> None:
    says = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
    data = heic(quadrants(*SIZE), xmp=says % 1)
    assert is_upright(made(tmp_path, data.replace(says % 1, says % 6)))


# ---------------------------------------------------------------- layouts


def test_tiles(tmp_path: Path) -> None:
    data = heic(quadrants(150, 100), tile_size=64)
    assert data.count(b"hvc1") == 6
    assert is_upright(made(tmp_path, data), (150, 100))


def test_the_main_picture_of_several(tmp_path: Path) -> None:
    burst = (Image.new("RGB", (120, 80), RED), Image.new("RGB", (40, 30), GREEN))
    found = made(tmp_path, heic(quadrants(*SIZE), *burst, primary_index=2))
    assert is_upright(found, (40, 30), (GREEN,) * 4)
    assert not any(getattr(image, "is_animated", False) for image in found.variants.values())


def test_the_picture_and_not_its_thumbnail(tmp_path: Path) -> None:
    picture = quadrants(400, 300)
    picture.info["thumbnails"] = [200]
    data = heic(picture)
    assert data.count(b"thmb") == 1
    assert is_upright(made(tmp_path, data), (400, 300))


def test_transparency(tmp_path: Path) -> None:
    picture = quadrants(*SIZE)
    picture.putalpha(quadrants(*SIZE, ((255,) * 3, (0,) * 3, (128,) * 3, (255,) * 3)).convert("L"))
    image = made(tmp_path, heic(picture)).variants[MEDIUM]
    assert image.mode == "RGBA"
    assert [alpha for alpha, *_ in corners(image.getchannel("A"))] == pytest.approx([255, 0, 128, 255], abs=3)
    assert close(corners(image)[2:], (BLUE, WHITE))


def test_grey(tmp_path: Path) -> None:
    greys = tuple((v, v, v) for v in (20, 90, 160, 240))
    assert is_upright(made(tmp_path, heic(quadrants(*SIZE, greys).convert("L"))), colours=greys)


def test_ten_bits(tmp_path: Path) -> None:
    deep = b"".join(struct.pack("<H", channel * 257) for channel in quadrants(*SIZE).tobytes())
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", SIZE, deep).save(buffer, quality=90, chroma=444)
    assert buffer.getvalue().count(b"pixi\x00\x00\x00\x00\x03\x0a\x0a\x0a") == 1
    assert is_upright(made(tmp_path, buffer.getvalue()))


# ---------------------------------------------------------------- colours


def test_profile(tmp_path: Path) -> None:
    swapped = tuple((green, red, blue) for red, green, blue in CORNERS)
    picture = quadrants(*SIZE, swapped)
    assert is_upright(made(tmp_path, heic(picture, icc_profile=swapping_profile())))


def nclx(primaries: int, transfer: int) -> dict[str, int]:
    return {
        "color_primaries": primaries,
        "transfer_characteristics": transfer,
        "matrix_coefficients": 6,
        "full_range_flag": 1,
    }


# Of sRGB in Display P3, by its definition: the same light in other numbers.
IN_P3: Final = ((202, 54, 44), (85, 177, 65), (32, 40, 192), (240, 240, 240))


@pytest.mark.parametrize(
    ("code_points", "written"),
    [(nclx(12, 13), IN_P3), (nclx(12, 1), IN_P3), (nclx(1, 13), CORNERS), (nclx(2, 2), CORNERS)],
    ids=["Display P3", "with BT.709's curve", "sRGB", "unspecified"],
)
def test_colours_by_number(tmp_path: Path, code_points: dict[str, int], written: tuple[Colour, ...]) -> None:
    data = heic(quadrants(*SIZE, written), **code_points)
    assert b"colrnclx" in data
    assert b"colrprof" not in data
    assert is_upright(made(tmp_path, data))


@pytest.mark.parametrize(
    ("transfer", "greys"),
    [
        # Signals of black, of 18 % grey as 26 cd/m², of white as 203, and of a sun (BT.2408, table 1; BT.2100).
        (16, (0, 97, 148, 230)),
        (18, (0, 97, 191, 255)),
    ],
    ids=["PQ", "HLG"],
)
def test_high_dynamic_range(tmp_path: Path, transfer: int, greys: tuple[int, ...]) -> None:
    data = heic(quadrants(*SIZE, tuple((v, v, v) for v in greys)), **nclx(9, transfer))
    black, grey, white, sun = (red for red, *_ in corners(made(tmp_path, data).variants[MEDIUM]))
    assert black <= 2
    assert 90 < grey < 118  # sRGB has 18 % at 118, and 12.8 % (26 of 203) at 100
    assert 235 < white < 250
    assert sun > 252


def test_the_same_profile_is_made_once() -> None:
    assert cicp.profile(12, 13) is cicp.profile(12, 13)
    assert cicp.profile(1, 13) is None
    assert cicp.profile(1, 16) is not None


# ---------------------------------------------------------------- facts


def test_facts(tmp_path: Path) -> None:
    tags = exif(6, DateTimeOriginal="2021:07:04 18:30:05", OffsetTimeOriginal="+02:00")
    tags = with_place(tags, ((47.0, 22.0, 30.0), "N"), ((8.0, 32.0, 24.0), "E"))
    facts = made(tmp_path, heic(stored(quadrants(*SIZE), 6), exif=tags.tobytes())).facts
    assert facts.taken_at == datetime(2021, 7, 4, 16, 30, 5, tzinfo=UTC)
    assert (facts.latitude, facts.longitude) == (47.375, 8.54)
    assert facts.tags["DateTimeOriginal"] == "2021:07:04 18:30:05"
    assert facts.looks is not None


def test_film_behind_the_picture(tmp_path: Path) -> None:
    """Motion photos: of Samsung's in a box of their own, of Google's right behind a JPEG."""
    assert is_upright(made(tmp_path, plain() + box(b"mpvd", tiny_mp4())))
    data = encoded(quadrants(*SIZE), kinds.JPEG, quality=95) + tiny_mp4()
    assert identify(data[:HEAD_BYTES]) == kinds.JPEG
    (tmp_path / "jpeg").mkdir()
    assert is_upright(produced(tmp_path / "jpeg", data, kinds.JPEG))


# ---------------------------------------------------------------- what isn't as it should be


def test_another_codec_inside(tmp_path: Path) -> None:
    data = encoded(quadrants(*SIZE), kinds.AVIF)
    other = data[:8] + data[8:64].replace(b"avif", b"mif1") + data[64:]
    assert identify(other[:HEAD_BYTES]) == kinds.HEIF
    assert failure(tmp_path, other) is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("tenths", range(1, 10))
def test_cut_short(tmp_path: Path, tenths: int) -> None:
    assert failure(tmp_path, plain()[: len(plain()) * tenths // 10]) is FailureCode.CORRUPT


def resized(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def test_huge_by_its_header(tmp_path: Path) -> None:
    assert failure(tmp_path, resized(plain(), 60_000, 60_000)) is FailureCode.TOO_MANY_PIXELS


def test_larger_than_its_header_says(tmp_path: Path) -> None:
    data = heic(Image.new("RGB", (512, 512)))
    assert failure(tmp_path, resized(data, 64, 48)) is FailureCode.CORRUPT


@pytest.mark.parametrize("type_", [kinds.HEIC, kinds.HEIF], ids=label)
def test_none_of_it(tmp_path: Path, type_: FileType) -> None:
    brand = b"heic" if type_ == kinds.HEIC else b"mif1"
    data = box(b"ftyp", brand + bytes(4) + b"mif1") + box(b"meta", bytes(100))
    assert identify(data) == type_
    assert failure(tmp_path, data) is FailureCode.CORRUPT
