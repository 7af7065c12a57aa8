import io
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from processing import kinds
from processing.headers import dimensions
from processing.kinds import FileType
from tests.processing.pictures import FORMATS, encoded, exif, label, quadrants
from tests.processing.rawfiles import raw
from tests.processing.test_identify import box

MIB = 1024 * 1024


class Watched(io.BytesIO):
    """Counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def measured(data: bytes, type_: FileType) -> tuple[int, int] | None:
    file = Watched(data)
    size = dimensions(file, type_)
    assert file.bytes_read <= MIB
    return size


@pytest.mark.parametrize(
    ("type_", "options"),
    [
        *((type_, {}) for type_ in FORMATS),
        (kinds.JPEG, {"progressive": True, "exif": exif(6), "icc_profile": bytes(200_000)}),
        (kinds.WEBP, {"lossless": True}),
        (kinds.WEBP, {"exif": exif(3)}),
        (kinds.TIFF, {"compression": "tiff_lzw"}),
        (kinds.TIFF, {"big_tiff": True}),
        (kinds.AVIF, {"exif": exif(6)}),
    ],
    ids=label,
)
def test_as_stored(type_: FileType, options: dict[str, Any]) -> None:
    assert measured(encoded(quadrants(337, 211), type_, **options), type_) == (337, 211)


def test_big_endian_tiff() -> None:
    entries = struct.pack(">HHIHH", 256, 3, 1, 70, 0) + struct.pack(">HHII", 257, 4, 1, 90)
    assert measured(b"MM\x00*\x00\x00\x00\x08\x00\x02" + entries, kinds.TIFF) == (70, 90)


def test_bmp_with_rows_from_the_top_and_of_the_oldest_kind() -> None:
    new = b"BM" + bytes(12) + struct.pack("<Iii", 40, 31, -17) + bytes(20)
    old = b"BM" + bytes(12) + struct.pack("<IHH", 12, 31, 17) + bytes(20)
    assert measured(new, kinds.BMP) == measured(old, kinds.BMP) == (31, 17)


def test_gif_whose_first_frame_is_larger_than_its_screen() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0)
    comment = b"\x21\xfe\x03abc\x00"
    frame = b"\x2c" + struct.pack("<HHHH", 5, 0, 300, 200) + b"\x00"
    assert measured(screen + comment + frame, kinds.GIF) == (305, 200)
    assert measured(screen + comment, kinds.GIF) == (10, 10)


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">III", 0, width, height))


@pytest.mark.parametrize("type_", [kinds.HEIC, kinds.HEIF, kinds.AVIF])
def test_heif_gives_the_picture_not_the_thumbnail(type_: FileType) -> None:
    properties = box(b"ipco", ispe(512, 512) + box(b"hvcC", bytes(30)) + ispe(4032, 3024) + ispe(320, 240))
    meta = box(b"meta", bytes(4) + box(b"hdlr", bytes(20)) + box(b"iprp", properties))
    assert measured(box(b"ftyp", b"heic" + bytes(8)) + box(b"free", bytes(40)) + meta, type_) == (4032, 3024)
    without = box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", box(b"hvcC", bytes(30)))))
    assert measured(box(b"ftyp", b"heic" + bytes(8)) + without, type_) is None


def test_jpeg_fill_bytes_and_junk_between_segments() -> None:
    frame = b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", 20, 30) + bytes(20)
    assert measured(b"\xff\xd8\xff\xff\xff\xe0\x00\x04ab\x00\x00" + frame, kinds.JPEG) == (30, 20)
    assert measured(b"\xff\xd8\xff\xda\x00\x04ab" + frame, kinds.JPEG) is None


@pytest.mark.parametrize("type_", [each for each in kinds.FILE_TYPES if each in kinds.RAW_TYPES], ids=label)
def test_a_raw_file_has_none(type_: FileType) -> None:
    """Its first directory is often the preview's."""
    assert measured(raw(kinds.DNG, None, (0, 0)), type_) is None


def test_what_is_no_picture_has_none() -> None:
    assert dimensions(io.BytesIO(encoded(quadrants(8, 8), kinds.PNG)), kinds.PDF) is None
    assert dimensions(io.BytesIO(b""), kinds.PNG) is None


def test_offset_beyond_any_file_system(tmp_path: Path) -> None:
    """In memory one may seek anywhere; on a disk that is an error."""
    (tmp_path / "picture").write_bytes(b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**61) + bytes(100))
    with (tmp_path / "picture").open("rb") as file:
        assert dimensions(file, kinds.TIFF) is None


def test_no_sides_of_zero() -> None:
    data = bytearray(encoded(quadrants(8, 8), kinds.PNG))
    data[16:20] = bytes(4)
    assert measured(bytes(data), kinds.PNG) is None


@pytest.mark.parametrize(
    ("data", "type_"),
    [
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 500_000, kinds.JPEG),
        (b"\xff\xd8" + b"\xff" * 2_000_000, kinds.JPEG),
        (b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\x01a" * 500_000, kinds.GIF),
        (b"GIF89a" + bytes(7) + b"\x21\xfe\x00" * 500_000, kinds.GIF),
        (box(b"free", b"") * 200_000, kinds.HEIC),
        (box(b"meta", bytes(4) + box(b"iprp", b"") * 200_000), kinds.HEIC),
        (struct.pack(">I4sQ", 1, b"free", 2**63), kinds.HEIC),
        (b"II+\x00\x08\x00\x00\x00" + struct.pack("<Q", 2**64 - 1), kinds.TIFF),
        (b"II+\x00\x08\x00\x00\x00" + struct.pack("<QQ", 16, 2**40) + bytes(100), kinds.TIFF),
    ],
    ids=label,
)
def test_endless_headers_end(data: bytes, type_: FileType) -> None:
    started = time.monotonic()
    assert measured(data, type_) in (None, (0, 0))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("type_", FORMATS, ids=label)
def test_damage_never_raises(type_: FileType) -> None:
    damage = random.Random(type_.extension)
    good = encoded(Image.effect_noise((64, 48), 60).convert("RGB"), type_)
    for _ in range(1500):
        data = bytearray(good[: damage.randrange(len(good))] if damage.random() < 0.3 else good)
        for _ in range(damage.randrange(12)):
            if data:
                data[damage.randrange(min(len(data), 600))] = damage.choice((0, 1, 0x7F, 0xFF, damage.randrange(256)))
        size = measured(bytes(data), type_)
        assert size is None or min(size) > 0
