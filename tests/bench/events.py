"""What a subscription's return by an old cursor costs, as the events of others that it has missed grow."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

from app import events
from app.access import Viewer
from app.embedded import EmbeddedPostgres
from app.events import Cursor
from app.identifiers import uuid7
from app.migrate import migrate
from app.piccolo_conf import DB
from app.postmaster import address
from app.tables import UserRole
from tests.bench.report import Figure, milliseconds
from tests.graphql_schema.rows import insert_media

SIZES = (1_000, 100_000, 1_000_000)
OWN = 100  # events that concern the viewer: of their own media, of others' at their place, and public ones
AT_ONCE = 10_000
ROUNDS = 30
GROWTH = 1.5  # times that it may take at the most events what it takes at the fewest
START = Cursor(0, 0)

PEOPLE = """INSERT INTO user_account (id, email, password_hash, display_name, role, created_at)
    SELECT id, id || '@example.org', '', 'Somebody', 'USER', now() FROM unnest($1::uuid[]) AS id"""
PLACE = """INSERT INTO entity (id, kind, public_id, name, owner, created_at, updated_at)
    VALUES ($1, 'PERSON', 'PER-0', 'Grace', $2, now(), now())"""
OTHERS = """INSERT INTO event (kind, media, owner, occurred_at)
    SELECT 'UPDATED', gen_random_uuid(), $1, now() FROM generate_series(1, $2)"""
SPREAD = """INSERT INTO event (kind, media, owner, entity, entity_owner, is_public, occurred_at)
    SELECT 'UPDATED', media.id, media.owner, media.entity, entity.owner, media.is_public, now()
    FROM unnest($1::uuid[]) AS id JOIN media USING (id) LEFT JOIN entity ON entity.id = media.entity"""


async def measure(folder: Path) -> list[Figure]:
    with EmbeddedPostgres(folder):
        dsn = address(folder)
        await DB.start(dsn)
        try:
            await migrate()
            return await _figures(dsn)
        finally:
            await DB.close()


async def _figures(dsn: str) -> list[Figure]:
    ada, stranger, place = uuid7(), uuid7(), uuid7()
    await DB._run_in_pool(PEOPLE, [[ada, stranger]])
    await DB._run_in_pool(PLACE, [place, ada])
    own = await insert_media(dsn, str(ada), [{}] * OWN)
    there = await insert_media(dsn, str(stranger), [{"entity": place, "slot": "photos"}] * OWN)
    public = await insert_media(dsn, str(stranger), [{"is_public": True}] * OWN)
    concerning = [UUID(one) for three in zip(own, there, public, strict=True) for one in three]
    viewer = Viewer(ada, UserRole.USER, uuid7())
    figures, written = [], 0
    taken: dict[str, list[float]] = {}
    for size in SIZES:
        while written < size:
            count = min(AT_ONCE, size - written)
            await DB._run_in_pool(OTHERS, [stranger, count])
            written += count
        await DB._run_in_pool("DELETE FROM event WHERE media = ANY($1)", [concerning])
        for start in range(0, len(concerning), 30):
            await DB._run_in_pool(SPREAD, [concerning[start : start + 30]])
        await DB._run_in_pool("VACUUM ANALYZE event")
        for name, entity, count in (("all", None, 3 * OWN), ("of an entity", place, OWN)):
            seconds = [await _read(viewer, entity, count) for _ in range(ROUNDS)]
            taken.setdefault(name, []).append(min(seconds))  # what others do on these cores is no part of it
            figures.append(milliseconds(f"{count} among {size:,}, {name}", seconds))
    growth = [Figure(f"growth, {name}", [times[-1] / times[0]], "times", GROWTH) for name, times in taken.items()]
    return figures + growth


async def _read(viewer: Viewer, entity: UUID | None, count: int) -> float:
    """Seconds for all that concerns the viewer, as often as it has to be asked for."""
    began = time.perf_counter()
    found = page = await events.read_for(viewer, entity, START)
    while len(page) == events.QUEUE:
        page = await events.read_for(viewer, entity, page[-1].cursor)
        found = found + page
    seconds = time.perf_counter() - began
    assert len(found) == count
    return seconds
