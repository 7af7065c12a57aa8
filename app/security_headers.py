"""What every answer tells a browser, errors and refusals included, unless its route says something else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app import calls

# Of an API: nothing of it is a page, and no page may frame or include it. The pages and the files have their own.
ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    # Not for `fetch` by an allowed origin, which CORS decides, but for <img> and <script> on other sites.
    (b"cross-origin-resource-policy", b"same-origin"),
    # Answers hold signed URLs, and what only their viewer may see.
    (b"cache-control", b"no-store"),
)
# A year. Without includeSubDomains: other hosts of the domain are not ours to decide for.
HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
STARTS: Final = {"http.response.start", "websocket.http.response.start"}


def secured(app: ASGIApp, *, https: bool) -> ASGIApp:
    """With the call's id, and with HSTS where clients are to come by https."""
    defaults = (*ALWAYS, HSTS) if https else ALWAYS

    async def with_headers(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] in STARTS:
                _add(cast(Any, message), defaults)
            elif message["type"] == "websocket.accept":
                _add(cast(Any, message), ())  # no page, nor anything that is kept
            await send(message)

        await app(scope, receive, send_with_headers)

    return with_headers


def _add(start: dict[str, Any], defaults: Iterable[tuple[bytes, bytes]]) -> None:
    headers = [*start.get("headers", ())]
    said = {name.lower() for name, _ in headers}
    headers += [each for each in defaults if each[0] not in said]
    if call := calls.current():
        headers.append((b"x-request-id", call.id.encode()))
    start["headers"] = headers
