"""Out of sight first, bytes later."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from piccolo.custom_types import Combinable

from app import events, jobs
from app.access import Viewer, changeable_media, refusal, visible_media
from app.db import HeirloomTransaction, hydrate
from app.piccolo_conf import DB
from app.tables import EventKind, Media
from storage.base import ObjectStorage
from storage.keys import medium_prefixes

ERASE_BATCH = 500


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
    rows = (
        await Media.update({Media.deleted_at: now, Media.updated_at: now, Media.is_primary: False})
        .where(which, Media.deleted_at.is_null())
        .returning(Media.id, Media.entity, Media.owner)
    )
    for row in rows:
        await events.record(transaction, EventKind.TRASHED, media=row["id"], entity=row["entity"], owner=row["owner"])


async def clear_slot(transaction: HeirloomTransaction, entity_id: uuid.UUID, slot: str) -> None:
    """Remove what a slot for one holds, the row at once. Its bytes follow by a job, which commits with that."""
    rows = (
        await Media.delete()
        .where(Media.entity == entity_id, Media.slot == slot, Media.deleted_at.is_null())
        .returning(Media.id, Media.entity, Media.owner, Media.storage_key)
    )
    for row in rows:
        await events.record(transaction, EventKind.PURGED, media=row["id"], entity=row["entity"], owner=row["owner"])
    if rows:
        await jobs.enqueue_erase(transaction, [row["storage_key"] for row in rows])


async def erase(storage: ObjectStorage, keys: Sequence[str], uploads: Sequence[tuple[str, str]] = ()) -> None:
    """Delete originals and all that was ever rendered of them, and unfinished uploads. Doing it twice is no harm."""
    for key, upload_id in uploads:
        await storage.abort_multipart(key, upload_id)
    for key in keys:
        for prefix in medium_prefixes(key):
            batch: list[str] = []
            async for stored in storage.list(prefix):
                batch.append(stored.key)
                if len(batch) == ERASE_BATCH:
                    await storage.delete(batch)
                    batch.clear()
            await storage.delete(batch)
