"""Every process killed at every step of both ways to upload: after a restart and the sweeps, rows and objects agree.

Each test says what the client makes of it: it tries again and gets what it wanted, or it gives up and nothing stays.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app import agreement, upload_endings
from app.settings import load
from app.wiring import open_services
from tests import faults
from tests.client import Account, Json, admitted, deliver, put
from tests.contracts.rclone import rclone
from tests.contracts.servers import answers, aws_variables
from tests.postgres import create_database, drop_database
from tests.server import SECRET_KEY, STOP_SECONDS, environment, free_port, wait_for
from tests.test_direct_shapes import picture
from tests.test_shapes import on_s3

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kills as Linux does"),
    pytest.mark.xdist_group("faults"),
]

MIB = 1024 * 1024
DELETE = "mutation($ids: [ID!]!) { deleteMedia(input: {ids: $ids}) { results { errors { code } } } }"
PURGE = "mutation($ids: [ID!]!) { purgeMedia(input: {ids: $ids}) { results { errors { code } } } }"
COMMANDS = {"serve": ["serve", "--no-worker"], "worker": ["worker"]}

WAYS = pytest.mark.parametrize(
    "size", [64 * 1024, 9 * MIB], ids=["single", "multipart"]
)  # bytes: one PUT, or two parts
STORAGES = pytest.mark.parametrize("world", ["local", "rclone"], indirect=True)


class World:
    """An API process and a worker that die where they are told to, and are started again."""

    def __init__(self, folder: Path, dsn: str, **settings: Any) -> None:
        self.folder, self.dsn = folder, dsn
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = environment(
            folder / "data",
            port=port,
            database_url=dsn,
            secret_key=SECRET_KEY,
            processes=1,
            processing_attempts=20,  # on a busy machine a worker that is only slow is taken for a dead one
            orphan_grace=0,
            **settings,
        )
        self._moments = {name: folder / f"{name}.moment" for name in COMMANDS}
        self.processes: dict[str, ForkServerProcess] = {}

    def start(self, name: str, moment: str = "") -> None:
        self.arm(name, moment)
        log = self.folder / f"{name}.log"
        process = faults.started(self._moments[name], self.environment, log, COMMANDS[name])
        self.processes[name] = process
        if name == "serve":
            wait_for(lambda: not process.is_alive() or answers(self.url), STOP_SECONDS)
            assert process.is_alive(), log.read_text()

    def arm(self, name: str, moment: str) -> None:
        self._moments[name].write_text(moment)

    def wait_for_death(self, name: str) -> None:
        self.processes[name].join(STOP_SECONDS)
        assert self.processes[name].exitcode == -9

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def media_of(self, account: Account) -> set[str]:
        rows = await self.fetch("SELECT id::text FROM media WHERE owner = $1", uuid.UUID(account.id))
        return {row["id"] for row in rows}

    async def dies(self, moment: str, work: Awaitable[Any]) -> None:
        """The API process dies at that moment of the work, and is there again afterwards."""
        self.arm("serve", moment)
        with pytest.raises(httpx.TransportError):
            await work
        await self.begins_anew("serve")

    async def begins_anew(self, name: str) -> None:
        """Once it has died, as it was told to."""
        await asyncio.to_thread(self.wait_for_death, name)
        await asyncio.to_thread(self.start, name)

    async def worker_dies_at_its_chores(self, moment: str) -> None:
        """A new worker sees to everything at once; it dies at that moment, and another is there afterwards."""
        self.processes["worker"].kill()
        await asyncio.to_thread(self.wait_for_death, "worker")
        await asyncio.to_thread(self.start, "worker", moment)
        await self.begins_anew("worker")

    async def agree(self) -> None:
        """After the sweeps: the storage's keys are the database's keys, and nothing waits."""
        # Nobody goes on with what is open.
        await self.fetch("UPDATE upload_session SET expires_at = now() - interval '1 hour' WHERE state = 'OPEN'")
        async with open_services(load(self.environment), dsn=self.dsn) as services:
            await upload_endings.sweep(services)
            await self.all_done()
            now = datetime.now(UTC) + timedelta(seconds=1)  # the grace is none, and what is found is older
            await agreement.check(services, repair=True, now=now)
            await self.all_done()
            assert (await agreement.check(services, repair=False, now=now)).faults == 0
            known = await self.fetch(
                "SELECT storage_key FROM media WHERE lost_at IS NULL UNION ALL SELECT storage_key FROM variant"
            )
            assert {stored.key async for stored in services.storage.list("")} == {row["storage_key"] for row in known}
            assert [upload async for upload in services.storage.list_multiparts()] == []
        assert [path for path in (self.folder / "data" / "scratch").glob("*/*") if path.is_file()] == []

    async def all_done(self) -> None:
        """Every job; also those that wait until no URL is good any more."""
        limit = asyncio.get_running_loop().time() + STOP_SECONDS
        while unsettled := await self.fetch(
            "SELECT entrypoint AS what, status::text FROM pgqueuer WHERE entrypoint IN ('ingest', 'erase') UNION ALL"
            " SELECT 'media', status FROM media WHERE status IN ('PENDING', 'UPLOADED', 'PROCESSING')"
        ):
            assert asyncio.get_running_loop().time() < limit, unsettled
            await self.fetch(
                "UPDATE pgqueuer SET execute_after = now() WHERE entrypoint = 'erase' AND execute_after > now()"
            )
            await asyncio.sleep(0.05)

    async def stored(self) -> set[str]:
        """The keys of all that is there, and the ids of uploads in parts."""
        async with open_services(load(self.environment), dsn=self.dsn) as services:
            keys = {stored.key async for stored in services.storage.list("")}
            return keys | {upload.upload_id async for upload in services.storage.list_multiparts()}


@pytest.fixture(scope="module")
async def worlds(
    server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, World]]:
    """By their storage."""
    async with AsyncExitStack() as stack:
        stack.enter_context(aws_variables())
        bucket = stack.enter_context(rclone(tmp_path_factory.mktemp("bucket")))
        worlds = {}
        for storage, settings in {"local": {}, "rclone": on_s3(bucket.endpoint_url)}.items():
            name = f"faults_{storage}_{worker_name}"
            dsn = await create_database(server_dsn, name)
            stack.push_async_callback(drop_database, server_dsn, name)
            worlds[storage] = World(tmp_path_factory.mktemp(name), dsn, **settings)
            stack.callback(worlds[storage].stop)
            worlds[storage].start("serve")
            worlds[storage].start("worker")
        yield worlds


@pytest.fixture
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> World:
    """On local files, unless a test names another storage."""
    return worlds[getattr(request, "param", "local")]


@pytest.fixture
async def ada(world: World) -> AsyncIterator[Account]:
    async with admitted(world, "Ada") as account:
        yield account


async def assert_kept(account: Account, kept: dict[str, bytes]) -> None:
    """Each is READY, and all bytes of it are there."""
    async with httpx.AsyncClient() as anybody:
        for media_id, content in kept.items():
            media = await account.settled(media_id)
            assert (media["status"], media["failure"], media["sizeBytes"]) == ("READY", None, len(content))
            assert (await anybody.get(media["url"])).content == content


async def assert_gone(urls: list[str]) -> None:
    async with httpx.AsyncClient() as anybody:
        assert {(await anybody.get(url)).status_code for url in urls} == {404}


def urls_of(media: Json) -> list[str]:
    return [media["url"], *(variant["url"] for variant in media["variants"])]


# ---------------------------------------------------------------- through GraphQL


async def test_an_upload_through_graphql(world: World, ada: Account) -> None:
    kept = {}
    for moment in ("upload.stored", "upload.in_transaction", "upload.committed"):
        content = picture(4096)
        await world.dies(moment, ada.upload(content, idempotencyKey=moment))
        kept[(await ada.uploaded(content, idempotencyKey=moment))["id"]] = content
    await world.agree()
    await assert_kept(ada, kept)
    assert await world.media_of(ada) == set(kept)


async def test_an_upload_through_graphql_is_given_up(world: World, ada: Account) -> None:
    await world.dies("upload.stored", ada.upload(picture(4096)))
    await world.agree()
    assert await world.media_of(ada) == set()


# ---------------------------------------------------------------- straight into the storage


@STORAGES
@WAYS
async def test_the_beginning(world: World, ada: Account, size: int) -> None:
    created = ["begin.multipart_created"] if size > 5 * MIB else []
    kept = {}
    for moment in (*created, "begin.in_transaction", "begin.committed"):
        content = picture(size)
        await world.dies(moment, ada.begin(size, idempotencyKey=moment))
        kept[(await ada.sent(content, idempotencyKey=moment))["id"]] = content
    await world.agree()
    await assert_kept(ada, kept)
    assert await world.media_of(ada) == set(kept)


@STORAGES
@WAYS
async def test_the_beginning_is_given_up(world: World, ada: Account, size: int) -> None:
    created = size > 5 * MIB
    await world.dies("begin.multipart_created" if created else "begin.committed", ada.begin(size))
    await world.agree()
    rows = await world.fetch("SELECT status, lost_at IS NULL AS kept FROM media WHERE owner = $1", uuid.UUID(ada.id))
    assert rows == ([] if created else [{"status": "FAILED", "kept": False}])


@pytest.mark.parametrize("size", [4 * MIB, 9 * MIB], ids=["single", "multipart"])  # more than waits in a buffer
async def test_the_transfer(world: World, ada: Account, size: int) -> None:
    """The API process, which on local files is the storage too, dies while bytes arrive."""
    content = picture(size)
    session = await ada.begun(size)
    url = session["uploadUrl"] or session["parts"][0]["url"]
    headers = {header["name"]: header["value"] for header in session["headers"]}
    length = session["parts"][0]["sizeBytes"] if session["parts"] else size
    began, dead = asyncio.Event(), asyncio.Event()

    async def nearly_all() -> AsyncIterator[bytes]:
        yield content[: length - 1]
        began.set()
        await dead.wait()
        yield content[length - 1 : length]

    async with httpx.AsyncClient() as anybody:
        sending = anybody.put(url, content=nearly_all(), headers={**headers, "content-length": str(length)})
        transfer = asyncio.create_task(sending)
        await began.wait()
        files = world.folder / "data" / "files"
        await asyncio.to_thread(wait_for, lambda: any((files / ".incoming").iterdir()))
        world.processes["serve"].kill()
        await asyncio.to_thread(world.wait_for_death, "serve")
        dead.set()
        with pytest.raises(httpx.TransportError):
            await transfer
    await asyncio.to_thread(world.start, "serve")
    found = await ada.found(session["id"])
    assert found["uploadedParts"] == []
    await deliver(found, content)
    await assert_kept(ada, {(await ada.completed(session["id"]))["id"]: content})
    await world.agree()


@STORAGES
@WAYS
async def test_the_completion(world: World, ada: Account, size: int) -> None:
    kept = {}
    for moment in ("complete.gathered", "complete.in_transaction", "complete.committed"):
        content = picture(size)
        session = await ada.begun(size)
        await deliver(session, content)
        await world.dies(moment, ada.complete(session["id"]))
        assert (await ada.completed(session["id"]))["id"] == session["media"]["id"]
        kept[session["media"]["id"]] = content
    await world.agree()
    await assert_kept(ada, kept)
    assert await world.media_of(ada) == set(kept)


@STORAGES
@WAYS
async def test_the_completion_is_given_up(world: World, ada: Account, size: int) -> None:
    session = await ada.begun(size)
    await deliver(session, picture(size))
    await world.dies("complete.gathered", ada.complete(session["id"]))
    await world.agree()
    assert await failures(ada, session) == ["NOT_UPLOADED"]
    payload = await ada.complete(session["id"])
    assert (payload["media"], payload["errors"][0]["code"]) == (None, "CONFLICT")


async def failures(account: Account, *sessions: Json) -> list[str]:
    """Why each of the media failed."""
    media = [(await account.found(session["id"]))["media"] for session in sessions]
    assert {each["status"] for each in media} == {"FAILED"}
    assert {each["url"] for each in media} == {None}
    return [each["failure"]["code"] for each in media]


@WAYS
async def test_the_refusal(world: World, ada: Account, size: int) -> None:
    """Of bytes that are not what was promised. Who asks again is told so, or that the upload has ended by that."""
    message = "These bytes are no picture, film, recording or document that is known here."
    sessions = []
    for moment, code in (("end.in_transaction", "UNSUPPORTED_TYPE"), ("end.committed", "CONFLICT")):
        session = await ada.begun(size)
        await deliver(session, bytes(size))
        await world.dies(moment, ada.complete(session["id"]))
        payload = await ada.complete(session["id"])
        error = {"code": code, "message": message, "path": ["input", "sessionId"]}
        assert payload == {"media": None, "duplicateOf": None, "errors": [error]}
        sessions.append(session)
    await world.agree()
    assert await failures(ada, *sessions) == ["UNSUPPORTED"] * 2
    assert {(await ada.found(session["id"]))["state"] for session in sessions} == {"ABORTED"}


@STORAGES
@WAYS
async def test_the_abort(world: World, ada: Account, size: int) -> None:
    sessions = []
    for moment in ("end.in_transaction", "end.committed", "abort.committed"):
        session = await ada.begun(size)
        await deliver(session, picture(size))
        await world.dies(moment, ada.abort(session["id"]))
        assert await ada.abort(session["id"]) == {"deletedId": session["id"], "errors": []}
        sessions.append(session)
    await world.agree()
    assert await failures(ada, *sessions) == ["NOT_UPLOADED"] * 3
    assert {(await ada.found(session["id"]))["state"] for session in sessions} == {"ABORTED"}


async def test_the_expiry(world: World, ada: Account) -> None:
    sessions = []
    for moment in ("end.in_transaction", "end.committed"):
        session = await ada.begun(9 * MIB)
        await deliver(session, picture(9 * MIB))
        await world.fetch("UPDATE upload_session SET expires_at = now() - interval '1 hour' WHERE state = 'OPEN'")
        await world.worker_dies_at_its_chores(moment)
        sessions.append(session)
    await world.agree()
    assert await failures(ada, *sessions) == ["NOT_UPLOADED"] * 2
    assert {(await ada.found(session["id"]))["state"] for session in sessions} == {"EXPIRED"}


async def test_the_burial(world: World, ada: Account) -> None:
    """Of what was aborted long ago, and of what a URL that was good for longer has brought since."""
    for moment in ("purge.in_transaction", "purge.committed"):
        single, parts = await ada.begun(4096), await ada.begun(9 * MIB)
        for session in (single, parts):
            assert (await ada.abort(session["id"]))["errors"] == []
        await world.all_done()
        assert (await put(single["uploadUrl"], single["headers"], picture(4096))).status_code == 200
        late = world.folder / "data" / "files" / "incoming" / f"{single['id']}.jpg"
        assert late.is_file()
        await world.fetch("UPDATE upload_session SET ended_at = ended_at - interval '30 days' WHERE state = 'ABORTED'")
        await world.worker_dies_at_its_chores(moment)
        await asyncio.to_thread(wait_for, lambda: not late.exists(), STOP_SECONDS)  # noqa: B023 - at once
        assert await ada.found(single["id"]) is await ada.found(parts["id"]) is None
        assert await world.media_of(ada) == set()
    await world.agree()


# ---------------------------------------------------------------- what follows


@pytest.mark.parametrize("size", [None, 4096, 5 * MIB + 1], ids=["graphql", "single", "multipart"])
async def test_the_processing(world: World, ada: Account, size: int | None) -> None:
    kept = {}
    for moment in ("ingest.begun", "ingest.fetched", "ingest.stored", "ingest.in_transaction", "ingest.committed"):
        content = picture(size or 4096)
        world.arm("worker", moment)
        media = await (ada.sent(content) if size else ada.uploaded(content))
        await world.begins_anew("worker")
        kept[media["id"]] = content
    await world.agree()
    await assert_kept(ada, kept)
    assert await world.media_of(ada) == set(kept)


async def in_the_trash(account: Account) -> Json:
    media = await account.settled((await account.uploaded(picture(4096)))["id"])
    await account.ask(DELETE, ids=[media["id"]])
    return media


async def test_the_purge(world: World, ada: Account) -> None:
    urls = []
    for moment in ("purge.in_transaction", "purge.committed"):
        media = await in_the_trash(ada)
        urls += urls_of(media)
        await world.dies(moment, ada.ask(PURGE, ids=[media["id"]]))
        await ada.ask(PURGE, ids=[media["id"]])
    await world.agree()
    assert await world.media_of(ada) == set()
    await assert_gone(urls)


async def test_the_purge_of_what_was_in_the_trash_for_long(world: World, ada: Account) -> None:
    new = await in_the_trash(ada)
    urls = []
    for moment in ("purge.in_transaction", "purge.committed"):
        old = await in_the_trash(ada)
        urls += urls_of(old)
        await world.fetch("UPDATE media SET deleted_at = now() - interval '1 year' WHERE id = $1", uuid.UUID(old["id"]))
        await world.worker_dies_at_its_chores(moment)
        await until_only(world, ada, new["id"])
    await world.all_done()
    await assert_gone(urls)
    await world.agree()
    assert await world.media_of(ada) == {new["id"]}


async def until_only(world: World, account: Account, media_id: str) -> None:
    """Until the account has no other media."""
    async with asyncio.timeout(STOP_SECONDS):
        while await world.media_of(account) != {media_id}:  # noqa: ASYNC110 - a row tells nobody
            await asyncio.sleep(0.05)


async def test_the_erasure(world: World, ada: Account) -> None:
    media = await in_the_trash(ada)
    world.arm("worker", "erase.deleted")
    await ada.ask(PURGE, ids=[media["id"]])
    await world.begins_anew("worker")
    await world.all_done()
    await assert_gone(urls_of(media))
    await world.agree()


async def test_the_erasure_of_parts(world: World, ada: Account) -> None:
    session = await ada.begun(9 * MIB)
    await deliver(session, picture(9 * MIB))
    assert session["uploadId"] in await world.stored()
    world.arm("worker", "erase.deleted")
    assert (await ada.abort(session["id"]))["errors"] == []
    await asyncio.to_thread(world.wait_for_death, "worker")
    # The job that was at it is there still.
    assert session["uploadId"] not in await world.stored()
    jobs = await world.fetch("SELECT convert_from(payload, 'UTF8') AS payload FROM pgqueuer WHERE entrypoint = 'erase'")
    assert [session["uploadId"] in job["payload"] for job in jobs] == [True]
    await asyncio.to_thread(world.start, "worker")
    await world.all_done()
    await world.agree()
