"""What a scrape is told, and who may scrape: for the API's `/metrics` and a worker's alike."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import asyncpg

from app import metrics
from app.db import PoolExhaustedError
from app.piccolo_conf import DB
from app.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import Metric

MEDIA_TYPE: Final = "text/plain; version=0.0.4"
QUEUE_SECONDS: Final = 5.0  # that what the queue was found to be is told again, to whomever: it costs a statement
QUEUE_TIMEOUT: Final = 3.0
MOST_COUNTED: Final = 100_000  # jobs, of which the count takes 20 ms
# By them a proxy says for whom it asks. One on this machine speaks for strangers.
FORWARDING: Final = (
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"cf-connecting-ip",
    b"true-client-ip",
)
# How many wait, and since when the longest could be worked at.
QUEUE: Final = f"""
    SELECT entrypoint, status::text, count(*), extract(epoch FROM max(now() - greatest(created, execute_after))) AS age
    FROM (SELECT entrypoint, status, created, execute_after FROM pgqueuer LIMIT {MOST_COUNTED}) AS jobs
    GROUP BY entrypoint, status
"""  # noqa: S608 - a number of ours


def may_read(settings: Settings, client: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whoever has the token. Where there is none: who asks on this machine, from it, for himself."""
    given = dict(headers)
    if settings.metrics_token is not None:
        wanted = f"Bearer {settings.metrics_token}".encode()
        return compare_digest(given.get(b"authorization", b""), wanted)
    forwarded = any(name in FORWARDING or name.startswith(b"x-forwarded") for name in given)
    # A proxy may say nothing of itself; but then it, too, is where clients reach the server. And a page of a site whose
    # name leads to this machine asks by that name.
    here = (client, urlsplit(settings.public_url).hostname or "", _host(given.get(b"host", b"")))
    return not forwarded and all(_is_here(each) for each in here)


def _host(header: bytes) -> str:
    try:
        return urlsplit(f"//{header.decode('ascii')}").hostname or ""
    except ValueError:
        return ""


def _is_here(name: str) -> bool:
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass
class Exposition:
    """Of all processes that share a folder."""

    folder: Path
    _queue: list[Mapping[str, Any]] = field(default_factory=list)
    _queue_at: float = float("-inf")
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def text(self) -> bytes:
        """In Prometheus' text format."""
        queue = await self._jobs()
        return await asyncio.to_thread(self._written, queue)

    def _written(self, queue: list[Mapping[str, Any]]) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

        registry = CollectorRegistry()
        registry.register(_Collected(self.folder, queue))
        return generate_latest(registry)

    async def _jobs(self) -> list[Mapping[str, Any]]:
        """As it was a moment ago at most; nothing while the database doesn't answer."""
        async with self._turn:
            if time.monotonic() > self._queue_at + QUEUE_SECONDS:
                try:
                    async with asyncio.timeout(QUEUE_TIMEOUT):
                        self._queue = await DB._run_in_pool(QUEUE)
                except (OSError, TimeoutError, PoolExhaustedError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    self._queue = []
                self._queue_at = time.monotonic()
            return self._queue


class _Collected:
    """A registry's collector: what the processes have counted, and what is found when it is asked for."""

    def __init__(self, folder: Path, queue: list[Mapping[str, Any]]) -> None:
        self._folder = folder
        self._queue_found = queue

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        living = metrics.living(self._folder)
        files = [str(path) for path in self._folder.glob("*.db") if _is_told(path, living)]
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        yield from _queue(self._queue_found)
        yield from _processes(living)


def _is_told(path: Path, living: Mapping[str, int]) -> bool:
    """What is open in a process is over with it; what it has counted is not."""
    kind, _, place = path.stem.rpartition("_")
    return place in living or not kind.startswith("gauge")


def _queue(rows: list[Mapping[str, Any]]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    depth = GaugeMetricFamily("heirloom_queue_jobs", "Jobs in the queue", labels=["entrypoint", "status"])
    age = GaugeMetricFamily(
        "heirloom_queue_oldest_seconds", "That the oldest job could have been worked at by now", labels=["entrypoint"]
    )
    for row in rows:
        depth.add_metric([row["entrypoint"], row["status"]], row["count"])
        if row["status"] == "queued":
            age.add_metric([row["entrypoint"]], max(0.0, float(row["age"])))
    yield from (depth, age)


def _processes(living: Mapping[str, int]) -> Iterator[Metric]:
    """As the kernel has them; where it doesn't tell (not Linux), nothing."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    memory = GaugeMetricFamily("process_resident_memory_bytes", "Memory in use", labels=["process"])
    cpu = CounterMetricFamily("process_cpu_seconds", "Time of processors used", labels=["process"])
    files = GaugeMetricFamily("process_open_fds", "Files and connections that are open", labels=["process"])
    for place, pid in living.items():
        of = Path("/proc") / str(pid)
        try:
            fields = (of / "stat").read_text().rpartition(")")[2].split()  # behind the name, which may hold anything
            opened = len(list((of / "fd").iterdir()))
        except OSError:
            continue
        memory.add_metric([place], int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
        cpu.add_metric([place], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        files.add_metric([place], opened)
    yield from (memory, cpu, files)
