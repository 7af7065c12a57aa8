"""How the edge says no before anything is executed: GraphQL-shaped JSON, with an HTTP status and `extensions.code`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final

import orjson
from cross_web import HTTPException as StrawberryHTTPException
from litestar import Request, Response
from litestar.datastructures.headers import Accept
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from app.db import BUSY_ERRORS
from app.errors import RateLimited, Unauthenticated
from app.issuers import KeysUnavailable
from graphql_schema.errors import BUSY, BUSY_CODE, MASKED, unexpected

JSON = "application/json"
GRAPHQL_RESPONSE = "application/graphql-response+json"
ACCEPT_CHARACTERS = 1000  # browsers send 150; to read a long one takes seconds
CODES = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE"}


class RequestError(Exception):
    """A request that is answered by its HTTP `status` before anything of it is executed. The message is for people."""

    status: ClassVar[int]
    code: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}


class MalformedRequest(RequestError):
    status = 400
    code = "BAD_REQUEST"


class RequestTooLarge(RequestError):
    status = 413
    code = "PAYLOAD_TOO_LARGE"


class SpoolFailed(RequestError):
    """The scratch folder can't be written: full, or not there."""

    status = 503
    code = "STORAGE_UNAVAILABLE"


class RequestTimeout(RequestError):
    """The client has stopped sending in the middle of its body."""

    status = 408
    code = "REQUEST_TIMEOUT"
    headers: ClassVar[dict[str, str]] = {"Connection": "close"}


class UnsupportedMediaType(RequestError):
    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class MutationNeedsPost(RequestError):
    status = 405
    code = "METHOD_NOT_ALLOWED"
    headers: ClassVar[dict[str, str]] = {"Allow": "POST"}


class NotAcceptable(RequestError):
    """What `Accept` names is not given for this request."""

    status = 406
    code = "NOT_ACCEPTABLE"


class OriginRefused(RequestError):
    """A page of another site, not among those that are allowed in."""

    status = 403
    code = "FORBIDDEN"


class MethodNotAllowed(RequestError):
    status = 405
    code = "METHOD_NOT_ALLOWED"
    headers: ClassVar[dict[str, str]] = {"Allow": "GET, POST"}


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

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str]) -> None:
        said = {**headers, "Content-Length": str(len(body))}
        self.content = body
        self.status_code = status
        self._said = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in said.items()]

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        return self._send

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # given by these names
        assert self.status_code is not None
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._said})
        await send({"type": "http.response.body", "body": self.content, "more_body": False})


def respond(body: bytes, status: int, media_type: str | None, headers: Mapping[str, str] | None = None) -> Whole:
    said = {"Content-Type": f"{media_type}; charset=utf-8", "Vary": "Accept", **(headers or {})}
    return Whole(body, status, said)


def refuse(
    request: Request[Any, Any, Any],
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
    **extensions: Any,
) -> Response[bytes]:
    body = {"errors": [{"message": message, "extensions": {"code": code, **extensions}}]}
    return respond(encode(body), status, negotiate(request), headers)


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
