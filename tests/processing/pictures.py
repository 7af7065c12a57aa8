"""Pictures for the tests: four quadrants of known colours, in any format, with any metadata; and what they become."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags, Image, ImageCms

from processing import images, kinds
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import PICTURE_VARIANTS, Facts, Progress, Rendered, VariantName, VariantSpec

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
    profile, tags = _srgb_profile()
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


# Red, green and blue in XYZ, adapted to D50.
DISPLAY_P3: Final = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB: Final = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def rgb_profile(primaries: tuple[tuple[float, ...], ...], gamma: float | None = None) -> bytes:
    """An RGB profile of these primaries; without a gamma of its own, it has the curve of sRGB."""
    profile, tags = _srgb_profile()
    for name, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        at = int.from_bytes(profile[tags[name] + 4 : tags[name] + 8])
        struct.pack_into(">3i", profile, at + 8, *(round(value * 65536) for value in primary))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        if gamma is None:
            break
        at = int.from_bytes(profile[tags[name] + 4 : tags[name] + 8])
        # From sRGB's parametric curve (type 3) to a plain power (type 0), within its place.
        struct.pack_into(">4sIHHi", profile, at, b"para", 0, 0, 0, round(gamma * 65536))
    return bytes(profile)


def grey_profile(gamma: float) -> bytes:
    curve = struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": curve, b"wtpt": _WHITE_POINT})


def ink_profile() -> bytes:
    """A CMYK profile of inks whose cyan looks magenta, and the other way round."""
    inks = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    seen = Image.new("RGB", (16, 1))
    seen.putdata([tuple(255 * (1 - ink) * (1 - k) for ink in (m, c, y)) for c, m, y, k in inks])
    lab = ImageCms.profileToProfile(
        seen, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    colours = b"".join(bytes(lab.getpixel((x, 0))) for x in range(16))  # type: ignore[arg-type]  # three channels
    straight = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = struct.pack(">4sIBBBB", b"mft1", 0, 4, 3, 2, 0) + identity + straight * 4 + colours + straight * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table, b"wtpt": _WHITE_POINT})


_WHITE_POINT: Final = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)  # D50


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """ICC.1:2001: a header of 128 bytes, the tag table, the tags."""
    at = 128 + 4 + 12 * len(tags)
    table, contents = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(contents), len(content))
        contents += content + bytes(-len(content) % 4)
    header = bytearray(128)
    struct.pack_into(">I", header, 0, at + len(contents))
    header[8:12], header[12:16], header[16:20], header[20:24] = b"\2\x20\0\0", b"scnr", space, connection
    header[36:40] = b"acsp"
    header[68:80] = _WHITE_POINT[8:]
    return bytes(header) + table + contents


def _srgb_profile() -> tuple[bytearray, dict[bytes, int]]:
    """And where the entries of its tag table are (ICC.1:2010, 7.3): a signature, offset and size each."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    return profile, {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@dataclass(frozen=True, slots=True)
class Produced:
    """What processing a picture came to: its facts, what it told meanwhile, and the variants, opened."""

    facts: Facts
    told: list[Rendered | Progress]
    variants: dict[VariantName, Image.Image]

    @property
    def sizes(self) -> dict[VariantName, tuple[int, int]]:
        return {name: image.size for name, image in self.variants.items()}


def produced(
    folder: Path,
    data: bytes,
    type: FileType,  # noqa: A002
    specs: tuple[VariantSpec, ...] = PICTURE_VARIANTS,
    limits: Limits | None = None,
) -> Produced:
    """Makes the variants of a picture in a new folder, and checks that what is told is what is there."""
    into = folder / "variants"
    into.mkdir()
    told: list[Rendered | Progress] = []
    facts = images.render(io.BytesIO(data), type, specs, into, limits or Limits(), told.append)
    rendered = [each for each in told if isinstance(each, Rendered)]
    assert told[0] == Progress(0)
    assert sorted(each.name for each in rendered) == sorted(spec.name for spec in specs)
    assert sorted(into.iterdir()) == sorted(each.path for each in rendered)
    return Produced(facts, told, {each.name: opened(each) for each in rendered})


def opened(rendered: Rendered) -> Image.Image:
    """A variant, which is what it was told to be, and nothing but a picture."""
    data = rendered.path.read_bytes()
    assert_bare(data)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert (image.format, rendered.content_type) == ("WEBP", "image/webp")
    assert image.size == (rendered.width, rendered.height)
    assert len(data) == rendered.size_bytes
    return image


def assert_bare(webp: bytes) -> None:
    """Nothing but pixels and, in an animation, when to show them: no EXIF, XMP (IPTC is in either) or profile."""
    names = [name for name, _ in chunks(webp)]
    assert set(names) <= {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
    for content in (content for name, content in chunks(webp) if name == b"VP8X"):
        assert not content[0] & 0b101100  # flags: ICC profile, EXIF, XMP (RFC 9649, 2.7)


def chunks(webp: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Of the RIFF container: names and contents (RFC 9649, 2.3)."""
    assert (webp[:4], int.from_bytes(webp[4:8], "little"), webp[8:12]) == (b"RIFF", len(webp) - 8, b"WEBP")
    at = 12
    while at < len(webp):
        size = int.from_bytes(webp[at + 4 : at + 8], "little")
        yield webp[at : at + 4], webp[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def deep_png(picture: Image.Image, *ancillary: bytes) -> bytes:
    """A PNG of 16 bits a channel, of a picture in L, LA, RGB or RGBA; with further chunks."""
    colour_type = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[picture.mode]
    stride = picture.width * len(picture.getbands())
    pixels = picture.tobytes()
    rows = b"".join(b"\0" + _doubled(pixels[at : at + stride]) for at in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", *picture.size, 16, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(ancillary) + data + chunk(b"IEND", b"")


def deep_tiff(picture: Image.Image, orientation: int = 1) -> bytes:
    """A TIFF of 16 bits a channel, of a picture in RGB or RGBA."""
    return tiff(picture.size, len(picture.getbands()), _doubled(picture.tobytes()), orientation=orientation)


def tiff(
    size: tuple[int, int],
    channels: int,
    pixels: bytes,
    *,
    bits: int = 16,
    photometric: int = 2,
    sample_format: int = 1,
    orientation: int = 1,
) -> bytes:
    """An uncompressed TIFF of little-endian pixels. Photometric: 0 white is zero, 1 black is zero, 2 RGB. Samples: 1
    unsigned, 3 floating point."""
    after = 8 + 2 + 13 * 12 + 4  # what doesn't fit into its entry comes behind the directory

    def each(value: int, place: int) -> int:
        return value if channels < 3 else after + place

    entries = [
        (256, 4, 1, size[0]), (257, 4, 1, size[1]), (258, 3, channels, each(bits, 0)), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, after + 16), (274, 3, 1, orientation), (277, 3, 1, channels),
        (278, 4, 1, size[1]), (279, 4, 1, len(pixels)), (284, 3, 1, 1), (338, 3, max(0, channels - 3), 2),
        (339, 3, channels, each(sample_format, 8)),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    arrays = struct.pack("<4H", *[bits] * 4) + struct.pack("<4H", *[sample_format] * 4)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + arrays + pixels


def _doubled(channels: bytes) -> bytes:
    """From 8 bits each to 16 of the same brightness: 255 becomes 65,535."""
    return bytes(value for channel in channels for value in (channel, channel))


def gif(width: int, height: int, *frames: bytes, loop: int | None = None) -> bytes:
    """An animation on a canvas, in the palette of CORNERS."""
    palette = b"".join(bytes(colour) for colour in CORNERS) + bytes(3 * 124)
    again = b"" if loop is None else b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", loop) + b"\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0xE6, 0, 0) + palette + again + b"".join(frames) + b";"


def gif_frame(
    colour: int,
    box: tuple[int, int, int, int],
    *,
    hundredths: int = 10,
    disposal: int = 1,
    transparent: int | None = None,
) -> bytes:
    """A rectangle in one colour of CORNERS: left, top, width, height. Disposal: 1 leave, 2 clear, 3 undo."""
    flags = disposal << 2 | (transparent is not None)
    control = b"\x21\xf9\x04" + struct.pack("<BHBB", flags, hundredths, transparent or 0, 0)
    # LZW without ever compressing: 128 (forget the table) comes so often that codes stay 8 bits wide; 129 ends it.
    codes = (b"\x80" + bytes([colour]) * 64) * -(-box[2] * box[3] // 64)
    codes = codes[: box[2] * box[3] + -(-box[2] * box[3] // 64)] + b"\x81"
    blocks = b"".join(bytes([len(part)]) + part for part in (codes[at : at + 255] for at in range(0, len(codes), 255)))
    return control + b"," + struct.pack("<HHHHB", *box, 0) + b"\x07" + blocks + b"\0"
