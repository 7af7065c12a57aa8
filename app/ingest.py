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
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Final

import asyncpg
from piccolo.custom_types import Combinable

from app import faults, jobs, stages, uploads
from app.db import hydrate
from app.piccolo_conf import DB
from app.stages import Failure, Stage
from app.tables import EventKind, Media, MediaStatus, UploadSession, Variant
from app.wiring import Services
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FILE_TYPES
from processing.sandbox import Sandbox
from processing.variants import IMAGE_VARIANTS, Facts, Rendered
from storage.base import ObjectNotFound, StorageError, has_room
from storage.keys import variant_key

logger = logging.getLogger(__name__)

FILE_TYPE: Final = {file_type.content_type: file_type for file_type in FILE_TYPES}
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


async def process(services: Services, sandbox: Sandbox, media_id: uuid.UUID) -> None:
    """One attempt at one media. Raises TryAgain."""
    media = await _begin(media_id)
    if media is None:
        return
    faults.reach("ingest.begun")
    attempts = services.settings.processing_attempts
    if media.processing_attempts > attempts:
        await _fail(media, Failure(FailureCode.CRASHED, f"Processing was cut off {attempts} times."))
        return
    try:
        await _work(services, sandbox, media)
    except Mismatch as error:
        await _remove(media, error.failure)
    except ProcessingFailed as error:
        if error.code not in MAY_PASS or media.processing_attempts >= attempts:
            lost = isinstance(error.__cause__, ObjectNotFound)
            await _fail(media, Failure(error.code, error.message), lost=lost)
            return
        logger.warning("Attempt %d at media %s failed: %s", media.processing_attempts, media_id, error)
        await _reach(media, Stage.QUEUED)
        raise TryAgain(_delay(media)) from error
    except Exception as error:
        logger.exception("Attempt %d at media %s failed unexpectedly", media.processing_attempts, media_id)
        raise TryAgain(_delay(media)) from error


async def _work(services: Services, sandbox: Sandbox, media: Media) -> None:
    file_type = FILE_TYPE[media.content_type]
    # Named after the media, so that whoever looks at a stuck decoder sees what it is at.
    with TemporaryDirectory(dir=services.scratch, prefix=f"{media.id}-") as folder:
        original = Path(folder) / f"original.{file_type.extension}"
        sha256 = await _fetch(services, media, original)
        faults.reach("ingest.fetched")
        await _attest(media, sha256)
        await _reach(media, Stage.ANALYZING)
        facts = await sandbox.analyze(original, file_type)
        await _reach(media, Stage.RENDERING)
        rendered = await sandbox.render(original, file_type, Path(folder), IMAGE_VARIANTS)
        await _reach(media, Stage.STORING)
        variants = await _store(services, media, rendered)
    faults.reach("ingest.stored")
    await _finish(services, media, facts, variants)


async def _begin(media_id: uuid.UUID) -> Media | None:
    """Count the attempt. None when there is nothing to do: gone, or done already."""
    async with DB.transaction() as transaction:
        rows = (
            await Media.update(
                {
                    Media.status: MediaStatus.PROCESSING.value,
                    Media.processing_attempts: Media.processing_attempts + 1,
                    Media.updated_at: datetime.now(UTC),
                }
            )
            .where(Media.id == media_id, Media.status.is_in([MediaStatus.UPLOADED.value, MediaStatus.PROCESSING.value]))
            .returning(*Media.all_columns())
        )
        if not rows:
            return None
        media = hydrate(Media, rows[0])
        await stages.report(
            transaction, EventKind.PROCESSING, media, status=MediaStatus.PROCESSING, stage=Stage.FETCHING
        )
    return media


async def _reach(media: Media, stage: Stage) -> None:
    async with DB.transaction() as transaction:
        await stages.report(transaction, EventKind.PROCESSING, media, status=MediaStatus.PROCESSING, stage=stage)


async def _fetch(services: Services, media: Media, path: Path) -> str:
    """The original, written to `path`; its SHA-256 in hex."""
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
    return digest.hexdigest()


def _take(chunk: bytes, file: BinaryIO, digest: hashlib._Hash) -> None:
    file.write(chunk)
    digest.update(chunk)


async def _attest(media: Media, sha256: str) -> None:
    """Write down the hash of what came straight into the storage. Raises Mismatch, or ProcessingFailed."""
    if media.sha256 is not None:
        if media.sha256 != sha256:
            raise ProcessingFailed(FailureCode.CORRUPT, "The stored file has changed since it was uploaded.")
        return
    session = await UploadSession.select(UploadSession.sha256).where(UploadSession.media == media.id).first()
    if session is not None and session["sha256"] not in {None, sha256}:
        raise Mismatch
    twins = (Media.owner == media.owner) & uploads.has_bytes(sha256) & (Media.id != media.id)
    is_copy = await Media.exists().where(twins)
    try:
        await _settle(media, {Media.sha256: sha256, Media.is_copy: is_copy})
    except asyncpg.UniqueViolationError:  # the twin has come in between
        await _settle(media, {Media.sha256: sha256, Media.is_copy: True})


async def _store(services: Services, media: Media, rendered: list[Rendered]) -> list[Variant]:
    variants = [
        Variant(
            media=media.id,
            name=made.name.value,
            digest=made.digest,
            content_type=made.content_type,
            width=made.width,
            height=made.height,
            size_bytes=made.size_bytes,
            storage_key=variant_key(media.storage_key, made.name, made.digest),
        )
        for made in rendered
    ]
    try:
        async with asyncio.TaskGroup() as tasks:
            for variant, made in zip(variants, rendered, strict=True):
                put = services.storage.put(
                    variant.storage_key, made.path, size=made.size_bytes, content_type=made.content_type
                )
                tasks.create_task(put)
    except* StorageError as errors:
        raise ProcessingFailed(FailureCode.STORAGE, "The storage does not answer.") from errors
    return variants


async def _finish(services: Services, media: Media, facts: Facts, variants: list[Variant]) -> None:
    """Facts, variants and READY at once, if the attempt is still the current one."""
    values: dict[Any, Any] = {
        Media.status: MediaStatus.READY.value,
        Media.width: facts.width,
        Media.height: facts.height,
        Media.taken_at: facts.taken_at,
        Media.latitude: facts.latitude,
        Media.longitude: facts.longitude,
        Media.exif: facts.exif,
        Media.updated_at: datetime.now(UTC),
    }
    obsolete: list[str] = []
    async with DB.transaction() as transaction:
        current = await _settle(media, values)
        if current:
            rows = await Variant.delete().where(Variant.media == media.id).returning(Variant.storage_key)
            await Variant.insert(*variants)
            kept = {variant.storage_key for variant in variants}
            obsolete = [row["storage_key"] for row in rows if row["storage_key"] not in kept]
            await stages.report(transaction, EventKind.READY, media, status=MediaStatus.READY, stage=Stage.DONE)
            faults.reach("ingest.in_transaction")
    faults.reach("ingest.committed")
    if not current and not await Media.exists().where(Media.id == media.id):
        # Deleted while we worked, and its bytes erased perhaps before ours came.
        obsolete = [variant.storage_key for variant in variants]
    await services.storage.delete(obsolete)


async def _remove(media: Media, failure: Failure) -> None:
    """Failed, and the bytes with it."""
    async with DB.transaction() as transaction:
        if await stages.fail(transaction, _current(media), failure, datetime.now(UTC), lost=True):
            await jobs.enqueue_erase(transaction, [media.storage_key])


async def _fail(media: Media, failure: Failure, *, lost: bool = False) -> None:
    """Failed, if it is still this attempt's to fail; `lost` when there are no bytes to go back to."""
    async with DB.transaction() as transaction:
        await stages.fail(transaction, _current(media), failure, datetime.now(UTC), lost=lost)


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


def _delay(media: Media) -> timedelta:
    doublings: int = media.processing_attempts - 1
    return timedelta(seconds=FIRST_RETRY.total_seconds() * 2**doublings)
