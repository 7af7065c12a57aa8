"""Files that come through GraphQL itself."""

from __future__ import annotations

import strawberry

from app import uploads
from app.access import signed_in
from app.errors import BadInput, HeirloomError, relocated
from app.uploads import Words
from graphql_schema.context import Info
from graphql_schema.errors import outcome, user_error, view
from graphql_schema.media import Media, MediaBatchPayload, MediaBatchResult, MediaPayload
from graphql_schema.nodes import known
from graphql_schema.spool import UploadedFile


@strawberry.input
class UploadMediaInput:
    file: UploadedFile
    entity_id: strawberry.ID | None = strawberry.field(
        default=None, description="Left out: the media belongs to its owner alone."
    )
    slot: str | None = strawberry.field(
        default=None, description="Which place at the entity: `photos` unless said otherwise."
    )
    title: str | None = None
    description: str | None = None
    alt_text: str | None = None
    tags: list[str] | None = None
    is_public: bool | None = False
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="Repeat a mutation safely: the same key gives the same media; with another file it is a CONFLICT.",
    )


@strawberry.input
class UploadMediaBatchInput:
    files: list[UploadedFile]
    entity_id: strawberry.ID | None = None
    slot: str | None = None
    tags: list[str] | None = None
    is_public: bool | None = False


@strawberry.type
class UploadMutation:
    @strawberry.mutation
    async def upload_media(self, info: Info, input: UploadMediaInput) -> MediaPayload:  # noqa: A002
        words = Words(
            title=input.title,
            description=input.description,
            alt_text=input.alt_text,
            tags=input.tags,
            is_public=bool(input.is_public),
            idempotency_key=input.idempotency_key,
        )
        receipt, errors = await outcome(_receive(info, input.file, input, words))
        if receipt is None:
            return MediaPayload(media=None, errors=errors)
        return MediaPayload(media=view(Media, receipt.media), duplicate_of=view(Media, receipt.duplicate_of), errors=[])

    @strawberry.mutation
    async def upload_media_batch(self, info: Info, input: UploadMediaBatchInput) -> MediaBatchPayload:  # noqa: A002
        try:
            signed_in(info.context.viewer)
            if not input.files:
                raise BadInput("There is no file.", "files")
            if len(input.files) > info.context.services.settings.max_files:
                raise BadInput(f"Up to {info.context.services.settings.max_files} files at once.", "files")
        except HeirloomError as error:
            return MediaBatchPayload(results=[], errors=[user_error(error)])
        words = Words(tags=input.tags, is_public=bool(input.is_public))
        results = []
        for index, file in enumerate(input.files):
            receipt, errors = await outcome(_receive_one_of(info, index, file, input, words))
            row = receipt.media if receipt else None
            media_id = view(strawberry.ID, row.id) if row else None
            results.append(MediaBatchResult(index=index, id=media_id, media=view(Media, row), errors=errors))
        return MediaBatchPayload(results=results, errors=[])


async def _receive_one_of(
    info: Info, index: int, file: UploadedFile, given: UploadMediaBatchInput, words: Words
) -> uploads.Receipt:
    with relocated("files", str(index), origin=("file",)):
        return await _receive(info, file, given, words)


async def _receive(
    info: Info, file: UploadedFile, given: UploadMediaInput | UploadMediaBatchInput, words: Words
) -> uploads.Receipt:
    return await uploads.receive(
        info.context.services,
        info.context.viewer,
        file,
        entity_id=known(given.entity_id) if given.entity_id is not None else None,
        slot=given.slot,
        words=words,
    )
