"""Child processes: `heirloom` itself, which ends with the process that started it, and starts again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Final

from processing.lifeline import die_with

logger = logging.getLogger(__name__)

RESTART_SECONDS: Final = (0.2, 1.0, 5.0, 15.0)  # a child that dies at once, again and again, is not hurried
LIVED_WELL_SECONDS: Final = 30.0
# Not `-m app.cli`: that would take whatever `app` the working folder has.
HEIRLOOM: Final = "import sys; sys.path.insert(0, sys.argv[1]); from app.cli import main; sys.exit(main(sys.argv[2:]))"
READY: Final = b"ready\n"


@dataclass(frozen=True, slots=True)
class Program:
    """`heirloom` with these arguments. With `reports` it is to say when it is ready: `tell_ready`."""

    name: str  # at the beginning of a sentence
    arguments: tuple[str, ...]
    grace: float  # seconds that it is given to finish, when it has to end
    reports: bool = False


def worker(metrics: Path) -> Program:
    """One that counts into this folder."""
    return Program("The worker", ("worker", "--metrics", str(metrics)), grace=20.0)  # for the pictures at hand


def tell_ready() -> None:
    """To the process that started this one. What is written to standard output from now on goes where errors go."""
    os.write(sys.stdout.fileno(), READY)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


@asynccontextmanager
async def running(program: Program) -> AsyncIterator[None]:
    """Beside what is in the block, started again whenever it dies."""
    ready = asyncio.get_running_loop().create_future()
    ready.set_result(0)  # nobody waits for it: it is started again even if it never was ready
    keeping = asyncio.create_task(keep_running(program, ready), name=f"{program.name} is kept running")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def keep_running(program: Program, ready: asyncio.Future[int]) -> None:
    """Until cancelled, which lets it finish; cancelled again, it is killed.

    `ready` becomes 0 when it is, for the first time. One that ends before isn't started again: then it is the exit
    status, which is never 0.
    """
    deaths = 0
    try:
        while True:
            began = time.monotonic()
            try:
                status = await _run(program, ready)
            except OSError as error:  # no memory, or too many processes: for now
                logger.error("%s can't be started: %s", program.name, error)  # noqa: TRY400 - it says all
                status = 1
            if not ready.done():
                ready.set_result(max(status, 0) or 1)  # negative is a signal's number
                return
            deaths = 0 if time.monotonic() - began > LIVED_WELL_SECONDS else deaths
            delay = RESTART_SECONDS[min(deaths, len(RESTART_SECONDS) - 1)]
            logger.error("%s has died; the next one starts in %.1f s.", program.name, delay)
            deaths += 1
            await asyncio.sleep(delay)
    finally:
        if not ready.done():
            ready.set_result(0)


async def _run(program: Program, ready: asyncio.Future[int]) -> int:
    """One life of it: the exit status."""
    # A session of its own, so that Ctrl-C reaches it through us, and in our order.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", HEIRLOOM, str(Path(__file__).parents[1]), *program.arguments),
        stdout=PIPE if program.reports else None,
        start_new_session=True,
        preexec_fn=partial(die_with, os.getpid()),
    )
    try:
        if (process.stdout is None or await process.stdout.readline() == READY) and not ready.done():
            ready.set_result(0)
        return await process.wait()
    except asyncio.CancelledError:
        await _end(process, program.grace)
        raise


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
