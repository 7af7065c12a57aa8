"""Signing in, and the signed-in user's own things."""

from __future__ import annotations

from datetime import datetime

import strawberry

from app import access, accounts, entities, tables, upload_sessions, usage
from app.accounts import SignIn
from app.errors import HeirloomError
from app.keyset import Page
from app.tables import EntityKind
from graphql_schema.context import Info
from graphql_schema.errors import UserError, outcome, user_error, view
from graphql_schema.nodes import User
from graphql_schema.paging import Connection
from graphql_schema.people import Person, Profile
from graphql_schema.scalars import BigInt
from graphql_schema.upload_sessions import UploadSession

Row = strawberry.Parent[tables.UserAccount]


@strawberry.type
class StorageUsage:
    media_count: int
    original_bytes: BigInt
    variant_bytes: BigInt
    trash_bytes: BigInt
    quota_bytes: BigInt | None = strawberry.field(description="Null where the account has no limit.")


@strawberry.type(description="The signed-in user, and what only they may see.")
class Viewer:
    email: str

    @strawberry.field
    def user(self, root: Row) -> User:
        return view(User, root)

    @strawberry.field(description="The viewer's own profiles, newest first.")
    async def profiles(self, info: Info, first: int | None = 30, after: str | None = None) -> Connection[Profile]:
        return view(Connection[Profile], await _owned(info, EntityKind.PROFILE, first, after))

    @strawberry.field
    async def people(self, info: Info, first: int | None = 30, after: str | None = None) -> Connection[Person]:
        return view(Connection[Person], await _owned(info, EntityKind.PERSON, first, after))

    @strawberry.field(description="Uploads that were begun and not finished.")
    async def upload_sessions(self, info: Info) -> list[UploadSession]:
        return view(list[UploadSession], await upload_sessions.unfinished(info.context.services, _viewer(info)))

    @strawberry.field
    async def storage(self, info: Info) -> StorageUsage:
        return view(StorageUsage, await usage.of(_viewer(info)))


async def _owned(info: Info, kind: EntityKind, first: int | None, after: str | None) -> Page[tables.Entity]:
    viewer, most = _viewer(info), info.context.services.settings.max_page
    reads = await info.context.reads(info.operation.operation)
    return await reads.page(
        f"own of kind {kind}",
        viewer.id,
        (),
        (first, after),
        lambda: entities.owned(viewer, kind, first=first, after=after, most=most),
    )


def _viewer(info: Info) -> access.Viewer:
    return access.signed_in(info.context.viewer)


@strawberry.input
class RegisterInput:
    email: str
    password: str
    display_name: str


@strawberry.input
class LoginInput:
    email: str
    password: str


@strawberry.input
class RefreshSessionInput:
    refresh_token: str


@strawberry.type
class AuthPayload:
    errors: list[UserError]
    access_token: str | None = strawberry.field(
        default=None, description="A short-lived JWT: send it as `Authorization: Bearer`."
    )
    expires_at: datetime | None = None
    refresh_token: str | None = strawberry.field(
        default=None,
        description="Single use: exchanging it gives a new pair; using it twice ends the session.",
    )
    user: User | None = None


@strawberry.type
class LogoutPayload:
    errors: list[UserError]


def _answer(sign_in: SignIn | None, errors: list[UserError]) -> AuthPayload:
    if sign_in is None:
        return AuthPayload(errors=errors)
    return AuthPayload(
        access_token=sign_in.access_token,
        expires_at=sign_in.expires_at,
        refresh_token=sign_in.refresh_token,
        user=view(User, sign_in.user),
        errors=[],
    )


@strawberry.type
class AccountQuery:
    @strawberry.field(description="Null for an anonymous request.")
    async def viewer(self, info: Info) -> Viewer | None:
        viewer = info.context.viewer
        return view(Viewer, viewer.account) if viewer else None


@strawberry.type
class AccountMutation:
    @strawberry.mutation
    async def register(self, info: Info, input: RegisterInput) -> AuthPayload:  # noqa: A002
        return _answer(*await outcome(accounts.register(info.context.services, **vars(input))))

    @strawberry.mutation
    async def login(self, info: Info, input: LoginInput) -> AuthPayload:  # noqa: A002
        return _answer(*await outcome(accounts.login(info.context.services, **vars(input))))

    @strawberry.mutation
    async def refresh_session(self, info: Info, input: RefreshSessionInput) -> AuthPayload:  # noqa: A002
        work = accounts.refresh(info.context.services, refresh_token=input.refresh_token)
        return _answer(*await outcome(work))

    @strawberry.mutation(description="Ends this session: its tokens stop working at once, on open sockets too.")
    async def logout(self, info: Info) -> LogoutPayload:
        try:
            await accounts.logout(_viewer(info))
        except HeirloomError as error:
            return LogoutPayload(errors=[user_error(error)])
        return LogoutPayload(errors=[])
