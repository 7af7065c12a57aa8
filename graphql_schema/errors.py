"""Expected failures as data, or with a code; everything else logged and masked."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable
from typing import Any, ClassVar, TypeVar, cast

import strawberry
from graphql import GraphQLError
from strawberry.utils.str_converters import to_camel_case

from app.db import BUSY_ERRORS
from app.errors import ErrorCode as Code
from app.errors import HeirloomError
from app.issuers import KeysUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

MESSAGE_CHARACTERS = 1000  # graphql-core quotes what it was given, a megabyte too
MASKED = "Something went wrong on our side."
BUSY = "The database is busy. Try again in a moment."
BUSY_CODE = "SERVICE_UNAVAILABLE"


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
    """The client has stopped sending in the middle of its body, or takes too long for all of it."""

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


ErrorCode = strawberry.enum(Code, name="ErrorCode")


@strawberry.type(
    description="An expected failure, returned as data in a mutation's `errors`. `path` leads to the input at fault.\n"
    "Unexpected failures are top-level errors, masked, with `extensions.code`."
)
class UserError:
    code: ErrorCode  # type: ignore[valid-type]
    message: str
    path: list[str] | None


def user_error(error: HeirloomError) -> UserError:
    path = ["input", *(to_camel_case(name) for name in error.path)] if error.path else None
    return UserError(code=error.code, message=error.message, path=path)


def view(_kind: type[T], row: object) -> T:
    """The row as the GraphQL type that shows it: resolvers of the type take the row itself as their parent."""
    return cast(T, row)


async def outcome(work: Awaitable[T]) -> tuple[T | None, list[UserError]]:
    """What an operation gives, or its expected failure as data."""
    try:
        return await work, []
    except HeirloomError as error:
        return None, [user_error(error)]


def coded(error: Exception) -> GraphQLError:
    """The error as a client may see it, with its `extensions.code`: once, where it leaves its operation.

    The unexpected are masked; the log has them in full, under the same id.
    """
    if not isinstance(error, GraphQLError):
        error = GraphQLError(str(error), original_error=error)
    cause = error.original_error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    message, extensions = _told(error, cause)
    for told in (error, cause):
        if told is not None:
            # Its frames have the whole request, in a circle that nobody breaks before the collector comes.
            told.__traceback__ = None
    return GraphQLError(
        message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=extensions,
    )


def _told(error: GraphQLError, cause: Exception | None) -> tuple[str, dict[str, Any]]:
    """The message and the extensions of an error with this cause."""
    if isinstance(cause, HeirloomError):
        return cause.message, {"code": cause.code.value}
    if isinstance(cause, (*BUSY_ERRORS, KeysUnavailable)):
        return str(cause) if isinstance(cause, KeysUnavailable) else BUSY, {"code": BUSY_CODE}
    if isinstance(cause, RequestError):  # of a socket or a stream: an answer has its HTTP status
        return str(cause), {"code": cause.code}
    if cause is None or isinstance(cause, GraphQLError):
        code = "GRAPHQL_VALIDATION_FAILED" if error.path is None else Code.BAD_INPUT.value
        return error.message[:MESSAGE_CHARACTERS], {"code": code, **(error.extensions or {})}
    return MASKED, unexpected(cause, "/".join(map(str, error.path or ["the operation"])))


def unexpected(error: Exception, where: str) -> dict[str, Any]:
    """Log it in full; what the client is told of it is the id under which it stands there."""
    error_id = secrets.token_hex(8)
    logger.error("Unexpected error %s at %s", error_id, where, exc_info=error)
    return {"code": "INTERNAL_SERVER_ERROR", "id": error_id}
