"""Random lives of uploads, against a model of what should become of them.

`make test` lives a few, the same each time; `make fuzz` lives new ones for minutes. Whatever is done, in any order and
by anybody: what was acknowledged keeps its bytes, what is refused is refused for the right reason and changes nothing,
and at the end the storage holds what the database knows of, and no more.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from app import (
    agreement,
    attachments,
    completion,
    ingest,
    promises,
    trash,
    upload_endings,
    upload_sessions,
    uploads,
    usage,
)
from app.agreement import Kind, Report
from app.completion import NamedPart
from app.errors import BadInput, Conflict, HeirloomError, NotFound, QuotaExceeded, StorageFailed, UnsupportedType
from app.ingest import TryAgain
from app.slots import SINGLE_SLOTS
from app.tables import MediaStatus, UploadSession, UploadState
from app.uploads import Words
from processing.failures import FailureCode
from processing.kinds import claimed
from storage.base import SignedRequest, StorageUnavailable
from storage.keys import medium_prefixes
from tests.app.upload_model import SESSION_LIFETIME, TO_COME, Model, Promise, Refusal, Thing, admits
from tests.app.upload_world import (
    CONTENTS,
    FIRST_PARTS,
    LARGE,
    LAST_PARTS,
    PART,
    SMALL,
    Content,
    Trouble,
    World,
)

pytestmark = pytest.mark.xdist_group("upload_life")

EACH: Final = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True)
PROFILES: Final = {
    "quick": settings(EACH, max_examples=20, stateful_step_count=40, derandomize=True),
    "fuzz": settings(EACH, max_examples=500, stateful_step_count=60),
}
PROFILE: Final = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "quick")]

UNTOLD: Final = ("delete", "abort_multipart")  # failures that are no concern of who asks: the sweep comes

T = TypeVar("T")

users = st.sampled_from([0, 1])
small = st.sampled_from(list(CONTENTS))
slots = st.sampled_from([None, None, "photos", "avatar"])
keys = st.sampled_from([None, None, None, "once", "twice"])
first_parts = st.sampled_from(["sound", "sound", "other sound", "noise"])
last_parts = st.sampled_from(list(LAST_PARTS))
troubles = st.sampled_from([None] * 6 + [Trouble(call, after) for call in range(4) for after in (False, True)])
graces = st.sampled_from([timedelta(0), timedelta(hours=24)])
times = st.sampled_from([timedelta(minutes=4), timedelta(minutes=16), timedelta(hours=25), timedelta(days=31)])
sendings = st.tuples(users, slots, st.none() | small, small, st.integers(1, 3))
sometimes = st.sampled_from([False, False, True])
quotas = st.sampled_from([None, None, 3 * SMALL, 10 * SMALL, LARGE + 5 * SMALL])


class UploadLife(RuleBasedStateMachine):
    promised: Bundle[Thing] = Bundle("promised")
    things: Bundle[Thing] = Bundle("things")  # those, and what came the other way

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.compared: dict[str, tuple[int, int]] = {}
        self.may_leak = False  # once the storage has failed, what is left is for the check to find
        self.sound = False

    @initialize(targets=(promised, things), quota=quotas, sent=st.lists(sendings, max_size=4), has_sound=sometimes)
    def begin_life(self, quota: int | None, sent: list[tuple[Any, ...]], has_sound: bool) -> Any:
        """In the middle: random steps alone would seldom come so far."""
        self.world.reset(quota)
        self.model = Model(self.world.now, quota)
        begun = [self.send_some(*sending) for sending in sent]
        if has_sound and (sound := self.begin(0, None, "audio/wav", LARGE)):
            self.put_all_parts(sound, "sound", "end")
            begun.append(sound)
        return multiple(*filter(None, begun))

    def send_some(self, user: int, slot: str | None, promised: str | None, content: str, steps: int) -> Thing | None:
        sha256 = CONTENTS[promised].sha256 if promised else None
        thing = self.begin(user, slot, "image/jpeg", SMALL, sha256=sha256)
        if thing:
            self.put(thing, content, -1)
            if steps == 2:
                self.complete_twice_at_once(thing)
            if steps == 3:
                self.complete(thing, None)
                self.put(thing, "other photo", -1)
                self.work(100, newest=False, again=False, trouble=None)
        return thing

    # ------------------------------------------------------------ doing something, and what should come of it

    def run(self, work: Coroutine[Any, Any, T], trouble: Trouble | None = None) -> T:
        self.sound = False
        with self.world.storage.troubled(trouble):
            return self.world.run(work)

    def attempt(self, work: Coroutine[Any, Any, T], expected: Refusal, trouble: Trouble | None = None) -> T | None:
        """The answer; None when it was refused as expected, or the storage's failure was told."""
        storage = self.world.storage
        try:
            answer: T | HeirloomError = self.run(work, trouble)
        except HeirloomError as error:
            answer = error
        self.may_leak |= storage.failed is not None
        if isinstance(answer, StorageFailed):
            assert storage.failed is not None
            return None
        refused = type(answer) if isinstance(answer, HeirloomError) else None
        assert refused is expected, repr(answer)
        assert refused or storage.failed in {None, *UNTOLD}, f"nobody was told that {storage.failed} failed"
        return None if isinstance(answer, HeirloomError) else answer

    def at_once(self, *work: Awaitable[Any]) -> list[Any]:
        """The answers, expected failures among them."""

        async def together() -> list[Any]:
            return await asyncio.gather(*work, return_exceptions=True)

        answers = self.run(together())
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, HeirloomError):
                raise answer
        return answers

    # ------------------------------------------------------------ sessions

    @rule(
        targets=(promised, things),
        user=users,
        slot=slots,
        type_=st.sampled_from(["image/jpeg", "image/jpeg", "image/png"]),
        content=st.none() | small,
        key=keys,
    )
    def begin_small(self, user: int, slot: str | None, type_: str, content: str | None, key: str | None) -> Any:
        sha256 = CONTENTS[content].sha256 if content else None
        return self.begin(user, slot, type_, SMALL, sha256=sha256, key=key) or multiple()

    @rule(
        targets=(promised, things),
        user=users,
        slot=st.sampled_from([None, None, None, "avatar"]),
        key=keys,
        trouble=troubles,
    )
    def begin_large(self, user: int, slot: str | None, key: str | None, trouble: Trouble | None) -> Any:
        return self.begin(user, slot, "audio/wav", LARGE, key=key, trouble=trouble) or multiple()

    @rule(user=users, type_=st.sampled_from(["text/html", "image/svg+xml"]))
    def begin_something_else(self, user: int, type_: str) -> None:
        self.begin(user, None, type_, SMALL)

    def begin(
        self,
        user: int,
        slot: str | None,
        content_type: str,
        size: int,
        *,
        sha256: str | None = None,
        key: str | None = None,
        trouble: Trouble | None = None,
    ) -> Thing | None:
        """What is new, if anything is."""
        owner, type_, model = self.world.people[user], claimed(content_type), self.model
        expected: Refusal = None
        again: Promise | None = None
        duplicates: set[uuid.UUID] = set()
        if type_ is None or not admits(slot, type_):
            expected = UnsupportedType
        elif before := model.of_key(owner, key):
            again = before.session
            if again is None or again.gone or (again.type, before.size, again.sha256) != (type_, size, sha256):
                expected = Conflict
            elif model.has_run_out(again):
                again.end(UploadState.EXPIRED, FailureCode.NOT_UPLOADED, model.now)
                again = None
        if expected is None and again is None:
            duplicates = model.twins(owner, sha256, slot)
            if not duplicates and not model.fits(owner, size):
                expected = QuotaExceeded
        begun = self.attempt(
            promises.begin(
                self.world.services,
                owner.viewer,
                filename="file",
                content_type=content_type,
                size_bytes=size,
                sha256=sha256,
                entity_id=owner.profile if slot else None,
                slot=slot,
                words=Words(idempotency_key=key),
            ),
            expected,
            trouble,
        )
        if begun is None:
            return None
        if begun.duplicate_of is not None:
            assert begun.session is None
            assert begun.duplicate_of.id in duplicates
            return None
        assert begun.session is not None
        assert not duplicates
        if again is not None:
            assert begun.session.id == again.id
            return None
        return self.promise(begun.session, Thing(begun.session.media, owner, owner if slot else None, slot, size, key))

    @rule(targets=(promised, things), user=users)
    def begin_twice_at_once(self, user: int) -> Any:
        """Together they don't exceed the quota either."""
        owner = self.world.people[user]
        fitting = [number for number in (1, 2) if self.model.fits(owner, number * SMALL)]
        claim: dict[str, Any] = {"filename": "file", "content_type": "image/jpeg", "size_bytes": SMALL}
        begin = partial(promises.begin, self.world.services, owner.viewer, **claim, words=Words())
        answers = self.at_once(begin(), begin())
        refused = [answer for answer in answers if isinstance(answer, HeirloomError)]
        assert [type(answer) for answer in refused] == [QuotaExceeded] * (2 - len(fitting))
        sessions = [answer.session for answer in answers if not isinstance(answer, HeirloomError)]
        return multiple(*(self.promise(each, Thing(each.media, owner, None, None, SMALL, None)) for each in sessions))

    def promise(self, session: UploadSession, thing: Thing) -> Thing:
        type_ = claimed(session.content_type)
        assert type_ is not None
        expires = self.model.now + SESSION_LIFETIME
        assert session.expires_at == expires
        thing.session = Promise(session.id, thing, type_, session.sha256, expires, upload_id=session.upload_id)
        self.model.things.append(thing)
        self.sign(thing)
        return thing

    @rule(thing=promised)
    def sign(self, thing: Thing) -> None:
        """New URLs for all that may be sent; none when nothing may be any more."""
        promise = thing.promise
        session = self.run(upload_sessions.find(thing.owner.viewer, promise.id))
        assert (session is None) == promise.gone
        if session is None:
            return
        is_open = self.model.is_open(promise)
        if promise.single:
            request = upload_sessions.signed_put(self.world.services, session)
            assert (request is not None) == is_open
            promise.urls += [(0, SMALL, request)] if request else []
            return
        key, budget = self.world.key_of(thing.id), upload_sessions.SigningBudget(2)
        parts = upload_sessions.signed_parts(self.world.services, session, key, [1, 2], budget)
        assert [(part.number, part.size) for part in parts] == ([(1, PART), (2, 1)] if is_open else [])
        promise.urls += [(part.number, part.size, part.request) for part in parts]

    @rule(thing=promised, trouble=troubles)
    def look_what_has_arrived(self, thing: Thing, trouble: Trouble | None) -> None:
        promise = thing.promise
        work = upload_sessions.arrived(self.world.services, thing.owner.viewer, [promise.id])
        answer = self.attempt(work, None, trouble)
        if answer is None:
            return
        there = [] if promise.joined else sorted(promise.parts)
        found = {session_id: [part.number for part in parts] for session_id, parts in answer.items()}
        assert found == ({promise.id: there} if self.model.is_open(promise) and not promise.single else {})

    @rule(thing=promised, content=small, which=st.integers(-3, -1))
    def put(self, thing: Thing, content: str, which: int) -> None:
        """By any URL that was ever given, whatever has become of the session."""
        promise = thing.promise
        if promise.single and promise.urls:
            _, _, request = promise.urls[max(which, -len(promise.urls))]
            self.send(promise, 0, request, content, CONTENTS[content].data)

    @rule(thing=promised, first=first_parts, last=last_parts, which=st.integers(-4, -1))
    def put_part(self, thing: Thing, first: str, last: str, which: int) -> None:
        promise = thing.promise
        if not promise.single and promise.urls:
            number, _, request = promise.urls[max(which, -len(promise.urls))]
            name, data = (first, FIRST_PARTS[first]) if number == 1 else (last, LAST_PARTS[last])
            self.send(promise, number, request, name, data)

    @rule(thing=promised, first=first_parts, last=last_parts)
    def put_all_parts(self, thing: Thing, first: str, last: str) -> None:
        if not thing.promise.single:
            self.sign(thing)
            self.put_part(thing, first, last, -1)
            self.put_part(thing, first, last, -2)

    @rule(thing=promised)
    def put_too_much(self, thing: Thing) -> None:
        for _, size, request in thing.promise.urls[-1:]:
            assert self.run(self.world.put(request, bytes(size + 1 if size < PART else 1))) == 403

    def send(self, promise: Promise, number: int, request: SignedRequest, name: str, data: bytes) -> None:
        # Whoever ends an upload in parts leaves its removal to a job.
        takes = promise.upload_id is None or promise.upload_id in self.world.open_uploads()
        status = self.run(self.world.put(request, data))
        if request.expires_at <= self.model.now:
            assert status == 403
        elif not takes:
            assert status == 404
        else:
            assert status == 200
            promise.take(number, name)

    def completion_of(self, thing: Thing, parts: Sequence[NamedPart] | None = None) -> Coroutine[Any, Any, Any]:
        return completion.complete(self.world.services, thing.owner.viewer, thing.promise.id, parts)

    @rule(thing=promised, trouble=troubles)
    def complete(self, thing: Thing, trouble: Trouble | None) -> None:
        promise, storage = thing.promise, self.world.storage
        expected, was_open = self.model.refused_completion(promise), self.model.is_open(promise)
        media = self.attempt(self.completion_of(thing), expected, trouble)
        if "complete_multipart" in storage.done:
            promise.joined = promise.arrived
        self.completed(thing, media, expected, is_told=was_open and storage.failed is None)

    def completed(self, thing: Thing, media: Any, expected: Refusal, *, is_told: bool) -> None:
        if media is not None:
            assert media.id == thing.id
            self.model.acknowledge(thing.promise, thing.promise.arrived)
        elif is_told and expected is UnsupportedType:
            self.model.refuse(thing.promise)

    @rule(thing=promised, named=st.sampled_from(["those", "other etags", "fewer", "more", "none"]))
    def complete_with_named_parts(self, thing: Thing, named: str) -> None:
        promise = thing.promise
        if not self.model.is_open(promise) or promise.single or promise.joined:
            return
        listing = upload_sessions.arrived(self.world.services, thing.owner.viewer, [promise.id])
        right = [NamedPart(part.number, part.etag) for part in self.run(listing)[promise.id]]
        given = {
            "those": right,
            "other etags": [NamedPart(part.number, '"0"') for part in right],
            "fewer": right[:-1],
            "more": [*right, NamedPart(3, '"0"')],
            "none": [],
        }[named]
        is_right = named == "those" and len(right) == 2
        expected = self.model.refused_completion(promise) if is_right else BadInput
        self.completed(thing, self.attempt(self.completion_of(thing, given), expected), expected, is_told=is_right)

    @rule(thing=promised)
    def complete_one_put_with_parts(self, thing: Thing) -> None:
        if self.model.is_open(thing.promise) and thing.promise.single:
            self.attempt(self.completion_of(thing, []), BadInput)

    @rule(thing=promised)
    def complete_twice_at_once(self, thing: Thing) -> None:
        promise = thing.promise
        expected, was_open = self.model.refused_completion(promise), self.model.is_open(promise)
        answers = self.at_once(self.completion_of(thing), self.completion_of(thing))
        if expected is None:
            assert [getattr(answer, "id", answer) for answer in answers] == [thing.id] * 2
            self.model.acknowledge(promise, promise.arrived)
        elif expected is UnsupportedType and was_open:
            # Whoever comes second is told so too, or that it is over.
            assert {type(answer) for answer in answers} in ({UnsupportedType}, {UnsupportedType, Conflict})
            self.model.refuse(promise)
        else:
            assert [type(answer) for answer in answers] == [expected] * 2

    @rule(thing=promised)
    def complete_and_abort_at_once(self, thing: Thing) -> None:
        promise = thing.promise
        if not self.model.is_open(promise):
            return
        expected = self.model.refused_completion(promise)
        abort = upload_endings.abort(self.world.services, thing.owner.viewer, promise.id)
        completed, aborted = self.at_once(self.completion_of(thing), abort)
        if not isinstance(completed, HeirloomError):
            assert expected is None
            assert (completed.id, type(aborted)) == (thing.id, Conflict)
            self.model.acknowledge(promise, promise.arrived)
            return
        assert aborted == promise.id
        if type(completed) is UnsupportedType and expected is UnsupportedType:
            self.model.refuse(promise)
        else:
            assert type(completed) is Conflict
            promise.end(UploadState.ABORTED, FailureCode.NOT_UPLOADED, self.model.now)

    @rule(thing=promised, photo=st.sampled_from(["photo", "other photo"]), last=last_parts)
    def complete_and_put_at_once(self, thing: Thing, photo: str, last: str) -> None:
        """What is acknowledged is the one or the other, and stays so."""
        promise = thing.promise
        if not self.model.is_open(promise) or promise.joined:
            return
        self.sign(thing)
        number, _, request = promise.urls[-1]
        name, data = (photo, CONTENTS[photo].data) if promise.single else (last, LAST_PARTS[last])
        before = promise.arrived
        completed, status = self.at_once(self.completion_of(thing), self.world.put(request, data))
        assert status == 200 or (status == 404 and not promise.single)
        if status == 200:
            promise.take(number, name)
        candidates = [content for content in (before, promise.arrived) if content is not None]
        if not isinstance(completed, HeirloomError):
            assert completed.id == thing.id
            self.model.acknowledge(promise, self.which(thing, candidates))
        elif type(completed) is UnsupportedType:
            assert any(content.type != promise.type for content in candidates)
            self.model.refuse(promise)
        else:
            # It was not all there yet; or a part came again while they were joined.
            assert type(completed) is Conflict
            assert before is None or not promise.single

    def which(self, thing: Thing, candidates: Sequence[Content]) -> Content:
        kept = self.world.file(self.world.key_of(thing.id)).read_bytes()
        return next(content for content in candidates if content.data == kept)

    @rule(thing=promised)
    def abort(self, thing: Thing) -> None:
        promise = thing.promise
        expected: Refusal = NotFound if promise.gone else Conflict if promise.state is UploadState.COMPLETED else None
        self.attempt(upload_endings.abort(self.world.services, thing.owner.viewer, promise.id), expected)
        if expected is None and promise.state is UploadState.OPEN:
            promise.end(UploadState.ABORTED, FailureCode.NOT_UPLOADED, self.model.now)

    @rule(thing=promised)
    def meddle(self, thing: Thing) -> None:
        """Somebody else's sessions and media are not there."""
        services, session_id = self.world.services, thing.promise.id
        (stranger,) = (person for person in self.world.people if person is not thing.owner)
        viewer = stranger.viewer
        self.attempt(completion.complete(services, viewer, session_id), NotFound)
        self.attempt(upload_endings.abort(services, viewer, session_id), NotFound)
        assert self.run(upload_sessions.find(viewer, session_id)) is None
        assert self.run(upload_sessions.arrived(services, viewer, [session_id])) == {}
        self.attempt(trash.delete(viewer, thing.id), NotFound)
        self.attempt(trash.restore(viewer, thing.id), NotFound)
        self.attempt(trash.purge(services, viewer, thing.id), NotFound)
        (answer,) = self.run(attachments.attach(viewer, [thing.id], entity_id=stranger.profile, slot="photos"))
        assert type(answer) is NotFound
        self.attempt(attachments.attach(viewer, [thing.id], entity_id=thing.owner.profile, slot="photos"), NotFound)

    # ------------------------------------------------------------ media

    @rule(target=things, user=users, slot=slots, content=small, key=keys, trouble=troubles)
    def receive(self, user: int, slot: str | None, content: str, key: str | None, trouble: Trouble | None) -> Any:
        """The other way: through GraphQL."""
        owner, given = self.world.people[user], CONTENTS[content]
        expected: Refusal = None
        before, twins = self.model.of_key(owner, key), self.model.twins(owner, given.sha256, slot)
        if before is not None:
            expected = None if before.sha256 == given.sha256 else Conflict
        elif not twins and given.type is None:
            expected = UnsupportedType
        elif not twins and not self.model.fits(owner, SMALL):
            expected = QuotaExceeded
        with self.world.spooled(given) as file:
            receipt = self.attempt(
                uploads.receive(
                    self.world.services,
                    owner.viewer,
                    file,
                    entity_id=owner.profile if slot else None,
                    slot=slot,
                    words=Words(idempotency_key=key),
                ),
                expected,
                trouble,
            )
        if receipt is None:
            return multiple()
        if before is not None or twins:
            assert receipt.media.id in ({before.id} if before else twins)
            return multiple()
        thing = Thing(receipt.media.id, owner, owner if slot else None, slot, SMALL, key, MediaStatus.UPLOADED, given)
        thing.sha256 = given.sha256
        self.model.clear(thing)
        self.model.things.append(thing)
        return thing

    @rule(thing=things)
    def delete(self, thing: Thing) -> None:
        self.attempt(trash.delete(thing.owner.viewer, thing.id), NotFound if thing.gone else None)
        if thing.deleted is None:
            thing.deleted = self.model.now

    @rule(thing=things)
    def restore(self, thing: Thing) -> None:
        expected = self.model.refused_return(thing)
        self.attempt(trash.restore(thing.owner.viewer, thing.id), expected)
        if expected is None:
            thing.deleted = None

    def purge_of(self, thing: Thing) -> Coroutine[Any, Any, None]:
        return trash.purge(self.world.services, thing.owner.viewer, thing.id)

    @rule(thing=things)
    def purge(self, thing: Thing) -> None:
        expected: Refusal = NotFound if thing.gone else BadInput if thing.deleted is None else None
        self.attempt(self.purge_of(thing), expected)
        if expected is None:
            self.model.remove(thing)

    @rule(thing=promised)
    def purge_and_complete_at_once(self, thing: Thing) -> None:
        if not self.model.is_open(thing.promise):
            return
        self.delete(thing)
        completed, purged = self.at_once(self.completion_of(thing), self.purge_of(thing))
        assert purged is None
        told = {Conflict, NotFound, self.model.refused_completion(thing.promise)}
        if isinstance(completed, HeirloomError):
            assert type(completed) in told
        else:
            assert completed.id == thing.id
            self.model.acknowledge(thing.promise, thing.promise.arrived)
        self.model.remove(thing)

    @rule(thing=things)
    def purge_and_process_at_once(self, thing: Thing) -> None:
        if not thing.waits:
            return
        self.delete(thing)
        process = ingest.process(self.world.services, self.world.sandboxes, thing.id)
        processed, purged = self.at_once(process, self.purge_of(thing))
        assert purged is None
        assert processed in {True, False}  # either may be the first
        self.model.remove(thing)

    @rule(things=st.lists(things, min_size=1, max_size=2, unique=True), slot=st.sampled_from(["photos", "avatar"]))
    def attach(self, things: list[Thing], slot: str) -> None:
        owner = things[0].owner
        refusals = [self.model.refused_place(thing, owner, slot) for thing in things]
        ids = [thing.id for thing in things]
        too_many = slot in SINGLE_SLOTS and len(things) > 1
        work = attachments.attach(owner.viewer, ids, entity_id=owner.profile, slot=slot)
        answers = self.attempt(work, BadInput if too_many else None)
        if answers is None:
            return
        if any(refusals):
            assert [type(answer) for answer in answers] == [refusal or Conflict for refusal in refusals]
            return
        assert [getattr(answer, "id", answer) for answer in answers] == ids
        for thing in things:
            if (thing.at, thing.slot) != (owner, slot):
                thing.at, thing.slot = owner, slot
                self.model.clear(thing)

    # ------------------------------------------------------------ what happens by itself

    @rule(time=times)
    def jump(self, time: timedelta) -> None:
        self.world.jump(time)
        self.model.now = self.world.now

    @rule()
    def sweep(self) -> None:
        self.run(upload_endings.sweep(self.world.services))
        self.model.sweep()

    @rule()
    def empty_the_trash(self) -> None:
        self.run(trash.purge_expired(self.world.services))
        self.model.empty_the_trash()

    @rule(most=st.sampled_from([1, 3, 100]), newest=st.booleans(), again=st.booleans(), trouble=troubles)
    def work(self, most: int, newest: bool, again: bool, trouble: Trouble | None) -> None:
        """The worker does jobs that are due. One that died when it had done its work would do it `again`."""
        jobs = self.world.due_jobs()
        for job in (jobs[::-1] if newest else jobs)[:most]:
            for _ in range(2 if again else 1):
                is_done = self.do(job["entrypoint"], orjson.loads(job["payload"]), trouble)
                trouble = None
            if is_done:
                self.world.fetch("DELETE FROM pgqueuer WHERE id = $1", job["id"])

    def do(self, entrypoint: str, payload: dict[str, Any], trouble: Trouble | None) -> bool:
        """Whether it is done; else it stays in the queue."""
        if entrypoint == "ingest":
            return self.process(uuid.UUID(payload["media"]), trouble)
        try:
            self.run(trash.erase(self.world.services.storage, **payload), trouble)
        except StorageUnavailable:
            assert self.world.storage.failed is not None
            return False
        assert self.world.storage.failed is None
        return True

    def process(self, media_id: uuid.UUID, trouble: Trouble | None) -> bool:
        (thing,) = (thing for thing in self.model.things if thing.id == media_id)
        waited = thing.waits
        try:
            self.run(ingest.process(self.world.services, self.world.sandboxes, media_id), trouble)
        except TryAgain:
            assert waited
            assert self.world.storage.failed is not None
            is_done = False
        else:
            is_done = True
        self.may_leak |= self.world.storage.failed is not None
        if waited:
            rendered = self.variant_bytes(thing)
            self.model.process(thing, self.world.storage.failed, is_done=is_done, rendered=rendered)
        return is_done

    def variant_bytes(self, thing: Thing) -> int:
        """As the storage has them."""
        _, variants = medium_prefixes(self.world.key_of(thing.id))
        return sum(size for key, size in self.world.keys().items() if key.startswith(variants))

    @rule(grace=graces, trouble=troubles)
    def mend(self, grace: timedelta, trouble: Trouble | None) -> None:
        """Nothing goes but what nobody knows of; whatever goes on is let be."""
        try:
            report = self.run(self.check(grace), trouble)
        except StorageUnavailable:
            assert self.world.storage.failed is not None
            return
        harmless = {Kind.ORPHAN, Kind.STALE_UPLOAD, Kind.RECENT}
        assert {kind for kind, found in report.findings.items() if found.count} <= harmless, report.as_json()

    def check(self, grace: timedelta) -> Coroutine[Any, Any, Report]:
        services = self.world.services
        services = replace(services, settings=replace(services.settings, orphan_grace=grace))
        return agreement.check(services, repair=True, force=True, now=self.model.now)

    # ------------------------------------------------------------ what holds all the time

    @invariant()
    def rows_are_as_they_should_be(self) -> None:
        rows = self.world.fetch(
            "SELECT id, owner, entity, slot, status, failure_code, lost_at IS NOT NULL AS lost, deleted_at, sha256,"
            " idempotency_key AS key, processing_attempts AS attempts FROM media"
        )
        assert {row["id"]: row for row in rows} == {
            thing.id: {
                "id": thing.id,
                "owner": thing.owner.viewer.id,
                "entity": thing.at.profile if thing.at else None,
                "slot": thing.slot,
                "status": thing.status,
                "failure_code": thing.failure,
                "lost": thing.lost,
                "deleted_at": thing.deleted,
                "sha256": thing.sha256,
                "key": thing.key,
                "attempts": thing.attempts,
            }
            for thing in self.model.living()
        }
        sessions = self.world.fetch("SELECT id, state FROM upload_session")
        assert {row["id"]: row["state"] for row in sessions} == {
            promise.id: promise.state for promise in self.model.promises()
        }

    @invariant()
    def what_was_acknowledged_has_its_bytes(self) -> None:
        rows = self.world.fetch("SELECT id, storage_key FROM media")
        keys = {row["id"]: row["storage_key"] for row in rows}
        for thing in self.model.living():
            if not thing.stored:
                continue
            assert thing.content is not None
            file = self.world.file(keys[thing.id])
            facts = file.stat()
            seen = (facts.st_ino, facts.st_mtime_ns)
            if self.compared.get(keys[thing.id]) != seen:
                assert file.read_bytes() == thing.content.data
                self.compared[keys[thing.id]] = seen

    @invariant()
    def usage_is_the_sum(self) -> None:
        for person in self.world.people:
            own = [thing for thing in self.model.living() if thing.owner is person]
            kept = [thing for thing in own if thing.deleted is None]
            told = self.world.run(usage.of(person.viewer))
            assert (told.media_count, told.original_bytes, told.variant_bytes, told.trash_bytes) == (
                sum(thing.stored for thing in kept),
                sum(thing.size for thing in kept if thing.stored),
                sum(thing.rendered for thing in kept),
                sum(thing.size * thing.stored + thing.rendered for thing in own if thing.deleted),
            )
        self.sound = True

    # ------------------------------------------------------------ and in the end

    def teardown(self) -> None:
        if not self.sound:
            return  # what went wrong is told already
        self.jump(timedelta(days=40))
        for _ in range(3):
            self.sweep()
            self.empty_the_trash()
            while self.world.due_jobs():
                self.work(100, newest=False, again=False, trouble=None)
            self.jump(timedelta(days=2))
        self.rows_are_as_they_should_be()
        self.what_was_acknowledged_has_its_bytes()
        assert self.world.fetch("SELECT * FROM pgqueuer") == []
        assert [thing for thing in self.model.living() if thing.status in TO_COME] == []
        assert [promise for promise in self.model.promises() if promise.state is not UploadState.COMPLETED] == []
        self.storage_and_database_agree()
        told = self.world.fetch("SELECT media, count(*) FROM event WHERE kind = 'UPLOADED' GROUP BY media")
        acknowledged = {thing.id: 1 for thing in self.model.things if thing.content is not None}
        assert {row["media"]: row["count"] for row in told} == acknowledged

    def storage_and_database_agree(self) -> None:
        first, second = self.run(self.check(timedelta(0))), self.run(self.check(timedelta(0)))
        found = {kind: finding.count for kind, finding in first.findings.items() if finding.count}
        assert first.faults == 0, first.as_json()
        assert found == {} or self.may_leak, first.as_json()
        assert all(finding.count == 0 for finding in second.findings.values()), second.as_json()
        rows = self.world.fetch(
            "SELECT storage_key FROM media WHERE lost_at IS NULL UNION ALL SELECT storage_key FROM variant"
        )
        assert set(self.world.keys()) == {row["storage_key"] for row in rows}
        assert self.world.open_uploads() == set()
        assert list(self.world.file(".incoming").iterdir()) == []


def test_the_life_of_uploads(
    server_dsn: str,
    worker_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING", "httpx")
    world = World(server_dsn, f"upload_life_{worker_name}", tmp_path)
    with world.opened(monkeypatch):
        # Typed as a class; any factory will do.
        run_state_machine_as_test(lambda: UploadLife(world), settings=PROFILE)  # type: ignore[arg-type]
