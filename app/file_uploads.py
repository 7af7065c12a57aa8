"""PUT to signed URLs of local storage, answered as S3 answers it; and what a browser asks before it sends one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from litestar import Request, Response, route
from litestar.enums import HttpMethod
from litestar.exceptions import InternalServerException
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from app.bodies import patient
from app.file_headers import ALWAYS, NEVER_KEPT
from storage.base import InvalidKey, InvalidSignature, SizeMismatch, StorageUnavailable, UploadNotFound
from storage.local import LocalStorage

PREFLIGHT_SECONDS: Final = 3600
# How long a client that is refused is listened to: it may be sending still, and look for an answer only then.
LINGER_SECONDS: Final = 5.0


class BrokenBody(Exception):
    """A body that stalls, or ends before its time."""


class Refusal(ASGIResponse):
    """An answer to a body that was not read, or not to its end.

    A socket closed upon unread bytes is reset, and the client may lose the answer with it. So it is complete at once,
    and what still comes is read, and dropped, for a moment.
    """

    def __init__(self, status: int, reason: str) -> None:
        headers = ALWAYS | NEVER_KEPT | {"Connection": "close"}
        super().__init__(body=orjson.dumps({"error": reason}), status_code=status, headers=headers)

    async def send_body(self, send: Send, receive: Receive) -> None:
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@route("/{key:path}", http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False)
async def answer_preflight(request: Request[Any, Any, Any]) -> Response[None]:
    """Yes to any origin, for what there is: whether a PUT is allowed is for its signature to say."""
    headers = {
        "Access-Control-Allow-Headers": request.headers.get("access-control-request-headers", "*"),
        "Access-Control-Allow-Methods": "GET, HEAD, PUT",
        "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
    }
    return Response(None, headers=ALWAYS | headers)


async def receive_body(request: Request[Any, Any, Any], storage: LocalStorage, key: str) -> ASGIResponse:
    """Store the body as the URL's signature allows, and answer with its ETag. What is refused is not read."""
    length = request.headers.get("content-length")
    if length is None:
        return Refusal(411, "a PUT needs a Content-Length")
    try:
        etag = await _store(request, storage, key, length)
    except InvalidSignature as error:
        return Refusal(403, str(error))
    except (UploadNotFound, InvalidKey):
        return Refusal(404, "there is no such upload")
    except (BrokenBody, SizeMismatch) as error:
        return Refusal(400, str(error))
    except StorageUnavailable:
        return Refusal(503, "the storage is not available")
    return ASGIResponse(headers=ALWAYS | NEVER_KEPT | {"ETag": etag})


async def _store(request: Request[Any, Any, Any], storage: LocalStorage, key: str, length: str) -> str:
    content_type = request.headers.get("content-type", "")
    part = storage.signer.verify_put(
        key, request.query_params, length=length, content_type=content_type, now=datetime.now(UTC)
    )
    size = int(length)  # digits that we signed
    if part is None:
        return (await storage.receive(key, _body(request), size=size)).etag
    return (await storage.receive_part(key, part.upload_id, part.number, _body(request), size=size)).etag


async def _body(request: Request[Any, Any, Any]) -> AsyncGenerator[bytes, None]:
    """As it comes. Raises BrokenBody."""
    try:
        async for chunk in patient(request.stream(), BrokenBody):
            yield chunk
    except InternalServerException as error:  # Litestar's word for a client that hangs up
        raise BrokenBody("The connection ended before the body did.") from error
