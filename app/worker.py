"""The processing process: takes jobs by priority, as many at once as there are decoders."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.errors import PgqException, RetryRequested
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from app import ingest, jobs, trash
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
HOUSEKEEPING_SECONDS: Final = 600
HELD_AT_ONCE: Final = 1000
CONNECTION_LOST: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, PgqException)
# Finished jobs are kept for a look back; their counts, and sessions that are over, a little longer.
PRUNE: Final = """
    DELETE FROM session WHERE least(expires_at, ended_at) < now() - interval '30 days';
    DELETE FROM pgqueuer_log WHERE created < now() - interval '1 day';
    DELETE FROM pgqueuer_statistics WHERE created < now() - interval '7 days';
"""


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
            except* CONNECTION_LOST as errors:
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
    connection = await connect(dsn)
    try:
        manager = _manager(services, sandbox, connection)
        async with asyncio.TaskGroup() as tasks:
            stop = tasks.create_task(_shut_down(manager, stopping))
            housekeeping = tasks.create_task(_keep_house(dsn))
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
                housekeeping.cancel()
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


async def _keep_house(dsn: str) -> None:
    while True:
        try:
            await _tidy(dsn)
        except CONNECTION_LOST as error:
            logger.warning("The queue could not be tidied, and will be later: %r", error)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _tidy(dsn: str) -> None:
    connection = await connect(dsn)
    try:
        await connection.execute(PRUNE)
        # Nothing of ours fails for good (see _trouble_passes): what is held was so when the queue itself had trouble.
        queries = Queries(AsyncpgDriver(connection))
        held = await queries.list_failed_jobs(limit=HELD_AT_ONCE)
        await queries.requeue_jobs([job.id for job in held])
    finally:
        await connection.close()
