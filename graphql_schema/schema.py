"""The schema: the nouns put together, and what goes on around every operation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Any, Final

import strawberry
from graphql import OperationType
from strawberry.http import GraphQLRequestData
from strawberry.schema.config import StrawberryConfig
from strawberry.tools import merge_types
from strawberry.types import ExecutionResult

from app import accounts, upload_sessions
from graphql_schema.accounts import AccountMutation, AccountQuery
from graphql_schema.context import Context, Info
from graphql_schema.documents import PreparedDocuments
from graphql_schema.errors import view
from graphql_schema.events import EventQuery, EventSubscription
from graphql_schema.media import Media, MediaMutation, MediaQuery
from graphql_schema.nodes import Node, User, as_uuid
from graphql_schema.operations import Operation
from graphql_schema.people import PeopleMutation, PeopleQuery, Person, Profile
from graphql_schema.processing import Subscription as ProcessingSubscription
from graphql_schema.root_fields import measure
from graphql_schema.scalars import SCALARS
from graphql_schema.upload_sessions import UploadSession, UploadSessionMutation, UploadSessionQuery
from graphql_schema.uploads import UploadMutation

# Of one request, its cost counted together. A client's page asks for less than ten things before it can be drawn.
MAX_BATCH = 10
ALL_TYPES: Final = frozenset(OperationType)
CACHED_TOKENS = 15_000  # of documents; a parsed one takes 400 bytes, and 1,600 of what is planned of it: 30 MB in all


@strawberry.type
class NodeQuery:
    @strawberry.field
    async def node(self, info: Info, id: strawberry.ID) -> Node | None:  # noqa: A002 - the contract's name
        wanted = as_uuid(id)
        if wanted is None:
            return None
        loaders = info.context.loaders
        found = (
            await loaders.entities.load(wanted)
            or await loaders.media.load(wanted)
            or await accounts.find(info.context.viewer, wanted)
            or await upload_sessions.find(info.context.viewer, wanted)
        )
        return view(Node, found)


Query = merge_types("Query", (NodeQuery, AccountQuery, MediaQuery, PeopleQuery, UploadSessionQuery, EventQuery))
Mutation = merge_types(
    "Mutation", (AccountMutation, PeopleMutation, UploadMutation, UploadSessionMutation, MediaMutation)
)
Subscription = merge_types("Subscription", (ProcessingSubscription, EventSubscription))


class Schema(strawberry.Schema):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        measure(self._schema)
        self.documents = PreparedDocuments(self._schema, most_tokens=CACHED_TOKENS)

    def operation(
        self, sent: GraphQLRequestData, context: Context, allowed: Collection[OperationType] = ALL_TYPES
    ) -> Operation:
        return Operation(self._schema, self.documents, context, sent, allowed)

    async def stream(  # type: ignore[override]
        self, query: GraphQLRequestData, *, context_value: Context, **_: Any
    ) -> AsyncGenerator[ExecutionResult, None]:
        """How Strawberry's sockets ask. Their `query` is all that was sent: see sockets.TransportHandler."""
        return self.operation(query, context_value).results()


schema = Schema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    types=[User, Person, Profile, Media, UploadSession],
    config=StrawberryConfig(scalar_map=dict(SCALARS), batching_config={"max_operations": MAX_BATCH}),
)
