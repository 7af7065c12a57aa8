"""Persons: of the family or community, living or not."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from piccolo.columns import Column
from piccolo.columns.combination import WhereRaw

from app import entities, text
from app.access import Viewer, signed_in
from app.db import fetch
from app.piccolo_conf import DB
from app.tables import Entity, EntityKind, Person, Profile


async def create(viewer: Viewer | None, *, name: str, **details: str | None) -> Entity:
    """A new person, owned by the viewer; `details` are columns of Person."""
    owner = signed_in(viewer)
    entity = entities.new(EntityKind.PERSON, owner.id, text.line(name, "name", most=text.TITLE_LENGTH))
    columns = _cleaned(details)
    async with DB.transaction() as transaction:
        await entities.add(transaction, entity)
        await Person.insert(Person(entity=entity.id, **columns))
    return entity


async def update(viewer: Viewer | None, person_id: uuid.UUID, changes: Mapping[str, Any]) -> Entity:
    """What is in `changes` is set, None clears. Raises NotFound or Forbidden."""
    details: dict[Column | str, Any] = _cleaned({key: value for key, value in changes.items() if key != "name"})
    async with DB.transaction() as transaction:
        entity = await entities.change(transaction, signed_in(viewer), EntityKind.PERSON, person_id, changes)
        if details:
            await Person.update(details).where(Person.entity == person_id)
    return entity


async def delete(viewer: Viewer | None, person_id: uuid.UUID) -> uuid.UUID:
    """The person goes, with the profile; media of both go into the trash. Raises NotFound or Forbidden."""
    profiles = Profile.select(Profile.entity).where(Profile.person == person_id)
    return await entities.delete(signed_in(viewer), EntityKind.PERSON, person_id, with_them=profiles)


def _cleaned(details: Mapping[str, str | None]) -> dict[Any, Any]:
    return {
        key: text.prose(value, key) if key == "biography" else text.optional_line(value, key)
        for key, value in details.items()
    }


async def details(ids: Sequence[uuid.UUID]) -> list[Person]:
    """The rows beside entities that the caller has been found to see."""
    return await fetch(Person, WhereRaw("person.entity = ANY({})", ids))
