"""What a large upload costs the API process in memory."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.material import MIB, film
from tests.bench.report import Figure
from tests.bench.sending import send_one
from tests.client import register
from tests.pictures import photograph
from tests.server import running

RUNS = 3
UPLOAD_BYTES = 200 * MIB
TARGET_MIB = 16.0
SAMPLE_SECONDS = 0.003
RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: sets VmHWM to what is resident now


async def measure(folder: Path) -> list[Figure]:
    if sys.platform != "linux":
        return []  # nowhere else is there /proc
    peaks, kept = [], []
    with running(folder, None) as server:
        async with register(server.url, "Ada") as ada:
            await send_one(ada, _small_picture(folder))  # what the first request loads and allocates stays
            for _ in range(RUNS):
                large = film(folder, UPLOAD_BYTES)
                process = Process(server.process.pid)
                before = process.resident()
                with process.peak() as peak:
                    await send_one(ada, large)
                peaks.append(max(peak) - before)
                kept.append(process.resident() - before)
                large.unlink()
    return [
        Figure(f"growth of RSS, {UPLOAD_BYTES // MIB} MiB: at its peak", peaks, "MiB", TARGET_MIB),
        Figure("growth of RSS: afterwards", kept, "MiB"),
    ]


def _small_picture(folder: Path) -> Path:
    path = folder / "small.jpg"
    path.write_bytes(photograph())
    return path


class Process:
    """Memory of a process, in MiB."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def resident(self) -> float:
        return self._status("VmRSS")

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Every value seen within the block: samples, and the kernel's own peak where it may be reset."""
        seen = [self.resident()]
        over = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(seen, over))
        reset = False
        with suppress(OSError):
            (self._folder / "clear_refs").write_text(RESET_PEAK)
            reset = self._status("VmHWM") < seen[0] + 1
        sampler.start()
        try:
            yield seen
        finally:
            over.set()
            sampler.join()
            if reset:
                seen.append(self._status("VmHWM"))

    def _sample(self, seen: list[float], over: threading.Event) -> None:
        while not over.is_set():
            seen.append(self.resident())
            time.sleep(SAMPLE_SECONDS)

    def _status(self, name: str) -> float:
        found = re.search(rf"^{name}:\s+(\d+) kB$", (self._folder / "status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024
