import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from processing import kinds
from processing.kinds import FileType
from processing.variants import Facts
from tests.processing.pictures import encoded, exif, label, produced, quadrants, with_place

Place = tuple[tuple[Any, ...], str]


def facts(tmp_path: Path, tags: Image.Exif | bytes, type_: FileType = kinds.JPEG) -> Facts:
    return produced(tmp_path, encoded(quadrants(6, 4), type_, exif=tags), type_).facts


# ---------------------------------------------------------------- the moment


@pytest.mark.parametrize(
    ("original", "offset", "expected"),
    [
        ("2019:07:14 18:30:05", None, datetime(2019, 7, 14, 18, 30, 5, tzinfo=UTC)),
        ("2019:07:14 18:30:05", "+02:00", datetime(2019, 7, 14, 16, 30, 5, tzinfo=UTC)),
        ("2019:12:31 22:00:00", "-03:30", datetime(2020, 1, 1, 1, 30, tzinfo=UTC)),
        ("2019:07:14 18:30:05", "nonsense", datetime(2019, 7, 14, 18, 30, 5, tzinfo=UTC)),
        ("2019:07:14 18:30:05", "+99:00", datetime(2019, 7, 14, 18, 30, 5, tzinfo=UTC)),
        ("2019-07-14T18:30:05", None, datetime(2019, 7, 14, 18, 30, 5, tzinfo=UTC)),
        ("1970:01:01 00:00:00", None, None),
        ("1970:01:01 00:00:00", "+02:00", None),
        ("1970:01:01 01:00:00", None, None),
        ("1969:12:31 19:00:00", "-05:00", None),
        ("1980:01:01 00:00:00", None, None),
        ("1904:01:01 00:00:00", None, None),
        ("1980:01:01 12:00:00", None, datetime(1980, 1, 1, 12, tzinfo=UTC)),
        ("1970:01:02 10:00:00", None, datetime(1970, 1, 2, 10, tzinfo=UTC)),
        ("1943:05:12 10:00:00", None, datetime(1943, 5, 12, 10, tzinfo=UTC)),
        ("0000:00:00 00:00:00", None, None),
        ("0001:01:01 00:00:00", "+02:00", None),
        ("2019:02:31 10:00:00", None, None),
        ("2019:07:14 25:00:00", None, None),
        ("    :  :     :  :  ", None, None),
        ("yesterday", None, None),
        ("٢٠١٩:07:14 18:30:05", None, None),
        ("", None, None),
    ],
)
def test_taken_at(tmp_path: Path, original: str, offset: str | None, expected: datetime | None) -> None:
    camera: dict[str, Any] = {"DateTimeOriginal": original} | ({"OffsetTimeOriginal": offset} if offset else {})
    found = facts(tmp_path, exif(**camera)).taken_at
    assert found == expected
    assert found is None or found.tzinfo is UTC


def test_the_time_of_editing_is_not_when_it_was_taken(tmp_path: Path) -> None:
    tags = exif()
    tags[ExifTags.Base.DateTime] = "2019:07:14 18:30:05"
    assert facts(tmp_path, tags).taken_at is None


def test_nor_is_the_time_of_a_scan(tmp_path: Path) -> None:
    assert facts(tmp_path, exif(DateTimeDigitized="2019:07:14 18:30:05")).taken_at is None


@pytest.mark.parametrize(
    ("fraction", "microseconds"), [("5", 500_000), ("042", 42_000), ("1234567", 123_456), ("", 0), ("x", 0), ("-1", 0)]
)
def test_fractions_of_a_second(tmp_path: Path, fraction: str, microseconds: int) -> None:
    found = facts(tmp_path, exif(DateTimeOriginal="2019:07:14 18:30:05", SubsecTimeOriginal=fraction)).taken_at
    assert found == datetime(2019, 7, 14, 18, 30, 5, microseconds, tzinfo=UTC)


@pytest.mark.parametrize("type_", [kinds.PNG, kinds.WEBP, kinds.AVIF, kinds.TIFF], ids=label)
def test_other_formats_have_exif_too(tmp_path: Path, type_: FileType) -> None:
    tags = exif(DateTimeOriginal="2019:07:14 18:30:05")
    tags[ExifTags.Base.Make] = "Ernst Leitz"  # Pillow's AVIF writer drops EXIF that has nothing beside the orientation
    found = facts(tmp_path, tags.tobytes(), type_)
    assert found.taken_at == datetime(2019, 7, 14, 18, 30, 5, tzinfo=UTC)
    assert found.tags["DateTimeOriginal"] == "2019:07:14 18:30:05"


# ---------------------------------------------------------------- the place


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (((48.0, 12.0, 30.0), "N"), ((16.0, 22.0, 12.0), "E"), (48.2083333, 16.37)),
        (((33.0, 52.0, 4.0), "S"), ((151.0, 12.0, 36.0), "E"), (-33.8677778, 151.21)),
        (((40.0, 26.0, 46.0), "n"), ((79.0, 58.0, 56.0), "w"), (40.4461111, -79.9822222)),
        (((0.0, 0.0, 0.0), "N"), ((16.0, 0.0, 0.0), "E"), (0.0, 16.0)),
        (((90.0, 0.0, 0.0), "N"), ((180.0, 0.0, 0.0), "W"), (90.0, -180.0)),
        (((0.0, 0.0, 0.0), "N"), ((0.0, 0.0, 0.0), "E"), None),
        (((90.0, 0.0, 1.0), "N"), ((16.0, 0.0, 0.0), "E"), None),
        (((48.0, 0.0, 0.0), "N"), ((180.0, 30.0, 0.0), "E"), None),
        (((48.0, 61.0, 0.0), "N"), ((16.0, 0.0, 0.0), "E"), None),
        (((48.0, 0.0, 0.0), ""), ((16.0, 0.0, 0.0), "E"), None),
        (((48.0, 0.0, 0.0), "X"), ((16.0, 0.0, 0.0), "E"), None),
        (((IFDRational(0, 0), 0.0, 0.0), "N"), ((16.0, 0.0, 0.0), "E"), None),
        (((48.0, 0.0, 0.0, 1.0), "N"), ((16.0, 0.0, 0.0), "E"), None),
    ],
)
def test_location(tmp_path: Path, latitude: Place, longitude: Place, expected: tuple[float, float] | None) -> None:
    found = facts(tmp_path, with_place(exif(), latitude, longitude))
    assert (found.latitude, found.longitude) == (expected or (None, None))


def test_no_place(tmp_path: Path) -> None:
    found = facts(tmp_path, exif())
    assert (found.latitude, found.longitude) == (None, None)
    assert "GPS" not in found.tags


# ---------------------------------------------------------------- JSON


def test_readable_keys_and_values(tmp_path: Path) -> None:
    tags = with_place(
        exif(FNumber=2.8, ExposureTime=IFDRational(1, 250), ISOSpeedRatings=400, LensModel="50mm"),
        ((48.0, 12.0, 30.0), "N"), ((16.0, 22.0, 12.0), "E"),
    )  # fmt: skip
    tags[ExifTags.Base.Make] = "Ernst Leitz\0\0"
    tags[ExifTags.Base.XPTitle] = "Großmutter\0".encode("utf-16-le")
    found = facts(tmp_path, tags)
    assert found.tags == {
        "Orientation": 1,
        "Make": "Ernst Leitz",
        "XPTitle": "Großmutter",
        "FNumber": 2.8,
        "ExposureTime": 0.004,
        "ISOSpeedRatings": 400,
        "LensModel": "50mm",
        "GPS": {
            "GPSLatitudeRef": "N",
            "GPSLatitude": [48.0, 12.0, 30.0],
            "GPSLongitudeRef": "E",
            "GPSLongitude": [16.0, 22.0, 12.0],
        },
    }


def assert_storable(found: Facts) -> None:
    """What PostgreSQL's jsonb takes: strict JSON in UTF-8, without NUL."""
    text = json.dumps(found.tags, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    assert "\0" not in text
    assert len(text.encode()) <= 40 * 1024


def test_nonsense_is_left_out(tmp_path: Path) -> None:
    tags = exif(
        MakerNote=bytes(range(256)) * 100,
        UserComment=b"UNICODE\0" + b"\x3d\xd8h\0\0\0",
        ExposureTime=IFDRational(1, 0),
        FNumber=IFDRational(0, 0),
        LensSpecification=(IFDRational(0, 0), IFDRational(50), IFDRational(9, 5), IFDRational(0, 0)),
        LensModel="a\0b\x07c",
        SceneType=b"\x01",
        CFAPattern=bytes(range(200)),
    )
    found = facts(tmp_path, tags)
    assert_storable(found)
    assert found.tags["LensModel"] == "abc"
    assert found.tags["LensSpecification"] == [None, 50.0, 1.8, None]
    assert found.tags["SceneType"] == 1
    assert not {"MakerNote", "ExposureTime", "FNumber", "CFAPattern"} & set(found.tags)


@pytest.mark.parametrize("stored", [b"P\xc3\xa8re\0", b"P\xe8re\0"], ids=["UTF-8", "Latin-1"])
def test_text_is_utf_8_where_it_can_be(tmp_path: Path, stored: bytes) -> None:
    # Written by hand: Pillow would write its own idea of an encoding.
    entry = struct.pack("<HHII", ExifTags.Base.ImageDescription, 2, len(stored), 26)
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4) + stored
    assert facts(tmp_path, b"Exif\0\0" + tiff).tags == {"ImageDescription": "Père"}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b"ASCII\0\0\0On the beach", "On the beach"),
        (bytes(8) + b"On the beach", "On the beach"),
        (b"UNICODE\0" + "Großmutter".encode("utf-16-le"), "Großmutter"),
        (b"UNICODE\0" + "Großmutter".encode("utf-16-be"), "Großmutter"),
        (b"UNICODE\0" + "Бабушка".encode("utf-16"), "Бабушка"),
        (b"ASCII\0\0\0" + bytes(20), None),
        (b"JIS\0\0\0\0\0\x1b$B", None),
    ],
)
def test_comments_say_how_they_are_encoded(tmp_path: Path, stored: bytes, expected: str | None) -> None:
    assert facts(tmp_path, exif(UserComment=stored)).tags.get("UserComment") == expected


def test_single_bytes_are_numbers(tmp_path: Path) -> None:
    tags = exif(FileSource=b"\x03", ComponentsConfiguration=b"\1\2\3\0")
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitudeRef] = b"\0"
    found = facts(tmp_path, tags).tags
    assert (found["FileSource"], found["ComponentsConfiguration"]) == (3, [1, 2, 3, 0])
    assert found["GPS"] == {"GPSAltitudeRef": 0}


def test_bounded(tmp_path: Path) -> None:
    tags = exif(LensModel="x" * 5000, UserComment=b"ASCII\0\0\0" + b"y" * 5000, SubjectLocation=tuple(range(5000)))
    for name in ("Make", "Model", "Artist", "Copyright", "Software", "ImageDescription", "HostComputer"):
        tags[ExifTags.Base[name]] = "\x01é" * 4000
    found = facts(tmp_path, tags, kinds.PNG)  # a JPEG has room for 64 KiB only
    assert_storable(found)
    assert found.tags["LensModel"] == "x" * 1000
    assert found.tags["UserComment"] == "y" * 1000


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize(
    "broken",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 200,
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, ExifTags.IFD.Exif, 4, 1, 0xFFFFFFF0) + bytes(4),
        # An orientation in four bytes of text, and in none.
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4s", 1, 274, 2, 4, b"\6\0\0\0") + bytes(4),
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4s", 1, 274, 5, 1, b"\xff\xff\0\0") + bytes(4),
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4s", 1, 274, 3, 0, b"\6\0\0\0") + bytes(4),
        # A directory that contains itself.
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, ExifTags.IFD.Exif, 4, 1, 8) + bytes(4),
    ],
)
@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG, kinds.WEBP], ids=label)
def test_broken_exif_does_not_spoil_the_picture(tmp_path: Path, type_: FileType, broken: bytes) -> None:
    found = facts(tmp_path, broken, type_)  # which makes all variants
    assert (found.width, found.height, found.taken_at) == (6, 4, None)
    assert_storable(found)
