"""Media placed at an entity, or moved there from another: all of it, or none."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from piccolo.columns import Column

from app import entities, events, media, trash, uploads
from app.access import NOTHING, Viewer, changeable_media, refusal, signed_in
from app.db import HeirloomTransaction, hydrate
from app.errors import BadInput, Conflict, HeirloomError, relocated
from app.piccolo_conf import DB
from app.slots import Slot
from app.tables import Entity, EventKind, Media
from processing.kinds import MediaKind


async def attach(
    viewer: Viewer | None, media_ids: Sequence[uuid.UUID], *, entity_id: uuid.UUID, slot: str | None
) -> list[Media | HeirloomError]:
    """What became of each of the media, in their order: placed, or, if one can't be, why none was.

    What a slot for one held before gives way. Raises BadInput, NotFound or Forbidden for what is no place for them.
    """
    who = signed_in(viewer)
    if not media_ids:
        raise BadInput("Say which media.", "media_ids")
    place = await uploads.find_place(who, entity_id, slot)
    assert place.entity is not None, "an entity was named"
    if place.slot.single and len(set(media_ids)) > 1:
        raise BadInput(f"The slot “{place.slot.name}” holds one.", "media_ids")
    async with DB.transaction() as transaction:
        await _hold(who, place.entity, media_ids)
        checked = await _checked(who, media_ids, place.entity, place.slot)
        if any(isinstance(each, HeirloomError) for each in checked):
            return [_refused(each) for each in checked]
        found = {each.id: each for each in checked if isinstance(each, Media)}
        placed = {each.id: await _place(transaction, each, place.entity, place.slot) for each in found.values()}
    return [placed[media_id] for media_id in media_ids]


async def _hold(viewer: Viewer, target: Entity, media_ids: Sequence[uuid.UUID]) -> None:
    """Keep the entity, and those at which the media are, as they are. Raises NotFound or Forbidden."""
    rows = await Media.select(Media.entity).where(
        Media.id.is_in(list(media_ids)), Media.entity.is_not_null(), changeable_media(viewer)
    )
    await entities.lock([target.id, *(row["entity"] for row in rows)])
    with relocated("entity_id"):
        await entities.hold(viewer, target.id)  # unless it has gone since it was found


async def _checked(
    viewer: Viewer, media_ids: Sequence[uuid.UUID], entity: Entity, slot: Slot
) -> list[Media | HeirloomError]:
    """Each of the media, kept as it is until the transaction ends, or why it has no place in the slot."""
    wanted = Media.id.is_in(list(media_ids)) & changeable_media(viewer)
    # What is to give way is locked with them, by id: it may be what another is just attaching elsewhere, and that one
    # wants what is to be placed here.
    given_way = (Media.entity == entity.id) & (Media.slot == slot.name) if slot.single else NOTHING
    rows = await Media.select().where(wanted | given_way).order_by(Media.id).lock_rows("UPDATE")
    found = {row["id"]: hydrate(Media, row) for row in rows}
    seen = {each.id for each in await media.load(viewer, media_ids)}
    checked: list[Media | HeirloomError] = []
    for index, media_id in enumerate(media_ids):
        try:
            checked.append(_admitted(slot, found.get(media_id), seen=media_id in seen))
        except HeirloomError as error:
            error.path = ("media_ids", str(index))
            checked.append(error)
    return checked


def _admitted(slot: Slot, found: Media | None, *, seen: bool) -> Media:
    if found is None:
        raise refusal("media", seen=seen)
    if found.deleted_at is not None:
        raise BadInput("This is in the trash: restore it first.")
    if not media.stored(found):
        raise BadInput("There are no bytes of this.")
    slot.admit(MediaKind(found.kind), found.size_bytes)
    return found


def _refused(checked: Media | HeirloomError) -> HeirloomError:
    return checked if isinstance(checked, HeirloomError) else Conflict("Nothing was linked: another one failed.")


async def _place(transaction: HeirloomTransaction, one: Media, entity: Entity, slot: Slot) -> Media:
    if (one.entity, one.slot) == (entity.id, slot.name):
        return one
    if slot.single:
        await trash.clear_slot(transaction, entity.id, slot.name)
    there: dict[Column | str, Any] = {Media.entity: entity.id, Media.slot: slot.name, Media.is_primary: False}
    placed = await media.place(one, there)
    if one.entity is not None and one.entity != entity.id:
        await entities.tell(transaction, one.entity)
    await events.record(transaction, EventKind.UPDATED, media=placed.id, entity=placed.entity, owner=placed.owner)
    return placed
