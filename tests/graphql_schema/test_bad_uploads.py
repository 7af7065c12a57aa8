"""Uploads that are refused: with what words, and that nothing of them is kept."""

from __future__ import annotations

import json
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from PIL import Image

from app.auth import Tokens
from tests.client import UPLOAD, UPLOAD_BATCH, Account, Client, Json
from tests.footprint import footprint
from tests.graphql_schema.conftest import FILE_LIMIT, FILES_LIMIT, MIB, REQUEST_LIMIT
from tests.pictures import encoded, photograph, png_header, tiny_mp3, tiny_pdf
from tests.server import SECRET_KEY, Server, wait_for

UNKNOWN_BYTES = "These bytes are no picture, film, recording or document that is known here."
BOUNDARY = "a-boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
OPERATIONS = json.dumps({"query": UPLOAD, "variables": {"input": {"file": None, "title": "taken"}}})
PREFLIGHT = {"apollo-require-preflight": "true"}
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><html><script>alert(1)</script></html>"


@pytest.fixture(autouse=True)
async def nothing_kept(unattended: Server) -> AsyncIterator[None]:
    """Around every test here: no row, no event, no job, no object, and the scratch folders empty.

    What a test prepares (people, a token) is none of these.
    """
    before = await footprint(unattended)
    yield
    assert await footprint(unattended) == before
    assert before.scratch == frozenset()


def refused(code: str, message: str, *path: str) -> Json:
    """The payload of an upload that was refused."""
    error = {"code": code, "message": message, "path": list(path) or None}
    return {"media": None, "duplicateOf": None, "errors": [error]}


def padded(content: bytes, size: int) -> bytes:
    """A file of exactly this size: what follows a picture is no part of it."""
    return content + bytes(size - len(content))


# ---------------------------------------------------------------- the bytes


@pytest.mark.parametrize(
    ("content", "filename"),
    [
        (b"Dear grandmother, here is the picture.", "letter.jpg"),
        (HTML, "page.jpg"),
        (SVG, "drawing.jpg"),
        (SVG, "drawing.svg"),
        (b"BM is how a letter may begin as well, or so they say", "letter.bmp"),
        (b"GIF89a lot of text that is no picture at all", "text.gif"),
        (b"MZ\x90\x00" + bytes(200), "setup.jpg"),
        (b"\xff\xd8", "short.jpg"),
        (bytes(1000), "zeros.jpg"),
    ],
    ids=["text", "html", "svg", "named-svg", "bm", "gif89a", "program", "two-bytes", "zeros"],
)
async def test_bytes_of_no_known_type(ida: Account, content: bytes, filename: str) -> None:
    assert await ida.upload(content, filename) == refused("UNSUPPORTED_TYPE", UNKNOWN_BYTES, "input", "file")


async def test_an_empty_file(ida: Account) -> None:
    assert await ida.upload(b"") == refused("BAD_INPUT", "The file is empty.", "input", "file")


async def test_a_file_above_the_limit(ida: Account) -> None:
    content = padded(photograph(64, 48), FILE_LIMIT + 1)
    assert await ida.upload(content) == refused("FILE_TOO_LARGE", "A file may have up to 21 MiB.", "input", "file")


async def test_a_file_above_the_limit_of_its_slot(ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    content = padded(photograph(64, 48), 20 * MIB + 1)
    message = "The slot “avatar” takes files up to 20 MiB."
    expected = refused("FILE_TOO_LARGE", message, "input", "file")
    assert await ida.upload(content, entityId=profile["id"], slot="avatar") == expected

    update = await ida.send_files(
        "mutation($input: UpdateProfileInput!) "
        "{ updateProfile(input: $input) { profile { id } errors { code message path } } }",
        {"input": {"id": profile["id"], "avatar": None}},
        {"input.avatar": ("me.jpg", content)},
    )
    error = {"code": "FILE_TOO_LARGE", "message": message, "path": ["input", "avatar"]}
    assert update == {"profile": None, "errors": [error]}


@pytest.mark.parametrize(
    ("kind", "slot", "content", "message"),
    [
        ("person", None, tiny_pdf(), "The slot “photos” takes image or video, and this is document."),
        ("person", "photos", tiny_mp3(), "The slot “photos” takes image or video, and this is audio."),
        ("person", "documents", tiny_mp3(), "The slot “documents” takes document or image, and this is audio."),
        ("person", "recordings", tiny_pdf(), "The slot “recordings” takes audio or video, and this is document."),
        ("profile", "avatar", tiny_pdf(), "The slot “avatar” takes image, and this is document."),
        ("profile", "cover", tiny_mp3(), "The slot “cover” takes image, and this is audio."),
    ],
    ids=["default", "photos", "documents", "recordings", "avatar", "cover"],
)
async def test_the_wrong_kind_for_a_slot(
    ida: Account, kind: str, slot: str | None, content: bytes, message: str
) -> None:
    entity = await ida.person()
    if kind == "profile":
        entity = await ida.profile(entity["id"])
    payload = await ida.upload(content, entityId=entity["id"], slot=slot)
    assert payload == refused("UNSUPPORTED_TYPE", message, "input", "file")


def bomb(format_name: str) -> bytes:
    """A picture of one pixel, made to say that it has 50,000 by 50,000."""
    if format_name == "PNG":
        return png_header(50_000, 50_000)
    tiny = encoded(Image.new("RGB", (1, 1)), format_name)
    size_at, layout = {
        "JPEG": (tiny.find(b"\xff\xc0") + 5, ">HH"),
        "GIF": (6, "<HH"),
        "BMP": (18, "<II"),
    }[format_name]
    return tiny[:size_at] + struct.pack(layout, 50_000, 50_000) + tiny[size_at + struct.calcsize(layout) :]


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "GIF", "BMP"])
async def test_a_decompression_bomb(ida: Account, format_name: str) -> None:
    payload = await ida.upload(bomb(format_name), "tiny.png")
    message = "This picture has 50000 × 50000 pixels; up to 100 megapixels are taken."
    assert payload == refused("BAD_INPUT", message, "input", "file")


async def test_a_good_avatar_goes_with_a_bad_cover(ida: Account) -> None:
    """Both or none, and neither the profile."""
    person = await ida.person()
    payload = await ida.send_files(
        "mutation($input: CreateProfileInput!) "
        "{ createProfile(input: $input) { profile { id } errors { code message path } } }",
        {"input": {"personId": person["id"], "avatar": None, "cover": None}},
        {"input.avatar": ("me.jpg", photograph(64, 48)), "input.cover": ("cover.jpg", b"no picture")},
    )
    error = {"code": "UNSUPPORTED_TYPE", "message": UNKNOWN_BYTES, "path": ["input", "cover"]}
    assert payload == {"profile": None, "errors": [error]}
    read = await ida.ask("query($id: ID!) { person(id: $id) { profile { id } } }", id=person["id"])
    assert read == {"profile": None}


async def test_a_good_avatar_goes_with_a_bad_name(ida: Account) -> None:
    profile = await ida.profile((await ida.person())["id"])
    payload = await ida.send_files(
        "mutation($input: UpdateProfileInput!) "
        "{ updateProfile(input: $input) { profile { id } errors { code message path } } }",
        {"input": {"id": profile["id"], "name": " ", "avatar": None}},
        {"input.avatar": ("me.jpg", photograph(64, 48))},
    )
    error = {"code": "BAD_INPUT", "message": "This takes 1 to 300 characters.", "path": ["input", "name"]}
    assert payload == {"profile": None, "errors": [error]}


# ---------------------------------------------------------------- the place and the words


async def test_a_slot_without_an_entity(ida: Account) -> None:
    payload = await ida.upload(photograph(64, 48), slot="photos")
    assert payload == refused("BAD_INPUT", "A slot is a place at an entity: say at which.", "input", "slot")


async def test_an_unknown_slot(ida: Account) -> None:
    person = await ida.person()
    payload = await ida.upload(photograph(64, 48), entityId=person["id"], slot="avatar")
    message = "A person has no slot “avatar”; there are photos, documents, recordings."
    assert payload == refused("BAD_INPUT", message, "input", "slot")


@pytest.mark.parametrize(
    "entity_id", [str(uuid.UUID(int=1)), "no id at all", ""], ids=["unknown", "malformed", "empty"]
)
async def test_an_unknown_entity(ida: Account, entity_id: str) -> None:
    payload = await ida.upload(photograph(64, 48), entityId=entity_id)
    assert payload == refused("NOT_FOUND", "There is no such entity.", "input", "entityId")


async def test_an_entity_of_somebody_else(ida: Account, bob: Account) -> None:
    person = await bob.person()
    payload = await ida.upload(photograph(64, 48), entityId=person["id"])
    assert payload == refused("NOT_FOUND", "There is no such entity.", "input", "entityId")


@pytest.mark.parametrize(
    ("fields", "message", "name"),
    [
        ({"title": "x" * 301}, "This takes 1 to 300 characters.", "title"),
        ({"title": "a\x00b"}, "Control characters have no place here.", "title"),
        ({"description": "x" * 20_001}, "This takes up to 20000 characters.", "description"),
        ({"altText": "a\x07b"}, "Control characters have no place here.", "altText"),
        ({"tags": ["x" * 101]}, "This takes 1 to 100 characters.", "tags"),
        ({"tags": ["fine", " "]}, "This takes 1 to 100 characters.", "tags"),
        ({"tags": [str(number) for number in range(51)]}, "Up to 50 tags.", "tags"),
        ({"idempotencyKey": "k" * 201}, "This takes 1 to 200 characters.", "idempotencyKey"),
    ],
    ids=["title", "nul", "description", "bell", "tag", "blank-tag", "tags", "key"],
)
async def test_words_that_are_not_taken(ida: Account, fields: dict[str, Any], message: str, name: str) -> None:
    payload = await ida.upload(photograph(64, 48), **fields)
    assert payload == refused("BAD_INPUT", message, "input", name)


# ---------------------------------------------------------------- the request


def graphql_error(message: str, code: str) -> Json:
    return {"errors": [{"message": message, "extensions": {"code": code}}]}


async def send_form(client: Client, operations: str, map_: str, **files: bytes) -> httpx.Response:
    """A multipart request, whatever its fields say."""
    fields = {"operations": (None, operations), "map": (None, map_)}
    parts = {name: ("a.jpg", content) for name, content in files.items()}
    return await client.http.post("/graphql", files={**fields, **parts}, headers=PREFLIGHT)


async def test_no_file(ida: Account) -> None:
    """A map that is empty, and null where the file belongs."""
    answer = await send_form(ida, OPERATIONS, "{}")
    assert answer.status_code == 200
    (error,) = answer.json()["errors"]
    expected = "Expected value of non-null type 'Upload!' not to be None."
    assert error["message"] == f"Variable '$input' has invalid value at .file: {expected}"
    assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert "data" not in answer.json()


async def test_a_batch_of_no_files(ida: Account) -> None:
    payload = await ida.ask(UPLOAD_BATCH, input={"files": []})
    error = {"code": "BAD_INPUT", "message": "There is no file.", "path": ["input", "files"]}
    assert payload == {"results": [], "errors": [error]}


@pytest.mark.parametrize("file", ["photo.jpg", 7, {"path": "/etc/passwd"}], ids=["string", "number", "object"])
async def test_something_else_than_a_file(ida: Account, file: object) -> None:
    answer = await ida.post(UPLOAD, input={"file": file})
    (error,) = answer["errors"]
    assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert error["message"].endswith("An Upload is a file part of a GraphQL multipart request, named in its `map`.")
    assert "data" not in answer


async def test_too_many_files(ida: Account) -> None:
    variables = {"input": {"files": [None] * (FILES_LIMIT + 1)}}
    files = {f"input.files.{index}": (f"{index}.jpg", photograph(64, 48)) for index in range(FILES_LIMIT + 1)}
    answer = await ida.post_files(
        "mutation($input: UploadMediaBatchInput!) { uploadMediaBatch(input: $input) { results { index } } }",
        variables,
        dict(files),
    )
    assert (answer.status_code, answer.json()) == (
        400,
        graphql_error(f"At most {FILES_LIMIT} files fit into one request.", "BAD_REQUEST"),
    )


@pytest.mark.parametrize(
    ("operations", "map_", "message"),
    [
        (OPERATIONS, "{", "The part `map` is not JSON: unexpected end of data."),
        (OPERATIONS, "[]", "`map` is not a JSON object."),
        (OPERATIONS, '{"0": "variables.input.file"}', "Each value of `map` is an array of paths into `operations`."),
        (OPERATIONS, '{"0": []}', "Each value of `map` is an array of paths into `operations`."),
        (OPERATIONS, "{}", "The part '0' is not named in `map`."),
        (
            OPERATIONS,
            '{"0": ["variables.input.photo"]}',
            "`map` leads to 'variables.input.photo', which is not in `operations`.",
        ),
        (
            OPERATIONS,
            '{"0": ["variables.input.title"]}',
            "`map` leads to 'variables.input.title', where there is something else than null.",
        ),
        (OPERATIONS, '{"0": ["query"]}', "`map` leads to 'query': files belong into the variables."),
        (
            OPERATIONS,
            '{"0": ["variables.input.file"], "1": ["variables.input.file"]}',
            "`map` leads to 'variables.input.file', where there is something else than null.",
        ),
        ("7", '{"0": ["variables.input.file"]}', "`operations` is neither a JSON object nor an array of them."),
    ],
    ids=["json", "array", "string", "empty-path", "unnamed", "unknown", "taken", "query", "twice", "operations"],
)
async def test_a_wrong_map(ida: Account, operations: str, map_: str, message: str) -> None:
    answer = await send_form(ida, operations, map_, **{"0": photograph(64, 48)})
    assert (answer.status_code, answer.json()) == (400, graphql_error(message, "BAD_REQUEST"))


async def test_a_part_that_was_named_and_not_sent(ida: Account) -> None:
    answer = await send_form(ida, OPERATIONS, '{"0": ["variables.input.file"]}')
    message = "`map` names the part '0', which was not sent."
    assert (answer.status_code, answer.json()) == (400, graphql_error(message, "BAD_REQUEST"))


async def test_files_before_their_map(ida: Account) -> None:
    answer = await ida.http.post(
        "/graphql", data={"operations": OPERATIONS}, files={"0": ("a.jpg", photograph(64, 48))}, headers=PREFLIGHT
    )
    message = (
        "The parts of a GraphQL multipart request are `operations`, `map`, then the files; "
        "'0' came where `map` belongs."
    )
    assert (answer.status_code, answer.json()) == (400, graphql_error(message, "BAD_REQUEST"))


async def test_a_form_of_another_site(unattended: Server) -> None:
    """It can't set a header; whoever sends a token has set one."""
    async with Client(unattended.url) as nobody:
        answer = await nobody.http.post(
            "/graphql",
            data={"operations": OPERATIONS, "map": '{"0": ["variables.input.file"]}'},
            files={"0": ("a.jpg", photograph(64, 48))},
        )
    message = (
        "A multipart request needs a header that a form of another site can't send: "
        "add `apollo-require-preflight: true`."
    )
    assert (answer.status_code, answer.json()) == (400, graphql_error(message, "BAD_REQUEST"))


# ---------------------------------------------------------------- bodies in raw bytes


def body_head(operations: str = OPERATIONS) -> bytes:
    """A multipart body up to the first byte of its file."""
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="operations"\r\n\r\n{operations}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="map"\r\n\r\n{{"0": ["variables.input.file"]}}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="0"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()


BODY_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


@contextmanager
def sending(server: Server, length: int | None, token: str | None) -> Iterator[socket.socket]:
    """A connection on which the head of a POST has been sent."""
    address = urlsplit(server.url)
    lines = ["POST /graphql HTTP/1.1", f"Host: {address.netloc}", f"Content-Type: {MULTIPART}", "Connection: close"]
    lines += ["apollo-require-preflight: true"]
    lines += ["Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        yield connection


def answer_of(connection: socket.socket) -> tuple[int, Json]:
    """Status and body, up to the server's closing of the connection."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(body)


def spooled(server: Server) -> list[int]:
    """Sizes of the files in the scratch folder."""
    sizes = []
    for path in (server.data_dir / "scratch").glob("*/*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # gone since it was listed
            continue
    return sizes


# More than kernels hold of a connection, so that once it is sent the server has read, and could have written, much.
MOST = padded(photograph(64, 48), 20 * MIB)


async def test_a_body_cut_off_in_its_middle(unattended: Server, ida: Account) -> None:
    with sending(unattended, len(MOST) + 10_000, ida.token) as connection:
        connection.sendall(body_head() + MOST)
        wait_for(lambda: sum(spooled(unattended)) >= MIB)
    wait_for(lambda: spooled(unattended) == [])


async def test_what_nobody_sends_is_never_written(unattended: Server) -> None:
    body = body_head() + MOST + BODY_TAIL
    with sending(unattended, len(body), None) as connection:
        connection.sendall(body[: -len(BODY_TAIL)])
        assert spooled(unattended) == []
        connection.sendall(BODY_TAIL)
        status, answer = answer_of(connection)
    assert status == 200
    assert answer == {"data": {"uploadMedia": refused("UNAUTHENTICATED", "Sign in first.")}}


async def test_a_batch_that_nobody_sends(unattended: Server) -> None:
    async with Client(unattended.url) as nobody:
        payload = await nobody.upload_batch([("a.jpg", photograph(64, 48))])
    error = {"code": "UNAUTHENTICATED", "message": "Sign in first.", "path": None}
    assert payload == {"results": [], "errors": [error]}


async def test_an_expired_token_is_refused_before_the_body(unattended: Server, ida: Account) -> None:
    assert ida.token is not None
    session = uuid.UUID(jwt.decode(ida.token, options={"verify_signature": False})["sid"])
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    token, _ = Tokens(SECRET_KEY, timedelta(minutes=15)).access(uuid.UUID(ida.id), session, hour_ago)
    with sending(unattended, len(MOST), token) as connection:  # and not one byte of it
        status, answer = answer_of(connection)
    assert (status, answer) == (401, graphql_error("This token has expired.", "UNAUTHENTICATED"))


async def test_a_token_of_a_session_that_has_ended(unattended: Server, ida: Account) -> None:
    assert await ida.ask("mutation { logout { errors { code } } }") == {"errors": []}
    with sending(unattended, len(MOST), ida.token) as connection:
        status, answer = answer_of(connection)
    assert (status, answer) == (401, graphql_error("This session has ended.", "UNAUTHENTICATED"))


TOO_LARGE = graphql_error(f"The request is larger than {REQUEST_LIMIT} bytes.", "PAYLOAD_TOO_LARGE")


async def test_a_request_that_says_it_is_too_large(unattended: Server, ida: Account) -> None:
    with sending(unattended, REQUEST_LIMIT + 1, ida.token) as connection:  # refused by its word
        assert answer_of(connection) == (413, TOO_LARGE)


async def test_a_request_that_does_not_say_it_is_too_large(unattended: Server, ida: Account) -> None:
    def chunk(content: bytes) -> bytes:
        return f"{len(content):x}\r\n".encode() + content + b"\r\n"

    with sending(unattended, None, ida.token) as connection:
        connection.sendall(chunk(body_head()))
        for _ in range(REQUEST_LIMIT // MIB):
            connection.sendall(chunk(bytes(MIB)))
        assert answer_of(connection) == (413, TOO_LARGE)
