# ruff: noqa: S608 - the statements are put together from constants
"""Named places among the events: how far each consumer of all of them has come, and up to where they are deleted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

import asyncpg

from app.db import HeirloomTransaction
from app.events import SETTLED, Cursor, now
from app.piccolo_conf import DB

logger = logging.getLogger(__name__)

BATCH: Final = 5_000  # events deleted at once: some tenths of a second
# A consumer that is away keeps its events for so many times their retention: one that is gone for good, no longer.
PATIENCE: Final = 4

_FIND: Final = "SELECT xid::text::bigint AS xid, id FROM event_cursor WHERE name = $1"
_BEGIN: Final = "INSERT INTO event_cursor VALUES ($1, $2::text::xid8, $3) ON CONFLICT DO NOTHING"
_MOVE: Final = "UPDATE event_cursor SET xid = $2::text::xid8, id = $3 WHERE name = $1"
_DELETED: Final = f"{_FIND} FOR UPDATE SKIP LOCKED"
_NEEDED: Final = "SELECT xid::text::bigint AS xid, id FROM event_cursor WHERE name <> $1 ORDER BY 1, 2 LIMIT 1"
_OLDEST: Final = f"""
    SELECT xid::text::bigint AS xid, id, occurred_at FROM event
    WHERE (event.xid, event.id) > ($1::text::xid8, $2) AND {SETTLED} ORDER BY event.xid, event.id LIMIT {BATCH}
"""
_DELETE: Final = """
    DELETE FROM event WHERE (xid, id) > ($1::text::xid8, $2) AND (xid, id) <= ($3::text::xid8, $4)
"""
DELETED: Final = "deleted"


@dataclass(frozen=True, slots=True)
class Consumer:
    """One that reads all events, and whose place is kept: by this name, and over the connection that it works with."""

    name: str
    connection: asyncpg.Connection

    async def place(self) -> Cursor:
        """Where it has come to; the first time, the present. What was deleted meanwhile is passed over, and told."""
        present = await now(self.connection)
        await self.connection.execute(_BEGIN, self.name, str(present.xid), present.id)
        kept, deleted = await self._find(self.name), await self._find(DELETED)
        if kept < deleted:
            logger.error("“%s” was away for so long that events it had not read are deleted", self.name)
        return max(kept, deleted)

    async def move(self, place: Cursor) -> None:
        await self.connection.execute(_MOVE, self.name, str(place.xid), place.id)

    async def _find(self, name: str) -> Cursor:
        return Cursor(*await self.connection.fetchrow(_FIND, name))


async def delete_expired(retention: timedelta, present: datetime) -> None:
    """Events older than the retention, in commit order; those that a consumer has still to read stay for some more."""
    while await _delete_some(present - retention, present - PATIENCE * retention) == BATCH:
        pass


async def _delete_some(old: datetime, too_old: datetime) -> int:
    async with DB.transaction() as transaction:
        found = await transaction.connection.fetchrow(_DELETED, DELETED)
        if found is None:
            return 0  # another worker is at it
        start = Cursor(*found)
        needed = await _needed(transaction)
        rows = await transaction.connection.fetch(_OLDEST, str(start.xid), start.id)

        def is_over(row: asyncpg.Record) -> bool:
            read = needed is None or Cursor(row["xid"], row["id"]) <= needed
            return bool(row["occurred_at"] < (old if read else too_old))

        # In commit order and without a gap, so that one place says what is gone.
        over = list(takewhile(is_over, rows))
        if over:
            end = Cursor(over[-1]["xid"], over[-1]["id"])
            await transaction.connection.execute(_DELETE, str(start.xid), start.id, str(end.xid), end.id)
            await transaction.connection.execute(_MOVE, DELETED, str(end.xid), end.id)
        return len(over)


async def _needed(transaction: HeirloomTransaction) -> Cursor | None:
    """Up to here all consumers have read; None when there are none."""
    row = await transaction.connection.fetchrow(_NEEDED, DELETED)
    return Cursor(*row) if row else None
