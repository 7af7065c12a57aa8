"""What workers do beside their jobs: at their start and from time to time, and whatever goes wrong with the rest."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from app import housekeeping, trash, upload_endings
from tests.client import Account, admitted
from tests.footprint import fetch
from tests.graphql_schema.rows import dsn_of, execute
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import Server, running, working

pytestmark = pytest.mark.xdist_group("housekeeping")  # one set of processes


@pytest.fixture(scope="module")
async def shop(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    name = f"housekeeping_{worker_name}"
    dsn = await create_database(server_dsn, name)
    with running(tmp_path_factory.mktemp("housekeeping"), dsn, worker=False, processes=1) as server:
        yield server
    await drop_database(server_dsn, name)


@pytest.fixture
async def ada(shop: Server) -> AsyncIterator[Account]:
    async with admitted(shop, "Ada") as account:
        yield account


async def until(server: Server, query: str) -> None:
    """Until the query gives true."""
    async with asyncio.timeout(20):
        while not (await fetch(server, f"SELECT ({query}) AS is_so"))[0]["is_so"]:  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(0.05)


async def test_what_is_over_goes_with_its_bytes_and_the_daily_check_is_ordered_once(shop: Server, ada: Account) -> None:
    delete = "mutation($ids: [ID!]!) { deleteMedia(input: {ids: $ids}) { results { errors { code } } } }"
    one_check = "SELECT count(*) = 1 FROM pgqueuer WHERE entrypoint = 'sweep' AND execute_after > now()"
    with working(shop):
        old, new = [(await ada.uploaded(photograph(64, 48)))["id"] for _ in range(2)]
        for media in (old, new):
            assert (await ada.settled(media))["status"] == "READY"
        await until(shop, one_check)
    assert await ada.ask(delete, ids=[old, new]) == {"results": [{"errors": []}] * 2}
    long_ago = "now() - interval '31 days'"
    await execute(dsn_of(shop), f"UPDATE media SET deleted_at = {long_ago} WHERE id = $1", uuid.UUID(old))
    await execute(
        dsn_of(shop),
        'INSERT INTO session (id, "user", generation, created_at, expires_at)'
        f" VALUES (gen_random_uuid(), $1, 0, {long_ago}, {long_ago})",
        uuid.UUID(ada.id),
    )
    with working(shop), working(shop):
        await until(shop, f"SELECT NOT EXISTS (SELECT FROM media WHERE id = '{old}')")
        await until(shop, "SELECT NOT EXISTS (SELECT FROM pgqueuer WHERE entrypoint = 'erase')")
        await until(shop, "SELECT count(*) = 1 FROM session")
    assert await fetch(shop, one_check) == [{"?column?": True}]
    assert await ada.ask("{ viewer { email } }") == {"email": ada.email}
    rows = await fetch(shop, "SELECT storage_key FROM media UNION ALL SELECT storage_key FROM variant")
    files = shop.data_dir / "files"
    assert {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()} == {
        row["storage_key"] for row in rows
    }
    events = "SELECT count(*) FROM event WHERE kind = 'PURGED' AND media = $1"
    assert [await fetch(shop, events, uuid.UUID(media)) for media in (old, new)] == [[{"count": 1}], [{"count": 0}]]


async def test_a_chore_that_fails_is_tried_again_and_in_no_others_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    enough = asyncio.Event()

    def chore(name: str, error: Exception | None) -> Callable[..., Awaitable[Any]]:
        async def work(*_: object, **__: object) -> None:
            done.append(name)
            if done.count("uploads") > 2 and done.count("trash") > 2 and done.count("queue") > 2:
                enough.set()
            if error is not None:
                raise error

        return work

    monkeypatch.setattr(housekeeping, "MINUTE", timedelta(0))
    monkeypatch.setattr(housekeeping, "TIDY_EVERY", timedelta(0))
    monkeypatch.setattr(upload_endings, "sweep", chore("uploads", OSError("no connection")))
    monkeypatch.setattr(trash, "purge_expired", chore("trash", ValueError("a mistake")))
    monkeypatch.setattr(housekeeping, "_tidy", chore("queue", None))
    monkeypatch.setattr(housekeeping, "_forget", chore("events", None))
    monkeypatch.setattr(housekeeping, "_clear_unfinished", chore("files", None))
    house = asyncio.create_task(housekeeping.keep_house(None, "nowhere"))  # type: ignore[arg-type]  # nobody looks
    async with asyncio.timeout(10):
        await enough.wait()
    house.cancel()
    with pytest.raises(asyncio.CancelledError):
        await house
    assert done.count("files") == 1
    told = {(record.levelname, record.getMessage().partition(" could")[0]) for record in caplog.records}
    assert told == {("WARNING", "Uploads that have run out"), ("ERROR", "The trash")}
