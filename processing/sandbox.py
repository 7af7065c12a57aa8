"""Runs processing in child processes that may be killed, crash, or run out of memory, and hurt nothing else."""

import asyncio
import ctypes
import multiprocessing
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessPool
from pebble.common.types import CONSTS

from processing import images
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.lifeline import die_with
from processing.limits import MIB, Limits
from processing.variants import Facts, Rendered, VariantSpec

__all__ = ["Limits", "Sandbox"]

P = ParamSpec("P")
T = TypeVar("T")

_FILE_BYTES: Final = 256 * MIB  # the largest file that a child may write; a variant picture has less than 1 MiB
_OPEN_FILES: Final = 64  # a child has a dozen
_NICENESS: Final = 5  # requests and the database go before pictures
_M_TRIM_THRESHOLD: Final = -1  # glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 64 * MIB
_BLOCK_BYTES: Final = 32 * MIB  # the most that glibc takes; Pillow allocates pixels by 16 MiB

# Seconds that pebble gives a child between SIGTERM and SIGKILL, during which no other child can take or deliver work.
# Ours ignore the one, so it sends the other at once.
CONSTS.term_timeout = 0


class Sandbox:
    """A pool of child processes, each working on one file at a time.

    They start at once, so that imports are paid for before the first file comes. Construct it on a thread that lives
    as long as it does (the event loop's): on Linux a child dies with the thread that started it.
    """

    def __init__(self, limits: Limits, processes: int | None = None) -> None:
        self._limits = limits
        self._processes = processes or os.cpu_count() or 1
        self._running: set[asyncio.Future[Any]] = set()
        self._closed = False
        self._pool = self._start()

    async def analyze(self, source: Path, type: FileType) -> Facts:  # noqa: A002
        """As images.analyze. Raises ProcessingFailed with TIMEOUT and CRASHED besides."""
        return await self.run(images.analyze, source, type, self._limits)

    async def render(
        self,
        source: Path,
        type: FileType,  # noqa: A002
        into: Path,
        specs: Sequence[VariantSpec],
    ) -> list[Rendered]:
        """As images.render. Raises ProcessingFailed with TIMEOUT and CRASHED besides; `into` may hold pieces then."""
        return await self.run(images.render, source, type, into, specs, self._limits)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in a child. It must be importable, and its arguments, result and errors picklable.

        Raises ProcessingFailed TIMEOUT or CRASHED, else what the function raises. Waiting for a free child doesn't
        count as time. Cancelling ends the child that is at it.
        """
        try:
            return await self._call(function, *args, **kwargs)
        except BrokenProcessPool:
            # pebble gives the pool up, with all that waits in it, when a child dies that has no work. Once more, then.
            with _crashing(BrokenProcessPool):
                return await self._call(function, *args, **kwargs)

    async def close(self) -> None:
        """Ends the children, and cancels whatever still waits for them."""
        self._closed = True
        for future in tuple(self._running):  # pebble forgets them: they would be awaited for ever
            future.cancel()
        await asyncio.to_thread(_stop, self._pool)

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        pool = await self._working_pool()
        future = asyncio.wrap_future(pool.schedule(function, args, kwargs, timeout=self._limits.seconds))
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        try:
            with _crashing(ProcessExpired):
                return await future
        except TimeoutError as error:
            raise ProcessingFailed(FailureCode.TIMEOUT, "Processing took too long.") from error

    async def _working_pool(self) -> ProcessPool:
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        if not self._pool.active:
            broken, self._pool = self._pool, self._start()  # before any await: of two callers, one replaces it
            await asyncio.to_thread(_stop, broken)
        return self._pool

    def _start(self) -> ProcessPool:
        pool = ProcessPool(
            self._processes,
            initializer=_confine,
            initargs=(self._limits, os.getpid()),
            # Not fork: the worker's threads, sockets and locks must not be copied.
            context=multiprocessing.get_context("spawn"),
        )
        assert pool.active  # asking starts it
        return pool


@contextmanager
def _crashing(error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except error as crash:
        raise ProcessingFailed(FailureCode.CRASHED, "Processing of this file crashed.") from crash


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves it so
    pool.join()


def _confine(limits: Limits, parent: int) -> None:
    """Runs in each child before any file does."""
    # Both signals may reach the whole group (Ctrl-C, systemd). The parent decides what becomes of work in hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with(parent)
    _reuse_memory()
    os.environ.clear()  # secrets of the deployment, of which no decoder needs any
    os.nice(_NICENESS)
    for which, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        with suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS; nobody may go above an outer limit
            resource.setrlimit(which, (value, value))
    warnings.simplefilter("ignore")  # Pillow quotes the file in its warnings


def _reuse_memory() -> None:
    """Keeps freed pixels for the next picture: faulting the pages in anew takes 4 to 8 % of rendering."""
    with suppress(AttributeError):  # glibc's alone
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
