"""The graphql-transport-ws protocol: Strawberry's handler, made strict."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from strawberry.exceptions import ConnectionRejectionError
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler

from graphql_schema.documents import sent_extensions
from graphql_schema.refusals import MalformedRequest
from graphql_schema.requests import names_a_document, request_data
from graphql_schema.streams import failures_as_results


class TransportHandler(BaseGraphQLTransportWSHandler[Any, None]):
    """Strawberry's own trusts a message's shape, and fails with a TypeError: here the socket is closed with 4400.

    And when a hook of an extension raises, it ends the operation as if all were well: here that is an error.
    """

    async def handle_message(self, message: Any) -> None:
        if _is_message(message):
            await super().handle_message(message)
        else:
            await self.handle_invalid_message("Failed to parse message")

    async def handle_subscribe(self, message: Any) -> None:
        data = request_data(message["payload"])
        sent_extensions.set(data.extensions)  # inherited by the task that is started now
        message["payload"]["query"] = data.query  # left out where a document is named: see trusted
        await super().handle_subscribe(message)

    async def _send_result_stream(self, operation: Any, result_source: AsyncGenerator[Any, None]) -> None:
        async with aclosing(failures_as_results(result_source)) as results:
            await super()._send_result_stream(operation, results)


def _is_message(message: Any) -> bool:
    """Whether what Strawberry's handler reads from a graphql-transport-ws message is of the type that it takes for
    granted; what is missing it finds itself."""
    if not isinstance(message, dict):
        return False
    if message.get("type") in ("subscribe", "complete") and not isinstance(message.get("id"), str):
        return False
    if message.get("type") != "subscribe":
        return True
    try:
        return names_a_document(request_data(message.get("payload")))
    except MalformedRequest:
        return False


def socket_authorization(connection_params: dict[str, Any]) -> str | None:
    """The token of `connection_init`, its key in any case; empty or null is how some clients say "not signed in"."""
    values = [value for key, value in connection_params.items() if key.lower() == "authorization"]
    if len(values) > 1 or not all(isinstance(value, str | None) for value in values):
        raise ConnectionRejectionError
    return values[0] or None if values else None
