"""Sessions of direct uploads: promised by a client, put straight into the storage, looked at, and only then media.

A session is begun (`app/promises.py`), goes on here, and ends once: by completion (`app/completion.py`), or by refusal,
abort or expiry (`app/upload_endings.py`); each a compare-and-set.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from piccolo.custom_types import Combinable

from app.access import Viewer, own_uploads
from app.db import hydrate
from app.errors import BadInput, NotFound
from app.tables import Media, UploadMethod, UploadSession, UploadState
from app.uploads import storage_answers
from app.wiring import Services
from storage.base import SignedRequest, StoredPart, UploadNotFound

KEPT: Final = "What has arrived is kept"  # while the storage is away
LISTINGS_AT_ONCE: Final = 8  # of parts, for one operation: `viewer.uploadSessions` may ask for those of all


class SigningBudget:
    """How many parts may still be signed for one operation: the loop stands still meanwhile, and the answer is held."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def spend(self, parts: int) -> None:
        """Raises BadInput, and spends nothing, when there are not as many left."""
        if parts > self._left:
            raise BadInput(f"Up to {self._most} parts are signed at once: name them by `numbers`.", "numbers")
        self._left -= parts


@dataclass(frozen=True, slots=True)
class SignedPart:
    """Where part `number`, of `size` bytes, goes."""

    number: int
    size: int
    request: SignedRequest


async def find(viewer: Viewer | None, session_id: uuid.UUID) -> UploadSession | None:
    if viewer is None:
        return None
    row = await UploadSession.select().where(UploadSession.id == session_id, own_uploads(viewer)).first()
    return hydrate(UploadSession, row) if row else None


async def unfinished(services: Services, viewer: Viewer) -> list[UploadSession]:
    """Those of the viewer that can still be completed, the oldest first."""
    mine = unfinished_of(viewer, services.clock())
    rows = await UploadSession.select().where(mine).order_by(UploadSession.created_at, UploadSession.id)
    return [hydrate(UploadSession, row) for row in rows]


def unfinished_of(viewer: Viewer, now: datetime) -> Combinable:
    own = UploadSession.owner == viewer.id
    return own & (UploadSession.state == UploadState.OPEN.value) & (UploadSession.expires_at > now)


def state(services: Services, session: UploadSession) -> UploadState:
    """As it is by the clock: what has run out is EXPIRED before anybody has swept it."""
    return UploadState.EXPIRED if is_over(services, session) else UploadState(session.state)


def is_over(services: Services, session: UploadSession) -> bool:
    """Whether it has run out, and nobody has swept it yet."""
    open_still: bool = session.state == UploadState.OPEN.value
    return open_still and bool(session.expires_at <= services.clock())


def is_open(services: Services, session: UploadSession) -> bool:
    return state(services, session) is UploadState.OPEN


def total_parts(session: UploadSession) -> int | None:
    return -(-session.size_bytes // session.part_size) if session.part_size else None


def size_of_part(session: UploadSession, number: int) -> int:
    """Bytes of part `number`, from 1: the last has what is left."""
    part: int = session.part_size
    return min(part, session.size_bytes - (number - 1) * part)


async def arrived(
    services: Services, viewer: Viewer | None, ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, Sequence[StoredPart]]:
    """The parts that the storage has so far, of those of the viewer's sessions that are open. Raises StorageFailed."""
    if viewer is None:
        return {}
    rows = await UploadSession.select(
        *UploadSession.all_columns(), UploadSession.media.storage_key.as_alias("storage_key")
    ).where(
        UploadSession.id.is_in(list(ids)), own_uploads(viewer), UploadSession.method == UploadMethod.MULTIPART.value
    )
    turns = asyncio.Semaphore(LISTINGS_AT_ONCE)

    async def of_one(row: dict[str, Any]) -> Sequence[StoredPart]:
        async with turns:
            return await _listed(services, row["storage_key"], row["upload_id"])

    open_now = [row for row in rows if is_open(services, hydrate(UploadSession, row))]
    lists = await asyncio.gather(*map(of_one, open_now))
    return {row["id"]: parts for row, parts in zip(open_now, lists, strict=True)}


async def _listed(services: Services, storage_key: str, upload_id: str) -> Sequence[StoredPart]:
    with storage_answers("The parts of an upload could not be listed", kept=KEPT):
        try:
            return await services.storage.list_parts(storage_key, upload_id)
        except UploadNotFound:  # somebody is just completing or aborting it
            return ()


def signed_put(services: Services, session: UploadSession) -> SignedRequest | None:
    """Where the whole file goes, in one PUT; None where it goes in parts, or nothing is to come any more."""
    if session.method == UploadMethod.MULTIPART or not is_open(services, session):
        return None
    now = services.clock()
    return services.storage.presign_put(
        session.staging_key,
        size=session.size_bytes,
        content_type=session.content_type,
        now=now,
        expires_in=_url_lifetime(services, session, now),
    )


def signed_parts(
    services: Services, session: UploadSession, storage_key: str, numbers: Sequence[int], budget: SigningBudget
) -> list[SignedPart]:
    """Where each of these parts goes; none when nothing is to come any more.

    Raises BadInput for parts that aren't, and for more of them than the budget has.
    """
    total = total_parts(session)
    if total is None or not is_open(services, session):
        return []
    if len(numbers) > total or any(not 1 <= number <= total for number in numbers):
        raise BadInput(f"There are parts 1 to {total}.", "numbers")
    budget.spend(len(numbers))
    now = services.clock()
    lifetime = _url_lifetime(services, session, now)
    return [
        SignedPart(
            number,
            size := size_of_part(session, number),
            services.storage.presign_part(
                storage_key, session.upload_id, number, size=size, now=now, expires_in=lifetime
            ),
        )
        for number in numbers
    ]


def _url_lifetime(services: Services, session: UploadSession, now: datetime) -> timedelta:
    left: timedelta = session.expires_at - now
    return max(min(services.settings.upload_url_lifetime, left), timedelta(seconds=1))


async def media_of(session: UploadSession) -> Media:
    """Raises NotFound when both are gone."""
    row = await Media.select().where(Media.id == session.media).first()
    if row is None:
        raise no_such_session()
    return hydrate(Media, row)


def no_such_session() -> NotFound:
    return NotFound("There is no such upload session.", "session_id")
