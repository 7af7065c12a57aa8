"""A GraphQL request, as HTTP and sockets carry it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from litestar import Request
from litestar.datastructures import Headers
from strawberry.http import GraphQLRequestData

from graphql_schema.errors import MalformedRequest
from graphql_schema.multipart import Parsed

# GraphiQL's introspection query has 1,500; limits.MAX_TOKENS take 16,000 where names are of a usual length.
QUERY_CHARACTERS = 32 * 1024
NAME_CHARACTERS = 256
LONGEST = (("query", QUERY_CHARACTERS), ("operationName", NAME_CHARACTERS))
PERSISTED = "persistedQuery"
MEMBERS = (
    ("query", str, "a string"),
    ("documentId", str, "a string"),
    ("operationName", str, "a string"),
    ("variables", dict, "an object"),
    ("extensions", dict, "an object"),
)


class GraphQLRequest(Request[Any, Any, Any]):
    """A request that owns the files spooled from its body."""

    keep_files = False
    parsed: Parsed | None = None

    @cached_property
    def headers(self) -> Headers:  # stock reads them anew each time
        return super().headers


def request_data(item: Any) -> GraphQLRequestData:
    """What was sent, with each member of the type that it must have. Raises MalformedRequest."""
    if not isinstance(item, dict):
        raise MalformedRequest("A GraphQL request is a JSON object.")
    for name, kind, words in MEMBERS:
        if (member := item.get(name)) is not None and not isinstance(member, kind):
            raise MalformedRequest(f"`{name}` must be {words}, or null.")
    for name, most in LONGEST:
        if len(item.get(name) or "") > most:
            raise MalformedRequest(f"`{name}` has more than {most} characters.")
    return GraphQLRequestData(
        query=item.get("query"),
        variables=item.get("variables"),
        operation_name=item.get("operationName"),
        extensions=_extensions(item),
    )


def _extensions(item: dict[str, Any]) -> dict[str, Any] | None:
    """What is read of those sent, with a `documentId` where Apollo's clients have it: see graphql_schema.trusted."""
    extensions: dict[str, Any] = item.get("extensions") or {}
    persisted = extensions.get(PERSISTED)
    if (document_id := item.get("documentId")) is not None:
        persisted = {"sha256Hash": document_id}
    read: dict[str, Any] = {"cost": True} if extensions.get("cost") else {}
    if persisted is not None:
        if not (isinstance(persisted, dict) and isinstance(persisted.get("sha256Hash"), str)):
            raise MalformedRequest(f"`extensions.{PERSISTED}` must be an object with a `sha256Hash`, or null.")
        read[PERSISTED] = {"sha256Hash": persisted["sha256Hash"]}
    return read or None


def names_a_document(data: GraphQLRequestData) -> bool:
    return data.query is not None or (data.extensions or {}).get(PERSISTED) is not None
