"""The second start, on a data folder that is there: until /health/ready answers."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

from tests.bench.report import Figure, seconds
from tests.server import command, environment, free_port, spawned, wait_until_ready

RUNS = 3
TARGET_SECONDS = 3.0
CHECKOUT = Path(__file__).parents[2]


async def measure(folder: Path) -> list[Figure]:
    return await asyncio.to_thread(_measure, folder)


def _measure(folder: Path) -> list[Figure]:
    first = _start(command("serve"), folder)
    serve = [_start(command("serve"), folder) for _ in range(RUNS)]
    subprocess.run(["make", "--silent", "pages"], cwd=CHECKOUT, check=True)  # whatever set-up there is left to do
    make = [_start(["make", "run"], folder) for _ in range(RUNS)]
    return [
        seconds("heirloom serve, again", serve, TARGET_SECONDS),
        seconds("make run, again", make, TARGET_SECONDS),
        seconds("heirloom serve, the first time", [first]),
    ]


def _start(arguments: list[str], folder: Path) -> float:
    port = free_port()
    log = folder / "serve.log"
    began = time.monotonic()
    with spawned(arguments, environment(folder / "data", port=port), log, cwd=CHECKOUT) as process:
        wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        return time.monotonic() - began
