"""Media and its variants, lists of them, and what changes them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import strawberry

from app import attachments, media, similar, tables, trash
from app.access import signed_in
from app.db import is_of
from app.errors import HeirloomError, relocated
from app.keyset import Order, Page
from app.media import MediaFilter as Filter
from app.stages import failure_of
from app.tables import MediaStatus
from graphql_schema.context import Info
from graphql_schema.enums import ORDERS, MediaOrder
from graphql_schema.errors import UserError, outcome, user_error, view
from graphql_schema.loaders import loaded
from graphql_schema.nodes import Node, User, known, known_each
from graphql_schema.paging import Connection
from graphql_schema.scalars import JSON, BigInt
from graphql_schema.selected import reads_only
from graphql_schema.similar import SimilarMedia
from graphql_schema.sources import signed_by
from processing.failures import FailureCode
from processing.kinds import MediaKind
from processing.variants import VariantName
from storage.base import SignedUrl

if TYPE_CHECKING:
    from graphql_schema.people import Entity

Row = strawberry.Parent[tables.Media]
LISTED: Final = frozenset(media.LISTED)
HAD_BY_LISTED: Final = ("urlExpiresAt", "variant")


def signed(info: Info, key: str, filename: str | None = None) -> SignedUrl:
    return info.context.services.storage.presign_get(key, now=datetime.now(UTC), filename=filename)


def signed_original(info: Info, row: tables.Media) -> SignedUrl | None:
    return signed(info, row.storage_key, row.filename) if media.stored(row) else None


@strawberry.type
class GeoPoint:
    latitude: float
    longitude: float


@strawberry.type
class ProcessingFailure:
    code: FailureCode
    message: str


@strawberry.type
class Variant:
    name: VariantName
    content_type: str
    width: int
    height: int
    size_bytes: BigInt

    @strawberry.field(metadata=signed_by("storage_key"))
    def url(self, root: strawberry.Parent[tables.Variant], info: Info) -> str:
        return signed(info, root.storage_key).url


@strawberry.type
class Media(Node):
    public_id: str
    kind: MediaKind
    status: MediaStatus
    filename: str = strawberry.field(description="The file's own name when it was uploaded.")
    content_type: str = strawberry.field(description="Read from the bytes, never from what a client claims.")
    size_bytes: BigInt
    width: int | None = strawberry.field(description="As displayed, after EXIF orientation.")
    height: int | None
    duration: float | None = strawberry.field(description="Seconds, of video and audio.")
    page_count: int | None
    sha256: str | None = strawberry.field(description="SHA-256 of the original, in hex.")
    perceptual_hash: str | None = strawberry.field(
        description="64-bit perceptual hash, in hex: pHash, of the lowest 8 × 8 frequencies (DCT) of 32 × 32 greys, as "
        "`imagehash.phash` computes it."
    )
    thumbhash: str | None = strawberry.field(
        description="ThumbHash, base64: a blurred preview to paint before any image arrives."
    )
    dominant_color: str | None
    title: str | None
    description: str | None
    alt_text: str | None
    tags: list[str]
    taken_at: datetime | None = strawberry.field(
        description="When the picture was taken, from EXIF or the container, else null."
    )
    exif: JSON | None
    sort_order: int
    is_primary: bool
    is_public: bool
    slot: str | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = strawberry.field(description="Set while in the trash.")

    @classmethod
    def is_type_of(cls, row: Any, _info: Any) -> bool:
        return is_of(row, tables.Media)

    @strawberry.field
    def failure(self, root: Row) -> ProcessingFailure | None:
        failure = failure_of(root)
        return view(ProcessingFailure, failure) if failure else None

    @strawberry.field
    def location(self, root: Row) -> GeoPoint | None:
        latitude: float | None = root.latitude
        return None if latitude is None else view(GeoPoint, root)

    @strawberry.field(metadata=loaded(lambda loaders: loaders.entities, "entity"))
    async def entity(self, root: Row, info: Info) -> Annotated[Entity, strawberry.lazy("graphql_schema.people")] | None:
        found = await info.context.loaders.entities.load(root.entity) if root.entity else None
        return cast("Entity | None", found)

    @strawberry.field(metadata=loaded(lambda loaders: loaders.users, "owner"))
    async def owner(self, root: Row, info: Info) -> User:
        return view(User, await info.context.loaders.users.load(root.owner))

    @strawberry.field(
        description="A signed URL of the original; null until the bytes are there. The same URL for some minutes, so "
        "that caches work.",
        metadata=signed_by("storage_key", filename="filename", known=media.stored),
    )
    def url(self, root: Row, info: Info) -> str | None:
        original = signed_original(info, root)
        return original.url if original else None

    @strawberry.field
    def url_expires_at(self, root: Row, info: Info) -> datetime | None:
        original = signed_original(info, root)
        return original.expires_at if original else None

    @strawberry.field(metadata=loaded(lambda loaders: loaders.variants, "id"))
    async def variants(self, root: Row, info: Info) -> list[Variant]:
        return view(list[Variant], await info.context.loaders.variants.load(root.id))

    @strawberry.field
    async def variant(self, root: Row, info: Info, name: VariantName) -> Variant | None:
        variants = await info.context.loaders.variants.load(root.id)
        return view(Variant, next((variant for variant in variants if variant.name == name), None))

    @strawberry.field(description="Other media the viewer can see that look like this one, nearest first.")
    async def similar(
        self, root: Row, info: Info, max_distance: int | None = 6, first: int | None = 10
    ) -> list[SimilarMedia]:
        most = info.context.services.settings.max_page
        search = similar.search(root, max_distance=max_distance, first=first, most=most)
        if search is None:
            return []
        info.context.searching.spend(search)
        return view(list[SimilarMedia], await info.context.loaders.similar.load(search))


@strawberry.type
class MediaConnection(Connection[Media]):
    @strawberry.field
    async def total_count(self, root: strawberry.Parent[Page[tables.Media]]) -> int:
        return await root.count()


@strawberry.input
class MediaFilter:
    kinds: list[MediaKind] | None = None
    statuses: list[MediaStatus] | None = None
    tags: list[str] | None = strawberry.field(default=None, description="All of them.")
    taken_after: datetime | None = None
    taken_before: datetime | None = None
    uploaded_after: datetime | None = None
    uploaded_before: datetime | None = None
    missing_alt_text: bool | None = None
    in_trash: bool | None = strawberry.field(
        default=None, description="Only what is in the trash; left out, only what is not."
    )


def as_filter(given: MediaFilter | None) -> Filter:
    return Filter(**vars(given)) if given else media.EVERYTHING


def as_order(given: MediaOrder | None) -> Order:
    return ORDERS[given or MediaOrder.NEWEST]


@strawberry.input(description="Fields left out stay as they are; `null` clears.")
class UpdateMediaInput:
    id: strawberry.ID
    title: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    alt_text: str | None = strawberry.UNSET
    tags: list[str] | None = strawberry.UNSET
    sort_order: int | None = strawberry.UNSET
    is_primary: bool | None = strawberry.UNSET
    is_public: bool | None = strawberry.UNSET


def changes_in(given: object) -> dict[str, Any]:
    """The fields of an input that were not left out, but for the id."""
    return {name: value for name, value in vars(given).items() if value is not strawberry.UNSET and name != "id"}


@strawberry.input
class AttachMediaInput:
    media_ids: list[strawberry.ID]
    entity_id: strawberry.ID
    slot: str | None = None


@strawberry.input
class MediaIdsInput:
    ids: list[strawberry.ID]


@strawberry.type
class MediaPayload:
    media: Media | None
    errors: list[UserError]
    duplicate_of: Media | None = strawberry.field(
        default=None,
        description="The viewer already has these very bytes: nothing was stored, and `media` is that one too (it may "
        "be in the trash;\nplacing it elsewhere is `attachMedia`).",
    )


@strawberry.type
class MediaBatchResult:
    index: int
    id: strawberry.ID | None
    media: Media | None
    errors: list[UserError]


@strawberry.type(description="What became of each item, in the order given; one item's failure leaves the others be.")
class MediaBatchPayload:
    results: list[MediaBatchResult]
    errors: list[UserError]


async def each(
    info: Info, given: MediaIdsInput, work: Callable[[uuid.UUID], Awaitable[tables.Media | None]]
) -> MediaBatchPayload:
    """One operation on each of some media, in their order."""
    try:
        signed_in(info.context.viewer)
        ids = known_each(given.ids, info.context.services.settings.max_page)
    except HeirloomError as error:
        return MediaBatchPayload(results=[], errors=[user_error(error)])
    became = [await outcome(work(media_id)) for media_id in ids]
    return _results(given.ids, became)


async def attach(info: Info, given: AttachMediaInput) -> MediaBatchPayload:
    try:
        viewer = signed_in(info.context.viewer)
        with relocated("media_ids", origin=("ids",)):
            ids = known_each(given.media_ids, info.context.services.settings.max_page)
        became = await attachments.attach(viewer, ids, entity_id=known(given.entity_id), slot=given.slot)
    except HeirloomError as error:
        return MediaBatchPayload(results=[], errors=[user_error(error)])
    return _results(
        given.media_ids,
        [(None, [user_error(each)]) if isinstance(each, HeirloomError) else (each, []) for each in became],
    )


def _results(
    ids: Sequence[strawberry.ID], became: Sequence[tuple[tables.Media | None, list[UserError]]]
) -> MediaBatchPayload:
    results = [
        MediaBatchResult(index=index, id=media_id, media=view(Media, row), errors=errors)
        for index, (media_id, (row, errors)) in enumerate(zip(ids, became, strict=True))
    ]
    return MediaBatchPayload(results=results, errors=[])


@strawberry.type
class MediaQuery:
    @strawberry.field
    async def media(self, info: Info, id: strawberry.ID) -> Media | None:  # noqa: A002 - the contract's name
        return view(Media, await info.context.loaders.media.load(known(id)))

    @strawberry.field(description="Public media, by its public id; no sign-in needed.")
    async def public_media(self, public_id: str) -> Media | None:
        return view(Media, await media.find_public(public_id))

    @strawberry.field(description="All media the viewer can see.")
    async def library(
        self,
        info: Info,
        filter: MediaFilter | None = None,  # noqa: A002 - the contract's name
        order_by: MediaOrder | None = MediaOrder.NEWEST,
        first: int | None = 30,
        after: str | None = None,
    ) -> MediaConnection:
        shown = reads_only(info._raw_info, "Media", LISTED, HAD_BY_LISTED)
        page = await media.library(
            info.context.viewer,
            columns=media.LISTED if shown else (),
            which=as_filter(filter),
            order=as_order(order_by),
            first=first,
            after=after,
            most=info.context.services.settings.max_page,
        )
        return view(MediaConnection, page)


@strawberry.type
class MediaMutation:
    @strawberry.mutation
    async def update_media(self, info: Info, input: UpdateMediaInput) -> MediaPayload:  # noqa: A002
        row, errors = await outcome(media.update(info.context.viewer, known(input.id), changes_in(input)))
        return MediaPayload(media=view(Media, row), errors=errors)

    @strawberry.mutation
    async def attach_media(self, info: Info, input: AttachMediaInput) -> MediaBatchPayload:  # noqa: A002
        return await attach(info, input)

    @strawberry.mutation(description="Into the trash.")
    async def delete_media(self, info: Info, input: MediaIdsInput) -> MediaBatchPayload:  # noqa: A002
        return await each(info, input, lambda media_id: trash.delete(signed_in(info.context.viewer), media_id))

    @strawberry.mutation
    async def restore_media(self, info: Info, input: MediaIdsInput) -> MediaBatchPayload:  # noqa: A002
        return await each(info, input, lambda media_id: trash.restore(info.context.viewer, media_id))

    @strawberry.mutation(description="Out of the trash for good: every stored byte goes.")
    async def purge_media(self, info: Info, input: MediaIdsInput) -> MediaBatchPayload:  # noqa: A002
        services, viewer = info.context.services, info.context.viewer
        return await each(info, input, lambda media_id: trash.purge(services, viewer, media_id))

    @strawberry.mutation
    async def reprocess_media(self, info: Info, input: MediaIdsInput) -> MediaBatchPayload:  # noqa: A002
        return await each(info, input, lambda media_id: media.reprocess(info.context.viewer, media_id))
