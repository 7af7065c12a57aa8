"""The schema: the nouns put together, and what goes on around every operation."""

from __future__ import annotations

import strawberry
from graphql import GraphQLError
from strawberry.extensions import AddValidationRules, MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig
from strawberry.tools import merge_types
from strawberry.types import ExecutionContext

from app import accounts, upload_sessions
from graphql_schema.accounts import AccountMutation, AccountQuery
from graphql_schema.context import Info, OperationContext
from graphql_schema.errors import CodedErrors, view
from graphql_schema.limits import FewMutations
from graphql_schema.media import Media, MediaMutation, MediaQuery
from graphql_schema.nodes import Node, User, as_uuid
from graphql_schema.people import PeopleMutation, PeopleQuery, Person, Profile
from graphql_schema.processing import Subscription
from graphql_schema.scalars import SCALARS
from graphql_schema.upload_sessions import UploadSession, UploadSessionMutation, UploadSessionQuery
from graphql_schema.uploads import UploadMutation

MAX_TOKENS = 2_000  # of a document; GraphiQL's introspection query has 400
CACHED_DOCUMENTS = 200


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


Query = merge_types("Query", (NodeQuery, AccountQuery, MediaQuery, PeopleQuery, UploadSessionQuery))
Mutation = merge_types(
    "Mutation", (AccountMutation, PeopleMutation, UploadMutation, UploadSessionMutation, MediaMutation)
)


def _limit_tokens() -> MaxTokensLimiter:
    return MaxTokensLimiter(max_token_count=MAX_TOKENS)


def _few_mutations() -> AddValidationRules:
    return AddValidationRules([FewMutations])


def _cache_documents() -> ParserCache:
    return ParserCache(maxsize=CACHED_DOCUMENTS)


def _cache_validation() -> ValidationCache:
    return ValidationCache(maxsize=CACHED_DOCUMENTS)


class Schema(strawberry.Schema):
    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Stock logs each with its traceback, a mistyped query too. CodedErrors does for those that nobody expects."""


schema = Schema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    types=[User, Person, Profile, Media, UploadSession],
    extensions=[CodedErrors, OperationContext, _limit_tokens, _few_mutations, _cache_documents, _cache_validation],
    config=StrawberryConfig(scalar_map=dict(SCALARS)),
)
