"""How direct uploads end without a media: aborted, refused or run out.

What they leave in the storage is erased by a job that commits with the end; and once more when the rows go, for URLs
that were still good, and may have been used.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Final

from piccolo.custom_types import Combinable

from app import faults, media, stages, trash
from app.access import EVERYTHING, Viewer, own_uploads, signed_in
from app.errors import Conflict, relocated
from app.piccolo_conf import DB
from app.stages import Failure
from app.tables import Media, UploadSession, UploadState
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
    if not await end(services, which, UploadState.ABORTED, ABORTED):
        session = await find(owner, session_id)
        if session is None:
            with relocated(origin=("session_id",)):
                raise no_such_session()
        if session.state == UploadState.COMPLETED:
            raise Conflict("This upload is complete: delete its media instead.")
    faults.reach("abort.committed")
    return session_id


async def end(services: Services, which: Combinable, ending: UploadState, failure: Failure, *keys: str) -> int:
    """End the open sessions of a where-clause, at most SWEEP_BATCH; how many. Their bytes go, and those under `keys`.

    The rows stay for a while, so that whoever asks is told what became of them.
    """
    now = services.clock()
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
            .returning(UploadSession.media, UploadSession.state, UploadSession.staging_key, UploadSession.upload_id)
        )
        held = await media.hold(Media.id.is_in([row["media"] for row in ended]))
        failed = await stages.fail(transaction, Media.id.is_in(held), failure, now, lost=True)
        originals = {each.id: each.storage_key for each in failed}
        await trash.enqueue_erase(transaction, originals, ended, *keys, late=trash.late(services))
        faults.reach("end.in_transaction")
    faults.reach("end.committed")
    return len(ended)


async def sweep(services: Services) -> None:
    """End the sessions that have run out, and bury those that ended long ago. Several workers may do so at once."""
    now = services.clock()
    run_out = UploadSession.expires_at < now - EXPIRY_SLACK
    while await end(services, run_out, UploadState.EXPIRED, EXPIRED) == SWEEP_BATCH:
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
            await UploadSession.select(UploadSession.media)
            .where(
                UploadSession.state.is_in([UploadState.ABORTED.value, UploadState.EXPIRED.value]),
                UploadSession.ended_at < ended_before,
            )
            .limit(SWEEP_BATCH)
            .lock_rows("UPDATE", skip_locked=True)
        )
        if not ended:
            return 0
        await trash.remove(transaction, [row["media"] for row in ended], EVERYTHING)
        faults.reach("purge.in_transaction")
    faults.reach("purge.committed")
    return len(ended)


async def _forget(ended_before: datetime) -> None:
    """Remove what is left of sessions that went well; not before their bytes have been compared with their promise."""
    hashed = Media.select(Media.id).where(Media.sha256.is_not_null())
    await UploadSession.delete().where(
        UploadSession.state == UploadState.COMPLETED.value,
        UploadSession.ended_at < ended_before,
        UploadSession.media.is_in(hashed),
    )
