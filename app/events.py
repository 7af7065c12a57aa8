# ruff: noqa: S608 - the statements are put together from constants of this file
"""What happened: an append-only table, written with what it tells of, and read in commit order.

A writer inserts in its own transaction; the NOTIFY beside it says "look" and nothing else: see `app.event_hub`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg
import orjson
from piccolo.querystring import QueryString

from app import audience
from app.access import Viewer
from app.audience import Listener, Present
from app.db import HeirloomTransaction
from app.errors import CursorExpired
from app.piccolo_conf import DB
from app.tables import EventKind, Media, one_of

CHANNEL: Final = "heirloom_event"
STATEMENT_SECONDS: Final = 10.0  # a half-open link answers nothing: give it up
BATCH: Final = 500  # events that the hub reads at once
QUEUE: Final = 100  # events that a subscriber may lag behind before it reads the table for itself, so many at once

LAST_ID: Final = 2**63 - 1  # of PostgreSQL's bigint


class Cursor(NamedTuple):
    """A place in commit order: the writing transaction's id, then the event's."""

    xid: int
    id: int


@dataclass(frozen=True, slots=True)
class Happening:
    """One event as read from the table; `subjects` are what and whom it concerns: by these it is subscribed to.

    Whom, and `row`, the media as it was when this was read, only where somebody follows: see `attended`.
    """

    cursor: Cursor
    kind: EventKind
    media: uuid.UUID | None
    entity: uuid.UUID | None
    owner: uuid.UUID | None
    session: uuid.UUID | None
    data: dict[str, Any]
    occurred_at: datetime
    could_see: frozenset[Listener]
    subjects: frozenset[Listener]
    row: Media | None = field(default=None, compare=False, repr=False)
    read_at: float = field(default_factory=time.monotonic, compare=False)

    @classmethod
    def of(cls, row: asyncpg.Record) -> Happening:
        return cls(
            Cursor(row["xid"], row["id"]),
            EventKind(row["kind"]),
            row["media"],
            row["entity"],
            row["owner"],
            row["session"],
            orjson.loads(row["data"]),
            row["occurred_at"],
            audience.then(row),
            _about(row["media"], row["session"]),
        )


def _about(*subjects: uuid.UUID | None) -> frozenset[Listener]:
    return frozenset(subject for subject in subjects if subject is not None)


# Where the media is by now, which a worker that began long ago need not know; or was, when it is gone. With what its
# audience is known by then, and could not be asked any more.
_INSERT: Final = f"""
    WITH told AS (
        INSERT INTO event (kind, media, entity, owner, session, data, occurred_at, entity_owner, is_public)
        SELECT {{}}, place.media, place.entity, {{}}::uuid, {{}}::uuid, {{}}::text::jsonb, now(),
            (SELECT owner FROM entity WHERE id = place.entity),
            EXISTS (SELECT FROM media WHERE media.id = place.media AND {{}})
        FROM (
            SELECT given.id AS media, CASE WHEN media.id IS NULL THEN {{}}::uuid ELSE media.entity END AS entity
            FROM (SELECT {{}}::uuid AS id) AS given LEFT JOIN media ON media.id = given.id
        ) AS place
        RETURNING id
    )
    SELECT pg_notify('{CHANNEL}', '') FROM told
"""

# Transactions commit in another order than they began. Below the snapshot's xmin all are over, so what is read there is
# complete, and nothing will appear before a cursor that has been passed. (For this every writer commits durably: with
# synchronous_commit off, a crash loses transactions that listeners have read, and their ids are given out once more.)
SETTLED: Final = "event.xid < pg_snapshot_xmin(pg_current_snapshot())"
_COLUMNS: Final = """event.xid::text::bigint AS xid, event.id, event.kind, event.media, event.entity, event.owner,
    event.session, event.data::text AS data, event.occurred_at, event.entity_owner, event.is_public"""
# While a deployment is being renewed, a process of its next version may write what this one doesn't know.
_KNOWN: Final = one_of("event.kind", EventKind)
_BEHIND: Final = f"(event.xid, event.id) > ({{}}::text::xid8, {{}}) AND {_KNOWN}"
_IN_ORDER: Final = "ORDER BY event.xid, event.id LIMIT"
_NEW: Final = f"SELECT {_COLUMNS}, {SETTLED} AS settled FROM event WHERE {_BEHIND} {_IN_ORDER} {BATCH}"
# One branch for each index: put together by OR, all that is behind the cursor would be read and sorted.
_BRANCH: Final = f"(SELECT event.xid, event.id FROM event WHERE {{}} AND {_BEHIND} AND {SETTLED} {_IN_ORDER} {QUEUE})"
_CHOSEN: Final = f"""
    WITH chosen AS ({{}})
    SELECT {_COLUMNS} FROM chosen JOIN event USING (xid, id) {_IN_ORDER} {QUEUE}
"""
_LATEST_ABOUT: Final = f"""
    SELECT {_COLUMNS} FROM event WHERE event.media = {{}} AND event.kind = ANY({{}})
    ORDER BY event.xid DESC, event.id DESC LIMIT 1
"""
_NOW: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_SETTLED_XID: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1 AS xid"
_IS_PAST: Final = "SELECT {}::text::xid8 < pg_snapshot_xmin(pg_current_snapshot()) AS is_past"
_DELETED: Final = """
    SELECT (xid, id) > ({}::text::xid8, {}) AS too_far FROM event_cursor WHERE name = 'deleted'
"""


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
    """Write the event after what it tells of, in the same transaction, and wake the listeners when that commits."""
    told = (kind.value, owner, session, orjson.dumps(data).decode())
    statement = QueryString(_INSERT, *told, audience.IS_PUBLIC, entity, media)
    query, arguments = statement.compile_string()
    await transaction.connection.execute(query, *arguments)


async def latest(media: uuid.UUID, kinds: Sequence[EventKind]) -> Happening | None:
    """The last event of these kinds about a media."""
    found = await _read(QueryString(_LATEST_ABOUT, media, [kind.value for kind in kinds]))
    return found[0] if found else None


async def settled() -> Cursor:
    """Behind this comes all that commits from now on; and what has by now, while an older transaction is open."""
    rows = await DB.run_querystring(QueryString(_SETTLED_XID))
    return Cursor(rows[0]["xid"], LAST_ID)


async def is_past(cursor: Cursor) -> bool:
    """Whether a listener can have come to this place; not, when the cursor is another database's."""
    rows = await DB.run_querystring(QueryString(_IS_PAST, str(cursor.xid)))
    return bool(rows[0]["is_past"])


async def attended(happenings: Sequence[Happening]) -> list[Happening]:
    """The same with the media as they are at this moment, and whom they concern by that."""
    present = await audience.present({each.media for each in happenings if each.media is not None})
    return [each if each.media is None else _attended(each, present.get(each.media)) for each in happenings]


def _attended(happening: Happening, now: Present | None) -> Happening:
    subjects = audience.of(happening.could_see, now) | _about(happening.media, happening.session)
    return replace(happening, subjects=subjects, row=now.media if now else None, read_at=time.monotonic())


async def read_about(subjects: Sequence[Listener], after: Cursor) -> list[Happening]:
    """Up to QUEUE events about these media and sessions behind the cursor, in commit order. Raises CursorExpired."""
    about = list(subjects)
    return await _read_chosen(after, QueryString("media = ANY({})", about), QueryString("session = ANY({})", about))


async def read_for(viewer: Viewer, entity: uuid.UUID | None, after: Cursor) -> list[Happening]:
    """Up to QUEUE events behind the cursor, all that may concern the viewer (of media at an entity) among them.

    In commit order. Raises CursorExpired.
    """
    if entity is not None:
        about = [QueryString("entity = {}", entity)]
    elif viewer.is_admin:
        about = [QueryString("media IS NOT NULL")]
    else:
        about = [
            QueryString("owner = {}", viewer.id),
            QueryString("entity_owner = {} AND entity_owner <> owner", viewer.id),
            QueryString("is_public"),
        ]
    return await attended(await _read_chosen(after, QueryString("session = {}", viewer.session_id), *about))


async def _read_chosen(after: Cursor, *conditions: QueryString) -> list[Happening]:
    branches = [QueryString(_BRANCH, condition, str(after.xid), after.id) for condition in conditions]
    chosen = QueryString(" UNION ".join(["{}"] * len(branches)), *branches)
    found = await _read(QueryString(_CHOSEN, chosen))
    # Asked afterwards: had anything behind the cursor been deleted before it was read, it would show.
    if (await DB.run_querystring(QueryString(_DELETED, str(after.xid), after.id)))[0]["too_far"]:
        raise CursorExpired("This cursor is older than the events that are kept. Read anew what there is.", "after")
    return found


async def now(connection: asyncpg.Connection) -> Cursor:
    """Behind this all comes that commits from now on."""
    return Cursor(await connection.fetchval(_NOW, timeout=STATEMENT_SECONDS), -1)


async def read_new(connection: asyncpg.Connection, after: Cursor) -> tuple[list[Happening], bool]:
    """Events of all kinds behind the cursor, BATCH at most; and whether there are some that can't be told yet.

    These wait for transactions that began before theirs and are still open.
    """
    query, arguments = QueryString(_NEW, str(after.xid), after.id).compile_string()
    rows = await connection.fetch(query, *arguments, timeout=STATEMENT_SECONDS)
    settled = [Happening.of(row) for row in rows if row["settled"]]
    return settled, len(settled) < len(rows)


async def _read(statement: QueryString) -> list[Happening]:
    return [Happening.of(row) for row in await DB.run_querystring(statement)]
