"""`/metrics` of a worker that runs by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.exposition import MEDIA_TYPE, Exposition, may_read
from app.metrics import METRICS_PATH
from app.settings import Settings, SettingsError

Send = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def served(settings: Settings, folder: Path) -> AsyncIterator[None]:
    """On its port. Raises SettingsError."""
    # Few workers need them.
    import uvicorn  # noqa: PLC0415

    from app.heads import BoundedHeads  # noqa: PLC0415

    try:
        listener = socket.create_server((settings.host, settings.worker_metrics_port), family=_family(settings.host))
    except OSError as error:
        raise SettingsError(f"HEIRLOOM_WORKER_METRICS_PORT: {error.strerror}.") from error
    app = _application(settings, Exposition(folder))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedHeads,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server._serve([listener]), name="worker-metrics")  # `serve` would take the signals
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _application(settings: Settings, exposition: Exposition) -> Any:
    async def answer(scope: dict[str, Any], _: object, send: Send) -> None:
        client = scope["client"][0] if scope.get("client") else ""
        asked = scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", METRICS_PATH)
        if asked and may_read(settings, client, scope["headers"]):
            await _send(send, 200, await exposition.text())
        elif scope["type"] == "http":
            await _send(send, 404, b"")
        else:
            await send({"type": "websocket.close"})

    return answer


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", f"{MEDIA_TYPE}; charset=utf-8".encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
