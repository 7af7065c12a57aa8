"""`mediaEvents`: every event once and in commit order by its cursors, and nobody hears of what they can't see."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app import accounts, attachments, audience, event_cursors, events, hearing, media, media_events, people, trash
from app.access import Viewer
from app.errors import BadInput, CursorExpired, Forbidden, HeirloomError, NotFound, Unauthenticated
from app.event_hub import EventHub
from app.events import Cursor, read_for
from app.media_events import Cursors, MediaEvent
from app.piccolo_conf import DB
from app.settings import load
from app.tables import EventKind, UserRole
from app.wiring import Services, open_services
from tests.app.in_process import LIMIT, delete_expired, migrated, settled, somebody, until, upload
from tests.client import Account, Client, Json
from tests.graphql_schema.rows import insert_media
from tests.pictures import photograph
from tests.postgres import drop_database
from tests.server import SECRET_KEY

UPLOADS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 160
WRITERS = 8
CUTS = 20
FOLLOW = """subscription($after: String, $entity: ID) {
    mediaEvents(after: $after, entityId: $entity) { cursor kind mediaId media { id status } occurredAt }
}"""


@pytest.fixture(scope="module")
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    name = f"media_events_{worker_name}"
    yield await migrated(server_dsn, name)
    await drop_database(server_dsn, name)


@pytest.fixture
async def services(dsn: str, tmp_path: Path) -> AsyncIterator[Services]:
    """Of a process that follows, its hub's connection known by its name."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, server_settings={"application_name": "hub"})

    variables = {"DATABASE_URL": dsn, "DATA_DIR": str(tmp_path), "SECRET_KEY": SECRET_KEY, "DATABASE_POOL": "12"}
    settings = load({f"HEIRLOOM_{name}": value for name, value in variables.items()})
    async with open_services(settings, dsn=dsn) as opened:
        services = replace(opened, hub=EventHub(connect))
        await until(all_is_settled)
        async with asyncio.timeout(LIMIT):
            await services.hub.start()
        yield services
        await services.hub.stop()


async def all_is_settled() -> bool:
    """Else the hub, and every cursor of now, would begin before what earlier tests have left to be told."""
    rows = await DB._run_in_pool(
        "SELECT NOT EXISTS (SELECT FROM event WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())) AS settled"
    )
    return bool(rows[0]["settled"])


@dataclass
class Follower:
    """Somebody's subscription, held by its cursors alone: it may be cut off and taken up again."""

    services: Services
    viewer: Viewer
    after: str | None = None
    entity: uuid.UUID | None = None
    _open: AsyncGenerator[MediaEvent, None] | None = None

    async def next(self) -> MediaEvent:
        if self._open is None:
            self._open = media_events.follow(self.services, self.viewer, after=self.after, entity_id=self.entity)
        async with asyncio.timeout(LIMIT):
            told = await anext(self._open)
        self.after = told.cursor
        return told

    async def cut_off(self) -> None:
        if self._open is not None:
            await self._open.aclose()
            self._open = None

    async def told(self, count: int) -> list[tuple[uuid.UUID, str]]:
        heard = [await self.next() for _ in range(count)]
        return [(each.media_id, each.kind.value) for each in heard]


async def nothing_more(follower: Follower, *, entity: uuid.UUID | None = None) -> None:
    """What its own viewer uploads now is the next that it hears of."""
    fields: dict[str, Any] = {"entity_id": entity, "slot": "photos"} if entity else {}
    mark = await upload(follower.services, follower.viewer, **fields)
    assert await follower.told(1) == [(mark.id, "UPLOADED")]
    await follower.cut_off()


async def place_now(services: Services) -> str:
    """A cursor behind all that was committed until now."""
    rows = await DB._run_in_pool("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1 AS xid")
    return Cursors.of(services).write(Cursor(rows[0]["xid"], 2**62))


async def update(viewer: Viewer, media_id: uuid.UUID, **changes: Any) -> None:
    await media.update(viewer, media_id, changes)


# ---------------------------------------------------------------- every event once


async def test_uploads_of_many_writers_are_told_once_each_whatever_is_cut_off(services: Services) -> None:
    """Connections of subscriber and listener are ended again and again, while transactions of all lengths overlap."""
    ada = await somebody()
    follower = Follower(services, ada, after=await place_now(services))
    chance = random.Random(3)
    numbers = iter(range(UPLOADS))

    async def writer() -> None:
        for _ in numbers:
            made = await upload(services, ada)
            if chance.random() < 0.3:
                async with DB.transaction() as transaction:
                    await events.record(transaction, EventKind.UPDATED, media=made.id, owner=ada.id)
                    await asyncio.sleep(chance.choice([0.0, 0.01, 0.05]))
                await trash.delete(ada, made.id)

    heard: list[MediaEvent] = []
    cuts = terminated = 0
    async with asyncio.TaskGroup() as tasks:
        writers = [tasks.create_task(writer()) for _ in range(WRITERS)]
        while len({each.media_id for each in heard}) < UPLOADS:
            heard.append(await follower.next())
            if cuts < CUTS and chance.random() < 0.2:
                cuts += 1
                await follower.cut_off()
            if len(heard) % 50 == 25:
                terminated += await end_listener()
    assert all(task.done() for task in writers)
    expected = await DB._run_in_pool("SELECT media, kind FROM event WHERE owner = $1 ORDER BY event.xid, id", [ada.id])
    while len(heard) < len(expected):
        heard.append(await follower.next())
    assert [(each.media_id, each.kind.value) for each in heard] == [(row["media"], row["kind"]) for row in expected]
    assert cuts == CUTS
    assert terminated >= 3
    await nothing_more(follower)


async def end_listener() -> bool:
    ended = await DB._run_in_pool(
        "SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'hub'"
    )
    return any(row["ended"] for row in ended)


@pytest.mark.parametrize("replayed", [False, True])
async def test_what_began_earlier_and_commits_later_is_not_passed_over(services: Services, replayed: bool) -> None:
    ada = await somebody()
    older, younger = uuid.uuid4(), uuid.uuid4()
    follower = Follower(services, ada, after=await place_now(services))
    first = asyncio.create_task(follower.next()) if not replayed else None
    async with DB.transaction() as transaction:
        await events.record(transaction, EventKind.UPDATED, media=older, owner=ada.id)
        await asyncio.create_task(commit(younger, ada.id), context=_outside())
        if replayed:
            # Nothing may be told yet, or a cursor would be given out behind which the older one is still to come.
            assert await read_for(ada, None, Cursors.of(services).read(follower.after or "")) == []
        await asyncio.sleep(0.2)
        assert first is None or not first.done()
    told = [(await first).media_id] if first else []
    told += [media_id for media_id, _ in await follower.told(2 - len(told))]
    assert told == [older, younger]
    await nothing_more(follower)


async def commit(media_id: uuid.UUID, owner: uuid.UUID) -> None:
    async with DB.transaction() as transaction:
        await events.record(transaction, EventKind.UPDATED, media=media_id, owner=owner)


def _outside() -> contextvars.Context:
    """A context without this task's transaction."""
    return contextvars.Context()


async def test_a_cursor_of_each_event_goes_on_behind_it(services: Services) -> None:
    ada = await somebody()
    start = await place_now(services)
    made = [(await upload(services, ada)).id for _ in range(4)]
    follower = Follower(services, ada, start)
    heard = [await follower.next() for _ in made]
    await follower.cut_off()
    assert [each.media_id for each in heard] == made
    for number, each in enumerate(heard):
        again = Follower(services, ada, each.cursor)
        assert await again.told(3 - number) == [(media_id, "UPLOADED") for media_id in made[number + 1 :]]
        await again.cut_off()


async def test_what_was_replayed_while_the_hub_was_away_is_not_told_again(services: Services) -> None:
    ada = await somebody()
    follower = Follower(services, ada, await place_now(services))
    async with hub_away(services):
        made = [(await upload(services, ada)).id for _ in range(3)]
        await settled()
        assert await follower.told(3) == [(media_id, "UPLOADED") for media_id in made]
    await nothing_more(follower)


@asynccontextmanager
async def hub_away(services: Services) -> AsyncIterator[None]:
    """The hub's connection is ended, and it gets another one when the block is over."""
    hub, may_connect = services.hub, asyncio.Event()
    connect = hub._connect

    async def later() -> asyncpg.Connection:
        await may_connect.wait()
        return await connect()

    await until(lambda: hub.listening)  # after what the test before has done to it
    hub._connect = later
    await end_listener()
    await until(lambda: not hub.listening)
    yield
    hub._connect = connect
    may_connect.set()


async def test_without_a_cursor_it_begins_now(services: Services) -> None:
    ada = await somebody()
    for _ in range(3):
        await upload(services, ada)
    await asyncio.create_task(caught_up(services))
    follower = Follower(services, ada)
    waiting = asyncio.create_task(follower.next())
    await until(lambda: ada.id in services.hub._subscriptions)
    made = await upload(services, ada)
    assert (await waiting).media_id == made.id
    await follower.cut_off()


async def caught_up(services: Services) -> None:
    """Until the hub has read all that was committed."""
    rows = await DB._run_in_pool("SELECT xid::text::bigint, id FROM event ORDER BY event.xid DESC, id DESC LIMIT 1")
    last = Cursor(*rows[0])
    await until(lambda: services.hub._cursor is not None and services.hub._cursor >= last)


@pytest.mark.parametrize("open_before", [False, True], ids=["quiet", "while an older transaction is open"])
async def test_behind_the_cursor_of_now_comes_all_that_commits_later(services: Services, open_before: bool) -> None:
    ada = await somebody()
    await upload(services, ada)
    await asyncio.create_task(caught_up(services))
    older, younger = uuid.uuid4(), uuid.uuid4()
    if open_before:
        async with DB.transaction() as transaction:
            await events.record(transaction, EventKind.UPDATED, media=older, owner=ada.id)
            taking = asyncio.create_task(media_events.cursor_of_now(services, ada), context=_outside())
            cursor = await taking
    else:
        cursor = await media_events.cursor_of_now(services, ada)
        await commit(older, ada.id)
    await commit(younger, ada.id)
    follower = Follower(services, ada, cursor)
    assert await follower.told(2) == [(older, "UPDATED"), (younger, "UPDATED")]
    await nothing_more(follower)


# ---------------------------------------------------------------- who hears


async def test_who_hears_is_who_sees(services: Services, dsn: str) -> None:
    """For all that makes a media visible or not: what is told is what the rule of lists finds."""
    ada, eve = await somebody(), await somebody()
    root = await somebody(role=UserRole.ADMIN)
    place = await people.create(eve, name="Grace Hopper")
    now = datetime.now(UTC)
    start = Cursors.of(services).read(await place_now(services))
    rows: list[dict[str, Any]] = [
        {"is_public": public, "deleted_at": deleted, "lost_at": lost, "moderation": moderation, **at}
        for public, deleted, lost, moderation, at in itertools.product(
            (False, True),
            (None, now),
            (None, now),
            ("APPROVED", "PENDING"),
            ({}, {"entity": place.id, "slot": "photos"}),
        )
    ]
    ids = [uuid.UUID(each) for each in await insert_media(dsn, str(ada.id), rows)]
    async with DB.transaction() as transaction:
        for media_id, row in zip(ids, rows, strict=True):
            await events.record(transaction, EventKind.UPDATED, media=media_id, owner=ada.id, entity=row.get("entity"))
    await settled()
    for viewer in (ada, eve, root, await somebody()):
        names = frozenset(audience.names(viewer))
        found = [each for each in await read_for(viewer, None, start) if each.media]  # the place has come, too
        told = {each.media for each in found if names & each.subjects}
        assert {each.row.id for each in found if each.row} == {each.media for each in found}
        assert told & set(ids) == {each.id for each in await media.load(viewer, ids)}
    assert len(await media.load(eve, ids)) not in (0, len(ids))


async def test_what_is_anothers_is_not_told(services: Services) -> None:
    ada, eve = await somebody(), await somebody()
    follower = Follower(services, eve, await place_now(services))
    made = await upload(services, ada)
    await update(ada, made.id, title="Mine")
    await trash.delete(ada, made.id)
    await nothing_more(follower)


async def test_what_is_public_everybody_hears_of_until_it_is_not(services: Services) -> None:
    ada, eve = await somebody(), await somebody()
    start = await place_now(services)
    follower = Follower(services, eve, start)
    made = await upload(services, ada, is_public=True)
    assert await follower.told(1) == [(made.id, "UPLOADED")]
    await update(ada, made.id, title="For all")
    assert await follower.told(1) == [(made.id, "UPDATED")]
    await update(ada, made.id, is_public=False)
    await update(ada, made.id, title="Not any more")
    await nothing_more(follower)
    # Nor afterwards what could be seen then.
    again = Follower(services, eve, start)
    mark = await again.next()
    assert mark.media_id != made.id
    await again.cut_off()


async def test_what_was_private_stays_so_when_it_is_made_public(services: Services) -> None:
    ada, eve = await somebody(), await somebody()
    start = await place_now(services)
    made = await upload(services, ada)
    await update(ada, made.id, title="A secret")
    await update(ada, made.id, is_public=True)
    follower = Follower(services, eve, start)
    assert await follower.told(1) == [(made.id, "UPDATED")]
    await nothing_more(follower)


async def test_what_is_public_by_the_time_the_hub_reads_it_was_still_private(services: Services) -> None:
    ada, eve = await somebody(), await somebody()
    follower = Follower(services, eve)
    waiting = asyncio.create_task(follower.next())
    await until(lambda: eve.id in services.hub._subscriptions)
    async with hub_away(services):
        made = await upload(services, ada)
        await update(ada, made.id, title="A secret")
        await update(ada, made.id, is_public=True)
    heard = await waiting
    assert (heard.media_id, heard.kind.value) == (made.id, "UPDATED")
    await nothing_more(follower)


async def test_the_owner_of_a_place_hears_of_what_is_there_and_of_its_end(services: Services) -> None:
    """Also of a place that came after the subscription did; and no more of what was taken elsewhere."""
    root = await somebody(role=UserRole.ADMIN)
    eve = await somebody()
    start = await place_now(services)
    follower = Follower(services, eve, start)
    waiting = asyncio.create_task(follower.next())
    place = await people.create(eve, name="Grace Hopper")
    elsewhere = await people.create(root, name="Somebody else")
    made = await upload(services, root, entity_id=place.id, slot="photos")
    taken = await upload(services, root, entity_id=place.id, slot="photos")
    heard = await waiting
    assert (heard.media_id, heard.kind.value) == (made.id, "UPLOADED")
    assert await follower.told(1) == [(taken.id, "UPLOADED")]
    await attachments.attach(root, [taken.id], entity_id=elsewhere.id, slot="photos")
    await trash.delete(root, made.id)
    await trash.purge(services, root, made.id)
    assert await follower.told(2) == [(made.id, "TRASHED"), (made.id, "PURGED")]
    await nothing_more(follower)
    # Once it is gone its events themselves say who could see it; of what was taken elsewhere nothing is told.
    again = Follower(services, eve, start)
    assert await again.told(3) == [(made.id, "UPLOADED"), (made.id, "TRASHED"), (made.id, "PURGED")]
    await again.cut_off()
    stranger = Follower(services, await somebody(), start)
    await nothing_more(stranger)


async def test_what_waited_for_a_slow_client_is_looked_at_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_events, "FRESH_SECONDS", 0.0)
    ada, eve = await somebody(), await somebody()
    follower = Follower(services, eve, await place_now(services))
    first, second, third = [await upload(services, ada, is_public=True) for _ in range(3)]
    assert await follower.told(1) == [(first.id, "UPLOADED")]
    await update(ada, second.id, is_public=False)
    assert await follower.told(1) == [(third.id, "UPLOADED")]
    await nothing_more(follower)


async def test_an_entity_narrows(services: Services) -> None:
    ada = await somebody()
    place, other = [(await people.create(ada, name=name)).id for name in ("Grace", "Ada")]
    start = await place_now(services)
    there = await upload(services, ada, entity_id=place, slot="photos")
    await upload(services, ada, entity_id=other, slot="photos")
    await upload(services, ada)
    await update(ada, there.id, title="There")
    follower = Follower(services, ada, start, place)
    assert await follower.told(2) == [(there.id, "UPLOADED"), (there.id, "UPDATED")]
    await upload(services, ada, entity_id=other, slot="photos")
    await upload(services, ada)
    await nothing_more(follower, entity=place)


async def test_an_admin_hears_of_everything(services: Services) -> None:
    ada, root = await somebody(), await somebody(role=UserRole.ADMIN)
    start = await place_now(services)
    made = await upload(services, ada)
    await trash.delete(ada, made.id)
    await trash.purge(services, ada, made.id)
    for _ in range(2):
        follower = Follower(services, root, start)
        assert await follower.told(3) == [(made.id, kind) for kind in ("UPLOADED", "TRASHED", "PURGED")]
        await nothing_more(follower)
        start = await place_now(services)
        made = await upload(services, ada)
        await trash.delete(ada, made.id)
        await trash.purge(services, ada, made.id)


@pytest.mark.parametrize("replayed", [False, True])
async def test_an_admin_who_is_none_any_more_hears_nothing_more(services: Services, replayed: bool) -> None:
    ada, root = await somebody(), await somebody(role=UserRole.ADMIN)
    follower = Follower(services, root, await place_now(services))
    made = await upload(services, ada)
    assert await follower.told(1) == [(made.id, "UPLOADED")]
    if replayed:
        await follower.cut_off()
    await give_role(root, UserRole.USER)
    await upload(services, ada)
    with pytest.raises(Forbidden):
        await follower.next()
    assert services.hub._subscriptions == {}
    as_they_are = Follower(services, replace(root, role=UserRole.USER), follower.after)
    await nothing_more(as_they_are)


async def test_what_waited_for_an_admin_is_not_told_to_one_who_was(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "ROLE_SECONDS", 0.0)
    ada, root = await somebody(), await somebody(role=UserRole.ADMIN)
    follower = Follower(services, root, await place_now(services))
    first, _ = [await upload(services, ada) for _ in range(2)]
    assert await follower.told(1) == [(first.id, "UPLOADED")]
    await give_role(root, UserRole.USER)
    with pytest.raises(Forbidden):
        await follower.next()


async def give_role(viewer: Viewer, role: UserRole) -> None:
    await DB._run_in_pool("UPDATE user_account SET role = $2 WHERE id = $1", [viewer.id, role.value])


# ---------------------------------------------------------------- refusals and ends


async def refused(services: Services, viewer: Viewer | None, **asked: Any) -> HeirloomError:
    async with aclosing(media_events.follow(services, viewer, **{"after": None, "entity_id": None, **asked})) as told:
        with pytest.raises(HeirloomError) as raised:
            async with asyncio.timeout(LIMIT):
                await anext(told)
    assert services.hub._subscriptions == {}
    return raised.value


async def test_nobody_hears_nothing(services: Services) -> None:
    assert isinstance(await refused(services, None), Unauthenticated)
    with pytest.raises(Unauthenticated):
        await media_events.cursor_of_now(services, None)


async def test_what_is_no_cursor_is_refused(services: Services) -> None:
    ada = await somebody()
    good = await place_now(services)
    strangers = Cursors(b"another deployment").write(Cursors.of(services).read(good))
    changed = ("A" if good[0] != "A" else "B") + good[1:]
    to_come = Cursors.of(services).write(Cursor(2**63, 0))
    for cursor in ("", "nonsense", "é", good[:-1], good + "AAAA", f"{good}\n", "=" * 32, changed, strangers, to_come):
        error = await refused(services, ada, after=cursor)
        assert (type(error), error.path) == (BadInput, ("after",)), cursor
    assert good == Cursors.of(services).write(Cursors.of(services).read(good))


async def test_an_entity_that_is_not_seen_is_not_found(services: Services) -> None:
    ada, eve = await somebody(), await somebody()
    place = await people.create(ada, name="Grace Hopper")
    for viewer, entity in ((eve, place.id), (ada, uuid.uuid4())):
        assert isinstance(await refused(services, viewer, entity_id=entity), NotFound)


async def test_a_cursor_older_than_what_is_kept_is_refused(services: Services) -> None:
    ada = await somebody()
    old = await place_now(services)
    for _ in range(2):
        await upload(services, ada)
    await settled()
    kept = await place_now(services)
    await delete_expired(timedelta(0), datetime.now(UTC) + timedelta(seconds=1))
    assert isinstance(await refused(services, ada, after=old), CursorExpired)
    follower = Follower(services, ada, kept)
    await nothing_more(follower)


async def test_one_who_falls_behind_what_is_kept_is_told_so(services: Services) -> None:
    ada = await somebody()
    follower = Follower(services, ada, await place_now(services))
    await nothing_more(follower)
    follower = Follower(services, ada, follower.after)
    waiting = asyncio.create_task(follower.next())
    await until(lambda: ada.id in services.hub._subscriptions)
    (subscription,) = services.hub._subscriptions[ada.id]
    await upload(services, ada)
    await waiting
    async with DB.transaction() as transaction:
        for _ in range(events.QUEUE + 10):
            await events.record(transaction, EventKind.UPDATED, media=uuid.uuid4(), owner=ada.id)
    await until(lambda: subscription._behind)
    await delete_expired(timedelta(0), datetime.now(UTC) + timedelta(seconds=1))
    await follower.told(events.QUEUE)
    with pytest.raises(CursorExpired):
        await follower.next()


async def test_it_ends_with_the_session(services: Services) -> None:
    ada = await somebody()
    follower = Follower(services, ada)
    waiting = asyncio.create_task(follower.next())
    await until(lambda: ada.session_id in services.hub._subscriptions)
    await accounts.logout(ada)
    with pytest.raises(Unauthenticated):
        await waiting
    assert services.hub._subscriptions == {}
    assert isinstance(await refused(services, ada), Unauthenticated)


async def test_it_ends_when_the_session_expires_and_not_before(services: Services) -> None:
    expiring, refreshed = [await somebody(lasts=timedelta(seconds=0.6)) for _ in range(2)]
    began = asyncio.get_running_loop().time()
    tasks = [asyncio.create_task(Follower(services, viewer).next()) for viewer in (expiring, refreshed)]
    await until(lambda: refreshed.id in services.hub._subscriptions)
    await DB._run_in_pool(
        "UPDATE session SET expires_at = now() + interval '1 day' WHERE id = $1", [refreshed.session_id]
    )
    with pytest.raises(Unauthenticated):
        await tasks[0]
    assert 0.3 < asyncio.get_running_loop().time() - began < 5
    made = await upload(services, refreshed)
    assert (await tasks[1]).media_id == made.id


# ---------------------------------------------------------------- what is deleted


async def test_events_go_in_order_and_only_those_that_are_old(services: Services) -> None:
    await delete_expired(timedelta(0), datetime.now(UTC) + timedelta(seconds=1))
    ids = [uuid.uuid4() for _ in range(5)]
    ages = (40, 35, 1, 50, 0)  # days; the one behind a young one stays: else no place would say what is gone
    for media_id, days in zip(ids, ages, strict=True):
        await DB._run_in_pool(
            "INSERT INTO event (kind, media, occurred_at) VALUES ('UPDATED', $1, now() - make_interval(days => $2))",
            [media_id, days],
        )
    await delete_expired(timedelta(days=30), datetime.now(UTC))
    assert await kept() == ids[2:]
    await delete_expired(timedelta(days=30), datetime.now(UTC))
    assert await kept() == ids[2:]


async def test_what_a_consumer_needs_stays_but_not_for_ever(services: Services, dsn: str) -> None:
    await delete_expired(timedelta(0), datetime.now(UTC) + timedelta(seconds=1))
    connection = await asyncpg.connect(dsn)
    try:
        consumer = event_cursors.Consumer("somebody", connection)
        start = await consumer.place()
        ids = [uuid.uuid4() for _ in range(3)]
        for media_id in ids:
            await DB._run_in_pool(
                "INSERT INTO event (kind, media, occurred_at) VALUES ('UPDATED', $1, now() - interval '40 days')",
                [media_id],
            )
        await delete_expired(timedelta(days=30), datetime.now(UTC))
        assert await kept() == ids
        await settled()
        happenings, _ = await events.read_new(connection, start)
        await consumer.move(happenings[0].cursor)
        assert await consumer.place() == happenings[0].cursor
        await delete_expired(timedelta(days=30), datetime.now(UTC))
        assert await kept() == ids[1:]
        await delete_expired(timedelta(days=10), datetime.now(UTC))
        assert await kept() == []
        assert await consumer.place() == happenings[-1].cursor
    finally:
        await connection.execute("DELETE FROM event_cursor WHERE name = 'somebody'")
        await connection.close()


async def kept() -> list[uuid.UUID]:
    return [row["media"] for row in await DB._run_in_pool("SELECT media FROM event ORDER BY event.xid, id")]


async def test_thousands_go_in_batches(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_cursors, "BATCH", 100)
    monkeypatch.setattr(event_cursors, "_OLDEST", event_cursors._OLDEST.replace("5000", "100"))
    await DB._run_in_pool("DELETE FROM event")  # in the order of commits, those of today would come before
    await DB._run_in_pool(
        "INSERT INTO event (kind, media, occurred_at)"
        " SELECT 'UPDATED', gen_random_uuid(), now() - interval '40 days' FROM generate_series(1, 250)"
    )
    old = "SELECT count(*) AS old FROM event WHERE occurred_at < now() - interval '30 days'"
    async with asyncio.timeout(20):
        # Whatever else is open on this server holds back what came after it.
        while (await DB._run_in_pool(old))[0]["old"]:
            both = [event_cursors.delete_expired(timedelta(days=1), datetime.now(UTC)) for _ in range(2)]
            await asyncio.gather(*both)


# ---------------------------------------------------------------- over the socket


async def test_an_upload_is_followed_over_the_socket_and_taken_up_again(ada: Account, eve: Account) -> None:
    async with ada.socket() as socket, eve.socket() as strangers:
        await strangers.start(FOLLOW)
        operation = await socket.start(FOLLOW)
        echo = await socket.start("{ viewer { email } }")
        assert {(await socket.receive())["id"] for _ in range(2)} == {echo}  # by now it listens
        media_id = (await ada.uploaded(photograph()))["id"]
        told: list[Json] = []
        while not told or told[-1]["kind"] != "READY":
            message = await socket.receive()
            assert (message["id"], message["type"]) == (operation, "next")
            told.append(message["payload"]["data"]["mediaEvents"])
    kinds = [each["kind"] for each in told]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("UPLOADED", {"PROCESSING"}, "READY")
    assert {each["mediaId"] for each in told} == {media_id}
    assert told[-1]["media"] == {"id": media_id, "status": "READY"}
    async with ada.socket() as socket:
        again = socket.subscribe(FOLLOW, after=told[0]["cursor"])
        assert [(await anext(again))["mediaEvents"]["cursor"] for _ in told[1:]] == [
            each["cursor"] for each in told[1:]
        ]


async def test_refusals_have_their_codes_over_the_socket(ada: Account, eve: Account, client: Client) -> None:
    place = await eve.person()
    asked: list[tuple[Client, Json, str]] = [
        (client, {}, "UNAUTHENTICATED"),
        (ada, {"after": "nonsense"}, "BAD_INPUT"),
        (ada, {"entity": place["id"]}, "NOT_FOUND"),
        (ada, {"entity": "nonsense"}, "NOT_FOUND"),
    ]
    for who, variables, code in asked:
        async with who.socket() as socket:
            await socket.start(FOLLOW, **variables)
            payload = (await socket.receive())["payload"]
            assert [error["extensions"]["code"] for error in payload["errors"]] == [code]
            assert (await socket.receive())["type"] == "complete"
