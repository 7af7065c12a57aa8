"""Heirloom's processes that die at a named moment, which a file names.

What is in the file is looked at each time that a moment is reached, so that one process can be armed and armed again.
They are forked from a process that has imported all that they need: they die often, and are soon there again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from app import faults
from app.cli import main

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_IMPORTED: Final = ["tests.faults", "app.serve", "app.worker", "graphql_schema.schema", "storage.s3"]
# A killed worker's job is taken up again after so long, and the queue is looked at as often: sooner than elsewhere.
_HURRIED: Final = {"HEARTBEAT": timedelta(seconds=1.5), "LOOK_EVERY": timedelta(seconds=0.2)}


def started(file: Path, environment: Mapping[str, str], log: Path, arguments: Sequence[str]) -> ForkServerProcess:
    """`heirloom` with these arguments, which dies at the moment whose name is in the file, as often as there is one."""
    _CONTEXT.set_forkserver_preload(_IMPORTED)
    process = _CONTEXT.Process(target=_run, args=(file, dict(environment), log, list(arguments)))
    process.start()
    return process


def _run(file: Path, environment: dict[str, str], log: Path, arguments: list[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.modules["__main__"] = sys.modules[__name__]  # decoders import this, which here would be pytest
    _be_deadly(file)
    _hurry()
    sys.exit(main(arguments))


def _be_deadly(file: Path) -> None:
    """From now on this process kills itself at the moment whose name is in the file."""

    def reach(point: str) -> None:
        if file.read_text() == point:
            file.write_text("")  # once
            os.kill(os.getpid(), signal.SIGKILL)

    faults.reach = reach


def _hurry() -> None:
    from app import worker  # noqa: PLC0415 - a decoder imports this module too, and needs none of that

    for name, interval in _HURRIED.items():
        assert hasattr(worker, name)
        setattr(worker, name, interval)
