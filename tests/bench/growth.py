"""What a page costs the database, and what reads it, as media grow from a thousand to a million: the same."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final
from uuid import UUID

import asyncpg

from app import media
from app.access import Viewer
from app.embedded import EmbeddedPostgres
from app.entities import load
from app.keyset import Page
from app.postmaster import address
from app.tables import Entity, Media, UserRole
from tests.bench.report import Figure
from tests.client import PASSWORD
from tests.graphql_schema.test_statements import PERSON, REGISTER, ask, in_this_process

SIZES: Final = (1_000, 100_000, 1_000_000)
PAGES: Final = 41
FIRST: Final = 30
MOST_TIMES: Final = 1.5
ADA, BOB = ({"email": f"{name}@example.org", "password": PASSWORD, "displayName": name} for name in ("ada", "bob"))

# Nine of ten are Ada's, a third is at her person, and some of Bob's are public.
GROW: Final = """
    INSERT INTO media (id, public_id, owner, entity, slot, kind, status, filename, content_type, size_bytes, sha256,
        storage_backend, storage_key, tags, sort_order, is_primary, is_public, moderation, source, processing_attempts,
        created_at, updated_at)
    SELECT gen_random_uuid(), 'MED-' || n, CASE WHEN n % 10 = 0 THEN $2::uuid ELSE $1::uuid END,
        CASE WHEN n % 3 = 0 THEN $3::uuid END, CASE WHEN n % 3 = 0 THEN 'photos' END, 'IMAGE', 'READY', 'a.jpg',
        'image/jpeg', 1, md5(n::text) || md5(n::text), 'local', 'growth/' || n, '{}', n % 7, false, n % 40 = 0,
        'APPROVED', 'UPLOAD', 0, now() - n * interval '1 minute', now()
    FROM generate_series($4::int, $5::int) AS n"""


async def measure(folder: Path) -> list[Figure]:
    taken: dict[str, list[float]] = {}
    with EmbeddedPostgres(folder):
        dsn = address(folder)
        async with in_this_process(dsn, folder) as client:
            bob = UUID((await ask(client, REGISTER, input=BOB))["user"]["id"])
            signed_in = await ask(client, REGISTER, input=ADA)
            client.headers["authorization"] = f"Bearer {signed_in['accessToken']}"
            ada = UUID(signed_in["user"]["id"])
            person = UUID((await ask(client, PERSON, name="Grace Hopper"))["person"]["id"])
            viewer = Viewer(ada, UserRole.USER, ada)
            (entity,) = await load(viewer, [person])
            there = 0
            for size in SIZES:
                await _grow(dsn, ada, bob, person, there + 1, size)
                there = size
                for name, read in _reads(viewer, entity).items():
                    taken.setdefault(name, []).append(await _middle(read))
    return [
        figure
        for name, seconds in taken.items()
        for figure in (
            Figure(f"{name} at {' / '.join(f'{size:,}' for size in SIZES)}", [1000 * each for each in seconds], "ms"),
            Figure("  the last by the first", [seconds[-1] / seconds[0]], "×", MOST_TIMES),
        )
    ]


def _reads(viewer: Viewer, entity: Entity) -> dict[str, Callable[[], Awaitable[Page[Media]]]]:
    page: dict[str, Any] = {"which": media.EVERYTHING, "first": FIRST, "after": None, "most": FIRST}
    return {
        "library": lambda: media.library(viewer, order=media.NEWEST, **page),
        "gallery": lambda: media.library(viewer, order=media.GALLERY, **page),
        "entity": lambda: media.of_entity(viewer, entity, slot=None, order=media.NEWEST, **page),
        "public": lambda: media.library(None, order=media.NEWEST, **page),
    }


async def _grow(dsn: str, *given: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(GROW, *given)
        await connection.execute("VACUUM ANALYZE media")
    finally:
        await connection.close()


async def _middle(read: Callable[[], Awaitable[Page[Media]]]) -> float:
    """Seconds that it takes in the middle of some times."""
    taken = []
    for _ in range(PAGES):
        began = time.monotonic()
        assert len((await read()).rows) >= 20  # of the public, a thousand has 25
        taken.append(time.monotonic() - began)
    return median(taken)
