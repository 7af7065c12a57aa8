"""Width and height from a picture's header, without decoding anything.

The API process asks this of bytes that a stranger has just sent, before it stores them. So: no image library, a bounded
number of bytes and of steps whatever the file says of itself, and no error but the answer None.
"""

import struct
from collections.abc import Callable, Iterator
from os import SEEK_END
from typing import IO, BinaryIO, Final

from processing import kinds
from processing.kinds import FileType
from processing.sizes import Size

# Headers need a few kilobytes; a TIFF directory of 65,535 entries needs 768 KiB.
_MAX_BYTES: Final = 1024 * 1024
# What a read costs at least: 8,192 of them at most, so that thousands of tiny steps end too (within 10 ms).
_MIN_CHARGE: Final = 128


class _MalformedError(Exception):
    """The header ends early, contradicts itself, or asks for more than it may."""


class _Header:
    """Reads at absolute offsets, with a budget."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, SEEK_END)
        self._budget = _MAX_BYTES

    def read(self, offset: int, count: int) -> bytes:
        self._budget -= max(count, _MIN_CHARGE)
        # Offsets of 8 bytes can be past what a file system seeks to.
        if self._budget < 0 or not 0 <= offset <= self._size - count:
            raise _MalformedError
        self._file.seek(offset)
        return self._file.read(count)

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.read(offset, struct.calcsize(layout)))


def dimensions(file: BinaryIO, type: FileType) -> Size | None:  # noqa: A002  (as everywhere in this package)
    """Width and height in pixels as stored (before orientation), or None where the header doesn't tell.

    Reads at most 1 MiB of `file`, which must be seekable; its position afterwards is undefined. Of several pictures in
    a HEIF or AVIF it gives the largest; for a GIF, the canvas after its first frame.
    """
    parse = _PARSERS.get(type)
    if parse is None:
        return None
    try:
        width, height = parse(_Header(file))
    except _MalformedError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def code_points(file: IO[bytes]) -> tuple[int, int] | None:
    """Colour primaries and transfer characteristics (ITU-T H.273) that a HEIF or AVIF names first, or None.

    Reads as `dimensions` does.
    """
    header = _Header(file)
    try:
        for colr, _ in _properties(header, b"colr"):
            if header.read(colr, 4) == b"nclx":
                primaries, transfer = header.unpack(">HH", colr + 4)
                return primaries, transfer
    except _MalformedError:
        pass
    return None


def _jpeg(header: _Header) -> Size:
    offset = 2
    while True:
        before, marker = header.read(offset, 2)
        if before != 0xFF or marker in (0x00, 0xFF):  # fill bytes, or junk between segments, which decoders skip
            offset += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # stand alone, without a length
            offset += 2
        elif marker in (0xD9, 0xDA):  # the end, or the data, and no frame header yet
            raise _MalformedError
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOFn (ITU T.81, table B.1)
            height, width = header.unpack(">HH", offset + 5)
            return width, height
        else:
            (length,) = header.unpack(">H", offset + 2)
            offset += 2 + max(length, 2)


def _png(header: _Header) -> Size:
    if header.read(12, 4) != b"IHDR":
        raise _MalformedError
    width, height = header.unpack(">II", 16)
    return width, height


def _gif(header: _Header) -> Size:
    width, height, flags = header.unpack("<HHB", 6)
    try:
        left, top, frame_width, frame_height = _first_gif_frame(header, 13 + _colour_table_bytes(flags))
    except _MalformedError:
        return width, height
    # Decoders widen the canvas for a frame that reaches beyond it.
    return max(width, left + frame_width), max(height, top + frame_height)


def _colour_table_bytes(flags: int) -> int:
    return int(3 * 2 ** ((flags & 7) + 1)) if flags & 0x80 else 0


def _first_gif_frame(header: _Header, offset: int) -> tuple[int, ...]:
    while (block := header.read(offset, 1)) == b"\x21":  # an extension: a label, then sub-blocks up to an empty one
        offset += 2
        while size := header.read(offset, 1)[0]:
            offset += 1 + size
        offset += 1
    if block != b"\x2c":
        raise _MalformedError
    return header.unpack("<HHHH", offset + 1)


def _webp(header: _Header) -> Size:
    chunk = header.read(12, 4)
    if chunk == b"VP8 ":
        if header.read(23, 3) != b"\x9d\x01\x2a":
            raise _MalformedError
        width, height = header.unpack("<HH", 26)
        return width & 0x3FFF, height & 0x3FFF  # the upper two bits ask for upscaling
    if chunk == b"VP8L":
        signature, bits = header.unpack("<BI", 20)
        if signature != 0x2F:
            raise _MalformedError
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        canvas = header.read(24, 6)
        return int.from_bytes(canvas[:3], "little") + 1, int.from_bytes(canvas[3:], "little") + 1
    raise _MalformedError


def _tiff(header: _Header) -> Size:
    """First directory of a TIFF 6.0 or BigTIFF file: ImageWidth (256) and ImageLength (257)."""
    magic = header.read(0, 4)
    order = "<" if magic[:2] == b"II" else ">"
    if b"+" in magic:
        (directory,) = header.unpack(order + "Q", 8)
        (count,) = header.unpack(order + "Q", directory)
        start, entry = directory + 8, struct.Struct(order + "HHQ8s")
    else:
        (directory,) = header.unpack(order + "I", 4)
        (count,) = header.unpack(order + "H", directory)
        start, entry = directory + 2, struct.Struct(order + "HHI4s")
    if count > 0xFFFF:
        raise _MalformedError
    values: dict[int, int] = {}
    for tag, kind, length, value in entry.iter_unpack(header.read(start, count * entry.size)):
        if tag in (256, 257) and length == 1 and (layout := {3: "H", 4: "I", 16: "Q"}.get(kind)):
            if struct.calcsize(layout) > len(value):
                raise _MalformedError
            values.setdefault(tag, struct.unpack_from(order + layout, value)[0])
    return values.get(256, 0), values.get(257, 0)


def _bmp(header: _Header) -> Size:
    if header.read(0, 2) != b"BM":
        raise _MalformedError
    (header_size,) = header.unpack("<I", 14)
    if header_size == 12:
        width, height = header.unpack("<HH", 18)
    else:
        width, height = header.unpack("<ii", 18)
    return width, abs(height)  # negative: rows from the top down


def _heif(header: _Header) -> Size:
    """Largest `ispe` property (ISO/IEC 23008-12): the picture, or the canvas of its tiles; thumbnails are smaller."""
    sizes = [header.unpack(">II", ispe + 4) for ispe, _ in _properties(header, b"ispe")]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return width, height


def _properties(header: _Header, kind: bytes) -> Iterator[tuple[int, int]]:
    """Content (start, end) of each property of one kind, of whichever picture in the file."""
    for meta, meta_end in _boxes(header, b"meta", 0, None):
        for iprp, iprp_end in _boxes(header, b"iprp", meta + 4, meta_end):  # 4: version and flags of a full box
            for ipco, ipco_end in _boxes(header, b"ipco", iprp, iprp_end):
                yield from _boxes(header, kind, ipco, ipco_end)


def _boxes(header: _Header, wanted: bytes, start: int, end: int | None) -> Iterator[tuple[int, int]]:
    """Content (start, end) of each box of one kind between two offsets. At the top level, the first alone."""
    offset = start
    while end is None or offset + 8 <= end:
        size, kind = struct.unpack(">I4s", header.read(offset, 8))
        content = offset + 8
        if size == 1:
            (size,) = header.unpack(">Q", content)
            content += 8
        if size < content - offset:  # 0 too, "up to the end of the file": nothing that we look for comes last
            raise _MalformedError
        if kind == wanted:
            yield content, min(offset + size, end or offset + size)
            if end is None:
                return
        offset += size


_PARSERS: Final[dict[FileType, Callable[[_Header], Size]]] = {
    kinds.JPEG: _jpeg,
    kinds.PNG: _png,
    kinds.GIF: _gif,
    kinds.WEBP: _webp,
    kinds.TIFF: _tiff,
    kinds.BMP: _bmp,
    kinds.AVIF: _heif,
    kinds.HEIC: _heif,
    kinds.HEIF: _heif,
}
