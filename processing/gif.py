"""The frames of a GIF, composed as browsers do it: on a transparent canvas, to which they clear it again.

Pillow composes on the background colour that files name and nobody shows, and forgets to be transparent where the first
frame was not. So it gets every frame as a still of its own here. Names are those of the standard (GIF89a, 1990).
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from processing.sizes import Size

_EXTENSION: Final = b"!"
_IMAGE: Final = b","
_GRAPHIC_CONTROL: Final = b"\xf9"

# What becomes of a frame's place on the canvas when its time is over; anything else: it stays.
_CLEAR: Final = 2
_UNDO: Final = 3


@dataclass(frozen=True, slots=True)
class _Part:
    """A frame as it is stored: a piece of the canvas, as a GIF of its own."""

    place: tuple[int, int, int, int]  # left, top, right, bottom
    disposal: int
    milliseconds: int
    still: bytes


def frames(file: IO[bytes], canvas: Size, pixels: int) -> Iterator[tuple[Image.Image, int]]:
    """Each frame, in RGBA, and its duration in milliseconds; valid until the next is asked for.

    `canvas` is the size of the picture, `pixels` the most that a frame may have. Raises nearly anything when broken.
    """
    shown = Image.new("RGBA", canvas)
    for part in _parts(file, pixels):
        before = shown.copy() if part.disposal == _UNDO else shown
        piece = GifImageFile(io.BytesIO(part.still)).convert("RGBA")
        shown.paste(piece, part.place, piece)
        yield shown, part.milliseconds
        if part.disposal == _CLEAR:
            shown.paste((0, 0, 0, 0), part.place)
        shown = before


def _parts(file: IO[bytes], pixels: int) -> Iterator[_Part]:
    file.seek(0)
    signature, size_and_flags = _read(file, 6), _read(file, 7)
    colours = _colour_table(file, size_and_flags[4])
    control = bytes(4)
    # Up to the trailer, or to where it is missing.
    while (block := file.read(1)) in (_EXTENSION, _IMAGE):
        if block == _EXTENSION:
            label, content = file.read(1), _sub_blocks(file)
            control = content[1:5] if label == _GRAPHIC_CONTROL and len(content) > 4 else control
            continue
        left, top, width, height, flags = struct.unpack("<HHHHB", _read(file, 9))
        if width * height > pixels:
            raise ValueError("a frame larger than any picture may be")
        data = _colour_table(file, flags) + _read(file, 1) + _sub_blocks(file)
        yield _Part(
            (left, top, left + width, top + height),
            control[0] >> 2 & 7,
            int.from_bytes(control[1:3], "little") * 10,
            signature + struct.pack("<HH", width, height) + size_and_flags[4:] + colours
            + b"!\xf9\x04" + control + b"\0" + struct.pack("<cHHHHB", _IMAGE, 0, 0, width, height, flags) + data + b";",
        )  # fmt: skip
        control = bytes(4)


def _colour_table(file: IO[bytes], flags: int) -> bytes:
    return _read(file, 3 << (flags & 7) + 1) if flags & 0x80 else b""


def _sub_blocks(file: IO[bytes]) -> bytes:
    """Blocks of up to 255 bytes, each behind its size, up to and with the empty one."""
    blocks = bytearray()
    while (size := _read(file, 1))[0]:
        blocks += size + _read(file, size[0])
    return bytes(blocks + size)


def _read(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data
