"""How the processing of a file ends, in a sandbox that has to live through it."""

import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psutil
import pytest

from processing.failures import ProcessingFailed
from processing.kinds import FileType
from processing.limits import MIB, Limits
from processing.sandbox import Sandbox
from processing.variants import Progress, Rendered
from tests.processing import whole

READY: Final = "READY"

# Of memory, half of what there is otherwise: these files are small.
LIMITS: Final = Limits(seconds=30, memory_bytes=1024 * MIB)


class Endings:
    """Of files, one after the other, in a sandbox of one child."""

    def __init__(self, sandbox: Sandbox, scratch: Path) -> None:
        self._sandbox = sandbox
        self._scratch = scratch

    async def of(self, data: bytes, type: FileType) -> str:  # noqa: A002
        """READY or the code of the failure. Any other error passes, and is one of ours."""
        told: list[Rendered | Progress] = []
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            source, into = Path(folder) / "source", Path(folder) / "variants"
            source.write_bytes(data)
            into.mkdir()
            try:
                await self._sandbox.produce(source, type, into, told.append)
            except ProcessingFailed as failed:
                return _code(failed)
            assert told[0] == Progress(0)
            assert all(each.path.stat().st_size == each.size_bytes for each in told if isinstance(each, Rendered))
        return READY

    def child(self) -> psutil.Process | None:
        """None while another is being started."""
        ours = str(self._scratch)
        return next((each for each in psutil.Process().children() if _folder(each) == ours), None)


def peak_bytes(child: psutil.Process) -> int:
    """The most memory that a process has ever had at once. Linux's alone."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@asynccontextmanager
async def endings(scratch: Path) -> AsyncIterator[Endings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("processing.sandbox._FILES", 1_000_000)  # so that a child that ends has crashed
        box = Sandbox(LIMITS, 1, scratch=scratch, producer=whole.produce)
        try:
            yield Endings(box, scratch)
        finally:
            await box.close()


def _code(failed: ProcessingFailed) -> str:
    assert re.fullmatch(r"[A-Z][^/\n]+\.", failed.message), failed.message  # a sentence, without paths
    return failed.code


def _folder(process: psutil.Process) -> str | None:
    try:
        return process.cwd()
    except psutil.Error:
        return None
