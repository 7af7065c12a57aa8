"""The graphql-transport-ws protocol: Strawberry's handler, made strict."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
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
from graphql_schema.errors import BUSY, MalformedRequest, coded
from graphql_schema.requests import names_a_document, request_data

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

    An operation too many is an error, and the socket goes on.
    """

    async def handle_message(self, message: Any) -> None:
        try:
            _check(message)
            await super().handle_message(message)
        except MalformedRequest as error:
            await self.handle_invalid_message(str(error))
        else:
            message.clear()  # Strawberry's loop holds it until the next one comes

    async def handle_connection_init(self, message: Any) -> None:
        try:
            await super().handle_connection_init(message)
        except (RateLimited, KeysUnavailable) as error:
            await self.websocket.close(code=TRY_AGAIN_LATER, reason=str(error))
        except BUSY_ERRORS:
            await self.websocket.close(code=TRY_AGAIN_LATER, reason=BUSY)

    async def handle_subscribe(self, message: Any) -> None:
        sent = request_data(message["payload"])
        if not names_a_document(sent):
            raise MalformedRequest("The message has no `query`.")
        # Strawberry forwards the `query`, and not the extensions: so that is all that was sent, to Schema.stream.
        message["payload"]["query"] = sent
        if len(self.operations) >= MOST_OPERATIONS and message["id"] not in self.operations:
            refusal = {"id": message["id"], "type": "error", "payload": [TOO_MANY.formatted]}
            await self.send_message(cast(Any, refusal))
            return
        await super().handle_subscribe(message)

    async def run_operation(self, operation: Any) -> None:
        try:
            with open_calls.operation():
                await super().run_operation(operation)
        except RateLimited as error:
            await operation.send_initial_errors([coded(error)])


def _check(message: Any) -> None:
    """Whether it is of the type that Strawberry takes for granted; what is missing it finds itself.

    Raises MalformedRequest.
    """
    if not isinstance(message, dict):
        raise MalformedRequest("A message is a JSON object.")
    if message.get("type") in ("subscribe", "complete"):
        named = message.get("id")
        if not isinstance(named, str) or len(named) > ID_CHARACTERS:
            raise MalformedRequest(f"`id` must be a string of at most {ID_CHARACTERS} characters.")


def socket_authorization(connection_params: dict[str, Any]) -> str | None:
    """The token of `connection_init`, its key in any case; empty or null is how some clients say "not signed in"."""
    values = [value for key, value in connection_params.items() if key.lower() == "authorization"]
    if len(values) > 1 or not all(isinstance(value, str | None) for value in values):
        raise ConnectionRejectionError
    return values[0] or None if values else None
