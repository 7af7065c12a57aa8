"""What one file may cost."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on the processing of one file.

    `seconds` is wall time in all, `silent_seconds` wall time without a sign of progress. `memory_bytes` bounds a
    child's address space, interpreter and libraries included. `pixels` is width times height as stored, of one frame.
    `frames` is how many of an animation are kept, `pages` and `streams` how many a file may have, `output_bytes` the
    size of the largest file that may be made.
    """

    seconds: float = 60.0
    silent_seconds: float = 60.0
    # Measured for 100 megapixels: JPEG 0.25 GB, transparency 0.8, 16 bits 1.1, and 1.6 for WebP, whose decoder keeps
    # two canvases.
    memory_bytes: int = 2048 * MIB
    # Twice what the largest phone cameras deliver in ordinary use, and above every 35 mm camera's.
    pixels: int = 100_000_000
    frames: int = 100
    pages: int = 10_000
    streams: int = 32
    output_bytes: int = 256 * MIB
