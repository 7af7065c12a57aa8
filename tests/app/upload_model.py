"""What should become of uploads: the rules that people are told, without a database or a storage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from app.errors import BadInput, Conflict, HeirloomError, NotFound, UnsupportedType
from app.slots import SINGLE_SLOTS
from app.tables import MediaStatus, UploadState
from processing.failures import FailureCode
from processing.kinds import FileType, MediaKind
from storage.base import SignedRequest
from tests.app.upload_world import CONTENTS, SMALL, Content, Person, joined

SESSION_LIFETIME: Final = timedelta(hours=24)
URL_LIFETIME: Final = timedelta(minutes=15)
SWEPT_AFTER: Final = timedelta(minutes=5)  # an upload's end
RETENTION: Final = timedelta(days=30)
ATTEMPTS: Final = 3
TO_COME: Final = frozenset({MediaStatus.PENDING, MediaStatus.UPLOADED, MediaStatus.PROCESSING})

Refusal = type[HeirloomError] | None


@dataclass(eq=False)
class Thing:
    """A media as it should be: `content` are the bytes that were acknowledged, `rendered` those of its variants."""

    id: uuid.UUID
    owner: Person
    at: Person | None  # at whose profile
    slot: str | None
    size: int
    key: str | None
    status: MediaStatus = MediaStatus.PENDING
    content: Content | None = None
    promised: str | None = None
    sha256: str | None = None
    failure: FailureCode | None = None
    lost: bool = False
    deleted: datetime | None = None
    attempts: int = 0
    rendered: int = 0
    gone: bool = False
    session: Promise | None = None

    @property
    def promise(self) -> Promise:
        assert self.session is not None, "it came as a direct upload"
        return self.session

    @property
    def stored(self) -> bool:
        return not self.gone and not self.lost and self.status is not MediaStatus.PENDING

    @property
    def waits(self) -> bool:
        """For a worker."""
        return not self.gone and self.status in {MediaStatus.UPLOADED, MediaStatus.PROCESSING}

    def fail(self, code: FailureCode, *, lost: bool) -> None:
        self.status, self.failure, self.lost = MediaStatus.FAILED, code, lost
        if lost:
            self.key = None


@dataclass(eq=False)
class Promise:
    """A session as it should be, with what has come last, and every URL it gave: part (0: all), size, request."""

    id: uuid.UUID
    thing: Thing
    type: FileType
    sha256: str | None
    expires: datetime
    state: UploadState = UploadState.OPEN
    ended: datetime | None = None
    upload_id: str | None = None
    staged: Content | None = None
    parts: dict[int, str] = field(default_factory=dict)
    joined: Content | None = None  # by a completion that got no further
    gone: bool = False
    urls: list[tuple[int, int, SignedRequest]] = field(default_factory=list)

    @property
    def single(self) -> bool:
        return self.thing.size == SMALL

    @property
    def arrived(self) -> Content | None:
        """All of it, if all of it has come."""
        if self.single or self.joined:
            return self.staged or self.joined
        return joined(self.parts[1], self.parts[2]) if len(self.parts) == 2 else None

    def take(self, part: int, name: str) -> None:
        if part:
            self.parts[part] = name
        else:
            self.staged = CONTENTS[name]

    def end(self, state: UploadState, failure: FailureCode, now: datetime) -> None:
        self.state, self.ended = state, now
        self.thing.fail(failure, lost=True)


def admits(slot: str | None, type_: FileType) -> bool:
    return slot is None or type_.kind is MediaKind.IMAGE


class Model:
    """All that there is, and was."""

    def __init__(self, now: datetime, quota: int | None) -> None:
        self.now, self.quota = now, quota
        self.things: list[Thing] = []

    def living(self) -> Iterator[Thing]:
        return (thing for thing in self.things if not thing.gone)

    def promises(self) -> Iterator[Promise]:
        return (thing.session for thing in self.things if thing.session and not thing.session.gone)

    # ------------------------------------------------------------ what is to be expected

    def is_open(self, promise: Promise) -> bool:
        return promise.state is UploadState.OPEN and promise.expires > self.now and not promise.gone

    def has_run_out(self, promise: Promise) -> bool:
        """And nobody has swept it yet."""
        return promise.state is UploadState.OPEN and promise.expires <= self.now and not promise.gone

    def of_key(self, owner: Person, key: str | None) -> Thing | None:
        return next((thing for thing in self.living() if key and (thing.owner, thing.key) == (owner, key)), None)

    def twins(self, owner: Person, sha256: str | None, slot: str | None) -> set[uuid.UUID]:
        """Media whose bytes need not come again to this slot."""
        return {
            thing.id
            for thing in self.living()
            if thing.owner is owner and not thing.lost and sha256 and thing.sha256 == sha256
            if not {thing.slot, slot} & SINGLE_SLOTS
        }

    def fits(self, owner: Person, size: int) -> bool:
        if self.quota is None:
            return True
        own = [thing for thing in self.living() if thing.owner is owner]
        stored = sum(thing.size * thing.stored + thing.rendered for thing in own)
        promised = sum(
            promise.thing.size
            for promise in self.promises()
            if promise.thing.owner is owner and promise.state is UploadState.OPEN
        )
        return stored + promised + size <= self.quota

    def refused_completion(self, promise: Promise) -> Refusal:
        if promise.gone:
            return NotFound
        if promise.state is UploadState.COMPLETED:
            return None
        content = promise.arrived
        if not self.is_open(promise) or content is None:
            return Conflict
        return None if content.type == promise.type and admits(promise.thing.slot, content.type) else UnsupportedType

    def refused_place(self, thing: Thing, viewer: Person, slot: str) -> Refusal:
        if thing.gone or thing.owner is not viewer:
            return NotFound
        if thing.deleted is not None or not thing.stored:
            return BadInput
        assert thing.content is not None
        assert thing.content.type is not None
        return None if admits(slot, thing.content.type) else UnsupportedType

    def refused_return(self, thing: Thing) -> Refusal:
        """Out of the trash."""
        if thing.gone:
            return NotFound
        if thing.deleted is not None and thing.lost:
            return BadInput
        return Conflict if thing.deleted is not None and thing.stored and self._is_taken(thing) else None

    def _is_taken(self, thing: Thing) -> bool:
        return any(other.stored for other in self._others_there(thing))

    def _others_there(self, thing: Thing) -> list[Thing]:
        """In the same slot, if it is one for one."""
        return [
            other
            for other in self.living()
            if other is not thing and (other.at, other.slot) == (thing.at, thing.slot)
            if other.deleted is None and thing.slot in SINGLE_SLOTS
        ]

    # ------------------------------------------------------------ what happens

    def acknowledge(self, promise: Promise, content: Content | None) -> None:
        if promise.state is UploadState.COMPLETED:
            return
        assert content is not None, "nothing has come of what was acknowledged"
        thing = promise.thing
        promise.state, promise.ended = UploadState.COMPLETED, self.now
        thing.status, thing.content, thing.promised = MediaStatus.UPLOADED, content, promise.sha256
        if thing.deleted is None:
            self.clear(thing)

    def refuse(self, promise: Promise) -> None:
        promise.end(UploadState.ABORTED, FailureCode.UNSUPPORTED, self.now)

    def clear(self, thing: Thing) -> None:
        """What a slot for one held gives way to a thing; promises don't, and what stands for those that failed."""
        for other in self._others_there(thing):
            came_to_nothing = other.session and other.session.state in {UploadState.ABORTED, UploadState.EXPIRED}
            if other.status is not MediaStatus.PENDING and not came_to_nothing:
                self.remove(other)

    def remove(self, thing: Thing) -> None:
        thing.gone = True
        if thing.session is not None:
            thing.session.gone = True

    def process(self, thing: Thing, failed: str | None, *, is_done: bool, rendered: int) -> None:
        """An attempt, at one of whose steps the storage may have `failed`, so that it `is_done` or to come again."""
        content = thing.content
        assert content is not None
        thing.attempts += 1
        thing.status = MediaStatus.PROCESSING
        mismatch = thing.sha256 is None and thing.promised not in {None, content.sha256}
        if failed != "open" and not mismatch:
            thing.sha256 = content.sha256
        if failed in {"open", "put"}:
            assert is_done == (thing.attempts == ATTEMPTS)
            if is_done:
                thing.fail(FailureCode.STORAGE, lost=False)
        elif mismatch:
            thing.fail(FailureCode.CHECKSUM_MISMATCH, lost=True)
        elif content.failure is not None:
            thing.fail(content.failure, lost=False)
        else:
            thing.status, thing.rendered = MediaStatus.READY, rendered

    def sweep(self) -> None:
        for promise in list(self.promises()):
            if promise.state is UploadState.OPEN and promise.expires < self.now - SWEPT_AFTER:
                promise.end(UploadState.EXPIRED, FailureCode.NOT_UPLOADED, self.now)
            forgotten = promise.ended is not None and promise.ended < self.now - SESSION_LIFETIME - URL_LIFETIME
            if forgotten and promise.state is not UploadState.COMPLETED:
                self.remove(promise.thing)
            elif forgotten and promise.thing.sha256 is not None:
                promise.gone = True

    def empty_the_trash(self) -> None:
        for thing in self.living():
            if thing.deleted is not None and thing.deleted < self.now - RETENTION:
                self.remove(thing)
