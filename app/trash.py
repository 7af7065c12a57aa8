"""Out of sight first, bytes later."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from piccolo.custom_types import Combinable

from app import entities, events, faults, jobs, media
from app.access import Viewer, changeable_media, refusal, signed_in, visible_media
from app.db import HeirloomTransaction, hydrate
from app.errors import BadInput
from app.piccolo_conf import DB
from app.tables import EventKind, Media, MediaStatus, UploadSession, UploadState, Variant
from app.wiring import Services
from storage.base import ObjectStorage
from storage.keys import medium_prefixes

ERASE_BATCH: Final = 500
PURGE_BATCH: Final = 500
BUSY_DELAY: Final = timedelta(minutes=1)  # of what is to be erased, while a worker may be making it anew
PUT_SLACK: Final = timedelta(minutes=5)  # a PUT that began while its URL was good goes on

CAME_TO_NOTHING: Final = (UploadState.ABORTED.value, UploadState.EXPIRED.value)


# ---------------------------------------------------------------- in and out


async def delete(viewer: Viewer, media_id: uuid.UUID) -> Media:
    """Into the trash; what is there already stays so. Raises NotFound or Forbidden."""
    async with DB.transaction() as transaction:
        await put(transaction, (Media.id == media_id) & changeable_media(viewer))
        row = await Media.select().where(Media.id == media_id, visible_media(viewer)).first()
    if row is None:
        raise refusal("media", seen=False)
    if row["deleted_at"] is None:
        raise refusal("media", seen=True)
    return hydrate(Media, row)


async def put(transaction: HeirloomTransaction, which: Combinable) -> None:
    """Into the trash with all media of a where-clause that aren't there yet."""
    now = datetime.now(UTC)
    held = await media.hold(which & Media.deleted_at.is_null())
    if not held:
        return
    rows = (
        await Media.update({Media.deleted_at: now, Media.updated_at: now, Media.is_primary: False})
        .where(Media.id.is_in(held))
        .returning(Media.id, Media.entity, Media.owner)
    )
    for row in rows:
        await events.record(transaction, EventKind.TRASHED, media=row["id"], entity=row["entity"], owner=row["owner"])


async def restore(viewer: Viewer | None, media_id: uuid.UUID) -> Media:
    """Out of the trash, to where it was, or its owner's library when that is gone; what isn't there stays as it is.

    Raises NotFound, Forbidden, BadInput when its bytes are gone, Conflict when its slot holds another now.
    """
    who = signed_in(viewer)
    async with DB.transaction() as transaction:
        before = await media.changeable(who, media_id)
        if before.entity is not None:
            await entities.lock([before.entity])
        found = await media.changeable(who, media_id, lock=True)
        if found.deleted_at is None:
            return found
        if found.lost_at is not None:
            raise BadInput("The bytes of this are gone: it can't be restored.", "ids")
        values = {Media.deleted_at: None, Media.slot: found.slot if found.entity else None}
        restored = await media.place(found, values)
        await events.record(
            transaction, EventKind.RESTORED, media=restored.id, entity=restored.entity, owner=restored.owner
        )
    return restored


# ---------------------------------------------------------------- for good


async def purge(services: Services, viewer: Viewer | None, media_id: uuid.UUID) -> None:
    """Out of the trash for good: the row at once, every byte by a job.

    Raises NotFound, Forbidden, or BadInput for what is not in the trash.
    """
    who = signed_in(viewer)
    which = (Media.id == media_id) & changeable_media(who) & Media.deleted_at.is_not_null()
    async with DB.transaction() as transaction:
        purged = await remove(transaction, [media_id], which, late=late(services))
        if purged:
            faults.reach("purge.in_transaction")
    if not purged:
        await media.changeable(who, media_id)
        raise BadInput("Only what is in the trash can be purged: delete it first.", "ids")
    faults.reach("purge.committed")


async def purge_expired(services: Services) -> None:
    """Purge what has been in the trash for longer than the settings say. Several workers may do so at once."""
    which = Media.deleted_at < services.clock() - services.settings.trash_retention
    while await _purge_some(services, which) == PURGE_BATCH:
        pass


async def _purge_some(services: Services, which: Combinable) -> int:
    async with DB.transaction() as transaction:
        chosen = await Media.select(Media.id).where(which).order_by(Media.deleted_at).limit(PURGE_BATCH)
        if not chosen:
            return 0
        ids = [row["id"] for row in chosen]
        purged = await remove(transaction, ids, which, late=late(services), skip_locked=True)
        if purged:
            faults.reach("purge.in_transaction")
    if purged:
        faults.reach("purge.committed")
    return purged


def late(services: Services) -> timedelta:
    """After so long no URL that a session has given out is good any more."""
    return services.settings.upload_url_lifetime + PUT_SLACK


async def clear_slot(transaction: HeirloomTransaction, entity_id: uuid.UUID, slot: str) -> None:
    """Remove what a slot for one holds, the row at once. Its bytes follow by a job, which commits with that.

    What has only been promised to it stays, and what stands for an upload that came to nothing. The entity is held by
    the caller.
    """
    here = (Media.entity == entity_id) & (Media.slot == slot) & Media.deleted_at.is_null()
    tombstones = UploadSession.select(UploadSession.media).where(UploadSession.state.is_in([*CAME_TO_NOTHING]))
    which = here & (Media.status != MediaStatus.PENDING.value) & Media.id.not_in(tombstones)
    rows = await Media.select(Media.id).where(which)
    if rows:
        await remove(transaction, [row["id"] for row in rows], which)


async def remove(
    transaction: HeirloomTransaction,
    ids: Sequence[uuid.UUID],
    which: Combinable,
    *,
    late: timedelta | None = None,
    skip_locked: bool = False,
) -> int:
    """Delete those of the media that are `which`, and have all their bytes erased, in this transaction; how many.

    What a PUT may still bring by a URL that is good is erased once more, that `late`.
    """
    # Sessions before media, each by id: as all do who hold both.
    which = Media.id.is_in(list(ids)) & which
    sessions = (
        await UploadSession.select()
        .where(UploadSession.media.is_in(list(ids)))
        .order_by(UploadSession.id)
        .lock_rows("UPDATE")
    )
    held = await media.hold(which, skip_locked=skip_locked)
    if not held:
        return 0
    rows = (
        await Media.delete()
        .where(Media.id.is_in(held))
        .returning(Media.id, Media.entity, Media.owner, Media.storage_key)
    )
    for row in rows:
        await events.record(transaction, EventKind.PURGED, media=row["id"], entity=row["entity"], owner=row["owner"])
    keys = {row["id"]: row["storage_key"] for row in rows}
    await enqueue_erase(transaction, keys, [each for each in sessions if each["media"] in keys], late=late)
    return len(rows)


async def enqueue_erase(
    transaction: HeirloomTransaction,
    keys: Mapping[uuid.UUID, str],
    sessions: Sequence[Mapping[str, Any]],
    *more: str,
    late: timedelta | None = None,
) -> None:
    """Have the bytes of media erased, by their originals' keys, and what their sessions left, and what `more` names."""
    staged = [session["staging_key"] for session in sessions if session["staging_key"]]
    parts = [
        (keys[session["media"]], session["upload_id"])
        for session in sessions
        if session["upload_id"] and session["state"] != UploadState.COMPLETED
    ]
    await jobs.enqueue_erase(transaction, [*keys.values(), *staged, *more], uploads=parts)
    if staged and late is not None:
        await jobs.enqueue_erase(transaction, staged, after=late)


async def erase(
    storage: ObjectStorage,
    keys: Sequence[str],
    uploads: Sequence[tuple[str, str]] = (),
    variants: Sequence[str] = (),
    media: str | None = None,
) -> None:
    """Delete originals and all that was ever rendered of them, unfinished uploads, and variants that were replaced.

    Doing it twice is no harm. All of it is put off while variants are made of `media`, whose replaced ones these are.
    """
    if media is not None and await _is_in_work(uuid.UUID(media)):
        # By the same spec, taken up again meanwhile, the same keys are stored before there are rows that name them.
        async with DB.transaction() as transaction:
            await jobs.enqueue_erase(
                transaction, keys, uploads=uploads, variants=variants, media=uuid.UUID(media), after=BUSY_DELAY
            )
        return
    for key, upload_id in uploads:
        await storage.abort_multipart(key, upload_id)
        faults.reach("erase.deleted")
    if variants:
        rows = await Variant.select(Variant.storage_key).where(Variant.storage_key.is_in(list(variants)))
        await storage.delete(sorted(set(variants) - {row["storage_key"] for row in rows}))
    for key in keys:
        prefixes = medium_prefixes(key)
        batch: list[str] = []
        # One listing for original and variants, of the stem that they have in common.
        async for stored in storage.list(prefixes[0][:-1]):
            if stored.key.startswith(prefixes):
                batch.append(stored.key)
            if len(batch) == ERASE_BATCH:
                await storage.delete(batch)
                faults.reach("erase.deleted")
                batch.clear()
        await storage.delete(batch)
        faults.reach("erase.deleted")


async def _is_in_work(media_id: uuid.UUID) -> bool:
    """Whether a worker may just be storing variants of it, whose rows are still to come."""
    in_work = Media.status.is_in([MediaStatus.UPLOADED.value, MediaStatus.PROCESSING.value])
    return await Media.exists().where(Media.id == media_id, in_work) or await jobs.is_rendering(media_id)
