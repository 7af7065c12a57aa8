"""Every permission rule, as where-clauses: what a viewer can't see does not exist for them.

`visible_*` goes into reads, `changeable_*` into updates and deletes. A change that meets no row asks whether it can be
seen, and raises the `refusal`: what can't be seen is NOT_FOUND, what is seen and may not be changed FORBIDDEN.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable
from piccolo.querystring import QueryString

from app.errors import Forbidden, HeirloomError, NotFound, Unauthenticated
from app.keyset import Way
from app.tables import Entity, Media, MediaStatus, Moderation, UploadSession, UserAccount, UserRole


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who is asking, by a session that was alive when the operation began."""

    id: uuid.UUID
    role: UserRole
    session_id: uuid.UUID

    @property
    def is_admin(self) -> bool:
        return self.role == UserRole.ADMIN


EVERYTHING = WhereRaw("TRUE")
NOTHING = WhereRaw("FALSE")


def signed_in(viewer: Viewer | None) -> Viewer:
    """Raises Unauthenticated for an anonymous request."""
    if viewer is None:
        raise Unauthenticated("Sign in first.")
    return viewer


def visible_media(viewer: Viewer | None) -> Combinable:
    public = Media.is_public.eq(True) & (Media.moderation == Moderation.APPROVED.value) & Media.deleted_at.is_null()
    public = public & stored_media()
    if viewer is None:
        return public
    return changeable_media(viewer) | public


def ways_to_media(viewer: Viewer | None) -> Sequence[Way]:
    """The rule of `visible_media`, in parts that indexes serve in the order of a list."""
    if viewer is None or viewer.is_admin:
        return [Way(visible_media(viewer))]
    return [
        Way(_owned_media(viewer)),
        Way(
            _media_of_own_entities(viewer),
            sources=QueryString("(SELECT id FROM entity WHERE owner = {}) AS place", viewer.id),
            of_source=WhereRaw("media.entity = place.id"),
        ),
        Way(public_media()),
    ]


def ways_to_media_of(viewer: Viewer | None, entity: Entity) -> Sequence[Way]:
    """The same for the media of one entity, of which its owner sees all."""
    if viewer is not None and entity.owner == viewer.id:
        return [Way(EVERYTHING)]
    return ways_to_media(viewer)


def stored_media() -> Combinable:
    """Neither still to come, nor known to be gone."""
    return (Media.status != MediaStatus.PENDING.value) & Media.lost_at.is_null()


def changeable_media(viewer: Viewer) -> Combinable:
    """Its owner, the owner of what it belongs to, and admins."""
    if viewer.is_admin:
        return EVERYTHING
    return _owned_media(viewer) | _media_of_own_entities(viewer)


def _owned_media(viewer: Viewer) -> Combinable:
    owned: Combinable = Media.owner == viewer.id
    return owned


def _media_of_own_entities(viewer: Viewer) -> Combinable:
    return Media.entity.is_in(Entity.select(Entity.id).where(Entity.owner == viewer.id))


def public_media() -> Combinable:
    return visible_media(None)


def visible_entities(viewer: Viewer | None) -> Combinable:
    if viewer is None:
        return NOTHING
    return EVERYTHING if viewer.is_admin else Entity.owner == viewer.id


def changeable_entities(viewer: Viewer) -> Combinable:
    return visible_entities(viewer)


def own_uploads(viewer: Viewer) -> Combinable:
    """Sessions of direct uploads: one's own, not those into places one owns; admins see and may end all."""
    return EVERYTHING if viewer.is_admin else UploadSession.owner == viewer.id


def visible_users(viewer: Viewer | None) -> Combinable:
    """By id only oneself. (Whoever sees a media sees by its `owner` who that is.)"""
    if viewer is None:
        return NOTHING
    return EVERYTHING if viewer.is_admin else UserAccount.id == viewer.id


def refusal(what: str, *, seen: bool) -> HeirloomError:
    """Why a change met no row: it can't be seen, or it can, and may not be changed."""
    return Forbidden(f"You may not change this {what}.") if seen else NotFound(f"There is no such {what}.")
