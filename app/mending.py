"""Rows put right where the storage has something else than they say: each by comparing and setting."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

import asyncpg
from piccolo.columns import Column
from piccolo.custom_types import Combinable

from app import entities, events, stages
from app.db import HeirloomTransaction
from app.known_keys import Known
from app.piccolo_conf import DB
from app.stages import Failure
from app.tables import EventKind, Media, MediaStatus, Variant
from processing.failures import FailureCode

GONE: Final = Failure(FailureCode.STORAGE, "The stored file is gone.")
SETTLED: Final = (MediaStatus.READY.value, MediaStatus.FAILED.value)


async def lose(row: Known, now: datetime) -> bool:
    """The original is gone. What is being processed is left to its worker, who will find out."""
    if row.status == MediaStatus.PROCESSING:
        return False
    async with DB.transaction() as transaction:
        which = _unchanged(row) & Media.lost_at.is_null()
        return bool(await stages.fail(transaction, which, GONE, now, lost=True))


async def find_again(row: Known, now: datetime) -> bool:
    """The original is back: it is processed anew. Not when something else has taken its place meanwhile."""
    which = _unchanged(row) & Media.lost_at.is_not_null()
    try:
        async with DB.transaction() as transaction:
            if row.status in SETTLED:
                return bool(await stages.start_over(transaction, which, now, found=True))
            found: dict[Column | str, Any] = {Media.lost_at: None, Media.updated_at: now}
            places = [each["entity"] for each in await Media.update(found).where(which).returning(Media.entity)]
            for place in places:
                if place is not None:
                    await entities.tell(transaction, place)
            return bool(places)
    except asyncpg.UniqueViolationError:  # the same bytes came again, or another avatar
        return False


async def drop_variant(row: Known, now: datetime) -> bool:
    """A variant is gone: its media makes new ones, unless it is just doing so or has no original either."""
    async with DB.transaction() as transaction:
        # The media first: so does a worker who has finished.
        which = (Media.id == row.media) & Media.status.is_in(list(SETTLED)) & Media.lost_at.is_null()
        begun = await stages.start_over(transaction, which, now)
        dropped = await Variant.delete().where(Variant.id == row.id).returning(Variant.id)
        if dropped and not begun:
            await _tell(transaction, row.media)
    return bool(dropped)


async def _tell(transaction: HeirloomTransaction, media_id: uuid.UUID) -> None:
    for row in await Media.select(Media.entity, Media.owner).where(Media.id == media_id):
        await events.record(transaction, EventKind.UPDATED, media=media_id, entity=row["entity"], owner=row["owner"])


def _unchanged(row: Known) -> Combinable:
    return (Media.id == row.media) & (Media.status == row.status) & (Media.storage_key == row.key)
