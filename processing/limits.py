"""What one file may cost."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the processing of one file.

    `seconds` is wall time of one step (analyse or render). `memory_bytes` bounds a child's address space, interpreter
    and libraries (about 50 MB) included. `pixels` is width times height as stored.
    """

    seconds: float = 60.0
    # Measured for 100 megapixels: JPEG 0.25 GB, transparency 0.8, 16 bits 1.1, and 1.6 for WebP, whose decoder keeps
    # two canvases.
    memory_bytes: int = 2048 * MIB
    # Twice what the largest phone cameras deliver in ordinary use, and above every 35 mm camera's.
    pixels: int = 100_000_000
