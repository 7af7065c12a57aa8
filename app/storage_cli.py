"""`heirloom storage`: sets the storage up, and compares it with the database."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Final

from app import agreement
from app.agreement import NO_FAULT, Finding, Kind, Report
from app.migrate import require_current
from app.settings import Settings
from app.wiring import open_services, open_storage
from storage.base import SetUp

PROGRESS_SECONDS: Final = (0.2, 5.0)  # in place on a terminal; otherwise a line each time

# What it is, and what mending makes of it.
WORDS: Final = {
    Kind.ORPHAN: ("objects without a row", "deleted"),
    Kind.MISSING_ORIGINAL: ("originals that are gone", "marked as lost"),
    Kind.MISSING_VARIANT: ("variants that are gone", "made anew"),
    Kind.LOST_VARIANT: ("variants that are gone with their originals", "dropped"),
    Kind.WRONG_SIZE: ("objects of another size than their rows say", ""),
    Kind.FOUND_AGAIN: ("lost originals that are there again", "taken up again"),
    Kind.STALE_UPLOAD: ("uploads in parts that nobody can complete", "aborted"),
    Kind.RECENT: ("objects without a row that are too young to judge", ""),
    Kind.ELSEWHERE: ("rows whose bytes are in another kind of storage", ""),
}


async def init(settings: Settings) -> int:
    """Set up what may be, and print each step; 1 when something was refused."""
    async with open_storage(settings) as storage:
        steps = await storage.set_up()
    for step in steps:
        _tell(f"{step.name}: {step.outcome}{f': {step.detail}' if step.detail else ''}")
    return int(any(step.outcome is SetUp.REFUSED for step in steps))


async def check(settings: Settings, dsn: str, *, repair: bool, force: bool, dry_run: bool, as_json: bool) -> int:
    """Print how storage and database disagree; 1 when they still do, or when something was lost.

    What it does not mend it leaves as it is: neither the storage nor the database is set up. Raises MigrationError.
    """
    progress = ProgressLine("{:,} objects compared …")
    async with open_services(settings, dsn=dsn) as services:
        await require_current()
        try:
            report = await agreement.check(
                services, repair=repair and not dry_run, force=force, now=services.clock(), progress=progress.show
            )
        finally:
            progress.end()
    if as_json:
        _tell(json.dumps(report.as_json(), indent=2))
    else:
        _print(report, would_mend=repair and dry_run)
    return int(report.faults > 0)


@dataclass(slots=True)
class ProgressLine:
    """How many of something are done, on standard error. `text` has the place for the number."""

    text: str
    in_place: bool = field(default_factory=sys.stderr.isatty)
    shown_at: float = field(default_factory=time.monotonic)
    is_shown: bool = False

    def show(self, number: int) -> None:
        now = time.monotonic()
        if now - self.shown_at < PROGRESS_SECONDS[0 if self.in_place else 1]:
            return
        self.shown_at, self.is_shown = now, True
        text = self.text.format(number)
        sys.stderr.write(f"\r{text}" if self.in_place else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self.in_place and self.is_shown:
            sys.stderr.write("\r\x1b[K")  # the line is the report's now


def _print(report: Report, *, would_mend: bool) -> None:
    _tell(f"{report.objects:,} objects, and {report.originals:,} originals that should be among them.")
    for kind, found in report.findings.items():
        if found.count:
            _tell(_line(kind, found, report, would_mend=would_mend))
            _print_examples(found)
    if report.faults:
        _tell(f"{'Lost, or still wrong' if report.repair else 'Wrong'}: {report.faults:,}.")
    elif any(found.mended for found in report.findings.values()):
        _tell("All was mended.")
    else:
        _tell("All agrees.")


def _line(kind: Kind, found: Finding, report: Report, *, would_mend: bool) -> str:
    what, mended = WORDS[kind]
    line = f"{what}: {found.count:,}"
    if kind in NO_FAULT:
        return f"{line} (no fault)"
    if would_mend:
        return f"{line}, would be {mended}" if mended else f"{line}, would stay so"
    return f"{line}, {found.mended:,} {mended}" if report.repair and mended else line


def _print_examples(found: Finding) -> None:
    for example in found.examples:
        _tell(f"    {example.key}{f'  ({example.id})' if example.id else ''}")
    if more := found.count - len(found.examples):
        _tell(f"    and {more:,} more")


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
