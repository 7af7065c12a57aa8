"""How alike two pictures look: structural similarity (Wang, Bovik, Sheikh, Simoncelli: IEEE TIP 13, 4, 2004)."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane: TypeAlias = NDArray[np.float32]

# The paper's own numbers: a Gaussian window of 11 x 11 pixels and 1.5 of deviation; (0.01 L)² and (0.03 L)², L = 255.
_AWAY: Final = np.arange(-5, 6, dtype=np.float32)
_BELL: Final = np.exp(-(_AWAY**2) / (2 * np.float32(1.5) ** 2))
_WINDOW: Final = (_BELL / _BELL.sum()).tolist()
_C1: Final = (0.01 * 255) ** 2
_C2: Final = (0.03 * 255) ** 2


def ssim(one: Image.Image, other: Image.Image) -> float:
    """Of the luma of two pictures of the same size, 11 x 11 pixels at least: 1 for the same, less for less alike."""
    assert one.size == other.size, f"{one.size} is not {other.size}"
    x, y = _luma(one), _luma(other)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x * mean_x
    variance_y = _blurred(y * y) - mean_y * mean_y
    covariance = _blurred(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    most = (mean_x * mean_x + mean_y * mean_y + _C1) * (variance_x + variance_y + _C2)
    return float(np.mean(likeness / most))


def _luma(picture: Image.Image) -> Plane:
    return np.asarray(picture.convert("L"), dtype=np.float32)


def _blurred(plane: Plane) -> Plane:
    """Where the window lies wholly within the plane: along one axis, then the other."""
    for _ in plane.shape:
        length = len(plane) - len(_WINDOW) + 1
        blurred = np.zeros_like(plane[:length])
        for at, weight in enumerate(_WINDOW):
            blurred += weight * plane[at : at + length]
        plane = blurred.T
    return plane
