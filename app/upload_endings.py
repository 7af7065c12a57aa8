"""How direct uploads end without a media: aborted, refused or run out.

What they leave in the storage is erased by a job that commits with the end; and once more when the rows go, for URLs
that were still good, and may have been used.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any, Final

from piccolo.custom_types import Combinable

from app import events, faults, jobs, stages
from app.access import Viewer, own_uploads, signed_in
from app.db import HeirloomTransaction, hydrate
from app.errors import Conflict, relocated
from app.piccolo_conf import DB
from app.stages import Failure, Stage
from app.tables import EventKind, Media, MediaStatus, UploadSession, UploadState
from app.upload_sessions import find, no_such_session
from app.wiring import Services
from processing.failures import FailureCode

# A completion that began in time is let finish.
EXPIRY_SLACK: Final = timedelta(minutes=5)
SWEEP_BATCH: Final = 500

ABORTED: Final = Failure(FailureCode.NOT_UPLOADED, "The upload was aborted.")
EXPIRED: Final = Failure(FailureCode.NOT_UPLOADED, "The upload was not completed in time.")


async def abort(services: Services, viewer: Viewer | None, session_id: uuid.UUID) -> uuid.UUID:
    """End a session; what has arrived is removed. Again, the same. Raises NotFound, or Conflict once it is complete."""
    owner = signed_in(viewer)
    which = (UploadSession.id == session_id) & own_uploads(owner)
    if not await end(which, UploadState.ABORTED, ABORTED, services.clock()):
        session = await find(owner, session_id)
        if session is None:
            with relocated(origin=("session_id",)):
                raise no_such_session()
        if session.state == UploadState.COMPLETED:
            raise Conflict("This upload is complete: delete its media instead.")
    faults.reach("abort.committed")
    return session_id


async def end(which: Combinable, ending: UploadState, failure: Failure, now: datetime, *keys: str) -> int:
    """End the open sessions of a where-clause, at most SWEEP_BATCH; how many. Their bytes go, and those under `keys`.

    The rows stay for a while, so that whoever asks is told what became of them.
    """
    async with DB.transaction() as transaction:
        chosen = (
            await UploadSession.select(UploadSession.id)
            .where(which, UploadSession.state == UploadState.OPEN.value)
            .limit(SWEEP_BATCH)
            .lock_rows("UPDATE", skip_locked=ending is UploadState.EXPIRED)
        )
        if not chosen:
            return 0
        ended = (
            await UploadSession.update({UploadSession.state: ending.value, UploadSession.ended_at: now})
            .where(UploadSession.id.is_in([row["id"] for row in chosen]))
            .returning(UploadSession.media, UploadSession.staging_key, UploadSession.upload_id)
        )
        rows = (
            await Media.update(
                {
                    Media.status: MediaStatus.FAILED.value,
                    Media.failure_code: failure.code.value,
                    Media.failure_message: failure.message,
                    Media.lost_at: now,
                    Media.idempotency_key: None,
                    Media.is_primary: False,
                    Media.updated_at: now,
                }
            )
            .where(Media.id.is_in([row["media"] for row in ended]))
            .returning(*Media.all_columns())
        )
        media = {row["id"]: hydrate(Media, row) for row in rows}
        for each in media.values():
            await stages.report(
                transaction, EventKind.FAILED, each, status=MediaStatus.FAILED, stage=Stage.DONE, failure=failure
            )
        await _enqueue_erase(transaction, ended, {key: each.storage_key for key, each in media.items()}, *keys)
        faults.reach("end.in_transaction")
    faults.reach("end.committed")
    return len(ended)


async def _enqueue_erase(
    transaction: HeirloomTransaction, sessions: list[dict[str, Any]], storage_keys: dict[uuid.UUID, str], *keys: str
) -> None:
    staged = [row["staging_key"] for row in sessions if row["staging_key"]]
    parts = [(storage_keys[row["media"]], row["upload_id"]) for row in sessions if row["upload_id"]]
    await jobs.enqueue_erase(transaction, [*storage_keys.values(), *staged, *keys], uploads=parts)


async def sweep(services: Services) -> None:
    """End the sessions that have run out, and bury those that ended long ago. Several workers may do so at once."""
    now = services.clock()
    while await end(UploadSession.expires_at < now - EXPIRY_SLACK, UploadState.EXPIRED, EXPIRED, now) == SWEEP_BATCH:
        pass
    settings = services.settings
    forgotten = now - settings.upload_session_lifetime - settings.upload_url_lifetime
    while await _bury(forgotten) == SWEEP_BATCH:
        pass
    await _forget(forgotten)


async def _bury(ended_before: datetime) -> int:
    """Remove what stands for uploads that came to nothing, with the bytes of URLs that were good for longer."""
    async with DB.transaction() as transaction:
        ended = (
            await UploadSession.select(UploadSession.media, UploadSession.staging_key, UploadSession.upload_id)
            .where(
                UploadSession.state.is_in([UploadState.ABORTED.value, UploadState.EXPIRED.value]),
                UploadSession.ended_at < ended_before,
            )
            .limit(SWEEP_BATCH)
            .lock_rows("UPDATE", skip_locked=True)
        )
        if not ended:
            return 0
        rows = (
            await Media.delete()
            .where(Media.id.is_in([row["media"] for row in ended]))
            .returning(Media.id, Media.entity, Media.owner, Media.storage_key)
        )
        for row in rows:
            await events.record(
                transaction, EventKind.PURGED, media=row["id"], entity=row["entity"], owner=row["owner"]
            )
        await _enqueue_erase(transaction, ended, {row["id"]: row["storage_key"] for row in rows})
    return len(ended)


async def _forget(ended_before: datetime) -> None:
    """Remove what is left of sessions that went well; not before their bytes have been compared with their promise."""
    hashed = Media.select(Media.id).where(Media.sha256.is_not_null())
    await UploadSession.delete().where(
        UploadSession.state == UploadState.COMPLETED.value,
        UploadSession.ended_at < ended_before,
        UploadSession.media.is_in(hashed),
    )
