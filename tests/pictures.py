"""Pictures made on the spot."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib

from PIL import Image


def photograph(width: int = 640, height: int = 480, *, format: str = "JPEG", seed: int | None = None) -> bytes:  # noqa: A002
    """A picture that no other test has: large forms under fine grain, and so of a camera's size in bytes."""
    grain = random.Random(seed)
    small = Image.frombytes("RGB", (16, 12), grain.randbytes(16 * 12 * 3))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    noise = Image.effect_noise((min(width, 512), min(height, 512)), 25).convert("RGB").resize((width, height))
    return encoded(Image.blend(image, noise, 0.2), format)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@functools.cache
def tiny_pdf() -> bytes:
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    )


@functools.cache
def tiny_mp4() -> bytes:
    """An MP4's first box, and an empty one: enough to be known by."""
    return b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42" + b"\x00\x00\x00\x08free"


@functools.cache
def tiny_mp3() -> bytes:
    """Two silent frames of MPEG 1 Layer III, 128 kbit/s at 44.1 kHz: 417 bytes each."""
    return (b"\xff\xfb\x90\x00" + bytes(413)) * 2


@functools.cache
def tiny_heic() -> bytes:
    """The first box of a phone's picture, and nothing behind it."""
    return b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and has no pixels: what a decompression bomb begins with."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
