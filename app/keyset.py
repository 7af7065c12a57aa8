"""Lists in pages that hold while rows come and go: a page begins after a row's sort key, not after a count."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Any, Generic, TypeVar

import orjson
from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable
from piccolo.table import Table

from app.db import fetch
from app.errors import BadInput

T = TypeVar("T", bound=Table)


@dataclass(frozen=True, slots=True)
class SortKey:
    """One expression of an order: the SQL, its type there, and how a row and a cursor tell its value."""

    sql: str
    sql_type: str
    value: Callable[[Any], Any]
    parse: Callable[[Any], Any]


def instant(raw: Any) -> datetime:
    return datetime.fromisoformat(raw).astimezone(UTC)


def integer(raw: Any) -> int:
    """Raises ValueError for what PostgreSQL's integer doesn't hold."""
    number = int(raw)
    if not -(2**31) <= number < 2**31:
        raise ValueError(raw)
    return number


def created(table: str) -> SortKey:
    return SortKey(f"{table}.created_at", "timestamptz", lambda row: row.created_at, instant)


def identity(table: str) -> SortKey:
    # As text: orjson knows Python's UUID, and not asyncpg's subclass of it.
    return SortKey(f"{table}.id", "uuid", lambda row: str(row.id), uuid.UUID)


@dataclass(frozen=True, slots=True)
class Order:
    """A total order: the last key is unique, and all run the same way, so that one row comparison says "after"."""

    name: str
    keys: tuple[SortKey, ...]
    descending: bool

    @property
    def sql(self) -> str:
        return ", ".join(f"{key.sql} {'DESC' if self.descending else 'ASC'}" for key in self.keys)

    def cursor(self, row: Table) -> str:
        values = [self.name, *(key.value(row) for key in self.keys)]
        return base64.urlsafe_b64encode(orjson.dumps(values)).rstrip(b"=").decode()

    def after(self, cursor: str) -> Combinable:
        """The rows behind the cursor's. Raises BadInput for a cursor that this order didn't make."""
        left = ", ".join(key.sql for key in self.keys)
        right = ", ".join(f"{{}}::{key.sql_type}" for key in self.keys)
        return WhereRaw(f"({left}) {'<' if self.descending else '>'} ({right})", *self._values(cursor))

    def _values(self, cursor: str) -> list[Any]:
        try:
            name, *raw = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if name == self.name and len(raw) == len(self.keys):
                return [key.parse(value) for key, value in zip(self.keys, raw, strict=True)]
        except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
            pass
        raise BadInput("This cursor is not one of this list in this order.", "after")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list, and what is needed to go on. `count` asks the database only when it is called."""

    rows: list[T]
    order: Order
    has_next: bool
    has_previous: bool
    count: Callable[[], Awaitable[int]] = field(repr=False)


async def page(
    table: type[T],
    where: Combinable,
    ways: Sequence[Combinable] = (),
    *,
    columns: tuple[str, ...] = (),
    order: Order,
    first: int | None,
    after: str | None,
    most: int,
) -> Page[T]:
    """Up to `first` rows (30 unless given, `most` at most) behind the cursor `after`.

    `where` says which rows there are, and may be all of it; given `ways`, a row must also be found by one of them, and
    may be by several. Rows have all columns, or those given, the order's among them. Raises BadInput for a `first` out
    of bounds or a cursor of another list.
    """
    size = 30 if first is None else first
    if not 0 <= size <= most:
        raise BadInput(f"`first` is from 0 to {most}.", "first")
    here = where if after is None else where & order.after(after)
    if ways:
        here = _found_by(table, ways, here, order, size + 1)
    found = await fetch(table, here, f"ORDER BY {order.sql} LIMIT {size + 1}", columns=columns)

    async def count() -> int:
        counted: int = await table.count().where(where & reduce(or_, ways) if ways else where)
        return counted

    return Page(found[:size], order, has_next=len(found) > size, has_previous=after is not None, count=count)


def _found_by(table: type[Table], ways: Sequence[Combinable], where: Combinable, order: Order, most: int) -> Combinable:
    """The first rows of each way: among them are the first of all.

    For one condition, its parts joined by OR, PostgreSQL reads and sorts every row that somebody may see, as no index
    has them in this order. What a way gives comes from its index, and ends with the limit.
    """
    if len(ways) == 1:
        return ways[0] & where
    name, direction = table._meta.tablename, "DESC" if order.descending else "ASC"
    keys = ", ".join(f"{key.sql} AS key_{place}" for place, key in enumerate(order.keys))
    first = f"ORDER BY {', '.join(f'key_{place} {direction}' for place in range(len(order.keys)))} LIMIT {most}"
    # All that is not a parameter is our own: the names of a table and of an order's columns.
    each = f"(SELECT {name}.id, {keys} FROM {name} WHERE {{}} {first})"  # noqa: S608
    chosen = f"SELECT found.id FROM ({' UNION '.join([each] * len(ways))}) AS found {first}"  # noqa: S608
    return WhereRaw(f"{name}.id IN ({chosen})", *(way & where for way in ways))
