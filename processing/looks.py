"""What a picture looks like, in few bytes: to find look-alikes, to paint before it arrives, to set off around it.

Both hashes are made of the picture's lowest frequencies. In plain Python, without numpy: on pictures this small a
cosine transform takes a fraction of a millisecond, and numpy's import as long as rendering a photograph.
"""

import base64
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from operator import mul
from typing import Final, TypeAlias

from PIL import Image

from processing.variants import Looks

_Coefficients: TypeAlias = list[list[float]]

# The perceptual hash: so many frequencies each way, of a picture of so many grey pixels each way.
_HASH_SIDE: Final = 8
_GREYS_SIDE: Final = 32

# Pixels, of the longer side. ThumbHash keeps seven frequencies at most, and its authors allow up to 100 pixels.
_SMALL: Final = 32

_OPAQUE: Final = 255
_COLOURS: Final = 16  # of which the dominant one is found
_ALIKE: Final = 48  # between colours in sRGB, of 255 a channel, that look like shades of one


def looks(picture: Image.Image) -> Looks:
    """Of an upright picture in sRGB, RGB or RGBA, of any size; takes 2 to 3 ms where it is small already.

    Transparent pictures are hashed as they look on white, the colour of most pages.
    """
    small = _reduced(picture).convert("RGBA")
    return Looks(perceptual_hash(picture), base64.b64encode(thumbhash(small)).decode(), _dominant_colour(small))


def perceptual_hash(picture: Image.Image) -> str:
    """pHash of 64 bits in hex, by the discrete cosine transform (Zauner 2010): what `imagehash.phash` gives.

    Pictures of a single colour all have the same: 8000000000000000, or 0000000000000000 if they are black.
    """
    greys = _on_white(picture).convert("L").resize((_GREYS_SIDE, _GREYS_SIDE), Image.Resampling.LANCZOS)
    rows = _transform(greys.tobytes(), greys.size, _HASH_SIDE, _HASH_SIDE)
    frequencies = list(chain.from_iterable(rows))
    median = statistics.median(frequencies)
    return f"{int(''.join('01'[frequency > median] for frequency in frequencies), 2):016x}"


def thumbhash(picture: Image.Image) -> bytes:
    """ThumbHash (evanw.github.io/thumbhash) of an RGBA picture: 5 to 25 bytes.

    Luminance, yellow to blue, red to green and opacity as a mean and a few frequencies each, of 4 bits.
    """
    width, height = size = picture.size
    *colours, alpha = (band.tobytes() for band in picture.split())
    red, green, blue = (_on_mean(channel, alpha) for channel in colours)
    transparent = min(alpha) != _OPAQUE
    # What the reader learns the aspect from: how many frequencies of luminance there are each way.
    most = 5 if transparent else 7
    across, down = (max(1, _rounded(most * side / max(size))) for side in size)
    luminance = [(r + g + b) / 3 for r, g, b in zip(red, green, blue, strict=True)]
    yellow_blue = [(r + g) / 2 - b for r, g, b in zip(red, green, blue, strict=True)]
    red_green = [r - g for r, g in zip(red, green, strict=True)]

    l_mean, l_scale, l_steps = _channel(luminance, size, max(3, across), max(3, down))
    p_mean, p_scale, p_steps = _channel(yellow_blue, size, 3, 3)
    q_mean, q_scale, q_steps = _channel(red_green, size, 3, 3)
    a_mean, a_scale, a_steps = _channel(alpha, size, 5, 5)
    fields = [
        *((63 * l_mean, 6), (31.5 + 31.5 * p_mean, 6), (31.5 + 31.5 * q_mean, 6), (31 * l_scale, 5), (transparent, 1)),
        *((down if width > height else across, 3), (63 * p_scale, 6), (63 * q_scale, 6), (width > height, 1)),
        *([(15 * a_mean, 4), (15 * a_scale, 4)] if transparent else []),
        *((15 * step, 4) for step in chain(l_steps, p_steps, q_steps, a_steps if transparent else [])),
    ]
    return _packed(fields)


def _channel(values: Sequence[float], size: tuple[int, int], nx: int, ny: int) -> tuple[float, float, list[float]]:
    """The mean, the scale and, at that scale, the lower half of the frequencies of values from 0 (or -255) to 255."""
    rows = _transform(values, size, nx, ny)
    whole = _OPAQUE * size[0] * size[1]
    mean, *frequencies = (rows[y][x] / whole for y in range(ny) for x in range(nx) if x * ny < nx * (ny - y))
    scale = max(map(abs, frequencies))
    return mean, scale, [0.5 + 0.5 * frequency / scale if scale else 0.0 for frequency in frequencies]


def _packed(fields: Sequence[tuple[float, int]]) -> bytes:
    """Numbers of so many bits each, the first in the lowest."""
    packed = position = 0
    for value, bits in fields:
        packed |= _rounded(value) << position
        position += bits
    return packed.to_bytes(-(-position // 8), "little")


def _transform(values: Sequence[float], size: tuple[int, int], nx: int, ny: int) -> _Coefficients:
    """The lowest nx by ny frequencies (DCT-II, not normalised), in rows: first along each row, then down."""
    width, height = size
    lines = [values[start : start + width] for start in range(0, width * height, width)]
    across = [[sum(map(mul, line, wave)) for line in lines] for wave in _waves(width, nx)]
    # Rounded, so that what is equal compares equal: frequencies that the picture doesn't have come to about 1e-12.
    return [[round(sum(map(mul, column, wave)), 6) for column in across] for wave in _waves(height, ny)]


@lru_cache(maxsize=64)
def _waves(length: int, count: int) -> list[list[float]]:
    return [[math.cos(math.pi / length * k * (x + 0.5)) for x in range(length)] for k in range(count)]


def _on_mean(channel: bytes, alpha: bytes) -> list[float]:
    """The channel as it looks on its own mean, where transparent pixels don't count."""
    opacity = sum(alpha)
    mean = sum(map(mul, channel, alpha)) / opacity if opacity else 0.0
    return [(value * a + mean * (_OPAQUE - a)) / _OPAQUE for value, a in zip(channel, alpha, strict=True)]


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    page = Image.new("RGB", picture.size, "white")
    page.paste(picture, mask=picture)
    return page


def _reduced(picture: Image.Image) -> Image.Image:
    scale = min(1.0, _SMALL / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)


def _dominant_colour(picture: Image.Image) -> str:
    """The colour that most pixels nearly have, of those at least half opaque; white where there are none."""
    rgba = picture.tobytes()
    opaque = [rgba[i : i + 3] for i in range(0, len(rgba), 4) if rgba[i + 3] > _OPAQUE // 2] or [b"\xff\xff\xff"]
    pixels = Image.frombytes("RGB", (len(opaque), 1), b"".join(opaque))
    # Without Pillow's `kmeans`, which would refine them in as many rounds as it pleases.
    quantized = pixels.quantize(_COLOURS, Image.Quantize.MEDIANCUT).convert("RGB").tobytes()
    clusters = Counter(quantized[i : i + 3] for i in range(0, len(quantized), 3))
    # Median cut divides the largest first: those of nearly the same colour count together again.
    alike = max(
        ([other for other in clusters if math.dist(colour, other) <= _ALIKE] for colour in clusters),
        key=lambda group: sum(clusters[colour] for colour in group),
    )
    return f"#{max(alike, key=clusters.__getitem__).hex()}"


def _rounded(value: float) -> int:
    """To the nearest, halves up: Python's `round` takes halves to the even number."""
    return math.floor(value + 0.5)
