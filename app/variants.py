"""The variants of a media: stored beside its original, put in place of older ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from piccolo.columns.combination import WhereRaw

from app import jobs
from app.db import HeirloomTransaction
from app.tables import Media, Variant
from processing.failures import FailureCode, ProcessingFailed
from processing.variants import Rendered
from storage.base import ObjectStorage, StorageError
from storage.keys import extension_of, variant_key


async def store(storage: ObjectStorage, media: Media, made: Rendered) -> Variant:
    """The bytes, and a row that is yet to be written. Raises ProcessingFailed STORAGE."""
    key = variant_key(media.storage_key, made.name, made.digest, extension_of(made.content_type))
    try:
        # Not handed over: the decoder that made it may have been taken over, and has it open.
        await storage.put(key, made.path, size=made.size_bytes, content_type=made.content_type, handed_over=False)
    except StorageError as error:
        raise ProcessingFailed(FailureCode.STORAGE, "The storage does not answer.") from error
    return Variant(
        media=media.id,
        name=made.name.value,
        digest=made.digest,
        content_type=made.content_type,
        width=made.width,
        height=made.height,
        size_bytes=made.size_bytes,
        storage_key=key,
    )


async def put_in_place(
    transaction: HeirloomTransaction, media: Media, variants: Sequence[Variant], *, alone: bool, late: timedelta
) -> None:
    """Write their rows in place of those of the same names, or of all others too where they stand `alone`.

    The caller holds the media's row. Bytes of those replaced go after `late`: until then there are URLs to them.
    """
    keys, names = [variant.storage_key for variant in variants], [variant.name for variant in variants]
    which = (Variant.media == media.id) & WhereRaw("storage_key <> ALL({}::varchar[])", keys)
    if not alone:
        which &= WhereRaw("name = ANY({}::varchar[])", names)
    rows = await Variant.delete().where(which).returning(Variant.storage_key)
    if variants:
        await Variant.insert(*variants).on_conflict(
            action="DO UPDATE",
            target=(Variant.media, Variant.name, Variant.digest),
            values=[Variant.content_type, Variant.width, Variant.height, Variant.size_bytes, Variant.storage_key],
        )
    if rows:
        replaced = [row["storage_key"] for row in rows]
        await jobs.enqueue_erase(transaction, [], variants=replaced, media=media.id, after=late)
