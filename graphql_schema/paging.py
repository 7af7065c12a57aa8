"""Connections: a page of rows as Relay's clients know it (GraphQL Cursor Connections Specification)."""

from __future__ import annotations

from typing import TypeVar

import strawberry
from piccolo.table import Table

from app.keyset import Page

T = TypeVar("T", bound=Table)


@strawberry.type
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


def page_info(page: Page[T]) -> PageInfo:
    rows = page.rows
    return PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=page.order.cursor(rows[0]) if rows else None,
        end_cursor=page.order.cursor(rows[-1]) if rows else None,
    )
