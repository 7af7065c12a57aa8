"""Each way in which storage and database can disagree, made by hand: told, left alone, mended, and not found again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import tracemalloc
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import pytest

from app import agreement, known_keys
from app.agreement import LOCK, Kind
from app.migrate import migrate
from app.settings import load
from app.wiring import Services, open_services
from processing.variants import VariantName
from storage.base import ObjectStorage, OpenUpload, StoredObject
from storage.keys import variant_key
from tests.client import Account, Json, register
from tests.footprint import fetch, footprint
from tests.graphql_schema.rows import dsn_of, execute, insert_media
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import Server, command, running, spawned, wait_for

pytestmark = pytest.mark.xdist_group("agreement")  # one deployment

GRACE = 3600  # seconds
MIB = 1024 * 1024
LONG_AGO = datetime.now(UTC) - timedelta(days=2)
ROWS = """SELECT (SELECT json_agg(media ORDER BY id) FROM media) AS media,
    (SELECT json_agg(variant ORDER BY id) FROM variant) AS variants"""


@pytest.fixture(scope="module")
async def shop(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """An API process; workers are started by those who want one."""
    name = f"agreement_{worker_name}"
    dsn = await create_database(server_dsn, name)
    settings = {"orphan_grace": GRACE, "processes": 1, "processing_attempts": 1}
    with running(tmp_path_factory.mktemp("agreement"), dsn, worker=False, **settings) as server:
        yield server
    await drop_database(server_dsn, name)


@pytest.fixture
async def server(shop: Server) -> Server:
    """All agrees before each test, whatever the one before has left."""
    files = shop.data_dir / "files"
    for path in files.rglob("*"):
        if path.is_file():
            path.unlink()
    await execute(dsn_of(shop), "TRUNCATE media, event, pgqueuer CASCADE")
    assert check(shop) == (0, {})
    return shop


@pytest.fixture
async def ada(server: Server) -> AsyncIterator[Account]:
    async with register(server.url, "Ada") as account:
        yield account


@pytest.fixture
async def root(server: Server) -> AsyncIterator[Account]:
    """An administrator."""
    async with register(server.url, "Root") as account:
        await execute(dsn_of(server), "UPDATE user_account SET role = 'ADMIN' WHERE id = $1", uuid.UUID(account.id))
        yield account


@contextmanager
def working(server: Server) -> Iterator[Path]:
    """A worker that has begun to look for jobs, and its log."""
    log = server.data_dir.parent / f"worker-{uuid.uuid4().hex}.log"
    with spawned(command("worker"), server.environment, log):
        wait_for(lambda: b"The worker is ready." in log.read_bytes(), 30)
        yield log


def heirloom(server: Server, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and error."""
    ended = subprocess.run(
        command(*arguments), env=server.environment, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def check(server: Server, *options: str) -> tuple[int, dict[str, tuple[int, int]]]:
    """Exit status, and of each kind that there is how many, and how many of these were mended."""
    status, said, complained = heirloom(server, "storage", "check", "--json", *options)
    assert complained == ""
    return status, counts(json.loads(said))


def counts(report: Json) -> dict[str, tuple[int, int]]:
    found = report["findings"].items()
    return {kind: (told["count"], told["mended"]) for kind, told in found if told["count"]}


def examples(report: Json) -> dict[str, list[tuple[str, str | None]]]:
    found = report["findings"].items()
    return {kind: [(each["key"], each["id"]) for each in told["examples"]] for kind, told in found if told["count"]}


async def everything(server: Server) -> tuple[object, object]:
    """All rows about media, and all that is stored."""
    return await fetch(server, ROWS), await footprint(server)


async def keys_of(server: Server, media: str) -> tuple[str, list[str]]:
    """The key of the original, and those of the variants."""
    (row,) = await fetch(server, "SELECT storage_key FROM media WHERE id = $1", uuid.UUID(media))
    rows = await fetch(server, "SELECT storage_key FROM variant WHERE media = $1 ORDER BY 1", uuid.UUID(media))
    return row["storage_key"], [variant["storage_key"] for variant in rows]


def path_of(server: Server, key: str) -> Path:
    return server.data_dir / "files" / key


def plant(server: Server, key: str, *, modified: datetime = LONG_AGO, content: bytes = b"bytes") -> Path:
    """An object that nobody has asked for."""
    path = path_of(server, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified.timestamp(), modified.timestamp()))
    return path


async def pictures(ada: Account, number: int) -> list[str]:
    """Ids of pictures that are READY. A worker runs."""
    ids = [(await ada.uploaded(photograph(64, 48)))["id"] for _ in range(number)]
    assert [(await ada.settled(media))["status"] for media in ids] == ["READY"] * number
    return ids


async def lose(server: Server, media: str) -> None:
    """As the worker leaves what it has found to be gone."""
    await execute(
        dsn_of(server),
        "UPDATE media SET status = 'FAILED', failure_code = 'STORAGE', failure_message = 'Gone.', lost_at = now()"
        " WHERE id = $1",
        uuid.UUID(media),
    )


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.05)


def stale_upload(server: Server, key: str) -> tuple[str, Path]:
    """The id of an upload in parts that was begun long ago and has no row, and its folder."""
    upload_id = uuid.uuid4().hex
    folder = server.data_dir / "files" / ".uploads" / upload_id
    folder.mkdir()
    (folder / "key").write_text(key)
    os.utime(folder / "key", (LONG_AGO.timestamp(), LONG_AGO.timestamp()))
    return upload_id, folder


# ---------------------------------------------------------------- each kind


async def test_each_kind_is_told_and_mended_and_the_next_check_is_clean(server: Server, ada: Account) -> None:
    with working(server):
        gone, thinned, grown, back, elsewhere, fine = await pictures(ada, 6)
    keys = {media: await keys_of(server, media) for media in (gone, thinned, grown, back, elsewhere, fine)}
    path_of(server, keys[gone][0]).unlink()
    path_of(server, keys[thinned][1][2]).unlink()
    original = path_of(server, keys[grown][0])
    true_bytes = original.read_bytes()
    original.write_bytes(true_bytes + b"more")
    await lose(server, back)
    await execute(dsn_of(server), "UPDATE media SET storage_backend = 's3' WHERE id = $1", uuid.UUID(elsewhere))
    path_of(server, keys[elsewhere][0]).unlink()
    stray = plant(server, "image/a/stray.jpg")
    young = plant(server, "image/a/young.jpg", modified=datetime.now(UTC))
    tombstone = {"status": "FAILED", "failure_code": "NOT_UPLOADED", "lost_at": LONG_AGO, "sha256": None}
    (never,) = await insert_media(dsn_of(server), ada.id, [{**tombstone, "storage_key": "image/a/late.jpg"}])
    late = plant(server, "image/a/late.jpg")
    await insert_media(dsn_of(server), ada.id, [{"status": "PENDING", "sha256": None}])
    upload_id, parts = stale_upload(server, "image/a/parts.mp4")

    before = await everything(server)
    status, said, complained = heirloom(server, "storage", "check", "--json")
    assert (status, complained) == (1, "")
    report = json.loads(said)
    assert (report["agrees"], report["repair"]) == (False, False)
    assert (report["objects"], report["originals"]) == (5 + 6 * 4 - 2 + 3, 4)
    told: dict[str, list[tuple[str, str | None]]] = {
        "ORPHAN": [("image/a/late.jpg", None), ("image/a/stray.jpg", None)],
        "MISSING_ORIGINAL": [(keys[gone][0], gone)],
        "MISSING_VARIANT": [(keys[thinned][1][2], thinned)],
        "WRONG_SIZE": [(keys[grown][0], grown)],
        "FOUND_AGAIN": [(keys[back][0], back)],
        "STALE_UPLOAD": [("image/a/parts.mp4", upload_id)],
        "RECENT": [("image/a/young.jpg", None)],
    }
    others = {key for key, _ in examples(report).pop("ELSEWHERE")}
    assert {kind: found for kind, found in examples(report).items() if kind != "ELSEWHERE"} == told
    assert others == {keys[elsewhere][0], *keys[elsewhere][1]}
    assert await everything(server) == before

    status, said, complained = heirloom(server, "storage", "check", "--repair", "--dry-run")
    assert (status, complained) == (1, "")
    lines = said.splitlines()
    assert "objects without a row: 2, would be deleted" in lines
    assert "originals that are gone: 1, would be marked as lost" in lines
    assert "objects of another size than their rows say: 1, would stay so" in lines
    assert lines[-1] == "Wrong: 7."
    assert await everything(server) == before

    mended = {kind: (len(found), len(found)) for kind, found in told.items()} | {
        "WRONG_SIZE": (1, 0),
        "RECENT": (1, 0),
        "ELSEWHERE": (5, 0),
    }
    assert check(server, "--repair") == (1, mended)
    assert [path.exists() for path in (stray, late, young, parts)] == [False, False, True, False]
    lost = await ada.settled(gone)
    assert (lost["status"], lost["failure"]) == ("FAILED", {"code": "STORAGE", "message": "The stored file is gone."})
    (row,) = await fetch(server, "SELECT lost_at FROM media WHERE id = $1", uuid.UUID(gone))
    assert row["lost_at"] is not None
    (row,) = await fetch(server, "SELECT lost_at, status FROM media WHERE id = $1", uuid.UUID(never))
    assert row == {"lost_at": LONG_AGO, "status": "FAILED"}  # nothing ever came: that has not changed

    with working(server):
        for media in (thinned, back):
            again = await ada.settled(media)
            assert (again["status"], again["failure"], len(again["variants"])) == ("READY", None, 4)
    original.write_bytes(true_bytes)
    assert check(server) == (0, {"RECENT": (1, 0), "ELSEWHERE": (5, 0)})


async def test_what_is_there_again_and_has_come_anew_meanwhile_is_left(server: Server, ada: Account) -> None:
    content = photograph(64, 48)
    first = (await ada.uploaded(content))["id"]
    key, _ = await keys_of(server, first)
    await lose(server, first)
    path_of(server, key).rename(kept := server.data_dir / "kept")
    second = (await ada.uploaded(content))["id"]
    assert second != first
    assert check(server) == (0, {})  # it is known to be gone
    kept.rename(path_of(server, key))
    assert check(server, "--repair") == (1, {"FOUND_AGAIN": (1, 0)})
    rows = await fetch(server, "SELECT id::text, status, lost_at IS NULL AS kept FROM media ORDER BY id")
    assert rows == [
        {"id": first, "status": "FAILED", "kept": False},
        {"id": second, "status": "UPLOADED", "kept": True},
    ]


async def test_what_is_being_processed_is_left_to_its_worker(server: Server, ada: Account) -> None:
    media = (await ada.uploaded(photograph(64, 48)))["id"]
    key, _ = await keys_of(server, media)
    path_of(server, key).unlink()
    await execute(dsn_of(server), "UPDATE media SET status = 'PROCESSING' WHERE id = $1", uuid.UUID(media))
    # Variants that it has just stored have no row yet, and may take the place of old ones.
    stored = plant(server, variant_key(key, "small", "0123"))
    assert check(server, "--repair") == (1, {"MISSING_ORIGINAL": (1, 0)})
    assert stored.exists()
    with working(server):
        assert (await ada.settled(media))["failure"]["code"] == "STORAGE"
    assert check(server, "--repair") == (0, {"ORPHAN": (1, 1)})
    assert not stored.exists()


def test_a_variant_tells_its_original() -> None:
    original = "person/image/01_2/2026-11/photos-20261121-0a1b.jpg"
    stems = {known_keys.stem_of(variant_key(original, name.value, "0123abcd")) for name in VariantName}
    assert stems == {original.removesuffix(".jpg")}
    assert known_keys.stem_of("a_b/c.jpg") is None


async def test_many_are_counted_and_some_are_named(server: Server, ada: Account) -> None:
    for number in range(1_203):
        plant(server, f"image/many/{number:05}.jpg")
    rows = [{"storage_key": f"image/rows/{number:05}.jpg"} for number in range(601)]
    await insert_media(dsn_of(server), ada.id, rows)
    status, said, _ = heirloom(server, "storage", "check", "--json")
    report = json.loads(said)
    assert (status, report["objects"], report["originals"]) == (1, 1_203, 601)
    assert counts(report) == {"ORPHAN": (1_203, 0), "MISSING_ORIGINAL": (601, 0)}
    assert [key for key, _ in examples(report)["ORPHAN"]] == [f"image/many/{number:05}.jpg" for number in range(20)]
    assert check(server, "--repair") == (0, {"ORPHAN": (1_203, 1_203), "MISSING_ORIGINAL": (601, 601)})
    assert check(server) == (0, {})


@pytest.mark.parametrize("number", [2_000, 4_001])
async def test_pages_of_rows_join_without_a_gap(server: Server, ada: Account, number: int) -> None:
    """In the order of bytes, whatever the database's: `a-b/` before `a.jpg` before `a/`, and capitals first."""
    keys = [f"image/{'ab-AB_'[n % 6]}{n % 7}{'-./'[n % 3]}{n:05}.jpg" for n in range(number)]
    await execute(
        dsn_of(server),
        "INSERT INTO media (id, public_id, owner, kind, status, filename, content_type, size_bytes, sha256,"
        " storage_backend, storage_key, tags, sort_order, is_primary, is_public, moderation, source,"
        " processing_attempts, created_at, updated_at) SELECT gen_random_uuid(), 'MED-' || n, $1, 'IMAGE', 'READY',"
        " 'a.jpg', 'image/jpeg', 5, lpad(n::text, 64, '0'), 'local', key, '{}', 0, FALSE, FALSE, 'APPROVED',"
        " 'UPLOAD', 0, now(), now() FROM unnest($2::text[]) WITH ORDINALITY AS each (key, n)",
        uuid.UUID(ada.id),
        keys,
    )
    for key in keys:
        plant(server, key)
    status, said, _ = heirloom(server, "storage", "check", "--json")
    report = json.loads(said)
    assert (status, report["objects"], report["originals"], counts(report)) == (0, number, number, {})


async def test_uploads_that_go_on_are_left_alone(server: Server, ada: Account) -> None:
    create = """mutation($size: BigInt!) { createUploadSession(input: {
        filename: "a.jpg", contentType: "image/jpeg", sizeBytes: $size
    }) { session { id } errors { message } } }"""
    single = await ada.ask(create, size=1000)
    in_parts = await ada.ask(create, size=6 * MIB)
    assert (single["errors"], in_parts["errors"]) == ([], [])
    rows = await fetch(server, "SELECT staging_key FROM upload_session WHERE staging_key IS NOT NULL")
    staged = plant(server, rows[0]["staging_key"])
    (folder,) = (server.data_dir / "files" / ".uploads").iterdir()
    before = await everything(server)
    assert check(server, "--repair", "--grace", "0") == (0, {})
    assert await everything(server) == before

    await execute(dsn_of(server), "UPDATE upload_session SET state = 'ABORTED', ended_at = now()")
    assert check(server, "--repair", "--grace", "0") == (0, {"ORPHAN": (1, 1), "STALE_UPLOAD": (1, 1)})
    assert (staged.exists(), folder.exists()) == (False, False)


# ---------------------------------------------------------------- over HTTP


async def ask(server: Server, method: str, authorization: str | None) -> httpx.Response:
    headers = {"authorization": authorization} if authorization is not None else {}
    async with httpx.AsyncClient() as anybody:
        return await anybody.request(method, f"{server.url}/health/storage", headers=headers)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_strangers_are_told_nothing_and_change_nothing(server: Server, ada: Account, method: str) -> None:
    plant(server, "image/a/stray.jpg")
    before = await everything(server)
    for authorization, status, error in (
        (None, 401, "Sign in first."),
        ("Bearer nonsense", 401, "This token is not valid."),
        ("Basic cm9vdDpyb290", 401, "The authorization must be “Bearer” and a token."),
        (f"Bearer {ada.token}", 403, "This is for administrators."),
    ):
        answer = await ask(server, method, authorization)
        assert (answer.status_code, answer.json()) == (status, {"error": error})
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert await everything(server) == before


async def test_admins_look_by_get_and_mend_by_post(server: Server, root: Account) -> None:
    stray = plant(server, "image/a/stray.jpg")
    before = await everything(server)
    looked = await ask(server, "GET", f"Bearer {root.token}")
    assert (looked.status_code, looked.headers["cache-control"]) == (200, "no-store")
    assert (looked.json()["agrees"], counts(looked.json())) == (False, {"ORPHAN": (1, 0)})
    assert await everything(server) == before
    mended = await ask(server, "POST", f"Bearer {root.token}")
    assert (mended.status_code, mended.json()["agrees"]) == (200, True)
    assert counts(mended.json()) == {"ORPHAN": (1, 1)}
    assert not stray.exists()
    assert counts((await ask(server, "GET", f"Bearer {root.token}")).json()) == {}


async def test_one_check_at_a_time_in_the_whole_deployment(server: Server, root: Account) -> None:
    stray = plant(server, "image/a/stray.jpg")
    other = await asyncpg.connect(dsn_of(server))
    await other.execute("SELECT pg_advisory_lock($1)", LOCK)
    for method in ("GET", "POST"):
        answer = await ask(server, method, f"Bearer {root.token}")
        assert (answer.status_code, answer.json()) == (409, {"error": "The storage is being checked already."})
        assert int(answer.headers["retry-after"]) > 0
    refused = heirloom(server, "storage", "check", "--repair")
    assert refused == (2, "", "heirloom: The storage is being checked already.\n")
    assert stray.exists()
    await other.close()
    # And one after the other, as fast as they can be asked for.
    for _ in range(5):
        assert (await ask(server, "GET", f"Bearer {root.token}")).status_code == 200


async def test_a_storage_that_is_away_is_told_and_nothing_is_thought_lost(server: Server, root: Account) -> None:
    media = (await root.uploaded(photograph(64, 48)))["id"]
    files, away = server.data_dir / "files", server.data_dir / "away"
    files.rename(away)
    try:
        for method in ("GET", "POST"):
            answer = await ask(server, method, f"Bearer {root.token}")
            assert (answer.status_code, answer.headers["cache-control"]) == (503, "no-store")
    finally:
        away.rename(files)
    assert await root.ask("query($id: ID!) { media(id: $id) { status } }", id=media) == {"status": "UPLOADED"}
    assert counts((await ask(server, "POST", f"Bearer {root.token}")).json()) == {}


# ---------------------------------------------------------------- the daily check


async def due(server: Server) -> None:
    """Make the day pass."""
    await execute(dsn_of(server), "UPDATE pgqueuer SET execute_after = now() WHERE entrypoint = 'sweep'")


async def jobs(server: Server) -> list[timedelta]:
    """How long until each of the daily checks that wait."""
    rows = await fetch(
        server, "SELECT execute_after - now() AS wait FROM pgqueuer WHERE entrypoint = 'sweep' AND status = 'queued'"
    )
    return [row["wait"] for row in rows]


async def swept(server: Server) -> None:
    """Until one was due and is done."""
    await until(lambda: _is_scheduled(server))
    runs = "SELECT attempts FROM pgqueuer WHERE entrypoint = 'sweep'"
    (before,) = await fetch(server, runs)
    await due(server)

    async def is_over() -> bool:
        (now,) = await fetch(server, runs)
        return bool(now["attempts"] > before["attempts"])

    await until(is_over)


async def _is_scheduled(server: Server) -> bool:
    return len(await jobs(server)) == 1


async def test_once_a_day_a_worker_mends_what_it_finds(server: Server, ada: Account) -> None:
    stray = plant(server, "image/a/stray.jpg")
    with working(server) as log, working(server) as other:
        await pictures(ada, 1)
        await until(lambda: _is_scheduled(server))
        assert stray.exists()  # not at its start
        await swept(server)
        assert not stray.exists()
        (wait,) = await jobs(server)  # two workers, one check; and the next is due
        assert timedelta(hours=23) < wait <= timedelta(days=1)
        said = log.read_text() + other.read_text()
    assert said.count("The daily check of the storage: ORPHAN 1, mended 1") == 1
    (runs,) = await fetch(server, "SELECT attempts FROM pgqueuer WHERE entrypoint = 'sweep'")
    assert runs == {"attempts": 1}
    assert check(server) == (0, {})


async def test_the_daily_check_deletes_no_tenth_of_all_objects(server: Server) -> None:
    strays = [plant(server, f"image/a/{number:03}.jpg") for number in range(101)]
    with working(server) as log:
        await swept(server)
        assert all(path.exists() for path in strays)
        assert "mends nothing: 101 of 101 objects have no row." in log.read_text()
        assert "heirloom storage check --repair" in log.read_text()
        strays.pop().unlink()
        await swept(server)
        assert not any(path.exists() for path in strays)


async def test_the_daily_check_gives_up_no_tenth_of_all_originals(server: Server, ada: Account) -> None:
    rows = [{"storage_key": f"image/rows/{number:02}.jpg", "size_bytes": 5} for number in range(11)]
    await insert_media(dsn_of(server), ada.id, rows)
    for number in range(9):
        plant(server, f"image/rows/{number:02}.jpg")
    lost = "SELECT count(*) FROM media WHERE lost_at IS NOT NULL"
    with working(server) as log:
        await swept(server)
        assert "mends nothing: 2 of 11 originals are not in the storage." in log.read_text()
        assert await fetch(server, lost) == [{"count": 0}]
        plant(server, "image/rows/09.jpg")
        await swept(server)
        assert await fetch(server, lost) == [{"count": 1}]


async def test_a_worker_that_is_stopped_at_the_check_leaves_it_to_the_next(server: Server) -> None:
    stray = plant(server, "image/a/stray.jpg")
    blocker = await asyncpg.connect(dsn_of(server))
    async with blocker.transaction():
        with working(server):
            await until(lambda: _is_scheduled(server))
            await blocker.execute("LOCK TABLE variant IN ACCESS EXCLUSIVE MODE")  # the check waits for a while
            await due(server)
            await until(lambda: fetch(server, "SELECT FROM pgqueuer WHERE entrypoint = 'sweep' AND status = 'picked'"))
            began = time.monotonic()
        assert time.monotonic() - began < 5
    await blocker.close()
    (wait,) = await jobs(server)
    assert wait <= timedelta(0)
    assert stray.exists()
    with working(server):
        await asyncio.to_thread(wait_for, lambda: not stray.exists(), 20)


# ---------------------------------------------------------------- what goes on meanwhile


class Listing:
    """A storage whose listing is what the test says; all else is the local one's."""

    def __init__(self, storage: ObjectStorage, objects: Callable[[], AsyncGenerator[StoredObject, None]]) -> None:
        self._storage = storage
        self._objects = objects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        assert prefix == ""
        return self._objects()

    async def list_multiparts(self) -> AsyncGenerator[OpenUpload, None]:
        for _ in ():
            yield _


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[Services]:
    """The services of this very process."""
    settings = load(server.environment)
    async with open_services(settings, dsn=dsn_of(server)) as services:
        await migrate()
        yield services


def listing(services: Services, objects: Callable[[], AsyncGenerator[StoredObject, None]]) -> Services:
    return replace(services, storage=cast("ObjectStorage", Listing(services.storage, objects)))


def stored(key: str, size: int = 5) -> StoredObject:
    return StoredObject(key, size, "image/jpeg", '"etag"', LONG_AGO)


async def test_a_row_that_comes_after_its_page_was_read_keeps_its_object(server: Server, ada: Account) -> None:
    path = plant(server, "image/a/late.jpg")

    async def objects() -> AsyncGenerator[StoredObject, None]:
        yield stored("image/a/late.jpg")
        # The join has read its page of rows by now, and the check has not asked again yet.
        await insert_media(dsn_of(server), ada.id, [{"storage_key": "image/a/late.jpg", "size_bytes": 5}])

    async with opened(server) as services:
        report = await agreement.check(listing(services, objects), repair=True, now=datetime.now(UTC))
    assert (report.objects, report.faults, report.findings[Kind.ORPHAN].count) == (1, 0, 0)
    assert path.exists()


async def test_what_a_listing_lacks_and_the_storage_has_is_not_lost(server: Server, ada: Account) -> None:
    plant(server, "image/a/there.jpg")
    await insert_media(dsn_of(server), ada.id, [{"storage_key": "image/a/there.jpg", "size_bytes": 5}])

    async def nothing() -> AsyncGenerator[StoredObject, None]:
        for _ in ():
            yield _

    async with opened(server) as services:
        report = await agreement.check(listing(services, nothing), repair=True, now=datetime.now(UTC))
    assert (report.objects, report.originals, report.faults) == (0, 1, 0)
    assert await fetch(server, "SELECT status, lost_at FROM media") == [{"status": "READY", "lost_at": None}]


async def test_a_row_that_is_deleted_meanwhile_is_no_fault(server: Server, ada: Account) -> None:
    (media,) = await insert_media(dsn_of(server), ada.id, [{"storage_key": "image/a/gone.jpg"}])

    async def objects() -> AsyncGenerator[StoredObject, None]:
        yield stored("image/a/a.jpg")
        await execute(dsn_of(server), "DELETE FROM media WHERE id = $1", uuid.UUID(media))

    async with opened(server) as services:
        report = await agreement.check(listing(services, objects), repair=True, now=datetime.now(UTC))
    assert {kind: found.count for kind, found in report.findings.items() if found.count} == {Kind.ORPHAN: 1}


async def test_memory_does_not_grow_with_the_number_of_objects(server: Server, ada: Account) -> None:
    most = 50_000
    seen: list[int] = []

    async def objects() -> AsyncGenerator[StoredObject, None]:
        for number in range(most):
            yield stored(f"image/a/{number:06}.jpg")

    async with opened(server) as services:
        tracemalloc.start()
        try:
            report = await agreement.check(
                listing(services, objects), repair=False, now=datetime.now(UTC), progress=seen.append
            )
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (report.objects, report.findings[Kind.ORPHAN].count) == (most, most)
    assert seen == [*range(1_000, most + 1, 1_000), most]
    assert peak < 4 * MIB, peak  # all at once are more than 15
