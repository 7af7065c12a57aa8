"""Look-alikes: media whose perceptual hashes differ in few of their 64 bits.

Near ones are found in an index of the hashes' quarters, of 16 bits each. Where two hashes differ in up to 7 bits, some
quarter differs in 1 at most: so the 4 quarters as they are, and with each of their bits flipped, are 68 keys, one of
which is among the 4 keys of whatever is that near (multi-index hashing: Norouzi, Punjani, Fleet 2012). Up to 11 bits
are 2 in some quarter, and 548 keys. What is farther away hardly looks alike, is asked for all the same, and is found by
comparing with everything: by then the keys would be thousands, and meet a good part of all media.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Final

from piccolo.columns.combination import WhereRaw
from piccolo.querystring import QueryString

from app import media
from app.access import Viewer, visible_media
from app.db import hydrate
from app.errors import BadInput
from app.piccolo_conf import DB
from app.tables import Media

BITS: Final = 64
QUARTERS: Final = 4
REACH: Final = 11  # bits, up to which the index is used

# At once: each takes half a millisecond of the database, up to REACH 4, and beyond it 15 among 100,000 media.
MOST_SEARCHES: Final = 200

# Hashes of pictures of one colour, which are all alike and not worth telling.
_FLAT: Final = ["0000000000000000", "8000000000000000"]

# To be filled in: the media to compare with, what comes before it, and the searches. Braces are Piccolo's.
_NEAREST: Final = """
    WITH wanted AS MATERIALIZED (
        SELECT number, id, ('x' || hash)::bit(64) AS hash, max_distance, first,
            ARRAY(SELECT key # flip FROM unnest(look_keys(hash)) AS key, unnest({}::integer[]) AS flip) AS keys
        FROM unnest({}::uuid[], {}::varchar[], {}::integer[], {}::integer[])
            WITH ORDINALITY AS wanted (id, hash, max_distance, first, number)
    )
    {}
    SELECT wanted.number, alike.id, alike.distance
    FROM wanted CROSS JOIN LATERAL (
        SELECT looks.id, looks.created_at, bit_count(looks.hash # wanted.hash) AS distance
        FROM {} AS looks
        WHERE bit_count(looks.hash # wanted.hash) <= wanted.max_distance AND looks.id <> wanted.id
        ORDER BY distance, looks.created_at DESC, looks.id DESC
        LIMIT wanted.first
    ) AS alike
    ORDER BY wanted.number, alike.distance, alike.created_at DESC, alike.id DESC
"""
_LOOKS: Final = "SELECT id, created_at, ('x' || perceptual_hash)::bit(64) AS hash FROM media WHERE {}"
_IN_INDEX: Final = f"({_LOOKS} AND look_keys(perceptual_hash) && wanted.keys)"
# Read once for all searches.
_ALL: Final = f", looks AS MATERIALIZED ({_LOOKS} AND perceptual_hash <> ALL({{}}::varchar[]))"


@dataclass(frozen=True, slots=True)
class Search:
    """For up to `first` look-alikes of a media, whose hash differs from its own in up to `max_distance` bits."""

    media: uuid.UUID
    hash: str
    max_distance: int
    first: int


@dataclass(frozen=True, slots=True)
class LookAlike:
    media: Media
    distance: int


def search(row: Media, *, max_distance: int | None, first: int | None, most: int) -> Search | None:
    """What to look for (within 6 bits and 10 of them unless given); nothing where a media has no looks of its own.

    Raises BadInput for what is out of bounds.
    """
    distance = 6 if max_distance is None else max_distance
    size = 10 if first is None else first
    if not 0 <= distance <= BITS:
        raise BadInput(f"`maxDistance` is from 0 to {BITS}.", "max_distance")
    if not 0 <= size <= most:
        raise BadInput(f"`first` is from 0 to {most}.", "first")
    perceptual_hash: str | None = row.perceptual_hash
    if perceptual_hash is None or perceptual_hash in _FLAT:
        return None
    return Search(row.id, perceptual_hash, distance, size)


async def find(viewer: Viewer | None, searches: Sequence[Search]) -> dict[Search, list[LookAlike]]:
    """What each finds of all that lists show the viewer: nearest first, of those as near the newest.

    Two statements, however many searches, or three. Raises BadInput when they are too many.
    """
    if len(searches) > MOST_SEARCHES:
        raise BadInput(f"Look-alikes are found for up to {MOST_SEARCHES} media at once: ask for fewer.", "first")
    found = [
        *await _nearest(viewer, [each for each in searches if each.max_distance <= REACH]),
        *await _nearest(viewer, [each for each in searches if each.max_distance > REACH]),
    ]
    rows = {row.id: row for row in await _load(viewer, {media_id for _, media_id, _ in found})}
    alike: dict[Search, list[LookAlike]] = {each: [] for each in searches}
    for each, media_id, distance in found:
        if media_id in rows:  # else it went in between
            alike[each].append(LookAlike(rows[media_id], distance))
    return alike


async def _nearest(viewer: Viewer | None, searches: Sequence[Search]) -> list[tuple[Search, uuid.UUID, int]]:
    """Searches that all are within REACH, or all beyond it, and what they find."""
    if not searches:
        return []
    visible = (visible_media(viewer) & media.EVERYTHING.where()).querystring
    farthest = max(each.max_distance for each in searches)
    near = farthest <= REACH
    rows: list[dict[str, Any]] = await DB.run_querystring(
        QueryString(
            _NEAREST,
            _flips(farthest // QUARTERS) if near else [],
            [each.media for each in searches],
            [each.hash for each in searches],
            [each.max_distance for each in searches],
            [each.first for each in searches],
            QueryString("") if near else QueryString(_ALL, visible, _FLAT),
            QueryString(_IN_INDEX, visible) if near else QueryString("looks"),
        )
    )
    return [(searches[row["number"] - 1], row["id"], row["distance"]) for row in rows]


@cache
def _flips(bits: int) -> list[int]:
    """All numbers of 16 bits in which up to so many are set: what to flip in a quarter."""
    chosen = (each for count in range(bits + 1) for each in combinations(range(BITS // QUARTERS), count))
    return [sum(1 << bit for bit in each) for each in chosen]


async def _load(viewer: Viewer | None, ids: set[uuid.UUID]) -> list[Media]:
    # One parameter, where `is_in` has one for each: there may be more of them than a statement takes.
    rows = await Media.select().where(WhereRaw("media.id = ANY({}::uuid[])", list(ids)), visible_media(viewer))
    return [hydrate(Media, row) for row in rows]
