"""How much one request may ask for, or hold: the rest is refused before it costs anything."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets

from app import bodies
from app.bodies import patient
from app.promises import MOST_PARTS, PART_BYTES
from graphql_schema.controller import ANONYMOUS_BYTES
from graphql_schema.errors import RequestTimeout
from graphql_schema.limits import (
    MAX_DIRECTIVES,
    MAX_FIELDS,
    MAX_OPERATIONS,
    MAX_TOKENS,
    MAX_VALUE_DEPTH,
    MAX_VALUES,
    ROOT_MUTATIONS,
    SHOWN,
    TOO_COMPLEX,
)
from graphql_schema.requests import QUERY_CHARACTERS
from tests.client import UPLOAD_BATCH, Account, Client, Json
from tests.footprint import footprint
from tests.graphql_schema.conftest import FILES_LIMIT, UPLOAD_LIMIT
from tests.pictures import photograph
from tests.server import Server

LOGOUT = "logout { errors { code } }"
NOBODY = {"errors": [{"code": "UNAUTHENTICATED"}]}
TOO_MANY_MUTATIONS = f"A mutation has at most {ROOT_MUTATIONS} root fields."


def refusal(code: str, message: str) -> Json:
    return {"errors": [{"message": message, "extensions": {"code": code}}]}


@pytest.fixture
async def nobody(unattended: Server) -> Any:
    async with Client(unattended.url) as client:
        yield client


async def post(who: Client, query: str) -> tuple[int, Json]:
    answer = await who.http.post("/graphql", json={"query": query})
    return answer.status_code, answer.json()


# ---------------------------------------------------------------- documents


def padded(query: str, characters: int) -> str:
    return f"{query} #".ljust(characters, "x")


async def test_a_query_has_a_length(nobody: Client) -> None:
    too_long = refusal("BAD_REQUEST", f"`query` has more than {QUERY_CHARACTERS} characters.")
    fine = (200, {"data": {"__typename": "Query"}})
    assert await post(nobody, padded("{ __typename }", QUERY_CHARACTERS)) == fine
    assert await post(nobody, padded("{ __typename }", QUERY_CHARACTERS + 1)) == (400, too_long)
    by_get = await nobody.http.get("/graphql", params={"query": padded("{ __typename }", QUERY_CHARACTERS + 1)})
    assert (by_get.status_code, by_get.json()) == (400, too_long)


async def test_a_query_on_a_socket_has_a_length(nobody: Client) -> None:
    async with nobody.socket() as socket:
        await socket.start(padded("{ __typename }", QUERY_CHARACTERS + 1))
        with pytest.raises(websockets.ConnectionClosed):
            await socket.receive()
        assert socket.connection.close_code == 4400


AROUND = "{ library(filter: {kinds: [%s]}) { totalCount } }"
AS_MANY = AROUND % ("AUDIO " * (MAX_TOKENS - 16))
TOO_MANY = AROUND % ("AUDIO " * (MAX_TOKENS - 15))


async def test_a_document_has_so_many_tokens(nobody: Client) -> None:
    assert await post(nobody, AS_MANY) == (200, {"data": {"library": {"totalCount": 0}}})
    status, answer = await post(nobody, TOO_MANY)
    (error,) = answer["errors"]
    assert status == 200
    assert answer == {
        "errors": [
            {
                "message": f"Syntax Error: Document contains more than {MAX_TOKENS} tokens. Parsing aborted.",
                "locations": error["locations"],
                "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"},
            }
        ]
    }


async def test_a_document_on_a_socket_has_so_many_tokens(nobody: Client) -> None:
    async with nobody.socket() as socket:
        operation = await socket.start(TOO_MANY)
        answer = await socket.receive()
        assert (answer["type"], answer["id"]) == ("error", operation)
        assert [error["extensions"] for error in answer["payload"]] == [{"code": "GRAPHQL_VALIDATION_FAILED"}]


# ---------------------------------------------------------------- mutations


def logouts(number: int, first: int = 0) -> str:
    return " ".join(f"a{index}: {LOGOUT}" for index in range(first, first + number))


def plain(number: int) -> str:
    return f"mutation {{ {logouts(number)} }}"


def in_a_fragment(number: int) -> str:
    return f"mutation {{ a0: {LOGOUT} ...F }} fragment F on Mutation {{ {logouts(number - 1, 1)} }}"


def in_fragments_of_fragments(number: int) -> str:
    return (
        f"mutation {{ ...F ...G }} fragment F on Mutation {{ {logouts(5)} }}"
        f" fragment G on Mutation {{ ...H }} fragment H on Mutation {{ {logouts(number - 5, 5)} }}"
    )


def inline(number: int) -> str:
    return f"mutation {{ ... {{ {logouts(5)} }} ... on Mutation {{ ... {{ {logouts(number - 5, 5)} }} }} }}"


def beside_another(number: int) -> str:
    return f"mutation A {{ {logouts(number)} }}"


SHAPES = [plain, in_a_fragment, in_fragments_of_fragments, inline, beside_another]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
async def test_a_mutation_has_so_many_root_fields(nobody: Client, shape: Any) -> None:
    expected = {f"a{index}": NOBODY for index in range(ROOT_MUTATIONS)}
    assert await post(nobody, shape(ROOT_MUTATIONS)) == (200, {"data": expected})
    status, answer = await post(nobody, shape(ROOT_MUTATIONS + 1))
    assert status == 200
    assert answer == {
        "errors": [
            {
                "message": TOO_MANY_MUTATIONS,
                "locations": [{"line": 1, "column": 1}],
                "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"},
            }
        ]
    }


async def test_a_query_may_have_more_root_fields(nobody: Client) -> None:
    query = "{" + " ".join(f"a{index}: __typename" for index in range(ROOT_MUTATIONS + 1)) + "}"
    expected = {f"a{index}": "Query" for index in range(ROOT_MUTATIONS + 1)}
    assert await post(nobody, query) == (200, {"data": expected})


async def test_a_mutation_on_a_socket_has_so_many_root_fields(nobody: Client) -> None:
    async with nobody.socket() as socket:
        await socket.start(plain(ROOT_MUTATIONS + 1))
        answer = await socket.receive()
        assert answer["type"] == "error"
        assert [error["message"] for error in answer["payload"]] == [TOO_MANY_MUTATIONS]


DOUBLINGS = " ".join(f"fragment F{index} on Mutation {{ ...F{index + 1} ...F{index + 1} }}" for index in range(59))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            f"mutation {{ ...F }} fragment F on Mutation {{ ...F {LOGOUT} }}",
            "Cannot spread fragment 'F' within itself.",
        ),
        (
            f"mutation {{ ...F }} fragment F on Mutation {{ ...G {LOGOUT} }} fragment G on Mutation {{ ...F }}",
            "Cannot spread fragment 'F' within itself via 'G'.",
        ),
        ("mutation { ...F }", "Unknown fragment 'F'."),
    ],
    ids=["of itself", "of each other", "of none"],
)
async def test_fragments_that_would_never_end(nobody: Client, document: str, message: str) -> None:
    async with asyncio.timeout(10):
        status, answer = await post(nobody, document)
    assert (status, list(answer)) == (200, ["errors"])
    assert message in [error["message"] for error in answer["errors"]]
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"GRAPHQL_VALIDATION_FAILED"}


async def test_mutations_that_double_from_fragment_to_fragment(nobody: Client) -> None:
    _, answer = await post(nobody, f"mutation {{ ...F0 }} {DOUBLINGS} fragment F59 on Mutation {{ {LOGOUT} }}")
    assert [(error["message"], error["extensions"]["code"]) for error in answer["errors"]] == [
        (TOO_MANY_MUTATIONS, "GRAPHQL_VALIDATION_FAILED"),
        (f"The operation is too complex: fields {SHOWN}, at most {MAX_FIELDS}.", TOO_COMPLEX),
    ]


# ---------------------------------------------------------------- shapes

DEPTH, ALIASES = 12, 50  # as settings have them


def too_complex(name: str, count: int, limit: int, what: str = "operation") -> Json:
    message = f"The {what} is too complex: {name} {count}, at most {limit}."
    return {"message": message, "extensions": {"code": TOO_COMPLEX, name: count, "limit": limit}}


# Both from no media at all, so that they cost little.
OF_TWELVE_LEVELS = (
    f"{{ library(first: 0) {{ nodes {{ {'entity { media(first: 0) { nodes { ' * 3}id{'} } } ' * 3}}} }} }}"
)
OF_THIRTEEN_LEVELS = OF_TWELVE_LEVELS.replace("id", "owner { id }")


@pytest.mark.parametrize(
    ("fine", "too_much", "error"),
    [
        (OF_TWELVE_LEVELS, OF_THIRTEEN_LEVELS, too_complex("depth", DEPTH + 1, DEPTH)),
        (
            f"{{ ...F }} fragment F on Query {{ {' '.join(f'a{index}: __typename' for index in range(ALIASES))} }}",
            f"{{ ...F b: __typename }} fragment F on Query "
            f"{{ {' '.join(f'a{index}: __typename' for index in range(ALIASES))} }}",
            too_complex("aliases", ALIASES + 1, ALIASES),
        ),
        (
            f"{{ {'__typename @skip(if: true) ' * MAX_DIRECTIVES} }}",
            f"{{ {'__typename @skip(if: true) ' * MAX_DIRECTIVES} ... @skip(if: true) {{ __typename }} }}",
            too_complex("directives", MAX_DIRECTIVES + 1, MAX_DIRECTIVES),
        ),
        (
            " ".join(f"query Q{index} {{ __typename }}" for index in range(MAX_OPERATIONS)),
            " ".join(f"query Q{index} {{ __typename }}" for index in range(MAX_OPERATIONS + 1)),
            too_complex("operations", MAX_OPERATIONS + 1, MAX_OPERATIONS, "document"),
        ),
    ],
    ids=["depth", "aliases", "directives", "operations"],
)
async def test_a_shape_is_bounded(nobody: Client, fine: str, too_much: str, error: Json) -> None:
    asked = {"operationName": "Q0"} if "Q0" in fine else {}
    answer = (await nobody.http.post("/graphql", json={"query": fine, **asked})).json()
    assert answer["data"] is not None
    assert "errors" not in answer
    refused = (await nobody.http.post("/graphql", json={"query": too_much, **asked})).json()
    (told,) = refused["errors"]
    told.pop("locations", None)
    assert refused == {"errors": [error]}


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else []


@pytest.mark.parametrize(
    ("fine", "too_much", "name", "limit"),
    [
        ({"v": [1] * (MAX_VALUES - 1)}, {"v": [1] * MAX_VALUES}, "values", MAX_VALUES),
        ({"v": nested(MAX_VALUE_DEPTH - 1)}, {"v": nested(MAX_VALUE_DEPTH)}, "depth", MAX_VALUE_DEPTH),
    ],
    ids=["values", "depth"],
)
async def test_variables_are_bounded(nobody: Client, fine: Json, too_much: Json, name: str, limit: int) -> None:
    assert await nobody.post("{ __typename }", **fine) == {"data": {"__typename": "Query"}}
    answer = await nobody.post("{ __typename }", **too_much)
    assert answer == {"errors": [too_complex(name, limit + 1, limit, "set of variables")]}


# ---------------------------------------------------------------- files


async def post_form(who: Client, query: str, variables: Json, places: dict[str, list[str]]) -> httpx.Response:
    """A multipart request of one picture a part."""
    return await who.http.post(
        "/graphql",
        data={"operations": json.dumps({"query": query, "variables": variables}), "map": json.dumps(places)},
        files={name: ("a.jpg", photograph(64, 48)) for name in places},
        headers={"apollo-require-preflight": "true"},
    )


async def test_one_part_at_many_places(unattended: Server, ida: Account) -> None:
    before = await footprint(unattended)
    variables = {"input": {"files": [None] * (FILES_LIMIT + 1)}}
    places = {"0": [f"variables.input.files.{index}" for index in range(FILES_LIMIT + 1)]}
    answer = await post_form(ida, UPLOAD_BATCH, variables, places)
    expected = refusal("BAD_REQUEST", f"At most {FILES_LIMIT} files fit into one request.")
    assert (answer.status_code, answer.json()) == (400, expected)
    assert await footprint(unattended) == before


async def test_a_batch_that_names_one_file_many_times(unattended: Server, ida: Account) -> None:
    before = await footprint(unattended)
    query = (
        "mutation($file: Upload!) { uploadMediaBatch(input: {files: ["
        + "$file " * (FILES_LIMIT + 1)
        + "]}) { results { index } errors { code message path } } }"
    )
    answer = await post_form(ida, query, {"file": None}, {"0": ["variables.file"]})
    error = {"code": "BAD_INPUT", "message": f"Up to {FILES_LIMIT} files at once.", "path": ["input", "files"]}
    assert (answer.status_code, answer.json()) == (
        200,
        {"data": {"uploadMediaBatch": {"results": [], "errors": [error]}}},
    )
    assert await footprint(unattended) == before


def announced(server: Server, length: int) -> tuple[int, Json]:
    """The answer to the head of an upload by nobody, of whose body not one byte is sent."""
    address = urlsplit(server.url)
    head = (
        f"POST /graphql HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\napollo-require-preflight: true\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(head.encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    top, _, body = received.partition(b"\r\n\r\n")
    assert b"www-authenticate: bearer" in top.lower()
    return int(top.split()[1]), json.loads(body)


async def test_a_large_upload_of_nobodys_is_refused_by_its_word(server: Server) -> None:
    status, answer = await asyncio.to_thread(announced, server, ANONYMOUS_BYTES + 1)
    assert (status, answer) == (401, refusal("UNAUTHENTICATED", "Sign in first."))


async def test_a_small_upload_of_nobodys_is_refused_as_data(unattended: Server, nobody: Client) -> None:
    before = await footprint(unattended)
    payload = await nobody.upload(photograph(64, 48))
    error = {"code": "UNAUTHENTICATED", "message": "Sign in first.", "path": None}
    assert payload == {"media": None, "duplicateOf": None, "errors": [error]}
    assert await footprint(unattended) == before


# ---------------------------------------------------------------- signed parts

TOO_MANY_PARTS = refusal("BAD_INPUT", f"Up to {MOST_PARTS} parts are signed at once: name them by `numbers`.")


def signing(session: Json, parts: int) -> str:
    """A query that has so many parts of one session signed: the whole of it again and again, then the rest."""
    times, rest = divmod(parts, session["totalParts"])
    fields = " ".join(f"a{index}: parts {{ partNumber }}" for index in range(times))
    rest_of_it = f"rest: parts(numbers: {[*range(1, rest + 1)]}) {{ partNumber }}"
    return f'{{ uploadSession(id: "{session["id"]}") {{ {fields} {rest_of_it} }} }}'


def counted(data: Json) -> int:
    return sum(map(len, data["uploadSession"].values()))


async def test_so_many_parts_are_signed_for_an_operation(amy: Account) -> None:
    session = await amy.begun(UPLOAD_LIMIT)
    for _ in range(2):  # each operation anew
        _, answer = await post(amy, signing(session, MOST_PARTS))
        assert (counted(answer["data"]), "errors" in answer) == (MOST_PARTS, False)
    _, answer = await post(amy, signing(session, MOST_PARTS + 1))
    (error,) = answer["errors"]
    assert answer["data"] == {"uploadSession": None}
    assert {"message": error["message"], "extensions": error["extensions"]} == TOO_MANY_PARTS["errors"][0]


async def test_so_many_parts_are_signed_for_all_sessions(ida: Account) -> None:
    """Those of any one session can be had at once, and those of all can't."""
    sessions = [await ida.begun(UPLOAD_LIMIT) for _ in range(MOST_PARTS * PART_BYTES // UPLOAD_LIMIT + 1)]
    _, answer = await post(ida, "{ viewer { uploadSessions { parts { partNumber } } } }")
    assert answer["data"] == {"viewer": None}
    (error,) = answer["errors"]
    assert {"message": error["message"], "extensions": error["extensions"]} == TOO_MANY_PARTS["errors"][0]
    assert (await ida.abort(sessions[0]["id"]))["errors"] == []
    viewer = await ida.ask("{ viewer { uploadSessions { parts { partNumber } } } }")
    assert sum(len(session["parts"]) for session in viewer["uploadSessions"]) <= MOST_PARTS


async def test_so_many_parts_are_signed_for_each_operation_of_a_socket(amy: Account) -> None:
    session = await amy.begun(UPLOAD_LIMIT)
    async with amy.socket() as socket:
        for _ in range(2):
            (data,) = [data async for data in socket.subscribe(signing(session, MOST_PARTS))]
            assert counted(data) == MOST_PARTS


# ---------------------------------------------------------------- patience


async def test_a_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.05)
    closed = asyncio.Event()

    async def stalling() -> AsyncGenerator[bytes, None]:
        try:
            yield b"half"
            await asyncio.Event().wait()
        finally:
            closed.set()

    chunks = patient(stalling(), RequestTimeout)
    assert await anext(chunks) == b"half"
    with pytest.raises(RequestTimeout) as raised:
        await anext(chunks)
    assert (raised.value.status, raised.value.headers) == (408, {"Connection": "close"})
    assert closed.is_set()


async def test_patience_is_with_each_chunk_and_not_with_their_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.5)

    async def slow() -> AsyncGenerator[bytes, None]:
        for number in range(4):
            await asyncio.sleep(0.15)  # together more than the limit
            yield bytes([number])

    received = []
    async for chunk in patient(slow(), RequestTimeout):
        received.append(chunk)
        if len(received) == 1:
            await asyncio.sleep(0.6)  # a disk that is slow, and no fault of the client's
    assert received == [b"\x00", b"\x01", b"\x02", b"\x03"]
