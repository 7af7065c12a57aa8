"""What all kinds of entity have in common: an owner, a name, a life, and media."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable
from piccolo.query.base import Query

from app import events, text, trash
from app.access import Viewer, changeable_entities, refusal, visible_entities
from app.db import HeirloomTransaction, fetch, hydrate
from app.errors import BadInput
from app.keyset import Order, Page, created, identity, page
from app.piccolo_conf import DB
from app.tables import Entity, EntityKind, EventKind, Media

# Crockford's base 32: no letters that are taken for digits. 12 of them are 60 random bits.
PUBLIC_ID_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PUBLIC_ID_LENGTH: Final = 12
NEWEST: Final = Order("newest", (created("entity"), identity("entity")), descending=True)
PREFIXES: Final = {EntityKind.PERSON: "PER", EntityKind.PROFILE: "PRF"}


def public_id(prefix: str) -> str:
    """Short and stable, for links; it can't be guessed, and tells nothing of how many there are."""
    return f"{prefix}-{''.join(secrets.choice(PUBLIC_ID_ALPHABET) for _ in range(PUBLIC_ID_LENGTH))}"


def new(kind: EntityKind, owner: uuid.UUID, name: str) -> Entity:
    now = datetime.now(UTC)
    return Entity(
        kind=kind.value,
        public_id=public_id(PREFIXES[kind]),
        name=name,
        owner=owner,
        created_at=now,
        updated_at=now,
    )


async def find(viewer: Viewer | None, entity_id: uuid.UUID) -> Entity | None:
    found = await load(viewer, [entity_id])
    return found[0] if found else None


async def load(viewer: Viewer | None, ids: Sequence[uuid.UUID]) -> list[Entity]:
    """Those of the entities that the viewer can see, in no order."""
    return await fetch(Entity, WhereRaw("entity.id = ANY({})", ids) & visible_entities(viewer)) if ids else []


async def owned(viewer: Viewer, kind: EntityKind, *, first: int | None, after: str | None, most: int) -> Page[Entity]:
    """The viewer's own of a kind, newest first."""
    where = (Entity.kind == kind.value) & (Entity.owner == viewer.id)
    return await page(Entity, where, order=NEWEST, first=first, after=after, most=most)


async def changeable(viewer: Viewer, entity_id: uuid.UUID, kind: EntityKind | None = None) -> Entity:
    """An entity that the viewer may place media at. Raises NotFound or Forbidden."""
    row = await Entity.select().where(_one(entity_id, kind), changeable_entities(viewer)).first()
    if row is None:
        raise await refused(viewer, entity_id, kind)
    return hydrate(Entity, row)


async def add(transaction: HeirloomTransaction, entity: Entity) -> None:
    await Entity.insert(entity)
    await tell(transaction, entity.id, entity.owner)


async def tell(transaction: HeirloomTransaction, entity_id: uuid.UUID, owner: uuid.UUID | None = None) -> None:
    """That it, or what is at it, has changed: to cached reads, of which `owner`'s may be."""
    await events.record(transaction, EventKind.CHANGED, entity=entity_id, owner=owner)


async def change(
    transaction: HeirloomTransaction,
    viewer: Viewer,
    kind: EntityKind,
    entity_id: uuid.UUID,
    changes: Mapping[str, Any],
) -> Entity:
    """Set the name, if it is among the changes, and touch the row. Raises NotFound or Forbidden."""
    values: dict[Any, Any] = {Entity.updated_at: datetime.now(UTC)}
    if "name" in changes:
        if changes["name"] is None:
            raise BadInput("A name can be changed, and not removed.", "name")
        values[Entity.name] = text.line(changes["name"], "name", most=text.TITLE_LENGTH)
    rows = (
        await Entity.update(values)
        .where(_one(entity_id, kind), changeable_entities(viewer))
        .returning(*Entity.all_columns())
    )
    if not rows:
        raise await refused(viewer, entity_id, kind)
    entity = hydrate(Entity, rows[0])
    await tell(transaction, entity.id, entity.owner)
    return entity


async def delete(
    viewer: Viewer, kind: EntityKind, entity_id: uuid.UUID, *, with_them: Query[Any, Any] | None = None
) -> uuid.UUID:
    """The entity goes, and those that `with_them` selects; their media go into the trash.

    Raises NotFound or Forbidden.
    """
    async with DB.transaction() as transaction:
        await hold(viewer, entity_id, kind)
        ids = [entity_id]
        if with_them is not None:
            ids += [row["entity"] for row in await with_them]
            await lock(ids)
        await trash.put(transaction, Media.entity.is_in(ids))
        for row in await Entity.delete().where(Entity.id.is_in(ids)).returning(Entity.id, Entity.owner):
            await tell(transaction, row["id"], row["owner"])
    return entity_id


async def hold(viewer: Viewer, entity_id: uuid.UUID, kind: EntityKind | None = None) -> None:
    """Keep an entity as it is until the transaction ends: neither deleted, nor its media added to or taken away.

    To be called before any of its media is locked, or two that change the same entity wait for each other for ever.
    Raises NotFound or Forbidden.
    """
    held = await Entity.select(Entity.id).where(_one(entity_id, kind), changeable_entities(viewer)).lock_rows("UPDATE")
    if not held:
        raise await refused(viewer, entity_id, kind)


async def still(entity_id: uuid.UUID) -> Entity | None:
    """The entity if it is there, whoever asks."""
    row = await Entity.select().where(Entity.id == entity_id).first()
    return hydrate(Entity, row) if row else None


async def lock(ids: Iterable[uuid.UUID]) -> None:
    """Hold those that are there until the transaction ends, in one order for all who do; see `hold`."""
    if wanted := set(ids):
        await Entity.select(Entity.id).where(Entity.id.is_in([*wanted])).order_by(Entity.id).lock_rows("UPDATE")


def _one(entity_id: uuid.UUID, kind: EntityKind | None) -> Combinable:
    return Entity.id == entity_id if kind is None else (Entity.id == entity_id) & (Entity.kind == kind.value)


async def refused(viewer: Viewer, entity_id: uuid.UUID, kind: EntityKind | None) -> Exception:
    found = await find(viewer, entity_id)
    seen = found is not None and (kind is None or found.kind == kind.value)
    return refusal(kind.lower() if kind else "entity", seen=seen)
