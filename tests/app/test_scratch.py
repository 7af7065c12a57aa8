"""Scratch folders: one a process, and none left of those that are gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from app.scratch import own_scratch

HOLDER = """
import pathlib, sys, time
from app.scratch import own_scratch
with own_scratch(pathlib.Path(sys.argv[1])) as folder:
    (folder / "work").write_text("half done")
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(parent: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def folder_of(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_it_is_private_and_gone_after_the_block(tmp_path: Path) -> None:
    with own_scratch(tmp_path / "scratch") as folder:
        (folder / "file").write_bytes(b"x")
        assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder)] == [0o700, 0o700]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_a_living_process_works_on_is_left_alone_and_a_killed_ones_is_removed(tmp_path: Path) -> None:
    with holder(tmp_path) as living, holder(tmp_path) as killed:
        of_living, of_killed = folder_of(living), folder_of(killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (of_killed / "work").exists()
        with own_scratch(tmp_path) as own:
            assert set(tmp_path.iterdir()) == {of_living, own}
            assert (of_living / "work").read_text() == "half done"
        living.communicate()
    assert list(tmp_path.iterdir()) == []
