"""A folder for what a process works on, and nobody else's: gone with it, or when the next one starts after a crash."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_scratch(parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, for as long as the block; those of processes that were killed are removed first.

    A process holds a lock on its folder as long as it lives, so what can be locked is nobody's. Several API processes
    and workers may share a data folder.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(parent):  # nobody sweeps between the making of a folder and its lock
        for folder in parent.iterdir():
            _remove_if_abandoned(folder)
        folder = parent / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        held = os.open(folder, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        held = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its process has just ended, and removed it
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # its process lives
    finally:
        os.close(held)
