"""The sandbox with real children, killed for real."""

import asyncio
import contextlib
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from PIL import Image

from processing import kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.sandbox import Limits, Sandbox
from processing.variants import IMAGE_VARIANTS
from tests.processing.pictures import chunk, encoded, quadrants

MIB = 1024 * 1024
T = TypeVar("T")

PATIENCE = 20.0  # seconds, for a machine under load

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="uses /proc or what only Linux has")


async def until(condition: Callable[[], T]) -> T:
    """What the condition answers, as soon as that is true."""
    async with asyncio.timeout(PATIENCE):
        while not (answer := condition()):  # noqa: ASYNC110  (of other processes, which set no event of ours)
            await asyncio.sleep(0.005)
    return answer


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    box = Sandbox(Limits(seconds=PATIENCE), processes=2)
    yield box
    await box.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo"
    path.write_bytes(encoded(quadrants(640, 480), kinds.JPEG))
    (tmp_path / "out").mkdir()
    return path


def cut(photo: Path) -> Path:
    photo.write_bytes(photo.read_bytes()[:900])
    return photo


def ended(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


# ---------------------------------------------------------------- what children run


def commit_suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def overflow_the_stack() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def announce_and_wait_for(started: Path, goes_on: Path) -> int:
    started.write_text(str(os.getpid()))
    while not goes_on.exists():
        time.sleep(0.005)
    return os.getpid()


def confinement() -> dict[str, object]:
    return {
        "address space": resource.getrlimit(resource.RLIMIT_AS),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "sigint": signal.getsignal(signal.SIGINT),
        "sigterm": signal.getsignal(signal.SIGTERM),
        "environment": dict(os.environ),
    }


def written(started: Path) -> int:
    """Which child has announced itself; 0: none yet."""
    return int(started.read_text() or 0) if started.exists() else 0


def allocate(count: int) -> int:
    return len(bytearray(count))


def write(path: Path, count: int) -> None:
    with path.open("wb") as file:
        file.truncate(count)


# ---------------------------------------------------------------- the ordinary way


async def test_analyze_and_render(sandbox: Sandbox, photo: Path) -> None:
    facts = await sandbox.analyze(photo, kinds.JPEG)
    assert (facts.width, facts.height) == (640, 480)
    results = await sandbox.render(photo, kinds.JPEG, photo.parent / "out", IMAGE_VARIANTS)
    assert [(r.name, r.width, r.height) for r in results] == [
        ("THUMBNAIL", 150, 150), ("SMALL", 400, 300), ("MEDIUM", 640, 480), ("LARGE", 640, 480),
    ]  # fmt: skip
    assert sorted(r.path for r in results) == sorted((photo.parent / "out").iterdir())


async def test_failures_come_through(sandbox: Sandbox, photo: Path) -> None:
    photo = cut(photo)
    with pytest.raises(ProcessingFailed) as caught:
        await sandbox.render(photo, kinds.JPEG, photo.parent / "out", IMAGE_VARIANTS)
    assert caught.value.code is FailureCode.CORRUPT
    with pytest.raises(FileNotFoundError):
        await sandbox.analyze(photo.with_name("missing"), kinds.JPEG)


async def test_the_same_children_go_on_working(sandbox: Sandbox) -> None:
    pids = {await sandbox.run(os.getpid) for _ in range(20)}
    assert len(pids) <= 2
    assert os.getpid() not in pids


async def test_confinement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEIRLOOM_SECRET_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    limits = Limits(seconds=PATIENCE, memory_bytes=512 * MIB)
    sandbox = Sandbox(limits, processes=1)
    try:
        found = await sandbox.run(confinement)
        assert found["core"] == (0, 0)
        assert found["sigint"] == found["sigterm"] == signal.SIG_IGN
        assert found["environment"] == {}
        if sys.platform == "linux":
            assert found["address space"] == (512 * MIB, 512 * MIB)
            with pytest.raises(MemoryError):
                await sandbox.run(allocate, 600 * MIB)
        with pytest.raises(OSError, match="File too large"):
            await sandbox.run(write, tmp_path / "huge", 300 * MIB)
        assert await sandbox.run(allocate, MIB) == MIB
    finally:
        await sandbox.close()
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # the parent's


@on_linux
async def test_a_picture_that_needs_too_much_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    # Below the limit of pixels, and 400 MB once decoded.
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    sandbox = Sandbox(Limits(seconds=PATIENCE, memory_bytes=400 * MIB), processes=1)
    try:
        with pytest.raises(ProcessingFailed) as caught:
            await sandbox.render(path, kinds.PNG, tmp_path, IMAGE_VARIANTS)
        assert caught.value.code is FailureCode.TOO_MANY_PIXELS
    finally:
        await sandbox.close()


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("death", [commit_suicide, overflow_the_stack])
async def test_a_crash_hurts_no_other_task(sandbox: Sandbox, tmp_path: Path, death: Callable[[], None]) -> None:
    started, goes_on = tmp_path / "started", tmp_path / "goes on"
    other = asyncio.create_task(sandbox.run(announce_and_wait_for, started, goes_on))
    await until(partial(written, started))
    for _ in range(3):
        with pytest.raises(ProcessingFailed) as caught:
            await sandbox.run(death)
        assert caught.value.code is FailureCode.CRASHED
    goes_on.touch()
    assert await other == written(started)
    assert await sandbox.run(allocate, 1) == 1


@on_linux
async def test_a_decoder_that_is_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "slow"
    # Some 300 ms of decoding.
    path.write_bytes(encoded(Image.new("RGB", (7000, 7000)), kinds.PNG, compress_level=1))
    out = tmp_path / "out"
    out.mkdir()
    rendering = asyncio.create_task(sandbox.render(path, kinds.PNG, out, IMAGE_VARIANTS))
    (child,) = await until(partial(holding, path))
    child.kill()
    with pytest.raises(ProcessingFailed) as caught:
        await rendering
    assert caught.value.code is FailureCode.CRASHED
    assert list(out.iterdir()) == []


def holding(path: Path) -> list[psutil.Process]:
    """Children of ours that have the file open."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            if any(Path(file.path) == path for file in child.open_files()):
                found.append(child)
    return found


async def test_children_that_die_idle_are_replaced(sandbox: Sandbox) -> None:
    for _ in range(3):
        child = await sandbox.run(os.getpid)
        os.kill(child, signal.SIGKILL)
        await until(partial(ended, child))
        assert await sandbox.run(os.getpid) != child
    await asyncio.gather(*(sandbox.run(allocate, MIB) for _ in range(20)))


# ---------------------------------------------------------------- time


@on_linux
async def test_timeout_while_another_task_runs(tmp_path: Path) -> None:
    sandbox = Sandbox(Limits(seconds=1.0), processes=2)
    try:
        pipe = tmp_path / "pipe"
        await asyncio.gather(sandbox.run(time.sleep, 0.1), sandbox.run(time.sleep, 0.1))  # both are up
        os.mkfifo(pipe)  # opening it waits for a writer, who never comes
        stuck = asyncio.create_task(sandbox.analyze(pipe, kinds.JPEG))
        quick = 0
        while not stuck.done():
            started = time.monotonic()
            await sandbox.run(allocate, 1)
            assert time.monotonic() - started < 2.5  # as a kill that waits for SIGTERM first would hold all up for 3
            quick += 1
        with pytest.raises(ProcessingFailed) as caught:
            await stuck
        assert caught.value.code is FailureCode.TIMEOUT
        assert quick > 10
    finally:
        await sandbox.close()


async def test_waiting_for_a_child_is_no_timeout() -> None:
    sandbox = Sandbox(Limits(seconds=1.0), processes=1)
    try:
        await asyncio.gather(*(sandbox.run(time.sleep, 0.3) for _ in range(5)))
    finally:
        await sandbox.close()


# ---------------------------------------------------------------- cancelling, closing


async def test_cancelling_ends_the_child_and_nothing_else(sandbox: Sandbox, tmp_path: Path) -> None:
    never = tmp_path / "never"
    for attempt in range(3):
        started = tmp_path / f"started {attempt}"
        running = asyncio.create_task(sandbox.run(announce_and_wait_for, started, never))
        child = await until(partial(written, started))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(partial(ended, child))
    assert await sandbox.run(allocate, MIB) == MIB


async def test_cancelling_what_waits(sandbox: Sandbox, tmp_path: Path) -> None:
    goes_on = tmp_path / "goes on"
    running = [
        asyncio.create_task(sandbox.run(announce_and_wait_for, tmp_path / f"started {n}", goes_on)) for n in range(2)
    ]
    await until(lambda: len(list(tmp_path.glob("started *"))) == 2)
    waiting = asyncio.create_task(sandbox.run(announce_and_wait_for, tmp_path / "third", goes_on))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    goes_on.touch()
    assert len(set(await asyncio.gather(*running))) == 2
    assert await sandbox.run(allocate, MIB) == MIB


async def test_closing_ends_children_and_waiters(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    sandbox = Sandbox(Limits(), processes=2)
    started = tmp_path / "started"
    running = asyncio.create_task(sandbox.run(announce_and_wait_for, started, tmp_path / "never"))
    await until(started.exists)
    await sandbox.close()
    with pytest.raises(asyncio.CancelledError):
        await running
    left = {child for child in set(psutil.Process().children()) - before if "spawn_main" in " ".join(child.cmdline())}
    assert left == set()
    with pytest.raises(RuntimeError):
        await sandbox.run(os.getpid)


# ---------------------------------------------------------------- the parent's end

PARENT = """
import asyncio, os, sys
from pathlib import Path
from processing.sandbox import Limits, Sandbox
from tests.processing.test_sandbox import announce_and_wait_for

async def main(folder):
    sandbox = Sandbox(Limits(), processes=2)
    never = folder / "never"
    await asyncio.gather(*(sandbox.run(announce_and_wait_for, folder / f"started {n}", never) for n in range(2)))

if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
"""


@on_linux
async def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = Path(__file__).parents[2]
    with subprocess.Popen(  # noqa: ASYNC220  (starts at once, and is only ever killed)
        [sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": str(root)}
    ) as parent:
        try:
            working = [tmp_path / "started 0", tmp_path / "started 1"]
            await until(lambda: all(map(written, working)))
            children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
            assert set(map(written, working)) <= set(children)
        finally:
            parent.kill()
    await until(lambda: all(map(ended, children)))
