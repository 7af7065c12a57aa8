"""How the edge says no before anything is executed: GraphQL-shaped JSON, with an HTTP status and `extensions.code`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson
from cross_web import HTTPException as StrawberryHTTPException
from litestar import Request, Response
from litestar.datastructures.headers import Accept
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from app.db import BUSY_ERRORS
from app.errors import RateLimited, Unauthenticated
from app.issuers import KeysUnavailable
from graphql_schema.errors import BUSY, BUSY_CODE, MASKED, RequestError, unexpected

JSON = "application/json"
GRAPHQL_RESPONSE = "application/graphql-response+json"
ACCEPT_CHARACTERS = 1000  # browsers send 150; to read a long one takes seconds
# What an answer of either type says of itself.
TYPED: Final = {
    media_type: ((b"content-type", f"{media_type}; charset=utf-8".encode()), (b"vary", b"Accept"))
    for media_type in (JSON, GRAPHQL_RESPONSE)
}
CODES = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE"}


def negotiate(request: Request[Any, Any, Any]) -> str:
    return best_match(request, (JSON, GRAPHQL_RESPONSE))


def best_match(request: Request[Any, Any, Any], types: tuple[str, ...]) -> str:
    """Which of these the client would rather have; JSON if it says nothing of them."""
    accept = request.headers.get("accept", "*/*")
    return _best_match(accept, types) if len(accept) <= ACCEPT_CHARACTERS else JSON


@lru_cache(maxsize=64)  # clients say the same again and again, and to read it costs 15 µs
def _best_match(accept: str, types: tuple[str, ...]) -> str:
    try:
        return Accept(accept).best_match(list(types), default=JSON)
    except OverflowError:  # Litestar turns the q of `Accept` into a whole number, and `q=inf` is a float to it
        return JSON


def encode(data: object) -> bytes:
    try:
        return orjson.dumps(data)
    except orjson.JSONEncodeError:  # a JSON scalar may hold keys that are no strings; the option costs speed
        return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)


class Whole(Response[bytes]):
    """An answer with all that is to be said of it: Litestar's own asks what the layers around its handler have to add.

    That is an eighteenth of the time of a small request.
    """

    def __init__(self, body: bytes, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.content = body
        self.status_code = status
        self._said = [*headers, (b"content-length", b"%d" % len(body))]

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        return self._send

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # given by these names
        assert self.status_code is not None
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._said})
        await send({"type": "http.response.body", "body": self.content, "more_body": False})


def respond(body: bytes, status: int, media_type: str) -> Whole:
    return Whole(body, status, TYPED[media_type])


def refuse(
    request: Request[Any, Any, Any],
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    **extensions: Any,
) -> Response[bytes]:
    body = {"errors": [{"message": message, "extensions": {"code": code, **extensions}}]}
    said = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return Whole(encode(body), status, [*TYPED[negotiate(request)], *said])


def _on_request_error(request: Request[Any, Any, Any], error: RequestError) -> Response[bytes]:
    return refuse(request, error.status, error.code, str(error), error.headers)


def _on_unauthenticated(request: Request[Any, Any, Any], error: Unauthenticated) -> Response[bytes]:
    return refuse(request, 401, error.code, error.message, {"WWW-Authenticate": "Bearer"})  # RFC 9110, 11.6.1


def _on_rate_limited(request: Request[Any, Any, Any], error: RateLimited) -> Response[bytes]:
    return refuse(request, 429, error.code, error.message, {"Retry-After": str(error.retry_after)})


def _on_keys_unavailable(request: Request[Any, Any, Any], error: KeysUnavailable) -> Response[bytes]:
    return refuse(request, 503, BUSY_CODE, str(error), {"Retry-After": str(error.retry_after)})


def _on_busy(request: Request[Any, Any, Any], _: Exception) -> Response[bytes]:
    return refuse(request, 503, BUSY_CODE, BUSY, {"Retry-After": "1"})


def _on_strawberry_error(request: Request[Any, Any, Any], error: StrawberryHTTPException) -> Response[bytes]:
    return refuse(request, error.status_code, CODES.get(error.status_code, "BAD_REQUEST"), f"{error.reason}.")


def _on_litestar_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if error.status_code >= 500:
        return _on_unexpected(request, error)
    return refuse(request, error.status_code, CODES.get(error.status_code, "BAD_REQUEST"), error.detail)


def _on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return refuse(request, 500, message=MASKED, **unexpected(error, "the GraphQL edge"))


EXCEPTION_HANDLERS: Final[dict[Any, Any]] = {
    RequestError: _on_request_error,
    Unauthenticated: _on_unauthenticated,
    RateLimited: _on_rate_limited,
    KeysUnavailable: _on_keys_unavailable,
    **dict.fromkeys(BUSY_ERRORS, _on_busy),
    StrawberryHTTPException: _on_strawberry_error,
    HTTPException: _on_litestar_error,
    Exception: _on_unexpected,
}
