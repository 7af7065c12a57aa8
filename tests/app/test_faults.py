"""Every process killed at every step of both ways to upload: after a restart and the sweeps, rows and objects agree.

Each test says what the client makes of it: it tries again and gets what it wanted, or it gives up and nothing stays.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app import agreement, upload_endings
from app.settings import load
from app.wiring import open_services
from tests.client import Account, Json, register
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import SECRET_KEY, STOP_SECONDS, environment, free_port, spawned, wait_for, wait_until_ready

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kills as Linux does"),
    pytest.mark.xdist_group("faults"),
]

MIB = 1024 * 1024
SESSION = "id method state uploadUrl headers { name value } parts { partNumber url sizeBytes } media { id }"
CREATE = f"""mutation($input: CreateUploadSessionInput!) {{
    createUploadSession(input: $input) {{ session {{ {SESSION} }} duplicateOf {{ id }} errors {{ code message }} }}
}}"""
FIND = f"query($id: ID!) {{ uploadSession(id: $id) {{ {SESSION} }} }}"
COMPLETE = """mutation($id: ID!) {
    completeUpload(input: {sessionId: $id}) { media { id status } errors { code message } }
}"""
ABORT = "mutation($id: ID!) { abortUpload(sessionId: $id) { deletedId errors { code message } } }"
DELETE = "mutation($ids: [ID!]!) { deleteMedia(input: {ids: $ids}) { results { errors { code } } } }"
PURGE = "mutation($ids: [ID!]!) { purgeMedia(input: {ids: $ids}) { results { errors { code } } } }"


class World:
    """An API process and a worker that die where they are told to, and are started again."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder, self.dsn = folder, dsn
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = environment(
            folder / "data", port=port, database_url=dsn, secret_key=SECRET_KEY, processes=1, orphan_grace=0
        )
        self._moments = {name: folder / f"{name}.moment" for name in ("serve", "worker")}
        self._running = {name: ExitStack() for name in self._moments}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, moment: str = "") -> None:
        self._moments[name].write_text(moment)
        arguments = [sys.executable, "-m", "tests.faults", str(self._moments[name]), *_COMMANDS[name]]
        log = self.folder / f"{name}.log"
        process = self._running[name].enter_context(spawned(arguments, self.environment, log))
        self.processes[name] = process
        if name == "serve":
            wait_until_ready(self.url, process, log)

    def arm(self, name: str, moment: str) -> None:
        self._moments[name].write_text(moment)

    def wait_for_death(self, name: str) -> None:
        self.processes[name].wait(STOP_SECONDS)
        assert self.processes[name].returncode == -9
        self._running[name].close()

    def stop(self, name: str) -> None:
        self._running[name].close()

    def stop_all(self) -> None:
        for name in self._running:
            self.stop(name)

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def media_of(self, account: Account) -> set[str]:
        rows = await self.fetch("SELECT id::text FROM media WHERE owner = $1", uuid.UUID(account.id))
        return {row["id"] for row in rows}

    async def dies(self, name: str, moment: str, work: Awaitable[Any]) -> None:
        """The process dies at that moment of the work, and is there again afterwards."""
        self.arm(name, moment)
        with pytest.raises(httpx.TransportError):
            await work
        await asyncio.to_thread(self.wait_for_death, name)
        await asyncio.to_thread(self.start, name)

    async def agree(self) -> None:
        """After the sweeps: the storage's keys are the database's keys, and nothing waits."""
        # Nobody goes on with what is open, and no URL is good any more.
        await self.fetch("UPDATE upload_session SET expires_at = now() - interval '1 hour' WHERE state = 'OPEN'")
        await self.fetch("UPDATE pgqueuer SET execute_after = now() WHERE entrypoint = 'erase'")
        async with open_services(load(self.environment), dsn=self.dsn) as services:
            await upload_endings.sweep(services)
            await self._all_done()
            now = datetime.now(UTC) + timedelta(seconds=1)  # the grace is none, and what is found is older
            await agreement.check(services, repair=True, now=now)
            await self._all_done()
            assert (await agreement.check(services, repair=False, now=now)).faults == 0
            known = await self.fetch(
                "SELECT storage_key FROM media WHERE lost_at IS NULL UNION ALL SELECT storage_key FROM variant"
            )
            assert {stored.key async for stored in services.storage.list("")} == {row["storage_key"] for row in known}
            assert [upload async for upload in services.storage.list_multiparts()] == []
        assert [path for path in (self.folder / "data" / "scratch").glob("*/*") if path.is_file()] == []

    async def _all_done(self) -> None:
        limit = asyncio.get_running_loop().time() + STOP_SECONDS
        while unsettled := await self.fetch(
            "SELECT entrypoint AS what, status::text FROM pgqueuer WHERE entrypoint IN ('ingest', 'erase') UNION ALL"
            " SELECT 'media', status FROM media WHERE status IN ('PENDING', 'UPLOADED', 'PROCESSING')"
        ):
            assert asyncio.get_running_loop().time() < limit, unsettled
            await asyncio.sleep(0.05)


_COMMANDS = {"serve": ["serve", "--no-worker"], "worker": ["worker"]}


@pytest.fixture(scope="module")
async def world(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    name = f"faults_{worker_name}"
    world = World(tmp_path_factory.mktemp("faults"), await create_database(server_dsn, name))
    try:
        world.start("serve")
        world.start("worker")
        yield world
    finally:
        world.stop_all()
        await drop_database(server_dsn, name)


@pytest.fixture
async def ada(world: World) -> AsyncIterator[Account]:
    async with register(world.url, "Ada") as account:
        yield account


async def begin(account: Account, content: bytes, content_type: str = "image/jpeg", key: str | None = None) -> Json:
    """The session of a direct upload."""
    given = {"filename": "file", "contentType": content_type, "sizeBytes": len(content), "idempotencyKey": key}
    payload = await account.ask(CREATE, input=given)
    assert payload["errors"] == []
    session: Json = payload["session"]
    return session


async def send(session: Json, content: bytes) -> None:
    """All that has not arrived yet, straight into the storage."""
    async with httpx.AsyncClient(timeout=STOP_SECONDS) as anybody:
        if session["method"] == "SINGLE":
            headers = {header["name"]: header["value"] for header in session["headers"]}
            (await anybody.put(session["uploadUrl"], content=content, headers=headers)).raise_for_status()
            return
        size = 8 * MIB
        for part in session["parts"]:
            start = (part["partNumber"] - 1) * size
            chunk = content[start : start + part["sizeBytes"]]
            (await anybody.put(part["url"], content=chunk)).raise_for_status()


async def complete(account: Account, session: Json) -> str:
    payload = await account.ask(COMPLETE, id=session["id"])
    assert payload["errors"] == []
    media_id: str = payload["media"]["id"]
    return media_id


async def assert_kept(account: Account, media_id: str, content: bytes, status: str = "READY") -> None:
    """All bytes of it are there; what this is, is known."""
    media = await account.settled(media_id)
    assert (media["status"], media["sizeBytes"]) == (status, len(content))
    assert (await account.http.get(media["url"], headers={"authorization": ""})).content == content


def recording() -> bytes:
    """More than one part of sound; nothing here can process it yet."""
    size = 9 * MIB
    head = b"RIFF" + (size - 8).to_bytes(4, "little") + b"WAVEfmt \x10\x00\x00\x00"
    return head + uuid.uuid4().bytes * ((size - len(head)) // 16) + bytes((size - len(head)) % 16)


# What there is to send, under which type, and what becomes of it.
WAYS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "single": (lambda: photograph(64, 48), "image/jpeg", "READY"),
    "multipart": (recording, "audio/wav", "FAILED"),
}


BEGINNING = {
    "single": ["begin.in_transaction", "begin.committed"],
    "multipart": ["begin.multipart_created", "begin.in_transaction", "begin.committed"],
}


# ---------------------------------------------------------------- through GraphQL


async def test_an_upload_through_graphql(world: World, ada: Account) -> None:
    kept = {}
    for moment in ("upload.stored", "upload.in_transaction", "upload.committed"):
        content = photograph(64, 48)
        await world.dies("serve", moment, ada.upload(content, idempotencyKey=moment))
        kept[(await ada.uploaded(content, idempotencyKey=moment))["id"]] = content
    await world.agree()
    for media_id, content in kept.items():
        await assert_kept(ada, media_id, content)
    assert await world.media_of(ada) == set(kept)


async def test_an_upload_through_graphql_is_given_up(world: World, ada: Account) -> None:
    await world.dies("serve", "upload.stored", ada.upload(photograph(64, 48)))
    await world.agree()
    assert await world.media_of(ada) == set()


# ---------------------------------------------------------------- straight into the storage


@pytest.mark.parametrize("way", WAYS)
async def test_the_beginning(world: World, ada: Account, way: str) -> None:
    make, content_type, status = WAYS[way]
    kept = {}
    for moment in BEGINNING[way]:
        content = make()
        await world.dies("serve", moment, begin(ada, content, content_type, moment))
        session = await begin(ada, content, content_type, moment)  # with the same idempotency key
        await send(session, content)
        kept[await complete(ada, session)] = content
    await world.agree()
    for media_id, content in kept.items():
        await assert_kept(ada, media_id, content, status)
    assert await world.media_of(ada) == set(kept)


@pytest.mark.parametrize("way", WAYS)
async def test_the_beginning_is_given_up(world: World, ada: Account, way: str) -> None:
    make, content_type, _ = WAYS[way]
    moment = "begin.multipart_created" if way == "multipart" else "begin.committed"
    await world.dies("serve", moment, begin(ada, make(), content_type))
    await world.agree()
    rows = await world.fetch("SELECT status, lost_at IS NULL AS kept FROM media WHERE owner = $1", uuid.UUID(ada.id))
    assert rows == ([] if way == "multipart" else [{"status": "FAILED", "kept": False}])


@pytest.mark.parametrize("way", WAYS)
async def test_the_transfer(world: World, ada: Account, way: str) -> None:
    """The API process, which on local files is the storage too, dies while bytes arrive."""
    make, content_type, status = WAYS[way]
    content = make() if way == "multipart" else photograph(2000, 1500)
    session = await begin(ada, content, content_type)
    url = session["uploadUrl"] or session["parts"][0]["url"]
    headers = {header["name"]: header["value"] for header in session["headers"]}
    size = len(content) if way == "single" else session["parts"][0]["sizeBytes"]
    began, dead = asyncio.Event(), asyncio.Event()

    async def nearly_all() -> AsyncIterator[bytes]:
        yield content[: size - 1]
        began.set()
        await dead.wait()
        yield content[size - 1 : size]

    async with httpx.AsyncClient() as anybody:
        put = anybody.put(url, content=nearly_all(), headers={**headers, "content-length": str(size)})
        transfer = asyncio.create_task(put)
        await began.wait()
        files = world.folder / "data" / "files"
        await asyncio.to_thread(wait_for, lambda: any((files / ".incoming").iterdir()))
        world.processes["serve"].kill()
        await asyncio.to_thread(world.wait_for_death, "serve")
        dead.set()
        with pytest.raises(httpx.TransportError):
            await transfer
    await asyncio.to_thread(world.start, "serve")
    session = await ada.ask(FIND, id=session["id"])
    await send(session, content)
    await assert_kept(ada, await complete(ada, session), content, status)
    await world.agree()


@pytest.mark.parametrize("way", WAYS)
async def test_the_completion(world: World, ada: Account, way: str) -> None:
    make, content_type, status = WAYS[way]
    kept = {}
    for moment in ("complete.gathered", "complete.in_transaction", "complete.committed"):
        content = make()
        session = await begin(ada, content, content_type)
        await send(session, content)
        await world.dies("serve", moment, complete(ada, session))
        assert await complete(ada, session) == session["media"]["id"]
        kept[session["media"]["id"]] = content
    await world.agree()
    for media_id, content in kept.items():
        await assert_kept(ada, media_id, content, status)
    assert await world.media_of(ada) == set(kept)


@pytest.mark.parametrize("way", WAYS)
async def test_the_completion_is_given_up(world: World, ada: Account, way: str) -> None:
    make, content_type, _ = WAYS[way]
    content = make()
    session = await begin(ada, content, content_type)
    await send(session, content)
    await world.dies("serve", "complete.gathered", complete(ada, session))
    await world.agree()
    (row,) = await world.fetch(
        "SELECT status, failure_code FROM media WHERE id = $1", uuid.UUID(session["media"]["id"])
    )
    assert row == {"status": "FAILED", "failure_code": "NOT_UPLOADED"}
    payload = await ada.ask(COMPLETE, id=session["id"])
    assert (payload["media"], payload["errors"][0]["code"]) == (None, "CONFLICT")


@pytest.mark.parametrize("way", WAYS)
async def test_the_abort(world: World, ada: Account, way: str) -> None:
    make, content_type, _ = WAYS[way]
    sessions = []
    for moment in ("end.in_transaction", "end.committed", "abort.committed"):
        content = make()
        session = await begin(ada, content, content_type)
        await send(session, content)
        await world.dies("serve", moment, ada.ask(ABORT, id=session["id"]))
        assert await ada.ask(ABORT, id=session["id"]) == {"deletedId": session["id"], "errors": []}
        sessions.append(session["id"])
    await world.agree()
    assert {(await ada.ask(FIND, id=session_id))["state"] for session_id in sessions} == {"ABORTED"}


@pytest.mark.parametrize("moment", ["end.in_transaction", "end.committed"])
async def test_the_expiry(world: World, ada: Account, moment: str) -> None:
    content = recording()
    session = await begin(ada, content, "audio/wav")
    await send(session, content)
    await world.fetch("UPDATE upload_session SET expires_at = now() - interval '1 hour' WHERE state = 'OPEN'")
    world.stop("worker")
    await asyncio.to_thread(world.start, "worker", moment)
    await asyncio.to_thread(world.wait_for_death, "worker")
    await asyncio.to_thread(world.start, "worker")
    await world.agree()
    assert (await ada.ask(FIND, id=session["id"]))["state"] == "EXPIRED"


# ---------------------------------------------------------------- what follows


@pytest.mark.parametrize("direct", [False, True], ids=["graphql", "direct"])
async def test_the_processing(world: World, ada: Account, direct: bool) -> None:
    kept = {}
    for moment in ("ingest.begun", "ingest.fetched", "ingest.stored", "ingest.in_transaction", "ingest.committed"):
        content = photograph(64, 48)
        world.arm("worker", moment)
        if direct:
            session = await begin(ada, content)
            await send(session, content)
            kept[await complete(ada, session)] = content
        else:
            kept[(await ada.uploaded(content))["id"]] = content
        await asyncio.to_thread(world.wait_for_death, "worker")
        await asyncio.to_thread(world.start, "worker")
    await world.agree()
    for media_id, content in kept.items():
        await assert_kept(ada, media_id, content)
    assert await world.media_of(ada) == set(kept)


async def test_the_purge(world: World, ada: Account) -> None:
    urls = []
    for moment in ("purge.in_transaction", "purge.committed"):
        media = await ada.settled((await ada.uploaded(photograph(64, 48)))["id"])
        urls += [media["url"], *(variant["url"] for variant in media["variants"])]
        await ada.ask(DELETE, ids=[media["id"]])
        await world.dies("serve", moment, ada.ask(PURGE, ids=[media["id"]]))
        await ada.ask(PURGE, ids=[media["id"]])
    await world.agree()
    assert await world.media_of(ada) == set()
    for url in urls:
        assert (await ada.http.get(url, headers={"authorization": ""})).status_code == 404


async def test_the_erasure(world: World, ada: Account) -> None:
    media = await ada.settled((await ada.uploaded(photograph(64, 48)))["id"])
    await ada.ask(DELETE, ids=[media["id"]])
    world.arm("worker", "erase.deleted")
    await ada.ask(PURGE, ids=[media["id"]])
    await asyncio.to_thread(world.wait_for_death, "worker")
    await asyncio.to_thread(world.start, "worker")
    await world.agree()
    for url in (media["url"], *(variant["url"] for variant in media["variants"])):
        assert (await ada.http.get(url, headers={"authorization": ""})).status_code == 404
