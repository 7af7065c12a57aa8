"""Connections: a page of rows as Relay's clients know it (GraphQL Cursor Connections Specification)."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import strawberry

from app.keyset import Page

T = TypeVar("T")
Parent = strawberry.Parent[Page[Any]]


@strawberry.type
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@strawberry.type
class Edge(Generic[T]):
    cursor: str
    node: T


@strawberry.type
class Connection(Generic[T]):
    """A view of a Page: Strawberry names that of persons `PersonConnection`, and its edges `PersonEdge`."""

    @strawberry.field
    def edges(self, root: Parent) -> list[Edge[T]]:
        return [Edge(cursor=root.order.cursor(row), node=row) for row in root.rows]

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
