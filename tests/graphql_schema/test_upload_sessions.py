"""Direct uploads that go well: what a session promises, and what becomes of the bytes that are put into the storage."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from app.promises import MOST_PARTS, PART_BYTES, SINGLE_MOST, part_size
from processing.kinds import FILE_TYPES
from storage.base import MAX_OBJECT_BYTES, MAX_PARTS, MIN_PART_BYTES
from tests.client import MEDIA, WATCH, Account, Client, Json, deliver, put_part
from tests.footprint import fetch, footprint
from tests.graphql_schema.conftest import MIB
from tests.graphql_schema.rows import dsn_of, execute
from tests.pictures import photograph, tiny_mp4, tiny_pdf
from tests.server import Server

LIBRARY = "query($filter: MediaFilter) { library(filter: $filter) { nodes { id owner { id } } } }"
UNFINISHED = "{ viewer { uploadSessions { id media { id } uploadedParts { partNumber } } } }"
MEDIUM = f"query($id: ID!) {{ media(id: $id) {{ {MEDIA} }} }}"
NODE = "query($id: ID!) { node(id: $id) { __typename id ... on UploadSession { state media { id } } } }"
PARTS = """query($id: ID!, $numbers: [Int!]) {
    uploadSession(id: $id) { parts(numbers: $numbers) { partNumber url headers { name value } sizeBytes } }
}"""
PROFILE = "query($id: ID!) { profile(id: $id) { avatar { id } media { nodes { id } totalCount } } }"
DELETE = "mutation($id: ID!) { deleteMedia(input: {ids: [$id]}) { results { errors { code } } } }"
SMALL = 4096  # bytes: room for a picture
THREE_PARTS = 2 * PART_BYTES + MIB  # bytes: the least that goes in three, but for the last part's own
FOUR_PARTS = THREE_PARTS + PART_BYTES


def picture(size: int) -> bytes:
    """A small JPEG in a file of exactly so many bytes: what follows a picture is no part of it."""
    content = photograph(64, 48)
    return content + os.urandom(size - len(content))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def library(account: Account, *statuses: str) -> list[str]:
    """The account's own of the newest, beside which there may be what others have made public."""
    page = await account.ask(LIBRARY, filter={"statuses": list(statuses)} if statuses else None)
    return [node["id"] for node in page["nodes"] if node["owner"]["id"] == account.id]


async def unfinished(account: Client) -> list[str]:
    viewer = await account.ask(UNFINISHED)
    return [session["id"] for session in viewer["uploadSessions"]]


async def events_of(server: Server, media_id: str) -> list[str]:
    rows = await fetch(server, "SELECT kind FROM event WHERE media = $1 ORDER BY id", media_id)
    return [row["kind"] for row in rows]


async def jobs_about(server: Server, *texts: str) -> list[tuple[str, bool]]:
    """Each job that names one of these: what is to be done, and whether it is not to be done before a later time."""
    rows = await fetch(
        server,
        "SELECT entrypoint, execute_after > now() + interval '15 minutes' AS later FROM pgqueuer"
        " WHERE convert_from(payload, 'UTF8') LIKE ANY($1::text[]) ORDER BY id",
        [f"%{text}%" for text in texts],
    )
    return [(row["entrypoint"], row["later"]) for row in rows]


def is_signed_for(server: Server, url: str, path: str) -> bool:
    return re.fullmatch(rf"{re.escape(server.url)}/files/{path}\?\S*signature=[0-9a-f]{{64}}\S*", url) is not None


async def anybody_gets(url: str) -> bytes:
    async with httpx.AsyncClient() as anybody:
        answer = await anybody.get(url)
    assert answer.status_code == 200
    return answer.content


# ---------------------------------------------------------------- what is promised


async def test_what_has_five_mebibytes_goes_in_one_put(unattended: Server, ida: Account) -> None:
    before = await footprint(unattended)
    session = await ida.begun(5 * MIB)
    assert await footprint(unattended) == replace(before, media=before.media + 1, sessions=before.sessions + 1)
    assert is_signed_for(unattended, session["uploadUrl"], f"incoming/{session['id']}\\.jpg")
    expires_in = datetime.fromisoformat(session["expiresAt"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < expires_in <= timedelta(hours=24)
    assert without(session, "id", "uploadUrl", "expiresAt", "media") == {
        "state": "OPEN",
        "method": "SINGLE",
        "headers": [{"name": "Content-Type", "value": "image/jpeg"}],
        "uploadId": None,
        "partSize": None,
        "totalParts": None,
        "parts": [],
        "uploadedParts": [],
    }


async def test_what_has_a_byte_more_goes_in_parts(unattended: Server, ida: Account) -> None:
    session = await ida.begun(5 * MIB + 1)
    (part,) = session["parts"]
    assert is_signed_for(unattended, part["url"], rf"image/{ida.id}/\d{{13}}-[0-9a-f-]{{36}}\.jpg")
    assert without(part, "url") == {"partNumber": 1, "headers": [], "sizeBytes": 5 * MIB + 1}
    assert session["uploadId"]
    assert without(session, "id", "uploadId", "expiresAt", "media", "parts") == {
        "state": "OPEN",
        "method": "MULTIPART",
        "uploadUrl": None,
        "headers": [],
        "partSize": 8 * MIB,
        "totalParts": 1,
        "uploadedParts": [],
    }


def without(answer: Json, *names: str) -> Json:
    return {name: value for name, value in answer.items() if name not in names}


@pytest.mark.parametrize(
    "size",
    [
        *(SINGLE_MOST + 1, PART_BYTES, PART_BYTES + 1, MOST_PARTS * PART_BYTES, MOST_PARTS * PART_BYTES + 1),
        *(10**9, 10**12, MAX_OBJECT_BYTES - 1, MAX_OBJECT_BYTES),
    ],
)
def test_parts_keep_to_the_limits_of_s3(size: int) -> None:
    part = part_size(size)
    assert MIN_PART_BYTES <= part <= 2**31 - 1
    assert part % MIB == 0
    assert -(-size // part) <= MOST_PARTS <= MAX_PARTS


@pytest.mark.parametrize(
    ("size", "part", "total", "last"),
    [
        (THREE_PARTS, 8 * MIB, 3, MIB),
        (2 * PART_BYTES, 8 * MIB, 2, 8 * MIB),
        (4000 * PART_BYTES + 1, 9 * MIB, 3556, 5 * MIB + 1),
        (MAX_OBJECT_BYTES, 1311 * MIB, 4000, 191 * MIB),
    ],
    ids=["three", "whole", "more-than-4000", "5-TiB"],
)
async def test_parts_are_counted_from_one(ada: Account, size: int, part: int, total: int, last: int) -> None:
    session = await ada.begun(size)
    assert (session["partSize"], session["totalParts"], session["media"]["sizeBytes"]) == (part, total, size)
    assert [each["partNumber"] for each in session["parts"]] == [*range(1, total + 1)]
    assert [each["sizeBytes"] for each in session["parts"]] == [part] * (total - 1) + [last]
    assert len({each["url"] for each in session["parts"]}) == total
    assert sum(each["sizeBytes"] for each in session["parts"]) == size


async def test_a_file_may_be_as_large_as_the_setting_says(unattended: Server, amy: Account) -> None:
    most = int(unattended.environment["HEIRLOOM_MAX_UPLOAD_BYTES"])
    assert (await amy.begun(most))["media"]["sizeBytes"] == most


async def test_parts_are_signed_again_on_demand(amy: Account) -> None:
    session = await amy.begun(THREE_PARTS)

    async def signed(numbers: list[int] | None) -> list[Json]:
        found: list[Json] = (await amy.ask(PARTS, id=session["id"], numbers=numbers))["parts"]
        return found

    everything = await signed(None)
    assert [part["partNumber"] for part in everything] == [1, 2, 3]
    assert [part["partNumber"] for part in await signed([3, 1])] == [3, 1]
    assert [part["sizeBytes"] for part in await signed([3, 1])] == [MIB, 8 * MIB]
    assert await signed([]) == []
    single = await amy.begun(1)
    assert (await amy.ask(PARTS, id=single["id"], numbers=[1]))["parts"] == []


@pytest.mark.parametrize("file_type", FILE_TYPES, ids=lambda each: each.extension)
async def test_every_type_that_is_taken_can_be_promised(amy: Account, file_type: Any) -> None:
    session = await amy.begun(1, contentType=file_type.content_type)
    assert (session["media"]["contentType"], session["media"]["kind"]) == (file_type.content_type, file_type.kind)
    assert session["headers"] == [{"name": "Content-Type", "value": file_type.content_type}]


@pytest.mark.parametrize(
    ("claimed", "known"),
    [
        ("image/jpg", "image/jpeg"),
        ("IMAGE/JPEG", "image/jpeg"),
        (" image/jpeg ; charset=binary", "image/jpeg"),
        ("image/png;q=1", "image/png"),
        ("audio/x-wav", "audio/wav"),
        ("audio/ogg; codecs=opus", "audio/ogg"),
        ("video/x-m4v", "video/mp4"),
        ("video/avi", "video/vnd.avi"),
        ("application/x-pdf", "application/pdf"),
    ],
)
async def test_types_have_other_names(amy: Account, claimed: str, known: str) -> None:
    session = await amy.begun(1, contentType=claimed)
    assert session["media"]["contentType"] == known
    assert session["headers"] == [{"name": "Content-Type", "value": known}]


async def test_a_browser_that_does_not_know_the_type_is_taken_by_the_name(amy: Account) -> None:
    session = await amy.begun(1, "IMG_0042.HEIC", contentType="")
    assert session["media"]["contentType"] == "image/heic"
    assert session["headers"] == [{"name": "Content-Type", "value": "image/heic"}]


async def test_the_media_is_known_before_its_first_byte(unattended: Server, ida: Account, bob: Account) -> None:
    words = {
        "title": "At the sea",
        "description": "1962",
        "altText": "A pier",
        "tags": ["sea"],
        "isPublic": True,
    }
    session = await ida.begun(SMALL, "../café.jpg", **words)
    media = session["media"]
    told = {**words, "status": "PENDING", "kind": "IMAGE", "filename": "café.jpg", "contentType": "image/jpeg"}
    nothing: Json = {"url": None, "urlExpiresAt": None, "sha256": None, "width": None, "failure": None, "variants": []}
    assert media == {**media, **told, **nothing, "sizeBytes": SMALL, "owner": {"id": ida.id}, "entity": None}
    assert await ida.ask(MEDIUM, id=media["id"]) == media
    assert await ida.ask(NODE, id=session["id"]) == {
        "__typename": "UploadSession",
        "id": session["id"],
        "state": "OPEN",
        "media": {"id": media["id"]},
    }

    assert await library(ida) == []
    assert await library(ida, "PENDING") == [media["id"]]
    assert await library(ida, "READY", "UPLOADED", "FAILED") == []
    usage = await ida.ask("{ viewer { storage { mediaCount originalBytes variantBytes trashBytes } } }")
    assert usage["storage"] == {"mediaCount": 0, "originalBytes": 0, "variantBytes": 0, "trashBytes": 0}
    assert await events_of(unattended, media["id"]) == []

    async with Client(unattended.url) as nobody:
        for stranger in (bob, nobody):
            assert await stranger.ask(MEDIUM, id=media["id"]) is None
            assert await stranger.ask(NODE, id=session["id"]) is None
            assert await stranger.found(session["id"]) is None
            public = "query($id: String!) { publicMedia(publicId: $id) { id } }"
            assert await stranger.ask(public, id=media["publicId"]) is None


async def test_an_upload_that_was_begun_is_listed_until_it_ends(ida: Account, bob: Account) -> None:
    first, second, third = [await ida.begun(size) for size in (1, THREE_PARTS, 10)]
    await bob.begun(1)
    assert await unfinished(ida) == [first["id"], second["id"], third["id"]]
    assert (await ida.abort(second["id"]))["errors"] == []
    assert await unfinished(ida) == [first["id"], third["id"]]


# ---------------------------------------------------------------- one PUT


async def test_one_put_becomes_ready_and_can_be_watched_all_the_way(server: Server, ada: Account) -> None:
    content = picture(5 * MIB)
    session = await ada.begun(len(content), "sea.jpg")
    media_id = session["media"]["id"]
    updates: list[Json] = []
    async with ada.socket() as socket:
        async for result in socket.subscribe(WATCH, id=media_id):
            updates.append(result["mediaProcessing"])
            if len(updates) == 1:
                await deliver(session, content)
                assert (await ada.found(session["id"]))["media"]["status"] == "PENDING"
                completed = await ada.completed(session["id"])
    assert updates[0] == {
        "status": "PENDING",
        "stage": "QUEUED",
        "percent": 0,
        "failure": None,
        "media": {"id": media_id, "status": "PENDING"},
    }
    assert [(update["status"], update["stage"]) for update in updates[1:]] == [
        ("UPLOADED", "QUEUED"),
        ("PROCESSING", "FETCHING"),
        ("PROCESSING", "ANALYZING"),
        ("PROCESSING", "RENDERING"),
        ("PROCESSING", "STORING"),
        ("READY", "DONE"),
    ]
    assert (completed["id"], completed["status"], completed["sha256"]) == (media_id, "UPLOADED", None)

    media = await ada.ask(MEDIUM, id=media_id)
    assert (media["status"], media["failure"], media["sha256"]) == ("READY", None, sha256(content))
    assert (media["width"], media["height"], media["sizeBytes"]) == (64, 48, 5 * MIB)
    assert [variant["name"] for variant in media["variants"]] == ["THUMBNAIL", "SMALL", "MEDIUM", "LARGE"]
    assert await anybody_gets(media["url"]) == content
    assert await library(ada) == [media_id]
    assert await unfinished(ada) == []
    assert await events_of(server, media_id) == ["UPLOADED", *["PROCESSING"] * 4, "READY"]


async def test_what_one_put_leaves(unattended: Server, amy: Account) -> None:
    before = await footprint(unattended)
    session = await amy.begun(5 * MIB)
    await deliver(session, picture(5 * MIB))
    staged = f"incoming/{session['id']}.jpg"
    assert (await footprint(unattended)).objects - before.objects == {staged}

    media = await amy.completed(session["id"])
    after = await footprint(unattended)
    (key,) = after.objects - before.objects
    assert re.fullmatch(rf"image/{amy.id}/\d{{13}}-[0-9a-f-]{{36}}\.jpg", key)
    assert after == replace(
        before,
        media=before.media + 1,
        sessions=before.sessions + 1,
        events=before.events + 1,
        jobs=before.jobs + 2,
        objects=before.objects | {key},
    )
    assert await jobs_about(unattended, media["id"], staged) == [("ingest", False), ("erase", True)]
    ended = await amy.found(session["id"])
    assert (ended["state"], ended["uploadUrl"], ended["headers"], ended["parts"]) == ("COMPLETED", None, [], [])


@pytest.mark.parametrize("size", [SMALL, THREE_PARTS], ids=["single", "multipart"])
async def test_completing_again_gives_the_same_media(unattended: Server, ida: Account, size: int) -> None:
    session = await ida.begun(size)
    await deliver(session, picture(size))
    first = await ida.completed(session["id"])
    between = await footprint(unattended)
    assert await ida.completed(session["id"]) == first
    assert await footprint(unattended) == between


@pytest.mark.parametrize("size", [SMALL, THREE_PARTS], ids=["single", "multipart"])
async def test_of_completions_at_once_one_makes_the_media(unattended: Server, ida: Account, size: int) -> None:
    before = await footprint(unattended)
    content = picture(size)
    session = await ida.begun(size)
    await deliver(session, content)
    media, *others = await asyncio.gather(*(ida.completed(session["id"]) for _ in range(6)))
    assert others == [media] * 5

    after = await footprint(unattended)
    (key,) = after.objects - before.objects
    assert (after.media, after.events) == (before.media + 1, before.events + 1)
    assert await events_of(unattended, media["id"]) == ["UPLOADED"]
    assert await jobs_about(unattended, media["id"]) == [("ingest", False)]
    assert (unattended.data_dir / "files" / key).read_bytes() == content
    assert await anybody_gets(media["url"]) == content


async def test_a_file_may_be_put_again_before_it_is_completed(amy: Account) -> None:
    wrong, right = picture(SMALL), picture(SMALL)
    session = await amy.begun(SMALL)
    await deliver(session, wrong)
    await deliver(await amy.found(session["id"]), right)
    media = await amy.completed(session["id"])
    assert await anybody_gets(media["url"]) == right


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("naming", ["left out", "as they came", "unquoted"])
async def test_parts_come_in_any_order_and_all_at_once(ada: Account, naming: str) -> None:
    content = picture(THREE_PARTS)
    session = await ada.begun(len(content))
    answers = await asyncio.gather(*(put_part(session, part, content) for part in reversed(session["parts"])))
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    etags = [answer.headers["etag"] for answer in reversed(answers)]
    there = [
        {"partNumber": number, "etag": etag, "sizeBytes": size}
        for number, etag, size in zip((1, 2, 3), etags, (8 * MIB, 8 * MIB, MIB), strict=True)
    ]
    assert (await ada.found(session["id"]))["uploadedParts"] == there

    given: dict[str, Any] = {}
    if naming != "left out":
        named = [etag.strip('"') if naming == "unquoted" else etag for etag in etags]
        given = {"parts": [{"partNumber": number, "etag": etag} for number, etag in enumerate(named, 1)]}
    media = await ada.completed(session["id"], **given)
    assert media["status"] == "UPLOADED"
    ready = await ada.settled(media["id"])
    assert (ready["status"], ready["failure"], ready["sha256"]) == ("READY", None, sha256(content))
    assert await anybody_gets(ready["url"]) == content


async def test_what_parts_leave(unattended: Server, amy: Account) -> None:
    before = await footprint(unattended)
    session = await amy.begun(THREE_PARTS)
    await deliver(session, picture(THREE_PARTS))
    media = await amy.completed(session["id"])
    after = await footprint(unattended)
    (key,) = after.objects - before.objects
    assert re.fullmatch(rf"image/{amy.id}/\d{{13}}-[0-9a-f-]{{36}}\.jpg", key)
    assert after == replace(
        before,
        media=before.media + 1,
        sessions=before.sessions + 1,
        events=before.events + 1,
        jobs=before.jobs + 1,
        objects=before.objects | {key},
    )
    assert await jobs_about(unattended, media["id"]) == [("ingest", False)]
    ended = await amy.found(session["id"])
    assert (ended["state"], ended["parts"], ended["uploadedParts"]) == ("COMPLETED", [], [])


async def test_a_new_client_goes_on_where_the_old_one_stopped(unattended: Server, ida: Account) -> None:
    content = picture(FOUR_PARTS)
    begun = await ida.begun(len(content))
    first, _, _, fourth = begun["parts"]
    etags = [(await put_part(begun, part, content)).headers["etag"] for part in (first, fourth)]

    async with Client(unattended.url, ida.token) as anew:
        viewer = await anew.ask(UNFINISHED)
        arrived = [{"partNumber": 1}, {"partNumber": 4}]
        assert viewer["uploadSessions"] == [
            {"id": begun["id"], "media": {"id": begun["media"]["id"]}, "uploadedParts": arrived}
        ]
        session = await anew.found(begun["id"])
        assert session["uploadedParts"] == [
            {"partNumber": 1, "etag": etags[0], "sizeBytes": 8 * MIB},
            {"partNumber": 4, "etag": etags[1], "sizeBytes": MIB},
        ]
        assert [part["partNumber"] for part in session["parts"]] == [2, 3]
        await deliver(session, content)
        assert (await anew.found(begun["id"]))["parts"] == []
        media = await anew.completed(session["id"])
    assert media["id"] == begun["media"]["id"]
    assert await anybody_gets(media["url"]) == content


async def test_a_part_may_be_sent_again(amy: Account) -> None:
    wrong, right = picture(THREE_PARTS), picture(THREE_PARTS)
    session = await amy.begun(THREE_PARTS)
    await deliver(session, wrong)
    for part in session["parts"]:
        assert (await put_part(session, part, right)).status_code == 200
    assert len((await amy.found(session["id"]))["uploadedParts"]) == 3
    media = await amy.completed(session["id"])
    assert await anybody_gets(media["url"]) == right


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("slot", "content", "content_type"),
    [
        (None, photograph(64, 48), "image/jpeg"),
        ("documents", tiny_pdf(), "application/pdf"),
        ("recordings", tiny_mp4(), "video/mp4"),
    ],
    ids=["photos", "documents", "recordings"],
)
async def test_an_upload_goes_to_a_slot(
    unattended: Server, ida: Account, slot: str | None, content: bytes, content_type: str
) -> None:
    person = await ida.person()
    before = await footprint(unattended)
    session = await ida.begun(len(content), contentType=content_type, entityId=person["id"], slot=slot)
    assert session["media"]["entity"] == {"id": person["id"]}
    await deliver(session, content)
    of_person = "query($id: ID!) { person(id: $id) { media { nodes { id } totalCount } } }"
    assert (await ida.ask(of_person, id=person["id"]))["media"] == {"nodes": [], "totalCount": 0}

    media = await ida.completed(session["id"])
    assert (media["slot"], media["entity"]) == (slot or "photos", {"id": person["id"]})
    listed = await ida.ask(of_person, id=person["id"])
    assert listed["media"] == {"nodes": [{"id": media["id"]}], "totalCount": 1}
    (key,) = (await footprint(unattended)).objects - before.objects
    assert f"/{media['kind'].lower()}/{person['id']}/" in f"/{key}"


async def test_an_avatar_is_replaced_by_the_completion_and_not_before(unattended: Server, ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    place = {"entityId": profile["id"], "slot": "avatar"}
    old = await ida.uploaded(photograph(64, 48), **place)
    (was,) = await fetch(unattended, "SELECT storage_key FROM media WHERE id = $1", old["id"])

    async def shown() -> Any:
        found = await ida.ask(PROFILE, id=profile["id"])
        assert found["media"]["totalCount"] == len(found["media"]["nodes"]) == 1
        assert found["media"]["nodes"] == [found["avatar"]]
        return found["avatar"]["id"]

    session, rival = [await ida.begun(SMALL, **place) for _ in range(2)]
    for each in (session, rival):
        await deliver(each, picture(SMALL))
    assert await shown() == old["id"]
    new = await ida.completed(session["id"])
    assert await shown() == new["id"] == session["media"]["id"]
    assert await ida.ask(MEDIUM, id=old["id"]) is None
    assert await events_of(unattended, old["id"]) == ["UPLOADED", "PURGED"]
    assert ("erase", False) in await jobs_about(unattended, was["storage_key"])

    # What was promised beforehand is none the worse for it, and replaces in its turn.
    newer = await ida.completed(rival["id"])
    assert await shown() == newer["id"] == rival["media"]["id"]
    assert await ida.ask(MEDIUM, id=new["id"]) is None


async def test_an_avatar_may_hold_what_the_library_has(ida: Account) -> None:
    content = picture(SMALL)
    await ida.uploaded(content)
    profile = await ida.profile((await ida.person())["id"])
    media = await ida.sent(content, sha256=sha256(content), entityId=profile["id"], slot="avatar")
    assert (await ida.ask(PROFILE, id=profile["id"]))["avatar"] == {"id": media["id"]}


async def test_an_upload_outlives_what_it_was_for(unattended: Server, ida: Account) -> None:
    """As media does that is there already: it goes into the trash, and the upload can still be completed there."""
    person = await ida.person()
    content = picture(SMALL)
    session = await ida.begun(len(content), entityId=person["id"])
    await deliver(session, content)
    gone = await ida.ask("mutation($id: ID!) { deletePerson(id: $id) { errors { code } } }", id=person["id"])
    assert gone == {"errors": []}
    media = await ida.completed(session["id"])
    assert (media["status"], media["entity"], media["slot"]) == ("UPLOADED", None, "photos")
    assert media["deletedAt"] is not None
    assert await library(ida) == []


# ---------------------------------------------------------------- the same again


async def test_the_same_idempotency_key_gives_the_same_session(unattended: Server, ida: Account, bob: Account) -> None:
    first = await ida.begun(THREE_PARTS, idempotencyKey="once")
    await put_part(first, first["parts"][0], picture(THREE_PARTS))
    between = await footprint(unattended)
    again = await ida.begun(THREE_PARTS, idempotencyKey="once")
    assert (again["id"], again["uploadId"], again["media"]["id"]) == (
        first["id"],
        first["uploadId"],
        first["media"]["id"],
    )
    assert [part["partNumber"] for part in again["uploadedParts"]] == [1]
    assert await footprint(unattended) == between
    assert (await bob.begun(THREE_PARTS, idempotencyKey="once"))["id"] != first["id"]


async def test_an_idempotency_key_that_comes_at_once_makes_one_session(unattended: Server, ida: Account) -> None:
    before = await footprint(unattended)
    sessions = await asyncio.gather(*(ida.begun(THREE_PARTS, idempotencyKey="at once") for _ in range(6)))
    assert len({session["id"] for session in sessions}) == 1
    after = await footprint(unattended)
    uploads = {name.split("/")[1] for name in after.objects - before.objects}
    assert uploads == {sessions[0]["uploadId"]}
    assert (after.media, after.sessions) == (before.media + 1, before.sessions + 1)


async def test_an_idempotency_key_gives_a_completed_upload_too(ida: Account) -> None:
    content = picture(SMALL)
    media = await ida.sent(content, idempotencyKey="done")
    session = await ida.begun(len(content), idempotencyKey="done")
    assert (session["state"], session["uploadUrl"], session["media"]["id"]) == ("COMPLETED", None, media["id"])


@pytest.mark.parametrize(
    "other",
    [
        {"size": SMALL + 1},
        {"filename": "other.jpg"},
        {"contentType": "image/png"},
        {"sha256": "0" * 64},
    ],
    ids=["size", "filename", "type", "sha256"],
)
async def test_an_idempotency_key_of_another_file_is_a_conflict(
    unattended: Server, ida: Account, other: dict[str, Any]
) -> None:
    await ida.begun(SMALL, idempotencyKey="taken")
    between = await footprint(unattended)
    payload = await ida.begin(**{"size": SMALL, "idempotencyKey": "taken", **other})
    error = {
        "code": "CONFLICT",
        "message": "This idempotency key was used with another file.",
        "path": ["input", "idempotencyKey"],
    }
    assert payload == {"session": None, "duplicateOf": None, "errors": [error]}
    assert await footprint(unattended) == between


@pytest.mark.parametrize("trashed", [False, True], ids=["kept", "trashed"])
@pytest.mark.parametrize("case", [str.lower, str.upper], ids=["lower", "upper"])
async def test_bytes_that_are_there_need_not_come(
    unattended: Server, ida: Account, bob: Account, trashed: bool, case: Any
) -> None:
    content = picture(SMALL)
    there = await ida.uploaded(content)
    if trashed:
        await ida.ask(DELETE, id=there["id"])
    between = await footprint(unattended)
    for size in (SMALL, THREE_PARTS):  # whatever is said of them besides
        payload = await ida.begin(size, sha256=case(sha256(content)))
        assert payload == {"session": None, "duplicateOf": {"id": there["id"]}, "errors": []}
    assert await footprint(unattended) == between
    # Nobody learns what others have.
    theirs = await bob.begin(SMALL, sha256=sha256(content))
    assert (theirs["duplicateOf"], theirs["session"]["state"]) == (None, "OPEN")


async def test_bytes_that_came_directly_are_known_once_they_are_hashed(ada: Account) -> None:
    content = picture(SMALL)
    media = await ada.sent(content, sha256=sha256(content))
    assert (await ada.settled(media["id"]))["sha256"] == sha256(content)
    payload = await ada.begin(len(content), sha256=sha256(content))
    assert payload == {"session": None, "duplicateOf": {"id": media["id"]}, "errors": []}
    received = await ada.upload(content)
    assert (received["media"]["id"], received["duplicateOf"]) == (media["id"], {"id": media["id"]})


async def test_the_same_bytes_by_two_sessions_are_two_media(server: Server, ada: Account) -> None:
    content = picture(SMALL)
    sessions = [await ada.begun(len(content)) for _ in range(2)]
    for session in sessions:
        await deliver(session, content)
    ids = [(await ada.completed(session["id"]))["id"] for session in sessions]
    settled = [await ada.settled(media_id) for media_id in ids]
    assert [(media["status"], media["sha256"]) for media in settled] == [("READY", sha256(content))] * 2
    rows = await fetch(server, "SELECT is_copy FROM media WHERE owner = $1", ada.id)
    assert sorted(row["is_copy"] for row in rows) == [False, True]
    for media in settled:
        assert await anybody_gets(media["url"]) == content


# ---------------------------------------------------------------- ends


async def test_other_bytes_than_were_promised_fail_and_go(server: Server, ada: Account) -> None:
    promised, content = picture(SMALL), picture(SMALL)
    given = {"sha256": sha256(promised), "idempotencyKey": "this one"}
    media = await ada.sent(content, **given)
    (row,) = await fetch(server, "SELECT storage_key FROM media WHERE id = $1", media["id"])
    failed = await ada.settled(media["id"])
    message = "The uploaded bytes have another SHA-256 than was promised."
    assert (failed["status"], failed["failure"]) == ("FAILED", {"code": "CHECKSUM_MISMATCH", "message": message})
    assert (failed["url"], failed["variants"], failed["sha256"]) == (None, [], None)
    assert await library(ada) == []
    await until_gone(server, row["storage_key"])
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get(media["url"])).status_code == 404

    # The same can be begun again, and this time the right bytes come.
    again = await ada.sent(promised, **given)
    assert again["id"] != media["id"]
    assert (await ada.settled(again["id"]))["sha256"] == sha256(promised)


async def until_gone(server: Server, *keys: str) -> None:
    """Until nothing is stored under any of the keys."""
    async with asyncio.timeout(30):
        while any((server.data_dir / "files" / key).exists() for key in keys):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("size", [SMALL, THREE_PARTS], ids=["single", "multipart"])
async def test_an_upload_that_is_aborted_leaves_nothing(server: Server, ada: Account, size: int) -> None:
    session = await ada.begun(size, idempotencyKey="to be aborted")
    await deliver(session, picture(size))
    folder = f".uploads/{session['uploadId']}" if session["uploadId"] else f"incoming/{session['id']}.jpg"
    assert (server.data_dir / "files" / folder).exists()
    for _ in range(2):
        assert await ada.abort(session["id"]) == {"deletedId": session["id"], "errors": []}

    found = await ada.found(session["id"])
    assert (found["state"], found["uploadUrl"], found["parts"], found["uploadedParts"]) == ("ABORTED", None, [], [])
    failure = {"code": "NOT_UPLOADED", "message": "The upload was aborted."}
    assert (found["media"]["status"], found["media"]["failure"], found["media"]["url"]) == ("FAILED", failure, None)
    assert await events_of(server, session["media"]["id"]) == ["FAILED"]
    assert await unfinished(ada) == await library(ada) == []
    await until_gone(server, folder)
    assert (await ada.begun(size, idempotencyKey="to be aborted"))["id"] != session["id"]


async def test_who_waits_for_an_upload_is_told_that_it_was_aborted(ida: Account) -> None:
    session = await ida.begun(SMALL)
    updates = []
    async with ida.socket() as socket:
        async for result in socket.subscribe(WATCH, id=session["media"]["id"]):
            updates.append(result["mediaProcessing"])
            if len(updates) == 1:
                await ida.abort(session["id"])
    failure = {"code": "NOT_UPLOADED", "message": "The upload was aborted."}
    assert [(each["status"], each["stage"], each["failure"]) for each in updates] == [
        ("PENDING", "QUEUED", None),
        ("FAILED", "DONE", failure),
    ]


async def expire(server: Server, sessions: Sequence[Json]) -> None:
    """As if they had been begun a lifetime earlier."""
    for session in sessions:
        await execute(
            dsn_of(server),
            "UPDATE upload_session SET created_at = created_at - interval '24 hours',"
            " expires_at = expires_at - interval '24 hours' WHERE id = $1",
            session["id"],
        )


async def test_what_has_run_out_can_be_begun_again(unattended: Server, ida: Account) -> None:
    first = await ida.begun(SMALL, idempotencyKey="twice")
    await deliver(first, picture(SMALL))
    await expire(unattended, [first])
    found = await ida.found(first["id"])
    assert (found["state"], found["uploadUrl"], found["headers"]) == ("EXPIRED", None, [])
    assert await unfinished(ida) == []

    second = await ida.begun(SMALL, idempotencyKey="twice")
    assert (second["id"] != first["id"], second["state"]) == (True, "OPEN")
    ended = await ida.found(first["id"])
    failure = {"code": "NOT_UPLOADED", "message": "The upload was not completed in time."}
    assert (ended["state"], ended["media"]["status"], ended["media"]["failure"]) == ("EXPIRED", "FAILED", failure)


async def test_a_url_is_good_for_a_quarter_of_an_hour_and_outlives_no_session(unattended: Server, ida: Account) -> None:
    sessions = [await ida.begun(SMALL), await ida.begun(THREE_PARTS)]

    async def lifetimes() -> list[float]:
        single, multipart = [await ida.found(session["id"]) for session in sessions]
        urls = [single["uploadUrl"], *(part["url"] for part in multipart["parts"])]
        return [int(parse_qs(urlsplit(url).query)["expires"][0]) - time.time() for url in urls]

    assert all(890 < lifetime <= 901 for lifetime in await lifetimes())
    soon = "UPDATE upload_session SET expires_at = now() + interval '60 seconds' WHERE owner = $1"
    await execute(dsn_of(unattended), soon, ida.id)
    assert all(50 < lifetime <= 61 for lifetime in await lifetimes())
