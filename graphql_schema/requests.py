"""A GraphQL request, as HTTP and sockets carry it."""

from __future__ import annotations

from typing import Any

from litestar import Request
from strawberry.http import GraphQLRequestData

from graphql_schema.multipart import Parsed
from graphql_schema.refusals import MalformedRequest

# GraphiQL's introspection query has 1,500, and parsed documents are kept: see schema.CACHED_DOCUMENTS.
QUERY_CHARACTERS = 32 * 1024


class GraphQLRequest(Request[Any, Any, Any]):
    """A request that owns the files spooled from its body."""

    keep_files = False
    parsed: Parsed | None = None


def request_data(item: Any) -> GraphQLRequestData:
    """What was sent, with each member of the type that it must have. Raises MalformedRequest."""
    if not isinstance(item, dict):
        raise MalformedRequest("A GraphQL request is a JSON object.")
    for name, kind, words in (
        ("query", str, "a string"),
        ("operationName", str, "a string"),
        ("variables", dict, "an object"),
        ("extensions", dict, "an object"),
    ):
        if not isinstance(item.get(name), kind | None):
            raise MalformedRequest(f"`{name}` must be {words}, or null.")
    if len(item.get("query") or "") > QUERY_CHARACTERS:
        raise MalformedRequest(f"`query` has more than {QUERY_CHARACTERS} characters.")
    return GraphQLRequestData(
        query=item.get("query"),
        variables=item.get("variables"),
        operation_name=item.get("operationName"),
        extensions=item.get("extensions"),
    )
