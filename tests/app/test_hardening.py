"""What goes wrong around the processes, or is done to them: no job, byte or file of anybody's is the price."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import unicodedata
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from subprocess import Popen

import asyncpg
import httpx
import pytest
from PIL import Image

from app import wiring
from app.scratch import own_scratch
from app.settings import load
from app.worker import TROUBLE_RETRY
from graphql_schema.errors import BUSY, BUSY_CODE, MASKED
from tests.client import PASSWORD, UPLOAD, Account, Client, Json, admitted, register
from tests.pictures import encoded, photograph
from tests.server import (
    Apart,
    Server,
    command,
    environment,
    free_port,
    reachable_folder,
    spawned,
    wait_for,
    wait_until_ready,
    wait_until_working,
)

pytestmark = pytest.mark.xdist_group("hardening")  # one set of processes

CHECKOUT = Path(__file__).parents[2]
REGISTER = """mutation($input: RegisterInput!) { register(input: $input) {
    user { displayName } errors { code message path } } }"""
CREATE_PERSON = """mutation($input: CreatePersonInput!) { createPerson(input: $input) {
    person { biography } errors { code message path } } }"""
CREATE_PROFILE = """mutation($input: CreateProfileInput!) { createProfile(input: $input) {
    profile { id } errors { code } } }"""
TAG = """mutation($input: UpdateMediaInput!) { updateMedia(input: $input) {
    media { tags } errors { code message path } } }"""
STATUS = "query($id: ID!) { media(id: $id) { status } }"
POOL = 2


@pytest.fixture(scope="module")
async def api(server_apart: Apart) -> AsyncIterator[Server]:
    """An API process with the smallest of pools; workers are started by those who want one."""
    async with server_apart("hardening", worker=False, database_pool=POOL) as server:
        yield server


@pytest.fixture
async def ada(api: Server) -> AsyncIterator[Account]:
    async with admitted(api, "Ada") as account:
        yield account


@contextmanager
def working(server: Server) -> Iterator[Popen[bytes]]:
    """A worker that has begun to look for jobs."""
    log = server.data_dir.parent / f"worker-{uuid.uuid4().hex}.log"
    with spawned(command("worker"), {**server.environment, "HEIRLOOM_DATABASE_POOL": "10"}, log) as worker:
        wait_until_working(log)
        yield worker


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.environment["HEIRLOOM_DATABASE_URL"])
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def trigger(connection: asyncpg.Connection, when: str, body: str) -> AsyncIterator[None]:
    """A trigger on media that runs `body` in PL/pgSQL; `when` is the rest of CREATE TRIGGER up to EXECUTE."""
    kind = "CONSTRAINT TRIGGER" if "DEFERRED" in when else "TRIGGER"
    await connection.execute(
        f"CREATE FUNCTION misfortune() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$"
    )
    await connection.execute(f"CREATE {kind} misfortune {when} EXECUTE FUNCTION misfortune()")
    try:
        yield
    finally:
        await connection.execute("DROP FUNCTION misfortune CASCADE")


async def until(connection: asyncpg.Connection, query: str, *arguments: object) -> None:
    """Until the query gives true."""
    async with asyncio.timeout(20):
        while not await connection.fetchval(query, *arguments):  # noqa: ASYNC110  # a row has no event for it
            await asyncio.sleep(0.05)


def objects(server: Server) -> set[Path]:
    """All that is stored; and nothing is half-stored. Exact only where no worker runs."""
    assert list((server.data_dir / "files" / ".incoming").iterdir()) == []
    return {path for path in (server.data_dir / "files").rglob("*") if path.is_file()}


def scratch_of(server: Server) -> set[Path]:
    return set((server.data_dir / "scratch").glob("*/*"))


def masked(answer: Json, field: str) -> Json:
    """The answer of a mutation that failed unexpectedly, whatever the id of its error."""
    (error,) = answer["errors"]
    return _failed(answer, field, MASKED, {"code": "INTERNAL_SERVER_ERROR", "id": error["extensions"]["id"]})


def busy(answer: Json, field: str) -> Json:
    """The answer of a mutation that waited too long for what somebody else has."""
    return _failed(answer, field, BUSY, {"code": BUSY_CODE})


def _failed(answer: Json, field: str, message: str, extensions: Json) -> Json:
    locations = answer["errors"][0]["locations"]
    error = {"message": message, "locations": locations, "path": [field], "extensions": extensions}
    return {"data": None, "errors": [error]}


# ---------------------------------------------------------------- text


def marks(number: int) -> str:
    """Marks of two classes in the wrong order: sorting them takes the square of their number."""
    return "a" + "\u0315" * (number // 2) + "\u0300" * (number - number // 2)


async def answered_soon(server: Server, work: asyncio.Task[Json]) -> Json:
    """The result of `work`, during which others are answered."""
    async with Client(server.url) as other:
        while not work.done():
            async with asyncio.timeout(2):
                assert await other.ask("{ __typename }") == "Query"
    return await work


def bad(field: str, message: str) -> list[Json]:
    return [{"code": "BAD_INPUT", "message": message, "path": ["input", field]}]


@pytest.mark.parametrize(
    ("name", "message"),
    [(marks(60_000), "This takes 1 to 200 characters."), (marks(700), "More than 30 marks on one letter.")],
    ids=["60,000 marks", "700 marks"],
)
async def test_a_name_of_marks_is_refused_at_once(api: Server, name: str, message: str) -> None:
    given = {"email": f"{uuid.uuid4().hex}@example.org", "password": PASSWORD, "displayName": name}
    async with Client(api.url) as nobody:
        payload = await answered_soon(api, asyncio.create_task(nobody.ask(REGISTER, input=given)))
        assert payload == {"user": None, "errors": bad("displayName", message)}
        # And it took nobody's address.
        payload = await nobody.ask(REGISTER, input={**given, "displayName": "Ada"})
        assert payload == {"user": {"displayName": "Ada"}, "errors": []}


async def test_prose_of_marks_is_refused_at_once(api: Server, ada: Account) -> None:
    given = {"name": "Grace", "biography": marks(19_999)}
    payload = await answered_soon(api, asyncio.create_task(ada.ask(CREATE_PERSON, input=given)))
    assert payload == {"person": None, "errors": bad("biography", "More than 30 marks on one letter.")}
    async with connected(api) as connection:
        assert await connection.fetch("SELECT FROM entity WHERE owner = $1", uuid.UUID(ada.id)) == []


async def test_thousands_of_tags_are_refused_at_once(api: Server, ada: Account) -> None:
    media = await ada.uploaded(photograph(64, 48), tags=["kept"])
    given = {"id": media["id"], "tags": [f"{marks(90)}{index}" for index in range(5_000)]}
    payload = await answered_soon(api, asyncio.create_task(ada.ask(TAG, input=given)))
    assert payload == {"media": None, "errors": bad("tags", "Up to 50 tags.")}
    assert await ada.ask("query($id: ID!) { media(id: $id) { tags } }", id=media["id"]) == {"tags": ["kept"]}


@pytest.mark.parametrize(
    "text",
    [
        "Nguyễn Thị Thập ở Huế",
        "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם",
        "بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ٱلرَّحِيمِ",
        "श्रीमद्भगवद्गीता क्ष्म्र्य",
        "བོད་སྐད་ ཧཱུྃ",
        "e" + "\u0301" * 30,
    ],
    ids=["Vietnamese", "Hebrew", "Arabic", "Devanagari", "Tibetan", "as many as allowed"],
)
async def test_marks_as_people_write_them(api: Server, ada: Account, text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    taken_apart = unicodedata.normalize("NFD", text)
    payload = await ada.ask(CREATE_PERSON, input={"name": taken_apart, "biography": f"{taken_apart}\n" * 20})
    assert payload == {"person": {"biography": f"{composed}\n" * 20}, "errors": []}
    media = await ada.uploaded(photograph(64, 48), tags=[taken_apart], title=taken_apart)
    assert (media["tags"], media["title"]) == ([composed], composed)


# ---------------------------------------------------------------- the worker


async def test_a_statement_that_fails_as_a_job_begins_strands_nothing(api: Server, ada: Account) -> None:
    media = await ada.uploaded(photograph(64, 48))
    job = "convert_from(payload, 'UTF8') LIKE '%' || $1 || '%'"
    async with connected(api) as connection:
        trouble = f"IF NEW.id = '{media['id']}' THEN RAISE 'out of luck'; END IF"
        async with trigger(connection, "BEFORE UPDATE ON media FOR EACH ROW", trouble):
            with working(api):
                await until(
                    connection, f"SELECT attempts > 0 AND status = 'queued' FROM pgqueuer WHERE {job}", media["id"]
                )
        waits = await connection.fetchval(
            f"SELECT execute_after - updated FROM pgqueuer WHERE {job} AND execute_after > now()", media["id"]
        )
        assert abs(waits - TROUBLE_RETRY) < timedelta(seconds=5)
        assert await ada.ask(STATUS, id=media["id"]) == {"status": "UPLOADED"}
        await connection.execute(f"UPDATE pgqueuer SET execute_after = now() WHERE {job}", media["id"])
        with working(api):
            assert (await ada.settled(media["id"]))["status"] == "READY"
            await until(connection, f"SELECT NOT EXISTS (SELECT FROM pgqueuer WHERE {job})", media["id"])
        attempts = "SELECT processing_attempts FROM media WHERE id = $1"
        assert await connection.fetchval(attempts, uuid.UUID(media["id"])) == 1  # the file is not to blame


async def test_a_job_that_the_queue_held_back_is_taken_up_by_the_next_worker(api: Server, ada: Account) -> None:
    media = await ada.uploaded(photograph(64, 48))
    async with connected(api) as connection:
        held = "UPDATE pgqueuer SET status = 'failed' WHERE convert_from(payload, 'UTF8') LIKE '%' || $1 || '%'"
        assert await connection.execute(held, media["id"]) == "UPDATE 1"
        with working(api):
            assert (await ada.settled(media["id"]))["status"] == "READY"


async def test_a_worker_whose_connections_are_cut_goes_on(api: Server, ada: Account) -> None:
    with working(api) as worker:
        before = await ada.settled((await ada.uploaded(photograph(64, 48)))["id"])
        async with connected(api) as connection:
            cut = await connection.fetch(
                "SELECT pg_terminate_backend(pid) AS done FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        assert len(cut) >= 3  # the queue's, the worker's pool, and the server's
        async with asyncio.timeout(20):  # a request that gets a connection before its end is noticed fails with it
            while "errors" in await ada.post("{ viewer { email } }"):  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(0.05)
        after = await ada.settled((await ada.uploaded(photograph(64, 48)))["id"])
        assert (before["status"], after["status"], worker.poll()) == ("READY", "READY", None)
    assert worker.returncode == 0


def slow_picture() -> bytes:
    """24 megapixels in a small file: half a second's work, and each another file."""
    gradient = Image.linear_gradient("L").resize((6000, 4000))
    picture = encoded(Image.merge("RGB", (gradient, gradient.rotate(180), gradient)), "PNG", compress_level=1)
    return picture + os.urandom(16)


async def test_workers_that_come_and_go_hurt_no_other_and_clear_up_after_the_dead(api: Server, ada: Account) -> None:
    picture = slow_picture()
    ids = [(await ada.uploaded(picture + os.urandom(16)))["id"] for _ in range(8)]
    with working(api) as killed:
        wait_for(lambda: bool(scratch_of(api)), 20)
        killed.kill()
        killed.wait()
    left = scratch_of(api)
    assert left
    attempts = "SELECT id::text, processing_attempts + {} AS made FROM media WHERE owner = $1 ORDER BY id"
    async with connected(api) as connection:
        due = await connection.fetch(attempts.format("(status <> 'READY')::int"), uuid.UUID(ada.id))
    with working(api) as first:
        assert scratch_of(api) & left == set()
        wait_for(lambda: bool(scratch_of(api)), 20)
        for _ in range(2):
            with working(api) as second:
                pass
            assert second.returncode == 0
        settled = [await ada.settled(media) for media in ids]
        assert [media["status"] for media in settled] == ["READY"] * 8
        assert first.poll() is None
    assert scratch_of(api) == set()
    # Each at its next attempt: none was spoilt by the coming and going.
    async with connected(api) as connection:
        assert await connection.fetch(attempts.format("0"), uuid.UUID(ada.id)) == due


def test_processes_that_end_while_others_start_are_in_nobodys_way(tmp_path: Path) -> None:
    failures: list[OSError] = []

    def come_and_go() -> None:
        try:
            for _ in range(200):
                with own_scratch(tmp_path) as folder:
                    (folder / "file").touch()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, list(tmp_path.iterdir())) == ([], [])


# ---------------------------------------------------------------- the laptop shape


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_server_started_beside_another_app_runs_its_own(tmp_path: Path) -> None:
    """As an installed one is: from any folder, which may hold a package of the same name."""
    marker = tmp_path / "marker"
    package = tmp_path / "app"
    package.mkdir()
    for name in ("__init__", "cli"):
        (package / f"{name}.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    with reachable_folder() as folder:
        port = free_port()
        settings = {**environment(folder / "data", port=port), "PYTHONPATH": str(CHECKOUT)}
        serve = command("serve")
        arguments, log = [serve[0], "-P", *serve[1:]], folder / "log"
        with spawned(arguments, settings, log, cwd=tmp_path) as process:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, process, log)
            async with register(url, "Ada") as ada:
                assert (await ada.settled((await ada.uploaded(photograph(64, 48)))["id"]))["status"] == "READY"
            assert mode(folder / "data" / "secret_key") == 0o600
            assert [mode(folder / "data" / name) for name in ("files", "scratch")] == [0o700, 0o700]
        assert not marker.exists()


async def test_the_files_are_made_private_and_what_was_left_unfinished_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load({"HEIRLOOM_DATA_DIR": str(tmp_path)})
    unfinished = settings.files_dir / ".incoming" / "0123"
    unfinished.parent.mkdir(parents=True)
    settings.files_dir.chmod(0o755)
    unfinished.write_bytes(b"half")

    async with wiring.open_storage(settings):
        assert mode(settings.files_dir) == 0o700
        assert unfinished.read_bytes() == b"half"  # another process may be at it
    # A file's ctime can't be set back: so a day is made to pass by the constant.
    monkeypatch.setattr(wiring, "UNFINISHED", timedelta(seconds=-60))
    async with wiring.open_storage(settings):
        assert list(unfinished.parent.iterdir()) == []


# ---------------------------------------------------------------- rows that can't be written


async def post_profile(who: Account, person: Json) -> httpx.Response:
    return await who.post_files(
        CREATE_PROFILE,
        {"input": {"personId": person["id"], "avatar": None, "cover": None}},
        {"input.avatar": ("a.jpg", photograph(64, 48)), "input.cover": ("b.jpg", photograph(64, 48))},
    )


async def post_upload(who: Account, **fields: object) -> httpx.Response:
    file = {"input.file": ("a.jpg", photograph(64, 48))}
    return await who.post_files(UPLOAD, {"input": {"file": None, **fields}}, file)


async def test_bytes_whose_row_is_locked_out_are_discarded(api: Server, ada: Account) -> None:
    person, before = await ada.person(), objects(api)
    async with connected(api) as connection, connection.transaction():
        await connection.execute("LOCK TABLE media IN SHARE ROW EXCLUSIVE MODE")
        upload, profile = await asyncio.gather(post_upload(ada), post_profile(ada, person))
    assert upload.json() == busy(upload.json(), "uploadMedia")
    assert profile.json() == busy(profile.json(), "createProfile")
    assert objects(api) == before
    assert scratch_of(api) == set()
    # Nor does a row stay of what was written before.
    assert (await post_profile(ada, person)).json()["data"]["createProfile"]["errors"] == []
    assert len(objects(api) - before) == 2


async def test_bytes_whose_row_is_refused_at_the_commit_are_discarded(api: Server, ada: Account) -> None:
    before = objects(api)
    async with connected(api) as connection:
        late = "AFTER INSERT ON media DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        async with trigger(connection, late, "RAISE 'too late'"):
            answer = (await post_upload(ada)).json()
        assert answer == masked(answer, "uploadMedia")
        assert objects(api) == before


async def test_bytes_stay_when_the_connection_is_lost_at_the_commit(api: Server, ada: Account) -> None:
    """Nobody can say then whether the row is there."""
    before = objects(api)
    async with connected(api) as connection:
        late = "AFTER INSERT ON media DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        async with trigger(connection, late, "PERFORM pg_terminate_backend(pg_backend_pid())"):
            answer = (await post_upload(ada)).json()
        assert answer == masked(answer, "uploadMedia")
        assert len(objects(api) - before) == 1


async def test_the_same_file_at_once_is_the_others_duplicate(api: Server, ada: Account) -> None:
    before = objects(api)
    picture = photograph(64, 48)
    # Long enough that both have found none before either writes its row.
    slowly = "BEFORE INSERT ON media FOR EACH ROW", "PERFORM pg_sleep(0.5)"
    async with connected(api) as connection, trigger(connection, *slowly):
        payloads = await asyncio.gather(ada.upload(picture), ada.upload(picture))
    assert [payload["errors"] for payload in payloads] == [[], []]
    assert len({payload["media"]["id"] for payload in payloads}) == 1
    of = payloads[0]["media"]["id"]
    assert sorted((payload["duplicateOf"] or {"id": ""})["id"] for payload in payloads) == ["", of]
    assert len(objects(api) - before) == 1


async def test_an_exhausted_pool_is_told(api: Server, ada: Account) -> None:
    before = objects(api)
    async with connected(api) as connection:
        sleeping = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        async with trigger(connection, "BEFORE INSERT ON media FOR EACH ROW", "PERFORM pg_sleep(25)"):
            uploads = [asyncio.create_task(post_upload(ada)) for _ in range(POOL)]
            await until(connection, f"SELECT count(*) = {POOL} {sleeping}")
            refused = await ada.http.post("/graphql", json={"query": "{ viewer { email } }"})
            await connection.execute(f"SELECT pg_cancel_backend(pid) {sleeping}")
            answers = [(await upload).json() for upload in uploads]
    body = {"errors": [{"message": BUSY, "extensions": {"code": BUSY_CODE}}]}
    assert (refused.status_code, refused.headers["retry-after"], refused.json()) == (503, "1", body)
    assert answers == [masked(answer, "uploadMedia") for answer in answers]
    assert objects(api) == before
    assert await ada.ask("{ viewer { email } }") == {"email": ada.email}
