"""Rows put right where the storage has something else than they say: each by comparing and setting."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import asyncpg
from piccolo.columns import Column
from piccolo.custom_types import Combinable

from app import jobs, stages
from app.db import HeirloomTransaction, hydrate
from app.known_keys import Known
from app.piccolo_conf import DB
from app.slots import PRIORITY_AGAIN
from app.stages import Failure, Stage
from app.tables import EventKind, Media, MediaStatus, Variant
from processing.failures import FailureCode

GONE: Final = Failure(FailureCode.STORAGE, "The stored file is gone.")
SETTLED: Final = (MediaStatus.READY.value, MediaStatus.FAILED.value)


async def lose(row: Known, now: datetime) -> bool:
    """The original is gone. What is being processed is left to its worker, who will find out."""
    if row.status == MediaStatus.PROCESSING:
        return False
    values: dict[Column | str, Any] = {
        Media.status: MediaStatus.FAILED.value,
        Media.failure_code: GONE.code.value,
        Media.failure_message: GONE.message,
        Media.lost_at: now,
        Media.idempotency_key: None,  # whoever sends them again gets media that has its bytes
        Media.updated_at: now,
    }
    async with DB.transaction() as transaction:
        media = await _change(values, _unchanged(row) & Media.lost_at.is_null())
        if media is not None:
            await stages.report(
                transaction, EventKind.FAILED, media, status=MediaStatus.FAILED, stage=Stage.DONE, failure=GONE
            )
    return media is not None


async def find_again(row: Known, now: datetime) -> bool:
    """The original is back: it is processed anew. Not when something else has taken its place meanwhile."""
    found: dict[Column | str, Any] = {Media.lost_at: None, Media.updated_at: now}
    which = _unchanged(row) & Media.lost_at.is_not_null()
    try:
        async with DB.transaction() as transaction:
            if row.status in SETTLED:
                return await _process_again(transaction, which, found)
            return await _change(found, which) is not None
    except asyncpg.UniqueViolationError:  # the same bytes came again, or another avatar
        return False


async def drop_variant(row: Known, now: datetime) -> bool:
    """A variant is gone: its media makes new ones, unless it is just doing so or has no original either."""
    async with DB.transaction() as transaction:
        # The media first: so does a worker who has finished.
        which = (Media.id == row.media) & Media.status.is_in(list(SETTLED)) & Media.lost_at.is_null()
        await _process_again(transaction, which, {Media.updated_at: now})
        dropped = await Variant.delete().where(Variant.id == row.id).returning(Variant.id)
    return bool(dropped)


async def _process_again(transaction: HeirloomTransaction, which: Combinable, values: dict[Column | str, Any]) -> bool:
    """From the stored original, with a fresh count of attempts."""
    anew: dict[Column | str, Any] = {
        Media.status: MediaStatus.UPLOADED.value,
        Media.processing_attempts: 0,
        Media.failure_code: None,
        Media.failure_message: None,
    }
    media = await _change(values | anew, which)
    if media is None:
        return False
    await jobs.enqueue_ingest(transaction, media.id, priority=PRIORITY_AGAIN)
    await stages.report(transaction, EventKind.PROCESSING, media, status=MediaStatus.UPLOADED, stage=Stage.QUEUED)
    return True


def _unchanged(row: Known) -> Combinable:
    return (Media.id == row.media) & (Media.status == row.status) & (Media.storage_key == row.key)


async def _change(values: dict[Column | str, Any], which: Combinable) -> Media | None:
    rows = await Media.update(values).where(which).returning(*Media.all_columns())
    return hydrate(Media, rows[0]) if rows else None
