"""Lists are found by ways that indexes serve: they hold what the rule of access says, in order, and nothing twice."""

from __future__ import annotations

import random
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import pytest
from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable
from piccolo.query import OrderByRaw

from app import media
from app.access import EVERYTHING, Viewer, visible_media
from app.db import hydrate
from app.identifiers import uuid7
from app.keyset import Order, Page
from app.media import MediaFilter
from app.piccolo_conf import DB
from app.tables import Entity, Media, MediaStatus, UserRole
from processing.kinds import MediaKind
from tests.app.in_process import migrated, somebody
from tests.graphql_schema.rows import EPOCH, insert_media
from tests.postgres import drop_database

pytestmark = pytest.mark.xdist_group("lists")  # one database

MEDIA = 320
MOST = 100
PAGE_SIZES = (13, 40, MOST)
ORDERS = (media.NEWEST, media.OLDEST, media.TAKEN_NEWEST, media.TAKEN_OLDEST, media.GALLERY)
FILTERS = (
    MediaFilter(),
    MediaFilter(in_trash=True),
    MediaFilter(statuses=[MediaStatus.PENDING, MediaStatus.FAILED]),
    MediaFilter(kinds=[MediaKind.VIDEO], tags=["sea"]),
    MediaFilter(missing_alt_text=True, uploaded_after=EPOCH + timedelta(minutes=2)),
    MediaFilter(kinds=[MediaKind.AUDIO, MediaKind.IMAGE, MediaKind.AUDIO], missing_alt_text=False),
    MediaFilter(kinds=[]),
    MediaFilter(taken_after=EPOCH + timedelta(minutes=1)),
    MediaFilter(taken_before=EPOCH + timedelta(minutes=2), statuses=[MediaStatus.READY]),
)
Open = Callable[..., Awaitable[Page[Media]]]


@pytest.fixture(scope="module")
async def viewers(server_dsn: str, worker_name: str) -> AsyncIterator[dict[str, Viewer | None]]:
    """Of whom some have media, some entities, and some both; each one's media is at anybody's entities."""
    dsn = await migrated(server_dsn, name := f"lists_{worker_name}")
    await DB.start(dsn)
    owner, both, place, stranger = [await somebody() for _ in range(4)]
    admin = await somebody(role=UserRole.ADMIN)
    entities = [await _entity(who) for who in (both, place, place, place, stranger)]
    chance = random.Random(5)
    for who in (owner, both, place, admin):
        await insert_media(dsn, str(who.id), [_row(chance, entities) for _ in range(MEDIA // 4)])
    yield {"owner": owner, "both": both, "place": place, "stranger": stranger, "admin": admin, "anonymous": None}
    await DB.close()
    await drop_database(server_dsn, name)


async def _entity(owner: Viewer) -> uuid.UUID:
    entity = uuid7()
    await DB._run_in_pool(
        "INSERT INTO entity (id, kind, public_id, name, owner, created_at, updated_at)"
        " VALUES ($1, 'PERSON', $2, 'Ada', $3, now(), now())",
        [entity, f"PER-{secrets.token_hex(6)}", owner.id],
    )
    return entity


def _row(chance: random.Random, entities: list[uuid.UUID]) -> dict[str, Any]:
    """Of times and places there are few, so that many are equal but for the id."""
    status = chance.choice(["READY"] * 6 + ["UPLOADED", "PENDING", "FAILED"])
    entity = chance.choice([None, *entities])
    return {
        "id": uuid.UUID(int=chance.getrandbits(128)),  # in no order
        "entity": entity,
        "slot": chance.choice(["gallery", "document"]) if entity else None,
        "status": status,
        "failure_code": "CORRUPT" if status == "FAILED" else None,
        "kind": chance.choice(["IMAGE", "IMAGE", "VIDEO", "AUDIO"]),
        "tags": chance.choice([[], ["sea"], ["sea", "sun"]]),
        "alt_text": chance.choice([None, "A boat"]),
        "is_public": chance.random() < 0.4,
        "moderation": chance.choice(["APPROVED", "APPROVED", "PENDING", "REJECTED"]),
        "deleted_at": datetime.now(UTC) if chance.random() < 0.2 else None,
        "lost_at": datetime.now(UTC) if chance.random() < 0.1 else None,
        "created_at": EPOCH + timedelta(minutes=chance.randrange(5)),
        "taken_at": chance.choice([None, EPOCH + timedelta(minutes=chance.randrange(4))]),
        "sort_order": chance.randrange(3),
    }


def _seen(viewer: Viewer | None) -> Combinable:
    """Of one's own, at what is one's own, and public: asked of both tables."""
    if viewer is None or viewer.is_admin:
        return visible_media(viewer)
    own_entities = Entity.select(Entity.id).where(Entity.owner == viewer.id)
    return (Media.owner == viewer.id) | Media.entity.is_in(own_entities) | visible_media(None)


async def _by_the_rule(viewer: Viewer | None, which: MediaFilter, where: Combinable, order: Order) -> list[uuid.UUID]:
    """All at once, by the rule in one condition."""
    keys = [OrderByRaw(key.sql) for key in order.keys]
    rule = _seen(viewer) & which.where() & where
    if which.kinds is not None:
        rule = rule & WhereRaw("media.kind = ANY({})", [kind.value for kind in which.kinds])
    query = Media.select(Media.id).where(rule).order_by(*keys, ascending=not order.descending)
    return [row["id"] for row in await query]


async def _in_pages(open_page: Open, first: int) -> list[uuid.UUID]:
    found: list[uuid.UUID] = []
    after: str | None = None
    while True:
        page = await open_page(first=first, after=after, most=MOST)
        assert page.has_previous is (after is not None)
        found += [row.id for row in page.rows]
        if not page.has_next:
            return found
        assert len(page.rows) == first
        after = page.order.cursor(page.rows[-1])


async def _count(open_page: Open) -> int:
    page = await open_page(first=0, after=None, most=MOST)
    return await page.count()


async def test_the_library_in_pages_is_what_the_rule_says(viewers: dict[str, Viewer | None]) -> None:
    chance = random.Random(6)
    lengths = dict.fromkeys(viewers, 0)
    for (name, viewer), which, order in product(viewers.items(), FILTERS, ORDERS):
        library = partial(media.library, viewer, which=which, order=order)
        expected = await _by_the_rule(viewer, which, EVERYTHING, order)
        assert len(set(expected)) == len(expected)
        assert await _in_pages(library, chance.choice(PAGE_SIZES)) == expected, (name, which, order.name)
        assert await _count(library) == len(expected)
        lengths[name] += len(expected)
    # Each sees another part of them, and nobody but an administrator all.
    signed_in = [lengths[name] for name in ("owner", "both", "place", "stranger")]
    assert 0 < lengths["anonymous"] < min(signed_in)
    assert max(signed_in) < lengths["admin"]


async def test_the_media_of_an_entity_in_pages_are_what_the_rule_says(viewers: dict[str, Viewer | None]) -> None:
    chance = random.Random(7)
    entities = [hydrate(Entity, row) for row in await Entity.select()]
    seen = 0
    for entity, (name, viewer), order in product(entities, viewers.items(), ORDERS):
        which, slot = chance.choice(FILTERS), chance.choice([None, "gallery"])
        there = partial(media.of_entity, viewer, entity, slot=slot, which=which, order=order)
        where: Combinable = Media.entity == entity.id
        expected = await _by_the_rule(viewer, which, where & (Media.slot == slot) if slot else where, order)
        assert await _in_pages(there, chance.choice(PAGE_SIZES)) == expected, (name, which, order.name)
        assert await _count(there) == len(expected)
        seen += len(expected)
    assert seen > MEDIA


async def test_whose_guest_a_media_is_follows_every_change(viewers: dict[str, Viewer | None]) -> None:
    owner, both, place = [viewer for name in ("owner", "both", "place") if (viewer := viewers[name])]
    at_both, at_place = [await _entity(who) for who in (both, place)]
    (media_id,) = await insert_media(DB.config["dsn"], str(owner.id), [{"entity": at_both, "slot": "gallery"}])
    assert await _hosts(media_id) == [both.id]

    await _change("UPDATE media SET entity = $1 WHERE id = $2", at_place, media_id)
    assert await _hosts(media_id) == [place.id]
    await _change("UPDATE media SET host = $1 WHERE id = $2", both.id, media_id)
    assert await _hosts(media_id) == [place.id]
    await _change("UPDATE media SET owner = $1 WHERE id = $2", place.id, media_id)
    assert await _hosts(media_id) == []
    await _change("UPDATE entity SET owner = $1 WHERE id = $2", both.id, at_place)
    assert await _hosts(media_id) == [both.id]
    await _change("UPDATE entity SET owner = $1 WHERE id = $2", place.id, at_place)
    assert await _hosts(media_id) == []
    await _change("UPDATE media SET owner = $1 WHERE id = $2", owner.id, media_id)
    assert await _hosts(media_id) == [place.id]
    await _change("DELETE FROM entity WHERE id = $1", at_place)
    assert await _hosts(media_id) == []


async def _change(statement: str, *given: object) -> None:
    await DB._run_in_pool(statement, [*given])


async def _hosts(media_id: str) -> list[uuid.UUID]:
    return [
        row["host"] for row in await DB._run_in_pool("SELECT host FROM media WHERE id = $1", [media_id]) if row["host"]
    ]
