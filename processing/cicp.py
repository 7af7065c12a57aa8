"""Colour spaces that a file names by number (ITU-T H.273, "coding-independent code points"), as ICC profiles.

HEIF and AVIF may say so little of their colours, in a box `nclx`, and leave an ICC profile out.
"""

import functools
import math
import struct
from collections.abc import Callable
from typing import Final

from PIL import ImageCms

# Colorants in XYZ under D50, adapted by Bradford's transform, as ICC.1:2022 wants them. sRGB's own are 1.
_COLORANTS: Final = {
    9: ((0.6735, 0.2790, -0.0019), (0.1657, 0.6753, 0.0300), (0.1250, 0.0456, 0.7969)),  # BT.2020
    12: ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)),  # Display P3
}
_PQ: Final = 16  # SMPTE ST 2084
_HLG: Final = 18  # ARIB STD-B67

# BT.2408: what is white in print has this luminance in a film of high dynamic range, in cd/m².
_WHITE: Final = 203
_HLG_PEAK: Final = 1000  # cd/m², for which its system gamma is 1.2
# Up to here, of white, luminances stay as they are; all that are above share the rest.
_KNEE: Final = 0.7
_CURVE_POINTS: Final = 1024


@functools.cache
def profile(primaries: int, transfer: int) -> bytes | None:
    """A profile for RGB of these code points, or None where it would be sRGB's, or they aren't known here.

    Of curves it knows two, those of high dynamic range, whose highlights it compresses. All others, BT.709's among
    them, stand for sRGB's, as browsers have it.
    """
    curve = _CURVES.get(transfer)
    if primaries not in _COLORANTS and curve is None:
        return None
    result = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # The tag table (ICC.1:2022, 7.3): a count at 128, then signature, offset and size of each.
    entries = {bytes(result[at : at + 4]): at for at in range(132, 132 + 12 * result[131], 12)}
    for tag, colorant in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _COLORANTS.get(primaries, ()), strict=False):
        (offset,) = struct.unpack_from(">I", result, entries[tag] + 4)
        struct.pack_into(">3i", result, offset + 8, *(round(value * 65536) for value in colorant))
    if curve is not None:
        sampled = _sampled(curve)
        for tag in (b"rTRC", b"gTRC", b"bTRC"):
            struct.pack_into(">II", result, entries[tag] + 4, len(result), len(sampled))
        result += sampled
        struct.pack_into(">I", result, 0, len(result))
    return bytes(result)


def _sampled(curve: Callable[[float], float]) -> bytes:
    """As a `curv` element, of luminances in cd/m² that are brought into the range from black to white."""
    points = (_compressed(curve(index / (_CURVE_POINTS - 1)) / _WHITE) for index in range(_CURVE_POINTS))
    return struct.pack(f">4sII{_CURVE_POINTS}H", b"curv", 0, _CURVE_POINTS, *(round(65535 * each) for each in points))


def _compressed(luminance: float) -> float:
    """Of white: highlights approach it, and never reach it."""
    if luminance <= _KNEE:
        return luminance
    room = 1 - _KNEE
    return 1 - room * math.exp((_KNEE - luminance) / room)


def _pq(signal: float) -> float:
    """Luminance in cd/m² (BT.2100, table 4)."""
    power = signal ** (32 / 2523)
    return float(10_000 * (max(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610))


def _hlg(signal: float) -> float:
    """Luminance in cd/m² on a display of _HLG_PEAK (BT.2100, table 5), channel by channel."""
    scene = signal**2 / 3 if signal <= 0.5 else (math.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return float(_HLG_PEAK * scene**1.2)


_CURVES: Final[dict[int, Callable[[float], float]]] = {_PQ: _pq, _HLG: _hlg}
