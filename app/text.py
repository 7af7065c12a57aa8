"""What people write, made fit to store: PostgreSQL refuses NUL, and a name is one line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from app.errors import BadInput

NAME_LENGTH: Final = 200
TITLE_LENGTH: Final = 300
PROSE_LENGTH: Final = 20_000
TAG_LENGTH: Final = 100
TAGS: Final = 50
MARKS: Final = 30  # the Stream-Safe Text Format (UAX #15, 13): the longest run in any language has 18
SLACK: Final = 4  # times the limit that is looked at more closely: white space folds, and marks are composed

EMAIL_LENGTH: Final = 254  # RFC 5321, 4.5.3.1.3
# Only what every address has: whether it is anybody's, a mail to it tells.
SURROGATE: Final = re.compile(r"[\ud800-\udfff]")  # half a character: JSON may have it, and UTF-8 has not
EMAIL: Final = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]+\.[^@\s\x00-\x1f\x7f]+")


def is_email(given: str) -> bool:
    # The length first: the pattern takes time by its square, and a megabyte of dots an hour.
    return len(given) <= EMAIL_LENGTH and EMAIL.fullmatch(given) is not None and storable(given)


def storable(value: str) -> bool:
    """Whether there can be such a text in the database at all: what is asked for by another is not found."""
    return "\x00" not in value and SURROGATE.search(value) is None


def _normalized(value: str, field: str) -> str:
    """NFC. It takes the square of a run of marks: those that no writing has are refused first."""
    run = 0
    for character in value:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MARKS:
            raise BadInput(f"More than {MARKS} marks on one letter.", field)
    return unicodedata.normalize("NFC", value)


def line(value: str, field: str, *, most: int = NAME_LENGTH) -> str:
    """One line of 1 to `most` characters, control characters refused, white space folded, in NFC."""
    if len(value) > SLACK * most:
        raise BadInput(f"This takes 1 to {most} characters.", field)
    folded = _normalized(" ".join(value.split()), field)
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in folded):
        raise BadInput("Control characters have no place here.", field)
    if not 1 <= len(folded) <= most:
        raise BadInput(f"This takes 1 to {most} characters.", field)
    return folded


def optional_line(value: str | None, field: str, *, most: int = NAME_LENGTH) -> str | None:
    return line(value, field, most=most) if value is not None and value.strip() else None


def prose(value: str | None, field: str, *, most: int = PROSE_LENGTH) -> str | None:
    """Lines of text, up to `most` characters in all; blank is None."""
    if value is None or not value.strip():
        return None
    if len(value) > most:
        raise BadInput(f"This takes up to {most} characters.", field)
    if any(unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\r\t" for character in value):
        raise BadInput("Control characters have no place here.", field)
    return _normalized(value, field)


def tags(values: Sequence[str] | None, field: str = "tags") -> list[str]:
    """Tags in the order given, each once regardless of case."""
    if len(values or ()) > SLACK * TAGS:
        raise BadInput(f"Up to {TAGS} tags.", field)
    lines = [line(value, field, most=TAG_LENGTH) for value in values or ()]
    first: dict[str, str] = {}
    for tag in lines:
        first.setdefault(tag.casefold(), tag)
    unique = list(first.values())
    if len(unique) > TAGS:
        raise BadInput(f"Up to {TAGS} tags.", field)
    return unique
