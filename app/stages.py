"""The stages of processing, and how each is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from piccolo.columns import Column
from piccolo.custom_types import Combinable

from app import events, jobs
from app.db import HeirloomTransaction, hydrate
from app.slots import PRIORITY_AGAIN
from app.tables import EventKind, Media, MediaStatus
from processing.failures import FailureCode


class Stage(StrEnum):
    QUEUED = "QUEUED"
    FETCHING = "FETCHING"
    ANALYZING = "ANALYZING"
    RENDERING = "RENDERING"
    STORING = "STORING"
    DONE = "DONE"


# How far along media is when a stage begins, by the time that the stages of a picture take.
PERCENT: Final = {
    Stage.QUEUED: 0,
    Stage.FETCHING: 5,
    Stage.ANALYZING: 10,
    Stage.RENDERING: 20,
    Stage.STORING: 85,
    Stage.DONE: 100,
}


@dataclass(frozen=True, slots=True)
class Failure:
    code: FailureCode
    message: str


async def report(
    transaction: HeirloomTransaction,
    kind: EventKind,
    media: Media,
    *,
    status: MediaStatus,
    stage: Stage,
    rendered: float = 0.0,
    failure: Failure | None = None,
) -> None:
    """Record that a media has come to this stage, with the change of its row; `rendered` is how far in RENDERING."""
    percent = PERCENT[stage] + int(rendered * (PERCENT[Stage.STORING] - PERCENT[Stage.RENDERING]))
    told: dict[str, Any] = {"status": status, "stage": stage, "percent": percent}
    if failure is not None:
        told["failure"] = {"code": failure.code, "message": failure.message}
    await events.record(transaction, kind, media=media.id, entity=media.entity, owner=media.owner, **told)


async def fail(
    transaction: HeirloomTransaction, which: Combinable, failure: Failure, now: datetime, *, lost: bool
) -> list[Media]:
    """Those of a where-clause are FAILED; `lost` when they have no bytes to go back to."""
    values: dict[Column | str, Any] = {
        Media.status: MediaStatus.FAILED.value,
        Media.failure_code: failure.code.value,
        Media.failure_message: failure.message,
        Media.updated_at: now,
    }
    if lost:
        # Whoever sends the bytes again gets media that has them, by the same key too, and in its place.
        values |= {Media.lost_at: now, Media.idempotency_key: None, Media.is_primary: False}
    media = await _change(which, values)
    for each in media:
        await report(transaction, EventKind.FAILED, each, status=MediaStatus.FAILED, stage=Stage.DONE, failure=failure)
    return media


async def start_over(
    transaction: HeirloomTransaction,
    which: Combinable,
    now: datetime,
    *,
    found: bool = False,
    priority: int = PRIORITY_AGAIN,
) -> list[Media]:
    """Those of a where-clause are processed again, with a fresh count of attempts; `found` when they were lost."""
    values: dict[Column | str, Any] = {
        Media.status: MediaStatus.UPLOADED.value,
        Media.processing_attempts: 0,
        Media.recipe: None,
        Media.failure_code: None,
        Media.failure_message: None,
        Media.updated_at: now,
    }
    media = await _change(which, values | ({Media.lost_at: None} if found else {}))
    for each in media:
        await jobs.enqueue_ingest(transaction, each, priority=priority)
        await report(transaction, EventKind.PROCESSING, each, status=MediaStatus.UPLOADED, stage=Stage.QUEUED)
    return media


async def _change(which: Combinable, values: dict[Column | str, Any]) -> list[Media]:
    return [hydrate(Media, row) for row in await Media.update(values).where(which).returning(*Media.all_columns())]


def failure_of(media: Media) -> Failure | None:
    if media.failure_code is None:
        return None
    return Failure(FailureCode(media.failure_code), media.failure_message or "")
