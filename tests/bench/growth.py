"""What a read of a list, or of events, costs as media grow from a thousand to a million: the same.

The sizes are three databases of one server, read in turns: whatever else the machine does meets all of them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg

from app import entities, events, media
from app.access import Viewer
from app.embedded import EmbeddedPostgres
from app.events import Cursor
from app.media import MediaFilter
from app.piccolo_conf import DB
from app.postmaster import address
from app.tables import Entity, EntityKind, MediaStatus
from processing.kinds import MediaKind
from tests.app.in_process import migrated, somebody
from tests.bench.report import Figure, milliseconds
from tests.postgres import CARELESS

SIZES: Final = (1_000, 100_000, 1_000_000)
ROUNDS: Final = 60  # one read of each in turn, behind one that is not counted
FIRST: Final = 30
RARE: Final = 100  # of which there are so many, however many media there are
EVENTS_OF_ONE: Final = 3  # uploaded, processing, ready
MOST_TIMES: Final = 1.5
# No index has these in a list's order: they are found first, then sorted.
SORTED: Final = frozenset({"a tag", "a rare tag", "taken in some hours"})

# Nine of ten are Ada's, a third is at her person, the public ones are Bob's, who has brought some to that person; Carl
# has few of his own. Oldest first, as they come.
GROW: Final = f"""
    INSERT INTO media (id, public_id, owner, host, entity, slot, kind, status, failure_code, filename, content_type,
        size_bytes, sha256, storage_backend, storage_key, tags, alt_text, sort_order, is_primary, is_public, moderation,
        source, processing_attempts, created_at, updated_at, taken_at)
    SELECT gen_random_uuid(), 'MED-' || n,
        CASE WHEN is_rare AND n % 2 = 1 THEN $3::uuid WHEN n % 10 = 0 THEN $2::uuid ELSE $1::uuid END,
        CASE WHEN n % 30 = 0 THEN $1::uuid END,
        CASE WHEN n % 3 = 0 THEN $4::uuid END, CASE WHEN n % 3 = 0 THEN 'photos' END,
        CASE WHEN is_rare THEN 'DOCUMENT' WHEN n % 10 = 5 THEN 'VIDEO' ELSE 'IMAGE' END,
        CASE WHEN is_rare THEN 'FAILED' ELSE 'READY' END, CASE WHEN is_rare THEN 'CORRUPT' END,
        'a.jpg', 'image/jpeg', 1, md5(n::text) || md5(n::text), 'local', 'growth/' || n,
        CASE WHEN is_rare THEN ARRAY['rare'] WHEN n % 10 < 5 THEN ARRAY['sea'] ELSE '{{}}' END,
        CASE WHEN NOT is_rare THEN 'A boat' END, n % 7, false, n % 10 = 0, 'APPROVED', 'UPLOAD', 0,
        now() - ($5::int - n) * interval '1 minute', now(), now() - (n * 7919::bigint % $5) * interval '1 minute'
    FROM (
        SELECT n, n % ($5::int / {RARE}) IN (1, 2) AND n % 10 <> 0 AND n % 3 <> 0 AS is_rare
        FROM generate_series(1, $5::int) AS n
    ) AS counted ORDER BY n"""
# A new server has had few transactions, below whose ids these must be: so many events share one.
TELL: Final = f"""
    INSERT INTO event (kind, media, entity, owner, entity_owner, is_public, data, occurred_at, xid)
    SELECT 'UPDATED', media.id, media.entity, media.owner,
        coalesce(media.host, media.owner), media.is_public, '{{}}', media.created_at,
        (3 + 300 * row_number() OVER (ORDER BY media.created_at) / ($1::int * {EVENTS_OF_ONE} + 1))::text::xid8
    FROM media CROSS JOIN generate_series(1, {EVENTS_OF_ONE}) ORDER BY media.created_at"""
INDEXES: Final = """
    SELECT indexname AS name, indexdef AS definition FROM pg_indexes
    WHERE tablename IN ('media', 'event') AND indexname NOT IN (SELECT conname FROM pg_constraint)"""
NEAR_THE_END: Final = """
    SELECT xid::text::bigint AS xid, id FROM event ORDER BY event.xid DESC, event.id DESC LIMIT 1 OFFSET 150"""

PAGE: Final[dict[str, Any]] = {
    "which": media.EVERYTHING,
    "order": media.NEWEST,
    "first": FIRST,
    "after": None,
    "most": FIRST,
}

Read: TypeAlias = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class World:
    """A database of so many media, and what reads it."""

    pool: asyncpg.Pool
    reads: dict[str, Read]


async def measure(folder: Path) -> list[Figure]:
    taken: dict[str, list[list[float]]] = {}
    async with AsyncExitStack() as stack:
        stack.enter_context(EmbeddedPostgres(folder, settings=CARELESS))
        worlds = [await stack.enter_async_context(_world(address(folder), size)) for size in SIZES]
        for _, name in product(range(ROUNDS), worlds[0].reads):
            times = taken.setdefault(name, [[] for _ in SIZES])
            for place, world in enumerate(worlds):
                DB.pool = world.pool
                times[place].append(await _seconds(world.reads[name]))
        DB.pool = None
    return [figure for name, times in taken.items() for figure in _figures(name, [median(each) for each in times])]


def _figures(name: str, medians: Sequence[float]) -> list[Figure]:
    return [
        milliseconds(f"{name}: {' / '.join(f'{1000 * each:.2f}' for each in medians)}", medians),
        Figure("  most by the first", [max(medians) / medians[0]], "×", None if name in SORTED else MOST_TIMES),
    ]


async def _seconds(read: Read) -> float:
    await read()
    began = time.perf_counter()
    await read()
    return time.perf_counter() - began


@asynccontextmanager
async def _world(server_dsn: str, size: int) -> AsyncIterator[World]:
    dsn = await migrated(server_dsn, f"growth_{size}")
    await DB.start(dsn, max_size=1)
    try:
        ada, _, carl = owners = [await somebody() for _ in range(3)]
        await Entity.insert(person := entities.new(EntityKind.PERSON, ada.id, "Grace Hopper"))
        await _grow(dsn, size, [*(owner.id for owner in owners), person.id])
        reads = await _reads(ada, carl, person)
        pool, DB.pool = DB.pool, None
        assert pool is not None, "it has been started"
    finally:
        await DB.close()
    try:
        yield World(pool, reads)
    finally:
        await pool.close()


async def _grow(dsn: str, size: int, whose: Sequence[UUID]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        # Their triggers and checks took as long as all else; and indexes are made sooner than they grow.
        await connection.execute("SET session_replication_role = replica; SET maintenance_work_mem = '256MB'")
        indexes = await connection.fetch(INDEXES)
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        await connection.execute(GROW, *whose, size)
        await connection.execute(TELL, size)
        for index in indexes:
            await connection.execute(index["definition"])
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def _reads(ada: Viewer, carl: Viewer, person: Entity) -> dict[str, Read]:
    (last,) = await DB._run_in_pool(NEAR_THE_END, [])
    near, beginning, now = Cursor(last["xid"], last["id"]), Cursor(0, 0), datetime.now(UTC)
    (newest,) = (await _library(ada, first=1)()).rows
    when_taken = MediaFilter(taken_after=now - timedelta(minutes=200), taken_before=now - timedelta(minutes=100))
    return {
        "library": _library(ada),
        "library, gallery": _library(ada, order=media.GALLERY),
        "library, when taken": _library(ada, order=media.TAKEN_NEWEST),
        "a small account's library": _library(carl),
        "public": _library(None),
        "entity": _at(person, ada),
        "entity, gallery": _at(person, ada, order=media.GALLERY),
        "one media": lambda: media.find(ada, newest.id),
        "a kind": _library(ada, which=MediaFilter(kinds=[MediaKind.VIDEO])),
        "a rare kind": _library(ada, which=MediaFilter(kinds=[MediaKind.DOCUMENT])),
        "a rare status": _library(ada, which=MediaFilter(statuses=[MediaStatus.FAILED])),
        "a tag": _library(ada, which=MediaFilter(tags=["sea"])),
        "a rare tag": _library(ada, which=MediaFilter(tags=["rare"])),
        "the few without words": _library(ada, which=MediaFilter(missing_alt_text=True)),
        "taken in some hours": _library(ada, which=when_taken),
        "events, near the end": lambda: events.read_for(ada, None, near),
        "events, from the beginning": lambda: events.read_for(ada, None, beginning),
        "events of an entity, near the end": lambda: events.read_for(ada, person.id, near),
        "new events of all": lambda: _new(near),
    }


def _library(viewer: Viewer | None, **given: Any) -> Read:
    return lambda: media.library(viewer, **{**PAGE, **given})


def _at(entity: Entity, viewer: Viewer, **given: Any) -> Read:
    return lambda: media.of_entity(viewer, entity, slot=None, **{**PAGE, **given})


async def _new(after: Cursor) -> list[events.Happening]:
    """What the hub of a process reads."""
    connection = await DB.take_connection()
    try:
        found, _ = await events.read_new(connection, after)
    finally:
        await DB.give_back(connection)
    return found
