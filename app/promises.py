"""How a direct upload begins: a client claims what it has, and is promised a place for it."""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from app import entities, faults, uploads, usage
from app.access import Viewer, signed_in
from app.db import HeirloomTransaction, hydrate
from app.errors import BadInput, Conflict, FileTooLarge, HeirloomError, UnsupportedType
from app.piccolo_conf import DB
from app.rate_limits import Limit, caller
from app.slots import MIB, Slot
from app.tables import EntityKind, Media, MediaStatus, UploadMethod, UploadSession, UploadState
from app.upload_endings import EXPIRED, end
from app.upload_sessions import is_over, unfinished_of
from app.uploads import Place, Words, cleaned, storage_answers
from app.wiring import Services
from processing.kinds import FileType, claimed
from storage.keys import staging_key

SINGLE_MOST: Final = 5 * MIB  # bytes that go in one PUT: S3's least part
PART_BYTES: Final = 8 * MIB
# Beyond, parts grow: far below S3's 10,000, so that all of them can be signed in one answer, and so that at S3's
# greatest object (5 TiB) a part still fits a GraphQL Int and S3's greatest part (5 GiB).
MOST_PARTS: Final = 4_000
OPEN_AT_ONCE: Final = 200  # sessions of one account: `viewer.uploadSessions` gives all of them

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LOCK_ACCOUNT: Final = "SELECT FROM user_account WHERE id = $1 FOR NO KEY UPDATE"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client says of a file that it has: `sha256` in hex."""

    filename: str
    type: FileType
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Begun:
    """A session, or the media that has these very bytes already."""

    session: UploadSession | None
    duplicate_of: Media | None = None


async def begin(
    services: Services,
    viewer: Viewer | None,
    *,
    filename: str,
    content_type: str,
    size_bytes: int,
    sha256: str | None = None,
    entity_id: uuid.UUID | None = None,
    slot: str | None = None,
    words: Words,
) -> Begun:
    """A session for a file with these claims; that of the same idempotency key, if there is one.

    Raises BadInput, UnsupportedType, FileTooLarge, NotFound, Forbidden, Conflict, QuotaExceeded, RateLimited or
    StorageFailed.
    """
    owner = signed_in(viewer)
    await services.limits.spend(Limit.UPLOAD, caller(owner.id))
    columns = cleaned(words)
    claim = _claim(services, filename, content_type, size_bytes, sha256)
    place = await uploads.find_place(owner, entity_id, slot)
    _admit(place.slot, claim)
    if before := await _begun_before(services, owner, claim, columns["idempotency_key"]):
        return before
    if duplicate := await _duplicate(owner, claim, place):
        return Begun(None, duplicate)
    await usage.would_fit(owner.id, claim.size)
    media, session = _promised(services, owner, claim, place, columns)
    if session.method == UploadMethod.MULTIPART:
        with storage_answers("An upload in parts could not be begun"):
            session.upload_id = await services.storage.create_multipart(
                media.storage_key, content_type=claim.type.content_type
            )
        faults.reach("begin.multipart_created")
    try:
        await _write(services, owner, place, media, session)
    except asyncpg.UniqueViolationError:
        # The same key came twice at once, and the other was first.
        if before := await _begun_before(services, owner, claim, columns["idempotency_key"]):
            return before
        raise
    faults.reach("begin.committed")
    return Begun(session)


def _claim(services: Services, filename: str, content_type: str, size: int, sha256: str | None) -> Claim:
    most = services.settings.max_upload_bytes
    if size < 1:
        raise BadInput("A file has at least one byte.", "size_bytes")
    if size > most:
        raise FileTooLarge(f"A file may have up to {most} bytes.", "size_bytes")
    if sha256 is not None and not _SHA256.fullmatch(sha256 := sha256.lower()):
        raise BadInput("A SHA-256 has 64 hexadecimal digits.", "sha256")
    file_type = claimed(content_type, filename)
    if file_type is None:
        raise UnsupportedType("Pictures, films, recordings and documents are taken; this type is not.", "content_type")
    return Claim(filename, file_type, size, sha256)


def _admit(slot: Slot, claim: Claim) -> None:
    try:
        slot.admit(claim.type.kind, claim.size)
    except HeirloomError as error:
        error.path = ("content_type",) if isinstance(error, UnsupportedType) else ("size_bytes",)
        raise


async def _begun_before(services: Services, owner: Viewer, claim: Claim, key: str | None) -> Begun | None:
    """The session that this idempotency key has made and that may still be of use. Raises Conflict."""
    if key is None:
        return None
    row = await Media.select().where(Media.owner == owner.id, Media.idempotency_key == key).first()
    if row is None:
        return None
    made = await UploadSession.select().where(UploadSession.media == row["id"]).first()
    if made is None or (row["filename"], made["content_type"], made["size_bytes"], made["sha256"]) != (
        claim.filename,
        claim.type.content_type,
        claim.size,
        claim.sha256,
    ):
        raise Conflict("This idempotency key was used with another file.", "idempotency_key")
    session = hydrate(UploadSession, made)
    if is_over(services, session):
        await end(services, UploadSession.id == session.id, UploadState.EXPIRED, EXPIRED)
        return None
    return Begun(session)


async def _duplicate(owner: Viewer, claim: Claim, place: Place) -> Media | None:
    if claim.sha256 is None or place.slot.single:
        return None
    row = await Media.select().where(Media.owner == owner.id, uploads.has_bytes(claim.sha256)).first()
    return hydrate(Media, row) if row else None


def _promised(
    services: Services, owner: Viewer, claim: Claim, place: Place, columns: dict[str, Any]
) -> tuple[Media, UploadSession]:
    now = services.clock()
    media = uploads.new_media(
        owner.id,
        place,
        claim.type,
        now=now,
        status=MediaStatus.PENDING.value,
        filename=claim.filename,
        size_bytes=claim.size,
        storage_backend=services.storage.name,
        bucket=services.storage.bucket,
        storage_key=uploads.new_key(services, owner.id, place, claim.type),
        **columns,
    )
    single = claim.size <= SINGLE_MOST
    session = UploadSession(
        media=media.id,
        owner=owner.id,
        method=(UploadMethod.SINGLE if single else UploadMethod.MULTIPART).value,
        content_type=claim.type.content_type,
        size_bytes=claim.size,
        sha256=claim.sha256,
        part_size=None if single else part_size(claim.size),
        created_at=now,
        expires_at=now + services.settings.upload_session_lifetime,
    )
    if single:
        session.staging_key = staging_key(session.id, claim.type.extension)
    return media, session


def part_size(size: int) -> int:
    """Bytes of each part but the last, of a file of `size` bytes: whole MiB, of which MOST_PARTS are enough."""
    least = -(-size // MOST_PARTS)
    return max(PART_BYTES, -(-least // MIB) * MIB)


async def _write(services: Services, owner: Viewer, place: Place, media: Media, session: UploadSession) -> None:
    transaction = DB.transaction()
    try:
        async with transaction:
            if place.entity is not None:
                await entities.hold(owner, place.entity.id, EntityKind(place.entity.kind))
            await _take_turn(transaction, owner, session.created_at)
            await usage.reserve(transaction, owner.id, media.size_bytes)
            await Media.insert(media)
            await UploadSession.insert(session)
            if place.entity is not None:
                await entities.tell(transaction, place.entity.id)
            faults.reach("begin.in_transaction")
    except BaseException as error:
        if session.upload_id and not uploads.in_doubt(error, transaction):
            await asyncio.shield(uploads.abandon(services, media.storage_key, session.upload_id))
        raise


async def _take_turn(transaction: HeirloomTransaction, owner: Viewer, now: datetime) -> None:
    """Sessions of one account are begun one after the other, and up to a number. Raises Conflict."""
    await transaction.connection.execute(_LOCK_ACCOUNT, owner.id)
    if await UploadSession.count().where(unfinished_of(owner, now)) >= OPEN_AT_ONCE:
        raise Conflict(f"{OPEN_AT_ONCE} uploads are open: complete or abort some of them first.")
