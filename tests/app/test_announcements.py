"""`photo:uploaded` and `photo:deleted` on a real Redis: at least once and in order, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from redis import Redis, RedisError
from redis.asyncio import Redis as AsyncRedis

from app import announcements, event_cursors, trash
from app.announcements import DELETED, UPLOADED, announcing
from app.piccolo_conf import DB
from app.settings import load
from app.wiring import Services, open_services
from tests.app.in_process import LIMIT, migrated, somebody, until, upload
from tests.client import Account, admitted
from tests.footprint import fetch
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import SECRET_KEY, Server, free_port, running, wait_for, working

PROGRAM = shutil.which("redis-server")

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="there is no redis-server"),
    pytest.mark.xdist_group("announcements"),
]


@dataclass(frozen=True)
class Address:
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


@contextmanager
def redis_at(address: Address, folder: Path) -> Iterator[None]:
    """A Redis that keeps nothing."""
    assert PROGRAM is not None
    options = {"port": address.port, "bind": "127.0.0.1", "save": "", "dir": folder, "requirepass": address.password}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    process = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(address))
        yield
    finally:
        process.kill()
        process.wait()


def answers(address: Address) -> bool:
    try:
        with Redis.from_url(address.url) as redis:
            return bool(redis.ping())
    except RedisError:
        return False


@pytest.fixture
def address() -> Address:
    return Address(free_port(), secrets.token_hex(8))


@asynccontextmanager
async def subscribed(address: Address) -> AsyncIterator[Any]:
    """Another service, that hears both channels."""
    async with AsyncRedis.from_url(address.url) as redis, redis.pubsub() as heard:
        await heard.subscribe(UPLOADED, DELETED)
        for _ in range(2):
            assert (await heard.get_message(timeout=LIMIT))["type"] == "subscribe"
        yield heard


async def told(heard: Any, count: int) -> list[tuple[str, dict[str, Any]]]:
    messages = [await heard.get_message(timeout=LIMIT) for _ in range(count)]
    assert None not in messages
    return [(message["channel"].decode(), json.loads(message["data"])) for message in messages]


def by_id(messages: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    return [(channel, body["id"]) for channel, body in messages]


@pytest.fixture(scope="module")
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    name = f"announcements_{worker_name}"
    yield await migrated(server_dsn, name)
    await drop_database(server_dsn, name)


@pytest.fixture
async def services(dsn: str, address: Address, tmp_path: Path) -> AsyncIterator[Services]:
    variables = {"DATABASE_URL": dsn, "DATA_DIR": str(tmp_path), "SECRET_KEY": SECRET_KEY}
    settings = load({f"HEIRLOOM_{name}": value for name, value in variables.items()})
    async with open_services(settings, dsn=dsn) as services:
        await DB._run_in_pool("DELETE FROM event_cursor WHERE name = 'redis'")
        # The process's own limits have nothing to do with it.
        yield replace(services, settings=replace(settings, redis_url=address.url))


@asynccontextmanager
async def worker(services: Services, dsn: str) -> AsyncIterator[None]:
    """What announces, over a connection that is known by its name; it has begun."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, server_settings={"application_name": "announcer"})

    async with announcing(services, connect):
        await until(lambda: DB._run_in_pool("SELECT FROM event_cursor WHERE name = 'redis'"))
        yield


async def place() -> tuple[int, int]:
    rows = await DB._run_in_pool("SELECT xid::text::bigint AS xid, id FROM event_cursor WHERE name = 'redis'")
    return rows[0]["xid"], rows[0]["id"]


async def last_event() -> tuple[int, int]:
    rows = await DB._run_in_pool(
        "SELECT xid::text::bigint AS xid, id FROM event ORDER BY event.xid DESC, id DESC LIMIT 1"
    )
    return rows[0]["xid"], rows[0]["id"]


# ---------------------------------------------------------------- what is told


async def test_uploads_of_both_ways_and_deletions_are_told(
    server_dsn: str, worker_name: str, tmp_path: Path, address: Address
) -> None:
    """Over the whole way: a server, a worker, and another service that fetches what it was told of."""
    name = f"announced_{worker_name}"
    dsn = await create_database(server_dsn, name)
    with (
        redis_at(address, tmp_path),
        running(tmp_path, dsn, worker=False, redis_url=address.url, processes=1) as server,
        working(server) as log,
    ):
        async with admitted(server, "Ada") as ada, subscribed(address) as heard:
            await begun(server)
            await check_what_is_told(ada, heard)
        assert address.password not in log.read_text()
    await drop_database(server_dsn, name)


async def begun(server: Server) -> None:
    await until(lambda: fetch(server, "SELECT FROM event_cursor WHERE name = 'redis'"))


async def check_what_is_told(ada: Account, heard: Any) -> None:
    person = await ada.person()
    content = [photograph(64, 48), photograph(64, 48)]
    simple = await ada.uploaded(content[0], entityId=person["id"])
    direct = await ada.sent(content[1], "direct.jpg")
    messages = await told(heard, 2)
    assert by_id(messages) == [(UPLOADED, simple["id"]), (UPLOADED, direct["id"])]
    for (_, body), media, original, filename, entity in zip(
        messages, (simple, direct), content, ("photo.jpg", "direct.jpg"), (person["id"], None), strict=True
    ):
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(body.pop("url"))).content == original
        assert body.pop("urlExpiresAt")
        assert body.pop("publicId").startswith("MED-")
        assert body == {
            "id": media["id"],
            "userId": ada.id,
            "entityId": entity,
            "kind": "IMAGE",
            "filename": filename,
            "contentType": "image/jpeg",
            "sizeBytes": len(original),
        }
    for mutation, channel in (("deleteMedia", DELETED), ("restoreMedia", UPLOADED), ("deleteMedia", DELETED)):
        await ada.ask(
            f"mutation($ids: [ID!]!) {{ {mutation}(input: {{ids: $ids}}) {{ errors {{ code }} }} }}", ids=[direct["id"]]
        )
        assert by_id(await told(heard, 1)) == [(channel, direct["id"])]
    await ada.ask("mutation($ids: [ID!]!) { purgeMedia(input: {ids: $ids}) { errors { code } } }", ids=[direct["id"]])
    assert await told(heard, 1) == [(DELETED, {"id": direct["id"]})]


async def test_what_is_gone_by_the_time_it_is_told_has_no_url(
    services: Services, dsn: str, address: Address, tmp_path: Path
) -> None:
    ada = await somebody()
    async with worker(services, dsn):
        pass
    gone, trashed = [(await upload(services, ada)).id for _ in range(2)]
    for media_id in (gone, trashed):
        await trash.delete(ada, media_id)
    await trash.purge(services, ada, gone)
    with redis_at(address, tmp_path):
        async with subscribed(address) as heard, worker(services, dsn):
            messages = await told(heard, 5)
    assert by_id(messages) == [
        *((UPLOADED, str(each)) for each in (gone, trashed)),
        *((DELETED, str(each)) for each in (gone, trashed, gone)),
    ]
    without = {"userId": str(ada.id), "entityId": None, "url": None, "urlExpiresAt": None}
    assert [body for _, body in messages[:2]] == [{"id": str(each), **without} for each in (gone, trashed)]


# ---------------------------------------------------------------- whatever is away


async def test_nothing_is_lost_while_redis_is_away(
    services: Services, dsn: str, address: Address, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one who hears is there all the time; what tells reaches it by a relay, from time to time."""
    ada = await somebody()
    by_relay = replace(address, port=free_port())
    services = replace(services, settings=replace(services.settings, redis_url=by_relay.url))
    with redis_at(address, tmp_path):
        async with subscribed(address) as heard, worker(services, dsn):
            for times in (1, 2):
                before = await place()
                made = [str((await upload(services, ada)).id) for _ in range(3)]
                await until(partial(outages, caplog, times))
                assert await heard.get_message(timeout=0.05) is None
                assert await place() == before
                async with relay(by_relay.port, address.port):
                    assert by_id(await told(heard, 3)) == [(UPLOADED, each) for each in made]
                    await settled()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert address.password not in caplog.text


def outages(caplog: pytest.LogCaptureFixture, times: int) -> bool:
    return caplog.text.count("can't be told") == times


@asynccontextmanager
async def relay(port: int, target: int) -> AsyncIterator[None]:
    """From one port to another, for as long as the block: then connections end too."""
    pumps: set[asyncio.Task[None]] = set()
    open_writers: list[asyncio.StreamWriter] = []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
        open_writers.extend((writer, there_writer))
        pumps.update(asyncio.create_task(pump(*ends)) for ends in ((reader, there_writer), (there_reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", port):
        yield
        for writer in open_writers:
            writer.close()
        await asyncio.gather(*pumps, return_exceptions=True)


async def test_of_several_workers_one_tells_and_another_goes_on(
    services: Services, dsn: str, address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections are ended again and again; what is told a second time was not known to have been told."""
    monkeypatch.setattr(announcements, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(announcements, "RETRY_SECONDS", (0.05,))
    ada = await somebody()
    with redis_at(address, tmp_path):
        async with subscribed(address) as heard, AsyncExitStack() as workers:
            for _ in range(3):
                await workers.enter_async_context(worker(services, dsn))
            made: list[str] = []
            for number in range(60):
                made.append(str((await upload(services, ada)).id))
                if number % 15 == 10:
                    await end_holder()
            first: list[str] = []
            async with asyncio.timeout(LIMIT):
                while len(first) < len(made):
                    ((channel, body),) = await told(heard, 1)
                    assert channel == UPLOADED
                    if body["id"] not in first:
                        first.append(body["id"])
            assert first == made
            # All is quiet: with nobody cut off, one alone tells, and each event once.
            await settled()
            while await heard.get_message(timeout=0.05):
                pass
            last = [str((await upload(services, ada)).id) for _ in range(5)]
            assert by_id(await told(heard, 5)) == [(UPLOADED, each) for each in last]
            await settled()
            assert await heard.get_message(timeout=0.1) is None


async def end_holder() -> None:
    await DB._run_in_pool(
        "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND datname = current_database() AND application_name = 'announcer'"
    )


async def settled() -> None:
    """Until the stored place is that of the last event."""

    async def is_there() -> bool:
        return await place() == await last_event()

    await until(is_there)


async def test_what_was_told_and_not_stored_is_told_again(
    services: Services, dsn: str, address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a worker that was killed between the two."""
    ada = await somebody()
    move = event_cursors.Consumer.move
    failed = 0

    async def fails_once(self: event_cursors.Consumer, cursor: Any) -> None:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise ConnectionResetError
        await move(self, cursor)

    with redis_at(address, tmp_path):
        async with subscribed(address) as heard, worker(services, dsn):
            monkeypatch.setattr(event_cursors.Consumer, "move", fails_once)
            made = await upload(services, ada)
            assert by_id(await told(heard, 2)) == [(UPLOADED, str(made.id))] * 2
            await settled()
            assert await heard.get_message(timeout=0.1) is None


async def test_the_first_time_it_begins_now(services: Services, dsn: str, address: Address, tmp_path: Path) -> None:
    ada = await somebody()
    await upload(services, ada)
    with redis_at(address, tmp_path):
        async with subscribed(address) as heard, worker(services, dsn):
            made = await upload(services, ada)
            assert by_id(await told(heard, 1)) == [(UPLOADED, str(made.id))]


async def test_without_an_address_nobody_is_told(services: Services, dsn: str) -> None:
    async def connect() -> asyncpg.Connection:
        raise AssertionError("nothing connects")

    async with announcing(replace(services, settings=replace(services.settings, redis_url=None)), connect):
        await upload(services, await somebody())
    assert await DB._run_in_pool("SELECT FROM event_cursor WHERE name = 'redis'") == []
