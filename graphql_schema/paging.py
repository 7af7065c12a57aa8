"""Connections: a page of rows as Relay's clients know it (GraphQL Cursor Connections Specification)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import strawberry

from app.keyset import Order, Page

T = TypeVar("T")
Parent = strawberry.Parent[Page[Any]]


@strawberry.type
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@dataclass(slots=True)
class PlacedRow:
    """A row, and the order that tells its cursor when somebody asks for it."""

    order: Order
    node: Any

    @property
    def cursor(self) -> str:
        return self.order.cursor(self.node)


@strawberry.type
class Edge(Generic[T]):
    """A view of a PlacedRow."""

    cursor: str
    node: T


@strawberry.type
class Connection(Generic[T]):
    """A view of a Page: Strawberry names that of persons `PersonConnection`, and its edges `PersonEdge`."""

    @strawberry.field
    def edges(self, root: Parent) -> list[Edge[T]]:
        return cast("list[Edge[T]]", [PlacedRow(root.order, row) for row in root.rows])

    @strawberry.field
    def nodes(self, root: Parent) -> list[T]:
        return cast("list[T]", root.rows)

    @strawberry.field
    def page_info(self, root: Parent) -> PageInfo:
        rows = root.rows
        return PageInfo(
            has_next_page=root.has_next,
            has_previous_page=root.has_previous,
            start_cursor=root.order.cursor(rows[0]) if rows else None,
            end_cursor=root.order.cursor(rows[-1]) if rows else None,
        )
