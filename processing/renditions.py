"""Pictures made smaller: reduced step by step, cropped, written as WebP, and told as soon as each file is complete."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from PIL import Image, WebPImagePlugin  # noqa: F401  (the plugin registers itself)

from processing.looks import looks
from processing.sizes import Size, scaled
from processing.variants import Looks, Progress, Rendered, Tell, VariantSpec, variant_path

Box = tuple[float, float, float, float]

FOR_EVER: Final = 0  # in WebP's count of how often an animation plays

# Where a WebP of several frames says what it has, and that transparency is among it (RFC 9649, 2.7).
_VP8X: Final = slice(12, 16)
_VP8X_FLAGS: Final = 20
_ALPHA: Final = 0b10000


@dataclass(frozen=True, slots=True)
class Frames:
    """An animation, or a still, which has one frame: all of one size, each shown for some milliseconds."""

    pictures: Sequence[Image.Image]
    durations: Sequence[int]
    plays: int = FOR_EVER


def render(picture: Image.Image, size: Size, specs: Sequence[VariantSpec], into: Path, tell: Tell) -> Looks:
    """Makes a WebP file of each spec in the folder `into`, without metadata, the largest first.

    `picture` is upright, in sRGB (RGB or RGBA), and as large as the largest variant at least; `size` is what the
    original has as displayed, and no variant becomes larger. Raises OSError when `into` can't be written to.
    """
    return render_frames(Frames([picture], [0]), size, specs, into, tell)


def render_frames(frames: Frames, size: Size, specs: Sequence[VariantSpec], into: Path, tell: Tell) -> Looks:
    """As `render`, of all frames; tells progress of an animation. The looks are those of the first frame."""
    current = frames.pictures
    encoded: dict[tuple[Size, bool, int, int], bytes] = {}
    for done, spec in enumerate(sorted(specs, key=lambda spec: scale(spec, size), reverse=True), start=1):
        frame = scaled(size, scale(spec, size))
        if spec.crop:
            pictures: Sequence[Image.Image] = [_cropped(each, frame, spec) for each in current]
        else:
            pictures = current = [shrunk(each, frame) for each in current]
        # Of an original that is smaller than several variants, these are the same.
        key = (pictures[0].size, spec.crop, spec.quality, spec.effort)
        if key not in encoded:
            encoded[key] = _webp(replace(frames, pictures=pictures), spec.quality, spec.effort)
        tell(_written(encoded[key], spec, pictures[0].size, into))
        if len(pictures) > 1:
            tell(Progress(done / len(specs)))
    return looks(current[0])


def animate(frames: Iterable[tuple[Image.Image, int]], path: Path, *, quality: int, effort: int) -> None:
    """Writes frames, each with its duration in milliseconds, as an animated WebP that plays for ever."""
    pictures, durations = zip(*frames, strict=True)
    path.write_bytes(_webp(Frames(pictures, durations), quality, effort))


def scale(spec: VariantSpec, size: Size) -> float:
    """By how much a picture of `size` is reduced for a spec: to fit within it, or to cover it where it is cropped."""
    ratios = (spec.width / size[0], spec.height / size[1])
    return min(1.0, max(ratios) if spec.crop else min(ratios))


def shrunk(image: Image.Image, size: Size, box: Box | None = None) -> Image.Image:
    """The picture, or what is within `box`, at a size. The same object where that changes nothing."""
    if size == image.size and box in (None, (0, 0, *size)):
        return image
    # What it is judged by (tests/bench/rendering.py) is likeness to LANCZOS from the full picture. BICUBIC comes near
    # enough where more than two pixels become one, and takes two thirds of the time; averaging blocks first does above
    # four. Below, they cost 0.01 and 0.03 of SSIM.
    left, _, right, _ = box or (0, 0, *image.size)
    resampling = Image.Resampling.LANCZOS if right - left <= 2 * size[0] else Image.Resampling.BICUBIC
    return image.resize(size, resampling, box, reducing_gap=2.0)


def _cropped(image: Image.Image, frame: Size, spec: VariantSpec) -> Image.Image:
    """The middle of `image`, in the spec's aspect, as large as it is where the whole picture has the size `frame`."""
    width, height = _filling(image.size, spec)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    across, down = _filling(frame, spec)
    size = min(spec.width, max(1, round(across))), min(spec.height, max(1, round(down)))
    return shrunk(image, size, (left, top, left + width, top + height))


def _filling(size: Size, spec: VariantSpec) -> tuple[float, float]:
    """Sides of the largest rectangle in the spec's aspect that lies within `size`."""
    aspect = spec.width / spec.height
    return min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)


def _webp(frames: Frames, quality: int, effort: int) -> bytes:
    """A still of one frame, an animation of several. No metadata, which Pillow's writer takes from arguments alone."""
    file = io.BytesIO()
    first, *rest = frames.pictures
    if not rest:
        first.save(file, "WEBP", quality=quality, method=effort)
        return file.getvalue()
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=list(frames.durations),
        loop=frames.plays,
        background=(0, 0, 0, 0),  # not what the original names: nobody shows it
        quality=quality,
        method=effort,
    )
    animation = bytearray(file.getvalue())
    if animation[_VP8X] == b"VP8X" and any(picture.mode == "RGBA" for picture in frames.pictures):
        # libwebp forgets to say so where every frame is an opaque rectangle on an empty canvas, and decoders go by it.
        animation[_VP8X_FLAGS] |= _ALPHA
    return bytes(animation)


def _written(data: bytes, spec: VariantSpec, size: Size, into: Path) -> Rendered:
    path = variant_path(into, spec.name, spec.digest, "image/webp")
    path.write_bytes(data)
    return Rendered(spec.name, spec.digest, path, "image/webp", *size, len(data))
