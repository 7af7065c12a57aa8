"""Nested rows in batches: one SQL statement for each kind of thing that a page refers to, however long the page is.

Loaders live for one operation, so nothing here outlives what its viewer may see.
"""

from __future__ import annotations

import asyncio
import uuid
from asyncio import Future
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar

import aiodataloader

from app import accounts, entities, media, people, profiles, similar, upload_sessions
from app.access import Viewer
from app.similar import LookAlike, Search
from app.tables import Entity, Media, Person, Profile, UserAccount, Variant
from app.wiring import Services
from storage.base import StoredPart

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class DataLoader(aiodataloader.DataLoader[K, V]):
    """Gives everybody who waits for a key a future of their own.

    Where a field fails, graphql-core cancels those beside it; with a shared future that would cancel the same key for
    all the others who wait for it, elsewhere in the operation.
    """

    def load(self, key: K) -> Future[V]:
        return asyncio.shield(super().load(key))


def _one_each(load: Callable[[Sequence[K]], Awaitable[Sequence[V]]], key: Callable[[V], K]) -> DataLoader[K, V | None]:
    async def batch(keys: list[K]) -> list[V | None]:
        found = {key(row): row for row in await load(keys)}
        return [found.get(wanted) for wanted in keys]

    return DataLoader(batch)


def _many_each(load: Callable[[Sequence[K]], Awaitable[Sequence[V]]], key: Callable[[V], K]) -> DataLoader[K, list[V]]:
    async def batch(keys: list[K]) -> list[list[V]]:
        found: dict[K, list[V]] = defaultdict(list)
        for row in await load(keys):
            found[key(row)].append(row)
        return [found[wanted] for wanted in keys]

    return DataLoader(batch)


class Loaders:
    def __init__(self, services: Services, viewer: Viewer | None) -> None:
        self.users: DataLoader[uuid.UUID, UserAccount | None] = _one_each(accounts.load, lambda user: user.id)
        self.entities: DataLoader[uuid.UUID, Entity | None] = _one_each(
            lambda ids: entities.load(viewer, ids), lambda entity: entity.id
        )
        self.people: DataLoader[uuid.UUID, Person | None] = _one_each(people.details, lambda person: person.entity)
        self.profiles: DataLoader[uuid.UUID, Profile | None] = _one_each(
            profiles.details, lambda profile: profile.entity
        )
        self.profiles_of_people: DataLoader[uuid.UUID, Entity | None] = _of_people(viewer)
        self.media: DataLoader[uuid.UUID, Media | None] = _one_each(
            lambda ids: media.load(viewer, ids), lambda row: row.id
        )
        self.in_slots: DataLoader[tuple[uuid.UUID, str], Media | None] = _one_each(
            lambda places: media.in_slots(viewer, places), lambda row: (row.entity, row.slot)
        )
        self.variants: DataLoader[uuid.UUID, list[Variant]] = _many_each(media.variants_of, lambda row: row.media)
        self.similar: DataLoader[Search, list[LookAlike]] = _similar(viewer)
        self.arrived: DataLoader[uuid.UUID, Sequence[StoredPart]] = _arrived(services, viewer)

    def clear_all(self) -> None:
        loaders: list[DataLoader[Any, Any]] = list(vars(self).values())
        for loader in loaders:
            loader.clear_all()


def _of_people(viewer: Viewer | None) -> DataLoader[uuid.UUID, Entity | None]:
    async def batch(people_ids: list[uuid.UUID]) -> list[Entity | None]:
        found = await profiles.of_people(viewer, people_ids)
        return [found.get(person_id) for person_id in people_ids]

    return DataLoader(batch)


def _similar(viewer: Viewer | None) -> DataLoader[Search, list[LookAlike]]:
    async def batch(searches: list[Search]) -> list[list[LookAlike]]:
        found = await similar.find(viewer, searches)
        return [found[search] for search in searches]

    return DataLoader(batch)


def _arrived(services: Services, viewer: Viewer | None) -> DataLoader[uuid.UUID, Sequence[StoredPart]]:
    async def batch(ids: list[uuid.UUID]) -> list[Sequence[StoredPart]]:
        found = await upload_sessions.arrived(services, viewer, ids)
        return [found.get(session_id, ()) for session_id in ids]

    return DataLoader(batch)
