"""The graphql-transport-ws protocol: Strawberry's handler, made strict."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, suppress
from json import JSONDecodeError
from typing import Any, Final, cast

from graphql import GraphQLError
from litestar.exceptions import WebSocketDisconnect
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http.exceptions import NonJsonMessageReceived, NonTextMessageReceived
from strawberry.litestar.controller import LitestarWebSocketAdapter
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler

from app import open_calls
from app.db import BUSY_ERRORS
from app.errors import ErrorCode, RateLimited
from app.issuers import KeysUnavailable
from graphql_schema.errors import BUSY, coded
from graphql_schema.operations import sent_extensions
from graphql_schema.refusals import MalformedRequest
from graphql_schema.requests import names_a_document, request_data
from graphql_schema.streams import failures_as_results

# IANA's registry of close codes. Clients take those from 4400 on for final, and come again after this one.
TRY_AGAIN_LATER: Final = 1013
MOST_OPERATIONS: Final = 100  # at once over one socket
ID_CHARACTERS: Final = 128  # of an operation: clients take a number or a UUID
REASON_BYTES: Final = 123  # RFC 6455, 5.5
TOO_MANY: Final = GraphQLError(
    "Too many operations over this socket. Complete some first.", extensions={"code": ErrorCode.RATE_LIMITED.value}
)


class SocketAdapter(LitestarWebSocketAdapter):
    """Strawberry's own holds the text of a message until the next one comes, and fails with a long reason."""

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:  # noqa: ARG002
        with suppress(WebSocketDisconnect):
            while self.ws.connection_state != "disconnect":
                yield self._read(await self.ws.receive_text())

    def _read(self, text: str) -> object:
        if not text:  # Litestar's word for bytes
            raise NonTextMessageReceived
        try:
            return self.view.decode_json(text)
        except JSONDecodeError as error:
            raise NonJsonMessageReceived from error

    async def close(self, code: int, reason: str) -> None:
        await super().close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))


class TransportHandler(BaseGraphQLTransportWSHandler[Any, None]):
    """Strawberry's own trusts a message's shape, and fails with a TypeError: here the socket is closed with 4400.

    And where a schema raises, it ends the operation as if all were well: here that is an error. An
    operation too many is one too, and the socket goes on.
    """

    async def handle_message(self, message: Any) -> None:
        if not _is_message(message):
            await self.handle_invalid_message("Failed to parse message")
            return
        await super().handle_message(message)
        message.clear()  # Strawberry's loop holds it until the next one comes

    async def handle_connection_init(self, message: Any) -> None:
        try:
            await super().handle_connection_init(message)
        except (RateLimited, KeysUnavailable) as error:
            await self.websocket.close(code=TRY_AGAIN_LATER, reason=str(error))
        except BUSY_ERRORS:
            await self.websocket.close(code=TRY_AGAIN_LATER, reason=BUSY)

    async def handle_subscribe(self, message: Any) -> None:
        data = request_data(message["payload"])
        sent_extensions.set(data.extensions)  # inherited by the task that is started now
        message["payload"]["query"] = data.query  # left out where a document is named: see trusted
        if len(self.operations) >= MOST_OPERATIONS and message["id"] not in self.operations:
            refusal = {"id": message["id"], "type": "error", "payload": [TOO_MANY.formatted]}
            await self.send_message(cast(Any, refusal))
            return
        await super().handle_subscribe(message)

    async def run_operation(self, operation: Any) -> None:
        with ExitStack() as stack:
            try:
                stack.enter_context(open_calls.operation())
            except RateLimited as error:
                await operation.send_initial_errors([coded(GraphQLError(error.message, original_error=error))])
                return
            await super().run_operation(operation)

    async def _send_result_stream(self, operation: Any, result_source: AsyncGenerator[Any, None]) -> None:
        async with aclosing(failures_as_results(result_source)) as results:
            await super()._send_result_stream(operation, results)


def _is_message(message: Any) -> bool:
    """Whether what Strawberry's handler reads from a graphql-transport-ws message is of the type that it takes for
    granted; what is missing it finds itself."""
    if not isinstance(message, dict):
        return False
    if message.get("type") in ("subscribe", "complete"):
        named = message.get("id")
        if not isinstance(named, str) or len(named) > ID_CHARACTERS:
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
