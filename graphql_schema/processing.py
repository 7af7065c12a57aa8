"""Processing, watched live."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import strawberry

from app import progress
from app.stages import Stage
from app.tables import MediaStatus
from graphql_schema.context import Info
from graphql_schema.errors import view
from graphql_schema.media import Media, ProcessingFailure
from graphql_schema.nodes import known


@strawberry.type
class ProcessingUpdate:
    media: Media
    status: MediaStatus
    stage: Stage
    percent: int = strawberry.field(description="0 to 100, never falling within one attempt.")
    failure: ProcessingFailure | None


@strawberry.type
class Subscription:
    @strawberry.subscription(description="The present state at once, then every change; ends after READY or FAILED.")
    async def media_processing(self, info: Info, media_id: strawberry.ID) -> AsyncGenerator[ProcessingUpdate, None]:
        async with aclosing(progress.watch(info.context.services, info.context.viewer, known(media_id))) as updates:
            async for update in updates:
                yield view(ProcessingUpdate, update)
                await info.context.pace()
