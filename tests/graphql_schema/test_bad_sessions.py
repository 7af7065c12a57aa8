"""Direct uploads that are refused: with what words, and that nothing of them is kept."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import upload_endings
from app.promises import OPEN_AT_ONCE, PART_BYTES
from app.settings import load
from app.wiring import open_services
from storage.base import MAX_OBJECT_BYTES
from tests.client import ABORT, COMPLETE, CREATE_SESSION, Account, Client, Json, deliver, put, put_part
from tests.footprint import fetch, footprint
from tests.graphql_schema.conftest import MIB
from tests.graphql_schema.rows import dsn_of, execute
from tests.graphql_schema.test_bad_uploads import HTML, SVG, UNKNOWN_BYTES
from tests.graphql_schema.test_upload_sessions import (
    MEDIUM,
    SMALL,
    THREE_PARTS,
    anybody_gets,
    events_of,
    expire,
    jobs_about,
    library,
    picture,
    unfinished,
    until_gone,
)
from tests.pictures import photograph, tiny_mp3, tiny_mp4, tiny_pdf
from tests.server import Server

SIZES = pytest.mark.parametrize("size", [SMALL, THREE_PARTS], ids=["single", "multipart"])
PARTS = "query($id: ID!, $numbers: [Int!]) { uploadSession(id: $id) { parts(numbers: $numbers) { partNumber } } }"
REPROCESS = "mutation($id: ID!) { reprocessMedia(input: {ids: [$id]}) { results { media { id } errors { code } } } }"


def refusal(code: str, message: str, *path: str) -> list[Json]:
    return [{"code": code, "message": message, "path": ["input", *path] if path else None}]


def not_begun(code: str, message: str, *path: str) -> Json:
    return {"session": None, "duplicateOf": None, "errors": refusal(code, message, *path)}


def not_completed(code: str, message: str, *path: str) -> Json:
    return {"media": None, "duplicateOf": None, "errors": refusal(code, message, *path)}


def staged(server: Server, session: Json) -> Path:
    """Where local storage keeps what one PUT brings."""
    return server.data_dir / "files" / "incoming" / f"{session['id']}.jpg"


async def key_of(server: Server, session: Json) -> str:
    (row,) = await fetch(server, "SELECT storage_key FROM media WHERE id = $1", session["media"]["id"])
    return str(row["storage_key"])


async def assert_refused(server: Server, account: Account, session: Json, code: str, message: str) -> None:
    """The session has ended by this failure, its media shows no bytes, and they are to be erased."""
    found = await account.found(session["id"])
    assert (found["state"], found["uploadUrl"], found["parts"]) == ("ABORTED", None, [])
    media = await account.ask(MEDIUM, id=session["media"]["id"])
    assert (media["status"], media["failure"]) == ("FAILED", {"code": code, "message": message})
    assert (media["url"], media["variants"]) == (None, [])
    assert await unfinished(account) == await library(account) == []
    assert await library(account, "FAILED") == [media["id"]]
    assert await events_of(server, media["id"]) == ["FAILED"]
    assert await jobs_about(server, await key_of(server, session)) == [("erase", False)]
    assert await jobs_about(server, media["id"]) == []
    # Nobody makes something of it after all.
    again = await account.complete(session["id"])
    assert again == not_completed("CONFLICT", message, "sessionId")
    payload = await account.ask(REPROCESS, id=media["id"])
    assert payload["results"] == [{"media": None, "errors": [{"code": "BAD_INPUT"}]}]


# ---------------------------------------------------------------- promises


@pytest.fixture
async def nothing_begun(unattended: Server) -> AsyncIterator[None]:
    """No row, no event, no job, no object, and no upload in parts."""
    before = await footprint(unattended)
    yield
    assert await footprint(unattended) == before


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize(
    ("fields", "code", "message", "path"),
    [
        ({"size": 0}, "BAD_INPUT", "A file has at least one byte.", "sizeBytes"),
        ({"size": 1024 * MIB + 1}, "FILE_TOO_LARGE", "A file may have up to 1073741824 bytes.", "sizeBytes"),
        ({"size": 2**53 - 1}, "FILE_TOO_LARGE", "A file may have up to 1073741824 bytes.", "sizeBytes"),
        ({"sha256": ""}, "BAD_INPUT", "A SHA-256 has 64 hexadecimal digits.", "sha256"),
        ({"sha256": "g" * 64}, "BAD_INPUT", "A SHA-256 has 64 hexadecimal digits.", "sha256"),
        ({"sha256": "0" * 63}, "BAD_INPUT", "A SHA-256 has 64 hexadecimal digits.", "sha256"),
        ({"sha256": "0" * 64 + "\n"}, "BAD_INPUT", "A SHA-256 has 64 hexadecimal digits.", "sha256"),
        ({"slot": "photos"}, "BAD_INPUT", "A slot is a place at an entity: say at which.", "slot"),
        ({"entityId": str(uuid.UUID(int=1))}, "NOT_FOUND", "There is no such entity.", "entityId"),
        ({"entityId": "../../etc/passwd"}, "NOT_FOUND", "There is no such entity.", "entityId"),
    ],
)
async def test_a_promise_that_is_not_taken(
    amy: Account, fields: dict[str, Any], code: str, message: str, path: str
) -> None:
    assert await amy.begin(**{"size": SMALL, **fields}) == not_begun(code, message, path)


async def test_no_object_has_more_than_five_tebibytes(ada: Account) -> None:
    message = f"A file may have up to {MAX_OBJECT_BYTES} bytes."
    assert await ada.begin(MAX_OBJECT_BYTES + 1) == not_begun("FILE_TOO_LARGE", message, "sizeBytes")


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize("size", [-1, 2**53, 1.5, "1000", None, True, -(2**60)])
async def test_a_size_that_is_none(amy: Account, size: Any) -> None:
    given = {"filename": "a.jpg", "contentType": "image/jpeg", "sizeBytes": size}
    answer = await amy.post(CREATE_SESSION, input=given)
    assert answer.get("data") is None
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["GRAPHQL_VALIDATION_FAILED"]


@pytest.mark.usefixtures("nothing_begun")
@pytest.mark.parametrize(
    "content_type",
    [
        *("image/svg+xml", "text/html", "application/octet-stream", "", "image/jpeg, text/html", "jpg", "image/*"),
        *("\x00", "image/jpeg\r\nX-Header: 1", "image/jpeg" * 10_000),
    ],
    ids=["svg", "html", "octets", "none", "two", "extension", "any", "nul", "header", "long"],
)
async def test_a_type_that_is_not_taken(amy: Account, content_type: str) -> None:
    message = "Pictures, films, recordings and documents are taken; this type is not."
    payload = await amy.begin(SMALL, "photo.exe", contentType=content_type)
    assert payload == not_begun("UNSUPPORTED_TYPE", message, "contentType")


@pytest.mark.parametrize(
    ("slot", "fields", "error"),
    [
        ("avatar", {"contentType": "video/mp4"}, ("UNSUPPORTED_TYPE", "takes image, and this is video", "contentType")),
        ("avatar", {"size": 20 * MIB + 1}, ("FILE_TOO_LARGE", "takes files up to 20 MiB", "sizeBytes")),
        ("cover", {"size": 50 * MIB + 1}, ("FILE_TOO_LARGE", "takes files up to 50 MiB", "sizeBytes")),
    ],
    ids=["kind", "avatar", "cover"],
)
async def test_a_promise_that_the_slot_does_not_take(
    unattended: Server, amy: Account, slot: str, fields: dict[str, Any], error: tuple[str, str, str]
) -> None:
    code, message, path = error
    profile = await amy.profile((await amy.person())["id"])
    before = await footprint(unattended)
    payload = await amy.begin(**{"size": SMALL, "entityId": profile["id"], "slot": slot, **fields})
    assert payload == not_begun(code, f"The slot “{slot}” {message}.", path)
    assert await footprint(unattended) == before


async def test_a_slot_that_is_none(unattended: Server, amy: Account) -> None:
    person = await amy.person()
    before = await footprint(unattended)
    message = "A person has no slot “avatar”; there are photos, documents, recordings."
    payload = await amy.begin(SMALL, entityId=person["id"], slot="avatar")
    assert payload == not_begun("BAD_INPUT", message, "slot")
    assert await footprint(unattended) == before


async def test_an_entity_of_somebody_else(unattended: Server, ida: Account, bob: Account) -> None:
    person = await ida.person()
    before = await footprint(unattended)
    payload = await bob.begin(SMALL, entityId=person["id"])
    assert payload == not_begun("NOT_FOUND", "There is no such entity.", "entityId")
    assert await footprint(unattended) == before


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\café.jpg", "café.jpg"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("a\x00b\r\n.jpg", "ab.jpg"),
        ("", "unnamed"),
        ("..", "unnamed"),
        (f"{'é' * 300}.jpg", "é" * 255),
    ],
    ids=["path", "windows", "direction", "controls", "empty", "dots", "long"],
)
async def test_a_file_name_is_cleaned_and_makes_no_key(
    unattended: Server, amy: Account, claimed: str, kept: str
) -> None:
    for size in (SMALL, THREE_PARTS):
        session = await amy.begun(size, claimed)
        assert session["media"]["filename"] == kept
        assert (await key_of(unattended, session)).startswith(f"image/{amy.id}/")
        assert (await key_of(unattended, session)).endswith(".jpg")


async def test_an_account_has_so_many_open_at_once(unattended: Server, ida: Account, bob: Account) -> None:
    for _ in range(OPEN_AT_ONCE // 10):
        await asyncio.gather(*(ida.begun(1) for _ in range(10)))
    sessions = await unfinished(ida)
    assert len(sessions) == OPEN_AT_ONCE
    before = await footprint(unattended)
    too_many = not_begun("CONFLICT", f"{OPEN_AT_ONCE} uploads are open: complete or abort some of them first.")
    for size in (SMALL, THREE_PARTS):
        assert await ida.begin(size) == too_many
    assert await footprint(unattended) == before
    await bob.begun(1)

    await ida.abort(sessions[0])
    payloads = await asyncio.gather(*(ida.begin(1) for _ in range(4)))
    assert [payload for payload in payloads if payload["session"] is None] == [too_many] * 3
    # One that has run out counts no more, swept or not.
    await expire(unattended, [{"id": sessions[1]}])
    await ida.begun(1)
    assert await ida.begin(1) == too_many


# ---------------------------------------------------------------- the storage refuses


@pytest.mark.parametrize("length", [0, SMALL - 1, SMALL + 1], ids=["empty", "short", "long"])
async def test_one_put_of_another_length(unattended: Server, amy: Account, length: int) -> None:
    session = await amy.begun(SMALL)
    before = await footprint(unattended)
    answer = await put(session["uploadUrl"], session["headers"], picture(2 * SMALL)[:length])
    assert answer.status_code == 403
    assert await footprint(unattended) == before
    nothing = not_completed("CONFLICT", "Nothing has been uploaded yet.", "sessionId")
    assert await amy.complete(session["id"]) == nothing
    assert (await amy.found(session["id"]))["state"] == "OPEN"
    await deliver(session, picture(SMALL))
    assert (await amy.completed(session["id"]))["status"] == "UPLOADED"


@pytest.mark.parametrize("content_type", ["image/png", "text/html", "image/jpeg; charset=utf-8", None])
async def test_one_put_of_another_type(unattended: Server, amy: Account, content_type: str | None) -> None:
    session = await amy.begun(SMALL)
    before = await footprint(unattended)
    headers = [{"name": "Content-Type", "value": content_type}] if content_type else []
    assert (await put(session["uploadUrl"], headers, picture(SMALL))).status_code == 403
    assert await footprint(unattended) == before


@pytest.mark.parametrize("length", [0, 8 * MIB - 1, 8 * MIB + 1], ids=["empty", "short", "long"])
async def test_a_part_of_another_length(unattended: Server, amy: Account, length: int) -> None:
    session = await amy.begun(THREE_PARTS)
    before = await footprint(unattended)
    part = session["parts"][0]
    assert (await put(part["url"], part["headers"], bytes(length))).status_code == 403
    assert await footprint(unattended) == before
    assert (await amy.found(session["id"]))["uploadedParts"] == []


async def test_a_url_is_good_for_what_it_was_signed_for_alone(unattended: Server, ida: Account) -> None:
    single, parts = await ida.begun(SMALL), await ida.begun(THREE_PARTS)
    other = await ida.begun(SMALL)
    before = await footprint(unattended)
    first, second, _ = parts["parts"]
    moved = [
        single["uploadUrl"].replace(single["id"], other["id"]),
        single["uploadUrl"].replace("incoming/", "image/"),
        first["url"].replace("partNumber=1", "partNumber=2"),
        first["url"].split("?")[0] + "?" + single["uploadUrl"].split("?")[1],
    ]
    for url in moved:
        assert (await put(url, single["headers"], picture(SMALL))).status_code == 403
        assert (await put(url, [], bytes(PART_BYTES))).status_code == 403
    async with httpx.AsyncClient() as anybody:
        for url in (single["uploadUrl"], second["url"]):
            assert (await anybody.get(url)).status_code == 403
    assert await footprint(unattended) == before


# ---------------------------------------------------------------- the bytes are not as promised


@pytest.mark.parametrize("length", [1, SMALL - 1, SMALL + 1], ids=["one", "short", "long"])
async def test_one_put_that_the_storage_did_not_check(unattended: Server, ida: Account, length: int) -> None:
    before = await footprint(unattended)
    session = await ida.begun(SMALL)
    staged(unattended, session).parent.mkdir(exist_ok=True)
    staged(unattended, session).write_bytes(picture(2 * SMALL)[:length])
    message = f"{length} bytes were uploaded, and {SMALL} promised."
    assert await ida.complete(session["id"]) == not_completed("BAD_INPUT", message, "sessionId")
    await assert_refused(unattended, ida, session, "CHECKSUM_MISMATCH", message)
    left = (await footprint(unattended)).objects - before.objects
    await assert_all_to_be_erased(unattended, left)


async def assert_all_to_be_erased(server: Server, keys: set[str] | frozenset[str]) -> None:
    """What is there still waits for a job that names it; nobody works here."""
    for key in keys:
        assert ("erase", False) in await jobs_about(server, key), key


@pytest.mark.parametrize(
    ("content", "claim", "message"),
    [
        (photograph(64, 48, format="PNG"), "image/jpeg", "These bytes are image/png, and image/jpeg was promised."),
        (photograph(64, 48), "image/png", "These bytes are image/jpeg, and image/png was promised."),
        (tiny_mp4(), "application/pdf", "These bytes are video/mp4, and application/pdf was promised."),
        (tiny_pdf(), "image/jpeg", "These bytes are application/pdf, and image/jpeg was promised."),
        (HTML, "image/jpeg", UNKNOWN_BYTES),
        (SVG, "image/jpeg", UNKNOWN_BYTES),
        (HTML, "application/pdf", UNKNOWN_BYTES),
        (bytes(SMALL), "video/mp4", UNKNOWN_BYTES),
    ],
    ids=["png", "jpeg", "film", "pdf", "html", "svg", "html-pdf", "zeros"],
)
async def test_bytes_of_another_type(
    unattended: Server, ida: Account, content: bytes, claim: str, message: str
) -> None:
    before = await footprint(unattended)
    session = await ida.begun(len(content), "holiday.jpg", contentType=claim)
    await deliver(session, content)
    assert await ida.complete(session["id"]) == not_completed("UNSUPPORTED_TYPE", message, "sessionId")
    await assert_refused(unattended, ida, session, "UNSUPPORTED", message)
    await assert_all_to_be_erased(unattended, (await footprint(unattended)).objects - before.objects)
    # What can be put there never comes out: the URL is for a PUT, and the media has none.
    async with httpx.AsyncClient() as anybody:
        for url in (session["uploadUrl"], session["uploadUrl"].split("?")[0]):
            assert (await anybody.get(url)).status_code == 403


async def test_parts_of_another_type(unattended: Server, ida: Account) -> None:
    before = await footprint(unattended)
    content = HTML + bytes(THREE_PARTS - len(HTML))
    session = await ida.begun(THREE_PARTS)
    await deliver(session, content)
    assert await ida.complete(session["id"]) == not_completed("UNSUPPORTED_TYPE", UNKNOWN_BYTES, "sessionId")
    await assert_refused(unattended, ida, session, "UNSUPPORTED", UNKNOWN_BYTES)
    await assert_all_to_be_erased(unattended, (await footprint(unattended)).objects - before.objects)


async def test_what_was_refused_goes(server: Server, ada: Account) -> None:
    single, parts = await ada.begun(len(HTML)), await ada.begun(THREE_PARTS)
    for session, content in ((single, HTML), (parts, SVG + bytes(THREE_PARTS - len(SVG)))):
        await deliver(session, content)
        assert [error["code"] for error in (await ada.complete(session["id"]))["errors"]] == ["UNSUPPORTED_TYPE"]
    keys = [await key_of(server, session) for session in (single, parts)]
    await until_gone(server, *keys, f"incoming/{single['id']}.jpg", f".uploads/{parts['uploadId']}")
    files = server.data_dir / "files"
    assert [path for path in files.rglob(f"*{ada.id}*/*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("content", "claim", "found", "kind"),
    [
        (tiny_mp4(), "video/quicktime", "video/mp4", "VIDEO"),
        # Telephones write voices as they write films: what it is meant as decides.
        (tiny_mp4(), "audio/mp4", "audio/mp4", "AUDIO"),
    ],
    ids=["mov", "m4a"],
)
async def test_a_container_is_taken_for_its_brother(
    amy: Account, content: bytes, claim: str, found: str, kind: str
) -> None:
    """Clients go by a file's name, and these names are often wrong."""
    media = await amy.sent(content, contentType=claim)
    assert (media["status"], media["contentType"], media["kind"]) == ("UPLOADED", found, kind)
    assert await anybody_gets(media["url"]) == content


async def test_a_brother_that_the_slot_does_not_take(unattended: Server, ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    session = await ida.begun(len(tiny_mp3()), contentType="image/jpeg", entityId=profile["id"], slot="cover")
    await deliver(session, tiny_mp3())
    message = "These bytes are audio/mpeg, and image/jpeg was promised."
    assert await ida.complete(session["id"]) == not_completed("UNSUPPORTED_TYPE", message, "sessionId")
    await assert_refused(unattended, ida, session, "UNSUPPORTED", message)


async def test_a_refused_avatar_leaves_the_old_one(unattended: Server, ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    place = {"entityId": profile["id"], "slot": "avatar"}
    old = await ida.uploaded(photograph(64, 48), **place)
    session = await ida.begun(len(HTML), **place)
    await deliver(session, HTML)
    payload = await ida.complete(session["id"])
    assert payload == not_completed("UNSUPPORTED_TYPE", UNKNOWN_BYTES, "sessionId")
    found = await ida.ask("query($id: ID!) { profile(id: $id) { avatar { id } } }", id=profile["id"])
    assert found["avatar"] == {"id": old["id"]}
    assert await events_of(unattended, old["id"]) == ["UPLOADED"]


# ---------------------------------------------------------------- parts that are not all there


@pytest.fixture
async def two_of_three(ida: Account) -> tuple[Json, dict[int, str]]:
    """A session of three parts of which the second is missing, and the ETags of the others."""
    content = picture(THREE_PARTS)
    session = await ida.begun(THREE_PARTS)
    first, _, third = session["parts"]
    answers = {part["partNumber"]: await put_part(session, part, content) for part in (first, third)}
    return session, {number: answer.headers["etag"] for number, answer in answers.items()}


async def test_a_part_is_missing(unattended: Server, ida: Account, two_of_three: tuple[Json, dict[int, str]]) -> None:
    session, etags = two_of_three
    before = await footprint(unattended)
    missing = not_completed("CONFLICT", "Part 2 of 3 has not arrived yet.", "sessionId")
    assert await ida.complete(session["id"]) == missing
    named = [{"partNumber": number, "etag": etags.get(number, '"never"')} for number in (1, 2, 3)]
    assert await ida.complete(session["id"], parts=named) == missing
    assert await footprint(unattended) == before
    found = await ida.found(session["id"])
    assert (found["state"], [part["partNumber"] for part in found["uploadedParts"]]) == ("OPEN", [1, 3])
    await deliver(found, picture(THREE_PARTS))
    assert (await ida.completed(session["id"]))["status"] == "UPLOADED"


async def test_no_part_has_come(unattended: Server, amy: Account) -> None:
    session = await amy.begun(THREE_PARTS)
    before = await footprint(unattended)
    missing = not_completed("CONFLICT", "Part 1 and 2 more of 3 has not arrived yet.", "sessionId")
    assert await amy.complete(session["id"]) == missing
    assert await footprint(unattended) == before


ORDER = "Parts are named from 1 to 3, in order."


@pytest.mark.parametrize(
    ("numbers", "message", "path"),
    [
        ([], "There are 3 parts, and 0 are named.", ()),
        ([1, 2], "There are 3 parts, and 2 are named.", ()),
        ([2, 1, 3], ORDER, ("0", "partNumber")),
        ([1, 3, 2], ORDER, ("1", "partNumber")),
        ([1, 1, 2, 3], ORDER, ("1", "partNumber")),
        ([1, 2, 3, 3], ORDER, ("3", "partNumber")),
        ([1, 2, 3, 4], ORDER, ("3", "partNumber")),
        ([0, 1, 2, 3], ORDER, ("0", "partNumber")),
        ([-1], ORDER, ("0", "partNumber")),
        ([2**31 - 1], ORDER, ("0", "partNumber")),
    ],
)
async def test_parts_that_are_named_wrongly(
    unattended: Server, amy: Account, numbers: list[int], message: str, path: tuple[str, ...]
) -> None:
    session = await amy.begun(THREE_PARTS)
    await deliver(session, picture(THREE_PARTS))
    etags = {part["partNumber"]: part["etag"] for part in (await amy.found(session["id"]))["uploadedParts"]}
    before = await footprint(unattended)
    named = [{"partNumber": number, "etag": etags.get(number, etags[1])} for number in numbers]
    payload = await amy.complete(session["id"], parts=named)
    assert payload == not_completed("BAD_INPUT", message, "parts", *path)
    assert await footprint(unattended) == before
    assert (await amy.found(session["id"]))["state"] == "OPEN"
    assert (await amy.completed(session["id"]))["status"] == "UPLOADED"


@pytest.mark.parametrize(
    "etag", ['"unknown"', "", '""', "\x00", "é" * 1000], ids=["other", "empty", "quotes", "nul", "long"]
)
async def test_an_etag_that_is_unknown(unattended: Server, amy: Account, etag: str) -> None:
    session = await amy.begun(THREE_PARTS)
    await deliver(session, picture(THREE_PARTS))
    arrived = (await amy.found(session["id"]))["uploadedParts"]
    before = await footprint(unattended)
    named = [{"partNumber": part["partNumber"], "etag": part["etag"]} for part in arrived]
    named[1]["etag"] = etag
    payload = await amy.complete(session["id"], parts=named)
    assert payload == not_completed("BAD_INPUT", "Part 2 has another ETag.", "parts", "1", "etag")
    assert await footprint(unattended) == before
    assert (await amy.found(session["id"]))["state"] == "OPEN"


async def test_one_put_has_no_parts_to_name(unattended: Server, amy: Account) -> None:
    session = await amy.begun(SMALL)
    await deliver(session, picture(SMALL))
    before = await footprint(unattended)
    payload = await amy.complete(session["id"], parts=[{"partNumber": 1, "etag": '"any"'}])
    assert payload == not_completed("BAD_INPUT", "This upload has no parts: it is one PUT.", "parts")
    assert await footprint(unattended) == before


@pytest.mark.parametrize("length", [0, MIB, 8 * MIB - 1, 8 * MIB + 1], ids=["empty", "small", "short", "long"])
async def test_a_part_that_the_storage_did_not_check(unattended: Server, amy: Account, length: int) -> None:
    session = await amy.begun(THREE_PARTS)
    await deliver(session, picture(THREE_PARTS))
    (unattended.data_dir / "files" / ".uploads" / session["uploadId"] / "1").write_bytes(bytes(length))
    before = await footprint(unattended)
    message = f"Part 1 has {length} bytes instead of {8 * MIB}: send it again."
    assert await amy.complete(session["id"]) == not_completed("CONFLICT", message, "sessionId")
    assert await footprint(unattended) == before
    content = picture(THREE_PARTS)
    for part in session["parts"]:
        await put_part(session, part, content)
    assert await anybody_gets((await amy.completed(session["id"]))["url"]) == content


async def test_an_upload_that_the_storage_has_lost(unattended: Server, ida: Account) -> None:
    """As a bucket's own rules may have it: they abort what is not completed for long."""
    session = await ida.begun(THREE_PARTS)
    await deliver(session, picture(THREE_PARTS))
    shutil.rmtree(unattended.data_dir / "files" / ".uploads" / session["uploadId"])
    before = await footprint(unattended)
    assert (await ida.found(session["id"]))["uploadedParts"] == []
    message = "The storage has lost this upload: abort it, and begin anew."
    assert await ida.complete(session["id"]) == not_completed("CONFLICT", message, "sessionId")
    assert await footprint(unattended) == before
    assert (await ida.abort(session["id"]))["errors"] == []


@pytest.mark.parametrize(
    "numbers",
    [[0], [4], [1, 2, 3, 4], [-1], [2**31 - 1], [1] * 4, [*range(1, 5001)]],
    ids=["zero", "four", "one-more", "negative", "greatest", "often", "thousands"],
)
async def test_parts_that_there_are_not(amy: Account, numbers: list[int]) -> None:
    session = await amy.begun(THREE_PARTS)
    answer = await amy.post(PARTS, id=session["id"], numbers=numbers)
    assert answer["data"] == {"uploadSession": None}
    (error,) = answer["errors"]
    assert (error["message"], error["extensions"]["code"]) == ("There are parts 1 to 3.", "BAD_INPUT")
    assert error["path"] == ["uploadSession", "parts"]


async def test_a_part_number_that_is_none(amy: Account) -> None:
    session = await amy.begun(THREE_PARTS)
    answer = await amy.post(PARTS, id=session["id"], numbers=[2**31])
    assert answer.get("data") is None
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["GRAPHQL_VALIDATION_FAILED"]


# ---------------------------------------------------------------- strangers


@SIZES
async def test_a_stranger_finds_no_session(unattended: Server, ida: Account, bob: Account, size: int) -> None:
    session = await ida.begun(size)
    await deliver(session, picture(size))
    before = await footprint(unattended)
    no_such = ("NOT_FOUND", "There is no such upload session.")
    assert await bob.complete(session["id"]) == not_completed(*no_such, "sessionId")
    assert await bob.abort(session["id"]) == {"deletedId": None, "errors": refusal(*no_such)}
    assert await bob.found(session["id"]) is None
    assert await bob.ask(PARTS, id=session["id"], numbers=[1]) is None
    assert await unfinished(bob) == []
    assert await footprint(unattended) == before
    assert (await ida.found(session["id"]))["state"] == "OPEN"
    media = await ida.completed(session["id"])
    assert await bob.complete(session["id"]) == not_completed(*no_such, "sessionId")
    assert await bob.ask(MEDIUM, id=media["id"]) is None


async def test_nobody_uploads_nothing(unattended: Server, ida: Account) -> None:
    session = await ida.begun(SMALL)
    await deliver(session, picture(SMALL))
    before = await footprint(unattended)
    async with Client(unattended.url) as nobody:
        unauthenticated = ("UNAUTHENTICATED", "Sign in first.")
        assert await nobody.begin(SMALL) == not_begun(*unauthenticated)
        assert await nobody.complete(session["id"]) == not_completed(*unauthenticated)
        assert await nobody.abort(session["id"]) == {"deletedId": None, "errors": refusal(*unauthenticated)}
        assert await nobody.found(session["id"]) is None
    assert await footprint(unattended) == before


@pytest.mark.parametrize("given", ["", "x", "../../etc/passwd", str(uuid.UUID(int=0)), str(uuid.UUID(int=7)), "\x00"])
async def test_an_id_that_is_none(unattended: Server, amy: Account, given: str) -> None:
    before = await footprint(unattended)
    no_such = ("NOT_FOUND", "There is no such upload session.")
    assert await amy.complete(given) == not_completed(*no_such, "sessionId")
    assert await amy.abort(given) == {"deletedId": None, "errors": refusal(*no_such)}
    assert await amy.found(given) is None
    assert await footprint(unattended) == before


async def test_the_id_of_the_media_is_not_that_of_its_session(amy: Account) -> None:
    session = await amy.begun(SMALL)
    for query in (COMPLETE, ABORT):
        media_id = session["media"]["id"]
        payload = await amy.ask(query, id=media_id, input={"sessionId": media_id})
        assert [error["code"] for error in payload["errors"]] == ["NOT_FOUND"]


# ---------------------------------------------------------------- too late


async def drain(server: Server, *texts: str) -> None:
    """What is to be done later is to be done now."""
    later = "UPDATE pgqueuer SET execute_after = now() WHERE convert_from(payload, 'UTF8') LIKE ANY($1::text[])"
    await execute(dsn_of(server), later, [f"%{text}%" for text in texts])


@SIZES
async def test_after_it_was_aborted(unattended: Server, ida: Account, size: int) -> None:
    session = await ida.begun(size)
    await deliver(session, picture(size))
    await ida.abort(session["id"])
    before = await footprint(unattended)
    aborted = not_completed("CONFLICT", "The upload was aborted.", "sessionId")
    assert await ida.complete(session["id"]) == aborted
    assert await footprint(unattended) == before
    assert await jobs_about(unattended, session["uploadId"] or session["id"]) == erased_now_and_later(session)


def erased_now_and_later(session: Json) -> list[tuple[str, bool]]:
    """The URL of one PUT is still good for a while."""
    return [("erase", False), ("erase", True)] if session["method"] == "SINGLE" else [("erase", False)]


async def sweep(server: Server) -> None:
    """As the worker does every minute."""
    async with open_services(load(server.environment), dsn=dsn_of(server)) as services:
        await upload_endings.sweep(services)


async def ended_long_ago(server: Server, session: Json) -> None:
    long_ago = "UPDATE upload_session SET ended_at = now() - interval '25 hours' WHERE id = $1"
    await execute(dsn_of(server), long_ago, session["id"])


async def test_a_put_after_it_was_aborted(unattended: Server, ida: Account) -> None:
    """A URL can't be called back. What it brings is nobody's, and goes with the session's last traces."""
    session = await ida.begun(SMALL)
    await ida.abort(session["id"])
    await execute(dsn_of(unattended), "DELETE FROM pgqueuer")  # as if all were done
    await deliver(session, picture(SMALL))
    assert [error["code"] for error in (await ida.complete(session["id"]))["errors"]] == ["CONFLICT"]
    await sweep(unattended)
    assert await jobs_about(unattended, session["id"]) == []
    await ended_long_ago(unattended, session)
    await sweep(unattended)
    assert await jobs_about(unattended, session["id"]) == [("erase", False)]
    assert await ida.found(session["id"]) is None
    assert await ida.ask(MEDIUM, id=session["media"]["id"]) is None
    assert await library(ida, "FAILED", "PENDING") == []
    assert await events_of(unattended, session["media"]["id"]) == ["FAILED", "PURGED"]


async def test_a_part_after_it_was_aborted(server: Server, ada: Account) -> None:
    content = picture(THREE_PARTS)
    session = await ada.begun(THREE_PARTS)
    await deliver(session, content)
    await ada.abort(session["id"])
    place = f".uploads/{session['uploadId']}"
    await until_gone(server, place)
    for part in session["parts"]:
        assert (await put_part(session, part, content)).status_code == 404
    assert not (server.data_dir / "files" / place).exists()


@SIZES
async def test_what_has_run_out_is_swept(unattended: Server, ida: Account, size: int) -> None:
    finished = await ida.begun(SMALL)
    await deliver(finished, picture(SMALL))
    media = await ida.completed(finished["id"])
    session, kept = await ida.begun(size), await ida.begun(size)
    await deliver(session, picture(size))
    await expire(unattended, [session])
    await execute(
        dsn_of(unattended),
        "UPDATE upload_session SET expires_at = now() - interval '4 minutes' WHERE id = $1",
        session["id"],
    )
    await sweep(unattended)  # a completion that began in time may still be at work
    assert await events_of(unattended, session["media"]["id"]) == []

    await expire(unattended, [session])
    await sweep(unattended)
    after = await footprint(unattended)
    await sweep(unattended)
    assert await footprint(unattended) == after
    found = await ida.found(session["id"])
    failure = {"code": "NOT_UPLOADED", "message": "The upload was not completed in time."}
    assert (found["state"], found["media"]["status"], found["media"]["failure"]) == ("EXPIRED", "FAILED", failure)
    assert await events_of(unattended, session["media"]["id"]) == ["FAILED"]
    assert await jobs_about(unattended, session["uploadId"] or session["id"]) == erased_now_and_later(session)
    # The others are left alone.
    assert await unfinished(ida) == [kept["id"]]
    assert await ida.completed(finished["id"]) == media
    assert len(await anybody_gets(media["url"])) == SMALL


@SIZES
async def test_after_it_has_run_out(unattended: Server, ida: Account, size: int) -> None:
    session = await ida.begun(size)
    await deliver(session, picture(size))
    await expire(unattended, [session])
    before = await footprint(unattended)
    too_late = not_completed("CONFLICT", "The upload was not completed in time.", "sessionId")
    assert await ida.complete(session["id"]) == too_late
    found = await ida.found(session["id"])
    assert (found["state"], found["uploadUrl"], found["parts"], found["uploadedParts"]) == ("EXPIRED", None, [], [])
    assert await footprint(unattended) == before
    # It can be aborted for good measure.
    assert await ida.abort(session["id"]) == {"deletedId": session["id"], "errors": []}
    assert (await ida.found(session["id"]))["state"] == "ABORTED"


@SIZES
async def test_a_completed_upload_is_not_aborted(unattended: Server, ida: Account, size: int) -> None:
    content = picture(size)
    session = await ida.begun(size)
    await deliver(session, content)
    media = await ida.completed(session["id"])
    before = await footprint(unattended)
    message = "This upload is complete: delete its media instead."
    assert await ida.abort(session["id"]) == {"deletedId": None, "errors": refusal("CONFLICT", message)}
    assert await footprint(unattended) == before
    assert await anybody_gets(media["url"]) == content


async def test_a_put_after_the_completion_replaces_nothing(server: Server, ada: Account) -> None:
    right, wrong = picture(SMALL), picture(SMALL)
    session = await ada.begun(SMALL)
    await deliver(session, right)
    media = await ada.completed(session["id"])
    await deliver(session, wrong)
    assert (await ada.completed(session["id"]))["id"] == media["id"]
    ready = await ada.settled(media["id"])
    assert ready["status"] == "READY"
    assert await anybody_gets(ready["url"]) == right
    stray = f"incoming/{session['id']}.jpg"
    assert (server.data_dir / "files" / stray).exists()
    await drain(server, stray)
    await until_gone(server, stray)
    assert await anybody_gets(ready["url"]) == right


async def test_a_part_after_the_completion_replaces_nothing(unattended: Server, ida: Account) -> None:
    right, wrong = picture(THREE_PARTS), picture(THREE_PARTS)
    session = await ida.begun(THREE_PARTS)
    await deliver(session, right)
    media = await ida.completed(session["id"])
    before = await footprint(unattended)
    for part in session["parts"]:
        assert (await put_part(session, part, wrong)).status_code == 404
    assert await footprint(unattended) == before
    assert await anybody_gets(media["url"]) == right


@SIZES
async def test_an_abort_and_a_completion_at_once(unattended: Server, ida: Account, size: int) -> None:
    session = await ida.begun(size)
    await deliver(session, picture(size))
    completed, aborted = await asyncio.gather(ida.complete(session["id"]), ida.abort(session["id"]))
    state = (await ida.found(session["id"]))["state"]
    media = await ida.ask(MEDIUM, id=session["media"]["id"])
    if aborted["deletedId"]:
        assert (state, media["status"], media["url"]) == ("ABORTED", "FAILED", None)
        assert [error["code"] for error in completed["errors"]] == ["CONFLICT"]
        assert await jobs_about(unattended, media["id"]) == []
        assert await events_of(unattended, media["id"]) == ["FAILED"]
    else:
        assert (state, media["status"], completed["media"]["id"]) == ("COMPLETED", "UPLOADED", media["id"])
        assert [error["code"] for error in aborted["errors"]] == ["CONFLICT"]
        assert await jobs_about(unattended, media["id"]) == [("ingest", False)]
        assert await events_of(unattended, media["id"]) == ["UPLOADED"]
        assert len(await anybody_gets(media["url"])) == size
