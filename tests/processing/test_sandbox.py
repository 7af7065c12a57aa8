"""The sandbox with real children, killed for real."""

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import uvloop
from PIL import Image

from processing import kinds, sandbox
from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits
from processing.sandbox import Sandbox
from processing.variants import Progress, Rendered, VariantName
from tests.processing.pictures import chunk, encoded, quadrants
from tests.processing.sandboxes import PATIENCE, Strangers, ended, strangers_in, until, written

MIB = 1024 * 1024

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="uses /proc or what only Linux has")


@pytest.fixture(scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Strangers]:
    async with strangers_in(tmp_path_factory.mktemp("scratch"), processes=2) as both:
        yield both


@pytest.fixture
async def pictures(tmp_path: Path) -> AsyncIterator[Sandbox]:
    box = Sandbox(Limits(seconds=PATIENCE, memory_bytes=400 * MIB), 1, scratch=tmp_path)
    yield box
    await box.close()


def ignore(told: Rendered | Progress) -> None:
    pass


# ---------------------------------------------------------------- the ordinary way


async def test_a_photograph(pictures: Sandbox, tmp_path: Path) -> None:
    original, out = tmp_path / "original", tmp_path / "out"
    original.write_bytes(encoded(quadrants(640, 480), kinds.JPEG))
    out.mkdir()
    told: list[Rendered | Progress] = []
    facts = await pictures.produce(original, kinds.JPEG, out, told.append)
    assert (facts.width, facts.height) == (640, 480)
    assert facts.looks is not None
    assert told[0] == Progress(0)
    made = [each for each in told if isinstance(each, Rendered)]
    assert {(each.name.value, each.width, each.height) for each in made} == {
        ("THUMBNAIL", 150, 150), ("SMALL", 400, 300), ("MEDIUM", 640, 480), ("LARGE", 640, 480),
    }  # fmt: skip
    assert sorted(each.path for each in made) == sorted(out.iterdir())
    assert all(each.size_bytes == each.path.stat().st_size for each in made)

    original.write_bytes(original.read_bytes()[:900])
    with pytest.raises(ProcessingFailed) as caught:
        await pictures.produce(original, kinds.JPEG, out, ignore)
    assert caught.value.code is FailureCode.CORRUPT
    with pytest.raises(FileNotFoundError):
        await pictures.produce(tmp_path / "missing", kinds.JPEG, out, ignore)


async def test_what_is_told_comes_in_order_while_the_child_works(two: Strangers, tmp_path: Path) -> None:
    told: list[Rendered | Progress] = []
    goes_on = two.scratch / "goes on"
    assert await two.ask("make", "POSTER", "STREAM", told=told.append) is None
    poster, half, stream, whole = told
    assert (half, whole) == (Progress(0.5), Progress(1))
    assert isinstance(poster, Rendered)
    assert isinstance(stream, Rendered)
    assert (poster.name, stream.name) == (VariantName.POSTER, VariantName.STREAM)
    assert poster.size_bytes == 11  # which is not what the child says

    seen = asyncio.Event()
    advancing = asyncio.create_task(two.ask("announce_progress_and_wait", goes_on, told=lambda said: seen.set()))
    async with asyncio.timeout(PATIENCE):
        await seen.wait()
    assert not advancing.done()
    goes_on.touch()
    await advancing


async def test_failures_come_through(two: Strangers) -> None:
    assert await two.failure("fail") is FailureCode.UNSUPPORTED
    assert await two.failure("allocate", 4096) is FailureCode.TOO_MANY_PIXELS
    with pytest.raises(RuntimeError, match="LookupError: a decoder's bug"):
        await two.ask("misbehave")
    with pytest.raises(RuntimeError, match="Facts that can't be"):
        await two.ask("be_untellable")
    with pytest.raises(RuntimeError, match="SMALL is not where it belongs"):
        await two.ask("make_elsewhere")
    with pytest.raises(OSError, match="File too large"):
        await two.ask("write", 300)


async def test_the_same_children_go_on_working(two: Strangers) -> None:
    pids = {await two.ask("pid") for _ in range(20)}
    assert len(pids) <= 2
    assert os.getpid() not in pids


async def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    async with strangers_in(Path(tmp_path.name)) as those:
        told: list[Rendered | Progress] = []
        await those.ask("make", "SMALL", told=told.append)
        made = told[0]
        assert isinstance(made, Rendered)
        assert made.path.read_bytes() == b"the variant"


async def test_children_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_FILES", 2)
    async with strangers_in(tmp_path) as those:
        pids = [await those.ask("pid") for _ in range(4)]
        assert pids[0] == pids[1] != pids[2] == pids[3]
        assert ended(pids[0])


async def test_an_exception_of_who_is_told_ends_the_child(two: Strangers) -> None:
    def refuse(told: Rendered | Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await two.ask("make", "SMALL", told=refuse)
    assert await two.ask("sleep", 0) is None


def test_on_uvloop(tmp_path: Path) -> None:
    async def ask() -> object:
        async with strangers_in(tmp_path) as those:
            assert await those.failure("leave") is FailureCode.CRASHED
            return await those.ask("allocate", 1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == MIB


@on_linux
async def test_a_picture_that_needs_too_much_memory(pictures: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "large"
    # Below the limit of pixels, and 400 MB once decoded.
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    with pytest.raises(ProcessingFailed) as caught:
        await pictures.produce(path, kinds.PNG, tmp_path, ignore)
    assert caught.value.code is FailureCode.TOO_MANY_PIXELS


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV", "SIGABRT"])
async def test_a_crash_hurts_no_other_task(two: Strangers, death: str) -> None:
    started, goes_on = two.scratch / f"started {death}", two.scratch / f"goes on {death}"
    other = asyncio.create_task(two.ask("announce_and_wait", started, goes_on))
    await until(partial(written, started))
    for _ in range(2):
        assert await two.failure("die", death) is FailureCode.CRASHED
    goes_on.touch()
    assert await other == written(started)
    assert await two.ask("allocate", 1) == MIB


async def test_a_child_that_leaves_quietly_has_crashed_at_once(two: Strangers) -> None:
    started = time.monotonic()
    assert await two.failure("leave") is FailureCode.CRASHED
    assert time.monotonic() - started < PATIENCE / 2


async def test_what_was_told_before_a_crash_is_heard(two: Strangers) -> None:
    told: list[Rendered | Progress] = []
    with pytest.raises(ProcessingFailed) as caught:
        await two.ask("make_and_die", "SMALL", "LARGE", told=told.append)
    assert caught.value.code is FailureCode.CRASHED
    assert [each.name for each in told if isinstance(each, Rendered)] == [VariantName.SMALL, VariantName.LARGE]


@on_linux
async def test_a_decoder_that_is_killed(pictures: Sandbox, tmp_path: Path) -> None:
    path, out = tmp_path / "slow", tmp_path / "out"
    # Some 300 ms of decoding.
    path.write_bytes(encoded(Image.new("RGB", (7000, 7000)), kinds.PNG, compress_level=1))
    out.mkdir()
    rendering = asyncio.create_task(pictures.produce(path, kinds.PNG, out, ignore))
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


async def test_children_that_die_idle_are_replaced(two: Strangers) -> None:
    for _ in range(3):
        child = await two.ask("pid")
        os.kill(child, signal.SIGKILL)
        await until(partial(ended, child))
        assert await two.ask("pid") != child
    assert await asyncio.gather(*(two.ask("allocate", 1) for _ in range(8))) == [MIB] * 8


async def test_children_that_can_not_start(tmp_path: Path) -> None:
    box = Sandbox(Limits(), 1, scratch=tmp_path, libraries=("processing.no_such_module",))
    try:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="could not start"):
                await box.produce(tmp_path / "any", kinds.JPEG, tmp_path, ignore)
    finally:
        await box.close()


# ---------------------------------------------------------------- time


@on_linux
async def test_timeout_while_another_task_runs(tmp_path: Path) -> None:
    async with strangers_in(tmp_path, Limits(seconds=1.0), processes=2) as those:
        stuck = asyncio.create_task(those.failure("sleep", 60))
        await those.ask("sleep", 0)
        quick = 0
        while not stuck.done():
            await those.ask("sleep", 0.02)
            quick += 1
        assert stuck.result() is FailureCode.TIMEOUT
        assert quick > 10


async def test_silence_is_no_progress(tmp_path: Path) -> None:
    async with strangers_in(tmp_path, Limits(seconds=PATIENCE, silent_seconds=0.5)) as those:
        told: list[Rendered | Progress] = []
        await those.ask("advance", 10, 0.1, told=told.append)  # longer in all, and never silent for so long
        assert told == [Progress(step / 10) for step in range(10)]
        assert await those.failure("sleep", 60) is FailureCode.TIMEOUT


async def test_progress_does_not_make_time_endless(tmp_path: Path) -> None:
    async with strangers_in(tmp_path, Limits(seconds=0.5)) as those:
        assert await those.failure("advance", 1000, 0.05) is FailureCode.TIMEOUT


async def test_waiting_for_a_child_is_no_timeout(tmp_path: Path) -> None:
    async with strangers_in(tmp_path, Limits(seconds=0.8)) as those:
        assert await asyncio.gather(*(those.ask("sleep", 0.3) for _ in range(4))) == [None] * 4


# ---------------------------------------------------------------- cancelling, closing


async def test_cancelling_ends_the_child_and_nothing_else(two: Strangers) -> None:
    never = two.scratch / "never"
    for attempt in range(3):
        started = two.scratch / f"cancelled {attempt}"
        running = asyncio.create_task(two.ask("announce_and_wait", started, never))
        child = await until(partial(written, started))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended(child)  # so that whoever removes its folder is alone with that
    assert await two.ask("allocate", 1) == MIB


async def test_cancelling_what_waits(two: Strangers) -> None:
    goes_on = two.scratch / "both go on"
    started = [two.scratch / f"waited for {n}" for n in range(2)]
    running = [asyncio.create_task(two.ask("announce_and_wait", each, goes_on)) for each in started]
    await until(lambda: all(map(written, started)))
    waiting = asyncio.create_task(two.ask("announce_and_wait", two.scratch / "third", goes_on))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    goes_on.touch()
    assert await asyncio.gather(*running) == [written(each) for each in started]
    assert not (two.scratch / "third").exists()


async def test_closing_ends_children_and_waiters(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    async with strangers_in(tmp_path, processes=2) as those:
        started = tmp_path / "started"
        running = [
            asyncio.create_task(those.ask("announce_and_wait", started, tmp_path / "never")),
            *(asyncio.create_task(those.ask("sleep", 60)) for _ in range(2)),
        ]
        await until(partial(written, started))
        await those.sandbox.close()
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
        assert set(psutil.Process().children()) <= before
        with pytest.raises(RuntimeError):
            await those.ask("pid")
        assert set(psutil.Process().children()) <= before


# ---------------------------------------------------------------- the parent's end

PARENT = """
import asyncio, sys
from pathlib import Path
from tests.processing.sandboxes import strangers_in

async def main(folder):
    async with strangers_in(folder, processes=2) as those:
        never = folder / "never"
        await asyncio.gather(*(those.ask("announce_and_wait", folder / f"started {n}", never) for n in range(2)))

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
            assert set(map(written, working)) == set(children)
        finally:
            parent.kill()
    await until(lambda: all(map(ended, children)))
