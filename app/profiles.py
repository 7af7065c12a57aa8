"""Profiles: how a person is presented, with one avatar and one cover."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
from piccolo.columns.combination import WhereRaw

from app import entities, text, trash, uploads
from app.access import Viewer, signed_in
from app.db import HeirloomTransaction, fetch
from app.errors import Conflict, relocated
from app.piccolo_conf import DB
from app.slots import AVATAR, COVER, Slot
from app.tables import Entity, EntityKind, Profile
from app.uploads import Place, ReceivedFile, UploadTicket, Words
from app.wiring import Services

PICTURES = {"avatar": AVATAR, "cover": COVER}


async def create(
    services: Services,
    viewer: Viewer | None,
    *,
    person_id: uuid.UUID,
    name: str | None = None,
    bio: str | None = None,
    **pictures: ReceivedFile | None,
) -> Entity:
    """A profile for a person who has none; `pictures` by the names of their slots.

    Raises BadInput, NotFound, Forbidden, Conflict, and what an upload raises.
    """
    owner = signed_in(viewer)
    with relocated("person_id"):
        person = await entities.changeable(owner, person_id, EntityKind.PERSON)
    name = text.optional_line(name, "name", most=text.TITLE_LENGTH) or person.name
    bio = text.prose(bio, "bio")
    # Whose the person is: an admin who makes it for somebody keeps nothing of it.
    entity = entities.new(EntityKind.PROFILE, person.owner, name)
    if await Profile.exists().where(Profile.person == person_id):
        raise _has_one()
    try:
        async with AsyncExitStack() as stack:
            tickets = await _store(stack, services, owner, entity, pictures)
            async with DB.transaction() as transaction:
                await entities.hold(owner, person_id, EntityKind.PERSON)
                await entities.add(transaction, entity)
                await entities.tell(transaction, person_id)  # whose profile it is
                await Profile.insert(Profile(entity=entity.id, person=person_id, bio=bio))
                await _hang(transaction, owner, tickets)
    except asyncpg.UniqueViolationError as error:
        raise _has_one() from error
    return entity


async def update(
    services: Services, viewer: Viewer | None, profile_id: uuid.UUID, changes: Mapping[str, Any]
) -> Entity:
    """What is in `changes` is set, None clears; a new picture replaces the old, whose bytes go.

    Raises BadInput, NotFound, Forbidden, and what an upload raises.
    """
    owner = signed_in(viewer)
    pictures = {name: changes[name] for name in PICTURES if name in changes}
    entity = await entities.changeable(owner, profile_id, EntityKind.PROFILE)
    async with AsyncExitStack() as stack:
        tickets = await _store(stack, services, owner, entity, pictures)
        async with DB.transaction() as transaction:
            await entities.hold(owner, profile_id, EntityKind.PROFILE)
            entity = await entities.change(transaction, owner, EntityKind.PROFILE, profile_id, changes)
            if "bio" in changes:
                await Profile.update({Profile.bio: text.prose(changes["bio"], "bio")}).where(
                    Profile.entity == profile_id
                )
            for name, file in pictures.items():
                if file is None:
                    await trash.clear_slot(transaction, profile_id, name)
            await _hang(transaction, owner, tickets)
    return entity


async def delete(viewer: Viewer | None, profile_id: uuid.UUID) -> uuid.UUID:
    """The profile goes, its media into the trash. Raises NotFound or Forbidden."""
    return await entities.delete(signed_in(viewer), EntityKind.PROFILE, profile_id)


async def _store(
    stack: AsyncExitStack,
    services: Services,
    owner: Viewer,
    entity: Entity,
    pictures: Mapping[str, ReceivedFile | None],
) -> list[UploadTicket]:
    tickets = []
    for name, file in pictures.items():
        if file is not None:
            slot: Slot = PICTURES[name]
            with relocated(name, origin=("file",)):
                stored = uploads.stored(services, owner, file, Place(slot, entity))
                tickets.append(await stack.enter_async_context(stored))
    return tickets


async def _hang(transaction: HeirloomTransaction, owner: Viewer, tickets: list[UploadTicket]) -> None:
    for ticket in tickets:
        with relocated(ticket.place.slot.name, origin=("file",)):
            await uploads.put_in_place(transaction, owner, ticket, uploads.cleaned(Words()))


def _has_one() -> Conflict:
    return Conflict("This person has a profile already.", "person_id")


async def details(ids: Sequence[uuid.UUID]) -> list[Profile]:
    """The rows beside entities that the caller has been found to see."""
    return await fetch(Profile, WhereRaw("profile.entity = ANY({})", ids))


async def of_people(viewer: Viewer | None, people: Sequence[uuid.UUID]) -> dict[uuid.UUID, Entity]:
    """The profiles of these persons, as far as the viewer can see them, by person."""
    profiles = Profile.select(Profile.person, Profile.entity).where(Profile.person.is_in(list(people)))
    by_entity = {row["entity"]: row["person"] for row in await profiles}
    return {by_entity[entity.id]: entity for entity in await entities.load(viewer, list(by_entity))}
