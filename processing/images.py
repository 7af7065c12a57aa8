"""Photographs and pictures: their facts, and their variants as WebP."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# Each plugin by name: otherwise Pillow imports all of its forty when it first meets one of the rarer formats.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from processing import colour, exif, kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.headers import dimensions
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import Facts, Rendered, VariantSpec

# We count pixels ourselves, against our own limit; Pillow's would warn on stderr and refuse at one of its own.
Image.MAX_IMAGE_PIXELS = None
# Children fill the cores already, and each thread's stack and heap count as address space.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# The one decoder that may read each type: a file is never handed to whichever of Pillow's forty accepts it.
_DECODERS: Final = {
    kinds.JPEG: "JPEG",
    kinds.PNG: "PNG",
    kinds.GIF: "GIF",
    kinds.WEBP: "WEBP",
    kinds.AVIF: "AVIF",
    kinds.TIFF: "TIFF",
    kinds.BMP: "BMP",
}

# EXIF tag 274 (CIPA DC-008): what turns the stored picture upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES: Final = (5, 6, 7, 8)

Size = tuple[int, int]


def analyze(source: Path, type: FileType, limits: Limits) -> Facts:  # noqa: A002
    """Reads the header and EXIF of the picture at `source`, and no pixels.

    Raises ProcessingFailed: UNSUPPORTED, CORRUPT, TOO_MANY_PIXELS.
    """
    with _opened(source, type, limits) as image, _reading():
        width, height = _displayed(image.size, _orientation(image))
        tags = _exif(image)
        latitude, longitude = exif.location(tags) or (None, None)
        return Facts(width, height, exif.taken_at(tags), latitude, longitude, exif.as_json(tags))


def render(
    source: Path,
    type: FileType,  # noqa: A002
    into: Path,
    specs: Sequence[VariantSpec],
    limits: Limits,
) -> list[Rendered]:
    """Makes a WebP file of each spec in the folder `into`, in the order of `specs`: upright, in sRGB, without metadata.

    Decodes once. Animated pictures give their first frame. Raises ProcessingFailed: UNSUPPORTED, CORRUPT,
    TOO_MANY_PIXELS; OSError when `into` can't be written to.
    """
    assert specs  # within _reading, it would be the file's fault
    with _opened(source, type, limits) as image, _reading():
        orientation = _orientation(image)
        displayed = _displayed(image.size, orientation)
        largest_first = sorted(specs, key=lambda spec: _scale(spec, displayed), reverse=True)
        current = _decode(image, _scaled(displayed, _scale(largest_first[0], displayed)), orientation)
        pictures = {}
        for spec in largest_first:
            frame = _scaled(displayed, _scale(spec, displayed))
            if spec.crop:
                pictures[spec] = _cropped(current, frame, spec)
            else:
                pictures[spec] = current = _shrunk(current, frame)
    return [_write(pictures[spec], spec, into) for spec in specs]


@contextmanager
def _opened(source: Path, type: FileType, limits: Limits) -> Iterator[ImageFile.ImageFile]:  # noqa: A002
    decoder = _DECODERS.get(type)
    if decoder is None:
        raise ProcessingFailed(FailureCode.UNSUPPORTED, f"{type.extension.upper()} files can't be processed.")
    # An open file rather than its path: Pillow maps a path into memory, and a file cut short meanwhile is a SIGBUS.
    with source.open("rb") as file:
        # Before Image.open too: for WebP that already allocates the canvas.
        if size := dimensions(file, type):
            _check_pixels(size, limits)
        with _reading():
            image = Image.open(file, formats=[decoder])
        _check_pixels(image.size, limits)
        yield image


def _check_pixels(size: Size, limits: Limits) -> None:
    width, height = size
    if width * height > limits.pixels:
        raise ProcessingFailed(
            FailureCode.TOO_MANY_PIXELS,
            f"The picture has {width} x {height} pixels; at most {limits.pixels:,} pixels can be processed.",
        )


@contextmanager
def _reading() -> Iterator[None]:
    """Pillow raises nearly anything on broken input. What the machine lacks is not the file's fault, though."""
    try:
        yield
    except ProcessingFailed:
        raise
    except NotImplementedError as error:
        raise ProcessingFailed(FailureCode.UNSUPPORTED, "This kind of picture can't be processed.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own; Pillow's have no number
            raise
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            message = "The picture needs more memory than processing may use."
            raise ProcessingFailed(FailureCode.TOO_MANY_PIXELS, message) from error
        raise ProcessingFailed(FailureCode.CORRUPT, "The file is damaged or incomplete.") from error


def _exif(image: ImageFile.ImageFile) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:  # broken EXIF, which Pillow meets with nearly any error, doesn't spoil the picture
        return Image.Exif()


def _orientation(image: ImageFile.ImageFile) -> int:
    """1 to 8, by EXIF. Pillow turns TIFF pictures itself while it loads them, and gives their size accordingly."""
    orientation = 1 if image.format == "TIFF" else _exif(image).get(ExifTags.Base.Orientation)
    return orientation if orientation in _UPRIGHT else 1


def _displayed(stored: Size, orientation: int) -> Size:
    """Swaps the sides if need be; the same call leads back."""
    return (stored[1], stored[0]) if orientation in _SWAPS_SIDES else stored


def _scale(spec: VariantSpec, displayed: Size) -> float:
    """By how much the whole picture is reduced for a spec: to fit within it, or to cover it where it is cropped."""
    ratios = (spec.width / displayed[0], spec.height / displayed[1])
    return min(1.0, max(ratios) if spec.crop else min(ratios))


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _decode(image: ImageFile.ImageFile, frame: Size, orientation: int) -> Image.Image:
    """The picture in sRGB at the size `frame`, upright."""
    stored = _displayed(frame, orientation)
    # JPEG decodes to 1/2, 1/4 or 1/8 at a fraction of the work. The size asked for must have the picture's own aspect:
    # a square one would rule most reductions out.
    image.draft(None, stored)
    image.load()
    # Turning and colour conversion cost by the pixel: they come after scaling.
    base = _shrunk(colour.scalable(image), stored)
    if orientation in _UPRIGHT:
        base = base.transpose(_UPRIGHT[orientation])
    return colour.to_srgb(base, image.info.get("icc_profile"))


def _shrunk(image: Image.Image, size: Size, box: tuple[float, float, float, float] | None = None) -> Image.Image:
    # A gap of 1.0 averages whole blocks first and leaves BICUBIC a factor below 2. Against scaling down from the full
    # picture by LANCZOS, halving again and again this way came out as near as HAMMING does, at a sixth of its time.
    return image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=1.0)


def _cropped(image: Image.Image, frame: Size, spec: VariantSpec) -> Image.Image:
    """The middle of `image`, in the spec's aspect, as large as it is where the whole picture has the size `frame`."""
    width, height = _filling(image.size, spec)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    across, down = _filling(frame, spec)
    size = min(spec.width, max(1, round(across))), min(spec.height, max(1, round(down)))
    return _shrunk(image, size, (left, top, left + width, top + height))


def _filling(size: Size, spec: VariantSpec) -> tuple[float, float]:
    """Sides of the largest rectangle in the spec's aspect that lies within `size`."""
    aspect = spec.width / spec.height
    return min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)


def _write(picture: Image.Image, spec: VariantSpec, into: Path) -> Rendered:
    path = into / f"{spec.name.lower()}-{spec.digest}.webp"
    # Nothing else is passed on: Pillow's WebP writer takes metadata from its arguments alone.
    picture.save(path, "WEBP", quality=spec.quality, method=spec.effort)
    return Rendered(spec.name, spec.digest, path, "image/webp", picture.width, picture.height, path.stat().st_size)
