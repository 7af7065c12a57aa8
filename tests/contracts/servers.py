"""Real S3 servers, started for the tests and gone with them."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ACCESS_KEY = "heirloomtests"
SECRET_KEY = "asecretfortestsonly"
REGION = "us-east-1"
START_SECONDS = 60.0  # radosgw takes a good ten of them on two free cores
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 server on loopback that knows ACCESS_KEY and checks its signatures."""

    name: str
    endpoint_url: str
    secure_url: str | None = None


@contextmanager
def daemon(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours, killed at the end: these servers keep nothing that is worth an orderly stop."""
    with log.open("ab") as output, subprocess.Popen([*map(str, command)], stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool], *, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `condition` holds; fails with the log's end when the process dies or time is up."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(POLL_SECONDS)


def answers(url: str) -> bool:
    """Whether something speaks HTTP there, be it to refuse us."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def aws_variables() -> Iterator[None]:
    """The usual ones for the processes that are started meanwhile, and nothing of the machine's own configuration."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield
