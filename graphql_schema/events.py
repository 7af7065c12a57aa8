"""What happens to media, told as it happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

import strawberry

from app import media_events
from app.media_events import MediaEventKind
from graphql_schema.context import Info
from graphql_schema.errors import view
from graphql_schema.media import Media
from graphql_schema.nodes import known

strawberry.enum(MediaEventKind)


@strawberry.type
class MediaEvent:
    cursor: str = strawberry.field(
        description="Give it back as `after` to go on from here: nothing is lost, nothing comes twice."
    )
    kind: MediaEventKind
    media_id: strawberry.ID
    media: Media | None = strawberry.field(description="Null once purged.")
    occurred_at: datetime


@strawberry.type
class EventQuery:
    @strawberry.field(
        description="The place of this moment among `mediaEvents`. Take it before you read lists: who follows from\n"
        "there misses nothing, though something that the lists show already may come too."
    )
    async def events_cursor(self, info: Info) -> str:
        return await media_events.cursor_of_now(info.context.services, info.context.viewer)


@strawberry.type
class EventSubscription:
    @strawberry.subscription(
        description="Every event of the media that the viewer can see. With `after`, first what happened since.\n"
        "A cursor older than the events that are kept is refused with CURSOR_EXPIRED: read anew what there is."
    )
    async def media_events(
        self, info: Info, after: str | None = None, entity_id: strawberry.ID | None = None
    ) -> AsyncGenerator[MediaEvent, None]:
        entity = None if entity_id is None else known(entity_id)
        told = media_events.follow(info.context.services, info.context.viewer, after=after, entity_id=entity)
        async with aclosing(told) as happenings:
            async for happening in happenings:
                yield view(MediaEvent, happening)
                await info.context.pace()  # not between the look at who may see it, and its being told
