"""Sandboxes whose decoders are strangers, and what to ask them."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from processing import kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits
from processing.sandbox import Sandbox
from processing.variants import Progress, Rendered
from tests.processing import strangers

T = TypeVar("T")

PATIENCE = 20.0  # seconds, for a machine under load


class Strangers:
    """A sandbox of them, below a scratch of its own."""

    def __init__(self, scratch: Path, limits: Limits, processes: int, niceness: int = 5) -> None:
        self.scratch = scratch
        self.sandbox = Sandbox(
            limits, processes, scratch=scratch, niceness=niceness, libraries=(), producer=strangers.produce
        )

    async def ask(
        self, deed: str, *arguments: object, told: Callable[[Rendered | Progress], None] = lambda said: None
    ) -> Any:
        """What a child answers that does this; it works in a new folder."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        (folder / "deed").write_text("\n".join(map(str, (deed, *arguments))))
        facts = await self.sandbox.produce(folder / "deed", kinds.JPEG, folder, told)
        return facts.tags["answer"]

    async def failure(self, deed: str, *arguments: object) -> FailureCode:
        try:
            answer = await self.ask(deed, *arguments)
        except ProcessingFailed as failure:
            return failure.code
        raise AssertionError(f"{deed} did not fail, but answered {answer}")


@asynccontextmanager
async def strangers_in(
    scratch: Path, limits: Limits | None = None, processes: int = 1, niceness: int = 5
) -> AsyncIterator[Strangers]:
    those = Strangers(scratch, limits or Limits(seconds=PATIENCE), processes, niceness)
    try:
        yield those
    finally:
        await those.sandbox.close()


async def until(condition: Callable[[], T]) -> T:
    """What the condition answers, as soon as that is true."""
    async with asyncio.timeout(PATIENCE):
        while not (answer := condition()):  # noqa: ASYNC110  (of other processes, which set no event of ours)
            await asyncio.sleep(0.005)
    return answer


def ended(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def written(started: Path) -> int:
    """Which child has announced itself; 0: none yet."""
    return int(started.read_text() or 0) if started.exists() else 0
