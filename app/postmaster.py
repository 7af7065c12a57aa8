"""A server that runs on a cluster, as its postmaster.pid tells: where it listens, whose it was, how it is stopped."""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from app.postgres_programs import EmbeddedPostgresError

DATABASE = "heirloom"
USER = "heirloom"
FAST_STOP_LIMIT = 15.0  # seconds: a shutdown writes what is dirty in 128 MB of buffers
QUICK_STOP_LIMIT = 5.0  # seconds: nothing is written, the next start recovers
POLL = 0.01  # seconds
PORT = 5432  # is part of the socket's name, and nothing else
SOCKET_NAME = f".s.PGSQL.{PORT}"
SOCKET_FOLDER_PREFIX = "heirloom-pg-"


class PidFile(NamedTuple):
    """What matters in postmaster.pid (PostgreSQL's src/include/utils/pidfile.h)."""

    pid: int
    socket_folder: Path
    ready: bool


def address(data_dir: Path) -> str:
    """Return the DSN of the server that runs on `data_dir`, for a process that does not own it.

    Raises EmbeddedPostgresError when none does.
    """
    try:
        found = read_pid_file(data_dir.resolve() / "postgres")
        if found is None or not found.ready:
            raise ConnectionRefusedError
        # Asking the socket, not the process table: a worker may be in a container of its own.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(os.fsencode(found.socket_folder / SOCKET_NAME))
    except OSError as error:
        raise EmbeddedPostgresError(
            f"no PostgreSQL answers for {data_dir}: start `heirloom serve` on it, or set HEIRLOOM_DATABASE_URL"
        ) from error
    return f"postgresql://{USER}@{quote(os.fsencode(found.socket_folder), safe='')}:{PORT}/{DATABASE}"


def read_pid_file(cluster: Path) -> PidFile | None:
    """None where there is no such file, or it is being written."""
    try:
        lines = os.fsdecode((cluster / "postmaster.pid").read_bytes()).splitlines()
        return PidFile(int(lines[0]), Path(lines[4]), len(lines) >= 8 and lines[7].strip() == "ready")
    except (FileNotFoundError, IndexError, ValueError):
        return None


def stop_leftover(cluster: Path) -> int | None:
    """Stop a server that outlived its owner. Return the pid in a postmaster.pid that stays behind, if one does."""
    left = read_pid_file(cluster)
    if left is None:
        return None
    if is_server_of(left.pid, cluster):
        stop(functools.partial(os.kill, left.pid), lambda: not is_server_of(left.pid, cluster))
    if left.socket_folder.name.startswith(SOCKET_FOLDER_PREFIX):
        shutil.rmtree(left.socket_folder, ignore_errors=True)
    return left.pid


def is_server_of(pid: int, cluster: Path) -> bool:
    """Its command line, and not its working folder: root in a container may not look at that of another user."""
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            return False
    else:
        ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
        command = subprocess.run(ps, capture_output=True, check=False).stdout  # noqa: S603  a number is all it takes
    return b"postgres -D " + os.fsencode(cluster) + b" -c " in command


def stop(send: Callable[[int], None], gone: Callable[[], bool]) -> None:
    """By the signals of a fast, then an immediate shutdown, then SIGKILL, until it is gone; 25 s at most."""
    steps = ((signal.SIGINT, FAST_STOP_LIMIT), (signal.SIGQUIT, QUICK_STOP_LIMIT), (signal.SIGKILL, QUICK_STOP_LIMIT))
    for number, limit in steps:
        try:
            send(number)
        except ProcessLookupError:
            return
        if wait_until(gone, limit):
            return


def wait_until(condition: Callable[[], bool], limit: float) -> bool:
    """Whether it has come true within `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(POLL)
    return met
