"""How a direct upload becomes media: the bytes put together, looked at, and then acknowledged.

One PUT's bytes wait under a staging key and are copied to a key of their own, because the URL they came by may still be
good then. An upload in parts is stored under its key by its completion alone, and its URLs end with it. A process may
die anywhere on the way: until the last transaction the session is open, and completing it again goes on from there.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app import entities, faults, jobs, stages, trash, uploads
from app.access import Viewer, signed_in
from app.db import HeirloomTransaction, hydrate
from app.errors import BadInput, Conflict, HeirloomError, UnsupportedType
from app.piccolo_conf import DB
from app.slots import Slot
from app.stages import Failure, Stage
from app.tables import EventKind, Media, MediaStatus, UploadMethod, UploadSession, UploadState
from app.upload_endings import ABORTED, EXPIRED, end
from app.upload_sessions import KEPT, find, is_open, media_of, no_such_session, size_of_part, state, total_parts
from app.uploads import Place, slot_of, storage_answers
from app.wiring import Services
from processing.failures import FailureCode
from processing.identify import HEAD_BYTES, identify
from processing.kinds import FileType, claimed, may_be, told_apart
from storage.base import InvalidParts, ObjectNotFound, StoredPart, UploadNotFound


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as the client names it."""

    number: int
    etag: str


@dataclass(frozen=True, slots=True)
class Upload:
    """One attempt at a completion."""

    services: Services
    session: UploadSession
    media: Media

    @property
    def is_single(self) -> bool:
        method: str = self.session.method
        return method == UploadMethod.SINGLE

    @property
    def slot(self) -> Slot:
        return slot_of(self.media)

    @property
    def claim(self) -> FileType:
        file_type = claimed(self.session.content_type)
        assert file_type is not None, "it was one when the session was begun"
        return file_type


class Refused(Exception):
    """The bytes are not what was promised: `error` for who asks, `failure` for the row."""

    def __init__(self, error: HeirloomError, code: FailureCode) -> None:
        super().__init__(error.message)
        self.error = error
        self.failure = Failure(code, error.message)


async def complete(
    services: Services, viewer: Viewer | None, session_id: uuid.UUID, parts: Sequence[NamedPart] | None = None
) -> Media:
    """The media, whose bytes are all there and are what was promised; again, the same.

    Raises NotFound; Conflict when not all has arrived, or the session has ended otherwise; BadInput for parts that are
    none; UnsupportedType and BadInput for bytes that are not as promised, which are removed; StorageFailed.
    """
    owner = signed_in(viewer)
    session = await find(owner, session_id)
    if session is None:
        raise no_such_session()
    if not is_open(services, session):
        return await _answer(services, session)
    upload = Upload(services, session, await media_of(session))
    key = await _gather(upload, parts)
    media = await _acknowledge(upload, key) if key is not None else None
    if media is None:  # nothing has arrived, or somebody else was faster
        session = await find(owner, session_id)
        if key is not None and (session is None or session.state != UploadState.COMPLETED):
            await uploads.discard(services, key)  # joined after the end had its bytes erased, perhaps
        if session is None:
            raise no_such_session()
        return await _answer(services, session)
    if upload.is_single:
        await uploads.discard(services, session.staging_key)
    return media


async def _answer(services: Services, session: UploadSession) -> Media:
    """What became of a session."""
    media = await media_of(session)
    match state(services, session):
        case UploadState.COMPLETED:
            return media
        case UploadState.OPEN:
            raise Conflict("Nothing has been uploaded yet.", "session_id")
        case UploadState.EXPIRED:
            raise Conflict(EXPIRED.message, "session_id")
        case UploadState.ABORTED:
            raise Conflict(media.failure_message or ABORTED.message, "session_id")


# ---------------------------------------------------------------- the bytes


async def _gather(upload: Upload, named: Sequence[NamedPart] | None) -> str | None:
    """The key under which all bytes are now; None when none have come. Raises BadInput, Conflict or StorageFailed."""
    with storage_answers("An upload could not be completed", kept=KEPT):
        key = await (_copied(upload, named) if upload.is_single else _joined(upload, named))
    faults.reach("complete.gathered")
    return key


async def _copied(upload: Upload, named: Sequence[NamedPart] | None) -> str | None:
    if named is not None:
        raise BadInput("This upload has no parts: it is one PUT.", "parts")
    # To a new key each time: of two completions at once, the later copy must not replace what the first has verified.
    owner: uuid.UUID = upload.media.owner
    entity = await entities.still(upload.media.entity) if upload.media.entity else None
    key = uploads.new_key(upload.services, owner, Place(upload.slot, entity), upload.claim)
    try:
        await upload.services.storage.copy(upload.session.staging_key, key)
    except ObjectNotFound:
        return None
    return key


async def _joined(upload: Upload, named: Sequence[NamedPart] | None) -> str:
    storage, key, upload_id = upload.services.storage, upload.media.storage_key, upload.session.upload_id
    try:
        there = await storage.list_parts(key, upload_id)
        _check_parts(upload.session, there, named)
        await storage.complete_multipart(key, upload_id, there)
    except UploadNotFound:
        pass  # joined before, by somebody who got no further or is about to; or gone, which its object will tell
    except InvalidParts as error:
        raise Conflict("Parts were sent again while they were joined. Try again.", "session_id") from error
    return str(key)


def _check_parts(session: UploadSession, there: Sequence[StoredPart], named: Sequence[NamedPart] | None) -> None:
    """Raises BadInput for named parts other than those that are there, and Conflict when not all have arrived."""
    total = total_parts(session)
    assert total is not None, "a session with an upload id has parts"
    etags = {part.number: part.etag.strip('"') for part in there}
    for index, part in enumerate(named or ()):
        if part.number != index + 1 or part.number > total:
            raise BadInput(f"Parts are named from 1 to {total}, in order.", "parts", str(index), "part_number")
        if part.number in etags and etags[part.number] != part.etag.strip('"'):
            raise BadInput(f"Part {part.number} has another ETag.", "parts", str(index), "etag")
    if named is not None and len(named) < total:
        raise BadInput(f"There are {total} parts, and {len(named)} are named.", "parts")
    if missing := [number for number in range(1, total + 1) if number not in etags]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Conflict(f"Part {missing[0]}{more} of {total} has not arrived yet.", "session_id")
    for part_there in there:
        wanted = size_of_part(session, part_there.number) if part_there.number <= total else 0
        if part_there.size != wanted:
            wrong = f"Part {part_there.number} has {part_there.size} bytes instead of {wanted}: send it again."
            raise Conflict(wrong, "session_id")


async def _verified(upload: Upload, key: str) -> FileType:
    """What the bytes under `key` are. Raises Refused; Conflict when there are none; StorageFailed."""
    storage, session = upload.services.storage, upload.session
    with storage_answers("An upload could not be looked at", kept=KEPT):
        try:
            stored = await storage.head(key)
            async with aclosing(storage.open(key, end=HEAD_BYTES)) as chunks:
                head = b"".join([chunk async for chunk in chunks])
        except ObjectNotFound:
            await media_of(session)  # which may have been purged meanwhile, with its bytes
            raise Conflict("The storage has lost this upload: abort it, and begin anew.", "session_id") from None
    if stored.size != session.size_bytes:
        wrong = f"{stored.size} bytes were uploaded, and {session.size_bytes} promised."
        raise Refused(BadInput(wrong, "session_id"), FailureCode.CHECKSUM_MISMATCH)
    found = identify(head)
    if found is None:
        unknown = "These bytes are no picture, film, recording or document that is known here."
        raise Refused(UnsupportedType(unknown, "session_id"), FailureCode.UNSUPPORTED)
    if not may_be(upload.claim, found):
        other = f"These bytes are {found.content_type}, and {upload.claim.content_type} was promised."
        raise Refused(UnsupportedType(other, "session_id"), FailureCode.UNSUPPORTED)
    found = told_apart(found, upload.claim)
    if found.kind not in upload.slot.kinds:
        unfit = f"The slot “{upload.slot.name}” does not take {found.content_type}."
        raise Refused(UnsupportedType(unfit, "session_id"), FailureCode.UNSUPPORTED)
    return found


# ---------------------------------------------------------------- the rows


async def _acknowledge(upload: Upload, key: str) -> Media | None:
    """The media of these bytes. None when the session has ended meanwhile, by whomever."""
    transaction = DB.transaction()
    try:
        found = await _verified(upload, key)
        async with transaction:
            media = await _settle(transaction, upload, key, found)
            faults.reach("complete.in_transaction")
    except Refused as refused:
        which = UploadSession.id == upload.session.id
        if not await end(upload.services, which, UploadState.ABORTED, refused.failure, key):
            await _drop(upload, key)
            return None
        raise refused.error from refused
    except BaseException as error:
        if not uploads.in_doubt(error, transaction):
            await asyncio.shield(_drop(upload, key))
        raise
    faults.reach("complete.committed")
    if media is None:
        await _drop(upload, key)
    return media


async def _drop(upload: Upload, key: str) -> None:
    """Remove this attempt's own copy. (What was joined from parts is the session's, for whoever completes it.)"""
    if upload.is_single:
        await uploads.discard(upload.services, key)


async def _settle(transaction: HeirloomTransaction, upload: Upload, key: str, found: FileType) -> Media | None:
    """PENDING becomes UPLOADED, with its job and its event; what a slot for one held before gives way."""
    session, slot, now = upload.session, upload.slot, upload.services.clock()
    if upload.media.entity is not None:
        await entities.lock([upload.media.entity])
    won = (
        await UploadSession.update({UploadSession.state: UploadState.COMPLETED.value, UploadSession.ended_at: now})
        .where(UploadSession.id == session.id, UploadSession.state == UploadState.OPEN.value)
        .returning(UploadSession.id)
    )
    if not won:
        return None
    place = await Media.select(Media.entity, Media.deleted_at).where(Media.id == upload.media.id).first()
    assert place is not None, "a session goes with its media"
    if slot.single and place["entity"] is not None and place["deleted_at"] is None:
        await trash.clear_slot(transaction, place["entity"], slot.name)
    rows = (
        await Media.update(
            {
                Media.status: MediaStatus.UPLOADED.value,
                Media.kind: found.kind.value,
                Media.content_type: found.content_type,
                Media.storage_key: key,
                Media.updated_at: now,
            }
        )
        .where(Media.id == upload.media.id)
        .returning(*Media.all_columns())
    )
    media = hydrate(Media, rows[0])
    await jobs.enqueue_ingest(transaction, media, priority=slot.priority)
    await stages.report(transaction, EventKind.UPLOADED, media, status=MediaStatus.UPLOADED, stage=Stage.QUEUED)
    if upload.is_single:
        # Once more when no URL is good any longer.
        await jobs.enqueue_erase(transaction, [session.staging_key], after=trash.late(upload.services))
    return media
