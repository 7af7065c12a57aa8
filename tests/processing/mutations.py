"""Valid files of every type, changed at random."""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from processing import kinds
from processing.kinds import FileType
from tests.processing.samples import TYPES, sample

_MOST_CHANGES: Final = 4
_LONGEST_SLICE: Final = 200  # bytes
# What a length or an offset may not be: nothing, the largest, the smallest, just beyond.
_EXTREMES: Final = (0, 1, 2**7, 2**15, 2**16, 2**31, 2**32 - 8, 2**63, -1, -2)
_WIDTHS: Final = (1, 2, 3, 4, 8)  # bytes
_ORDERS: Final[tuple[Literal["big", "little"], ...]] = ("big", "little")


@dataclass(frozen=True, slots=True)
class Mutation:
    """The same for the same number, always."""

    number: int
    type: FileType
    data: bytes


def mutation(number: int) -> Mutation:
    dice = random.Random(number)
    type_ = TYPES[number % len(TYPES)]
    data = bytearray(sample(type_))
    for _ in range(dice.randint(1, _MOST_CHANGES)):
        dice.choice(_CHANGES)(data, dice)
    if type_ == kinds.PNG and dice.random() < 0.5:
        _make_checksums_right(data)
    return Mutation(number, type_, bytes(data))


def _flip(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 2, 8, 32))):
        data[_place(data, dice)] ^= 1 << dice.randrange(8)


def _exaggerate(data: bytearray, dice: random.Random) -> None:
    """Writes an extreme number where a length, a count or an offset may be."""
    width, at = dice.choice(_WIDTHS), _place(data, dice)
    value = dice.choice(_EXTREMES) % 256**width
    data[at : at + width] = value.to_bytes(width, dice.choice(_ORDERS))


def _cut_off(data: bytearray, dice: random.Random) -> None:
    del data[_place(data, dice) + 1 :]


def _cut_out(data: bytearray, dice: random.Random) -> None:
    at = _place(data, dice)
    del data[at : min(at + dice.randint(1, _LONGEST_SLICE), len(data) - 1)]


def _repeat(data: bytearray, dice: random.Random) -> None:
    at = _place(data, dice)
    data[at:at] = data[at : at + dice.randint(1, _LONGEST_SLICE)] * dice.choice((1, 2, 100))


def _splice(data: bytearray, dice: random.Random) -> None:
    """Overwrites a part by one of a file of any type, this one's too."""
    other = sample(dice.choice(TYPES))
    start, at, length = dice.randrange(len(other)), _place(data, dice), dice.randint(1, _LONGEST_SLICE)
    data[at : at + length] = other[start : start + length]


def _make_checksums_right(png: bytearray) -> None:
    """Else hardly any change would get past them."""
    at = 8
    while (end := at + 8 + int.from_bytes(png[at : at + 4])) + 4 <= len(png):
        png[end : end + 4] = zlib.crc32(png[at + 4 : end]).to_bytes(4)
        at = end + 4


def _place(data: bytearray, dice: random.Random) -> int:
    """Anywhere, but as often within the first bytes: headers are shorter than what they speak of."""
    return dice.randrange(min(len(data), dice.choice((64, 512, len(data)))))


_CHANGES: Final[Sequence[Callable[[bytearray, random.Random], None]]] = (
    *(_flip, _exaggerate, _exaggerate, _cut_off, _cut_out, _repeat, _splice),
)
