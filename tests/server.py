"""Heirloom's own processes, started as users start them."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psutil

START_SECONDS = 60.0  # a machine that runs the whole suite is busy
STOP_SECONDS = 30.0
SECRET_KEY = secrets.token_hex(32)
# What a whole run is given: `make test EXECUTOR=stock`.
OF_THE_RUN = {name: os.environ[name] for name in ("HEIRLOOM_EXECUTOR",) if name in os.environ}


@dataclass(frozen=True)
class Server:
    url: str
    data_dir: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes] | None = None


Apart: TypeAlias = Callable[..., AbstractAsyncContextManager[Server]]  # the fixture `server_apart`


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Until it is true. Raises TimeoutError."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.03)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(data_dir: Path, /, **settings: object) -> dict[str, str]:
    """The process's own environment without any HEIRLOOM_ setting but these, and those of the run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEIRLOOM_")}
    given = {f"HEIRLOOM_{name.upper()}": str(value) for name, value in settings.items()}
    # Tests ask more in a minute, from one address, than any family does.
    return {**kept, "HEIRLOOM_DATA_DIR": str(data_dir), "HEIRLOOM_RATE_LIMITS": "off", **OF_THE_RUN, **given}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


@contextmanager
def spawned(
    arguments: list[str], environment: dict[str, str], log: Path, **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone after the block: asked first, then made to."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # type: ignore[call-overload]  # options are Popen's own
            arguments, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        # Not httpx, whose every `get` costs 28 ms of a core: this is asked again and again.
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # what urllib raises for a status that is none of success, too
        return False


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def ready_or_over() -> bool:
        return process.poll() is not None or is_ready(url)

    wait_for(ready_or_over, START_SECONDS)
    assert process.poll() is None, log.read_text()


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """Where PostgreSQL, which doesn't run as root, can go: `tmp_path` is its owner's alone."""
    folder = Path(tempfile.mkdtemp(prefix="heirloom-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(folder: Path, dsn: str | None, *, worker: bool = True, **settings: object) -> Iterator[Server]:
    """`heirloom serve`, and with a DSN `heirloom worker` beside it; without one, all that `serve` starts by itself."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    if dsn is not None:
        settings = {"database_url": dsn, "secret_key": SECRET_KEY, **settings}
    env = environment(folder / "data", port=port, **settings)
    with ExitStack() as stack:
        arguments = command("serve") if worker else command("serve", "--no-worker")
        process = stack.enter_context(spawned(arguments, env, folder / "serve.log"))
        wait_until_ready(url, process, folder / "serve.log")
        beside = None
        if dsn is not None and worker:
            beside = stack.enter_context(spawned(command("worker"), env, folder / "worker.log"))
        yield Server(url, folder / "data", env, process, beside)


def wait_until_working(log: Path) -> None:
    """Until the worker of this log looks for jobs: one that still starts can be neither paused nor waited for."""
    wait_for(lambda: b"The worker is ready." in log.read_bytes(), START_SECONDS)


@contextmanager
def working(server: Server) -> Iterator[Path]:
    """A worker that has begun to look for jobs, and its log."""
    log = server.data_dir.parent / f"worker-{uuid.uuid4().hex}.log"
    with spawned(command("worker"), server.environment, log):
        wait_until_working(log)
        yield log


def children(server: Server, name: str) -> list[psutil.Process]:
    """Those that run this command for it, "api" or "worker"; none that has just ended."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):
            if name in child.cmdline():
                found.append(child)
    return found
