"""A disk that is nearly full: what it has left is the database's, and what was asked for is done once there is room."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.base import DISK_RESERVE
from tests.client import WATCH, Account, admitted, deliver
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import SECRET_KEY, Server, environment, free_port, spawned, wait_until_ready

pytestmark = pytest.mark.xdist_group("full disk")  # one set of processes

TWO_PARTS = 9 * 1024**2
PLENTY = 2**40
# `heirloom`, told by a file how many bytes the disk has left.
HEIRLOOM = """
import shutil, sys
from pathlib import Path
from types import SimpleNamespace
from app.cli import main
left = Path(sys.argv[1])
shutil.disk_usage = lambda folder: SimpleNamespace(free=int(left.read_text()))
sys.exit(main(sys.argv[2:]))
"""


class Disk:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.leave(PLENTY)

    def leave(self, size: int) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text(str(size))
        beside.replace(self.file)

    def leave_room_for(self, size: int) -> None:
        self.leave(DISK_RESERVE + size)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(tmp_path_factory.mktemp("full-disk") / "left")


@pytest.fixture(scope="module")
async def api(server_dsn: str, worker_name: str, disk: Disk) -> AsyncIterator[Server]:
    """An API process; the worker is started by those who want one."""
    name = f"full_disk_{worker_name}"
    dsn = await create_database(server_dsn, name)
    port, log, data = free_port(), disk.file.with_name("serve.log"), disk.file.with_name("data")
    env = environment(data, port=port, database_url=dsn, secret_key=SECRET_KEY)
    with spawned([sys.executable, "-c", HEIRLOOM, str(disk.file), "serve", "--no-worker"], env, log) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        yield Server(url, data, env, process)
    await drop_database(server_dsn, name)


@pytest.fixture
async def ada(api: Server, disk: Disk) -> AsyncIterator[Account]:
    disk.leave(PLENTY)
    async with admitted(api, "Ada") as account:
        yield account


@contextmanager
def working(api: Server, disk: Disk) -> Iterator[None]:
    arguments = [sys.executable, "-c", HEIRLOOM, str(disk.file), "worker"]
    with spawned(arguments, api.environment, disk.file.with_name("worker.log")):
        yield


async def test_a_completion_waits_for_room(ada: Account, disk: Disk) -> None:
    session = await ada.begun(TWO_PARTS)
    picture = photograph(64, 48)
    await deliver(session, picture + os.urandom(TWO_PARTS - len(picture)))
    disk.leave_room_for(TWO_PARTS - 1)
    payload = await ada.complete(session["id"])
    assert payload["media"] is None
    assert [error["code"] for error in payload["errors"]] == ["STORAGE_UNAVAILABLE"]
    found = await ada.found(session["id"])
    assert (found["state"], found["media"]["status"], len(found["uploadedParts"])) == ("OPEN", "PENDING", 2)
    disk.leave_room_for(TWO_PARTS)
    assert (await ada.completed(session["id"]))["status"] == "UPLOADED"


async def test_an_upload_is_not_spooled_without_room(ada: Account, api: Server, disk: Disk) -> None:
    disk.leave_room_for(1000)
    answer = await ada.post_files("{ __typename }", {}, {"file": ("photo.jpg", bytes(1000))})
    assert answer.status_code == 503
    assert [error["message"] for error in answer.json()["errors"]] == [
        "The server has no room for files at the moment."
    ]
    assert not any(path.is_file() for path in (api.data_dir / "scratch").rglob("*"))


async def test_processing_waits_for_room(ada: Account, api: Server, disk: Disk) -> None:
    picture = photograph(64, 48)
    media = await ada.uploaded(picture)
    disk.leave_room_for(len(picture) - 1)
    updates = []
    with working(api, disk):
        async with ada.socket() as socket:
            async for data in socket.subscribe(WATCH, id=media["id"]):
                update = data["mediaProcessing"]
                updates.append((update["status"], update["stage"]))
                if updates[-1] == ("PROCESSING", "QUEUED"):
                    disk.leave_room_for(len(picture))
    assert [each for each in updates if each != ("UPLOADED", "QUEUED")] == [
        ("PROCESSING", "FETCHING"),
        ("PROCESSING", "QUEUED"),
        ("PROCESSING", "FETCHING"),
        ("PROCESSING", "ANALYZING"),
        ("PROCESSING", "RENDERING"),
        ("PROCESSING", "STORING"),
        ("READY", "DONE"),
    ]
