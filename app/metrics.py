"""What Prometheus is told: counted in each process, and read for all of them together by whichever is asked.

The processes of one start share a folder of small mapped files, a set for each place ("api-0", "worker-0", …) that a
process holds by a lock as long as it lives. Whoever comes to a free place goes on with the counters of the one that
died there, so that no sum falls; what was open then is gone with it.

Until a process says `measured`, nothing is counted: the command line and most tests never do.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from app.calls import NAME_CHARACTERS

# Seconds. A statement takes tenths of a millisecond, a storage call or a resolver milliseconds, a film hours.
QUICK: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
CALLS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
JOBS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)

METRICS_PATH: Final = "/metrics"
OTHER: Final = "other"
# A file is as large from the start as it may become: to write to a mapped one for which the disk has no room ends a
# process (SIGBUS). All that there can be by these bounds takes half of it.
FILE_BYTES: Final = 1024 * 1024
ANONYMOUS: Final = "anonymous"  # an operation without a name
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})
VERBS: Final = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"}
)
# Names of operations are the client's choice. A process learns so many, of them so many from any one account.
MOST_NAMES: Final = 100
MOST_TRUSTED: Final = 200  # each takes some 2 KB of a file
MOST_NAMES_OF_A_USER: Final = 10


class Names:
    """Of operations that are told by name; the rest is "other".

    Those of trusted documents are always. Others are learnt from what somebody signed in has asked for with success,
    and never forgotten: so a stranger can bring none, and nobody can push out what is told already.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._learnt = 0
        self._brought: dict[UUID, int] = {}

    def trust(self, names: set[str]) -> None:
        self._known |= {*sorted(names)[:MOST_TRUSTED]}  # the same ones in each process

    def remember(self, names: Iterable[str]) -> None:
        """Learnt by the one before."""
        for name in {*names} - {ANONYMOUS, OTHER}:
            self._known.add(name)
            self._learnt += 1

    def label(self, name: str | None, user: UUID | None, *, succeeded: bool) -> str:
        if name is None:
            return ANONYMOUS
        if name in self._known or (succeeded and user is not None and self._learns(name, user)):
            return name
        return OTHER

    def _learns(self, name: str, user: UUID) -> bool:
        brought = self._brought.get(user, 0)
        if self._learnt >= MOST_NAMES or brought >= MOST_NAMES_OF_A_USER or len(name) > NAME_CHARACTERS:
            return False
        self._known.add(name)
        self._learnt += 1
        self._brought[user] = brought + 1
        return True


class Instruments:
    """Everything that a process counts, under `identity` in `folder`."""

    def __init__(self, folder: Path, identity: str) -> None:
        # Imported when it is used: the command line need not wait for it.
        from prometheus_client import Counter, Gauge, Histogram, values  # noqa: PLC0415

        self.folder = folder
        self.names = Names()
        self._files: dict[str, Any] = {}
        counter, histogram = partial(_metric, Counter), partial(_metric, Histogram)
        gauge = partial(_metric, Gauge, multiprocess_mode="livesum")

        # From now on, since those with labels make theirs when a label is first seen.
        self._stock, values.ValueClass = values.ValueClass, partial(_Value, self._files, folder, identity)
        self.operations = counter(
            "heirloom_operations", "GraphQL operations that have ended", "operation", "type", "outcome"
        )
        self.operation_seconds = histogram(
            "heirloom_operation_seconds", "Of queries and mutations", "operation", buckets=CALLS
        )
        self.resolver_seconds = histogram("heirloom_resolver_seconds", "Of fields of the root", "field", buckets=CALLS)
        self.responses = counter(
            "heirloom_http_responses", "HTTP answers, and sockets that have ended", "route", "method", "status"
        )
        self.rate_limited = counter("heirloom_rate_limited", "Refused since it was too often", "limit")
        self.subscriptions = gauge("heirloom_subscriptions_open", "Subscriptions that go on", "protocol")
        self.sockets = gauge("heirloom_sockets_open", "WebSockets that are open")
        self.streams = gauge("heirloom_streams_open", "Answers over HTTP that go on")
        self.sql_seconds = histogram("heirloom_sql_seconds", "Of statements by their first word", "verb", buckets=QUICK)
        self.pool_seconds = histogram(
            "heirloom_pool_wait_seconds", "Until a connection of the pool was free", buckets=QUICK
        )
        self.pool_refusals = counter("heirloom_pool_refusals", "No connection became free in time")
        self.jobs = counter("heirloom_jobs", "Tries at jobs that have ended", "entrypoint", "outcome")
        self.job_seconds = histogram("heirloom_job_seconds", "Of tries at jobs", "entrypoint", buckets=JOBS)
        self.media = counter("heirloom_media_processed", "Media whose processing ended", "kind", "outcome")
        self.storage = counter("heirloom_storage_calls", "Calls of the storage", "operation", "outcome")
        self.storage_seconds = histogram(
            "heirloom_storage_seconds", "Of calls of the storage", "operation", buckets=CALLS
        )
        self.events = counter("heirloom_events_read", "Events that hubs have read")
        self.deliveries = counter("heirloom_events_handed_out", "Events that hubs have handed to subscriptions")
        self.event_seconds = histogram(
            "heirloom_event_delay_seconds", "From an event's transaction to the hub's reading", buckets=CALLS
        )
        self.behind = gauge("heirloom_events_behind", "Events read that are still to be handed out")
        self.hubs = gauge("heirloom_hubs_listening", "Hubs that hear of events at this moment")
        self.names.remember(self._told_before())

    def _told_before(self) -> Iterator[str]:
        """The names of operations that whoever was here before has told."""
        for key, _, _ in self._files["counter"].read_all_values():
            _, _, labels, _ = orjson.loads(key)
            if "operation" in labels and "type" in labels:
                yield labels["operation"]

    def close(self) -> None:
        from prometheus_client import values  # noqa: PLC0415

        values.ValueClass = self._stock
        for file in self._files.values():
            file.close()


def _metric(kind: Any, name: str, doc: str, *labels: str, **options: Any) -> Any:
    """Where it has labels a function of their values, which remembers: to find a metric costs more than to count."""
    made = kind(name, doc, labels, registry=None, **options)
    return cache(made.labels) if labels else made


class _Value:
    """A number of a metric, in this process's file of its kind; prometheus_client's own is bound to the environment.

    One thread of a process writes it: the event loop's.
    """

    _multiprocess = True

    def __init__(  # noqa: PLR0917 - as prometheus_client calls it
        self,
        files: dict[str, Any],
        folder: Path,
        identity: str,
        kind: str,
        metric: str,
        name: str,
        labels: list[str],
        values: list[str],
        doc: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        from prometheus_client import mmap_dict  # noqa: PLC0415

        which = f"{kind}_{multiprocess_mode}" if kind == "gauge" else kind
        if which not in files:
            path = _whole(folder / f"{which}_{identity}.db")
            files[which] = mmap_dict.MmapedDict(str(path))  # type: ignore[no-untyped-call]
        self._file = files[which]
        self._key = mmap_dict.mmap_key(metric, name, labels, values, doc)
        self._value: float = self._file.read_value(self._key)[0]

    def inc(self, amount: float) -> None:
        self._value += amount
        self._file.write_value(self._key, self._value, 0.0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        self._value = value
        self._file.write_value(self._key, value, timestamp or 0.0)

    def get(self) -> float:
        return self._value


def _whole(path: Path) -> Path:
    """The file, made if there is none: whole at once, since others may be scraped at any moment."""
    if not path.exists():
        made = path.with_suffix(".new")
        made.write_bytes(bytes(FILE_BYTES))
        made.rename(path)
    return path


_instruments: Instruments | None = None


def instruments() -> Instruments | None:
    """Those of this process; None where nothing is counted."""
    return _instruments


@contextmanager
def measured(folder: Path, role: str) -> Iterator[None]:
    """This process counts, into `folder`, as long as the block lasts."""
    global _instruments  # noqa: PLW0603 - what is counted is the process's
    with _place(folder, role) as identity:
        _instruments = Instruments(folder, identity)
        try:
            yield
        finally:
            made, _instruments = _instruments, None
            made.close()


@contextmanager
def _place(folder: Path, role: str) -> Iterator[str]:
    for number in count():
        identity = f"{role}-{number}"
        held = os.open(folder / f"{identity}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            continue
        try:
            os.ftruncate(held, 0)
            os.write(held, str(os.getpid()).encode())
            for left in folder.glob(f"gauge_*_{identity}.db"):
                left.unlink()
            yield identity
        finally:
            os.close(held)
        return


def living(folder: Path) -> dict[str, int]:
    """The process ids of those that count now, by their places."""
    found = {}
    for path in sorted(folder.glob("*.lock")):
        held = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two scrapes at once aren't each other's process
        except BlockingIOError:
            with suppress(ValueError):  # it has the place, and has yet to write its id
                found[path.stem] = int(os.pread(held, 20, 0))
        finally:
            os.close(held)
    return found


def operation_ended(name: str | None, kind: str, user: UUID | None, *, outcome: str, seconds: float | None) -> None:
    """`outcome` is `ok`, `error` where a field failed, `refused` before execution, or `cancelled` by the client.

    `seconds` is None of a subscription, which may go on for days.
    """
    if (made := _instruments) is None:
        return
    label = made.names.label(name, user, succeeded=outcome == "ok")
    made.operations(label, kind, outcome).inc()
    if seconds is not None:
        made.operation_seconds(label).observe(seconds)


def resolved(field: str, seconds: float) -> None:
    if _instruments is not None:
        _instruments.resolver_seconds(field).observe(seconds)


def answered(route: str | None, method: str, status: int | None) -> None:
    """`route` None is none of ours; `status` None when the client was gone before there was one."""
    if _instruments is not None:
        told = method if method in METHODS else OTHER
        _instruments.responses(route or "", told, status or "").inc()


def rate_limited(limit: str) -> None:
    if _instruments is not None:
        _instruments.rate_limited(limit).inc()


@contextmanager
def subscription_open(protocol: str) -> Iterator[None]:
    if (made := _instruments) is None:
        yield
        return
    with made.subscriptions(protocol).track_inprogress():
        yield


@contextmanager
def stream_open() -> Iterator[None]:
    if (made := _instruments) is None:
        yield
        return
    with made.streams.track_inprogress():
        yield


def socket_opened() -> None:
    if _instruments is not None:
        _instruments.sockets.inc()


def socket_closed() -> None:
    if _instruments is not None:
        _instruments.sockets.dec()


def executed(verb: str, seconds: float) -> None:
    """A statement, by its first word."""
    if _instruments is not None:
        _instruments.sql_seconds(verb if verb in VERBS else OTHER).observe(seconds)


def connection_taken(seconds: float) -> None:
    if _instruments is not None:
        _instruments.pool_seconds.observe(seconds)


def connection_refused() -> None:
    if _instruments is not None:
        _instruments.pool_refusals.inc()


def job_ended(entrypoint: str, outcome: str, seconds: float) -> None:
    """`outcome` is `done`, `again` (it will be tried another time), or `trouble` (likewise, and nobody's plan)."""
    if _instruments is not None:
        _instruments.jobs(entrypoint, outcome).inc()
        _instruments.job_seconds(entrypoint).observe(seconds)


def media_processed(kind: str, outcome: str) -> None:
    """`outcome` is `READY`, or the code of its failure."""
    if _instruments is not None:
        _instruments.media(kind, outcome).inc()


def stored(operation: str, outcome: str, seconds: float) -> None:
    """A call of the storage; `outcome` is `ok`, or the class of what it raised."""
    if _instruments is not None:
        _instruments.storage(operation, outcome).inc()
        _instruments.storage_seconds(operation).observe(seconds)


def events_read(happened_at: list[float]) -> None:
    """Those that the hub has just read, by when their transactions began (seconds since 1970)."""
    if (made := _instruments) is None:
        return
    now = time.time()
    made.events.inc(len(happened_at))
    made.behind.set(len(happened_at))
    for moment in happened_at:
        made.event_seconds.observe(max(0.0, now - moment))


def event_handed_out(subscriptions: int) -> None:
    if _instruments is not None:
        _instruments.deliveries.inc(subscriptions)
        _instruments.behind.dec()


def hub_listens(listens: bool) -> None:
    if _instruments is not None:
        _instruments.hubs.set(int(listens))
