"""One line a request, and one a socket when it ends: who asked for what, and what came of it.

Nothing secret: no body, no header, and of the path only its route, since the paths and query strings of files are what
gives access to them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app import calls, metrics
from app.metrics import METRICS_PATH

logger = logging.getLogger(__name__)

SOCKET: Final = "WEBSOCKET"
UNSEEN: Final = ("/health", METRICS_PATH)  # asked for every few seconds by whoever watches over the process
ACCEPTED: Final = 101


@dataclass(slots=True)
class Answer:
    """`status` stays None when the client was gone before there was one."""

    status: int | None = None
    size: int = 0

    def note(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
            case "http.response.body" | "websocket.http.response.body":
                self.size += len(message.get("body", b""))
            case "websocket.accept":
                self.status = ACCEPTED
                metrics.socket_opened()
            case "websocket.close" if self.status is None:
                self.status = 403  # what the server makes of it
            case "websocket.send":
                self.size += len(message.get("text") or message.get("bytes") or "")


def logged(app: ASGIApp) -> ASGIApp:
    async def with_log(scope: Scope, receive: Receive, send: Send) -> None:
        answer, began = Answer(), time.perf_counter()

        async def noted_send(message: Message) -> None:
            answer.note(message)
            await send(message)

        try:
            await app(scope, receive, noted_send)
        finally:
            if answer.status == ACCEPTED:
                metrics.socket_closed()
            metrics.answered(route_of(scope), str(scope.get("method", SOCKET)), answer.status)
            _tell(scope, answer, time.perf_counter() - began)

    return with_log


def _tell(scope: Scope, answer: Answer, seconds: float) -> None:
    level = _level(scope, answer.status)
    if not logger.isEnabledFor(level):
        return
    method = scope.get("method", SOCKET)
    route = route_of(scope)
    fields: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": answer.status,
        "ms": round(seconds * 1000, 1),
        "bytes": answer.size,
    }
    call = calls.current()
    if call:
        fields["client"] = call.address
        if call.user:
            fields["user"] = str(call.user)
        if call.operations:
            fields["operation"] = " ".join(call.operations)
    # Not `log`, which looks for the line that called it: a hundredth of the time of a small request.
    message = f"{method} {route or '-'} {answer.status or '-'}"
    logger.handle(logger.makeRecord(logger.name, level, "", 0, message, (), None, extra={"fields": fields}))


def route_of(scope: Scope) -> str | None:
    """None: there is no such route."""
    return scope.get("path_template") or None


def _level(scope: Scope, status: int | None) -> int:
    if status is not None and status >= 500:
        return logging.WARNING
    return logging.DEBUG if scope["path"].startswith(UNSEEN) else logging.INFO
