"""Media: to find, to list, to describe, to process again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from itertools import product
from operator import and_
from typing import Any, Final

import asyncpg
from piccolo.columns import Column
from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable

from app import events, stages, text
from app.access import (
    NOTHING,
    Viewer,
    changeable_media,
    public_media,
    refusal,
    signed_in,
    stored_media,
    visible_media,
    ways_to_media,
    ways_to_media_of,
)
from app.db import fetch, hydrate, row_of
from app.errors import BadInput, Conflict
from app.keyset import Order, Page, SortKey, created, identity, instant, integer, page
from app.piccolo_conf import DB
from app.tables import Entity, EventKind, Media, MediaStatus, Variant
from processing.kinds import MediaKind
from processing.variants import VariantName

# asyncpg sends these for what PostgreSQL calls by the same names, and takes no text in their place.
_INFINITIES: Final = {"-infinity": datetime.min.replace(tzinfo=UTC), "infinity": datetime.max.replace(tzinfo=UTC)}
_PENDING: Final = MediaStatus.PENDING.value  # found once: to ask an enum takes longer than to compare


def _taken(missing: str) -> SortKey:
    # Not every picture knows when it was taken; those come last, whichever way the list runs.
    def value(row: Media) -> str:
        taken_at: datetime | None = row.taken_at
        return taken_at.isoformat() if taken_at else missing

    def parse(raw: Any) -> datetime:
        return _INFINITIES[missing] if raw == missing else instant(raw)

    return SortKey(_taken_or(missing), "timestamptz", value, parse)


def _taken_or(missing: str) -> str:
    return f"coalesce(media.taken_at, '{missing}'::timestamptz)"


# Compared with both, what isn't known is neither before nor after. Each is in an index of its own.
_TAKEN: Final = tuple(_taken_or(missing) for missing in _INFINITIES)
_CREATED: Final = created("media")
_ID: Final = identity("media")
_IN_TRASH: Final = WhereRaw("media.deleted_at IS NOT NULL")
_OUT_OF_TRASH: Final = WhereRaw("media.deleted_at IS NULL")
NEWEST: Final = Order("newest", (_CREATED, _ID), descending=True)
OLDEST: Final = Order("oldest", (_CREATED, _ID), descending=False)
TAKEN_NEWEST: Final = Order("taken-newest", (_taken("-infinity"), _ID), descending=True)
TAKEN_OLDEST: Final = Order("taken-oldest", (_taken("infinity"), _ID), descending=False)
GALLERY: Final = Order(
    "gallery",
    (SortKey("media.sort_order", "integer", lambda row: row.sort_order, integer), _CREATED, _ID),
    descending=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFilter:
    kinds: Sequence[MediaKind] | None = None
    statuses: Sequence[MediaStatus] | None = None
    tags: Sequence[str] | None = None
    taken_after: datetime | None = None
    taken_before: datetime | None = None
    uploaded_after: datetime | None = None
    uploaded_before: datetime | None = None
    missing_alt_text: bool | None = None
    in_trash: bool | None = None

    def where(self) -> Combinable:
        """All of it but the kinds: see `by_kind`. Raises BadInput for what can't be a tag."""
        conditions: list[Combinable] = [_IN_TRASH if self.in_trash else _OUT_OF_TRASH]
        if self.statuses is not None:
            conditions.append(WhereRaw("media.status = ANY({})", [status.value for status in self.statuses]))
            if MediaStatus.READY not in self.statuses:
                conditions.append(WhereRaw(f"media.status <> '{MediaStatus.READY}'"))  # so says an index, which has few
        else:
            conditions.append(stored_media())
        if self.tags:
            conditions.append(WhereRaw("media.tags @> {}::varchar[]", text.tags(self.tags)))
        if self.missing_alt_text is not None:
            conditions.append(WhereRaw(f"media.alt_text IS {'NULL' if self.missing_alt_text else 'NOT NULL'}"))
        conditions += [
            WhereRaw(f"{expression} {comparison} {{}}", moment)
            for expressions, comparison, moment in (
                (_TAKEN, ">", self.taken_after),
                (_TAKEN, "<", self.taken_before),
                (("media.created_at",), ">", self.uploaded_after),
                (("media.created_at",), "<", self.uploaded_before),
            )
            if moment is not None
            for expression in expressions
        ]
        return reduce(and_, conditions)

    def by_kind(self, ways: Sequence[Combinable]) -> Sequence[Combinable]:
        """Ways to media of any of the kinds: one for each, as an index has those of one in the order of a list."""
        if self.kinds is None:
            return ways
        kinds = [WhereRaw("media.kind = {}", kind.value) for kind in dict.fromkeys(self.kinds)]
        return [way & kind for way, kind in product(ways, kinds)] or [NOTHING]


EVERYTHING: Final = MediaFilter()
# What lists show of each, and are ordered by; what `stored` asks for.
LISTED: Final = (
    *("id", "public_id", "owner", "entity", "slot", "kind", "status", "filename", "content_type", "size_bytes"),
    *("storage_key", "lost_at", "width", "height", "duration", "thumbhash", "dominant_color", "taken_at", "title"),
    *("alt_text", "tags", "sort_order", "is_primary", "is_public", "created_at", "deleted_at"),
)
# Of a page there are 500. By the place of the media that they are of, a number, and not by its id: that is decoded in
# half the time.
_VARIANT: Final = row_of(Variant, "place", "name", "content_type", "width", "height", "size_bytes", "storage_key")
_VARIANTS_OF: Final = f"""
    SELECT {", ".join(_VARIANT.places)} FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
    JOIN variant ON variant.media = wanted.id
    ORDER BY array_position(ARRAY{[name.value for name in VariantName]}::varchar[], name)
"""  # noqa: S608 - put together from constants


async def changeable(viewer: Viewer, media_id: uuid.UUID, *, lock: bool = False) -> Media:
    """A media that the viewer may change; kept as it is until the transaction ends, with `lock`.

    Raises NotFound or Forbidden.
    """
    query = Media.select().where(Media.id == media_id, changeable_media(viewer)).first()
    row = await (query.lock_rows("UPDATE") if lock else query)
    if row is None:
        raise await _refused(viewer, media_id)
    return hydrate(Media, row)


async def hold(which: Combinable, *, skip_locked: bool = False) -> list[uuid.UUID]:
    """Keep media as they are until the transaction ends; in one order for all who do, so that none wait in a circle."""
    rows = await Media.select(Media.id).where(which).order_by(Media.id).lock_rows("UPDATE", skip_locked=skip_locked)
    return [row["id"] for row in rows]


async def place(media: Media, values: Mapping[Column | str, Any]) -> Media:
    """Set where a media is, which the caller holds. Bytes that its owner has there already are there twice then.

    Raises Conflict when a slot for one holds another.
    """
    values = {**values, Media.updated_at: datetime.now(UTC)}
    this = Media.id == media.id
    try:
        async with DB.transaction():  # a savepoint
            rows = await Media.update(values).where(this).returning(*Media.all_columns())
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "media_single":
            raise Conflict(f"The slot “{media.slot}” holds another now: remove that one first.", "ids") from error
        if error.constraint_name != "media_bytes_once":
            raise
        rows = await Media.update({**values, Media.is_copy: True}).where(this).returning(*Media.all_columns())
    return hydrate(Media, rows[0])


async def find(viewer: Viewer | None, media_id: uuid.UUID) -> Media | None:
    row = await Media.select().where(Media.id == media_id, visible_media(viewer)).first()
    return hydrate(Media, row) if row else None


async def load(viewer: Viewer | None, ids: Sequence[uuid.UUID]) -> list[Media]:
    """Those of the media that the viewer can see, in no order."""
    return await fetch(Media, WhereRaw("media.id = ANY({})", ids) & visible_media(viewer))


async def find_public(public_id: str) -> Media | None:
    if not text.storable(public_id):
        return None
    row = await Media.select().where(Media.public_id == public_id, public_media()).first()
    return hydrate(Media, row) if row else None


async def library(
    viewer: Viewer | None,
    *,
    columns: tuple[str, ...] = (),
    which: MediaFilter,
    order: Order,
    first: int | None,
    after: str | None,
    most: int,
) -> Page[Media]:
    """All that the viewer can see, with these columns or all of them."""
    ways = which.by_kind(ways_to_media(viewer))
    return await page(Media, which.where(), ways, columns=columns, order=order, first=first, after=after, most=most)


async def of_entity(
    viewer: Viewer | None,
    entity: Entity,
    *,
    slot: str | None,
    which: MediaFilter,
    order: Order,
    first: int | None,
    after: str | None,
    most: int,
) -> Page[Media]:
    where = (Media.entity == entity.id) & which.where()
    if slot is not None:
        where = where & (Media.slot == slot if text.storable(slot) else NOTHING)
    ways = which.by_kind(ways_to_media_of(viewer, entity))
    return await page(Media, where, ways, order=order, first=first, after=after, most=most)


async def in_slots(viewer: Viewer | None, places: Sequence[tuple[uuid.UUID, str]]) -> list[Media]:
    """What is in slots that hold one: avatars and covers, by (entity, slot)."""
    entities, slots = [entity for entity, _ in places], [slot for _, slot in places]
    here = WhereRaw("(media.entity, media.slot) IN (SELECT * FROM unnest({}::uuid[], {}::varchar[]))", entities, slots)
    return await fetch(Media, here & _OUT_OF_TRASH & stored_media() & visible_media(viewer))


async def variants_of(ids: Sequence[uuid.UUID]) -> list[list[Variant]]:
    """For each media, which the caller has been found to see, its variants in the order of their names in the schema.

    Not by width: those of a small picture are all as wide. Nor by age: which is stored first is chance.
    """
    found: list[list[Variant]] = [[] for _ in ids]
    for row in await DB.read(_VARIANTS_OF, ids, rows=_VARIANT):
        found[row[0] - 1].append(row)
    return found


async def update(viewer: Viewer | None, media_id: uuid.UUID, changes: Mapping[str, Any]) -> Media:
    """What is in `changes` is set, None clears. Raises BadInput, NotFound or Forbidden."""
    who = signed_in(viewer)
    values: dict[Column | str, Any] = {**_cleaned(changes), "updated_at": datetime.now(UTC)}
    async with DB.transaction() as transaction:
        if values.get("is_primary"):
            await _yield_primary(who, media_id)
        rows = (
            await Media.update(values)
            .where(Media.id == media_id, changeable_media(who))
            .returning(*Media.all_columns())
        )
        if rows:
            media = hydrate(Media, rows[0])
            await events.record(transaction, EventKind.UPDATED, media=media.id, entity=media.entity, owner=media.owner)
    if not rows:
        raise await _refused(who, media_id)
    return media


async def reprocess(viewer: Viewer | None, media_id: uuid.UUID) -> Media:
    """Try again from the stored original, with a fresh count of attempts; what waits or runs already is left to it.

    Old variants are served until the new ones are there. Raises NotFound or Forbidden.
    """
    who = signed_in(viewer)
    which = (
        (Media.id == media_id)
        & Media.status.is_in([MediaStatus.READY.value, MediaStatus.FAILED.value])
        & Media.deleted_at.is_null()
        & Media.lost_at.is_null()
        & changeable_media(who)
    )
    async with DB.transaction() as transaction:
        begun = await stages.start_over(transaction, which, datetime.now(UTC))
    if begun:
        return begun[0]
    media = await changeable(who, media_id)
    if media.deleted_at is not None or not stored(media):
        raise BadInput("This is in the trash, or has no bytes.", "ids")
    return media


def stored(media: Media) -> bool:
    """Whether there are bytes of it: neither still to come, nor known to be gone."""
    return media.status != _PENDING and media.lost_at is None


async def _yield_primary(viewer: Viewer, media_id: uuid.UUID) -> None:
    """One of a slot is its primary: the others give way first, as the index demands."""
    wanted = Media.select(Media.entity, Media.slot, Media.deleted_at)
    row = await wanted.where(Media.id == media_id, changeable_media(viewer)).first()
    if row is None:
        return
    if row["entity"] is None:
        raise BadInput("Only media that belongs to something can be the primary of it.", "is_primary")
    if row["deleted_at"] is not None:
        raise BadInput("What is in the trash can't be the primary.", "is_primary")
    # Two that would be primary at once take turns. Whoever may change the media need not be able to change the entity.
    await Entity.select(Entity.id).where(Entity.id == row["entity"]).lock_rows("UPDATE")
    await Media.update({Media.is_primary: False}).where(
        Media.entity == row["entity"], Media.slot == row["slot"], Media.is_primary.eq(True), Media.id != media_id
    )


async def _refused(viewer: Viewer, media_id: uuid.UUID) -> Exception:
    return refusal("media", seen=await find(viewer, media_id) is not None)


_CLEANERS: Final[dict[str, Any]] = {
    "title": lambda value: text.optional_line(value, "title", most=text.TITLE_LENGTH),
    "description": lambda value: text.prose(value, "description"),
    "alt_text": lambda value: text.prose(value, "alt_text"),
    "tags": text.tags,
    "sort_order": lambda value: value or 0,
    "is_primary": bool,
    "is_public": bool,
}


def _cleaned(changes: Mapping[str, Any]) -> dict[Column | str, Any]:
    return {key: _CLEANERS[key](value) for key, value in changes.items()}
