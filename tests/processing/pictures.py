"""Pictures for the tests: four quadrants of known colours, in any format, with any metadata."""

import io
import struct
import zlib
from typing import Any, Final

from PIL import ExifTags, Image, ImageCms

from processing import kinds
from processing.kinds import FileType

Colour = tuple[int, int, int]

RED: Final = (220, 30, 30)
GREEN: Final = (30, 180, 40)
BLUE: Final = (30, 40, 200)
WHITE: Final = (240, 240, 240)

# As displayed: top left, top right, bottom left, bottom right.
CORNERS: Final = (RED, GREEN, BLUE, WHITE)

FORMATS: Final = {
    kinds.JPEG: "JPEG",
    kinds.PNG: "PNG",
    kinds.GIF: "GIF",
    kinds.WEBP: "WEBP",
    kinds.AVIF: "AVIF",
    kinds.TIFF: "TIFF",
    kinds.BMP: "BMP",
}

# How an upright picture is stored under each EXIF orientation: the inverse of what a viewer does to it.
_STORED: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def label(value: object) -> str | None:
    """A parameter's name in a test's id, the same in each process that collects the tests."""
    if isinstance(value, FileType):
        return value.extension
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) and len(value) == 2 else None


def quadrants(width: int, height: int, colours: tuple[Colour, ...] = CORNERS) -> Image.Image:
    small = Image.new("RGB", (2, 2))
    small.putdata(colours)
    return small.resize((width, height), Image.Resampling.NEAREST)


def stored(upright: Image.Image, orientation: int) -> Image.Image:
    return upright.transpose(_STORED[orientation]) if orientation in _STORED else upright


def encoded(image: Image.Image, type: FileType, **options: Any) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[type], **options)
    return buffer.getvalue()


def corners(image: Image.Image) -> list[Colour]:
    """The colours in the middle of the four quadrants."""
    rgb = image.convert("RGB")
    across, down = (image.width // 4, image.width * 3 // 4), (image.height // 4, image.height * 3 // 4)
    return [rgb.getpixel((x, y)) for y in down for x in across]  # type: ignore[misc]  # a colour, as the mode is RGB


def close(found: list[Colour], expected: tuple[Colour, ...], tolerance: int = 12) -> bool:
    """Whether all channels agree but for what lossy encoding does."""
    return all(abs(a - b) <= tolerance for f, e in zip(found, expected, strict=True) for a, b in zip(f, e, strict=True))


def exif(orientation: int = 1, **camera: Any) -> Image.Exif:
    """EXIF with an orientation, and tags of the camera's directory by name."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    directory = tags.get_ifd(ExifTags.IFD.Exif)
    directory.update({ExifTags.Base[name]: value for name, value in camera.items()})
    return tags


def with_place(tags: Image.Exif, latitude: tuple[Any, str], longitude: tuple[Any, str]) -> Image.Exif:
    """Adds coordinates: degrees, minutes and seconds, and the hemisphere."""
    tags.get_ifd(ExifTags.IFD.GPSInfo).update({1: latitude[1], 2: latitude[0], 3: longitude[1], 4: longitude[0]})
    return tags


def swapping_profile() -> bytes:
    """An RGB profile whose red is sRGB's green, and the other way round: nobody can overlook that it was applied."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # The tag table (ICC.1:2010, 7.3): a count at 128, then signature, offset and size of each.
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
