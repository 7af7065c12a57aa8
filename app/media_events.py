"""All that happens to the media that somebody can see, without a gap: replayed from a cursor, then followed."""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app import entities, events
from app.access import Viewer, refusal, signed_in
from app.auth import derived_key
from app.errors import BadInput
from app.events import Cursor, Happening
from app.hearing import Hearing
from app.tables import EventKind, Media
from app.wiring import Services

_PLACE: Final = struct.Struct(">QQ")
SEAL_BYTES: Final = 8
# What waited longer in the queue of a slow client is looked at once more: who may see it may have changed meanwhile.
FRESH_SECONDS: Final = 1.0

INTERNAL: Final = frozenset({EventKind.SESSION_ENDED, EventKind.CHANGED})  # and never of a media
MediaEventKind = StrEnum(  # type: ignore[misc]  # mypy wants literals
    "MediaEventKind", {kind.name: kind.value for kind in EventKind if kind not in INTERNAL}
)


@dataclass(frozen=True, slots=True)
class MediaEvent:
    """`media` is the row as it is by now; None when it is gone for good."""

    cursor: str
    kind: MediaEventKind
    media_id: uuid.UUID
    media: Media | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Cursors:
    """Cursors as clients hold them: opaque, and sealed, so that none is read that this deployment has not given out."""

    key: bytes

    @classmethod
    def of(cls, services: Services) -> Cursors:
        return cls(derived_key(services.settings.secret_key, "event cursors"))

    def write(self, cursor: Cursor) -> str:
        place = _PLACE.pack(*cursor)
        return base64.urlsafe_b64encode(place + self._seal(place)).decode()

    def read(self, text: str) -> Cursor:
        """Raises BadInput."""
        try:
            raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raw = b""
        place, seal = raw[: _PLACE.size], raw[_PLACE.size :]
        if len(place) < _PLACE.size or not hmac.compare_digest(seal, self._seal(place)):
            raise _unknown()
        return Cursor(*_PLACE.unpack(place))

    def _seal(self, place: bytes) -> bytes:
        return hmac.digest(self.key, place, "sha256")[:SEAL_BYTES]


async def cursor_of_now(services: Services, viewer: Viewer | None) -> str:
    """Behind it comes all that happens from now on. Raises Unauthenticated."""
    signed_in(viewer)
    return Cursors.of(services).write(await events.settled())


async def follow(
    services: Services, viewer: Viewer | None, *, after: str | None, entity_id: uuid.UUID | None
) -> AsyncGenerator[MediaEvent, None]:
    """Every event behind the cursor, or from now on, of media that the viewer can see (and that is at the entity).

    Raises Unauthenticated, at once or when the session ends, Forbidden for an admin who is none any more, NotFound for
    an entity that can't be seen, BadInput for what is no cursor, and CursorExpired, at once or when the listener is so
    slow.
    """
    who = signed_in(viewer)
    if entity_id is not None and await entities.find(who, entity_id) is None:
        raise refusal("entity", seen=False)
    cursors = Cursors.of(services)
    place = None if after is None else await _place(cursors, after)
    with services.hub.follow(who, entity=entity_id, after=place) as subscription:
        hearing = await Hearing.begin(subscription, who)
        while True:
            happening = await hearing.next()
            if happening.media is None or (entity_id is not None and happening.entity != entity_id):
                continue
            if time.monotonic() - happening.read_at > FRESH_SECONDS:
                (happening,) = await events.attended([happening])
                if subscription.subjects.isdisjoint(happening.subjects):
                    continue
            yield _told(happening, cursors)


def _told(happening: Happening, cursors: Cursors) -> MediaEvent:
    assert happening.media is not None, "an event of media"
    kind = MediaEventKind(happening.kind)
    return MediaEvent(cursors.write(happening.cursor), kind, happening.media, happening.row, happening.occurred_at)


async def _place(cursors: Cursors, text: str) -> Cursor:
    cursor = cursors.read(text)
    if not await events.is_past(cursor):
        raise _unknown()  # the database was put back to an earlier state, or another one was put in its place
    return cursor


def _unknown() -> BadInput:
    return BadInput("This is no cursor of these events.", "after")
