"""The main job in each shape of storage, with real processes; and what happens while an S3 is away."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.settings import load
from app.wiring import SET_UP_SECONDS, being_set_up, open_storage
from tests.client import MEDIA, WAIT_SECONDS, WATCH, Account, Json, admitted, register
from tests.contracts.rclone import RCLONE, rclone
from tests.contracts.servers import ACCESS_KEY, SECRET_KEY, answers, aws_variables, daemon, wait_until
from tests.footprint import fetch
from tests.pictures import photograph
from tests.server import Apart, Server, free_port, wait_until_working

DEADLINE_SECONDS = 2  # how long what meets no storage here waits for it
SIZES = [("THUMBNAIL", 150, 150), ("SMALL", 400, 300), ("MEDIUM", 800, 600), ("LARGE", 1600, 1200)]
PROFILE = f"profile {{ id avatar {{ {MEDIA} }} cover {{ id }} }} errors {{ code message path }}"
CREATE_PROFILE = f"mutation($input: CreateProfileInput!) {{ createProfile(input: $input) {{ {PROFILE} }} }}"
UPDATE_PROFILE = f"mutation($input: UpdateProfileInput!) {{ updateProfile(input: $input) {{ {PROFILE} }} }}"


def on_s3(endpoint_url: str, bucket: str = "heirloom") -> dict[str, Any]:
    return {"storage": "s3", "s3_bucket": bucket, "s3_endpoint_url": endpoint_url}


@pytest.fixture(params=["local", "rclone", "radosgw"])
async def shape(request: pytest.FixtureRequest, server_apart: Apart, tmp_path: Path) -> AsyncIterator[Server]:
    """Server and worker on that storage."""
    name: str = request.param
    with ExitStack() as stack:
        settings: dict[str, Any] = {}
        if name == "rclone":
            (folder := tmp_path / name).mkdir()
            settings = on_s3(stack.enter_context(rclone(folder)).endpoint_url)
        elif name == "radosgw":
            settings = on_s3(request.getfixturevalue("radosgw_server").endpoint_url, f"shape-{uuid4()}")
        stack.enter_context(aws_variables())
        async with server_apart(f"shape_{name}", processes=1, **settings) as server:
            yield server


async def stored_keys(server: Server) -> set[str]:
    async with open_storage(load(server.environment)) as storage:
        return {stored.key async for stored in storage.list("")}


async def known_keys(server: Server) -> set[str]:
    rows = await fetch(server, "SELECT storage_key FROM media UNION ALL SELECT storage_key FROM variant")
    return {str(row["storage_key"]) for row in rows}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    limit = time.monotonic() + WAIT_SECONDS
    while not await condition():
        assert time.monotonic() < limit
    assert await condition()


async def assert_served(media: Json, content: bytes, sizes: list[tuple[str, int, int]]) -> None:
    """READY, with the original and all variants at their URLs, for whoever has these."""
    assert (media["status"], media["failure"]) == ("READY", None)
    assert [(variant["name"], variant["width"], variant["height"]) for variant in media["variants"]] == sizes
    async with httpx.AsyncClient() as anybody:
        original = await anybody.get(media["url"])
        assert (original.status_code, original.headers["content-type"]) == (200, media["contentType"])
        assert original.content == content
        for variant in media["variants"]:
            answer = await anybody.get(variant["url"])
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
            assert len(answer.content) == variant["sizeBytes"]
            tampered = await anybody.get(f"{variant['url']}0")
            assert tampered.status_code == 403


async def test_the_main_job(shape: Server) -> None:
    async with register(shape.url, "Ada") as ada:
        person = await ada.person("Ada Lovelace")
        content = photograph(2000, 1500)
        uploaded = await ada.uploaded(content, "ada.jpg", entityId=person["id"])
        await assert_served(await ada.settled(uploaded["id"]), content, SIZES)

        face = photograph(600, 600, format="PNG")
        payload = await ada.send_files(
            CREATE_PROFILE, {"input": {"personId": person["id"], "avatar": None}}, {"input.avatar": ("me.png", face)}
        )
        assert payload["errors"] == []
        profile = payload["profile"]
        avatar = await ada.settled(profile["avatar"]["id"])
        square = [("THUMBNAIL", 150, 150), ("SMALL", 400, 400), ("MEDIUM", 600, 600), ("LARGE", 600, 600)]
        await assert_served(avatar, face, square)
        assert await stored_keys(shape) == await known_keys(shape)

        other = photograph(600, 600)
        payload = await ada.send_files(
            UPDATE_PROFILE, {"input": {"id": profile["id"], "avatar": None}}, {"input.avatar": ("new.jpg", other)}
        )
        assert payload["errors"] == []
        replacement = await ada.settled(payload["profile"]["avatar"]["id"])
        await assert_served(replacement, other, square)
        assert await ada.ask("query($id: ID!) { media(id: $id) { id } }", id=avatar["id"]) is None

        async def old_bytes_are_gone() -> bool:
            return await stored_keys(shape) == await known_keys(shape)

        await until(old_bytes_are_gone)
        assert len(await known_keys(shape)) == 10
        async with httpx.AsyncClient() as anybody:
            for url in (avatar["url"], *(variant["url"] for variant in avatar["variants"])):
                assert (await anybody.get(url)).status_code == 404
        assert [path for path in (shape.data_dir / "scratch").rglob("*") if path.is_file()] == []


# ---------------------------------------------------------------- an S3 that goes away and comes back


class Bucket:
    """An S3 that can be stopped, and started again where it was with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        self._running = ExitStack()
        (folder / "data").mkdir(parents=True)
        self.endpoint_url = f"http://{self._address}"

    def start(self) -> None:
        log = self._folder / "rclone.log"
        serve = (RCLONE, "--config", "", "serve", "s3", self._folder / "data", "--addr", self._address)
        started = daemon(*serve, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", log=log)
        self.process = self._running.enter_context(started)
        wait_until(lambda: answers(self.endpoint_url), process=self.process, log=log)

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    bucket = Bucket(tmp_path_factory.mktemp("bucket"))
    bucket.start()
    yield bucket
    bucket.stop()


@pytest.fixture(scope="module")
async def fragile(bucket: Bucket, server_apart: Apart) -> AsyncIterator[Server]:
    """Server and worker on that S3."""
    settings = on_s3(bucket.endpoint_url) | {"storage_deadline": DEADLINE_SECONDS, "processes": 1}
    with aws_variables():
        async with server_apart("fragile", **settings) as server:
            wait_until_working(server.data_dir.parent / "worker.log")
            yield server


@pytest.fixture
async def ada(fragile: Server) -> AsyncIterator[Account]:
    async with admitted(fragile, "Ada") as account:
        yield account


@pytest.fixture
def storage_away(bucket: Bucket) -> Iterator[Bucket]:
    """Stopped by the test, and in any case running after it."""
    yield bucket
    bucket.stop()
    bucket.start()


async def started_on(endpoint_url: str, **settings: Any) -> float:
    """Opens a storage as every process does, and leaves it; the seconds until it was open."""
    with aws_variables():
        began = time.monotonic()
        settings_given = load({}, **on_s3(endpoint_url), secret_key="s" * 32, **settings)
        async with open_storage(settings_given) as storage, being_set_up(storage):
            return time.monotonic() - began


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What we say; libraries say more when another test has asked them to."""
    return [record.message for record in caplog.records if record.name.startswith("app.")]


async def test_a_start_without_its_storage(caplog: pytest.LogCaptureFixture) -> None:
    """Goes on while the storage is still waited for, and says what is not there."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert await started_on(nowhere, storage_deadline=timedelta(seconds=60)) < SET_UP_SECONDS + 2
    assert told(caplog) == []
    assert await started_on(nowhere, storage_deadline=timedelta(seconds=1)) < SET_UP_SECONDS
    assert told(caplog) == [
        "The storage does not answer yet: the bucket heirloom: the storage does not answer (EndpointConnectionError)"
    ]


async def test_a_start_on_a_storage_that_refuses(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    assert await started_on(bucket.endpoint_url) < SET_UP_SECONDS
    refused = [message.partition(". ")[0] for message in told(caplog)]
    assert refused == [
        f"The storage could not be set up: {step}"
        for step in ("uploads from web pages", "unfinished uploads in parts", "what is left in incoming/")
    ]


async def test_clients_are_sent_to_the_public_address(bucket: Bucket) -> None:
    settings = load({}, **on_s3(bucket.endpoint_url), secret_key="s" * 32, s3_public_url="https://media.example.com")
    with aws_variables():
        async with open_storage(settings) as storage:
            now, minute = datetime.now(UTC), timedelta(minutes=1)
            urls = [
                storage.presign_get("a/b.jpg", now=now).url,
                storage.presign_put("a/b.jpg", size=5, content_type="image/jpeg", now=now, expires_in=minute).url,
                storage.presign_part("a/b.jpg", "id", 1, size=5, now=now, expires_in=minute).url,
            ]
    assert [url.partition("?")[0] for url in urls] == ["https://media.example.com/heirloom/a/b.jpg"] * 3


async def test_an_upload_while_the_storage_is_away(fragile: Server, ada: Account, storage_away: Bucket) -> None:
    profile = await ada.profile((await ada.person())["id"])
    storage_away.stop()
    began = time.monotonic()
    payload = await ada.upload(photograph(64, 48), idempotencyKey="again")
    assert 0.9 * DEADLINE_SECONDS < time.monotonic() - began < 3 * DEADLINE_SECONDS
    error = {
        "code": "STORAGE_UNAVAILABLE",
        "message": "The storage does not answer. Nothing was kept; try again later.",
        "path": None,
    }
    assert payload == {"media": None, "duplicateOf": None, "errors": [error]}
    avatar = await ada.send_files(
        UPDATE_PROFILE,
        {"input": {"id": profile["id"], "name": "Changed", "avatar": None}},
        {"input.avatar": ("me.jpg", photograph(64, 48))},
    )
    assert (avatar["profile"], [error["code"] for error in avatar["errors"]]) == (None, ["STORAGE_UNAVAILABLE"])

    assert await fetch(fragile, "SELECT id FROM media WHERE owner = $1", ada.id) == []
    assert await fetch(fragile, "SELECT id FROM event WHERE owner = $1 AND media IS NOT NULL", ada.id) == []
    assert list((fragile.data_dir / "scratch").glob("*/*")) == []
    name = await ada.ask("query($id: ID!) { profile(id: $id) { name avatar { id } } }", id=profile["id"])
    assert name == {"name": profile["name"], "avatar": None}

    storage_away.start()
    content = photograph(64, 48)
    media = await ada.uploaded(content, idempotencyKey="again")
    await assert_served(await ada.settled(media["id"]), content, small_sizes())
    assert await stored_keys(fragile) == await known_keys(fragile)


@contextmanager
def paused_worker(server: Server) -> Iterator[None]:
    """It takes no job until the block is left."""
    assert server.worker is not None
    server.worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.worker.send_signal(signal.SIGCONT)


async def test_processing_waits_for_the_storage(fragile: Server, ada: Account, storage_away: Bucket) -> None:
    content = photograph(64, 48)
    updates = []
    with ExitStack() as pause:
        pause.enter_context(paused_worker(fragile))
        media = await ada.uploaded(content)
        async with ada.socket() as socket:
            async for result in socket.subscribe(WATCH, id=media["id"]):
                update = result["mediaProcessing"]
                updates.append((update["status"], update["stage"]))
                if len(updates) == 1:
                    storage_away.stop()
                    pause.close()
                elif updates.count(("PROCESSING", "QUEUED")) == 1 and updates[-1] == ("PROCESSING", "QUEUED"):
                    storage_away.start()
    assert updates[:3] == [("UPLOADED", "QUEUED"), ("PROCESSING", "FETCHING"), ("PROCESSING", "QUEUED")]
    assert updates[-5:] == [
        ("PROCESSING", "FETCHING"),
        ("PROCESSING", "ANALYZING"),
        ("PROCESSING", "RENDERING"),
        ("PROCESSING", "STORING"),
        ("READY", "DONE"),
    ]
    await assert_served(await ada.settled(media["id"]), content, small_sizes())


async def test_processing_gives_up_on_the_storage(fragile: Server, ada: Account, storage_away: Bucket) -> None:
    content = photograph(64, 48)
    with paused_worker(fragile):
        media = await ada.uploaded(content)
        storage_away.stop()
    failed = await ada.settled(media["id"])
    assert (failed["status"], failed["variants"]) == ("FAILED", [])
    assert failed["failure"] == {"code": "STORAGE", "message": "The storage does not answer."}
    (row,) = await fetch(fragile, "SELECT processing_attempts FROM media WHERE id = $1", media["id"])
    assert row == {"processing_attempts": 3}

    storage_away.start()
    assert (await ada.http.get(failed["url"], headers={"authorization": ""})).content == content
    payload = await ada.ask(
        "mutation($input: MediaIdsInput!) { reprocessMedia(input: $input) { results { id errors { code } } } }",
        input={"ids": [media["id"]]},
    )
    assert payload == {"results": [{"id": media["id"], "errors": []}]}
    await assert_served(await ada.settled(media["id"]), content, small_sizes())


def small_sizes() -> list[tuple[str, int, int]]:
    """Variants of a picture of 64 by 48 pixels: nothing is enlarged."""
    return [("THUMBNAIL", 48, 48), ("SMALL", 64, 48), ("MEDIUM", 64, 48), ("LARGE", 64, 48)]
