"""The processing process: takes jobs by priority, as many at once as there are decoders."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.errors import RetryRequested
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from app import announcements, housekeeping, ingest, jobs, metrics, renewal, tracing, trash, worker_metrics
from app.housekeeping import TROUBLE
from app.ingest import TryAgain
from app.rendering import Sandboxes
from app.scratch import own_scratch
from app.settings import Settings
from app.wiring import Services, connect, open_services
from processing import pipeline
from processing.limits import MIB, Limits
from processing.sandbox import Sandbox

logger = logging.getLogger(__name__)

# A killed worker's jobs are taken up again when they have not been heard of for so long.
HEARTBEAT: Final = timedelta(seconds=4)
# Without a notification (a listener may die unheard) the queue is looked at as often as this. A new job is notified,
# and a finished one too: with all decoders busy, the place that has become free is filled at once.
LOOK_EVERY: Final = timedelta(seconds=2)
REBUILD_SECONDS: Final = 1.0
TROUBLE_RETRY: Final = timedelta(seconds=30)
FILM_BYTES: Final = 16 * 1024 * MIB  # the largest file made of a film: a day and a night in 1080p
FILM_NICENESS: Final = 10


async def run(settings: Settings, dsn: str, counted: Path | None = None) -> None:
    """Work until SIGTERM or SIGINT; what runs then is finished.

    `counted` is the folder of the metrics of the server that started it.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with (
        _traced(settings),
        open_services(settings, dsn=dsn) as services,
        _measured(settings, counted),
        announcements.announcing(services, lambda: connect(dsn)),
        _sandboxes(services) as sandboxes,
    ):
        logger.info("The worker is ready.")
        while not stopping.is_set():
            try:
                await _take_jobs(services, sandboxes, dsn, stopping)
            except* TROUBLE as errors:
                logger.warning("The queue's connection was lost and is built anew: %r", errors.exceptions)
            if not stopping.is_set():
                await asyncio.sleep(REBUILD_SECONDS)


@asynccontextmanager
async def _traced(settings: Settings) -> AsyncIterator[None]:
    with tracing.traced(settings.otlp_endpoint, settings.trace_ratio, "worker"):
        yield


@asynccontextmanager
async def _measured(settings: Settings, counted: Path | None) -> AsyncIterator[None]:
    """For the server, or by itself where somebody may ask it."""
    if counted is not None:
        with metrics.measured(counted, "worker"):
            yield
    elif settings.worker_metrics_port:
        with own_scratch(settings.metrics_dir) as own, metrics.measured(own, "worker"):
            async with worker_metrics.served(settings, own):
                yield
    else:
        yield


def decoders(settings: Settings) -> int:
    return settings.processes or os.cpu_count() or 1


@asynccontextmanager
async def _sandboxes(services: Services) -> AsyncIterator[Sandboxes]:
    """One for the streams of films alone: one at a time, since each uses all cores, and giving way to all else."""
    settings, scratch = services.settings, services.scratch
    seconds = settings.processing_timeout.total_seconds()
    limits = Limits(
        seconds=seconds,
        silent_seconds=seconds,
        memory_bytes=settings.processing_memory,
        pixels=settings.max_pixels,
    )
    of_films = replace(limits, seconds=settings.film_timeout.total_seconds(), output_bytes=FILM_BYTES)
    async with AsyncExitStack() as stack:
        quick = Sandbox(limits, decoders(settings), scratch=scratch)
        stack.push_async_callback(quick.close)
        streams = Sandbox(
            of_films,
            1,
            scratch=scratch,
            niceness=FILM_NICENESS,
            libraries=("processing.films",),
            producer=pipeline.stream,
        )
        stack.push_async_callback(streams.close)
        yield Sandboxes(quick, streams)


async def _take_jobs(services: Services, sandboxes: Sandboxes, dsn: str, stopping: asyncio.Event) -> None:
    """Until a connection is lost or `stopping` is set."""
    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(_connected(dsn)) for _ in range(3)]
        manager = _manager(services, sandboxes, connections[0])
        # Neither may hold up what people wait for: a film takes minutes, a check perhaps hours.
        aside = [_streamer(services, sandboxes, connections[1], over), _checker(services, connections[2], over)]
        async with asyncio.TaskGroup() as tasks:
            for each in aside:
                tasks.create_task(_run_aside(each))
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
                # Their jobs go back to the queue, and the next worker begins anew.
                over.set()
                for each in aside:
                    each.shutdown.set()


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


def _manager(services: Services, sandboxes: Sandboxes, connection: asyncpg.Connection) -> QueueManager:
    manager = QueueManager(Queries(AsyncpgDriver(connection)))

    @manager.entrypoint(jobs.INGEST, on_failure="hold")
    async def take_in(job: Job) -> None:
        with _worked_at(job, "A file"):
            media = _media(job)
            # The same job for what is new and for what is to be made anew: the media's own state tells which it is.
            if not await ingest.process(services, sandboxes, media):
                await renewal.process(services, sandboxes, media)

    @manager.entrypoint(jobs.ERASE, on_failure="hold")
    async def erase(job: Job) -> None:
        with _worked_at(job, "Erasing bytes"):
            await trash.erase(services.storage, **jobs.payload(job))

    return manager


def _streamer(
    services: Services, sandboxes: Sandboxes, connection: asyncpg.Connection, over: asyncio.Event
) -> QueueManager:
    """One for the streams of films, of which one is worked at and another waits, its attempt not begun."""
    manager = QueueManager(Queries(AsyncpgDriver(connection)))
    turn = asyncio.Semaphore()

    @manager.entrypoint(jobs.STREAM, on_failure="hold")
    async def stream(job: Job) -> None:
        async def work() -> None:
            async with turn:
                if not await ingest.stream(services, sandboxes, _media(job)):
                    await renewal.process(services, sandboxes, _media(job))

        with _worked_at(job, "A film"):
            if not await _unless(over, work()):
                raise TryAgain(timedelta(0))

    return manager


def _media(job: Job) -> UUID:
    return UUID(jobs.payload(job)["media"])


def _checker(services: Services, connection: asyncpg.Connection, over: asyncio.Event) -> QueueManager:
    """One for the storage's check alone."""
    manager = QueueManager(Queries(AsyncpgDriver(connection)))

    @manager.entrypoint(housekeeping.CHECK)  # if it should ever fail for good, housekeeping sees that there is another
    async def check(job: Job) -> None:
        delay = timedelta(0)

        async def work() -> None:
            nonlocal delay
            delay = await housekeeping.check_storage(services)

        with _worked_at(job, "The storage's check"):
            await _unless(over, work())
        raise RetryRequested(delay=delay)  # the same job again: so there is always one, and never two

    return manager


async def _run_aside(manager: QueueManager) -> None:
    await manager.run(
        dequeue_timeout=LOOK_EVERY,
        batch_size=1,
        max_concurrent_tasks=2,  # the least that a manager takes
        shutdown_on_listener_failure=True,
        heartbeat_timeout=HEARTBEAT,
        log_aggregation_interval=timedelta(0),  # the first one's
    )


async def _unless(over: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work was done; once `over` is set it is cancelled."""
    running, stop = asyncio.create_task(work), asyncio.create_task(over.wait())
    try:
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        return running.done()
    finally:
        running.cancel()
        stop.cancel()
        await asyncio.wait({running, stop})


@contextmanager
def _worked_at(job: Job, what: str) -> Iterator[None]:
    """Whatever goes wrong with a job, it stays in the queue: nobody would look for it elsewhere.

    What a file is to blame for is not wrong with the job: `ingest.process` counts, and ends that.
    """
    began, outcome = time.perf_counter(), "trouble"
    try:
        with tracing.job(job.entrypoint, jobs.trace(job)):
            yield
        outcome = "done"
    except TryAgain as again:
        outcome = "again"
        raise RetryRequested(delay=again.delay) from again
    except Exception as error:
        logger.exception("%s met trouble, and is tried again in %s", what, TROUBLE_RETRY)
        raise RetryRequested(delay=TROUBLE_RETRY) from error
    finally:
        metrics.job_ended(job.entrypoint, outcome, time.perf_counter() - began)


async def _shut_down(manager: QueueManager, stopping: asyncio.Event) -> None:
    await stopping.wait()
    manager.shutdown.set()
