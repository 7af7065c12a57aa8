"""Runs processing in child processes that may be killed, crash, or run out of memory, and hurt nothing else.

What a decoder that was taken over can reach: see confinement.py. It can read the files that others are working at in
the same scratch, and write there, until its child is renewed.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct

from processing import pipeline
from processing.child import Producer, Start, Task
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.reports import LINE_BYTES, NoReport, Receiver, is_ready, write
from processing.variants import Facts, Progress, Rendered

Told: TypeAlias = Callable[[Rendered | Progress], None]

_NICENESS: Final = 5  # requests and the database go before pictures
_START_SECONDS: Final = 60.0  # a fraction of one, on a machine that has something to give
# Of one child, whose libraries may leak. Starting another costs the time of one or two pictures.
_FILES: Final = 500
# The interpreter must find the same modules as ours does, and nothing of ours else.
_PROGRAM: Final = "import sys; sys.path[:] = {path!r}; from processing import child; child.serve()"


class Sandbox:
    """Child processes, each working at one file at a time.

    They start at once, so that imports are paid for before the first file comes; `libraries` are the modules to
    import. Construct and use it on a thread that lives as long as it does (the event loop's): on Linux a child dies
    with the thread that started it. Files are read and written below `scratch` alone, which must be there.
    """

    def __init__(
        self,
        limits: Limits,
        processes: int | None = None,
        *,
        scratch: Path,
        niceness: int = _NICENESS,
        libraries: Sequence[str] = ("processing.images",),
        producer: Producer = pipeline.produce,
    ) -> None:
        processes = processes or os.cpu_count() or 1
        self._limits = limits
        self._start = Start(
            limits=limits,
            scratch=str(scratch.resolve()),
            niceness=niceness,
            parent=os.getpid(),
            module=producer.__module__,
            function=producer.__name__,
            libraries=tuple(libraries),
        )
        self._free = asyncio.Semaphore(processes)
        self._idle = [_Child(self._start) for _ in range(processes)]
        self._working: set[asyncio.Task[Facts]] = set()
        self._closed = False

    async def produce(self, source: Path, type: FileType, into: Path, told: Told) -> Facts:  # noqa: A002
        """As pipeline.produce, in a child; what it tells is told here, in order and before this returns.

        Raises ProcessingFailed with TIMEOUT and CRASHED besides; `into` may hold pieces then. An error that nobody
        expects comes as RuntimeError. Waiting for a free child doesn't count as time. Cancelling ends the child.
        """
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        working = asyncio.ensure_future(self._produce(_task(source, type, into), told))
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        return await working

    async def close(self) -> None:
        """Ends the children, and cancels whatever still waits for them."""
        self._closed = True
        for working in self._working:
            working.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await asyncio.gather(*(child.end() for child in self._idle))

    async def _produce(self, task: Task, told: Told) -> Facts:
        async with self._free:
            child = self._take()
            try:
                await child.ready()
                outcome = await self._outcome(child, task, told)
            except BaseException:
                await self._replace(child)
                raise
            if child.files < _FILES:
                self._idle.append(child)
            else:
                await self._replace(child)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _take(self) -> "_Child":
        """One that lives, as far as can be known."""
        while self._idle:
            if (child := self._idle.pop()).lives():
                return child
        return _Child(self._start)

    async def _replace(self, child: "_Child") -> None:
        if not self._closed:
            self._idle.append(_Child(self._start))
        await child.end()

    async def _outcome(self, child: "_Child", task: Task, told: Told) -> Facts | Exception:
        receiver = Receiver(Path(task.into), self._limits.output_bytes)
        try:
            async with asyncio.timeout(self._limits.seconds):
                child.send(task)
                while True:
                    async with asyncio.timeout(self._limits.silent_seconds):
                        line = await child.line()
                    said = receiver.receive(line)
                    if isinstance(said, Facts | Exception):
                        return said
                    if said is not None:
                        told(said)
                    await asyncio.sleep(0)  # lines that have come already give nobody else a turn
        except TimeoutError as error:
            raise ProcessingFailed(FailureCode.TIMEOUT, "Processing took too long.") from error
        except (NoReport, BrokenPipeError) as error:
            raise ProcessingFailed(FailureCode.CRASHED, "Processing of this file crashed.") from error


def _task(source: Path, type: FileType, into: Path) -> Task:  # noqa: A002
    # Absolute: a child has another working directory.
    return Task(str(source.absolute()), type, str(into.absolute()))


class _Child:
    """A process, with a pipe to it and one from it, which no other process holds: its end is the end of what comes."""

    def __init__(self, start: Start) -> None:
        self.files = 0
        self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and words)
            [sys.executable, "-c", _PROGRAM.format(path=[str(Path(entry).absolute()) for entry in sys.path])],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=start.scratch,
            # Not ours, in which are secrets of the deployment.
            env={"TMPDIR": start.scratch},
            start_new_session=True,  # signals to our group (Ctrl-C) are not for it, nor are its own for the group
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._reports = self._process.stdin, self._process.stdout
        self._reader = asyncio.StreamReader(LINE_BYTES)
        self._transport: asyncio.ReadTransport | None = None
        self._send(start)

    def lives(self) -> bool:
        return self._process.poll() is None

    async def ready(self) -> None:
        """Raises RuntimeError when it can't start; why is to be read on stderr."""
        if self._transport is not None:
            return
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), self._reports
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                ready = is_ready(await self.line())
        except TimeoutError:
            ready = False
        if not ready:
            raise RuntimeError("a child process of the sandbox could not start")

    def send(self, task: Task) -> None:
        self.files += 1
        self._send(task)

    async def line(self) -> bytes:
        """The next one, with its end; without, when the child has ended. Raises NoReport when it is too long."""
        try:
            return await self._reader.readline()
        except ValueError as error:
            raise NoReport from error

    async def end(self) -> None:
        """When this returns, the process writes nothing any more."""
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._requests.close()
        if self._transport is not None:
            self._transport.close()
        self._reports.close()

    def _send(self, message: Struct) -> None:
        # Waits for nobody: a pipe holds some pages, and the child reads all before it is sent more.
        write(self._requests, message)
