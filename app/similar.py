"""Look-alikes: media whose perceptual hashes differ in few of their 64 bits.

Near ones are found in an index of the hashes' quarters, of 16 bits each. Where two hashes differ in up to 7 bits, some
quarter differs in 1 at most: so the 4 quarters as they are, and with each of their bits flipped, are 68 keys, one of
which is among the 4 keys of whatever is that near (multi-index hashing: Norouzi, Punjani, Fleet 2012). Up to 11 bits
are 2 in some quarter, and 548 keys. What is farther away hardly looks alike, is asked for all the same, and is found by
comparing with everything: by then the keys would be thousands, and meet a good part of all media.

Searches cost an operation by what they cost the database. Where thousands look alike (blank pages, say) a search ends
with the first MOST_CANDIDATES that the index gives, those of the very same hash before others: so nothing farther is
ever told in place of an equal, but which of that many it tells, and that they are the newest, is left to chance.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Final

import asyncpg
from piccolo.querystring import QueryString

from app import media
from app.access import Viewer, visible_media
from app.errors import BadInput, RateLimited
from app.piccolo_conf import DB
from app.tables import Media

BITS: Final = 64
QUARTERS: Final = 4
NEAR: Final = 7  # bits, up to which 1 in some quarter is enough
REACH: Final = 11  # bits, up to which the index is used

# Up to how many bits, and what a search costs: the unit takes 1 to 4 ms of the database, among 100,000 media.
COSTS: Final = {NEAR: 1, REACH: 5, BITS: 40}
MOST_COST: Final = 200  # of an operation
MOST_CANDIDATES: Final = 1_000  # of a search by the index; as many as the longest page
STATEMENT_TIMEOUT_MS: Final = 2_000  # where not even that holds: tens of thousands that look alike

# Hashes of pictures of one colour, which are all alike and not worth telling.
_FLAT: Final = ["0000000000000000", "8000000000000000"]

# To be filled in: the media to compare with, what comes before it, and the searches. Braces are Piccolo's.
_NEAREST: Final = """
    WITH wanted AS MATERIALIZED (
        SELECT number, id, ('x' || hash)::bit(64) AS hash, max_distance, first,
            look_keys(hash) AS own,
            ARRAY(SELECT key # flip FROM unnest(look_keys(hash)) AS key, unnest({}::integer[]) AS flip) AS keys
        FROM unnest({}::uuid[], {}::varchar[], {}::integer[], {}::integer[])
            WITH ORDINALITY AS wanted (id, hash, max_distance, first, number)
    )
    {}
    SELECT wanted.number, alike.id, alike.distance
    FROM wanted CROSS JOIN LATERAL (
        SELECT looks.id, looks.created_at, looks.distance FROM ({}) AS looks
        ORDER BY looks.distance, looks.created_at DESC, looks.id DESC
        LIMIT wanted.first
    ) AS alike
    ORDER BY wanted.number, alike.distance, alike.created_at DESC, alike.id DESC
"""
_LOOKS: Final = "SELECT id, created_at, ('x' || perceptual_hash)::bit(64) AS hash FROM media WHERE {}"
_DISTANCE: Final = "bit_count(looks.hash # wanted.hash)"
# One after the other: what comes second is not looked for where the first are as many as may be.
_IN_INDEX: Final = f"""
    SELECT id, created_at, 0 AS distance
    FROM ({_LOOKS} AND look_keys(perceptual_hash) @> wanted.own) AS looks
    WHERE id <> wanted.id
    UNION ALL
    SELECT id, created_at, {_DISTANCE}
    FROM ({_LOOKS} AND look_keys(perceptual_hash) && wanted.keys) AS looks
    WHERE id <> wanted.id AND {_DISTANCE} BETWEEN 1 AND wanted.max_distance
    LIMIT {MOST_CANDIDATES}
"""  # noqa: S608 - put together from constants
_AMONG_ALL: Final = f"""
    SELECT id, created_at, {_DISTANCE} AS distance FROM looks
    WHERE id <> wanted.id AND {_DISTANCE} <= wanted.max_distance
"""  # noqa: S608 - put together from constants
# Read once for all searches.
_ALL: Final = f", looks AS MATERIALIZED ({_LOOKS} AND perceptual_hash <> ALL({{}}::varchar[]))"


@dataclass(frozen=True, slots=True)
class Search:
    """For up to `first` look-alikes of a media, whose hash differs from its own in up to `max_distance` bits."""

    media: uuid.UUID
    hash: str
    max_distance: int
    first: int


class SearchBudget:
    """What may still be looked for in one operation: levels of it ask one after the other, so no statement tells."""

    def __init__(self) -> None:
        self._left = MOST_COST

    def spend(self, search: Search) -> None:
        """Raises BadInput, and spends nothing, when it costs more than is left."""
        cost = COSTS[_class(search)]
        if cost > self._left:
            near, farther, far = (MOST_COST // each for each in COSTS.values())
            raise BadInput(
                f"Look-alikes are found for up to {near} media at once, {farther} beyond {NEAR} bits, {far} beyond "
                f"{REACH}: ask for fewer.",
                "first",
            )
        self._left -= cost


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

    Two statements, however many searches, up to four where some are farther. Raises RateLimited when they take long.
    """
    try:
        async with DB.transaction() as transaction:
            await transaction.connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")
            found = [
                each
                for reach in COSTS
                for each in await _nearest(viewer, reach, [each for each in searches if _class(each) == reach])
            ]
    except asyncpg.QueryCanceledError as error:
        message = "Too much looks alike to be told that fast: ask for fewer, or for nearer ones."
        raise RateLimited(STATEMENT_TIMEOUT_MS / 1000, message) from error
    rows = {row.id: row for row in await media.load(viewer, [*{media_id for _, media_id, _ in found}])}
    alike: dict[Search, list[LookAlike]] = {each: [] for each in searches}
    for each, media_id, distance in found:
        if media_id in rows:  # else it went in between
            alike[each].append(LookAlike(rows[media_id], distance))
    return alike


def _class(search: Search) -> int:
    """The least of the reaches that have their costs."""
    return next(reach for reach in COSTS if search.max_distance <= reach)


async def _nearest(
    viewer: Viewer | None, reach: int, searches: Sequence[Search]
) -> list[tuple[Search, uuid.UUID, int]]:
    """Searches of one class, and what they find."""
    if not searches:
        return []
    visible = (visible_media(viewer) & media.EVERYTHING.where()).querystring
    indexed = reach <= REACH
    rows: list[dict[str, Any]] = await DB.run_querystring(
        QueryString(
            _NEAREST,
            _flips(reach // QUARTERS) if indexed else [],
            [each.media for each in searches],
            [each.hash for each in searches],
            [each.max_distance for each in searches],
            [each.first for each in searches],
            QueryString("") if indexed else QueryString(_ALL, visible, _FLAT),
            QueryString(_IN_INDEX, visible, visible) if indexed else QueryString(_AMONG_ALL),
        )
    )
    return [(searches[row["number"] - 1], row["id"], row["distance"]) for row in rows]


@cache
def _flips(bits: int) -> list[int]:
    """All numbers of 16 bits in which up to so many are set: what to flip in a quarter."""
    chosen = (each for count in range(bits + 1) for each in combinations(range(BITS // QUARTERS), count))
    return [sum(1 << bit for bit in each) for each in chosen]
