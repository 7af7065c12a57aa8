"""The span around a request: outermost, so that a trace is there for every line of the log that belongs to it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app import calls, tracing
from app.access_log import UNSEEN, route_of
from app.settings import Settings

HEADER: Final = tracing.HEADER.encode()


def traced(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Sockets have no span of their own, but each of their operations."""
    if settings.otlp_endpoint is None:
        return app
    gateways = tuple(ip_network(each) for each in settings.trace_callers)

    async def with_span(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["path"].startswith(UNSEEN):
            await app(scope, receive, send)
            return
        client = scope.get("client")
        parent = _parent(scope["headers"]) if client and _is_among(client[0], gateways) else None
        status: int | None = None

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.request(scope["method"], parent) as span:
            try:
                await app(scope, receive, noted_send)
            finally:
                if span:
                    call = calls.current()
                    span.answered(scope["method"], route_of(scope), status, call.id if call else None)

    return with_span


def _parent(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    given = [value for name, value in headers if name == HEADER]
    return given[0].decode("latin-1") if len(given) == 1 else None


def _is_among(address: str, networks: Iterable[object]) -> bool:
    """The connection's own end, whatever it says of whom it speaks for."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)  # type: ignore[operator]
