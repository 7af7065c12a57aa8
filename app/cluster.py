"""`heirloom serve` with several API processes: this one sets everything up, and sees that they run.

Each of them listens at the port with a socket of its own (SO_REUSEPORT), among which the kernel deals connections out
evenly. Of a socket that they shared, one could take all of a burst, such as a proxy's connections, and the others none.
A socket goes with its process: from then on nothing is dealt to it, and what waited in it is cut off as the connections
are that the process had taken.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Final

from app.children import Program, keep_running, running, worker
from app.migrate import migrate
from app.settings import Settings, SettingsError
from app.wiring import being_set_up, open_database, open_storage

logger = logging.getLogger(__name__)

BACKLOG: Final = 2048  # connections that wait to be taken, as uvicorn has it
API_GRACE_SECONDS: Final = 15.0  # 5 for requests and sockets, 10 for statements that still run


async def serve_together(settings: Settings, dsn: str, metrics: Path, *, with_worker: bool) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status, which is that of an API process that couldn't start."""
    for listener in listeners(settings, shared=False):  # nobody else has the port: not even another one like this
        listener.close()
    async with open_database(dsn, connections=2):
        await migrate()
    async with open_storage(settings) as storage, being_set_up(storage):
        processes = ApiProcesses(metrics)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, processes.hear, number)
        status = await processes.start(1)  # alone at first: so what is wrong with the settings is said once
        if not processes.serving:
            return status
        async with running(worker(metrics)) if with_worker else nullcontext():
            status = await processes.start(settings.workers - 1)
            if processes.serving:
                logger.info("Heirloom is at %s/graphiql/", settings.public_url)
            await processes.ended()
        return status


def listeners(settings: Settings, *, shared: bool) -> list[socket.socket]:
    """Listening sockets, one for each address of the host; other processes may share its port. Raises SettingsError."""
    try:
        with ExitStack() as stack:
            found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            opened = [
                stack.enter_context(socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=shared))
                for family, _, _, _, address in found
            ]
            stack.pop_all()
            return opened
    except OSError as error:
        raise SettingsError(f"HEIRLOOM_HOST and HEIRLOOM_PORT: {error.strerror}.") from error


class ApiProcesses:
    """Those that answer at the same port."""

    def __init__(self, metrics: Path) -> None:
        self._program = Program("An API process", ("api", "--metrics", str(metrics)), API_GRACE_SECONDS, reports=True)
        self._kept: list[asyncio.Task[None]] = []
        self.serving = True

    async def start(self, number: int) -> int:
        """0 when so many more answer, or all have to stop. If one can't start: its exit status, and all stop."""
        if not self.serving:
            return 0
        loop = asyncio.get_running_loop()
        ready: list[asyncio.Future[int]] = [loop.create_future() for _ in range(number)]
        self._kept += [asyncio.create_task(keep_running(self._program, each)) for each in ready]
        if status := max(await asyncio.gather(*ready), default=0):
            self.stop()
        return status

    def hear(self, number: int) -> None:
        """A signal to stop: as with one process, a second Ctrl-C hurries, and a second SIGTERM does not."""
        if self.serving or number == signal.SIGINT:
            self.stop()

    def stop(self) -> None:
        """Have all finish what they are at; asked again, have them killed."""
        self.serving = False
        for each in self._kept:
            each.cancel()

    async def ended(self) -> None:
        await asyncio.gather(*self._kept, return_exceptions=True)
