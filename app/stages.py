"""The stages of processing, and how each is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from app import events
from app.db import HeirloomTransaction
from app.tables import EventKind, Media, MediaStatus
from processing.failures import FailureCode


class Stage(StrEnum):
    QUEUED = "QUEUED"
    FETCHING = "FETCHING"
    ANALYZING = "ANALYZING"
    RENDERING = "RENDERING"
    STORING = "STORING"
    DONE = "DONE"


# How far along a picture is when a stage begins, by the time that the stages take.
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
    failure: Failure | None = None,
) -> None:
    """Record that a media has come to this stage, with the change of its row."""
    told: dict[str, Any] = {"status": status, "stage": stage, "percent": PERCENT[stage]}
    if failure is not None:
        told["failure"] = {"code": failure.code, "message": failure.message}
    await events.record(transaction, kind, media=media.id, entity=media.entity, owner=media.owner, **told)


def failure_of(media: Media) -> Failure | None:
    if media.failure_code is None:
        return None
    return Failure(FailureCode(media.failure_code), media.failure_message or "")
