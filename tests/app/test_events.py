"""The hub on a database of its own: every event once and in commit order, whatever happens to connections."""

from __future__ import annotations

import asyncio
import gc
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest

from app import event_hub, events
from app.event_hub import POLL_SECONDS, EventHub, Subscription
from app.events import BATCH, QUEUE, Cursor, Happening
from app.migrate import migrate
from app.piccolo_conf import DB
from app.tables import EventKind, one_of
from tests.postgres import create_database, drop_database

LIMIT = 20.0  # seconds; what is waited for takes hundredths of one, or a poll
SILENT = "INSERT INTO event (kind, media, data, occurred_at) VALUES ('UPDATED', $1, $2::text::jsonb, now())"


@pytest.fixture(scope="module")
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    """A migrated database."""
    name = f"events_{worker_name}"
    dsn = await create_database(server_dsn, name)
    await DB.start(dsn)
    await migrate()
    await DB.close()
    yield dsn
    await drop_database(server_dsn, name)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[str]:
    """The same, with the engine on it."""
    await DB.start(dsn, max_size=10)
    yield dsn
    await DB.close()


@asynccontextmanager
async def listening(connect: Callable[[], object]) -> AsyncIterator[EventHub]:
    hub = EventHub(connect)  # type: ignore[arg-type]  # what gives a connection, or fails to
    async with asyncio.timeout(LIMIT):
        await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


@pytest.fixture
async def hub(database: str) -> AsyncIterator[EventHub]:
    async with listening(lambda: connect_hub(database)) as hub:
        yield hub


async def write(media: uuid.UUID, number: int, *, hold: float = 0.0) -> None:
    """One event in a transaction that stays open for `hold` seconds after it."""
    async with DB.transaction() as transaction:
        await events.record(transaction, EventKind.UPDATED, media=media, number=number)
        await asyncio.sleep(hold)


async def read(subscription: Subscription, count: int) -> list[Happening]:
    async with asyncio.timeout(LIMIT):
        return [await anext(subscription) for _ in range(count)]


def numbers(happenings: list[Happening]) -> list[int]:
    return [happening.data["number"] for happening in happenings]


async def nothing_more(subscription: Subscription, beside: uuid.UUID) -> None:
    """What is written now is the next that comes: nothing was queued before it."""
    await write(beside, -1)
    assert numbers(await read(subscription, 1)) == [-1]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110  # of what has no event to wait for
            await asyncio.sleep(0.005)


async def connect_hub(dsn: str) -> asyncpg.Connection:
    return await asyncpg.connect(dsn, server_settings={"application_name": "hub"})


async def cut_off(hub: EventHub) -> None:
    """End the hub's backend (and any of an earlier one that is about to end)."""
    await until(lambda: hub.listening)
    ended = await DB._run_in_pool(
        "SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'hub'"
    )
    assert [row for row in ended if row["ended"]]


# ---------------------------------------------------------------- order


async def test_an_event_says_what_was_recorded(hub: EventHub) -> None:
    media, session = uuid.uuid4(), uuid.uuid4()
    with hub.subscribe(media, session) as subscription:
        async with DB.transaction() as transaction:
            await events.record(transaction, EventKind.READY, media=media, status="READY", percent=100)
            await events.record(transaction, EventKind.SESSION_ENDED, session=session)
        first, second = await read(subscription, 2)
        assert (first.kind, first.media, first.session, first.data) == (
            EventKind.READY,
            media,
            None,
            {"status": "READY", "percent": 100},
        )
        assert (second.kind, second.media, second.session, second.data) == (EventKind.SESSION_ENDED, None, session, {})
        assert first.cursor.xid == second.cursor.xid
        assert first.cursor < second.cursor
    assert await events.latest(media, [EventKind.READY]) == first
    assert await events.latest(media, [EventKind.FAILED]) is None


async def test_a_subscriber_hears_of_its_own_subjects_alone_and_of_what_comes_after(hub: EventHub) -> None:
    media, other = uuid.uuid4(), uuid.uuid4()
    await write(media, 0)
    with hub.subscribe(other) as before:
        await write(other, 0)
        await read(before, 1)  # the hub is past all that was written until now
    with hub.subscribe(media) as subscription, hub.subscribe(media) as second:
        await write(other, 1)
        await write(media, 1)
        assert numbers(await read(subscription, 1)) == numbers(await read(second, 1)) == [1]
        await nothing_more(subscription, media)


async def test_concurrent_writers_are_heard_once_each_in_commit_order(hub: EventHub) -> None:
    """Transactions of all lengths overlap, so they commit in another order than they began."""
    media = uuid.uuid4()
    lengths = random.Random(1)
    slots = asyncio.Semaphore(8)

    async def writer(number: int) -> None:
        async with slots:
            await write(media, number, hold=lengths.choice([0, 0, 0.002, 0.03, 0.1]))

    with hub.subscribe(media) as subscription:
        async with asyncio.TaskGroup() as tasks:
            for number in range(150):
                tasks.create_task(writer(number))
            heard = await read(subscription, 150)
        assert sorted(numbers(heard)) == list(range(150))
        cursors = [happening.cursor for happening in heard]
        assert cursors == sorted(cursors)
        await nothing_more(subscription, media)


async def test_an_older_transaction_that_commits_after_a_younger_is_not_lost(hub: EventHub) -> None:
    media = uuid.uuid4()
    with hub.subscribe(media) as subscription:
        began, may_end = asyncio.Event(), asyncio.Event()

        async def older() -> None:
            async with DB.transaction() as transaction:
                await events.record(transaction, EventKind.UPDATED, media=media, number=1)
                began.set()
                await may_end.wait()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(older())
            await began.wait()
            await write(media, 2)
            may_end.set()
            assert numbers(await read(subscription, 2)) == [1, 2]
        await nothing_more(subscription, media)


async def test_an_idle_writer_elsewhere_delays_and_loses_nothing(hub: EventHub, database: str) -> None:
    media = uuid.uuid4()
    idle = await asyncpg.connect(database)
    with hub.subscribe(media) as subscription:
        await idle.execute("BEGIN")
        await idle.execute("CREATE TEMPORARY TABLE something ()")
        for number in range(3):
            await write(media, number)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(subscription)
        await idle.execute("ROLLBACK")
        assert numbers(await read(subscription, 3)) == [0, 1, 2]
    await idle.close()


async def test_what_is_rolled_back_is_never_heard_of(hub: EventHub) -> None:
    media = uuid.uuid4()
    with hub.subscribe(media) as subscription:
        async with DB.transaction() as transaction:
            await events.record(transaction, EventKind.UPDATED, media=media, number=1)
            await transaction.rollback()
        await write(media, 2)
        assert numbers(await read(subscription, 1)) == [2]
    assert await DB._run_in_pool("SELECT count(*) FROM event WHERE media = $1", [media]) == [(1,)]


# ---------------------------------------------------------------- connections


async def test_a_listener_that_is_cut_off_listens_again_and_loses_nothing(hub: EventHub, database: str) -> None:
    media = uuid.uuid4()
    with hub.subscribe(media) as subscription:
        for number in range(60):
            await write(media, number)
            if number % 20 == 10:
                await cut_off(hub)
                await until(lambda: not hub.listening)
        assert numbers(await read(subscription, 60)) == list(range(60))
        await until(lambda: hub.listening)
        began = asyncio.get_running_loop().time()
        await nothing_more(subscription, media)
        assert asyncio.get_running_loop().time() - began < POLL_SECONDS  # by a notification


async def test_without_notifications_the_table_is_polled(hub: EventHub) -> None:
    media = uuid.uuid4()
    with hub.subscribe(media) as subscription:
        await asyncio.sleep(0.1)  # whatever woke the hub before is over
        began = asyncio.get_running_loop().time()
        await DB._run_in_pool(SILENT, [media, '{"number": 1}'])
        assert numbers(await read(subscription, 1)) == [1]
        assert asyncio.get_running_loop().time() - began < POLL_SECONDS + 1


async def test_a_hub_starts_when_the_database_comes(database: str) -> None:
    tries = 0

    async def connect() -> asyncpg.Connection:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ConnectionRefusedError
        return await connect_hub(database)

    media = uuid.uuid4()
    async with listening(connect) as hub:
        assert (tries, hub.listening) == (3, True)
        with hub.subscribe(media) as subscription:
            await nothing_more(subscription, media)
    assert not hub.listening


async def test_an_unexpected_failure_is_survived_and_told(database: str, caplog: pytest.LogCaptureFixture) -> None:
    broken = False

    async def connect() -> asyncpg.Connection:
        if broken:
            raise ZeroDivisionError
        return await connect_hub(database)

    media = uuid.uuid4()
    async with listening(connect) as hub:
        with hub.subscribe(media) as subscription:
            broken = True
            await cut_off(hub)
            await until(lambda: "ZeroDivisionError" in caplog.text)
            assert not hub.listening
            await write(media, 1)
            broken = False
            assert numbers(await read(subscription, 1)) == [1]


async def test_what_another_version_writes_is_passed_over(hub: EventHub) -> None:
    media = uuid.uuid4()
    with hub.subscribe(media) as subscription:
        async with DB.transaction() as transaction:
            await transaction.connection.execute("ALTER TABLE event DROP CONSTRAINT event_kind")
            await transaction.connection.execute(SILENT.replace("UPDATED", "SANG"), media, "{}")
            await transaction.connection.execute(
                f"ALTER TABLE event ADD CONSTRAINT event_kind CHECK ({one_of('kind', EventKind)}) NOT VALID"
            )
        await write(media, 1)
        assert numbers(await read(subscription, 1)) == [1]


async def test_a_half_open_connection_is_given_up(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is answered and nothing is closed, as behind a firewall that has forgotten the connection."""
    monkeypatch.setattr(events, "STATEMENT_SECONDS", 0.5)
    monkeypatch.setattr(event_hub, "POLL_SECONDS", 0.2)
    folder = unquote(urlsplit(database).netloc.rpartition("@")[2].partition(":")[0])
    muted: list[asyncio.Event] = []
    pumps: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, mute: asyncio.Event) -> None:
        while data := await source.read(65536):
            if mute.is_set():
                await asyncio.Event().wait()
            target.write(data)
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mute = asyncio.Event()
        muted.append(mute)
        there_reader, there_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        pumps.add(asyncio.create_task(pump(reader, there_writer, mute)))
        pumps.add(asyncio.create_task(pump(there_reader, writer, mute)))

    media = uuid.uuid4()
    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        _, port = server.sockets[0].getsockname()
        name = urlsplit(database).path.removeprefix("/")

        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(host="127.0.0.1", port=port, user="heirloom", database=name, ssl=False)

        async with listening(connect) as hub:
            with hub.subscribe(media) as subscription:
                muted[0].set()
                await write(media, 1)
                assert numbers(await read(subscription, 1)) == [1]
                assert len(muted) >= 2
                await nothing_more(subscription, media)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


# ---------------------------------------------------------------- slow subscribers


async def test_a_slow_subscriber_gets_everything_once_and_holds_little(hub: EventHub) -> None:
    media, total = uuid.uuid4(), 3 * BATCH + QUEUE
    with hub.subscribe(media) as slow, hub.subscribe(media) as quick:
        heard: list[int] = []
        most = 0

        async def written() -> None:
            for first in range(0, total, 100):
                async with DB.transaction() as transaction:
                    for number in range(first, first + 100):
                        await events.record(transaction, EventKind.UPDATED, media=media, number=number)
                if first >= 2 * BATCH:
                    await asyncio.sleep(0.02)  # the last of them while the slow one reads

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(written())
            assert numbers(await read(quick, 2 * BATCH)) == list(range(2 * BATCH))
            assert len(slow._queue) == QUEUE
            while len(heard) < total:
                heard.extend(numbers(await read(slow, 1)))
                most = max(most, len(slow._queue))
                if len(heard) % 50 == 0:
                    await asyncio.sleep(0)
        assert heard == list(range(total))
        assert most <= QUEUE
        assert numbers(await read(quick, total - 2 * BATCH)) == list(range(2 * BATCH, total))
        await nothing_more(slow, media)
        # It has caught up, and is handed what comes.
        assert not slow._behind


async def test_what_is_offered_while_it_catches_up_is_not_lost(hub: EventHub) -> None:
    media, last = uuid.uuid4(), QUEUE + 1
    with hub.subscribe(media) as slow, hub.subscribe(media) as quick:
        async with DB.transaction() as transaction:
            for number in range(last):
                await events.record(transaction, EventKind.UPDATED, media=media, number=number)
        await read(quick, last)
        from_table, reads = slow._read, 0

        async def just_before(after: Cursor) -> list[Happening]:
            nonlocal reads
            reads += 1
            found = await from_table(after)
            if reads == 1:
                await write(media, last)
                await read(quick, 1)
            return found

        slow._read = just_before
        assert numbers(await read(slow, last + 1)) == list(range(last + 1))
        assert reads == 2


async def test_a_wait_that_is_cut_off_loses_nothing(hub: EventHub) -> None:
    """`anext` is cancelled at moments of all kinds: while it waits, and while it reads what it missed."""
    media, total = uuid.uuid4(), BATCH + 2 * QUEUE
    patience = random.Random(2)
    with hub.subscribe(media) as subscription, hub.subscribe(media) as quick:
        async with DB.transaction() as transaction:
            for number in range(total):
                await events.record(transaction, EventKind.UPDATED, media=media, number=number)
        await read(quick, QUEUE + 1)  # so the other is behind
        heard: list[int] = []
        cut_off = 0
        while len(heard) < total:
            try:
                async with asyncio.timeout(patience.choice([0, 0, 0.001, 0.01, LIMIT])):
                    heard.extend(numbers([await anext(subscription)]))
            except TimeoutError:
                cut_off += 1
        assert heard == list(range(total))
        assert cut_off > 0
        await nothing_more(subscription, media)


async def test_a_catch_up_that_fails_is_made_up_for(hub: EventHub, database: str) -> None:
    media, total = uuid.uuid4(), QUEUE + 10
    with hub.subscribe(media) as subscription, hub.subscribe(media) as quick:
        for number in range(total):
            await write(media, number)
        await read(quick, total)
        heard = numbers(await read(subscription, QUEUE))
        await DB.close()
        with pytest.raises(RuntimeError):
            await anext(subscription)
        await DB.start(database)
        heard += numbers(await read(subscription, 10))
        assert heard == list(range(total))
        await nothing_more(subscription, media)


async def test_unsubscribing_leaves_nothing(hub: EventHub) -> None:
    media, session = uuid.uuid4(), uuid.uuid4()

    def left(error: type[Exception] | None) -> None:
        with hub.subscribe(media, session), hub.subscribe(media):
            assert {key: len(value) for key, value in hub._subscriptions.items()} == {media: 2, session: 1}
            if error is not None:
                raise error

    left(None)
    with pytest.raises(ZeroDivisionError):
        left(ZeroDivisionError)
    assert hub._subscriptions == {}
    gc.collect()
    assert [thing for thing in gc.get_objects() if isinstance(thing, Subscription) and media in thing.subjects] == []
