"""Photographs and pictures: their facts, and their variants as WebP."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from errno import EINVAL
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from PIL import AvifImagePlugin, Image, ImageFile, PngImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from processing import animations, colour, exif, kinds, renditions
from processing.avif import AvifPicture
from processing.failures import FailureCode, ProcessingFailed
from processing.headers import dimensions
from processing.kinds import FileType
from processing.limits import MIB, Limits
from processing.pngs import PngFile
from processing.renditions import Frames
from processing.sizes import Size, check_pixels, scaled
from processing.variants import PICTURE_VARIANTS, Facts, Progress, Tell, VariantSpec

# We count pixels ourselves, against our own limit; Pillow's would warn on stderr and refuse at one of its own.
Image.MAX_IMAGE_PIXELS = None
# Children fill the cores already, and each thread's stack and heap count as address space.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow refuses the whole picture where a profile or a comment unpacks to more than this.
PngImagePlugin.MAX_TEXT_CHUNK = 8 * MIB

# The one decoder that may read each type: a file is never handed to whichever of Pillow's forty accepts it. For JPEG
# that means the first picture, which is the main one, whatever the index of others behind it says.
_DECODERS: Final[dict[FileType, Callable[[BinaryIO], ImageFile.ImageFile]]] = {
    kinds.JPEG: JpegImageFile,
    kinds.PNG: PngFile,
    kinds.GIF: GifImageFile,
    kinds.WEBP: WebPImageFile,
    kinds.AVIF: AvifPicture,
    kinds.TIFF: TiffImageFile,
    kinds.BMP: BmpImageFile,
    kinds.HEIC: partial(Image.open, formats=["HEIF"]),
    kinds.HEIF: partial(Image.open, formats=["HEIF"]),
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


def produce(file: BinaryIO, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """Makes the variants of a picture in the folder `into`, in WebP: upright, in sRGB, without metadata.

    Animations stay animated, as far as the limits go; of several pages, the first counts. Raises ProcessingFailed:
    UNSUPPORTED, CORRUPT, TOO_MANY_PIXELS; OSError when `into` can't be written to.
    """
    return render(file, type, PICTURE_VARIANTS, into, limits, tell)


def render(  # noqa: PLR0917  (as `produce`)
    file: BinaryIO,
    type: FileType,  # noqa: A002
    specs: Sequence[VariantSpec],
    into: Path,
    limits: Limits,
    tell: Tell,
) -> Facts:
    """As `produce`, with variants of one's own."""
    decoder = _decoder(type)
    with _reading():
        # Before the decoder too: that of WebP allocates the canvas at once.
        if stored := dimensions(file, type):
            check_pixels("The picture", stored, limits)
        image = _opened(file, decoder, limits)
        orientation = _orientation(image)
        size = _displayed(image.size, orientation)
        facts = _facts(image, size)
    tell(Progress(0))
    largest = scaled(size, max(renditions.scale(spec, size) for spec in specs))
    with _reading():
        frames = _decode(image, largest, orientation, limits)
    return replace(facts, looks=renditions.render_frames(frames, size, specs, into, tell))


def _decoder(type: FileType) -> Callable[[BinaryIO], ImageFile.ImageFile]:  # noqa: A002
    if type in (kinds.HEIC, kinds.HEIF):
        from processing import heif  # noqa: PLC0415  (a library that few files need)

        heif.register()
    if type not in _DECODERS:
        raise ProcessingFailed(FailureCode.UNSUPPORTED, f"{type.extension.upper()} files can't be processed.")
    return _DECODERS[type]


def _opened(file: BinaryIO, decoder: Callable[[BinaryIO], ImageFile.ImageFile], limits: Limits) -> ImageFile.ImageFile:
    file.seek(0)
    # An open file rather than its path: Pillow maps a path into memory, and a file cut short meanwhile is a SIGBUS.
    image = decoder(file)
    check_pixels("The picture", image.size, limits)
    # Pillow looks for an orientation there where EXIF has none. Nobody else does, so that it may be long out of date.
    for xmp in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(xmp, None)
    return image


def _facts(image: ImageFile.ImageFile, size: Size) -> Facts:
    tags = _exif(image)
    latitude, longitude = exif.location(tags) or (None, None)
    return Facts(
        width=size[0],
        height=size[1],
        taken_at=exif.taken_at(tags),
        latitude=latitude,
        longitude=longitude,
        tags=exif.as_json(tags),
    )


@contextmanager
def _reading() -> Iterator[None]:
    """Pillow raises nearly anything on broken input. What the machine lacks is not the file's fault, though."""
    try:
        yield
    except ProcessingFailed:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) or re.match("unknown|unsupported", str(error), re.IGNORECASE):
            message = "This kind of picture can't be processed."
            raise ProcessingFailed(FailureCode.UNSUPPORTED, message) from error
        # The system's own; Pillow's have no number, and where it was told to seek by the file, it is that one's fault.
        if isinstance(error, OSError) and error.errno not in (None, EINVAL):
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
    return 1 if image.format == "TIFF" else exif.orientation(_exif(image))


def _displayed(stored: Size, orientation: int) -> Size:
    """Swaps the sides if need be; the same call leads back."""
    return (stored[1], stored[0]) if orientation in _SWAPS_SIDES else stored


def _decode(image: ImageFile.ImageFile, size: Size, orientation: int, limits: Limits) -> Frames:
    """All frames of the picture, in sRGB, upright, reduced to `size` as displayed."""
    if animations.is_animated(image):
        moving = [(_upright(each, size, orientation), ms) for each, ms in animations.frames(image, limits)]
        pictures, durations = zip(*moving, strict=True)
        return Frames(pictures, durations, animations.plays(image))
    # JPEG decodes to 1/2, 1/4 or 1/8 at a fraction of the work. The size asked for must have the picture's own aspect:
    # a square one would rule most reductions out.
    image.draft(None, _displayed(size, orientation))
    image.load()
    return Frames([_upright(image, size, orientation)], [0])


def _upright(image: Image.Image, size: Size, orientation: int) -> Image.Image:
    # Turning and colour conversion cost by the pixel: they come after scaling.
    base = renditions.shrunk(colour.scalable(image), _displayed(size, orientation))
    if orientation in _UPRIGHT:
        base = base.transpose(_UPRIGHT[orientation])
    srgb = colour.to_srgb(base, image.info.get("icc_profile"))
    return srgb.copy() if srgb is image else srgb  # which holds the next frame soon
