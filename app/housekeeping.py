"""What a worker does beside its jobs: ends what has run out, tidies the queue, has the storage checked once a day."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.errors import PgqException
from pgqueuer.queries import Queries

from app import agreement, event_cursors, trash, upload_endings
from app.agreement import NO_FAULT, Report
from app.errors import Conflict
from app.wiring import UNFINISHED, Services, connect
from storage.base import StorageError
from storage.local import LocalStorage

logger = logging.getLogger(__name__)

TROUBLE: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, PgqException)

MINUTE: Final = timedelta(minutes=1)
TIDY_EVERY: Final = timedelta(minutes=10)
HELD_AT_ONCE: Final = 1000
# Finished jobs are kept for a look back; their counts, and sessions that are over, a little longer.
PRUNE: Final = """
    DELETE FROM session WHERE least(expires_at, ended_at) < now() - interval '30 days';
    DELETE FROM pgqueuer_log WHERE created < now() - interval '1 day';
    DELETE FROM pgqueuer_statistics WHERE created < now() - interval '7 days';
"""

CHECK: Final = "sweep"  # the daily check's job by the name that queues know, and what keeps it the only one
CHECK_EVERY: Final = timedelta(days=1)
CHECK_LATER: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Chore:
    """`work` may be done by several workers at once."""

    name: str
    every: timedelta
    work: Callable[[], Awaitable[object]]


async def keep_house(services: Services, dsn: str) -> None:
    """Until it is cancelled. Whatever goes wrong with one chore is in no other's way."""
    chores = (
        Chore("Uploads that have run out", MINUTE, lambda: upload_endings.sweep(services)),
        Chore("The trash", MINUTE, lambda: trash.purge_expired(services)),
        Chore("Events of long ago", TIDY_EVERY, lambda: _forget(services)),
        Chore("The queue", TIDY_EVERY, lambda: _tidy(dsn)),
        Chore("Files left unfinished", UNFINISHED, lambda: _clear_unfinished(services)),
    )
    async with asyncio.TaskGroup() as tasks:
        for chore in chores:
            tasks.create_task(_repeat(chore))


async def _repeat(chore: Chore) -> None:
    while True:
        try:
            await chore.work()
        except (*TROUBLE, StorageError) as error:
            logger.warning("%s could not be seen to, and will be later: %r", chore.name, error)
        except Exception:
            logger.exception("%s could not be seen to, and will be later", chore.name)
        await asyncio.sleep(chore.every.total_seconds())


async def _forget(services: Services) -> None:
    await event_cursors.delete_expired(services.settings.event_retention, services.clock())


async def _tidy(dsn: str) -> None:
    connection = await connect(dsn)
    try:
        await connection.execute(PRUNE)
        # Nothing of ours fails for good (see `worker`): what is held was so when the queue itself had trouble.
        queries = Queries(AsyncpgDriver(connection))
        held = await queries.list_failed_jobs(limit=HELD_AT_ONCE)
        await queries.requeue_jobs([job.id for job in held])
        # A day from now: whoever has just started may be about to put right what a check would find wrong.
        await queries.enqueue(CHECK, None, execute_after=CHECK_EVERY, dedupe_key=CHECK, on_conflict="skip")
    finally:
        await connection.close()


async def _clear_unfinished(services: Services) -> None:
    if isinstance(services.storage, LocalStorage):
        await services.storage.sweep(older_than=services.clock() - UNFINISHED)


async def check_storage(services: Services) -> timedelta:
    """The daily check, which mends what it finds unless that is too much to be true; when the next one is due."""
    try:
        report = await agreement.check(services, repair=True, now=services.clock())
    except Conflict as error:
        logger.error("The daily check of the storage mends nothing: %s", error)  # noqa: TRY400 - the sentence says all
        return CHECK_EVERY
    except StorageError as error:
        logger.warning("The storage could not be checked, and will be later: %s", error)
        return CHECK_LATER
    if told := _counts(report):
        logger.warning("The daily check of the storage: %s", told)
    return CHECK_EVERY


def _counts(report: Report) -> str:
    return "; ".join(
        f"{kind} {found.count}, mended {found.mended}"
        for kind, found in report.findings.items()
        if found.count and kind not in NO_FAULT
    )
