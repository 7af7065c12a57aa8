"""Files that are cut short, altered, or made to hurt: each with how its processing may end."""

import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from PIL import ExifTags

from processing import kinds
from processing.failures import FailureCode
from processing.kinds import FileType, MediaKind
from tests.processing import soundfiles
from tests.processing.endings import READY
from tests.processing.pdffiles import deflated, document, pdf, stream
from tests.processing.pictures import chunk, encoded, gif, gif_frame, quadrants
from tests.processing.samples import SIZE, film, sample

CORRUPT: Final = FailureCode.CORRUPT
UNSUPPORTED: Final = FailureCode.UNSUPPORTED
TOO_MANY_PIXELS: Final = FailureCode.TOO_MANY_PIXELS
CRASHED: Final = FailureCode.CRASHED
TIMEOUT: Final = FailureCode.TIMEOUT

# What may become of a file whose bytes were changed anywhere: sound or not, it is read to an end.
ANYTHING_READ: Final = (READY, CORRUPT, UNSUPPORTED, TOO_MANY_PIXELS)

# Of a TIFF's directory: tag, type, number of values, and the value or where it is.
Entry: TypeAlias = tuple[int, int, int, int]

_BIG: Final = 60_000  # pixels a side; a square of these has 36 times what may be processed
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Broken:
    name: str
    data: bytes
    type: FileType
    outcomes: tuple[str, ...]


def spoiled(type_: FileType) -> Iterator[Broken]:
    """What can be done to any file."""
    yield from _cut(type_)
    yield from _flipped(type_)
    yield Broken(f"another format as {type_.extension}", sample(_other(type_)), type_, (CORRUPT,))
    yield Broken(f"zeros as {type_.extension}", bytes(5000), type_, (CORRUPT,))


# ---------------------------------------------------------------- any format

# Of how many tenths on something can be played. All other types are whole, or damaged.
_PLAYED_FROM: Final = {
    kinds.WAV: 1, kinds.MP3: 2, kinds.MKV: 2, kinds.WEBM: 2, kinds.OGG: 3, kinds.AVI: 5, kinds.FLAC: 7,
}  # fmt: skip


def _cut(type_: FileType) -> Iterator[Broken]:
    whole = sample(type_)
    played_from = _PLAYED_FROM.get(type_, 10)
    for tenths in range(1, 10):
        # What the encoder makes differs a little from machine to machine: where it changes, either will do.
        outcomes = (CORRUPT,) * (tenths <= played_from) + (READY,) * (tenths >= played_from)
        yield Broken(f"{tenths}/10 of {type_.extension}", whole[: len(whole) * tenths // 10], type_, outcomes)


def _flipped(type_: FileType) -> Iterator[Broken]:
    """From one byte to one in twenty."""
    whole = sample(type_)
    dice = random.Random(type_.extension)
    for count in (1, 2, len(whole) // 100, len(whole) // 20):
        data = bytearray(whole)
        for _ in range(max(1, count)):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        yield Broken(f"{count} bytes of {type_.extension} altered", bytes(data), type_, ANYTHING_READ)


def _other(type_: FileType) -> FileType:
    """Of the same kind where there is one, and another container."""
    if type_ in kinds.RAW_TYPES:
        return kinds.PNG
    return {
        MediaKind.IMAGE: kinds.PNG if type_ != kinds.PNG else kinds.JPEG,
        MediaKind.VIDEO: kinds.MP4 if type_ not in (kinds.MP4, kinds.MOV) else kinds.MKV,
        MediaKind.AUDIO: kinds.FLAC if type_ != kinds.FLAC else kinds.OGG,
        MediaKind.DOCUMENT: kinds.GIF,
    }[type_.kind]


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


# ---------------------------------------------------------------- more than there is memory for


def _huge() -> Iterator[Broken]:
    """Headers that claim billions of pixels."""
    big, little = struct.pack(">II", _BIG, _BIG), struct.pack("<II", _BIG, _BIG)
    jpeg, bmp, tiff = sample(kinds.JPEG), sample(kinds.BMP), sample(kinds.TIFF)
    sides = {
        kinds.JPEG: patched(jpeg, jpeg.index(b"\xff\xc0\x00\x11") + 5, struct.pack(">HH", _BIG, _BIG)),
        kinds.PNG: png(_BIG, _BIG),
        kinds.GIF: gif(_BIG, _BIG, gif_frame(0, (0, 0, 8, 8))),
        kinds.WEBP: patched(sample(kinds.WEBP), 24, (16_383).to_bytes(3, "little") * 2),
        kinds.BMP: patched(bmp, 18, little),
        kinds.TIFF: patched(tiff, tiff.index(struct.pack("<HHII", 256, 4, 1, SIZE[0])) + 8, struct.pack("<I", 2**31)),
    }
    for type_ in (kinds.AVIF, kinds.HEIC):
        data = sample(type_)
        sides[type_] = patched(data, data.index(b"ispe") + 8, big)
    for type_, data in sides.items():
        yield Broken(f"huge {type_.extension}", data, type_, (TOO_MANY_PIXELS,))
    for offset in (2**61, 2**63):  # of the first directory, in a BigTIFF
        away = b"II+\0\x08\0\0\0" + struct.pack("<Q", offset) + bytes(100)
        yield Broken(f"tiff of which all is at {offset:,}", away, kinds.TIFF, (CORRUPT,))
    yield Broken("no pixels", png(0, 0), kinds.PNG, (CORRUPT,))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    """In RGB; `rows` are compressed, and may be too few or too many."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def _bombs() -> Iterator[Broken]:
    """Little that inflates to much."""
    rows = (b"\0" + bytes(3 * 16)) * 16
    blanks = zlib.compress(bytes(64 * _MIB), 9)
    yield Broken("png with too many rows", png(16, 16, rows=rows + bytes(64 * _MIB)), kinds.PNG, (READY,))
    for name, keyword in ((b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")):
        data = png(16, 16, chunk(name, keyword + blanks), rows=rows)
        yield Broken(f"png with 64 MiB in {name.decode()}", data, kinds.PNG, (CORRUPT,))
    many = png(16, 16, *[chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(900_000), 9))] * 300, rows=rows)
    yield Broken("png with 300 comments", many, kinds.PNG, (CORRUPT,))
    strip = zlib.compress(bytes(64 * _MIB), 9)
    yield Broken("tiff that inflates", tiff(SIZE, strip, compression=8), kinds.TIFF, (READY,))
    yield Broken("webp with 64 MiB of zeros", sample(kinds.WEBP) + bytes(64 * _MIB), kinds.WEBP, (READY,))


def tiff(
    size: tuple[int, int], strip: bytes, compression: int = 1, before: bytes = b"", further: Iterable[Entry] = ()
) -> bytes:
    """In RGB, of one strip, with `further` entries in its directory, and what they point at `before` that."""
    first = 8 + len(before)
    numbers = [(256, size[0]), (257, size[1]), (258, 8), (259, compression), (262, 2), (277, 3), (278, size[1])]
    entries: list[Entry] = [(tag, 4, 1, value) for tag, value in numbers]
    entries += [(279, 4, 1, len(strip)), *further]
    strip_at = first + 2 + 12 * (len(entries) + 1) + 4
    directory = _entries(sorted([*entries, (273, 4, 1, strip_at)]), 0)
    return b"II*\0" + struct.pack("<I", first) + before + directory + strip


def _gifs() -> Iterator[Broken]:
    dot = gif_frame(1, (0, 0, 1, 1))
    yield Broken("gif of 20,000 frames", gif(8, 8, *[dot] * 20_000), kinds.GIF, (READY,))
    yield Broken("gif of 110 frames of 640,000 pixels", gif(800, 800, *[dot] * 110), kinds.GIF, (READY,))
    outside = gif_frame(1, (_BIG, _BIG, 1, 1))
    yield Broken("gif that widens to billions of pixels", gif(8, 8, outside), kinds.GIF, (TOO_MANY_PIXELS,))
    yield Broken("gif that widens later", gif(8, 8, dot, outside), kinds.GIF, (READY,))
    yield Broken("gif without a frame", gif(8, 8), kinds.GIF, (CORRUPT,))


# ---------------------------------------------------------------- documents


def _documents() -> Iterator[Broken]:
    catalog = b"<</Type /Catalog /Pages 2 0 R>>"
    pages = b"<</Type /Pages /Count %d /Kids [%s] /MediaBox [0 0 9 9]>>"
    drawn = b"/Resources <</XObject <</X 100 0 R>>>>"
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 200 100] " + drawn
    blanks = zlib.compress(b" " * 64 * _MIB, 9)
    cases: list[tuple[str, bytes, tuple[str, ...]]] = [
        ("pages that are their own parent", pdf({1: catalog, 2: pages % (1, b"2 0 R")}), (CORRUPT,)),
        ("pages in a circle", pdf({1: catalog, 2: pages % (9, b"3 0 R"), 3: pages % (9, b"2 0 R")}), (CORRUPT,)),
        ("a billion pages", pdf({1: catalog, 2: pages % (10**9, b"3 0 R"), 3: b"<</Type /Page>>"}), (READY,)),
        ("a million pages", pdf({1: catalog, 2: pages % (10**6, b"3 0 R"), 3: b"<</Type /Page>>"}), (UNSUPPORTED,)),
        ("a catalog that is its own pages", pdf({1: b"<</Type /Catalog /Pages 1 0 R>>"}), (READY,)),
        ("a reference to itself", pdf({1: catalog, 2: b"2 0 R"}), (CORRUPT,)),
        ("a length that is its own stream", document(more={3: b"<</Length 3 0 R>>\nstream\n0 g\nendstream"}), (READY,)),
        ("a form that draws itself", document(b"/X Do", page=drawn, more={100: stream(b"/X Do", form)}), (READY,)),
        (
            "a form that draws itself twice",
            document(b"/X Do", page=drawn, more={100: stream(b"/X Do /X Do", form)}),
            (CRASHED, TIMEOUT),  # for as long as there is memory, of which a slow machine comes to no end in time
        ),
        ("deep brackets", document(b"[" * 100_000), (READY,)),
        ("deep brackets in an object", document(page=b"/A " + b"[" * 100_000), (READY,)),
        ("deep dictionaries", document(page=b"/A " + b"<</A" * 50_000), (READY,)),
        ("deep states", document(b"q " * 500_000), (READY,)),
        ("64 MiB of blanks", document(more={3: stream(blanks, b"/Filter /FlateDecode")}), (READY,)),
        (
            "blanks in blanks",
            document(more={3: stream(zlib.compress(blanks, 9), b"/Filter [/FlateDecode /FlateDecode]")}),
            (READY,),
        ),
        ("a picture of billions of pixels", _pictured(b"/Width %d /Height %d" % (_BIG, _BIG)), (READY,)),
        ("a table that refers to itself", pdf({1: catalog}, trailer=b"/Prev 15"), (CORRUPT,)),
        ("an object stream in itself", document(more={3: deflated(b"3 0 ", b"/Type /ObjStm /N 1 /First 4")}), (READY,)),
        ("scripts", document(page=b"/AA <</O <</S /JavaScript /JS (while\\(1\\);)>>>>"), (READY,)),
    ]
    for name, data, outcomes in cases:
        yield Broken(f"pdf: {name}", data, kinds.PDF, outcomes)


def _pictured(sides: bytes) -> bytes:
    entries = b"/Type /XObject /Subtype /Image /BitsPerComponent 8 /ColorSpace /DeviceRGB " + sides
    content = b"200 0 0 100 0 0 cm /X Do"
    return document(content, page=b"/Resources <</XObject <</X 100 0 R>>>>", more={100: deflated(b"\0" * 999, entries)})


# ---------------------------------------------------------------- films and recordings


def _films() -> Iterator[Broken]:
    for type_ in (kinds.MP4, kinds.MKV, kinds.AVI):
        name = type_.extension
        yield Broken(f"{name} of sound alone", film(type_, frames=None), type_, (READY,))
        # FFmpeg writes no track without frames into an MP4.
        announced = READY if type_ == kinds.MP4 else CORRUPT
        yield Broken(f"{name} without the pictures that it announces", film(type_, frames=0), type_, (announced,))
        silent = film(type_, sound=False)
        start = silent.index({kinds.MP4: b"mdat", kinds.MKV: b"\x1f\x43\xb6\x75", kinds.AVI: b"movi"}[type_])
        yield Broken(f"{name} whose frames are zeros", silent[: start + 12] + bytes(5000), type_, (CORRUPT,))
    mp4 = film(kinds.MP4, sound=False)
    zeroed = patched(mp4, mp4.index(b"mdat") + 4, bytes(int.from_bytes(mp4[mp4.index(b"mdat") - 4 :][:4]) - 8))
    yield Broken("mp4 whose every frame is nothing", zeroed, kinds.MP4, (CORRUPT,))
    # FFmpeg asks for memory for all moments, reads sizes and chunks in vain, and doesn't mind that places are missing.
    for box, outcome in ((b"stts", TOO_MANY_PIXELS), (b"stsz", CORRUPT), (b"stsc", CORRUPT), (b"stco", READY)):
        lying = patched(mp4, mp4.index(box) + 8, b"\xff" * 4)
        yield Broken(f"mp4 with four billion entries in {box.decode()}", lying, kinds.MP4, (outcome,))
    bomb = zlib.compress(bytes(64 * _MIB), 9)
    packed = _box(b"dcom", b"zlib") + _box(b"cmvd", struct.pack(">I", 64 * _MIB) + bomb)
    yield Broken("mov whose index inflates", _box(b"moov", _box(b"cmov", packed)), kinds.MOV, (UNSUPPORTED,))
    nested = b""
    for _ in range(2000):
        nested = _box(b"trak", nested)
    yield Broken("mp4 of 2,000 boxes in boxes", mp4[:32] + _box(b"moov", nested), kinds.MP4, (UNSUPPORTED,))
    track = mp4[mp4.index(b"trak") - 4 :][: int.from_bytes(mp4[mp4.index(b"trak") - 4 :][:4])]
    yield Broken("mp4 of 500 tracks", mp4[:32] + _box(b"moov", track * 500), kinds.MP4, (UNSUPPORTED,))


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _recordings() -> Iterator[Broken]:
    frames = soundfiles.bare(soundfiles.tone(kinds.MP3, 0.2))
    cover = encoded(quadrants(*SIZE), kinds.JPEG)
    covers = soundfiles.id3(*[(soundfiles.FRONT_COVER, cover)] * 200) + frames
    yield Broken("mp3 of 200 covers", covers, kinds.MP3, (UNSUPPORTED,))
    bomb = soundfiles.id3((soundfiles.FRONT_COVER, png(_BIG, _BIG)), media_type="image/png") + frames
    yield Broken("mp3 whose cover is huge", bomb, kinds.MP3, (READY,))
    endless = b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + frames
    yield Broken("mp3 whose tag has no end", endless, kinds.MP3, (CORRUPT,))
    wav = sample(kinds.WAV)
    for at, name, outcome in ((10, "channels", CORRUPT), (20, "bytes a sample", READY)):
        lying = patched(wav, wav.index(b"fmt ") + at, b"\xff\xff")
        yield Broken(f"wav of 65,535 {name}", lying, kinds.WAV, (outcome,))
    flac = sample(kinds.FLAC)
    yield Broken("flac of a picture of 16 MiB", patched(flac, 43, b"\xff\xff\xff"), kinds.FLAC, (CORRUPT,))


# ---------------------------------------------------------------- EXIF


def _exif() -> Iterator[Broken]:
    """It spoils no picture, as long as the one is to be found without the other."""
    for name, content in nonsense().items():
        for type_, data in _with_exif(content):
            # The directory of a TIFF is that of its picture too, and Pillow reads it as far as there is sense in it.
            spoilt = type_ == kinds.TIFF and name == "values out of range"
            yield Broken(f"{type_.extension} with EXIF of {name}", data, type_, (UNSUPPORTED if spoilt else READY,))


def nonsense() -> dict[str, bytes]:
    """By what is wrong with it."""
    sub, gps, maker = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, 37500
    return {
        "nothing": b"",
        "text": b"no TIFF at all",
        "an offset beyond it": b"II*\0\xff\xff\xff\xff",
        "a directory in itself": _directory((sub, 4, 1, 8)),
        "a place that is itself": _directory((gps, 4, 1, 8)),
        "directories in a circle": b"II*\0\x08\0\0\0" + _entries([(sub, 4, 1, 26)], 26) + _entries([(sub, 4, 1, 8)], 8),
        "65,535 entries": b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 271, 2, 4, 0) * 300,
        "four billion values": _directory((271, 2, 0xFFFFFFFF, 8), (sub, 4, 0xFFFFFFFF, 8), (maker, 7, 0xFFFFFFF0, 8)),
        "values out of range": _directory((271, 2, 100, 0xFFFFFFF0), (282, 5, 1, 0x7FFFFFFF)),
        "unknown types": _directory((271, 99, 4, 8), (272, 0, 4, 8)),
        "a fraction over nothing": _directory((282, 5, 1, 26)) + struct.pack("<II", 1, 0),
        "an orientation of 9": _directory((274, 3, 1, 9)),
        "an orientation of text": _directory((274, 2, 4, 0x41414141)),
        "binary text": _directory((270, 2, 200, 26)) + bytes(range(56, 256)),
    }


def _directory(*entries: Entry) -> bytes:
    return b"II*\0\x08\0\0\0" + _entries(entries, 0)


def _entries(entries: Iterable[Entry], following: int) -> bytes:
    packed = [struct.pack("<HHII", *entry) for entry in entries]
    return struct.pack("<H", len(packed)) + b"".join(packed) + struct.pack("<I", following)


def _with_exif(content: bytes) -> Iterator[tuple[FileType, bytes]]:
    picture = quadrants(*SIZE)
    for type_ in (kinds.JPEG, kinds.PNG, kinds.WEBP):
        yield type_, encoded(picture, type_, exif=b"Exif\0\0" + content)
    yield kinds.TIFF, _tiff_with_exif(picture.tobytes(), content)


def _tiff_with_exif(pixels: bytes, content: bytes) -> bytes:
    """EXIF is a TIFF itself: this one has the entries that are there, and EXIF's directory, at the same offsets."""
    directory = content[8:]
    (count,) = struct.unpack("<H", directory[:2].ljust(2, b"\0"))
    entries = [
        struct.unpack_from("<HHII", directory, at) for at in range(2, min(2 + 12 * count, len(directory) - 11), 12)
    ]
    (at,) = struct.unpack("<I", content[4:8].ljust(4, b"\0"))
    return tiff(SIZE, pixels, before=directory, further=[*entries, (ExifTags.IFD.Exif, 4, 1, at)])


HOSTILE: Final[dict[str, Callable[[], Iterator[Broken]]]] = {
    "huge": _huge,
    "bombs": _bombs,
    "gif": _gifs,
    "pdf": _documents,
    "films": _films,
    "recordings": _recordings,
    "exif": _exif,
}
