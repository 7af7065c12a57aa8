"""Direct uploads: a session is asked for, the bytes go past us, and the session is completed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import strawberry

from app import completion, promises, tables, upload_endings, upload_sessions
from app.completion import NamedPart
from app.db import is_of
from app.tables import UploadMethod, UploadState
from app.upload_sessions import SignedPart
from app.uploads import Words
from graphql_schema.context import Info
from graphql_schema.errors import UserError, outcome, view
from graphql_schema.media import Media, MediaPayload
from graphql_schema.nodes import Node, known
from graphql_schema.people import DeletePayload
from graphql_schema.scalars import BigInt
from graphql_schema.spool import clean_filename
from storage.base import StoredPart

Row = strawberry.Parent[tables.UploadSession]


@strawberry.type
class HttpHeader:
    name: str
    value: str


@strawberry.type
class UploadPart:
    @strawberry.field
    def part_number(self, root: strawberry.Parent[SignedPart]) -> int:
        return root.number

    @strawberry.field
    def url(self, root: strawberry.Parent[SignedPart]) -> str:
        return root.request.url

    @strawberry.field
    def headers(self, root: strawberry.Parent[SignedPart]) -> list[HttpHeader]:
        return [HttpHeader(name=name, value=value) for name, value in root.request.headers.items()]

    @strawberry.field
    def size_bytes(self, root: strawberry.Parent[SignedPart]) -> int:
        return root.size


@strawberry.type
class UploadedPart:
    etag: str

    @strawberry.field
    def part_number(self, root: strawberry.Parent[StoredPart]) -> int:
        return root.number

    @strawberry.field
    def size_bytes(self, root: strawberry.Parent[StoredPart]) -> BigInt:
        return view(BigInt, root.size)


@strawberry.type
class UploadSession(Node):
    method: UploadMethod
    part_size: int | None
    upload_id: str | None
    expires_at: datetime

    @classmethod
    def is_type_of(cls, row: Any, _info: Any) -> bool:
        return is_of(row, tables.UploadSession)

    @strawberry.field
    async def media(self, root: Row, info: Info) -> Media:
        return view(Media, await info.context.loaders.media.load(root.media))

    @strawberry.field
    def state(self, root: Row, info: Info) -> UploadState:
        return upload_sessions.state(info.context.services, root)

    @strawberry.field(description="For SINGLE: PUT the bytes here, with `headers`.")
    def upload_url(self, root: Row, info: Info) -> str | None:
        request = upload_sessions.signed_put(info.context.services, root)
        return request.url if request else None

    @strawberry.field
    def headers(self, root: Row, info: Info) -> list[HttpHeader]:
        request = upload_sessions.signed_put(info.context.services, root)
        return [HttpHeader(name=name, value=value) for name, value in request.headers.items()] if request else []

    @strawberry.field
    def total_parts(self, root: Row) -> int | None:
        return upload_sessions.total_parts(root)

    @strawberry.field(
        description="Signed afresh at each read. Left out, `numbers` means every part not uploaded yet. Up to 4000 are "
        "signed in one\noperation, which are all of one session."
    )
    async def parts(self, root: Row, info: Info, numbers: list[int] | None = None) -> list[UploadPart]:
        if numbers is None:
            there = {part.number for part in await info.context.loaders.arrived.load(root.id)}
            total = upload_sessions.total_parts(root) or 0
            numbers = [number for number in range(1, total + 1) if number not in there]
        media = await info.context.loaders.media.load(root.media)
        key = media.storage_key if media else ""
        context = info.context
        return view(
            list[UploadPart], upload_sessions.signed_parts(context.services, root, key, numbers, context.signing)
        )

    @strawberry.field(description="What the storage has so far: a client that was cut off goes on from here.")
    async def uploaded_parts(self, root: Row, info: Info) -> list[UploadedPart]:
        return view(list[UploadedPart], await info.context.loaders.arrived.load(root.id))


@strawberry.input
class CreateUploadSessionInput:
    filename: str
    content_type: str
    size_bytes: BigInt
    sha256: str | None = strawberry.field(
        default=None,
        description="Hex. Given, the finished bytes must match it, and a duplicate is found before any byte moves.",
    )
    entity_id: strawberry.ID | None = None
    slot: str | None = None
    title: str | None = None
    description: str | None = None
    alt_text: str | None = None
    tags: list[str] | None = None
    is_public: bool | None = False
    idempotency_key: str | None = None


@strawberry.input
class CompletedPartInput:
    part_number: int
    etag: str


@strawberry.input
class CompleteUploadInput:
    session_id: strawberry.ID
    parts: list[CompletedPartInput] | None = strawberry.field(
        default=None, description="Left out: what the storage lists."
    )


@strawberry.type
class UploadSessionPayload:
    session: UploadSession | None
    duplicate_of: Media | None
    errors: list[UserError]


@strawberry.type
class UploadSessionQuery:
    @strawberry.field
    async def upload_session(self, info: Info, id: strawberry.ID) -> UploadSession | None:  # noqa: A002
        return view(UploadSession, await upload_sessions.find(info.context.viewer, known(id)))


@strawberry.type
class UploadSessionMutation:
    @strawberry.mutation
    async def create_upload_session(self, info: Info, input: CreateUploadSessionInput) -> UploadSessionPayload:  # noqa: A002
        begun, errors = await outcome(
            promises.begin(
                info.context.services,
                info.context.viewer,
                filename=clean_filename(input.filename),
                content_type=input.content_type,
                size_bytes=input.size_bytes,
                sha256=input.sha256,
                entity_id=known(input.entity_id) if input.entity_id is not None else None,
                slot=input.slot,
                words=Words(
                    title=input.title,
                    description=input.description,
                    alt_text=input.alt_text,
                    tags=input.tags,
                    is_public=bool(input.is_public),
                    idempotency_key=input.idempotency_key,
                ),
            )
        )
        if begun is None:
            return UploadSessionPayload(session=None, duplicate_of=None, errors=errors)
        return UploadSessionPayload(
            session=view(UploadSession, begun.session), duplicate_of=view(Media, begun.duplicate_of), errors=[]
        )

    @strawberry.mutation
    async def complete_upload(self, info: Info, input: CompleteUploadInput) -> MediaPayload:  # noqa: A002
        parts = [NamedPart(part.part_number, part.etag) for part in input.parts] if input.parts is not None else None
        work = completion.complete(info.context.services, info.context.viewer, known(input.session_id), parts)
        media, errors = await outcome(work)
        return MediaPayload(media=view(Media, media), errors=errors)

    @strawberry.mutation
    async def abort_upload(self, info: Info, session_id: strawberry.ID) -> DeletePayload:
        work = upload_endings.abort(info.context.services, info.context.viewer, known(session_id))
        ended, errors = await outcome(work)
        return DeletePayload(deleted_id=view(strawberry.ID, ended), errors=errors)
