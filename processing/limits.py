"""What one file may cost."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the processing of one file.

    `seconds` is wall time of one step (analyse or render). `memory_bytes` bounds a child's address space, its
    interpreter and libraries (about 200 MB) included. `pixels` is width times height as stored.
    """

    seconds: float = 60.0
    # Pillow keeps 4 bytes a pixel, and scaling pictures with transparency needs a second copy: 100 megapixels
    # take 800 MB at their worst.
    memory_bytes: int = 1536 * MIB
    # Twice what the largest phone cameras deliver in ordinary use, and above every 35 mm camera's.
    pixels: int = 100_000_000
