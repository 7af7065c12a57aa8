"""`make bench`: measures what is promised, on a server that is started as users start it.

`make bench ARGS="upload memory"` selects. Exit status 1 when a target is missed: the machine may have been busy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from tests.bench import (
    agreement,
    attacks,
    batch,
    direct,
    events,
    films,
    growth,
    library,
    memory,
    rendering,
    similar,
    start,
    statements,
    subscriptions,
    upload,
)
from tests.bench.report import HEADER, Figure, line

MEASUREMENTS: dict[str, Callable[[Path], Awaitable[list[Figure]]]] = {
    "upload": upload.measure,
    "batch": batch.measure,
    "rendering": rendering.measure,
    "films": films.measure,
    "memory": memory.measure,
    "direct": direct.measure,
    "start": start.measure,
    "statements": statements.measure,
    "library": library.measure,
    "growth": growth.measure,
    "similar": similar.measure,
    "events": events.measure,
    "subscriptions": subscriptions.measure,
    "attacks": attacks.measure,
    "agreement": agreement.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench", description="Measure speed and memory.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; all unless named")
    names: list[str] = parser.parse_args().names or list(MEASUREMENTS)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(MEASUREMENTS)}")
    _tell(f"{os.cpu_count()} cores\n{HEADER}")
    met = [_measured(name) for name in names]
    return 0 if all(met) else 1


def _measured(name: str) -> bool:
    """Each on a server and a data folder of its own, so that none is the worse for the one before."""
    # Whoever else is at work on the same cores makes the figures worse: the load tells of it.
    _tell(f"{name}, at a load of {os.getloadavg()[0]:.1f}: {sys.modules[MEASUREMENTS[name].__module__].__doc__}")
    with (
        tempfile.TemporaryDirectory(prefix="heirloom-bench-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures = runner.run(_run(name, Path(folder)))
    for figure in figures:
        _tell(line(figure))
    _tell("")
    return all(figure.met for figure in figures)


async def _run(name: str, folder: Path) -> list[Figure]:
    return await MEASUREMENTS[name](folder)


def _tell(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line speaks to people


if __name__ == "__main__":
    sys.exit(main())
