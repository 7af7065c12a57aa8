"""What a decoder that was taken over can't do: tried by one, in a child of the sandbox."""

import os
import platform
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from processing.landlock import landlock_version
from processing.limits import MIB, Limits
from tests.processing.sandboxes import PATIENCE, Strangers, strangers_in
from tests.processing.strangers import TRESPASSES

LIMITS = Limits(seconds=PATIENCE, memory_bytes=512 * MIB, output_bytes=10 * MIB)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux confines")
with_landlock = pytest.mark.skipif(landlock_version() < 1, reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
async def stranger(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Strangers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEIRLOOM_SECRET_KEY", "secret")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        async with strangers_in(tmp_path_factory.mktemp("scratch"), LIMITS, niceness=7) as one:
            yield one


async def test_what_a_child_is_given(stranger: Strangers) -> None:
    found = await stranger.ask("confinement")
    processors = os.cpu_count() or 1
    assert PATIENCE * processors < found.pop("seconds of processors") < PATIENCE * (processors + 1)
    if sys.platform == "linux":
        assert found.pop("address space") == [512 * MIB] * 2
    assert found == {
        "core": [0, 0],
        "ignored": [True, True],
        "environment": {"TMPDIR": str(stranger.scratch)},
        "niceness": min(19, os.nice(0) + 7),
        "temporary files": str(stranger.scratch),
        "own group": True,
    }
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # the parent's


async def test_files_have_a_largest_size(stranger: Strangers) -> None:
    assert await stranger.ask("write", 10) is None
    with pytest.raises(OSError, match="File too large"):
        await stranger.ask("write", 11)


async def test_threads_are_allowed(stranger: Strangers) -> None:
    assert await stranger.ask("use_threads") == 1


@on_linux
async def test_children_go_before_others_when_memory_runs_out(stranger: Strangers) -> None:
    assert await stranger.ask("standing_when_memory_runs_out") == 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize("size", [10_000, 1_000_000])
async def test_memory_is_given_out_overwritten(stranger: Strangers, size: int) -> None:
    assert await stranger.ask("look_at_memory", size) == 0


@on_linux
async def test_trespasses(stranger: Strangers) -> None:
    here = Path(__file__).parent
    before = set(here.iterdir()), set(psutil.Process().children())
    answers = await stranger.ask("trespass", os.getpid())
    # A library takes the second for a kernel that lacks the call.
    assert answers == dict.fromkeys(TRESPASSES, "EPERM") | {"io_uring": "ENOSYS", "pidfd": "ENOSYS"}
    assert (set(here.iterdir()), set(psutil.Process().children())) == before
    assert await stranger.ask("pid") != os.getpid()


@on_linux
async def test_other_numbers_of_the_same_calls(stranger: Strangers) -> None:
    assert os.uname().machine
    assert await stranger.ask("call", 0x40000000 | 41, 2, 1) == "ENOSYS"


@with_landlock
async def test_files_out_of_reach(stranger: Strangers, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for path in (
        secret,
        Path(__file__),
        Path("/etc/passwd"),
        f"/proc/{os.getpid()}/environ",
        f"/proc/{os.getpid()}/mem",
    ):
        with pytest.raises(PermissionError):
            await stranger.ask("read", path)
    for path in (secret, tmp_path / "new", os.__file__, f"/proc/{os.getpid()}/oom_score_adj"):
        with pytest.raises(PermissionError):
            await stranger.ask("open_to_write", path)
    assert secret.read_text() == "secret"
    assert not (tmp_path / "new").exists()


@with_landlock
async def test_files_in_reach(stranger: Strangers) -> None:
    new = stranger.scratch / "new"
    assert await stranger.ask("open_to_write", new) == "open"
    assert new.read_bytes() == b""
    assert await stranger.ask("read", os.__file__) == 1
    assert await stranger.ask("open_to_write", os.devnull) == "open"
