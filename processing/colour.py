"""Any pixel layout, in any colour space, as 8-bit sRGB: what every browser shows the same way."""

import io
import math
from typing import Final

from PIL import ExifTags, Image, ImageChops, ImageCms

_SRGB: Final = ImageCms.createProfile("sRGB")

# Colours to try a profile on: each channel at six levels.
_LEVELS: Final = range(0, 256, 51)
_SAMPLE: Final = Image.frombytes(
    "RGB", (216, 1), bytes(v for r in _LEVELS for g in _LEVELS for b in _LEVELS for v in (r, g, b))
)
# Of 255. Below what anybody sees, above what the many copies of sRGB differ by.
_INVISIBLE: Final = 3

_WHITE_IS_ZERO: Final = 0  # TIFF 6.0, section 8


def scalable(image: Image.Image) -> Image.Image:
    """The same picture in a mode that can be scaled: L, LA, RGB, RGBA, CMYK, YCbCr or LAB, 8 bits a channel.

    Palettes must go first (their indices don't average), and deeper greys (Pillow's `convert` clips them to white).
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image)
    if image.mode == "P" or "transparency" in image.info:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    replacement = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "HSV": "RGB"}.get(image.mode)
    return image.convert(replacement) if replacement else image


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, or RGBA where something is transparent, in sRGB. A broken or unfitting profile is ignored."""
    if image.mode not in ("LA", "RGBA"):
        return _through_profile(image, profile) or _without_profile(image)
    alpha = image.getchannel("A")
    opaque = to_srgb(image.convert(image.mode.removesuffix("A")), profile)
    if alpha.getextrema()[0] != 255:  # opaque throughout, the channel would only cost bytes
        opaque.putalpha(alpha)
    return opaque


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, _SRGB, image.mode, "RGB")
        if image.mode == "RGB" and _changes_nothing(transform):
            return None
        return ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Many phones embed sRGB itself. Found out in 1 ms on a few colours, where the whole picture takes 30."""
    converted = ImageCms.applyTransform(_SAMPLE, transform)
    assert converted is not None  # not done in place
    pairs = zip(converted.tobytes(), _SAMPLE.tobytes(), strict=True)
    return all(abs(after - before) <= _INVISIBLE for after, before in pairs)


def _without_profile(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":  # Pillow converts it by colour management alone
        lab = ImageCms.createProfile("LAB")
        return ImageCms.applyTransform(image, ImageCms.buildTransform(lab, _SRGB, "LAB", "RGB")) or image
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits, or in floating point, by the range that they make use of."""
    greys = image.convert("F") if image.mode != "I;16B" else image.convert("I").convert("F")
    _, brightest = greys.getextrema()
    assert isinstance(brightest, float)  # a pair a channel, where there are several
    whites = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
    whitest = brightest if math.isfinite(brightest) else whites[0]
    white = next((white for white in whites if brightest <= white), whitest)
    eight_bits = greys.point(lambda value: value * (255 / white) + 0.5).convert("L")
    eight_bits.info.pop("transparency", None)  # a level of the deeper scale
    return ImageChops.invert(eight_bits) if _counts_from_white(image) else eight_bits


def _counts_from_white(image: Image.Image) -> bool:
    """As scanners may have it in a TIFF. Pillow minds it up to 8 bits, and overlooks it in 16."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I;16") and tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO
