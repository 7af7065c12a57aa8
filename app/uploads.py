"""Files taken in: checked by their bytes, stored, and only then written down."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable

from app import entities, faults, jobs, slots, stages, text, trash, usage
from app.access import Viewer, signed_in
from app.db import HeirloomTransaction, hydrate
from app.errors import (
    BadInput,
    Conflict,
    FileTooLarge,
    StorageFailed,
    UnsupportedType,
    relocated,
)
from app.piccolo_conf import DB
from app.rate_limits import Limit, caller
from app.slots import SINGLE_SLOTS, Slot
from app.stages import Stage
from app.tables import Entity, EntityKind, EventKind, Media, MediaStatus
from app.wiring import Services
from processing.headers import dimensions
from processing.identify import identify
from processing.kinds import FileType, MediaKind, claimed, told_apart
from storage.base import StorageError
from storage.keys import key_without_entity

logger = logging.getLogger(__name__)

MEDIA_PREFIX = "MED"
IDEMPOTENCY_KEY_LENGTH = 200
MEGAPIXEL = 1_000_000
# The server's answers to go with a connection: after them nobody knows what has become of a commit.
CONNECTION_LOST = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)


class ReceivedFile(Protocol):
    """A file as the edge has spooled it: `head` are its first bytes, `sha256` is hex."""

    path: Path
    filename: str
    size: int
    sha256: str
    head: bytes
    too_large: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What people say of a file when they upload it."""

    title: str | None = None
    description: str | None = None
    alt_text: str | None = None
    tags: Sequence[str] | None = None
    is_public: bool = False
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file goes: a slot of an entity, or its owner's library."""

    slot: Slot
    entity: Entity | None = None


@dataclass(slots=True)
class UploadTicket:
    """Bytes that are stored under `key`; their row is written in `transaction`."""

    place: Place
    file: ReceivedFile
    type: FileType
    key: str
    backend: str
    bucket: str | None
    transaction: HeirloomTransaction | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    media: Media
    duplicate_of: Media | None = None


async def receive(
    services: Services,
    viewer: Viewer | None,
    file: ReceivedFile,
    *,
    entity_id: uuid.UUID | None = None,
    slot: str | None = None,
    words: Words,
) -> Receipt:
    """One file: its media, or that which has these very bytes, or was made with this idempotency key, already.

    Raises BadInput, UnsupportedType, FileTooLarge, NotFound, Forbidden, Conflict, QuotaExceeded, RateLimited or
    StorageFailed.
    """
    owner = signed_in(viewer)
    await services.limits.spend(Limit.UPLOAD, caller(owner.id))
    columns = cleaned(words)
    key = columns["idempotency_key"]  # as it is stored: what was cleaned away must not make it another key
    place = await find_place(owner, entity_id, slot)
    if before := await _received_before(owner, file, place, key):
        return before
    try:
        async with stored(services, owner, file, place) as ticket:
            async with DB.transaction() as transaction:
                media = await put_in_place(transaction, owner, ticket, columns)
                faults.reach("upload.in_transaction")
            faults.reach("upload.committed")
            return Receipt(media)
    except asyncpg.UniqueViolationError:
        # The same file, or key, came twice at once, and the other was first.
        if before := await _received_before(owner, file, place, key):
            return before
        raise


@asynccontextmanager
async def stored(services: Services, owner: Viewer, file: ReceivedFile, place: Place) -> AsyncIterator[UploadTicket]:
    """The file checked and its bytes stored, for a row to be written about them; no row, no bytes."""
    found = await _checked(services, file, place)
    with relocated("file", origin=("size_bytes",)):
        await usage.would_fit(owner.id, file.size)
    key = new_key(services, owner.id, place, found)
    ticket = UploadTicket(place, file, found, key, services.storage.name, services.storage.bucket)
    await _put(services, ticket)
    faults.reach("upload.stored")
    try:
        yield ticket
    except BaseException as error:
        # When the connection is lost at the commit, nobody knows whether the row is there: then the bytes stay.
        if not in_doubt(error, ticket.transaction):
            await asyncio.shield(discard(services, ticket.key))
        raise


def in_doubt(error: BaseException, transaction: HeirloomTransaction | None) -> bool:
    """Whether what `transaction` wrote may be there, though it ended with this error."""
    refused = isinstance(error, asyncpg.PostgresError) and not isinstance(error, CONNECTION_LOST)
    return transaction is not None and transaction.committing and not refused


async def put_in_place(
    transaction: HeirloomTransaction, owner: Viewer, ticket: UploadTicket, columns: dict[str, Any]
) -> Media:
    """The row about stored bytes, its job and its event; what a slot for one held before gives way."""
    place, file, ticket.transaction = ticket.place, ticket.file, transaction
    if place.entity is not None:
        await entities.hold(owner, place.entity.id, EntityKind(place.entity.kind))
    with relocated("file", origin=("size_bytes",)):
        await usage.reserve(transaction, owner.id, file.size)
    if place.slot.single and place.entity is not None:
        await trash.clear_slot(transaction, place.entity.id, place.slot.name)
    media = new_media(
        owner.id,
        place,
        ticket.type,
        now=datetime.now(UTC),
        status=MediaStatus.UPLOADED.value,
        filename=file.filename,
        size_bytes=file.size,
        sha256=file.sha256,
        storage_backend=ticket.backend,
        bucket=ticket.bucket,
        storage_key=ticket.key,
        **columns,
    )
    await Media.insert(media)
    await jobs.enqueue_ingest(transaction, media, priority=place.slot.priority)
    await stages.report(transaction, EventKind.UPLOADED, media, status=MediaStatus.UPLOADED, stage=Stage.QUEUED)
    return media


def new_media(owner: uuid.UUID, place: Place, file_type: FileType, *, now: datetime, **columns: Any) -> Media:
    """A row for a file of this type at this place; `columns` are what else there is to say of it."""
    return Media(
        public_id=entities.public_id(MEDIA_PREFIX),
        owner=owner,
        entity=place.entity.id if place.entity else None,
        slot=place.slot.name if place.entity else None,
        kind=file_type.kind.value,
        content_type=file_type.content_type,
        created_at=now,
        updated_at=now,
        **columns,
    )


def cleaned(words: Words) -> dict[str, Any]:
    """Columns of Media. Raises BadInput."""
    return {
        "title": text.optional_line(words.title, "title", most=text.TITLE_LENGTH),
        "description": text.prose(words.description, "description"),
        "alt_text": text.prose(words.alt_text, "alt_text"),
        "tags": text.tags(words.tags),
        "is_public": words.is_public,
        "idempotency_key": text.optional_line(words.idempotency_key, "idempotency_key", most=IDEMPOTENCY_KEY_LENGTH),
    }


async def find_place(owner: Viewer, entity_id: uuid.UUID | None, slot: str | None) -> Place:
    """Where the viewer may put it. Raises BadInput, NotFound or Forbidden."""
    if entity_id is None:
        if slot is not None:
            raise BadInput("A slot is a place at an entity: say at which.", "slot")
        return Place(slots.LIBRARY)
    with relocated("entity_id"):
        entity = await entities.changeable(owner, entity_id)
    return Place(slots.find(EntityKind(entity.kind), slot), entity)


async def _received_before(owner: Viewer, file: ReceivedFile, place: Place, key: str | None) -> Receipt | None:
    """The media made by this idempotency key, else the one with these bytes. Raises Conflict."""
    same_key = WhereRaw("media.idempotency_key = {}", key) if key else WhereRaw("FALSE")
    # Avatars and covers may hold bytes that the library has too, both ways.
    same_bytes = WhereRaw("FALSE") if place.slot.single else has_bytes(file.sha256)
    rows = await Media.select().where(Media.owner == owner.id, same_key | same_bytes)
    found = [hydrate(Media, row) for row in rows]
    for media in found:
        if key and media.idempotency_key == key:
            if media.sha256 != file.sha256:
                raise Conflict("This idempotency key was used with another file.", "idempotency_key")
            return Receipt(media)
    return Receipt(found[0], duplicate_of=found[0]) if found else None


_NOT_SINGLE = WhereRaw("(media.slot IS NULL OR media.slot <> ALL({}))", sorted(SINGLE_SLOTS))


def slot_of(media: Media) -> Slot:
    """The slot that a media is in, or was when its entity went."""
    return slots.named(media.slot) if media.slot else slots.LIBRARY


def has_bytes(sha256: str) -> Combinable:
    """Media that hold these very bytes, in the trash or not: what is there need not come again."""
    return (Media.sha256 == sha256) & Media.lost_at.is_null() & _NOT_SINGLE


async def _checked(services: Services, file: ReceivedFile, place: Place) -> FileType:
    """What the bytes are. Raises what is wrong with them, for this place."""
    settings = services.settings
    if file.too_large:
        raise FileTooLarge(f"A file may have up to {_mebibytes(settings.max_file_bytes)}.", "file")
    if not file.size:
        raise BadInput("The file is empty.", "file")
    found = identify(file.head)
    if found is None:
        raise UnsupportedType("These bytes are no picture, film, recording or document that is known here.", "file")
    found = told_apart(found, claimed("", file.filename))
    place.slot.admit(found.kind, file.size)
    if found.kind is MediaKind.IMAGE:
        size = await asyncio.to_thread(_dimensions, file.path, found)
        if size is not None and size[0] * size[1] > settings.max_pixels:
            raise BadInput(
                f"This picture has {size[0]} × {size[1]} pixels; "
                f"up to {settings.max_pixels / MEGAPIXEL:g} megapixels are taken.",
                "file",
            )
    return found


def _dimensions(path: Path, found: FileType) -> tuple[int, int] | None:
    with path.open("rb") as opened:
        return dimensions(opened, found)


def _mebibytes(size: int) -> str:
    return f"{size / 1024**2:g} MiB"


def new_key(services: Services, owner: uuid.UUID, place: Place, found: FileType) -> str:
    """A key that was never used, for an original at this place."""
    now = datetime.now(UTC)
    if place.entity is None:
        return key_without_entity(media_type=found.kind, user_id=owner, extension=found.extension, now=now)
    return services.key_template.key(
        entity_type=place.entity.kind,
        media_type=found.kind,
        entity_id=place.entity.id,
        slot=place.slot.name,
        extension=found.extension,
        now=now,
    )


async def _put(services: Services, ticket: UploadTicket) -> None:
    file = ticket.file
    with storage_answers("An upload could not be stored"):
        await services.storage.put(ticket.key, file.path, size=file.size, content_type=ticket.type.content_type)


@contextmanager
def storage_answers(otherwise: str, *, kept: str = "Nothing was kept") -> Iterator[None]:
    """Raises StorageFailed, which says what was `kept`, and logs `otherwise`, when the storage has trouble within."""
    try:
        yield
    except StorageError as error:
        logger.error("%s: %r", otherwise, error)  # noqa: TRY400 - its own errors need no traceback
        raise StorageFailed(f"The storage does not answer. {kept}; try again later.") from error


async def abandon(services: Services, key: str, upload_id: str) -> None:
    """Abort an upload in parts that has no row, if that can be done now."""
    try:
        await services.storage.abort_multipart(key, upload_id)
    except StorageError as error:
        logger.warning("An upload in parts without a row could not be aborted: %r", error)


async def discard(services: Services, key: str) -> None:
    """Delete bytes without a row, if that can be done now."""
    try:
        await services.storage.delete([key])
    except StorageError as error:
        # What the database said is the answer; the bytes are left to the sweep.
        logger.warning("Bytes without a row could not be deleted: %r", error)
