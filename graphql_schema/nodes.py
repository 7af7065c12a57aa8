"""What has an id of its own."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import strawberry

from app import tables
from app.db import is_of
from app.errors import BadInput
from app.tables import UserRole


@strawberry.interface
class Node:
    id: strawberry.ID


@strawberry.type
class User(Node):
    display_name: str
    role: UserRole
    created_at: datetime

    @classmethod
    def is_type_of(cls, row: Any, _info: Any) -> bool:
        return is_of(row, tables.UserAccount)


def as_uuid(given: strawberry.ID) -> uuid.UUID | None:
    """None for what can't be an id of ours: it names nothing, as an unknown one does."""
    try:
        return uuid.UUID(given)
    except ValueError:
        return None


# No row has it: what is asked for by an id that is none is not found, by the way that leads there anyway.
NO_ID = uuid.UUID(int=0)


def known(given: strawberry.ID) -> uuid.UUID:
    return as_uuid(given) or NO_ID


def known_each(given: Sequence[strawberry.ID], most: int) -> list[uuid.UUID]:
    """Raises BadInput for more ids than are taken at once."""
    if len(given) > most:
        raise BadInput(f"Up to {most} ids at once.", "ids")
    return [known(one) for one in given]
