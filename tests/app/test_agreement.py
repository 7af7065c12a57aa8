"""Each way in which storage and database can disagree, made by hand: told, left alone, mended, and not found again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
import tracemalloc
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import pytest

from app import agreement, known_keys
from app.agreement import LOCK, Finding, Kind, Report
from app.migrate import migrate
from app.settings import load
from app.wiring import Services, open_services, open_storage
from processing.variants import VariantName
from storage.base import ObjectStorage, OpenUpload, StoredObject
from storage.keys import variant_key
from tests.app.test_renewal import LATER
from tests.client import Account, Json, admitted, register
from tests.contracts.rclone import rclone
from tests.contracts.servers import aws_variables
from tests.footprint import fetch, footprint
from tests.graphql_schema.rows import dsn_of, execute, insert_media
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import Server, command, running, wait_for, working

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
    settings = {"orphan_grace": GRACE, "processes": 1, "processing_attempts": 1, "access_token_lifetime": 3600}
    with running(tmp_path_factory.mktemp("agreement"), dsn, worker=False, **settings) as server:
        yield server
    await drop_database(server_dsn, name)


@pytest.fixture(scope="module")
async def root(shop: Server) -> AsyncIterator[Account]:
    """An administrator."""
    async with register(shop.url, "Root") as account:
        await execute(dsn_of(shop), "UPDATE user_account SET role = 'ADMIN' WHERE id = $1", uuid.UUID(account.id))
        yield account


@pytest.fixture
async def server(shop: Server, root: Account) -> Server:
    """All agrees before each test, whatever the one before has left."""
    files = shop.data_dir / "files"
    for path in files.rglob("*"):
        if path.is_file():
            path.unlink()
    await execute(dsn_of(shop), "TRUNCATE media, event, pgqueuer CASCADE")
    assert await check(root) == (True, {})
    return shop


@pytest.fixture
async def ada(server: Server) -> AsyncIterator[Account]:
    async with admitted(server, "Ada") as account:
        yield account


def heirloom(server: Server, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and error."""
    ended = subprocess.run(
        command(*arguments), env=server.environment, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


async def report_of(root: Account, *, repair: bool = False) -> Json:
    answer = await root.http.request("POST" if repair else "GET", "/health/storage")
    assert answer.status_code == 200, answer.text
    report: Json = answer.json()
    assert report["repair"] == repair
    return report


async def check(root: Account, *, repair: bool = False) -> tuple[bool, dict[str, tuple[int, int]]]:
    """Whether all agrees, and of each kind that there is how many, and how many of these were mended."""
    report = await report_of(root, repair=repair)
    return report["agrees"], counts(report)


def check_by_command(server: Server, *options: str) -> tuple[int, dict[str, tuple[int, int]]]:
    """The same with the exit status."""
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


async def test_each_kind_is_told_and_mended_and_the_next_check_is_clean(
    server: Server, ada: Account, root: Account
) -> None:
    with working(server):
        await _each_kind(server, ada, root)


async def _each_kind(server: Server, ada: Account, root: Account) -> None:
    gone, thinned, grown, back, elsewhere, fine = await pictures(ada, 6)
    await until(lambda: _has_only_the_daily_check(server))
    keys = {media: await keys_of(server, media) for media in (gone, thinned, grown, back, elsewhere, fine)}
    path_of(server, keys[gone][0]).unlink()
    path_of(server, keys[gone][1][1]).unlink()
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
    report = await report_of(root)
    assert (report["agrees"], report["repair"]) == (False, False)
    assert (report["objects"], report["originals"], report["variants"]) == (5 + 6 * 4 - 3 + 3, 4, 5 * 4)
    told: dict[str, list[tuple[str, str | None]]] = {
        "ORPHAN": [("image/a/late.jpg", None), ("image/a/stray.jpg", None)],
        "MISSING_ORIGINAL": [(keys[gone][0], gone)],
        "MISSING_VARIANT": [(keys[thinned][1][2], thinned)],
        "LOST_VARIANT": [(keys[gone][1][1], gone)],
        "WRONG_SIZE": [(keys[grown][0], grown)],
        "FOUND_AGAIN": [(keys[back][0], back)],
        "STALE_UPLOAD": [("image/a/parts.mp4", upload_id)],
        "RECENT": [("image/a/young.jpg", None)],
    }
    others = {key for key, _ in examples(report).pop("ELSEWHERE")}
    assert {kind: found for kind, found in examples(report).items() if kind != "ELSEWHERE"} == told
    assert others == {keys[elsewhere][0], *keys[elsewhere][1]}

    status, said, complained = heirloom(server, "storage", "check", "--repair", "--dry-run")
    assert (status, complained) == (1, "")
    lines = said.splitlines()
    assert "objects without a row: 2, would be deleted" in lines
    assert "originals that are gone: 1, would be marked as lost" in lines
    assert "variants that are gone: 1, would be made anew" in lines
    assert "variants that are gone with their originals: 1, would be dropped" in lines
    assert "objects of another size than their rows say: 1, would stay so" in lines
    assert lines[-1] == "Wrong: 8."
    assert await everything(server) == before

    status, said, complained = heirloom(server, "storage", "check", "--repair")
    assert (status, complained) == (1, "")
    assert [line for line in said.splitlines()[1:] if not line.startswith(" ")] == [
        "objects without a row: 2, 2 deleted",
        "originals that are gone: 1, 1 marked as lost",
        "variants that are gone: 1, 1 made anew",
        "variants that are gone with their originals: 1, 1 dropped",
        "objects of another size than their rows say: 1",
        "lost originals that are there again: 1, 1 taken up again",
        "uploads in parts that nobody can complete: 1, 1 aborted",
        "objects without a row that are too young to judge: 1 (no fault)",
        "rows whose bytes are in another kind of storage: 5 (no fault)",
        "Lost, or still wrong: 3.",
    ]
    assert [path.exists() for path in (stray, late, young, parts)] == [False, False, True, False]
    lost = await ada.settled(gone)
    assert (lost["status"], lost["failure"]) == ("FAILED", {"code": "STORAGE", "message": "The stored file is gone."})
    (row,) = await fetch(server, "SELECT lost_at FROM media WHERE id = $1", uuid.UUID(gone))
    assert row["lost_at"] is not None
    assert await keys_of(server, gone) == (keys[gone][0], [keys[gone][1][0], *keys[gone][1][2:]])
    (row,) = await fetch(server, "SELECT lost_at, status FROM media WHERE id = $1", uuid.UUID(never))
    assert row == {"lost_at": LONG_AGO, "status": "FAILED"}  # nothing ever came: that has not changed

    for media in (thinned, back):
        again = await ada.settled(media)
        assert (again["status"], again["failure"], len(again["variants"])) == ("READY", None, 4)
    original.write_bytes(true_bytes)
    assert await check(root) == (True, {"RECENT": (1, 0), "ELSEWHERE": (5, 0)})


async def test_what_is_there_again_and_has_come_anew_meanwhile_is_left(
    server: Server, ada: Account, root: Account
) -> None:
    content = photograph(64, 48)
    first = (await ada.uploaded(content))["id"]
    key, _ = await keys_of(server, first)
    await lose(server, first)
    path_of(server, key).rename(kept := server.data_dir / "kept")
    second = (await ada.uploaded(content))["id"]
    assert second != first
    assert await check(root) == (True, {})  # it is known to be gone
    kept.rename(path_of(server, key))
    assert await check(root, repair=True) == (False, {"FOUND_AGAIN": (1, 0)})
    rows = await fetch(server, "SELECT id::text, status, lost_at IS NULL AS kept FROM media ORDER BY id")
    assert rows == [
        {"id": first, "status": "FAILED", "kept": False},
        {"id": second, "status": "UPLOADED", "kept": True},
    ]


async def test_what_is_being_processed_is_left_to_its_worker(server: Server, ada: Account, root: Account) -> None:
    media = (await ada.uploaded(photograph(64, 48)))["id"]
    key, _ = await keys_of(server, media)
    path_of(server, key).unlink()
    await execute(dsn_of(server), "UPDATE media SET status = 'PROCESSING' WHERE id = $1", uuid.UUID(media))
    # Variants that it has just stored have no row yet, and may take the place of old ones.
    stored = plant(server, variant_key(key, "small", "0123"))
    assert await check(root, repair=True) == (False, {"MISSING_ORIGINAL": (1, 0)})
    assert stored.exists()
    with working(server):
        assert (await ada.settled(media))["failure"]["code"] == "STORAGE"
    assert await check(root, repair=True) == (True, {"ORPHAN": (1, 1)})
    assert not stored.exists()


async def test_what_is_to_be_rendered_anew_is_left_to_its_worker(server: Server, ada: Account, root: Account) -> None:
    """Its media stays READY meanwhile: that there is a job for it is all that tells."""
    with working(server):
        media, other = await pictures(ada, 2)
    stored, stray = [
        plant(server, variant_key((await keys_of(server, each))[0], "small", "0123")) for each in (media, other)
    ]
    for job in ("ingest", "stream"):
        await execute(dsn_of(server), LATER, job, media)
        assert await check(root) == (False, {"ORPHAN": (1, 0)})
        await execute(dsn_of(server), "UPDATE pgqueuer SET status = 'picked'")
        assert examples(await report_of(root)) == {
            "ORPHAN": [(str(stray.relative_to(server.data_dir / "files")), None)]
        }
        await execute(dsn_of(server), "DELETE FROM pgqueuer")
    assert await check(root, repair=True) == (True, {"ORPHAN": (2, 2)})
    assert (stored.exists(), stray.exists()) == (False, False)


def test_a_variant_tells_its_original() -> None:
    original = "person/image/01_2/2026-11/photos-20261121-0a1b.jpg"
    stems = {known_keys.stem_of(variant_key(original, name.value, "0123abcd")) for name in VariantName}
    assert stems == {original.removesuffix(".jpg")}
    assert known_keys.stem_of("a_b/c.jpg") is None


async def test_many_are_counted_and_some_are_named(server: Server, ada: Account, root: Account) -> None:
    for number in range(1_203):
        plant(server, f"image/many/{number:05}.jpg")
    rows = [{"storage_key": f"image/rows/{number:05}.jpg"} for number in range(601)]
    await insert_media(dsn_of(server), ada.id, rows)
    report = await report_of(root)
    assert (report["agrees"], report["objects"], report["originals"]) == (False, 1_203, 601)
    assert counts(report) == {"ORPHAN": (1_203, 0), "MISSING_ORIGINAL": (601, 0)}
    assert [key for key, _ in examples(report)["ORPHAN"]] == [f"image/many/{number:05}.jpg" for number in range(20)]
    mended = (1, {"ORPHAN": (1_203, 1_203), "MISSING_ORIGINAL": (601, 601)})
    assert check_by_command(server, "--repair", "--force") == mended
    assert await check(root) == (True, {})


@pytest.mark.parametrize("number", [2_000, 4_001])
async def test_pages_of_rows_join_without_a_gap(server: Server, ada: Account, root: Account, number: int) -> None:
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
    report = await report_of(root)
    assert (report["objects"], report["originals"], counts(report)) == (number, number, {})


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
    assert check_by_command(server, "--repair", "--grace", "0") == (0, {})
    assert await everything(server) == before

    await execute(dsn_of(server), "UPDATE upload_session SET state = 'ABORTED', ended_at = now()")
    assert check_by_command(server, "--repair", "--grace", "0") == (0, {"ORPHAN": (1, 1), "STALE_UPLOAD": (1, 1)})
    assert (staged.exists(), folder.exists()) == (False, False)


# ---------------------------------------------------------------- too much to be true


WHAT_TO_DO = (
    "Is it the right bucket or folder, and is the database no old backup? See `heirloom storage check`, and only when "
    "all is as it should be, run `heirloom storage check --repair --force`."
)


async def test_a_folder_that_is_not_mounted_loses_nothing(server: Server, ada: Account, root: Account) -> None:
    rows = [{"storage_key": f"image/rows/{number:02}.jpg", "size_bytes": 5} for number in range(11)]
    await insert_media(dsn_of(server), ada.id, rows)
    for row in rows:
        plant(server, str(row["storage_key"]))
    lost = "SELECT count(*) FROM media WHERE lost_at IS NOT NULL"
    files, away = server.data_dir / "files", server.data_dir / "away"
    files.rename(away)
    try:
        sentence = f"11 of 11 originals are not in the storage. {WHAT_TO_DO}"
        assert heirloom(server, "storage", "check", "--repair") == (2, "", f"heirloom: {sentence}\n")
        answer = await root.http.post("/health/storage")  # the command has made the folders that a storage needs
        assert (answer.status_code, answer.json()) == (409, {"error": sentence})
        assert await fetch(server, lost) == [{"count": 0}]
        forced = await root.http.post("/health/storage?force=true")
        assert (forced.status_code, forced.json()["agrees"]) == (200, False)
        assert counts(forced.json()) == {"MISSING_ORIGINAL": (11, 11)}
        assert await fetch(server, lost) == [{"count": 11}]
        assert await check(root) == (True, {})
    finally:
        shutil.rmtree(files, ignore_errors=True)
        away.rename(files)
    # Even that is no end: the pictures are there again with their folder.
    assert await check(root, repair=True) == (True, {"FOUND_AGAIN": (11, 11)})


def report(*, orphans: int = 0, lost: int = 0, thinned: int = 0, of: int) -> Report:
    counted = {
        Kind.ORPHAN: orphans,
        Kind.MISSING_ORIGINAL: lost,
        Kind.MISSING_VARIANT: thinned // 2,
        Kind.LOST_VARIANT: thinned - thinned // 2,
    }
    return Report(of, of, of, False, {kind: Finding(counted.get(kind, 0), 0, ()) for kind in Kind})


@pytest.mark.parametrize("what", ["orphans", "lost", "thinned"])
@pytest.mark.parametrize(
    ("count", "total", "stops"),
    [
        (0, 0, False),
        (10, 10, False),
        (11, 11, True),
        (11, 110, False),
        (11, 109, True),
        (100_000, 1_000_000, False),
        (100_001, 1_000_000, True),
    ],
)
def test_what_is_too_much(what: str, count: int, total: int, stops: bool) -> None:
    reason = report(**{what: count}, of=total).too_much
    assert (reason is not None) == stops
    if reason is not None:
        assert reason.startswith(f"{count} of {total} ")
        assert reason.endswith(f". {WHAT_TO_DO}")


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


# ---------------------------------------------------------------- in a bucket


@pytest.fixture(scope="module")
async def on_s3(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """An API process; `s3/data` beside its data folder holds the buckets."""
    folder = tmp_path_factory.mktemp("on_s3")
    name = f"agreement_s3_{worker_name}"
    dsn = await create_database(server_dsn, name)
    (folder / "s3").mkdir()
    with aws_variables(), rclone(folder / "s3") as s3:
        settings = {"storage": "s3", "s3_bucket": "heirloom", "s3_endpoint_url": s3.endpoint_url, "orphan_grace": 0}
        with running(folder, dsn, worker=False, **settings) as server:
            yield server
    await drop_database(server_dsn, name)


async def test_a_bucket_is_compared_and_mended(on_s3: Server) -> None:
    async with register(on_s3.url, "Root") as root, open_storage(load(on_s3.environment)) as storage:
        await execute(dsn_of(on_s3), "UPDATE user_account SET role = 'ADMIN' WHERE id = $1", uuid.UUID(root.id))
        gone, kept = [(await root.uploaded(photograph(64, 48)))["id"] for _ in range(2)]
        (gone_key, _), (kept_key, _) = await keys_of(on_s3, gone), await keys_of(on_s3, kept)
        assert await check(root) == (True, {})
        await storage.delete([gone_key])
        await storage.put("image/a/stray.jpg", b"bytes", size=5, content_type="image/jpeg")
        upload_id = await storage.create_multipart("image/a/parts.mp4", content_type="video/mp4")
        told = {
            "ORPHAN": [("image/a/stray.jpg", None)],
            "MISSING_ORIGINAL": [(gone_key, gone)],
            "STALE_UPLOAD": [("image/a/parts.mp4", upload_id)],
        }
        status, said, complained = heirloom(on_s3, "storage", "check", "--json")
        assert (status, examples(json.loads(said)), complained) == (1, told, "")
        assert examples(await report_of(root)) == told

        mended = dict.fromkeys(told, (1, 1))
        assert check_by_command(on_s3, "--repair") == (1, mended)
        assert [stored.key async for stored in storage.list("")] == [kept_key]
        assert [upload async for upload in storage.list_multiparts()] == []
        assert await check(root) == (True, {})

        await storage.put("image/a/stray.jpg", b"bytes", size=5, content_type="image/jpeg")
        assert await check(root, repair=True) == (True, {"ORPHAN": (1, 1)})
        assert [stored.key async for stored in storage.list("")] == [kept_key]


async def test_a_bucket_that_is_not_there_is_told_and_not_made(on_s3: Server) -> None:
    mistyped = replace(on_s3, environment={**on_s3.environment, "HEIRLOOM_S3_BUCKET": "mistyped"})
    ended = heirloom(mistyped, "storage", "check")
    assert ended == (2, "", "heirloom: the bucket mistyped does not exist\n")
    assert [folder.name for folder in (on_s3.data_dir.parent / "s3" / "data").iterdir()] == ["heirloom"]


# ---------------------------------------------------------------- the daily check


async def due(server: Server) -> None:
    """Make the day pass, and the workers look: of an update they are not notified, of any deletion they are."""
    await execute(
        dsn_of(server),
        "UPDATE pgqueuer SET execute_after = now() WHERE entrypoint = 'sweep';"
        " DELETE FROM pgqueuer WHERE entrypoint = 'none'",
    )


async def jobs(server: Server) -> list[timedelta]:
    """How long until each of the daily checks that wait."""
    rows = await fetch(
        server,
        "SELECT execute_after - now() AS wait FROM pgqueuer WHERE entrypoint = 'sweep' AND status = 'queued'",
    )
    return [row["wait"] for row in rows]


async def checked(server: Server) -> None:
    """Until one was due and is done."""
    await until(lambda: _is_scheduled(server))
    runs = "SELECT attempts FROM pgqueuer WHERE entrypoint = 'sweep'"
    (before,) = await fetch(server, runs)
    await due(server)

    async def is_over() -> bool:
        (now,) = await fetch(server, runs)
        return bool(now["attempts"] > before["attempts"])

    await until(is_over)


async def _has_only_the_daily_check(server: Server) -> bool:
    (row,) = await fetch(server, "SELECT count(*) AS jobs FROM pgqueuer")
    return row == {"jobs": 1} and await _is_scheduled(server)


async def _is_scheduled(server: Server) -> bool:
    return len(await jobs(server)) == 1


async def test_once_a_day_a_worker_mends_what_it_finds_unless_that_is_too_much(server: Server, root: Account) -> None:
    strays = [plant(server, f"image/a/{number:02}.jpg") for number in range(11)]
    with working(server) as log, working(server) as other:
        await until(lambda: _is_scheduled(server))
        await checked(server)
        said = log.read_text() + other.read_text()
        assert said.count(f"mends nothing: 11 of 11 objects have no row. {WHAT_TO_DO}") == 1
        assert all(path.exists() for path in strays)
        (wait,) = await jobs(server)  # two workers, one check; and the next is due
        assert timedelta(hours=23) < wait <= timedelta(days=1)
        strays.pop().unlink()
        await checked(server)
        assert not any(path.exists() for path in strays)
        said = log.read_text() + other.read_text()
        assert said.count("The daily check of the storage: ORPHAN 10, mended 10") == 1
    (runs,) = await fetch(server, "SELECT attempts FROM pgqueuer WHERE entrypoint = 'sweep'")
    assert runs == {"attempts": 2}  # and none at the workers' start
    assert await check(root) == (True, {})


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
