"""Cameras' raw files, as small as LibRaw takes them: a sensor that saw nothing, and a preview in JPEG or none."""

import io
import struct
from collections.abc import Mapping
from typing import Final

from PIL import Image

from processing import kinds
from processing.kinds import FileType

Value = int | bytes | tuple[int, ...]
Tags = Mapping[int, Value]
Size = tuple[int, int]

NEW_SUBFILE_TYPE: Final = 254
PHOTOMETRIC: Final = 262
MAKE: Final = 271
MODEL: Final = 272
ORIENTATION: Final = 274
SUB_DIRECTORIES: Final = 330
EXIF: Final = 34665
GPS: Final = 34853
DNG_VERSION: Final = 50706

FILTER_ARRAY: Final = 32803
SENSOR: Final = (96, 64)  # pixels: LibRaw refuses sensors of less than 22

_BYTE, _ASCII, _SHORT, _LONG = 1, 2, 3, 4
# Tags whose values are no LONGs.
_TYPES: Final = {
    **dict.fromkeys((50706, 50707, 33422), _BYTE),
    **dict.fromkeys((258, 259, 262, 274, 277, 284, 33421, 50717), _SHORT),
}
_RATIONALS: Final = frozenset({2, 4})  # of GPS: latitude and longitude

_RAF_HEADER: Final = 160

# Room behind the header for the first directory and its values, which is where cameras put them.
_FIRST_BYTES: Final = 512


class Tiff:
    """Writes data and further directories behind the first directory, each at an even offset."""

    def __init__(self, order: str = "<", magic: bytes | None = None, behind: bytes = b"") -> None:
        self._order = order
        self._first = 8 + len(behind)
        header = (magic or {"<": b"II*\0", ">": b"MM\0*"}[order]) + struct.pack(order + "I", self._first) + behind
        self._data = bytearray(header + bytes(_FIRST_BYTES))

    def add(self, data: bytes) -> int:
        """Its offset."""
        self._data += bytes(len(self._data) % 2)
        self._data += data
        return len(self._data) - len(data)

    def directory(self, tags: Tags) -> int:
        """Its offset. Integers are SHORT or LONG as the tag demands (pairs of them RATIONAL), bytes ASCII or BYTE."""
        at = len(self._data) + len(self._data) % 2
        return self.add(self._packed(tags, at))

    def file(self, first: Tags) -> bytes:
        packed = self._packed(first, self._first)
        assert len(packed) <= _FIRST_BYTES
        self._data[self._first : self._first + len(packed)] = packed
        return bytes(self._data)

    def _packed(self, tags: Tags, at: int) -> bytes:
        """A directory that will be at the offset `at`, with its values behind it."""
        entries, values = b"", b""
        values_at = at + 2 + 12 * len(tags) + 4
        for tag in sorted(tags):
            kind, count, value = self._value(tag, tags[tag])
            if len(value) > 4:
                value, values = struct.pack(self._order + "I", values_at + len(values)), values + value
            entries += struct.pack(self._order + "HHI4s", tag, kind, count, value)
        return struct.pack(self._order + "H", len(tags)) + entries + bytes(4) + values

    def _value(self, tag: int, value: Value) -> tuple[int, int, bytes]:
        if isinstance(value, bytes):
            return _TYPES.get(tag, _ASCII), len(value), value
        numbers = value if isinstance(value, tuple) else (value,)
        if tag in _RATIONALS:
            return 5, len(numbers) // 2, struct.pack(f"{self._order}{len(numbers)}I", *numbers)
        kind = _TYPES.get(tag, _LONG)
        letter = {_BYTE: "B", _SHORT: "H", _LONG: "I"}[kind]
        return kind, len(numbers), struct.pack(f"{self._order}{len(numbers)}{letter}", *numbers)


def tiff(tags: Tags, order: str = "<", magic: bytes | None = None, behind: bytes = b"") -> bytes:
    """A file of one directory, and no pixels."""
    return Tiff(order, magic, behind).file(tags)


def jpeg(picture: Image.Image, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0, exif=exif or Image.Exif())
    # Without the JFIF header of 18 bytes, which cameras leave out: LibRaw looks for EXIF where that is.
    return buffer.getvalue()[:2] + buffer.getvalue()[20:]


def raw(
    type: FileType,  # noqa: A002
    preview: bytes | Image.Image | None,
    preview_size: Size,
    *,
    size: Size = SENSOR,
    orientation: int = 1,
    order: str = "<",
    camera: Tags | None = None,
    place: Tags | None = None,
    preview_last: bool = False,
) -> bytes:
    """A file of a camera whose raw files are TIFFs. `size` is the sensor's as stored, `camera` and `place` are EXIF's.

    A picture as preview, rather than a JPEG, is stored without compression.
    """
    magic, behind, make = _CAMERAS[type]
    file = Tiff(order, magic, behind)
    tags: dict[int, Value] = {
        NEW_SUBFILE_TYPE: 1,
        MAKE: make,
        MODEL: b"Heirloom One\0",
        ORIENTATION: orientation,
    }
    if preview_last:
        tags[SUB_DIRECTORIES] = file.directory(_sensor(file, size))
    if preview is not None:
        data, layout = (preview, 6) if isinstance(preview, bytes) else (preview.tobytes(), 1)
        tags |= _picture(file.add(data), len(data), preview_size, compression=layout)
    if not preview_last:
        tags[SUB_DIRECTORIES] = file.directory(_sensor(file, size))
    if type is kinds.DNG:
        tags |= {DNG_VERSION: b"\1\4\0\0", 50708: b"Heirloom One\0"}
    if camera is not None:
        tags[EXIF] = file.directory(camera)
    if place is not None:
        tags[GPS] = file.directory(place)
    return file.file(tags)


_CAMERAS: Final[dict[FileType, tuple[bytes | None, bytes, bytes]]] = {
    kinds.DNG: (None, b"", b"Heirloom\0"),
    kinds.NEF: (None, b"", b"NIKON CORPORATION\0"),
    kinds.ARW: (None, b"", b"SONY \0"),
    kinds.CR2: (None, b"CR\2\0" + bytes(4), b"Canon\0"),
    kinds.ORF: (b"IIRO", b"", b"OLYMPUS IMAGING CORP.\0"),
    kinds.RW2: (b"IIU\0", b"", b"Panasonic\0"),
}
RAW_TIFFS: Final = tuple(_CAMERAS)


def _picture(offset: int, length: int, size: Size, compression: int) -> Tags:
    width, height = size
    described: dict[int, Value] = {
        256: width,
        257: height,
        258: (8, 8, 8),
        259: compression,
        PHOTOMETRIC: 2 if compression == 1 else 6,
        273: offset,
        277: 3,
        278: height,
        279: length,
        284: 1,
    }
    return described if compression == 1 else {**described, 513: offset, 514: length}


def _sensor(file: Tiff, size: Size) -> Tags:
    width, height = size
    return {
        NEW_SUBFILE_TYPE: 0,
        256: width,
        257: height,
        258: 16,
        259: 1,
        PHOTOMETRIC: FILTER_ARRAY,
        273: file.add(bytes(width * height * 2)),
        277: 1,
        278: height,
        279: width * height * 2,
        284: 1,
        33421: (2, 2),
        33422: b"\0\1\1\2",
        50717: 4095,
    }


def raf(preview: bytes, size: Size = SENSOR) -> bytes:
    """Fuji's own format: a header, the preview, whose EXIF is all that there is, and a TIFF of the sensor."""
    width, height = size
    pixels = Tiff()
    layout: Tags = {
        0xF001: width,
        0xF002: height,
        0xF003: 16,
        0xF007: pixels.add(bytes(width * height * 2)),
        0xF008: width * height * 2,
    }
    sensor = pixels.file({0xF000: pixels.directory(layout)})
    name = (b"FUJIFILMCCD-RAW 0201FF119501" + b"Heirloom One").ljust(84, b"\0")
    nothing = 120
    offsets = (_RAF_HEADER, len(preview), nothing, 4, _RAF_HEADER + len(preview), len(sensor))
    return (name + struct.pack(">6I", *offsets)).ljust(_RAF_HEADER, b"\0") + preview + sensor
