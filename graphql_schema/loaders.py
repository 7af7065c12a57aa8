"""Nested rows in batches: one SQL statement for each kind of thing that a page refers to, however long the page is.

Loaders live for one operation, so nothing here outlives what its viewer may see.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Generic, TypeAlias, TypeVar

from app import accounts, entities, media, people, profiles, similar, upload_sessions
from app.access import Viewer
from app.read_cache import Fetch, Reads
from app.similar import LookAlike, Search
from app.tables import Entity, Media, Person, Profile, UserAccount, Variant
from app.wiring import Services
from storage.base import StoredPart

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Kept: TypeAlias = Callable[[Fetch[K, V]], Fetch[K, V]]

LOADED: Final = "heirloom-loaded"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A field that only passes on what a loader has under a key of its row: null where the key is null.

    By it the executor asks once for a whole list, in the place of the resolver, which says the same.
    """

    loader: Callable[[Loaders], Loader[Any, Any]]
    key: str  # the attribute that has it


def loaded(loader: Callable[[Loaders], Loader[Any, Any]], key: str) -> dict[str, Loaded]:
    """The metadata of such a field."""
    return {LOADED: Loaded(loader, key)}


class Loader(Generic[K, V]):
    """Rows by key: what is asked for in one turn of the event loop is fetched at once, and remembered.

    A batch that fails, fails for all who wait for it, and is not remembered.
    """

    def __init__(self, fetch: Callable[[list[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._fetch = fetch
        self._found: dict[K, V] = {}
        self._batches: dict[K, asyncio.Future[None]] = {}
        self._gathering: list[K] | None = None  # the batch to come, if there is one, and its task
        self._gathering_for: asyncio.Future[None] | None = None

    async def load(self, key: K) -> V:
        found = self._found
        if key not in found:
            (batch,) = self.batches([key])
            # Shielded: who gives up waiting doesn't stop it for the others.
            await asyncio.shield(batch)
        return found[key]

    def batches(self, keys: Collection[K]) -> set[asyncio.Future[None]]:
        """Those that fetch these keys, none of which it knows: not to be cancelled by who waits for them."""
        new = [key for key in keys if key not in self._batches]
        found = {self._batches[key] for key in keys if key in self._batches} if len(new) < len(keys) else set()
        if new:
            found.add(self._batch_with(new))
        return found

    def know(self, key: K, value: V) -> None:
        """Has just been read, elsewhere."""
        self._found[key] = value

    @property
    def found(self) -> Mapping[K, V]:
        """What it knows, until it is cleared."""
        return self._found

    def clear_all(self) -> None:
        # What is under way goes on for those who wait for it, and is not remembered.
        self._found = {}
        self._batches = {}
        self._gathering = None

    def _batch_with(self, keys: Sequence[K]) -> asyncio.Future[None]:
        """The one to come, from now on with these keys."""
        if self._gathering is None or self._gathering_for is None:
            self._gathering = []
            self._gathering_for = asyncio.ensure_future(self._fetch_batch(self._gathering, self._found, self._batches))
            self._gathering_for.add_done_callback(_looked_at)
        self._gathering += keys
        self._batches.update(dict.fromkeys(keys, self._gathering_for))
        return self._gathering_for

    async def _fetch_batch(self, keys: list[K], found: dict[K, V], batches: dict[K, asyncio.Future[None]]) -> None:
        # Once more around: those that a sibling's answer has just woken ask now, too.
        await asyncio.sleep(0)
        if self._gathering is keys:
            self._gathering = self._gathering_for = None
        try:
            found.update(await self._fetch(keys))
        finally:
            for key in keys:
                batches.pop(key, None)


def _looked_at(batch: asyncio.Future[None]) -> None:
    """Its failure is told to those who wait for it; asyncio would log it when they have all gone."""
    if not batch.cancelled():
        batch.exception()


def _not_kept(fetch: Fetch[K, V]) -> Fetch[K, V]:
    return fetch


def _one_each(
    load: Callable[[Sequence[K]], Awaitable[Sequence[V]]], key: Callable[[V], K], kept: Kept[K, V | None] = _not_kept
) -> Loader[K, V | None]:
    async def fetch(keys: list[K]) -> dict[K, V | None]:
        found = {key(row): row for row in await load(keys)}
        return {wanted: found.get(wanted) for wanted in keys}

    return Loader(kept(fetch))


def _variants(kept: Kept[uuid.UUID, list[Variant]]) -> Loader[uuid.UUID, list[Variant]]:
    async def fetch(ids: list[uuid.UUID]) -> dict[uuid.UUID, list[Variant]]:
        return dict(zip(ids, await media.variants_of(ids), strict=True))

    return Loader(kept(fetch))


class Loaders:
    """What `reads` keeps from one operation to the next goes by the ids of what it is about."""

    def __init__(self, services: Services, viewer: Viewer | None, reads: Reads) -> None:
        self._services = services
        self._viewer = viewer
        self._reads = reads

    # Each is made when it is first asked for: all ten would be a tenth of what a small request takes.

    @cached_property
    def users(self) -> Loader[uuid.UUID, UserAccount | None]:
        users = _one_each(accounts.load, lambda user: user.id)
        if self._viewer and self._viewer.account:
            # Most media are the viewer's own, of whom the operation knows already: a twentieth of a page.
            users.know(self._viewer.id, self._viewer.account)
        return users

    @cached_property
    def entities(self) -> Loader[uuid.UUID, Entity | None]:
        load = partial(entities.load, self._viewer)
        return _one_each(load, lambda entity: entity.id, self._reads.kept("entity", _itself))

    @cached_property
    def people(self) -> Loader[uuid.UUID, Person | None]:
        return _one_each(people.details, lambda person: person.entity, self._reads.kept("person", _itself))

    @cached_property
    def profiles(self) -> Loader[uuid.UUID, Profile | None]:
        return _one_each(profiles.details, lambda profile: profile.entity, self._reads.kept("profile", _itself))

    @cached_property
    def profiles_of_people(self) -> Loader[uuid.UUID, Entity | None]:
        return _of_people(self._viewer, self._reads)

    @cached_property
    def media(self) -> Loader[uuid.UUID, Media | None]:
        return _one_each(partial(media.load, self._viewer), lambda row: row.id)

    @cached_property
    def in_slots(self) -> Loader[tuple[uuid.UUID, str], Media | None]:
        load = partial(media.in_slots, self._viewer)
        return _one_each(load, lambda row: (row.entity, row.slot), self._reads.kept("slot", _entity_of))

    @cached_property
    def variants(self) -> Loader[uuid.UUID, list[Variant]]:
        return _variants(self._reads.kept("variants", _itself))

    @cached_property
    def similar(self) -> Loader[Search, list[LookAlike]]:
        return _similar(self._viewer)

    @cached_property
    def arrived(self) -> Loader[uuid.UUID, Sequence[StoredPart]]:
        return _arrived(self._services, self._viewer)

    def clear_all(self) -> None:
        for loader in vars(self).values():
            if isinstance(loader, Loader):
                loader.clear_all()


def _entity_of(place: tuple[uuid.UUID, str], _: Any) -> Sequence[uuid.UUID]:
    return place[:1]


def _itself(key: uuid.UUID, _: Any) -> Sequence[uuid.UUID]:
    return (key,)


def _of_people(viewer: Viewer | None, reads: Reads) -> Loader[uuid.UUID, Entity | None]:
    async def fetch(people_ids: list[uuid.UUID]) -> dict[uuid.UUID, Entity | None]:
        found = await profiles.of_people(viewer, people_ids)
        return {person_id: found.get(person_id) for person_id in people_ids}

    def about(person_id: uuid.UUID, profile: Entity | None) -> Sequence[uuid.UUID]:
        return (person_id, profile.id) if profile else (person_id,)

    return Loader(reads.kept("profile of a person", about)(fetch))


def _similar(viewer: Viewer | None) -> Loader[Search, list[LookAlike]]:
    async def fetch(searches: list[Search]) -> dict[Search, list[LookAlike]]:
        return dict(await similar.find(viewer, searches))

    return Loader(fetch)


def _arrived(services: Services, viewer: Viewer | None) -> Loader[uuid.UUID, Sequence[StoredPart]]:
    async def fetch(ids: list[uuid.UUID]) -> dict[uuid.UUID, Sequence[StoredPart]]:
        found = await upload_sessions.arrived(services, viewer, ids)
        return {session_id: found.get(session_id, ()) for session_id in ids}

    return Loader(fetch)
