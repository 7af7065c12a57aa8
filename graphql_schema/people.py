"""Persons and profiles, as seen by clients."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import strawberry

from app import media, people, profiles, tables
from app.db import is_of
from app.slots import AVATAR, COVER
from app.tables import EntityKind
from graphql_schema.context import Info
from graphql_schema.enums import MediaOrder
from graphql_schema.errors import UserError, outcome, view
from graphql_schema.loaders import loaded
from graphql_schema.media import Media, MediaConnection, MediaFilter, as_filter, as_order, changes_in
from graphql_schema.nodes import Node, User, known
from graphql_schema.scalars import FuzzyDate
from graphql_schema.spool import UploadedFile

Row = strawberry.Parent[tables.Entity]


@strawberry.interface(description="Something that media belongs to. Access to its media follows from access to it.")
class Entity(Node):
    public_id: str = strawberry.field(description="Short and stable, for links: `PER-…`, `PRF-…`.")
    name: str
    created_at: datetime
    updated_at: datetime

    @strawberry.field(metadata=loaded(lambda loaders: loaders.users, "owner"))
    async def owner(self, root: Row, info: Info) -> User:
        return view(User, await info.context.loaders.users.load(root.owner))

    @strawberry.field
    async def media(  # noqa: PLR0917 - the contract's arguments
        self,
        root: Row,
        info: Info,
        slot: str | None = None,
        filter: MediaFilter | None = None,  # noqa: A002 - the contract's name
        order_by: MediaOrder | None = MediaOrder.NEWEST,
        first: int | None = 30,
        after: str | None = None,
    ) -> MediaConnection:
        which, order, most = as_filter(filter), as_order(order_by), info.context.services.settings.max_page
        reads = await info.context.reads(info.operation.operation)
        page = await reads.page(
            "media of an entity",
            root.id,
            (slot, which),
            (order.name, first, after),
            lambda: media.of_entity(
                info.context.viewer, root, slot=slot, which=which, order=order, first=first, after=after, most=most
            ),
        )
        return view(MediaConnection, page)


async def _person(info: Info, row: tables.Entity) -> tables.Person:
    # An entity and its details come and go together; a person deleted in between is simply empty.
    return await info.context.loaders.people.load(row.id) or tables.Person()


@strawberry.type(description="A person of the family or community, living or not.")
class Person(Entity):
    @classmethod
    def is_type_of(cls, row: Any, _info: Any) -> bool:
        return is_of(row, tables.Entity) and row.kind == EntityKind.PERSON

    @strawberry.field
    async def given_name(self, root: Row, info: Info) -> str | None:
        return (await _person(info, root)).given_name

    @strawberry.field
    async def family_name(self, root: Row, info: Info) -> str | None:
        return (await _person(info, root)).family_name

    @strawberry.field
    async def birth_date(self, root: Row, info: Info) -> FuzzyDate | None:
        return cast("FuzzyDate | None", (await _person(info, root)).birth_date)

    @strawberry.field
    async def death_date(self, root: Row, info: Info) -> FuzzyDate | None:
        return cast("FuzzyDate | None", (await _person(info, root)).death_date)

    @strawberry.field
    async def biography(self, root: Row, info: Info) -> str | None:
        return (await _person(info, root)).biography

    @strawberry.field
    async def profile(self, root: Row, info: Info) -> Profile | None:
        return view(Profile, await info.context.loaders.profiles_of_people.load(root.id))


@strawberry.type(description="How a person is presented: one avatar, one cover.")
class Profile(Entity):
    @classmethod
    def is_type_of(cls, row: Any, _info: Any) -> bool:
        return is_of(row, tables.Entity) and row.kind == EntityKind.PROFILE

    @strawberry.field
    async def person(self, root: Row, info: Info) -> Person:
        details = await info.context.loaders.profiles.load(root.id)
        return view(Person, await info.context.loaders.entities.load(details.person) if details else None)

    @strawberry.field
    async def bio(self, root: Row, info: Info) -> str | None:
        details = await info.context.loaders.profiles.load(root.id)
        return details.bio if details else None

    @strawberry.field
    async def avatar(self, root: Row, info: Info) -> Media | None:
        return view(Media, await info.context.loaders.in_slots.load((root.id, AVATAR.name)))

    @strawberry.field
    async def cover(self, root: Row, info: Info) -> Media | None:
        return view(Media, await info.context.loaders.in_slots.load((root.id, COVER.name)))


@strawberry.input
class CreatePersonInput:
    name: str
    given_name: str | None = None
    family_name: str | None = None
    birth_date: FuzzyDate | None = None
    death_date: FuzzyDate | None = None
    biography: str | None = None


@strawberry.input(description="Fields left out stay as they are; `null` clears.")
class UpdatePersonInput:
    id: strawberry.ID
    name: str | None = strawberry.UNSET
    given_name: str | None = strawberry.UNSET
    family_name: str | None = strawberry.UNSET
    birth_date: FuzzyDate | None = strawberry.UNSET
    death_date: FuzzyDate | None = strawberry.UNSET
    biography: str | None = strawberry.UNSET


@strawberry.input
class CreateProfileInput:
    person_id: strawberry.ID
    name: str | None = strawberry.field(default=None, description="Defaults to the person's name.")
    bio: str | None = None
    avatar: UploadedFile | None = None
    cover: UploadedFile | None = None


@strawberry.input
class UpdateProfileInput:
    id: strawberry.ID
    name: str | None = strawberry.UNSET
    bio: str | None = strawberry.UNSET
    avatar: UploadedFile | None = strawberry.field(
        default=strawberry.UNSET, description="A new file replaces the old one; `null` removes it."
    )
    cover: UploadedFile | None = strawberry.UNSET


@strawberry.type
class PersonPayload:
    person: Person | None
    errors: list[UserError]


@strawberry.type
class ProfilePayload:
    profile: Profile | None
    errors: list[UserError]


@strawberry.type
class DeletePayload:
    deleted_id: strawberry.ID | None
    errors: list[UserError]


@strawberry.type
class PeopleQuery:
    @strawberry.field
    async def person(self, info: Info, id: strawberry.ID) -> Person | None:  # noqa: A002 - the contract's name
        return view(Person, await _entity(info, id, EntityKind.PERSON))

    @strawberry.field
    async def profile(self, info: Info, id: strawberry.ID) -> Profile | None:  # noqa: A002
        return view(Profile, await _entity(info, id, EntityKind.PROFILE))


async def _entity(info: Info, given: strawberry.ID, kind: EntityKind) -> tables.Entity | None:
    await info.context.reads(info.operation.operation)
    found = await info.context.loaders.entities.load(known(given))
    return found if found and found.kind == kind else None


@strawberry.type
class PeopleMutation:
    @strawberry.mutation
    async def create_person(self, info: Info, input: CreatePersonInput) -> PersonPayload:  # noqa: A002
        row, errors = await outcome(people.create(info.context.viewer, **vars(input)))
        return PersonPayload(person=view(Person, row), errors=errors)

    @strawberry.mutation
    async def update_person(self, info: Info, input: UpdatePersonInput) -> PersonPayload:  # noqa: A002
        row, errors = await outcome(people.update(info.context.viewer, known(input.id), changes_in(input)))
        return PersonPayload(person=view(Person, row), errors=errors)

    @strawberry.mutation
    async def delete_person(self, info: Info, id: strawberry.ID) -> DeletePayload:  # noqa: A002
        deleted, errors = await outcome(people.delete(info.context.viewer, known(id)))
        return DeletePayload(deleted_id=view(strawberry.ID, deleted), errors=errors)

    @strawberry.mutation
    async def create_profile(self, info: Info, input: CreateProfileInput) -> ProfilePayload:  # noqa: A002
        given = {**vars(input), "person_id": known(input.person_id)}
        row, errors = await outcome(profiles.create(info.context.services, info.context.viewer, **given))
        return ProfilePayload(profile=view(Profile, row), errors=errors)

    @strawberry.mutation
    async def update_profile(self, info: Info, input: UpdateProfileInput) -> ProfilePayload:  # noqa: A002
        work = profiles.update(info.context.services, info.context.viewer, known(input.id), changes_in(input))
        row, errors = await outcome(work)
        return ProfilePayload(profile=view(Profile, row), errors=errors)

    @strawberry.mutation
    async def delete_profile(self, info: Info, id: strawberry.ID) -> DeletePayload:  # noqa: A002
        deleted, errors = await outcome(profiles.delete(info.context.viewer, known(id)))
        return DeletePayload(deleted_id=view(strawberry.ID, deleted), errors=errors)
