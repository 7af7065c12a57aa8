"""Stored bytes -> facts and variants: the life of one job.

The attempt is counted and committed before any work, so that a file which kills the worker is found out. What a file
does wrong ends it at once with its code; what may pass is tried again; a stale worker's result is refused by the
attempt's number.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Final

import asyncpg
from piccolo.columns import Column
from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable

from app import entities, faults, jobs, metrics, stages, trash, uploads
from app.db import HeirloomTransaction, hydrate
from app.piccolo_conf import DB
from app.rendering import FILE_TYPE, Sandboxes, Superseded, render
from app.slots import PRIORITY_NORMAL
from app.stages import Failure, Stage
from app.tables import EventKind, Media, MediaStatus, UploadSession, Variant
from app.variants import put_in_place
from app.wiring import Services
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import MediaKind
from processing.sandbox import Sandbox
from processing.variants import BEFORE_STREAM, FILM_WITHOUT_STREAM, Facts, recipe
from storage.base import ObjectNotFound, StorageError, has_room

logger = logging.getLogger(__name__)

# Not the file's fault, perhaps: another try may end otherwise.
MAY_PASS: Final = {FailureCode.CRASHED, FailureCode.STORAGE}
FIRST_RETRY: Final = timedelta(seconds=1)  # doubled at each attempt


class TryAgain(Exception):
    """This attempt came to nothing; another is due after `delay`."""

    def __init__(self, delay: timedelta) -> None:
        super().__init__(f"try again in {delay}")
        self.delay = delay


class Mismatch(Exception):
    """The stored bytes are not those that the upload session promised."""

    failure = Failure(FailureCode.CHECKSUM_MISMATCH, "The uploaded bytes have another SHA-256 than was promised.")


async def process(services: Services, sandboxes: Sandboxes, media_id: uuid.UUID) -> bool:
    """One attempt at one media; whether there was anything to do. Of a film all but its STREAM. Raises TryAgain."""
    media = await _begin(media_id)
    if media is None:
        return False
    await _attempt(services, media, _produce(services, sandboxes.quick, media))
    return True


async def stream(services: Services, sandboxes: Sandboxes, media_id: uuid.UUID) -> bool:
    """One attempt at the STREAM of a film of which there is all else; otherwise as `process`."""
    media = await _begin_stream(media_id)
    if media is None:
        return False
    await _attempt(services, media, _stream(services, sandboxes.streams, media))
    return True


async def _attempt(services: Services, media: Media, work: Coroutine[Any, Any, None]) -> None:
    faults.reach("ingest.begun")
    attempts = services.settings.processing_attempts
    if media.processing_attempts > attempts:
        work.close()
        await _fail(media, Failure(FailureCode.CRASHED, f"Processing was cut off {attempts} times."))
        return
    try:
        await work
    except Superseded:
        pass
    except Mismatch as error:
        await _remove(media, error.failure)
    except ProcessingFailed as error:
        if error.code not in MAY_PASS or media.processing_attempts >= attempts:
            lost = isinstance(error.__cause__, ObjectNotFound)
            await _fail(media, Failure(error.code, error.message), lost=lost)
            return
        logger.warning("Attempt %d at media %s failed: %s", media.processing_attempts, media.id, error)
        await _reach(media, Stage.QUEUED)
        raise TryAgain(delay(media)) from error
    except asyncio.CancelledError:
        await asyncio.shield(_give_back(media))
        raise
    except Exception as error:
        logger.exception("Attempt %d at media %s failed unexpectedly", media.processing_attempts, media.id)
        raise TryAgain(delay(media)) from error
    finally:
        await asyncio.shield(clear(services, media))


async def _produce(services: Services, sandbox: Sandbox, media: Media) -> None:
    with scratch(services, media) as original:
        sha256 = await fetch(services, media, original)
        faults.reach("ingest.fetched")
        await _attest(media, sha256)
        await _reach(media, Stage.ANALYZING)
        facts, variants = await _render(services, sandbox, media, original)
    faults.reach("ingest.stored")
    if media.kind == MediaKind.VIDEO and facts.width is not None:  # and not of sound alone
        await _hand_over(services, media, facts, variants)
    else:
        await _finish(services, media, columns(facts), variants, alone=True)


async def _stream(services: Services, sandbox: Sandbox, media: Media) -> None:
    with scratch(services, media) as original:
        await fetch(services, media, original)
        facts, variants = await _render(services, sandbox, media, original)
    await _finish(services, media, {Media.duration: facts.duration}, variants, alone=False)


async def _render(
    services: Services, sandbox: Sandbox, media: Media, original: Path
) -> tuple[Facts, Sequence[Variant]]:
    async def publish(fraction: float, variants: Sequence[Variant]) -> None:
        await _publish(services, media, fraction, variants)

    async def wanted() -> bool:
        return bool(await Media.exists().where(_current(media)))

    return await render(services.storage, sandbox, media, original, publish=publish, wanted=wanted)


@contextmanager
def scratch(services: Services, media: Media) -> Iterator[Path]:
    """Where to put the original, in a folder of its own, which is gone afterwards."""
    # Named after the media, so that whoever looks at a stuck decoder sees what it is at.
    with TemporaryDirectory(dir=services.scratch, prefix=f"{media.id}-") as folder:
        yield Path(folder) / f"original.{FILE_TYPE[media.content_type].extension}"


async def _begin(media_id: uuid.UUID) -> Media | None:
    """Count the attempt. None when there is nothing to do: gone, done already, or waiting for its STREAM alone."""
    waits = Media.status.is_in([MediaStatus.UPLOADED.value, MediaStatus.PROCESSING.value])
    whole = WhereRaw("media.recipe IS DISTINCT FROM {}", FILM_WITHOUT_STREAM)
    return await _count(waits & (Media.id == media_id) & whole, Stage.FETCHING)


async def _begin_stream(media_id: uuid.UUID) -> Media | None:
    waits = (Media.status == MediaStatus.PROCESSING.value) & (Media.recipe == FILM_WITHOUT_STREAM)
    return await _count(waits & (Media.id == media_id), Stage.RENDERING, rendered=BEFORE_STREAM)


async def _count(which: Combinable, stage: Stage, rendered: float = 0.0) -> Media | None:
    values: dict[Any, Any] = {
        Media.status: MediaStatus.PROCESSING.value,
        Media.processing_attempts: Media.processing_attempts + 1,
        Media.updated_at: datetime.now(UTC),
    }
    async with DB.transaction() as transaction:
        rows = await Media.update(values).where(which).returning(*Media.all_columns())
        if not rows:
            return None
        media = hydrate(Media, rows[0])
        await stages.report(
            transaction,
            EventKind.PROCESSING,
            media,
            status=MediaStatus.PROCESSING,
            stage=stage,
            rendered=rendered,
        )
    return media


async def _reach(media: Media, stage: Stage) -> None:
    async with DB.transaction() as transaction:
        await stages.report(transaction, EventKind.PROCESSING, media, status=MediaStatus.PROCESSING, stage=stage)


async def fetch(services: Services, media: Media, path: Path) -> str:
    """The original, written to `path`; its SHA-256 in hex, which is the row's where that has one.

    Raises ProcessingFailed.
    """
    if not has_room(path.parent, media.size_bytes):
        raise ProcessingFailed(FailureCode.STORAGE, "The server has no room to work at the file.")
    digest = hashlib.sha256()
    try:
        with path.open("xb") as file:
            async with aclosing(services.storage.open(media.storage_key)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(_take, chunk, file, digest)
    except ObjectNotFound as error:
        raise ProcessingFailed(FailureCode.STORAGE, "The stored file is not there.") from error
    except StorageError as error:
        raise ProcessingFailed(FailureCode.STORAGE, "The storage does not answer.") from error
    if media.sha256 not in {None, digest.hexdigest()}:
        raise ProcessingFailed(FailureCode.CORRUPT, "The stored file has changed since it was uploaded.")
    return digest.hexdigest()


def _take(chunk: bytes, file: BinaryIO, digest: hashlib._Hash) -> None:
    file.write(chunk)
    digest.update(chunk)


async def _attest(media: Media, sha256: str) -> None:
    """Write down the hash of what came straight into the storage. Raises Mismatch."""
    if media.sha256 is not None:
        return
    session = await UploadSession.select(UploadSession.sha256).where(UploadSession.media == media.id).first()
    if session is not None and session["sha256"] not in {None, sha256}:
        raise Mismatch
    twins = (Media.owner == media.owner) & uploads.has_bytes(sha256) & (Media.id != media.id)
    is_copy = await Media.exists().where(twins)
    try:
        await _learn(media, {Media.sha256: sha256, Media.is_copy: is_copy})
    except asyncpg.UniqueViolationError:  # the twin has come in between
        await _learn(media, {Media.sha256: sha256, Media.is_copy: True})


async def _learn(media: Media, values: dict[Any, Any]) -> None:
    async with DB.transaction() as transaction:
        for row in await Media.update(values).where(_current(media)).returning(Media.entity):
            if row["entity"] is not None:
                await entities.tell(transaction, row["entity"])


async def _publish(services: Services, media: Media, fraction: float, variants: Sequence[Variant]) -> None:
    """How far it is, and what can be seen already: a film's poster long before the film. Raises Superseded."""
    values = {Media.updated_at: datetime.now(UTC)}
    async with DB.transaction() as transaction:
        if not await _show(transaction, services, media, values, variants, rendered=fraction):
            raise Superseded


async def _hand_over(services: Services, media: Media, facts: Facts, variants: Sequence[Variant]) -> None:
    """What there is of a film is to be seen while it waits for its STREAM, which is another job's."""
    values = columns(facts) | {
        Media.recipe: FILM_WITHOUT_STREAM,
        Media.processing_attempts: 0,
        Media.updated_at: datetime.now(UTC),
    }
    async with DB.transaction() as transaction:
        if await _show(transaction, services, media, values, variants, rendered=BEFORE_STREAM):
            await jobs.enqueue_stream(transaction, media, priority=PRIORITY_NORMAL)


async def _show(
    transaction: HeirloomTransaction,
    services: Services,
    media: Media,
    values: dict[Any, Any],
    variants: Sequence[Variant],
    *,
    rendered: float,
) -> bool:
    """What there is so far, if the attempt is still the current one."""
    if not await _settle(media, values):
        return False
    await put_in_place(transaction, media, variants, alone=False, late=services.settings.url_lifetime)
    await stages.report(
        transaction,
        EventKind.PROCESSING,
        media,
        status=MediaStatus.PROCESSING,
        stage=Stage.RENDERING,
        rendered=rendered,
    )
    return True


async def _finish(
    services: Services, media: Media, found: Mapping[Any, Any], variants: Sequence[Variant], *, alone: bool
) -> None:
    """What was found, the variants and READY at once, if the attempt is still the current one."""
    await _reach(media, Stage.STORING)
    values = {
        **found,
        Media.status: MediaStatus.READY.value,
        Media.recipe: recipe(MediaKind(media.kind)),
        Media.updated_at: datetime.now(UTC),
    }
    async with DB.transaction() as transaction:
        if settled := await _settle(media, values):
            await put_in_place(transaction, media, variants, alone=alone, late=services.settings.url_lifetime)
            await stages.report(transaction, EventKind.READY, media, status=MediaStatus.READY, stage=Stage.DONE)
            faults.reach("ingest.in_transaction")
    if settled:
        metrics.media_processed(media.kind, MediaStatus.READY)
    faults.reach("ingest.committed")


def columns(facts: Facts) -> dict[Column | str, Any]:
    """What processing has found out, as it stands in the row."""
    looks = facts.looks
    return {
        Media.width: facts.width,
        Media.height: facts.height,
        Media.duration: facts.duration,
        Media.page_count: facts.page_count,
        Media.perceptual_hash: looks.perceptual_hash if looks else None,
        Media.thumbhash: looks.thumbhash if looks else None,
        Media.dominant_color: looks.dominant_color if looks else None,
        Media.taken_at: facts.taken_at,
        Media.latitude: facts.latitude,
        Media.longitude: facts.longitude,
        Media.exif: facts.tags,
    }


async def clear(services: Services, media: Media) -> None:
    """Whoever purged the media while we worked had its bytes erased, perhaps before ours came."""
    if not await Media.exists().where(Media.id == media.id):
        await trash.erase(services.storage, [media.storage_key])


async def _give_back(media: Media) -> None:
    """This attempt was cut off by us and doesn't count."""
    async with DB.transaction() as transaction:
        if await _settle(media, {Media.processing_attempts: Media.processing_attempts - 1}):
            await stages.report(
                transaction, EventKind.PROCESSING, media, status=MediaStatus.PROCESSING, stage=Stage.QUEUED
            )


async def _remove(media: Media, failure: Failure) -> None:
    """Failed, and the bytes with it."""
    async with DB.transaction() as transaction:
        if failed := await stages.fail(transaction, _current(media), failure, datetime.now(UTC), lost=True):
            await jobs.enqueue_erase(transaction, [media.storage_key])
    if failed:
        metrics.media_processed(media.kind, failure.code)


async def _fail(media: Media, failure: Failure, *, lost: bool = False) -> None:
    """Failed, if it is still this attempt's to fail; `lost` when there are no bytes to go back to."""
    async with DB.transaction() as transaction:
        if failed := await stages.fail(transaction, _current(media), failure, datetime.now(UTC), lost=lost):
            await Media.update({Media.recipe: recipe(MediaKind(media.kind))}).where(Media.id == media.id)
    if failed:
        metrics.media_processed(media.kind, failure.code)


async def _settle(media: Media, values: dict[Any, Any]) -> bool:
    """Compare and set."""
    return bool(await Media.update(values).where(_current(media)).returning(Media.id))


def _current(media: Media) -> Combinable:
    """Only the current attempt ends the processing."""
    return (
        (Media.id == media.id)
        & (Media.status == MediaStatus.PROCESSING.value)
        & (Media.processing_attempts == media.processing_attempts)
    )


def delay(media: Media) -> timedelta:
    doublings: int = media.processing_attempts - 1
    return timedelta(seconds=FIRST_RETRY.total_seconds() * 2**doublings)
