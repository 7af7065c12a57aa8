"""Files of the size and the difficulty of real ones, made on the spot."""

from __future__ import annotations

import functools
import os
import secrets
from pathlib import Path

from PIL import ExifTags, Image

from tests.pictures import encoded, tiny_mp4

CAMERA_PIXELS = (4000, 3000)
MIB = 1024 * 1024


def camera_picture(folder: Path) -> Path:
    """A JPEG of 12 megapixels and 3 to 5 MB with EXIF; the bytes of each are its own, its pixels those of all."""
    picture = _camera_picture()
    comment = secrets.token_bytes(16)
    path = folder / f"{comment.hex()}.jpg"
    # A comment (COM, ITU T.81 B.2.4.5) behind the first marker: another file at no cost.
    path.write_bytes(picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:])
    return path


@functools.cache
def _camera_picture() -> bytes:
    # Forms of every size, as in a landscape, under the grain of a sensor: a smooth picture, or mere grain, would cost
    # decoder and encoder much less, or more, than a photograph does.
    width, height = CAMERA_PIXELS
    image = _noise(width // 250, height // 250)
    for scale, share in ((60, 0.4), (16, 0.3), (4, 0.2), (1, 0.1)):
        image = Image.blend(image, _noise(width // scale, height // scale), share)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Heirloom"
    exif[ExifTags.Base.Orientation] = 1
    exif[ExifTags.Base.DateTime] = "2026:06:01 12:30:00"
    picture = encoded(image, "JPEG", quality=92, exif=exif)
    assert 3_000_000 < len(picture) < 5_000_000, f"{len(picture)} bytes are not a camera's"
    return picture


def _noise(width: int, height: int) -> Image.Image:
    bands = [Image.effect_noise((width, height), 80) for _ in range(3)]
    return Image.merge("RGB", bands).resize(CAMERA_PIXELS, Image.Resampling.BICUBIC)


def film(folder: Path, size: int) -> Path:
    """An MP4 by its first bytes, of `size` bytes, no two alike."""
    path = folder / f"{secrets.token_hex(8)}.mp4"
    block = os.urandom(MIB)
    with path.open("wb") as file:
        file.write(tiny_mp4() + secrets.token_bytes(16))
        while (missing := size - file.tell()) > 0:
            file.write(block[:missing])
    return path
