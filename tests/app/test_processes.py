"""Real processes, killed at the worst moments: nothing acknowledged is lost, and nothing stays behind."""

from __future__ import annotations

import asyncio
import functools
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
from PIL import Image
from websockets import ConnectionClosed

from app.embedded import EmbeddedPostgres
from app.postmaster import address
from tests.client import MEDIA, PASSWORD, WAIT_SECONDS, WATCH, Account, Client, Json, register
from tests.pictures import encoded, photograph
from tests.postgres import create_database, drop_database
from tests.server import STOP_SECONDS, Server, children, command, reachable_folder, running, spawned

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and prctl below it"),
    pytest.mark.xdist_group("processes"),  # one set of processes, however many of xdist's workers there are
]

RECOVERY_SECONDS = 15.0  # what a killed worker may cost
GONE_SECONDS = 10.0
CRASHED = {"code": "CRASHED", "message": "Processing of this file crashed."}
LOGIN = "mutation($input: LoginInput!) { login(input: $input) { accessToken errors { code } } }"
BYTES = "query($id: ID!) { media(id: $id) { status variants { name url sizeBytes } } }"


@functools.cache
def slow_picture() -> bytes:
    """63 megapixels in a small file: a decoder is at it for a second or more."""
    gradient = Image.linear_gradient("L").resize((9000, 7000))
    return encoded(Image.merge("RGB", (gradient, gradient.rotate(180), gradient)), "PNG", compress_level=1)


@pytest.fixture(scope="module")
def laptop() -> Iterator[Server]:
    """All that `heirloom serve` starts by itself."""
    with reachable_folder() as folder, running(folder, None, processing_attempts=2) as server:
        yield server


@pytest.fixture
async def ada(laptop: Server) -> AsyncIterator[Account]:
    async with register(laptop.url, "Ada") as account:
        yield account


def worker_of(server: Server) -> psutil.Process | None:
    return next(iter(children(server, "worker")), None)


def decoders_of(server: Server, media_id: str) -> list[psutil.Process]:
    """Those that have the media's file open."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if process.username() != psutil.Process().username():
                continue  # PostgreSQL
            if any(f"/{media_id}-" in file.path for file in process.open_files()):
                found.append(process)
        except psutil.Error:  # it has ended, or is about to
            continue
    return [process for process in found if process != worker_of(server)]


def leftovers(server: Server) -> list[Path]:
    return list((server.data_dir / "scratch").glob("*/*"))


async def attempts(dsn: str, media_id: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        counted: int = await connection.fetchval(
            "SELECT processing_attempts FROM media WHERE id = $1", uuid.UUID(media_id)
        )
        return counted
    finally:
        await connection.close()


async def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after GONE_SECONDS."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, GONE_SECONDS)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


# ---------------------------------------------------------------- the worker


async def test_a_worker_killed_at_its_work_is_made_up_for(laptop: Server, ada: Account) -> None:
    async with ada.socket() as socket:
        media = await ada.uploaded(slow_picture(), "slow.png")
        stages: list[str] = []
        killed = 0.0
        async for update in socket.subscribe(WATCH, id=media["id"]):
            told = update["mediaProcessing"]
            stages.append(told["stage"])
            if told["stage"] == "RENDERING" and not killed:
                first = worker_of(laptop)
                assert first is not None
                assert len(leftovers(laptop)) == 1
                first.kill()
                killed = time.monotonic()
    assert time.monotonic() - killed < RECOVERY_SECONDS
    begun = stages.index("RENDERING")
    assert stages[begun:] == ["RENDERING", "FETCHING", "ANALYZING", "RENDERING", "STORING", "DONE"]
    assert told["status"] == "READY"
    assert await attempts(address(laptop.data_dir), media["id"]) == 2
    second = worker_of(laptop)
    assert second is not None
    assert second != first
    assert leftovers(laptop) == []
    ready = await ada.ask(BYTES, id=media["id"])
    assert [variant["name"] for variant in ready["variants"]] == ["THUMBNAIL", "SMALL", "MEDIUM", "LARGE"]


async def test_a_file_that_kills_its_decoder_fails_and_hurts_no_other(laptop: Server, ada: Account) -> None:
    media = await ada.uploaded(slow_picture(), "poison.png")
    watching = asyncio.create_task(ada.watch(media["id"]))
    killed: set[int] = set()
    other: Json | None = None
    while not watching.done():
        for decoder in await asyncio.to_thread(decoders_of, laptop, media["id"]):
            with suppress(psutil.NoSuchProcess):  # it has been killed before, and its file was still open
                decoder.kill()
                killed.add(decoder.pid)
        if killed and other is None:
            other = await ada.uploaded(photograph(), "innocent.jpg")
        await asyncio.sleep(0.005)
    last = (await watching)[-1]
    assert (last["status"], last["stage"], last["failure"]) == ("FAILED", "DONE", CRASHED)
    assert len(killed) == 2
    assert await attempts(address(laptop.data_dir), media["id"]) == 2
    assert other is not None
    assert (await ada.settled(other["id"]))["status"] == "READY"
    assert await attempts(address(laptop.data_dir), other["id"]) == 1
    failed = await ada.ask(f"query($id: ID!) {{ media(id: $id) {{ {MEDIA} }} }}", id=media["id"])
    assert failed["variants"] == []
    assert (await ada.http.get(failed["url"])).content == slow_picture()
    assert leftovers(laptop) == []


async def test_a_file_that_kills_the_worker_fails_in_the_end(server_dsn: str, worker_name: str) -> None:
    """Workers of our own, so that none is slow to be started again."""
    name = f"processes_{worker_name}"
    dsn = await create_database(server_dsn, name)
    with (
        reachable_folder() as folder,
        running(folder, dsn, worker=False, processing_attempts=2) as server,
    ):
        async with register(server.url, "Ada") as ada, ada.socket() as socket:
            media = await ada.uploaded(slow_picture(), "poison.png")
            operation = await socket.start(WATCH, id=media["id"])
            for began in (1, 2):
                with spawned(command("worker"), server.environment, folder / "worker.log") as worker:
                    # By the row, since events may come late: those of this database wait for transactions of others.
                    async with asyncio.timeout(WAIT_SECONDS):
                        while await attempts(dsn, media["id"]) < began:  # noqa: ASYNC110
                            await asyncio.sleep(0.02)
                    worker.kill()
                    worker.wait()
            with spawned(command("worker"), server.environment, folder / "worker.log"):
                told: Json = {}
                while told.get("stage") != "DONE":
                    told = (await socket.receive())["payload"]["data"]["mediaProcessing"]
                assert leftovers(server) == []
                assert (await ada.settled((await ada.uploaded(photograph()))["id"]))["status"] == "READY"
            assert await socket.receive() == {"type": "complete", "id": operation}
            assert told["status"] == "FAILED"
            assert told["failure"] == {"code": "CRASHED", "message": "Processing was cut off 2 times."}
            assert await attempts(dsn, media["id"]) == 3  # the last of which did no work
    await drop_database(server_dsn, name)


# ---------------------------------------------------------------- the server


async def test_a_second_server_on_the_same_folder_is_refused(laptop: Server) -> None:
    ended = await asyncio.to_thread(
        subprocess.run, command("serve"), env=laptop.environment, capture_output=True, text=True, timeout=60
    )
    folder = laptop.data_dir.resolve()
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        2,
        "",
        f"heirloom: the database in {folder} is in use by process {laptop.process.pid}\n",
    )
    async with Client(laptop.url) as client:
        assert (await client.http.get("/health/ready")).status_code == 200


async def test_a_killed_server_leaves_nothing_and_the_next_serves_the_same() -> None:
    with reachable_folder() as folder:
        with running(folder, None) as server:
            async with register(server.url, "Ada") as ada:
                media = await ada.settled((await ada.uploaded(photograph()))["id"])
                await ada.uploaded(slow_picture(), "slow.png")  # the decoders are at work
                family = psutil.Process(server.process.pid).children(recursive=True)
                assert {"postgres", "worker"} <= {word for child in family for word in (child.name(), *child.cmdline())}
                server.process.kill()
                assert await wait_until_gone(family) == []
        with running(folder, None) as server:
            async with Client(server.url) as nobody:
                signed_in = await nobody.ask(LOGIN, input={"email": ada.email, "password": PASSWORD})
            async with Client(server.url, signed_in["accessToken"]) as again:
                found = await again.ask(BYTES, id=media["id"])
                assert found["status"] == "READY"
                assert [each["name"] for each in found["variants"]] == [each["name"] for each in media["variants"]]
                for variant in found["variants"]:
                    assert len((await again.http.get(variant["url"])).content) == variant["sizeBytes"]


async def test_a_server_that_is_asked_to_stop_finishes_what_runs_and_leaves_nothing() -> None:
    with reachable_folder() as folder:
        with running(folder, None) as server:
            async with register(server.url, "Ada") as ada, ada.socket() as socket:
                media = await ada.uploaded(slow_picture(), "slow.png")
                await socket.start(WATCH, id=media["id"])
                while (await socket.receive())["payload"]["data"]["mediaProcessing"]["stage"] != "RENDERING":
                    pass
                family = psutil.Process(server.process.pid).children(recursive=True)
                server.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.process.wait, STOP_SECONDS) == 0
                assert await wait_until_gone(family) == []
                with suppress(ConnectionClosed):
                    while await socket.receive():
                        pass
                assert socket.connection.close_code == 1012  # "service restart": come again
            assert leftovers(server) == []
        with EmbeddedPostgres(folder / "data") as database:
            connection = await asyncpg.connect(address(database.data_dir))
            rows = await connection.fetch("SELECT status, processing_attempts FROM media")
            assert [tuple(row) for row in rows] == [("READY", 1)]
            waiting = await connection.fetch("SELECT entrypoint FROM pgqueuer")
            assert [row["entrypoint"] for row in waiting] == ["sweep"]  # tomorrow
            await connection.close()
