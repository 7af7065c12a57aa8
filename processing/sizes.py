"""Sizes of pictures: width and height, in pixels."""

from __future__ import annotations

from typing import TypeAlias

from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits

Size: TypeAlias = tuple[int, int]


def check_pixels(what: str, size: Size, limits: Limits) -> None:
    """Raises ProcessingFailed TOO_MANY_PIXELS."""
    width, height = size
    if width * height > limits.pixels:
        raise ProcessingFailed(
            FailureCode.TOO_MANY_PIXELS,
            f"{what} has {width} x {height} pixels; at most {limits.pixels:,} pixels can be processed.",
        )


def scaled(size: Size, by: float) -> Size:
    return max(1, round(size[0] * by)), max(1, round(size[1] * by))


def within(size: Size, most: Size) -> Size:
    """As large as it may be, in the same aspect, and no larger than it is."""
    return scaled(size, min(1.0, most[0] / size[0], most[1] / size[1]))
