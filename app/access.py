"""Every permission rule, as where-clauses: what a viewer can't see does not exist for them.

`visible_*` goes into reads, `changeable_*` into updates and deletes. A change that meets no row asks whether it can be
seen, and raises the `refusal`: what can't be seen is NOT_FOUND, what is seen and may not be changed FORBIDDEN.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from piccolo.columns.combination import WhereRaw
from piccolo.custom_types import Combinable

from app.errors import Forbidden, HeirloomError, NotFound, Unauthenticated
from app.tables import Entity, MediaStatus, Moderation, UploadSession, UserAccount, UserRole


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who is asking, by a session that was alive when the operation began; and their account as it was then."""

    id: uuid.UUID
    role: UserRole
    session_id: uuid.UUID
    account: UserAccount | None = field(default=None, compare=False, repr=False)

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
    public = public_media()
    return public if viewer is None else changeable_media(viewer) | public


def ways_to_media(viewer: Viewer | None) -> Sequence[Combinable]:
    """The rule of `visible_media`, in parts that indexes serve in the order of a list; by some parts in several."""
    if viewer is None:
        return [public_media()]
    if viewer.is_admin:
        return [_ALL_MEDIA]
    return [_owned_media(viewer), _hosted_media(viewer), public_media()]


def ways_to_media_of(viewer: Viewer | None, entity: Entity) -> Sequence[Combinable]:
    """The same for the media of one entity, of which its owner sees all."""
    if viewer is not None and entity.owner == viewer.id:
        return [EVERYTHING]
    return ways_to_media(viewer)


# What has an index of its own is said by these conditions word for word, and not by parameters: a statement that has
# been prepared is planned once for all of their values, and could not use it. All are written out, since Piccolo takes
# three times as long to write what it is told of columns: that were a fiftieth of a page.
_STORED: Final = f"(media.status <> '{MediaStatus.PENDING}' AND media.lost_at IS NULL)"
_APPROVED: Final = f"(media.is_public AND media.moderation = '{Moderation.APPROVED}' AND media.deleted_at IS NULL)"
_STORED_MEDIA: Final = WhereRaw(_STORED)
_PUBLIC_MEDIA: Final = WhereRaw(f"({_APPROVED} AND {_STORED})")
# As it always is: the indexes of all media say so too, for whoever asks for some would be led astray by them.
_ALL_MEDIA: Final = WhereRaw("media.size_bytes >= 0")


def stored_media() -> Combinable:
    """Neither still to come, nor known to be gone."""
    return _STORED_MEDIA


def public_media() -> Combinable:
    return _PUBLIC_MEDIA


def changeable_media(viewer: Viewer) -> Combinable:
    """Its owner, the owner of what it belongs to, and admins."""
    if viewer.is_admin:
        return EVERYTHING
    return _owned_media(viewer) | _hosted_media(viewer)


def _owned_media(viewer: Viewer) -> Combinable:
    return WhereRaw("media.owner = {}", viewer.id)


def _hosted_media(viewer: Viewer) -> Combinable:
    """What others have brought to the viewer's entities."""
    return WhereRaw("media.host = {}", viewer.id)


def visible_entities(viewer: Viewer | None) -> Combinable:
    if viewer is None:
        return NOTHING
    return EVERYTHING if viewer.is_admin else WhereRaw("entity.owner = {}", viewer.id)


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
