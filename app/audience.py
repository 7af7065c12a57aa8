"""Who hears of an event: the rule of `access.visible_media`, turned round.

A list asks what one viewer can see; here is asked who can see some media, once for all who listen in a process. What is
told could be seen when it happened, by the event's own columns, and still can be, by the media's present row. Of media
that is gone for good the event's columns alone tell.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from piccolo.querystring import QueryString

from app.access import Viewer, public_media
from app.db import hydrate
from app.piccolo_conf import DB
from app.tables import Media


class Group(Enum):
    """Who hears without being named."""

    EVERYONE = "everyone"
    ADMINS = "admins"


Listener: TypeAlias = uuid.UUID | Group

IS_PUBLIC: Final = public_media().querystring
_PRESENT: Final = """
    SELECT media.*, {} AS public_now FROM media WHERE media.id = ANY({})
"""


class Present(NamedTuple):
    """Media as it is by now, and who can see it beside admins."""

    media: Media
    seen_by: frozenset[Listener]


def names(viewer: Viewer) -> tuple[Listener, ...]:
    """Under which a viewer is among an audience."""
    return (Group.ADMINS,) if viewer.is_admin else (viewer.id, Group.EVERYONE)


def then(row: Mapping[str, Any]) -> frozenset[Listener]:
    """Who could see the media of an event when it happened."""
    return _circle(row["owner"], row["entity_owner"], row["is_public"])


async def present(ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Present]:
    """Those of the media that aren't gone for good."""
    rows = await DB.run_querystring(QueryString(_PRESENT, IS_PUBLIC, [*ids])) if ids else []
    return {row["id"]: _present(dict(row)) for row in rows}


def _present(row: dict[str, Any]) -> Present:
    seen_by = _circle(row["owner"], row.pop("host"), row.pop("public_now"))
    return Present(hydrate(Media, row), seen_by)


def of(could_see: frozenset[Listener], now: Present | None) -> frozenset[Listener]:
    """Who hears: those who could see it then and can now."""
    if now is None:
        heard = could_see - {Group.EVERYONE}
    elif Group.EVERYONE in now.seen_by:
        heard = could_see
    else:
        heard = now.seen_by if Group.EVERYONE in could_see else could_see & now.seen_by
    return heard | {Group.ADMINS}


def _circle(owner: uuid.UUID | None, entity_owner: uuid.UUID | None, public: bool) -> frozenset[Listener]:
    return frozenset(each for each in (owner, entity_owner, Group.EVERYONE if public else None) if each is not None)
