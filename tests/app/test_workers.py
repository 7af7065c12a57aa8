"""Several API processes at one port: what is done through one holds for all, and each dies for itself."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
from websockets import ConnectionClosed

from app.postmaster import address
from tests.app.test_processes import wait_until_gone
from tests.app.test_progress import ENDED, LOGOUT
from tests.app.test_rate_limits import redis_server
from tests.client import WAIT_SECONDS, Account, Client, Socket, admitted
from tests.pictures import photograph
from tests.server import (
    SECRET_KEY,
    START_SECONDS,
    STOP_SECONDS,
    Server,
    children,
    command,
    environment,
    free_port,
    reachable_folder,
    running,
    spawned,
    wait_for,
)
from tests.web.test_direct_example import WAV

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel deals connections out in other ways"),
    pytest.mark.xdist_group("workers"),
]

CONNECTIONS = 60
FEWEST = 10  # of them that one of two has, by chance; once in a hundred million times fewer
TRIES = 100  # until a connection is dealt to one of two
UPLOADS = 6
CURSOR = "{ eventsCursor }"
FOLLOW = "subscription($after: String) { mediaEvents(after: $after) { kind mediaId } }"
VIEWER = "{ viewer { email } }"


def serving(server: Server, number: int = 2) -> list[psutil.Process]:
    """The API processes, as soon as so many listen."""
    found: list[psutil.Process] = []

    def all_listen() -> bool:
        with suppress(psutil.Error):  # one has just ended
            found[:] = filter(listens, children(server, "api"))
        return len(found) == number

    wait_for(all_listen, START_SECONDS)
    return found


def listens(process: psutil.Process) -> bool:
    return any(each.status == psutil.CONN_LISTEN for each in process.net_connections("tcp"))


def has_taken(process: psutil.Process, client: tuple[str, int]) -> bool:
    """Whether the process has the connection from that address and port."""
    return any(each.raddr == client for each in process.net_connections("tcp"))


def log_of(server: Server) -> str:
    return (server.data_dir.parent / "serve.log").read_text()


@pytest.fixture(scope="module")
def cluster(database_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two: the option goes over the setting. Over Redis, where there is one."""
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    settings = {"database_url": database_dsn, "secret_key": SECRET_KEY, "port": port, "workers": 3}
    with ExitStack() as stack:
        if shutil.which("redis-server"):
            settings["redis_url"] = stack.enter_context(redis_server(folder, free_port()))
        env = environment(folder / "data", rate_limits="on", upload_rate=f"{UPLOADS}/36000", **settings)
        arguments = command("serve", "--no-worker", "--workers", "2")
        process = stack.enter_context(spawned(arguments, env, folder / "serve.log"))
        server = Server(f"http://127.0.0.1:{port}", folder / "data", env, process)
        serving(server)
        yield server


@pytest.fixture
async def ada(cluster: Server) -> AsyncIterator[Account]:
    async with admitted(cluster, "Ada") as ada:
        yield ada


async def setting(dsn: str, name: str) -> str:
    """A setting of PostgreSQL's."""
    connection = await asyncpg.connect(dsn)
    try:
        value: str = await connection.fetchval(f"SHOW {name}")
        return value
    finally:
        await connection.close()


@asynccontextmanager
async def client_of(process: psutil.Process, url: str, token: str | None = None) -> AsyncIterator[Client]:
    """One whose connection that process has taken."""
    for _ in range(TRIES):
        async with Client(url, token) as client:
            answer = await client.http.get("/health/live")
            if has_taken(process, answer.extensions["network_stream"].get_extra_info("client_addr")):
                yield client
                return
    raise AssertionError(f"process {process.pid} takes no connection")


@asynccontextmanager
async def socket_of(process: psutil.Process, account: Account) -> AsyncIterator[Socket]:
    for _ in range(TRIES):
        async with account.socket() as socket:
            if has_taken(process, socket.connection.local_address):
                yield socket
                return
    raise AssertionError(f"process {process.pid} takes no connection")


async def upload_told(socket: Socket) -> str:
    """The media of the next upload. What becomes of others is told too, where another test has a worker."""
    while True:
        message = await socket.receive()
        assert message["type"] == "next"
        event = message["payload"]["data"]["mediaEvents"]
        if event["kind"] == "UPLOADED":
            media_id: str = event["mediaId"]
            return media_id


# ---------------------------------------------------------------- all of them serve


def test_it_is_said_once_that_they_serve(cluster: Server) -> None:
    wait_for(lambda: "Heirloom is at" in log_of(cluster))
    assert log_of(cluster).count(f"Heirloom is at {cluster.url}/graphiql/") == 1
    assert log_of(cluster).count("Heirloom is at") == 1


async def test_connections_are_dealt_out_to_all(cluster: Server) -> None:
    processes = serving(cluster)
    parts = urlsplit(cluster.url)
    writers = [(await asyncio.open_connection(parts.hostname, parts.port))[1] for _ in range(CONNECTIONS)]
    clients = {writer.get_extra_info("sockname") for writer in writers}

    def taken() -> list[int]:
        return [len(clients & {each.raddr for each in process.net_connections("tcp")}) for process in processes]

    wait_for(lambda: sum(taken()) == CONNECTIONS)
    assert min(taken()) >= FEWEST
    for writer in writers:
        writer.close()


async def test_a_subscription_hears_of_what_is_uploaded_through_another_process(cluster: Server, ada: Account) -> None:
    one, other = serving(cluster)
    async with socket_of(one, ada) as at_one, socket_of(other, ada) as at_other:
        cursor = await ada.ask(CURSOR)
        for socket in (at_one, at_other):
            await socket.start(FOLLOW, after=cursor)
        for process in (one, other):
            async with client_of(process, ada.url, ada.token) as client:
                media = await client.uploaded(photograph(8, 8))
            assert [await upload_told(at_one), await upload_told(at_other)] == [media["id"]] * 2


async def test_who_leaves_through_one_process_is_gone_from_all(cluster: Server, ada: Account) -> None:
    one, other = serving(cluster)
    async with socket_of(one, ada) as socket:
        operation = await socket.start(FOLLOW, after=await ada.ask(CURSOR))
        async with client_of(other, ada.url, ada.token) as client:
            assert await client.ask(LOGOUT) == {"errors": []}
        assert await socket.receive() == {
            "type": "next",
            "id": operation,
            "payload": {"data": None, "errors": [ENDED]},
        }
    for process in (one, other):
        async with client_of(process, ada.url, ada.token) as client:
            assert (await client.http.post("/graphql", json={"query": VIEWER})).status_code == 401


async def test_parts_of_an_upload_may_go_to_any_process(cluster: Server, ada: Account) -> None:
    processes = serving(cluster)
    async with client_of(processes[0], ada.url, ada.token) as client:
        size = 8 * 1024 * 1024 + 1000
        content = (WAV + secrets.token_bytes(1000)).ljust(size, b"w")
        session = await client.begun(size, "ada.wav", contentType="audio/wav")
    for process, part in zip(processes, session["parts"], strict=True):
        start = (part["partNumber"] - 1) * session["partSize"]
        headers = {header["name"]: header["value"] for header in part["headers"]}
        async with client_of(process, ada.url) as anybody:
            body = content[start : start + part["sizeBytes"]]
            assert (await anybody.http.put(part["url"], content=body, headers=headers)).status_code == 200
    async with client_of(processes[1], ada.url, ada.token) as client:
        found = await client.found(session["id"])
        assert [part["partNumber"] for part in found["uploadedParts"]] == [1, 2]
        media = await client.completed(session["id"])
    for process in processes:
        async with client_of(process, ada.url) as anybody:
            assert (await anybody.http.get(media["url"])).content == content


async def test_over_redis_they_count_together(cluster: Server) -> None:
    if "HEIRLOOM_REDIS_URL" not in cluster.environment:
        pytest.skip("there is no redis-server")
    codes: list[list[str]] = []
    away = -1
    while away != log_of(cluster).count("Redis is away"):  # for a moment, on a busy machine: each counted for itself
        codes, away = [], log_of(cluster).count("Redis is away")
        async with admitted(cluster, "Una") as una:
            for number in range(UPLOADS + 2):
                async with client_of(serving(cluster)[number % 2], una.url, una.token) as client:
                    payload = await client.begin(1000 + number)
                codes.append([error["code"] for error in payload["errors"]])
    assert codes == [[]] * UPLOADS + [["RATE_LIMITED"]] * 2


async def test_one_that_dies_takes_no_other_with_it_and_comes_back(cluster: Server, ada: Account) -> None:
    one, other = serving(cluster)
    async with socket_of(other, ada) as socket:
        await socket.start(FOLLOW, after=await ada.ask(CURSOR))
        one.kill()
        assert await wait_until_gone([one]) == []
        for _ in range(20):
            async with Client(ada.url, ada.token) as client:
                assert await client.ask(VIEWER) == {"email": ada.email}
        async with Client(ada.url, ada.token) as client:
            media = await client.uploaded(photograph(8, 8))
        assert await upload_told(socket) == media["id"]
    [new] = [process for process in serving(cluster) if process != other]
    assert new != one
    async with client_of(new, ada.url, ada.token) as client:
        assert await client.ask(VIEWER) == {"email": ada.email}
    assert log_of(cluster).count("An API process has died; the next one starts in 0.2 s.") == 1


# ---------------------------------------------------------------- how they start and end


def test_a_port_that_is_taken_is_told(cluster: Server) -> None:
    """They share theirs: but not with those of another server."""
    arguments = command("serve", "--no-worker", "--workers", "2")
    ended = subprocess.run(arguments, env=cluster.environment, capture_output=True, text=True, timeout=60, check=False)
    said = ended.stderr.splitlines()[-1]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said.startswith("heirloom: HEIRLOOM_HOST and HEIRLOOM_PORT: ")
    assert "Address already in use" in said
    assert len(serving(cluster)) == 2


def test_what_is_wrong_with_the_settings_is_told_once(cluster: Server, tmp_path: Path) -> None:
    missing = tmp_path / "documents.json"
    env = {**cluster.environment, "HEIRLOOM_PORT": str(free_port()), "HEIRLOOM_TRUSTED_DOCUMENTS": str(missing)}
    arguments = command("serve", "--no-worker", "--workers", "2")
    ended = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("heirloom: HEIRLOOM_TRUSTED_DOCUMENTS: ")
    assert ended.stderr.count("\n") == 1


async def test_all_end_with_what_is_open(database_dsn: str, tmp_path: Path) -> None:
    """Whom a service manager tells so, all at once."""
    follow = {"query": "subscription { mediaEvents { kind } }"}
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running(tmp_path, database_dsn, worker=False, workers=2))
        ada = await stack.enter_async_context(admitted(server, "Ada"))
        sockets, streams = [], []
        for process in serving(server):
            sockets.append(await stack.enter_async_context(socket_of(process, ada)))
            await sockets[-1].start(FOLLOW)
            client = await stack.enter_async_context(client_of(process, ada.url, ada.token))
            streaming = client.http.stream("POST", "/graphql", json=follow, headers={"accept": "text/event-stream"})
            streams.append(await stack.enter_async_context(streaming))
        family = psutil.Process(server.process.pid).children(recursive=True)
        for process in family:
            process.terminate()
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, STOP_SECONDS) == 0
        assert await wait_until_gone(family) == []
        for opened in sockets:
            with pytest.raises(ConnectionClosed):
                await opened.receive()
            assert opened.connection.close_code == 1012  # "service restart": come again
        async with asyncio.timeout(WAIT_SECONDS):
            assert ["complete" in (await stream.aread()).decode() for stream in streams] == [False, False]
    assert "has died" not in log_of(server)


async def test_ctrl_c_ends_those_that_are_about_to_start(cluster: Server, tmp_path: Path) -> None:
    env = {**cluster.environment, "HEIRLOOM_PORT": str(free_port())}
    log = tmp_path / "serve.log"
    with spawned(command("serve", "--no-worker", "--workers", "2"), env, log) as process:
        family: list[psutil.Process] = []

        def begun() -> bool:
            family[:] = psutil.Process(process.pid).children()
            return bool(family)

        wait_for(begun, START_SECONDS)
        [first] = family
        assert os.getsid(first.pid) == first.pid  # the terminal tells the one above, and that one tells it
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, STOP_SECONDS) == 0
        assert await wait_until_gone(family) == []
    assert log.read_text() == ""


async def test_nothing_outlives_a_server_that_is_killed() -> None:
    with reachable_folder() as folder, running(folder, None, workers=2, database_pool=40) as server:
        assert int(await setting(address(server.data_dir), "max_connections")) >= 3 * 40 + 20
        processes = serving(server)
        wait_for(lambda: "Heirloom is at" in log_of(server), START_SECONDS)
        family = psutil.Process(server.process.pid).children(recursive=True)
        words = {word for child in family for word in (child.name(), *child.cmdline())}
        assert {"postgres", "worker", "api"} <= words
        assert len(processes) == 2
        server.process.kill()
        assert await wait_until_gone(family) == []
