"""Files of the size and the difficulty of real ones, made on the spot."""

from __future__ import annotations

import functools
import os
import secrets
from pathlib import Path
from typing import TypeAlias

from PIL import ExifTags, Image

from processing import kinds
from processing.kinds import FileType
from tests.pictures import encoded, tiny_mp4

CAMERA_PIXELS = (4000, 3000)
SMALLER_PIXELS = (3264, 2448)
MIB = 1024 * 1024

Forms: TypeAlias = tuple[tuple[int, float], ...]
# Their sizes in pixels, and how much each layer hides of those below.
GRAINY: Forms = ((60, 0.4), (16, 0.3), (4, 0.2), (1, 0.1))
SMOOTH: Forms = ((90, 0.4), (30, 0.3), (8, 0.15), (2, 0.06))
BUSY: Forms = ((40, 0.4), (10, 0.35), (3, 0.25), (1, 0.06))


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
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Heirloom"
    exif[ExifTags.Base.Orientation] = 1
    exif[ExifTags.Base.DateTime] = "2026:06:01 12:30:00"
    picture = encoded(_scene(GRAINY), "JPEG", quality=92, exif=exif)
    assert 3_000_000 < len(picture) < 5_000_000, f"{len(picture)} bytes are not a camera's"
    return picture


def landscape() -> Image.Image:
    """The photograph before it is one: the pixels of `camera_picture`."""
    return _scene(GRAINY)


def photographs(folder: Path) -> dict[FileType, list[Path]]:
    """The same photographs as JPEG of 12 megapixels, one of them lying on its side, and as PNG and WebP of 8."""
    found: dict[FileType, list[Path]] = {each: [] for each in (kinds.JPEG, kinds.PNG, kinds.WEBP)}
    for number, forms in enumerate((GRAINY, SMOOTH, BUSY)):
        scene = _scene(forms)
        smaller = scene.resize(SMALLER_PIXELS, Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6 if forms == SMOOTH else 1
        contents = {
            kinds.JPEG: encoded(scene, "JPEG", quality=92, exif=exif),
            kinds.PNG: encoded(smaller, "PNG"),
            kinds.WEBP: encoded(smaller, "WEBP", quality=90, method=2),
        }
        for type_, content in contents.items():
            path = folder / f"{number}.{type_.extension}"
            path.write_bytes(content)
            found[type_].append(path)
    return found


def _scene(forms: Forms) -> Image.Image:
    """Forms of every size, as in a landscape, each a layer over the larger ones, down to the grain of a sensor.

    A smooth picture, or mere grain, would cost decoder and encoder much less, or more, than a photograph does.
    """
    scene = _noise(250)
    for size, share in forms:
        scene = Image.blend(scene, _noise(size), share)
    return scene


def _noise(size: int) -> Image.Image:
    """Spots of `size` pixels."""
    width, height = CAMERA_PIXELS
    bands = [Image.effect_noise((width // size, height // size), 80) for _ in range(3)]
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
