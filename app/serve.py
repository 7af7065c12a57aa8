"""`heirloom serve`: the API process, and on the laptop shape the worker beside it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn

from app import metrics, tracing
from app.children import running, tell_ready, worker
from app.cluster import listeners
from app.heads import BoundedHeads
from app.main import create_app
from app.migrate import migrate
from app.settings import Settings
from app.socket_frames import BoundedSocket
from app.wiring import Services, being_set_up, open_services

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 5  # for requests, and then sockets, when the server stops
COLLECTED_AFTER: Final = 50_000  # new objects; a page of a hundred media makes some 10,000, and few that are in circles
SOCKET_MESSAGE_BYTES: Final = 128 * 1024


async def serve(settings: Settings, dsn: str, counted: Path, *, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT. `counted` is the folder of the metrics."""
    async with _observed_services(settings, dsn, counted) as services, being_set_up(services.storage):
        await migrate()
        address = f"{settings.public_url}/graphiql/"
        beside = running(worker(counted)) if with_worker else None
        await _answer(services, partial(logger.info, "Heirloom is at %s", address), beside)


async def serve_beside(settings: Settings, dsn: str, counted: Path) -> None:
    """Serve as one of several processes, for which app.cluster has set up database and storage."""
    async with _observed_services(settings, dsn, counted) as services:
        await _answer(services, tell_ready, shared=True)


@asynccontextmanager
async def _observed_services(settings: Settings, dsn: str, counted: Path) -> AsyncIterator[Services]:
    with metrics.measured(counted, "api"), tracing.traced(settings.otlp_endpoint, settings.trace_ratio, "api"):
        async with open_services(settings, dsn=dsn) as services:
            yield services


async def _answer(
    services: Services,
    announce: Callable[[], None],
    beside: AbstractAsyncContextManager[None] | None = None,
    *,
    shared: bool = False,
) -> None:
    await services.hub.start()
    try:
        app = create_app(services)
        server = Server(_config(app), announce, stop_streams=app.state.streams.stop)
        async with beside or nullcontext():
            await server.run_until_stopped(listeners(services.settings, shared=shared))
    finally:
        await services.hub.stop()


class Server(uvicorn.Server):
    """Leaves the signals to us: uvicorn raises them again after its own shutdown, before ours."""

    def __init__(
        self, config: uvicorn.Config, announce: Callable[[], None], *, stop_streams: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self._stop_streams = stop_streams

    async def run_until_stopped(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _settle_memory()
        if self.started:
            self._announce()

    def _stop(self, number: int) -> None:
        self._stop_streams()  # it waits for answers, of which these would go on
        # SIGTERM may come twice: a service manager sends it to all processes, and the one above this sends it on.
        self.force_exit = self.force_exit or (self.should_exit and number == signal.SIGINT)
        self.should_exit = True


def _settle_memory() -> None:
    """What is there by now stays: the collector need not look at it again, nor stop a request for a page's worth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER)


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI application, as Litestar types it
        log_config=None,
        access_log=False,
        lifespan="on",
        proxy_headers=False,  # it would trust X-Forwarded-For from whoever is on this machine
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        http=BoundedHeads,
        ws=BoundedSocket,
        ws_max_size=SOCKET_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # half the memory of a socket, for messages of a few hundred bytes
    )
