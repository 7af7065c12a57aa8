"""One hub a process, that tells its subscribers what happens.

It listens and also polls, and reads what is new in commit order: a notification lost, or a listener that died, costs
time and no event.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import asyncpg

from app import audience, metrics
from app.access import Viewer
from app.audience import Listener
from app.events import (
    CHANNEL,
    QUEUE,
    STATEMENT_SECONDS,
    Cursor,
    Happening,
    attended,
    now,
    read_about,
    read_for,
    read_new,
)

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 2.0  # what a lost notification costs at most
UNSETTLED_SECONDS: Final = (0.01, 0.5)  # a transaction that began earlier is still open: look again, ever less often
RECONNECT_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)

Connect = Callable[[], Awaitable[asyncpg.Connection]]


@dataclass(eq=False, slots=True)
class Subscription:
    """What one listener wants to hear of, and has not heard yet: bounded, and never losing.

    When its queue is full the hub stops filling it, and the listener reads the table from its own cursor until it has
    caught up: a slow one costs its own time, and no memory.
    """

    subjects: frozenset[Listener]
    cursor: Cursor
    _read: Callable[[Cursor], Awaitable[list[Happening]]]
    _behind: bool
    _queue: deque[Happening] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

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
                    if not self.subjects.isdisjoint(happening.subjects):
                        return happening
            if self._behind:
                await self._catch_up()
                continue
            self._wake.clear()
            await self._wake.wait()

    async def _catch_up(self) -> None:
        """May be cut off at any moment: it stays behind, and is read again."""
        self._wake.clear()
        missed = await self._read(self.cursor)
        self._queue.extend(missed)
        # Caught up, unless there is more, or the hub has offered what was not read any more.
        self._behind = len(missed) == QUEUE or self._wake.is_set()


class EventHub:
    """Listens for a whole process, over one connection of its own; LISTEN needs a session, not a pool."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._subscriptions: dict[Listener, set[Subscription]] = defaultdict(set)
        self._followers = 0
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

    def subscribe(self, *subjects: uuid.UUID) -> AbstractContextManager[Subscription]:
        """Events about these media and sessions that commit from now on."""
        return self._subscribed(frozenset(subjects), partial(read_about, subjects))

    @contextmanager
    def follow(self, viewer: Viewer, *, entity: uuid.UUID | None, after: Cursor | None) -> Iterator[Subscription]:
        """Events of media that the viewer can see, and the end of the session, behind a cursor or from now on.

        Those behind the cursor are of media at the entity; those that happen from now on are of any.
        """
        subjects = frozenset((*audience.names(viewer), viewer.session_id))
        with self._subscribed(subjects, partial(read_for, viewer, entity), after) as subscription:
            self._followers += 1
            try:
                yield subscription
            finally:
                self._followers -= 1

    @contextmanager
    def _subscribed(
        self,
        subjects: frozenset[Listener],
        read: Callable[[Cursor], Awaitable[list[Happening]]],
        after: Cursor | None = None,
    ) -> Iterator[Subscription]:
        assert self._cursor is not None, "the hub has been started"
        subscription = Subscription(subjects, after or self._cursor, read, _behind=after is not None)
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
                async with listening(self._connect, self._look) as connection:
                    if self._cursor is None:
                        self._cursor = await now(connection)
                    self._running.set()
                    self._connected = True
                    metrics.hub_listens(True)
                    while not connection.is_closed():
                        await self._read_all(connection)
                        failures = 0
                        await pause(self._look, POLL_SECONDS)
                logger.warning("The event listener lost its connection and starts anew")
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.warning("The event listener lost its connection and starts anew: %r", error)
            except Exception:
                # Whatever it is: a task that ended here would leave all subscribers waiting, and nobody knowing.
                logger.exception("The event listener failed, and starts anew")
            finally:
                self._connected = False
                metrics.hub_listens(False)
            await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
            failures += 1

    async def _read_all(self, connection: asyncpg.Connection) -> None:
        assert self._cursor is not None
        delay, slowest = UNSETTLED_SECONDS
        while True:
            settled, open_before = await read_new(connection, self._cursor)
            metrics.events_read([each.occurred_at.timestamp() for each in settled])
            for happening in await attended(settled) if self._followers else settled:
                self._hand_out(happening)
            if settled:
                self._cursor = settled[-1].cursor
            if not settled and not open_before:
                return
            if open_before:
                delay = UNSETTLED_SECONDS[0] if settled else min(2 * delay, slowest)
                await asyncio.sleep(delay)

    def _hand_out(self, happening: Happening) -> None:
        concerned = {
            subscription for subject in happening.subjects for subscription in self._subscriptions.get(subject, ())
        }
        for subscription in concerned:
            subscription.offer(happening)
        metrics.event_handed_out(len(concerned))


@asynccontextmanager
async def listening(connect: Connect, look: asyncio.Event) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sets `look` at each notification, and when it ends."""
    connection = await connect()
    try:
        connection.add_termination_listener(lambda _: look.set())
        async with asyncio.timeout(STATEMENT_SECONDS):
            await connection.add_listener(CHANNEL, lambda *_: look.set())
        yield connection
    finally:
        connection.terminate()


async def pause(look: asyncio.Event, seconds: float) -> None:
    """Until `look` is set, or for so long."""
    try:
        async with asyncio.timeout(seconds):
            await look.wait()
    except TimeoutError:
        pass
    look.clear()
