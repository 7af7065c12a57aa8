"""`heirloom serve`: the API process, and on the laptop shape the worker and the database below it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn

from app.embedded import EmbeddedPostgres
from app.main import create_app
from app.migrate import migrate
from app.settings import Settings, SettingsError
from app.wiring import being_set_up, open_services
from processing.lifeline import die_with

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 5  # for requests, and then sockets, when the server stops
WORKER_GRACE_SECONDS: Final = 20.0  # for the pictures at hand
RESTART_SECONDS: Final = (0.2, 1.0, 5.0, 15.0)  # a worker that dies at once, again and again, is not hurried
LIVED_WELL_SECONDS: Final = 30.0
# Not `-m app.cli`: that would take whatever `app` the working folder has.
WORKER: Final = "import sys; sys.path.insert(0, sys.argv[1]); from app.cli import main; sys.exit(main(sys.argv[2:]))"
COLLECTED_AFTER: Final = 50_000  # new objects; a page of a hundred media makes some 10,000, and few that are in circles
SOCKET_MESSAGE_BYTES: Final = 1024 * 1024


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The address of the database; the embedded one runs as long as the block."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    server = EmbeddedPostgres(settings.data_dir, binaries=settings.pg_bin)
    try:
        yield server.start()
    finally:
        server.stop()


async def serve(settings: Settings, dsn: str, *, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with open_services(settings, dsn=dsn) as services, being_set_up(services.storage):
        await migrate()
        await services.hub.start()
        app = create_app(services)
        server = Server(_config(settings, app), settings.public_url, stop_streams=app.state.streams.stop)
        try:
            if with_worker:
                async with _worker():
                    await server.run_until_stopped()
            else:
                await server.run_until_stopped()
        finally:
            await services.hub.stop()


class Server(uvicorn.Server):
    """Leaves the signals to us: uvicorn raises them again after its own shutdown, before ours."""

    def __init__(self, config: uvicorn.Config, public_url: str, *, stop_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._public_url = public_url
        self._stop_streams = stop_streams

    async def run_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        await self._serve()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
            _settle_memory()
            if self.started:
                logger.info("Heirloom is at %s/graphiql/", self._public_url)
        except SystemExit as error:
            if isinstance(error.__context__, OSError):
                reason = error.__context__.strerror
                raise SettingsError(f"HEIRLOOM_HOST and HEIRLOOM_PORT: {reason}.") from error.__context__
            raise

    def _stop(self) -> None:
        self._stop_streams()  # it waits for answers, of which these would go on
        self.force_exit, self.should_exit = self.should_exit, True


def _settle_memory() -> None:
    """What is there by now stays: the collector need not look at it again, nor stop a request for a page's worth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER)


def _config(settings: Settings, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI application, as Litestar types it
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="on",
        proxy_headers=False,  # it would trust X-Forwarded-For from whoever is on this machine
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="websockets-sansio",
        ws_max_size=SOCKET_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # half the memory of a socket, for messages of a few hundred bytes
    )


@asynccontextmanager
async def _worker() -> AsyncIterator[None]:
    """A worker beside the server, started again whenever it dies."""
    supervision = asyncio.create_task(_supervise(), name="worker-supervision")
    try:
        yield
    finally:
        supervision.cancel()
        await asyncio.gather(supervision, return_exceptions=True)


async def _supervise() -> None:
    deaths = 0
    while True:
        began = time.monotonic()
        await _run_worker()
        deaths = 0 if time.monotonic() - began > LIVED_WELL_SECONDS else deaths
        delay = RESTART_SECONDS[min(deaths, len(RESTART_SECONDS) - 1)]
        logger.error("The worker has died; the next one starts in %.1f s.", delay)
        deaths += 1
        await asyncio.sleep(delay)


async def _run_worker() -> None:
    # A session of its own, so that Ctrl-C reaches it through us, after the server has stopped.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", WORKER, str(Path(__file__).parents[1]), "worker"),
        start_new_session=True,
        preexec_fn=partial(die_with, os.getpid()),
    )
    try:
        await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        try:
            async with asyncio.timeout(WORKER_GRACE_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        raise
