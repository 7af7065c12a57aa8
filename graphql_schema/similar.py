"""Media that look like another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import strawberry

if TYPE_CHECKING:
    from graphql_schema.media import Media


@strawberry.type
class SimilarMedia:
    """A view of a LookAlike."""

    media: Annotated[Media, strawberry.lazy("graphql_schema.media")]
    distance: int = strawberry.field(description="Bits in which the two perceptual hashes differ, 0 to 64.")
