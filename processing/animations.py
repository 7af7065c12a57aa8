"""Pictures that move: their frames as browsers show them."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from PIL import Image, ImageFile

from processing import gif
from processing.limits import Limits
from processing.renditions import FOR_EVER

# Formats whose further pictures are frames. In a TIFF they are pages, in a JPEG the other eye's view or a depth map.
_FORMATS: Final = frozenset({"PNG", "WEBP", "AVIF"})

# Of all frames together, and of their variants 50 MB and ten seconds at the most: noise takes 0.24 s a megapixel, what
# people keep 0.05 to 0.15.
_MOST_PIXELS: Final = 40_000_000

# Nobody means a frame to be that short: browsers show it for a tenth of a second, and so did what it was made for.
_TOO_SHORT: Final = 10  # milliseconds
_INSTEAD: Final = 100
_LONGEST: Final = 2**24 - 1  # WebP has 24 bits for it
_MOST_PLAYS: Final = 2**16 - 1


def is_animated(image: ImageFile.ImageFile) -> bool:
    """Whether it may be: many a GIF has one frame, and for all of them `frames` knows better how it looks."""
    return image.format == "GIF" or (image.format in _FORMATS and bool(getattr(image, "is_animated", False)))


def frames(image: ImageFile.ImageFile, limits: Limits) -> Iterator[tuple[Image.Image, int]]:
    """Each frame as it is shown, and its duration in milliseconds; valid until the next is asked for.

    No more than `limits.frames`, and together no more pixels than one picture or an animation may have, but always the
    first.
    """
    pixels = min(limits.pixels, _MOST_PIXELS)
    most = max(1, min(limits.frames, pixels // (image.width * image.height)))
    found = _of_gif(image, limits) if image.format == "GIF" else _of_others(image)
    for frame, duration in islice(found, most):
        yield frame, min(duration, _LONGEST) if duration > _TOO_SHORT else _INSTEAD


def _of_gif(image: ImageFile.ImageFile, limits: Limits) -> Iterator[tuple[Image.Image, int]]:
    assert image.fp is not None  # it is open still
    return gif.frames(image.fp, image.size, limits.pixels)


def _of_others(image: ImageFile.ImageFile) -> Iterator[tuple[Image.Image, int]]:
    # A PNG may have a picture besides, for readers who know of no animation.
    first = 1 if image.info.get("default_image") else 0
    for index in range(first, getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()
        yield image, round(image.info.get("duration", 0))


def plays(image: ImageFile.ImageFile) -> int:
    """How often an animation is to be played."""
    times = image.info.get("loop", 1 if image.format == "GIF" else FOR_EVER)
    if image.format == "GIF" and "loop" in image.info and times != FOR_EVER:
        times += 1  # it counts how often it starts over
    return min(int(times), _MOST_PLAYS)
