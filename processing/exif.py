"""EXIF as cameras write it, made safe to store: JSON, the moment of capture, the place.

Cameras, phones and editors put anything there: binary notes, fractions over zero, NUL characters (which PostgreSQL's
jsonb refuses), text in undeclared encodings, clocks never set. What makes no sense is left out, never guessed at.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from PIL import ExifTags, Image

from processing.variants import JSON

# Bounds on what one file may put into our database. A full set of camera tags takes about 4 KiB.
_MAX_JSON_BYTES: Final = 32 * 1024
_MAX_TEXT: Final = 1000  # characters
_MAX_ITEMS: Final = 64  # of one tag

# Offsets within the file, and binary blobs: of no use to a reader.
_LEFT_OUT: Final = frozenset(
    {
        *("ExifOffset", "GPSInfo", "ExifInteroperabilityOffset", "JpegIFOffset", "JpegIFByteCount", "OffsetSchema"),
        *("StripOffsets", "StripByteCounts", "TileOffsets", "TileByteCounts", "SubIFDs", "JPEGTables", "Padding"),
        *("MakerNote", "PrintImageMatching", "InterColorProfile", "XMLPacket", "ImageResources", "IPTCNAA"),
        *("CFAPattern", "DNGPrivateData"),
    }
)
_GPS: Final = ExifTags.GPS

# The camera's clock started from nothing: FAT and old Macintosh time, and Unix time, which is a local one by then.
_CLOCK_NEVER_SET: Final = frozenset({datetime(1980, 1, 1), datetime(1904, 1, 1)})  # noqa: DTZ001
_UNIX_NEVER_SET: Final = datetime(1970, 1, 1)  # noqa: DTZ001
_FIRST_PHOTOGRAPH: Final = 1826  # the year of Niépce's view from his window
_WIDEST_OFFSET: Final = timedelta(hours=14)  # Kiritimati


def as_json(exif: Image.Exif) -> dict[str, JSON]:
    """Tags by their names in the standard (CIPA DC-008), those of the GPS together under "GPS"; at most 32 KiB."""
    result: dict[str, JSON] = {}
    room = _MAX_JSON_BYTES
    for name, value in _named_tags(exif):
        size = len(json.dumps({name: value}))
        if size <= room:
            result[name] = value
            room -= size
    return result


def orientation(exif: Image.Exif) -> int:
    """1 (upright) to 8, as the standard numbers how a picture is to be turned and mirrored; 1 for anything else."""
    written = _read(exif, ExifTags.Base.Orientation)
    return written if isinstance(written, int) and 1 <= written <= 8 else 1


def taken_at(exif: Image.Exif) -> datetime | None:
    """DateTimeOriginal in UTC; taken for UTC already where the camera wrote no OffsetTimeOriginal.

    DateTimeDigitized is no substitute, though cameras write the same there: of an old print it is the day of the scan.
    """
    camera = _directory(exif, ExifTags.IFD.Exif)
    written = _text(camera.get(ExifTags.Base.DateTimeOriginal))
    parts = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)", written, re.ASCII)
    if parts is None:
        return None
    try:
        local = datetime(*map(int, parts.groups()))  # type: ignore[arg-type]  # noqa: DTZ001  (six ints; zone below)
        offset = _utc_offset(_text(camera.get(ExifTags.Base.OffsetTimeOriginal)))
        moment = local.replace(tzinfo=timezone(offset)).astimezone(UTC)
    except (ValueError, OverflowError):  # 0000:00:00, 31 February, an hour before the year 1
        return None
    if local.year < _FIRST_PHOTOGRAPH or local in _CLOCK_NEVER_SET or abs(local - _UNIX_NEVER_SET) <= _WIDEST_OFFSET:
        return None
    return moment + _fraction(_text(camera.get(ExifTags.Base.SubsecTimeOriginal)))


def location(exif: Image.Exif) -> tuple[float, float] | None:
    """(Latitude, longitude) in degrees, north and east positive. None where either is missing or impossible."""
    gps = _directory(exif, ExifTags.IFD.GPSInfo)
    latitude = _degrees(gps.get(_GPS.GPSLatitude), _text(gps.get(_GPS.GPSLatitudeRef)), "NS", 90)
    longitude = _degrees(gps.get(_GPS.GPSLongitude), _text(gps.get(_GPS.GPSLongitudeRef)), "EW", 180)
    # 0/0 lies in the Gulf of Guinea, and is what a receiver without a fix writes.
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return None
    return latitude, longitude


def _directory(exif: Image.Exif, which: int) -> dict[int, Any]:
    try:
        return exif.get_ifd(which)
    except Exception:  # a broken directory makes Pillow raise nearly anything; the picture may be fine
        return {}


def _named_tags(exif: Image.Exif) -> Iterator[tuple[str, JSON]]:
    main = {tag: _read(exif, tag) for tag in list(exif)}
    yield from _readable({**main, **_directory(exif, ExifTags.IFD.Exif)}, ExifTags.TAGS)
    if place := dict(_readable(_directory(exif, ExifTags.IFD.GPSInfo), ExifTags.GPSTAGS)):
        yield "GPS", place


def _readable(tags: dict[int, Any], names: dict[int, str]) -> Iterator[tuple[str, JSON]]:
    for tag, value in tags.items():
        name = names.get(tag)
        if name is None or name in _LEFT_OUT:
            continue
        # Windows' XPTitle, XPComment and so on are UTF-16 in bytes.
        windows = name.startswith("XP") and isinstance(value, bytes)
        if (safe := _safe(value.decode("utf-16-le", "replace") if windows else value)) is not None:
            yield name, safe


def _read(exif: Image.Exif, tag: int) -> Any:
    try:
        return exif[tag]
    except Exception:  # Pillow converts a value when it is read, and stumbles over nonsense then
        return None


def _safe(value: Any) -> JSON:
    """A JSON value, or None for what has none."""
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, str):
        return _text(value) or None
    if isinstance(value, int):
        return value
    if isinstance(value, tuple | list):
        items = [_safe(item) for item in value[:_MAX_ITEMS]]
        return items if any(item is not None for item in items) else None
    return _number(value)


def _bytes(value: bytes) -> JSON:
    declared, text = value[:8], value[8:]  # as in UserComment
    if declared == b"UNICODE\0":
        return _text(text.decode(_utf_16(text), "replace")) or None
    if declared in (b"ASCII\0\0\0", bytes(8)):
        return _text(text.decode("utf-8", "replace")) or None
    if re.fullmatch(rb"[\x20-\x7e]+\0*", value):  # ExifVersion "0232"
        return _text(value.decode("ascii")) or None
    if len(value) == 1:  # SceneType, GPSAltitudeRef
        return value[0]
    return list(value) if len(value) <= 8 else None  # ComponentsConfiguration, GPSVersionID


def _utf_16(text: bytes) -> str:
    """The byte order is that of the file, or is not: the zeros of Latin letters tell, where a mark does not."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "utf-16-be" if text[::2].count(0) > text[1::2].count(0) else "utf-16-le"


def _text(value: Any) -> str:
    """Text without control characters and lone surrogates, trimmed and bounded; "" for anything else."""
    if not isinstance(value, str):
        return ""
    text = value[: 4 * _MAX_TEXT]
    with suppress(UnicodeError):
        # Nobody declares an encoding, and Pillow reads Latin-1; what parses as UTF-8 practically always is UTF-8.
        text = text.encode("latin-1").decode("utf-8")
    text = text[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text).strip()


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _fraction(written: str) -> timedelta:
    """Digits behind the decimal point of a second, which keep a burst in order."""
    digits = re.fullmatch(r"\d{1,9}", written, re.ASCII)
    return timedelta(microseconds=int(f"{digits[0]:0<6}"[:6])) if digits else timedelta()


def _utc_offset(written: str) -> timedelta:
    parts = re.fullmatch(r"([+-])(\d\d):(\d\d)", written, re.ASCII)
    if parts is None:
        return timedelta()
    offset = timedelta(hours=int(parts[2]), minutes=int(parts[3]))
    if offset > _WIDEST_OFFSET:
        return timedelta()
    return -offset if parts[1] == "-" else offset


def _degrees(value: Any, reference: str, directions: str, limit: int) -> float | None:
    """Degrees, minutes and seconds (the latter two may be missing) with a hemisphere, as one signed number."""
    direction = reference[:1].upper()
    parts = [_number(part) for part in (value if isinstance(value, tuple) else (value,))]
    if not direction or direction not in directions or len(parts) > 3:
        return None
    if any(part is None or part < 0 for part in parts) or any(part is None or part > 60 for part in parts[1:]):
        return None
    degrees = sum(part / 60.0**power for power, part in enumerate(parts) if part is not None)
    if degrees > limit:
        return None
    return round(-degrees if direction == directions[1] else degrees, 7)  # 7 decimals: a centimetre
