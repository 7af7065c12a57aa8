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

from app import agreement, trash, upload_endings
from app.agreement import Kind, Report
from app.errors import Conflict
from app.wiring import UNFINISHED, Services, connect
from storage.base import StorageError
from storage.local import LocalStorage

logger = logging.getLogger(__name__)

CONNECTION_LOST: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, PgqException)

MINUTE: Final = timedelta(minutes=1)
TIDY_EVERY: Final = timedelta(minutes=10)
HELD_AT_ONCE: Final = 1000
# Finished jobs are kept for a look back; their counts, and sessions that are over, a little longer.
PRUNE: Final = """
    DELETE FROM session WHERE least(expires_at, ended_at) < now() - interval '30 days';
    DELETE FROM pgqueuer_log WHERE created < now() - interval '1 day';
    DELETE FROM pgqueuer_statistics WHERE created < now() - interval '7 days';
"""

SWEEP: Final = "sweep"  # the daily check's job, and what keeps it the only one
SWEEP_EVERY: Final = timedelta(days=1)
SWEEP_LATER: Final = timedelta(minutes=10)
# Beyond, the daily check mends nothing: a wrong bucket, or an old backup of the database, looks like this.
BRAKE_SHARE: Final = 0.1
BRAKE_ORPHANS: Final = 100  # which may be a tenth, of little


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
        except (*CONNECTION_LOST, StorageError) as error:
            logger.warning("%s could not be seen to, and will be later: %r", chore.name, error)
        except Exception:
            logger.exception("%s could not be seen to, and will be later", chore.name)
        await asyncio.sleep(chore.every.total_seconds())


async def _tidy(dsn: str) -> None:
    connection = await connect(dsn)
    try:
        await connection.execute(PRUNE)
        # Nothing of ours fails for good (see `worker`): what is held was so when the queue itself had trouble.
        queries = Queries(AsyncpgDriver(connection))
        held = await queries.list_failed_jobs(limit=HELD_AT_ONCE)
        await queries.requeue_jobs([job.id for job in held])
        # A day from now: whoever has just started may be about to put right what a check would find wrong.
        await queries.enqueue(SWEEP, None, execute_after=SWEEP_EVERY, dedupe_key=SWEEP, on_conflict="skip")
    finally:
        await connection.close()


async def _clear_unfinished(services: Services) -> None:
    if isinstance(services.storage, LocalStorage):
        await services.storage.sweep(older_than=services.clock() - UNFINISHED)


async def sweep(services: Services) -> timedelta:
    """The daily check, which mends what it finds unless that is too much to be true; when the next one is due."""
    now = services.clock()
    try:
        found = await agreement.check(services, repair=False, now=now)
        if suspicion := too_much(found):
            logger.error("The daily check of the storage mends nothing: %s", suspicion)
        elif found.faults:
            mended = await agreement.check(services, repair=True, now=now)
            logger.warning("The daily check of the storage: %s", _counts(mended))
    except (Conflict, StorageError) as error:
        logger.warning("The storage could not be checked, and will be later: %s", error)
        return SWEEP_LATER
    return SWEEP_EVERY


def too_much(report: Report) -> str | None:
    """Why nobody should mend this without having looked at it; None when it may be."""
    orphans, lost = report.findings[Kind.ORPHAN].count, report.findings[Kind.MISSING_ORIGINAL].count
    if orphans > max(BRAKE_ORPHANS, BRAKE_SHARE * report.objects):
        what = f"{orphans} of {report.objects} objects have no row."
    elif lost > BRAKE_SHARE * report.originals:
        what = f"{lost} of {report.originals} originals are not in the storage."
    else:
        return None
    return (
        f"{what} Is it the right bucket, and is the database no old backup? See `heirloom storage check`, and only "
        "when all is as it should be, run `heirloom storage check --repair`."
    )


def _counts(report: Report) -> str:
    told = [f"{kind} {found.count}, mended {found.mended}" for kind, found in report.findings.items() if found.count]
    return "; ".join(told)
