"""How the processing of a media is coming along, for whoever waits for it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from app import events
from app import media as media_operations
from app.access import Viewer
from app.errors import NotFound
from app.events import Happening
from app.hearing import Hearing
from app.stages import PERCENT, Failure, Stage, failure_of
from app.tables import EventKind, Media, MediaStatus
from app.wiring import Services
from processing.failures import FailureCode

STAGE_KINDS: Final = (EventKind.UPLOADED, EventKind.PROCESSING, EventKind.READY, EventKind.FAILED)
OVER: Final = {MediaStatus.READY, MediaStatus.FAILED}


@dataclass(frozen=True, slots=True)
class Progress:
    """`status` and `stage` are of the moment that is told of; `media` is the row as it is by now."""

    media: Media
    status: MediaStatus
    stage: Stage
    percent: int
    failure: Failure | None


async def watch(services: Services, viewer: Viewer | None, media_id: uuid.UUID) -> AsyncGenerator[Progress, None]:
    """The present state at once, then every stage, until READY or FAILED.

    Raises NotFound, at once or when the media is no longer to be seen, Unauthenticated when the session ends, and
    Forbidden for an admin who is none any more.
    """
    session = (viewer.session_id,) if viewer else ()
    with services.hub.subscribe(media_id, *session) as subscription:
        # Subscribed first and read second: what happens in between comes twice at most, and is dropped by its cursor.
        # (Not by the subscription's own: the end of the session may have an older one, and come later.)
        hearing = await Hearing.begin(subscription, viewer)
        last = await events.latest(media_id, STAGE_KINDS)
        media = await _seen(viewer, media_id)  # the row after the event, so that it is never behind what is told
        progress = _told(media, last) if last else _inferred(media)
        yield progress
        while progress.status not in OVER:
            happening = await hearing.next()
            # Whatever it was: the media may be gone, or out of sight.
            media = await _seen(viewer, media_id)
            if happening.kind in STAGE_KINDS and not (last and happening.cursor <= last.cursor):
                progress = _told(media, happening)
                yield progress


async def _seen(viewer: Viewer | None, media_id: uuid.UUID) -> Media:
    media = await media_operations.find(viewer, media_id)
    if media is None:
        raise NotFound("There is no such media.", "media_id")
    return media


def _told(media: Media, happening: Happening) -> Progress:
    data = happening.data
    failure = data.get("failure")
    return Progress(
        media,
        MediaStatus(data["status"]),
        Stage(data["stage"]),
        data["percent"],
        Failure(FailureCode(failure["code"]), failure["message"]) if failure else None,
    )


def _inferred(media: Media) -> Progress:
    """From the row alone: its events are older than those that are kept."""
    status = MediaStatus(media.status)
    stage = Stage.DONE if status in OVER else Stage.QUEUED
    return Progress(media, status, stage, PERCENT[stage], failure_of(media))
