"""Signed URLs of local storage, served: what S3 does by itself in the other shapes.

The signature is all the authority there is, so no cookie or token is looked at and any origin may read and write.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, Router, put, route
from litestar.background_tasks import BackgroundTask
from litestar.enums import HttpMethod, ScopeType
from litestar.params import FromPath
from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from app.file_headers import ALWAYS, NEVER_KEPT
from app.file_uploads import answer_preflight, receive_body
from storage.base import InvalidKey, InvalidSignature, ObjectNotFound, StorageUnavailable, StoredObject
from storage.disposition import content_disposition
from storage.local import LocalStorage
from storage.signing import SignedAccess

FILES_PATH = "/files"

# One range; a list of them falls through and gets the whole object, as RFC 9110 (14.2) allows.
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_ETAG = re.compile(r'(?:W/)?("[^"]*")')


class RangeNotSatisfiable(Exception):
    """A well-formed range of which the object holds not one byte."""


def file_routes(storage: LocalStorage) -> Router:
    """`/files/{key}` for the URLs that `storage` signs: GET and HEAD, PUT of an object or a part, and preflights."""

    @route("/{key:path}", http_method=[HttpMethod.GET, HttpMethod.HEAD], include_in_schema=False)
    async def serve_file(request: Request[Any, Any, Any], key: FromPath[str]) -> Response[Any]:
        now = datetime.now(UTC)
        key = key.removeprefix("/")
        try:
            # A URL signed for GET also answers HEAD, which tells less.
            access = storage.signer.verify("GET", key, request.query_params, now=now)
            stored = await storage.head(key)
        except InvalidSignature as error:
            return _refusal(403, str(error))
        except (ObjectNotFound, InvalidKey):
            return _refusal(404, "there is no such file")
        except StorageUnavailable:
            return _refusal(503, "the storage is not available")
        return _answer(request, storage, stored, access, now)

    # Litestar's limit is for bodies that are held in memory. The size here is the signed one.
    @put("/{key:path}", request_max_body_size=None, include_in_schema=False)
    async def receive_file(request: Request[Any, Any, Any], key: FromPath[str]) -> ASGIResponse:
        return await receive_body(request, storage, key.removeprefix("/"))

    # Preflights first: the others would come with Litestar's own answer to OPTIONS, which then stays.
    return Router(FILES_PATH, route_handlers=[answer_preflight, serve_file, receive_file])


def for_any_origin(app: ASGIApp) -> ASGIApp:
    """`app` without its CORS settings for files, whose routes answer any origin themselves: those are the API's."""

    async def without_origin(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["path"].startswith(f"{FILES_PATH}/"):
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"origin"]
        await app(scope, receive, send)

    return without_origin


def _answer(
    request: Request[Any, Any, Any], storage: LocalStorage, stored: StoredObject, access: SignedAccess, now: datetime
) -> Response[Any]:
    conditions = request.headers
    headers = _headers(stored, access, now)
    if _unchanged(conditions.get("if-none-match"), stored.etag):
        return Response(None, status_code=304, headers=headers)
    wanted = conditions.get("range") if request.method == "GET" and _range_applies(conditions, stored.etag) else None
    try:
        span = parse_range(wanted, stored.size)
    except RangeNotSatisfiable:
        return _refusal(416, "the range lies outside the file", {"Content-Range": f"bytes */{stored.size}"})
    start, end = span or (0, stored.size)
    headers |= {"Content-Length": str(end - start)}
    if span:
        headers |= {"Content-Range": f"bytes {start}-{end - 1}/{stored.size}"}
    if request.method == "HEAD":
        return Response(b"", headers=headers, media_type=stored.content_type)
    chunks = storage.open(stored.key, start=start, end=end)
    return Stream(
        chunks,
        status_code=206 if span else 200,
        headers=headers,
        media_type=stored.content_type,
        # Runs when the client has gone away, too: the file is then closed at once, not at some garbage collection.
        background=BackgroundTask(chunks.aclose),
    )


def _headers(stored: StoredObject, access: SignedAccess, now: datetime) -> dict[str, str]:
    seconds_left = max(0, access.expires - int(now.timestamp()))
    return ALWAYS | {
        "Accept-Ranges": "bytes",
        "Cache-Control": f"private, max-age={seconds_left}, immutable",
        "Content-Disposition": content_disposition(access.disposition, access.filename),
        "ETag": stored.etag,
    }


def _refusal(status: int, reason: str, extra: dict[str, str] | None = None) -> Response[Any]:
    headers = ALWAYS | NEVER_KEPT | (extra or {})
    return Response({"error": reason}, status_code=status, headers=headers)


def _unchanged(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110, 13.1.2: the weak comparison, against a list or `*`."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)


def _range_applies(conditions: Mapping[str, str], etag: str) -> bool:
    """RFC 9110, 13.1.5: the strong comparison. We send no Last-Modified, so a date cannot match either."""
    if_range = conditions.get("if-range")
    return if_range is None or if_range.strip() == etag


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last, of an object of `size` bytes; None when all of it is to be sent.

    RFC 9110, 14.1.2. Malformed and multiple ranges count as none. Raises RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable
    return start, end
