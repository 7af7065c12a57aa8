# ruff: noqa: S608 - the statements are put together from constants of this file
"""What happened: an append-only table, and one hub a process that tells its subscribers.

A writer inserts in its own transaction; the NOTIFY beside it says "look" and nothing else. The hub listens and also
polls, and reads what is new in commit order: a notification lost, or a listener that died, costs time and no event.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg
import orjson
from piccolo.querystring import QueryString

from app.db import HeirloomTransaction
from app.piccolo_conf import DB
from app.tables import EventKind, one_of

logger = logging.getLogger(__name__)

CHANNEL: Final = "heirloom_event"
POLL_SECONDS: Final = 2.0  # what a lost notification costs at most
UNSETTLED_SECONDS: Final = (0.01, 0.5)  # a transaction that began earlier is still open: look again, ever less often
RECONNECT_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
STATEMENT_SECONDS: Final = 10.0  # a half-open link answers nothing: give it up
BATCH: Final = 500  # events read at once
QUEUE: Final = 100  # events that a subscriber may lag behind before it reads the table for itself

Connect = Callable[[], Awaitable[asyncpg.Connection]]


class Cursor(NamedTuple):
    """A place in commit order: the writing transaction's id, then the event's."""

    xid: int
    id: int


@dataclass(frozen=True, slots=True)
class Happening:
    """One event as read from the table."""

    cursor: Cursor
    kind: EventKind
    media: uuid.UUID | None
    session: uuid.UUID | None
    data: dict[str, Any]
    occurred_at: datetime

    @classmethod
    def of(cls, row: asyncpg.Record) -> Happening:
        cursor = Cursor(row["xid"], row["id"])
        data = orjson.loads(row["data"])
        return cls(cursor, EventKind(row["kind"]), row["media"], row["session"], data, row["occurred_at"])


_INSERT: Final = f"""
    WITH told AS (
        INSERT INTO event (kind, media, entity, owner, session, data, occurred_at)
        VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, now()) RETURNING id
    )
    SELECT pg_notify('{CHANNEL}', '') FROM told
"""

# Transactions commit in another order than they began. Below the snapshot's xmin all are over, so what is read there is
# complete, and nothing will appear before a cursor that has been passed. (For this every writer commits durably: with
# synchronous_commit off, a crash loses transactions that listeners have read, and their ids are given out once more.)
_COLUMNS: Final = "xid::text::bigint AS xid, id, kind, media, session, data::text AS data, occurred_at"
# While a deployment is being renewed, a process of its next version may write what this one doesn't know.
_KNOWN: Final = one_of("kind", EventKind)
_NEW: Final = f"""
    SELECT {_COLUMNS}, xid < pg_snapshot_xmin(pg_current_snapshot()) AS settled
    FROM event WHERE (xid, id) > ($1::text::xid8, $2) AND {_KNOWN} ORDER BY event.xid, id LIMIT {BATCH}
"""
_NEW_ABOUT: Final = f"""
    SELECT {_COLUMNS} FROM event
    WHERE (media = ANY({{}}) OR session = ANY({{}})) AND (xid, id) > ({{}}::text::xid8, {{}})
      AND xid < pg_snapshot_xmin(pg_current_snapshot()) AND {_KNOWN}
    ORDER BY event.xid, id LIMIT {BATCH}
"""
_LATEST_ABOUT: Final = f"""
    SELECT {_COLUMNS} FROM event WHERE media = {{}} AND kind = ANY({{}}) ORDER BY event.xid DESC, id DESC LIMIT 1
"""
_NOW: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


async def record(
    transaction: HeirloomTransaction,
    kind: EventKind,
    *,
    media: uuid.UUID | None = None,
    entity: uuid.UUID | None = None,
    owner: uuid.UUID | None = None,
    session: uuid.UUID | None = None,
    **data: Any,
) -> None:
    """Write the event with what it tells of, and wake the listeners when that commits."""
    await transaction.connection.execute(
        _INSERT, kind.value, media, entity, owner, session, orjson.dumps(data).decode()
    )


async def latest(media: uuid.UUID, kinds: Sequence[EventKind]) -> Happening | None:
    """The last event of these kinds about a media."""
    rows = await DB.run_querystring(QueryString(_LATEST_ABOUT, media, [kind.value for kind in kinds]))
    return Happening.of(rows[0]) if rows else None


async def read_about(subjects: Sequence[uuid.UUID], after: Cursor) -> list[Happening]:
    """Up to BATCH events about these media and sessions behind the cursor, in commit order."""
    about = list(subjects)
    rows = await DB.run_querystring(QueryString(_NEW_ABOUT, about, about, str(after.xid), after.id))
    return [Happening.of(row) for row in rows]


@dataclass(eq=False, slots=True)
class Subscription:
    """What one listener wants to hear of, and has not heard yet: bounded, and never losing.

    When its queue is full the hub stops filling it, and the listener reads the table from its own cursor until it has
    caught up: a slow one costs its own time, and no memory.
    """

    subjects: tuple[uuid.UUID, ...]
    cursor: Cursor
    _queue: deque[Happening] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _behind: bool = False

    def offer(self, happening: Happening) -> None:
        # What is queued by then stays: it comes before all that the table will be asked for.
        self._behind = self._behind or len(self._queue) >= QUEUE
        if not self._behind:
            self._queue.append(happening)
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[Happening]:
        return self

    async def __anext__(self) -> Happening:
        while True:
            while self._queue:
                happening = self._queue.popleft()
                if happening.cursor > self.cursor:
                    self.cursor = happening.cursor
                    return happening
            if self._behind:
                await self._catch_up()
                continue
            self._wake.clear()
            await self._wake.wait()

    async def _catch_up(self) -> None:
        """May be cut off at any moment: it stays behind, and is read again."""
        self._wake.clear()
        missed = await read_about(self.subjects, self.cursor)
        self._queue.extend(missed)
        # Caught up, unless there is more, or the hub has offered what was not read any more.
        self._behind = len(missed) == BATCH or self._wake.is_set()


class EventHub:
    """Listens for a whole process, over one connection of its own; LISTEN needs a session, not a pool."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._subscriptions: dict[uuid.UUID, set[Subscription]] = defaultdict(set)
        self._cursor: Cursor | None = None
        self._look = asyncio.Event()
        self._running = asyncio.Event()
        self._connected = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the hub listens."""
        self._task = asyncio.create_task(self._run(), name="event-hub")
        await self._running.wait()

    @property
    def listening(self) -> bool:
        """Whether it hears at this moment; when it doesn't, it is about to connect anew."""
        return self._connected

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    @contextmanager
    def subscribe(self, *subjects: uuid.UUID) -> Iterator[Subscription]:
        """Events about these media and sessions that commit from now on."""
        assert self._cursor is not None, "the hub has been started"
        subscription = Subscription(subjects, self._cursor)
        for subject in subjects:
            self._subscriptions[subject].add(subscription)
        try:
            yield subscription
        finally:
            for subject in subjects:
                self._subscriptions[subject].discard(subscription)
                if not self._subscriptions[subject]:
                    del self._subscriptions[subject]

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with _listening(self._connect, self._look) as connection:
                    if self._cursor is None:
                        self._cursor = Cursor(await connection.fetchval(_NOW, timeout=STATEMENT_SECONDS), -1)
                    self._running.set()
                    self._connected = True
                    while not connection.is_closed():
                        await self._read_all(connection)
                        failures = 0
                        await self._pause(POLL_SECONDS)
                logger.warning("The event listener lost its connection and starts anew")
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.warning("The event listener lost its connection and starts anew: %r", error)
            except Exception:
                # Whatever it is: a task that ended here would leave all subscribers waiting, and nobody knowing.
                logger.exception("The event listener failed, and starts anew")
            finally:
                self._connected = False
            await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
            failures += 1

    async def _read_all(self, connection: asyncpg.Connection) -> None:
        assert self._cursor is not None
        delay, slowest = UNSETTLED_SECONDS
        while True:
            rows = await connection.fetch(_NEW, str(self._cursor.xid), self._cursor.id, timeout=STATEMENT_SECONDS)
            settled = [Happening.of(row) for row in rows if row["settled"]]
            for happening in settled:
                self._hand_out(happening)
            if settled:
                self._cursor = settled[-1].cursor
            if not rows:
                return
            if len(settled) < len(rows):
                delay = UNSETTLED_SECONDS[0] if settled else min(2 * delay, slowest)
                await asyncio.sleep(delay)

    def _hand_out(self, happening: Happening) -> None:
        for subject in (happening.media, happening.session):
            for subscription in self._subscriptions.get(subject, ()) if subject else ():
                subscription.offer(happening)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            pass
        self._look.clear()


@asynccontextmanager
async def _listening(connect: Connect, look: asyncio.Event) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sets `look` at each notification, and when it ends."""
    connection = await connect()
    try:
        connection.add_termination_listener(lambda _: look.set())
        async with asyncio.timeout(STATEMENT_SECONDS):
            await connection.add_listener(CHANNEL, lambda *_: look.set())
        yield connection
    finally:
        connection.terminate()
