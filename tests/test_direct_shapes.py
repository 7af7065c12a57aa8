"""Direct uploads in each shape of storage, with real processes; and while an S3 is away."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Awaitable
from contextlib import suppress

import httpx

from app.settings import load
from app.wiring import open_storage
from tests.client import FIND_SESSION, Account, Client, Json, admitted, deliver, put, put_part, register
from tests.footprint import fetch
from tests.pictures import photograph
from tests.server import Server
from tests.test_shapes import Bucket, assert_served, bucket, fragile, shape, small_sizes, storage_away, until

__all__ = ["bucket", "fragile", "shape", "storage_away"]  # fixtures

MIB = 1024 * 1024
THREE_PARTS = 17 * MIB
FOUR_PARTS = 25 * MIB
AWAY = "The storage does not answer."


def picture(size: int) -> bytes:
    """A small JPEG in a file of exactly so many bytes."""
    content = photograph(64, 48)
    return content + os.urandom(size - len(content))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def keys_with_bytes(server: Server) -> set[str]:
    rows = await fetch(
        server,
        "SELECT storage_key FROM media WHERE lost_at IS NULL AND status <> 'PENDING'"
        " UNION ALL SELECT storage_key FROM variant",
    )
    return {str(row["storage_key"]) for row in rows}


async def agree(server: Server) -> bool:
    """Whether the bucket's keys are the database's, and no upload in parts is left."""
    async with open_storage(load(server.environment)) as storage:
        there = {stored.key async for stored in storage.list("")}
        unfinished = [upload async for upload in storage.list_multiparts()]
    return there == await keys_with_bytes(server) and not unfinished


async def test_the_direct_job(shape: Server) -> None:
    async with register(shape.url, "Ada") as ada:
        person = await ada.person("Ada Lovelace")
        small, large = picture(5 * MIB), picture(FOUR_PARTS)
        one = await ada.sent(small, "one.jpg", sha256=sha256(small), entityId=person["id"])
        several = await resumed(shape, ada, large)
        for media, content in ((one, small), (several, large)):
            ready = await ada.settled(media["id"])
            await assert_served(ready, content, small_sizes())
            assert ready["sha256"] == sha256(content)
        assert (await ada.begin(FOUR_PARTS, sha256=sha256(large)))["duplicateOf"] == {"id": several["id"]}

        profile = await ada.profile(person["id"])
        place = {"entityId": profile["id"], "slot": "avatar"}
        old = await ada.sent(picture(MIB), **place)
        await ada.settled(old["id"])
        face = picture(MIB)
        new = await ada.settled((await ada.sent(face, **place))["id"])
        await assert_served(new, face, small_sizes())

        await refused_ones(ada)
        await until(lambda: agree(shape))
        assert len(await keys_with_bytes(shape)) == 3 * 5


async def resumed(server: Server, account: Account, content: bytes) -> Json:
    """Two parts of four, then another client that knows nothing but who asks."""
    begun = await account.begun(len(content), "several.jpg")
    first, _, third, _ = begun["parts"]
    for part in (third, first):
        assert (await put_part(begun, part, content)).status_code == 200
    async with Client(server.url, account.token) as anew:
        (found,) = (await anew.ask("{ viewer { uploadSessions { id } } }"))["uploadSessions"]
        session = await anew.found(found["id"])
        assert [part["partNumber"] for part in session["uploadedParts"]] == [1, 3]
        assert [part["partNumber"] for part in session["parts"]] == [2, 4]
        await deliver(session, content)
        payloads = await asyncio.gather(*(anew.complete(session["id"]) for _ in range(3)))
        assert [payload["errors"] for payload in payloads] == [[]] * 3
        assert {payload["media"]["id"] for payload in payloads} == {begun["media"]["id"]}
    media: Json = payloads[0]["media"]
    # A part's URL ends with its upload.
    await assert_refused(put_part(begun, first, bytes(FOUR_PARTS)), 404)
    return media


async def assert_refused(sending: Awaitable[httpx.Response], status: int) -> None:
    """By this answer; or a closed connection, for rclone does not read what it does not want."""
    with suppress(httpx.NetworkError):
        assert (await sending).status_code == status


async def refused_ones(account: Account) -> None:
    """Other lengths, other types, other bytes, and one that is given up."""
    single = await account.begun(MIB, "short.jpg")
    await assert_refused(put(single["uploadUrl"], single["headers"], picture(MIB - 1)), 403)
    png = [{"name": "Content-Type", "value": "image/png"}]
    await assert_refused(put(single["uploadUrl"], png, picture(MIB)), 403)
    nothing = await account.complete(single["id"])
    assert [error["message"] for error in nothing["errors"]] == ["Nothing has been uploaded yet."]
    await deliver(single, bytes(MIB))
    assert [error["code"] for error in (await account.complete(single["id"]))["errors"]] == ["UNSUPPORTED_TYPE"]

    parts = await account.begun(THREE_PARTS)
    await assert_refused(put(parts["parts"][0]["url"], [], bytes(MIB)), 403)
    await put_part(parts, parts["parts"][0], picture(THREE_PARTS))
    missing = await account.complete(parts["id"])
    assert [error["code"] for error in missing["errors"]] == ["CONFLICT"]
    assert (await account.abort(parts["id"]))["errors"] == []

    false = await account.sent(picture(THREE_PARTS), sha256="0" * 64)
    failed = await account.settled(false["id"])
    assert failed["failure"]["code"] == "CHECKSUM_MISMATCH"


# ---------------------------------------------------------------- an S3 that goes away and comes back


def errors(message: str) -> list[Json]:
    return [{"code": "STORAGE_UNAVAILABLE", "message": f"{AWAY} {message}; try again later.", "path": None}]


async def test_sessions_while_the_storage_is_away(fragile: Server, storage_away: Bucket) -> None:
    async with admitted(fragile, "Ada") as ada:
        single, parts = await ada.begun(MIB), await ada.begun(THREE_PARTS)
        content = picture(MIB)
        await deliver(single, content)
        storage_away.stop()

        # What is only signed needs no storage.
        assert (await ada.begun(MIB))["uploadUrl"]
        plain = await ada.ask("query($id: ID!) { uploadSession(id: $id) { state uploadUrl } }", id=single["id"])
        assert plain["state"] == "OPEN"
        assert plain["uploadUrl"]
        before = await fetch(fragile, "SELECT id, state FROM upload_session ORDER BY id")
        refused = await ada.begin(THREE_PARTS)
        assert refused == {"session": None, "duplicateOf": None, "errors": errors("Nothing was kept")}
        for session in (single, parts):
            payload = await ada.complete(session["id"])
            assert payload == {"media": None, "duplicateOf": None, "errors": errors("What has arrived is kept")}
        answer = await ada.post(FIND_SESSION, id=parts["id"])
        assert answer["data"] == {"uploadSession": None}
        assert {error["extensions"]["code"] for error in answer["errors"]} == {"STORAGE_UNAVAILABLE"}
        assert await fetch(fragile, "SELECT id, state FROM upload_session ORDER BY id") == before
        assert await fetch(fragile, "SELECT id FROM event WHERE media IS NOT NULL") == []

        storage_away.start()
        media = await ada.completed(single["id"])
        await assert_served(await ada.settled(media["id"]), content, small_sizes())


async def test_parts_are_kept_while_the_storage_is_away(fragile: Server, storage_away: Bucket) -> None:
    content = picture(THREE_PARTS)
    async with admitted(fragile, "Ada") as ada:
        session = await ada.begun(THREE_PARTS)
        for part in session["parts"][:2]:
            assert (await put_part(session, part, content)).status_code == 200
        # Not stopped, for rclone forgets uploads in parts then: it takes connections, and answers nobody.
        storage_away.process.send_signal(signal.SIGSTOP)
        payload = await ada.complete(session["id"])
        assert payload == {"media": None, "duplicateOf": None, "errors": errors("What has arrived is kept")}
        storage_away.process.send_signal(signal.SIGCONT)

        found = await ada.found(session["id"])
        assert (found["state"], found["uploadId"]) == ("OPEN", session["uploadId"])
        assert [part["partNumber"] for part in found["uploadedParts"]] == [1, 2]
        await deliver(found, content)
        media = await ada.completed(session["id"])
        assert media["id"] == session["media"]["id"]
        await assert_served(await ada.settled(media["id"]), content, small_sizes())
