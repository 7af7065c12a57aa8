"""What people and programs write into files, made safe to store."""

import re
from typing import Final

_MAX_TEXT: Final = 1000  # characters: the longest are lyrics, and summaries of documents


def clean(text: str) -> str:
    """Without control characters (PostgreSQL's jsonb refuses NUL) and lone surrogates, trimmed and bounded."""
    kept = text[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", kept).strip()


def place(written: str) -> tuple[float, float] | None:
    """(Latitude, longitude) in degrees of what ISO 6709 writes +48.2082+016.3738+171/; None where it is impossible."""
    parts = re.match(r"([+-]\d\d(?:\.\d+)?)([+-]\d\d\d(?:\.\d+)?)", written)
    if parts is None:
        return None
    latitude, longitude = float(parts[1]), float(parts[2])
    # 0/0 lies in the Gulf of Guinea, and is what a receiver without a fix writes.
    if abs(latitude) > 90 or abs(longitude) > 180 or (latitude == 0 and longitude == 0):
        return None
    return latitude, longitude
