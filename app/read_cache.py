# ruff: noqa: S608 - the statement is put together from constants of this file
"""Rows that are read again and again, kept in a process's memory for as long as they are what the tables have.

What changes any of them records an event in its own transaction (see `app.events`). Before an operation is answered
from here, one statement asks which events have come since the last one asked, and what they concern is dropped: so
whatever was committed before the operation began shows, by whichever process, and nothing has to be heard in time.

A read is kept for one viewer alone. Rows are kept and never URLs, which are signed at each answer; nobody who is given
rows changes them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import orjson
from piccolo.querystring import QueryString
from piccolo.table import Table

from app.access import Viewer
from app.db import Fetched
from app.events import Cursor
from app.keyset import Page
from app.piccolo_conf import DB

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T", bound=Table)

MOST_NEWS: Final = 500  # events read at once: whoever is behind by more forgets all that is kept
MOST_CHARACTERS: Final = 1_000  # of what tells a read from others; a client may make it as long as its request
ROW_BYTES: Final = 4_096  # of texts and metadata; nearly all rows have fewer, and one may have 100,000

Key: TypeAlias = tuple[Any, ...]
Fetch: TypeAlias = Callable[[list[K]], Awaitable[Mapping[K, V]]]

# In commit order, as far as they are settled: see `events.SETTLED`. One row at least, for the first two columns.
_NEWS: Final = f"""
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled_below,
        (deleted.xid, deleted.id) > ({{}}::text::xid8, {{}}) AS too_far, news.*
    FROM event_cursor AS deleted LEFT JOIN (
        SELECT event.xid::text::bigint AS xid, event.id, event.media, event.entity, event.owner FROM event
        WHERE (event.xid, event.id) > ({{}}::text::xid8, {{}}) ORDER BY event.xid, event.id LIMIT {MOST_NEWS + 1}
    ) AS news ON TRUE
    WHERE deleted.name = 'deleted'
"""
_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Entry:
    """`about` are the media, entities and users whose events may change it."""

    value: Any
    rows: int
    about: frozenset[uuid.UUID]


@dataclass(eq=False, slots=True)
class Fill:
    """A read under way, and what has changed since it began: of that it may have seen the state before."""

    changed: set[uuid.UUID] = field(default_factory=set)
    is_void: bool = False


class ReadCache:
    """Of a process: up to so many rows in all, those that were asked for last."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._cursor = Cursor(0, -1)  # what is kept is as it was after all events up to here, and those seen behind it
        self._seen: frozenset[Cursor] = frozenset()
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._about: dict[uuid.UUID, set[Key]] = defaultdict(set)
        self._fills: set[Fill] = set()
        self.rows = 0

    def reads_of(self, viewer: Viewer | None) -> Reads:
        return Reads(self if self._most_rows else None, viewer)

    async def catch_up(self) -> None:
        """Drop what has changed by now. Any number may do so at once."""
        asked = self._cursor
        found = await DB.run_querystring(QueryString(_NEWS, *_said(asked), *_said(asked)))
        settled_below = found[0]["settled_below"]
        news = [row for row in found if row["id"] is not None]
        # The last: the database was put back to an earlier state, or another one was put in its place.
        if found[0]["too_far"] or len(news) > MOST_NEWS or settled_below < asked.xid:
            self._drop_all()
            self._cursor, self._seen = Cursor(settled_below, -1), frozenset()
            return
        places = [Cursor(row["xid"], row["id"]) for row in news]
        for place, row in zip(places, news, strict=True):
            if place not in self._seen:
                self._drop({row["media"], row["entity"], row["owner"]} - {None})
        settled = [place for place in places if place.xid < settled_below]
        # Others may still commit before these: they are read again, and concern only what was there the first time.
        self._seen = frozenset(places[len(settled) :])
        if settled:
            self._cursor = settled[-1]

    def find(self, key: Key) -> Any:
        """Its value, or `_NOTHING`."""
        entry = self._entries.get(key)
        if entry is None:
            return _NOTHING
        self._entries.move_to_end(key)
        return entry.value

    @contextmanager
    def filling(self) -> Iterator[Fill]:
        """For the time of a read whose result is to be kept."""
        fill = Fill()
        self._fills.add(fill)
        try:
            yield fill
        finally:
            self._fills.discard(fill)

    def keep(self, fill: Fill, key: Key, value: Any, about: Iterable[uuid.UUID]) -> None:
        """Unless what it is about has changed since the read began."""
        entry = Entry(value, _rows(value), frozenset(about))
        if fill.is_void or not entry.about.isdisjoint(fill.changed):
            return
        self._remove(key)
        self._entries[key] = entry
        self.rows += entry.rows
        for subject in entry.about:
            self._about[subject].add(key)
        while self.rows > self._most_rows:
            self._remove(next(iter(self._entries)))

    def _drop(self, changed: Collection[uuid.UUID]) -> None:
        for fill in self._fills:
            fill.changed.update(changed)
        for subject in changed:
            for key in [*self._about.get(subject, ())]:
                self._remove(key)

    def _drop_all(self) -> None:
        for fill in self._fills:
            fill.is_void = True
        self._entries.clear()
        self._about.clear()
        self.rows = 0

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.rows -= entry.rows
        for subject in entry.about:
            self._about[subject].discard(key)
            if not self._about[subject]:
                del self._about[subject]


class Reads:
    """Those of one operation: from the tables, until it has caught up."""

    def __init__(self, cache: ReadCache | None, viewer: Viewer | None) -> None:
        self._cache = cache
        self._who = (viewer.id, viewer.role) if viewer else None
        self._turn = asyncio.Lock()
        self._caught_up = False

    async def catch_up(self) -> None:
        """Let what is kept answer from now on. To be called by what only reads: a write is to see itself."""
        if self._cache is None or self._caught_up:
            return
        async with self._turn:
            if not self._caught_up:
                await self._cache.catch_up()
                self._caught_up = True

    async def page(
        self, name: str, about: uuid.UUID, which: Key, place: Key, read: Callable[[], Awaitable[Page[T]]]
    ) -> Page[T]:
        """The page of a list at a place (its order, first and after), and its count, which is the same at all places.

        `which` tells the list from others; events of `about` tell that it has changed.
        """
        page = await self._one((name, about, *which, *place), about, read)
        return replace(page, count=lambda: self._one((f"number of {name}", about, *which), about, page.count))

    def kept(self, name: str, about: Callable[[K, V], Iterable[uuid.UUID]]) -> Callable[[Fetch[K, V]], Fetch[K, V]]:
        """Rows by key, fetched where they aren't kept; `about` says of a key and its rows whose events change them."""
        return lambda fetch: partial(self._each, name, about, fetch)

    async def _one(self, key: Key, about: uuid.UUID, read: Callable[[], Awaitable[V]]) -> V:
        cache, told = self._cache, repr(key)
        if cache is None or not self._caught_up or len(told) > MOST_CHARACTERS:
            return await read()
        whose = (self._who, told)
        found: V = cache.find(whose)
        if found is _NOTHING:
            with cache.filling() as fill:
                found = await read()
                cache.keep(fill, whose, found, [about])
        return found

    async def _each(
        self, name: str, about: Callable[[K, V], Iterable[uuid.UUID]], fetch: Fetch[K, V], keys: list[K]
    ) -> Mapping[K, V]:
        cache = self._cache
        if cache is None or not self._caught_up:
            return await fetch(keys)
        found = {key: cache.find((self._who, name, key)) for key in keys}
        if missing := [key for key, value in found.items() if value is _NOTHING]:
            with cache.filling() as fill:
                found |= (read := await fetch(missing))
                for key, value in read.items():
                    cache.keep(fill, (self._who, name, key), value, about(key, value))
        return found


def _said(cursor: Cursor) -> tuple[str, int]:
    return str(cursor.xid), cursor.id


def _rows(value: Any) -> int:
    """By which its size is counted: one for what isn't there, too, and several for a row that is long."""
    if isinstance(value, Table | Fetched):
        columns = vars(value) if isinstance(value, Table) else value
        texts = (each for each in columns.values() if isinstance(each, str | list | dict))
        return 1 + sum(len(each) if isinstance(each, str) else len(orjson.dumps(each)) for each in texts) // ROW_BYTES
    several = value.rows if isinstance(value, Page) else value if isinstance(value, list) else ()
    return 1 + sum(_rows(each) for each in several)
