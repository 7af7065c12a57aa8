"""Variants by a changed spec: made anew in the background, the old ones served until then."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Final

from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable

from app import events, ingest, jobs, stages
from app.db import hydrate
from app.ingest import TryAgain
from app.piccolo_conf import DB
from app.rendering import Sandboxes, Superseded, render
from app.slots import PRIORITY_LOWEST
from app.tables import EventKind, Media, MediaStatus, Variant
from app.variants import put_in_place
from app.wiring import Services
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import MediaKind
from processing.variants import Facts, recipe

logger = logging.getLogger(__name__)

BATCH: Final = 500  # media in one transaction


def out_of_date() -> Combinable:
    """What another recipe made, and what could not be read then."""
    other = reduce(
        or_, (WhereRaw("(media.kind = {} AND media.recipe IS DISTINCT FROM {})", k.value, recipe(k)) for k in MediaKind)
    )
    unread = (Media.status == MediaStatus.FAILED.value) & (Media.failure_code == FailureCode.UNSUPPORTED.value)
    done = (Media.status == MediaStatus.READY.value) | unread
    return other & done & Media.deleted_at.is_null() & Media.lost_at.is_null()


async def count() -> int:
    return int(await Media.count().where(out_of_date()))


async def enqueue() -> int:
    """Have all that is out of date rendered anew, after all else; how many. Twice is no harm."""
    enqueued = 0
    after = uuid.UUID(int=0)
    while True:
        async with DB.transaction() as transaction:
            query = Media.select(Media.id).where(out_of_date() & (Media.id > after)).order_by(Media.id).limit(BATCH)
            ids = [row["id"] for row in await query.lock_rows("UPDATE")]
            if not ids:
                return enqueued
            which = Media.id.is_in(ids)
            fresh = Media.update({Media.processing_attempts: 0}).where(which, Media.status == MediaStatus.READY.value)
            for row in await fresh.returning(*Media.all_columns()):
                media = hydrate(Media, row)
                # A film at once and as a whole, where films are streamed.
                put = jobs.enqueue_stream if media.kind == MediaKind.VIDEO else jobs.enqueue_ingest
                await put(transaction, media, priority=PRIORITY_LOWEST)
            failed = which & (Media.status == MediaStatus.FAILED.value)
            await stages.start_over(transaction, failed, datetime.now(UTC), priority=PRIORITY_LOWEST)
        enqueued += len(ids)
        after = ids[-1]


async def process(services: Services, sandboxes: Sandboxes, media_id: uuid.UUID) -> None:
    """One attempt at one media that is READY. Raises TryAgain; whatever can't be done leaves the old variants be."""
    media = await _begin(media_id)
    if media is None:
        return
    if media.processing_attempts > services.settings.processing_attempts:
        await _leave(media, "its processing was cut off again and again")
        return
    try:
        await _work(services, sandboxes, media)
    except ProcessingFailed as error:
        if error.code in ingest.MAY_PASS and media.processing_attempts < services.settings.processing_attempts:
            raise TryAgain(ingest.delay(media)) from error
        await _leave(media, str(error))
    except Superseded:
        pass
    except asyncio.CancelledError:
        given_back = Media.update({Media.processing_attempts: Media.processing_attempts - 1}).where(_current(media))
        await asyncio.shield(given_back.run())
        raise
    finally:
        await asyncio.shield(ingest.clear(services, media))


async def _begin(media_id: uuid.UUID) -> Media | None:
    ready = Media.status == MediaStatus.READY.value
    rows = (
        await Media.update({Media.processing_attempts: Media.processing_attempts + 1})
        .where((Media.id == media_id) & ready & out_of_date())
        .returning(*Media.all_columns())
    )
    return hydrate(Media, rows[0]) if rows else None


async def _work(services: Services, sandboxes: Sandboxes, media: Media) -> None:
    with ingest.scratch(services, media) as original:
        await ingest.fetch(services, media, original)
        facts, variants = await _render(services, sandboxes, media, original)
    values = ingest.columns(facts) | {
        Media.recipe: recipe(MediaKind(media.kind)),
        Media.updated_at: datetime.now(UTC),
    }
    async with DB.transaction() as transaction:
        rows = await Media.update(values).where(_current(media)).returning(Media.id)
        if rows:
            await put_in_place(transaction, media, variants, alone=True, late=services.settings.url_lifetime)
            await events.record(transaction, EventKind.UPDATED, media=media.id, entity=media.entity, owner=media.owner)


async def _render(
    services: Services, sandboxes: Sandboxes, media: Media, original: Path
) -> tuple[Facts, Sequence[Variant]]:
    async def wanted() -> bool:
        return bool(await Media.exists().where(_current(media)))

    facts, variants = await render(
        services.storage, sandboxes.quick, media, original, publish=_in_silence, wanted=wanted
    )
    if media.kind != MediaKind.VIDEO or facts.width is None:
        return facts, variants
    streamed, stream = await render(
        services.storage, sandboxes.streams, media, original, publish=_in_silence, wanted=wanted
    )
    return replace(facts, duration=streamed.duration), [*variants, *stream]


async def _in_silence(_: float, __: Sequence[Variant]) -> None:
    """Nobody waits for it, and there is nothing to see before it is whole."""


async def _leave(media: Media, reason: str) -> None:
    """Not to be tried again by this recipe."""
    logger.warning("Media %s keeps its old variants: %s", media.id, reason)
    await Media.update({Media.recipe: recipe(MediaKind(media.kind))}).where(_current(media))


def _current(media: Media) -> Combinable:
    """Neither deleted nor processed again meanwhile, nor tried by another worker."""
    return (
        (Media.id == media.id)
        & (Media.status == MediaStatus.READY.value)
        & (Media.processing_attempts == media.processing_attempts)
    )
