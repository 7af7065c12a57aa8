"""The processing process: takes jobs by priority, as many at once as there are decoders."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.errors import RetryRequested
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from app import housekeeping, ingest, jobs, trash
from app.housekeeping import TROUBLE
from app.ingest import TryAgain
from app.settings import Settings
from app.wiring import Services, connect, open_services
from processing.sandbox import Limits, Sandbox

logger = logging.getLogger(__name__)

# A killed worker's jobs are taken up again when they have not been heard of for so long.
HEARTBEAT: Final = timedelta(seconds=4)
# Without a notification (a listener may die unheard) the queue is looked at as often as this. A new job is notified,
# and a finished one too: with all decoders busy, the place that has become free is filled at once.
LOOK_EVERY: Final = timedelta(seconds=2)
REBUILD_SECONDS: Final = 1.0
TROUBLE_RETRY: Final = timedelta(seconds=30)
# The storage's check comes once a day: whether it is due need not be asked as often.
CHECK_LOOK_EVERY: Final = timedelta(seconds=5)


async def run(settings: Settings, dsn: str) -> None:
    """Work until SIGTERM or SIGINT; what runs then is finished."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with open_services(settings, dsn=dsn) as services, _sandbox(settings) as sandbox:
        logger.info("The worker is ready.")
        while not stopping.is_set():
            try:
                await _take_jobs(services, sandbox, dsn, stopping)
            except* TROUBLE as errors:
                logger.warning("The queue's connection was lost and is built anew: %r", errors.exceptions)
            if not stopping.is_set():
                await asyncio.sleep(REBUILD_SECONDS)


def decoders(settings: Settings) -> int:
    return settings.processes or os.cpu_count() or 1


@asynccontextmanager
async def _sandbox(settings: Settings) -> AsyncIterator[Sandbox]:
    limits = Limits(
        seconds=settings.processing_timeout.total_seconds(),
        memory_bytes=settings.processing_memory,
        pixels=settings.max_pixels,
    )
    sandbox = Sandbox(limits, decoders(settings))
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def _take_jobs(services: Services, sandbox: Sandbox, dsn: str, stopping: asyncio.Event) -> None:
    """Until the connection is lost or `stopping` is set."""
    over = asyncio.Event()
    async with _connected(dsn) as connection, _connected(dsn) as another:
        manager = _manager(services, sandbox, connection)
        checker = _checker(services, another, over)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_check(checker))
            stop = tasks.create_task(_shut_down(manager, stopping))
            chores = tasks.create_task(housekeeping.keep_house(services, dsn))
            try:
                await manager.run(
                    dequeue_timeout=LOOK_EVERY,
                    batch_size=1,  # one at a time, so that an avatar need not wait for what was taken with it
                    max_concurrent_tasks=decoders(services.settings) + 1,  # one is fetched or stored meanwhile
                    shutdown_on_listener_failure=True,
                    heartbeat_timeout=HEARTBEAT,
                )
            finally:
                stop.cancel()
                chores.cancel()
                # Not cancelled: its job goes back to the queue, and the next worker begins anew.
                over.set()
                checker.shutdown.set()


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


def _manager(services: Services, sandbox: Sandbox, connection: asyncpg.Connection) -> QueueManager:
    manager = QueueManager(Queries(AsyncpgDriver(connection)))

    @manager.entrypoint(jobs.INGEST, on_failure="hold")
    async def take_in(job: Job) -> None:
        with _trouble_passes("A picture"):
            await ingest.process(services, sandbox, UUID(jobs.payload(job)["media"]))

    @manager.entrypoint(jobs.ERASE, on_failure="hold")
    async def erase(job: Job) -> None:
        with _trouble_passes("Erasing bytes"):
            await trash.erase(services.storage, **jobs.payload(job))

    return manager


def _checker(services: Services, connection: asyncpg.Connection, over: asyncio.Event) -> QueueManager:
    """One for the storage's check alone: that may take hours, in which it must not hold up what people wait for."""
    manager = QueueManager(Queries(AsyncpgDriver(connection)))

    @manager.entrypoint(housekeeping.CHECK)  # if it should ever fail for good, housekeeping sees that there is another
    async def check(_: Job) -> None:
        with _trouble_passes("The storage's check"):
            delay = await _unless(over, housekeeping.check_storage(services))
        raise RetryRequested(delay=delay)  # the same job again: so there is always one, and never two

    return manager


async def _check(checker: QueueManager) -> None:
    await checker.run(
        dequeue_timeout=CHECK_LOOK_EVERY,
        batch_size=1,
        max_concurrent_tasks=2,  # the least that a manager takes
        shutdown_on_listener_failure=True,
        heartbeat_timeout=HEARTBEAT,
        log_aggregation_interval=timedelta(0),  # the other one's
    )


async def _unless(over: asyncio.Event, work: Coroutine[Any, Any, timedelta]) -> timedelta:
    """What the work gives; once `over` is set it is cancelled, and gives none."""
    running, stop = asyncio.create_task(work), asyncio.create_task(over.wait())
    try:
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        return running.result() if running.done() else timedelta(0)
    finally:
        running.cancel()
        stop.cancel()
        await asyncio.wait({running, stop})


@contextmanager
def _trouble_passes(what: str) -> Iterator[None]:
    """Whatever goes wrong with a job, it stays in the queue: nobody would look for it elsewhere.

    What a file is to blame for is not wrong with the job: `ingest.process` counts, and ends that.
    """
    try:
        yield
    except TryAgain as again:
        raise RetryRequested(delay=again.delay) from again
    except Exception as error:
        logger.exception("%s met trouble, and is tried again in %s", what, TROUBLE_RETRY)
        raise RetryRequested(delay=TROUBLE_RETRY) from error


async def _shut_down(manager: QueueManager, stopping: asyncio.Event) -> None:
    await stopping.wait()
    manager.shutdown.set()
