"""`heirloom rerender`: has variants made anew after a change of their specs, and watches."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from app import renewal
from app.migrate import require_current
from app.settings import Settings
from app.storage_cli import ProgressLine
from app.wiring import open_database

LOOK_EVERY: Final = 1.0  # seconds


async def rerender(_: Settings, dsn: str, *, wait: bool) -> int:
    """Enqueue all that is out of date, and show how it gets less until there is none. Raises MigrationError."""
    async with open_database(dsn, connections=2):
        await require_current()
        enqueued = await renewal.enqueue()
        _tell(f"{enqueued:,} to render anew, after all that is uploaded meanwhile.")
        if wait:
            await _watch(enqueued)
    return 0


async def _watch(enqueued: int) -> None:
    # What can't be rendered anew counts as done as well: it keeps what it has.
    progress = ProgressLine(f"{{:,}} of {enqueued:,} done …")
    try:
        while left := await renewal.count():
            progress.show(max(0, enqueued - left))
            await asyncio.sleep(LOOK_EVERY)
    finally:
        progress.end()
    _tell("All is up to date.")


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
