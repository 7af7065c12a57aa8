"""The GraphQL edge over real HTTP and real sockets, with a small schema of its own."""

import asyncio
import contextlib
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import strawberry
import uvicorn
from litestar import Litestar
from strawberry.schema.config import StrawberryConfig
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from app.access import Viewer
from app.errors import RateLimited, Unauthenticated
from app.read_cache import ReadCache
from app.settings import Settings
from app.tables import UserRole
from graphql_schema import controller
from graphql_schema.context import Context
from graphql_schema.controller import create_controller
from graphql_schema.loaders import Loaders
from graphql_schema.multipart import UploadLimits
from graphql_schema.scalars import JSON, SCALARS
from graphql_schema.schema import Schema
from graphql_schema.spool import UploadedFile
from graphql_schema.streams import OpenStreams

LIMITS = UploadLimits(file_bytes=3_000_000, field_bytes=20_000, files=3, total_bytes=10_000_000)
JSON_BYTES = 50_000
GRAPHQL_RESPONSE = "application/graphql-response+json"
EVENTS = "text/event-stream"
PARTS = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0"
SIGNED_IN = {"authorization": "Bearer ann"}
UPLOAD = "mutation U($file: Upload!) { upload(file: $file) { filename size sha256 tooLarge onDisk } }"
UPLOADS = "mutation U($files: [Upload!]!) { uploads(files: $files) { filename size sha256 tooLarge } }"


@dataclass
class Served:
    """A running server: where it is, its scratch folder, and the tokens that it takes for now."""

    port: int
    scratch: Path
    tokens: set[str] = field(default_factory=set)
    allowed_origin: str = "https://family.example"
    failing_later: dict[str, Exception] = field(default_factory=dict)  # good at the door, and no more in the operation
    good_for_once: dict[str, Exception] = field(default_factory=dict)

    async def authenticate(self, authorization: str | None) -> Viewer | None:
        if authorization is None:
            return None
        if authorization == "Bearer crash":
            raise RuntimeError("the database at 10.0.0.7 is down")
        if authorization in self.good_for_once:
            raise self.good_for_once.pop(authorization)
        if authorization in self.failing_later:
            self.good_for_once[authorization] = self.failing_later[authorization]
            return _viewer("ann")
        if authorization not in self.tokens:
            raise Unauthenticated("The token is invalid or expired.")
        return _viewer(authorization.removeprefix("Bearer "))

    def spooled(self) -> list[str]:
        return [path.name for path in self.scratch.iterdir()]


def _viewer(name: str) -> Viewer:
    account: Any = SimpleNamespace(display_name=name)
    return Viewer(uuid4(), UserRole.USER, uuid4(), account)


@dataclass(kw_only=True)
class CheckedContext(Context):
    """Looks at the session for each operation, over HTTP too."""

    served: Served

    async def for_operation(self) -> Context:
        viewer = await self.served.authenticate(self.authorization)
        return replace(self, viewer=viewer, _loaders=Loaders(self.services, viewer, ReadCache(0).reads_of(viewer)))


@strawberry.type
class Received:
    filename: str
    size: int
    sha256: str
    too_large: bool
    on_disk: list[str]


def received(file: UploadedFile) -> Received:
    on_disk = [path.name for path in file.path.parent.iterdir()]
    return Received(
        filename=file.filename, size=file.size, sha256=file.sha256, too_large=file.too_large, on_disk=on_disk
    )


@strawberry.type
class Query:
    @strawberry.field
    def viewer(self, info: strawberry.Info[Context]) -> str | None:
        viewer = info.context.viewer
        return viewer.account.display_name if viewer and viewer.account else None

    @strawberry.field
    async def echo(self, word: str) -> str:
        await asyncio.sleep(0)  # so that requests in parallel take turns
        return word

    @strawberry.field
    def required(self) -> str:
        raise ValueError("nothing here")

    @strawberry.field
    def odd(self) -> JSON:
        return JSON({1: "a key that is no string"})


@strawberry.type
class Mutation:
    @strawberry.mutation
    def touch(self) -> str:
        pytest.fail("a mutation ran that must not")

    @strawberry.mutation
    def upload(self, file: UploadedFile) -> Received:
        return received(file)

    @strawberry.mutation
    def uploads(self, files: list[UploadedFile]) -> list[Received]:
        return [received(file) for file in files]


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


def application(served: Served) -> Litestar:
    services: Any = SimpleNamespace(settings=Settings())
    schema = Schema(
        Query,
        Mutation,
        Subscription,
        config=StrawberryConfig(scalar_map=SCALARS, batching_config={"max_operations": 3}),
    )
    controller = create_controller(
        schema,
        authenticate=served.authenticate,
        make_context=lambda _connection, viewer: CheckedContext(services, viewer, served=served),
        limits=LIMITS,
        scratch=served.scratch,
        json_bytes=JSON_BYTES,
        streams=OpenStreams(),
        allowed_origins=[served.allowed_origin],
    )
    return Litestar([controller], openapi_config=None)


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they belong to pytest


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    running = Served(listener.getsockname()[1], tmp_path_factory.mktemp("scratch"))
    server = Server(uvicorn.Config(application(running), log_level="critical", lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    yield running
    server.should_exit = True
    await task


@pytest.fixture
def served(server: Served) -> Iterator[Served]:
    server.tokens = {"Bearer ann", "Bearer bob"}
    server.failing_later, server.good_for_once = {}, {}
    yield server
    assert server.spooled() == []


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", trust_env=False) as opened:
        yield opened


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # a folder's content has no event
            await asyncio.sleep(0.002)


def form(operations: Any, files_map: Any, **files: tuple[str, bytes]) -> dict[str, Any]:
    """What httpx sends as a multipart request, in this order."""
    fields = [
        ("operations", (None, json.dumps(operations).encode())),
        ("map", (None, json.dumps(files_map).encode())),
    ]
    return {"files": fields + list(files.items())}


def one_file(content: bytes = b"x" * 10_000, name: str = "a.jpg") -> dict[str, Any]:
    return form({"query": UPLOAD, "variables": {"file": None}}, {"f": ["variables.file"]}, f=(name, content))


def refused_with(response: httpx.Response, status: int, code: str) -> str:
    """Checks the shape of a refusal; returns its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["vary"] == "Accept"
    body = response.json()
    assert list(body) == ["errors"]
    assert [list(error) for error in body["errors"]] == [["message", "extensions"]]
    assert body["errors"][0]["extensions"] == {"code": code}
    message: str = body["errors"][0]["message"]
    return message


def masked(error_id: str) -> dict[str, Any]:
    """What is told of an unexpected failure."""
    extensions = {"code": "INTERNAL_SERVER_ERROR", "id": error_id}
    return {"errors": [{"message": "Something went wrong on our side.", "extensions": extensions}]}


# ---------------------------------------------------------------- refusals

BAD = (400, "BAD_REQUEST")
JSON_TYPE = {"content-type": "application/json"}
REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "no body": ({"headers": JSON_TYPE}, BAD),
    "no JSON": ({"content": b"{", "headers": JSON_TYPE}, BAD),
    "NaN": ({"content": b'{"query": "{ viewer }", "variables": {"n": NaN}}', "headers": JSON_TYPE}, BAD),
    "not UTF-8": ({"content": b'{"query": "{ \xff }"}', "headers": JSON_TYPE}, BAD),
    "too deep": ({"content": b"[" * 20_000, "headers": JSON_TYPE}, BAD),
    "null": ({"json": None, "headers": JSON_TYPE, "content": b"null"}, BAD),
    "a string": ({"json": "{ viewer }"}, BAD),
    "a number": ({"json": 1}, BAD),
    "no query": ({"json": {}}, BAD),
    "a query that is an object": ({"json": {"query": {}}}, BAD),
    "variables in a string": ({"json": {"query": "{ viewer }", "variables": "{}"}}, BAD),
    "variables in an array": ({"json": {"query": "{ viewer }", "variables": [1]}}, BAD),
    "extensions in an array": ({"json": {"query": "{ viewer }", "extensions": []}}, BAD),
    "a name that is a number": ({"json": {"query": "{ viewer }", "operationName": 1}}, BAD),
    "an unknown name": ({"json": {"query": "query A { viewer }", "operationName": "B"}}, BAD),
    "a batch of strings": ({"json": ["{ viewer }"]}, BAD),
    "a batch with null": ({"json": [{"query": "{ viewer }"}, None]}, BAD),
    "a batch with bad variables": ({"json": [{"query": "{ viewer }", "variables": 1}]}, BAD),
    "a batch too long": ({"json": [{"query": "{ viewer }"}] * 4}, BAD),
    "an empty batch": ({"json": []}, BAD),
    "a subscription by POST": ({"json": {"query": "subscription { count(to: 1) }"}}, BAD),
    "a large body": ({"json": {"query": "q" * JSON_BYTES}}, (413, "PAYLOAD_TOO_LARGE")),
    "text": ({"content": b"{ viewer }", "headers": {"content-type": "text/plain"}}, (415, "UNSUPPORTED_MEDIA_TYPE")),
    "JSON called text": (
        {"content": b'{"query": "{ viewer }"}', "headers": {"content-type": "text/plain; application/json"}},
        (415, "UNSUPPORTED_MEDIA_TYPE"),
    ),
    "a plain form": ({"data": {"query": "{ viewer }"}}, (415, "UNSUPPORTED_MEDIA_TYPE")),
    "no type": ({"content": b'{"query": "{ viewer }"}'}, (415, "UNSUPPORTED_MEDIA_TYPE")),
    "PUT": ({"method": "PUT", "json": {"query": "{ viewer }"}}, (405, "METHOD_NOT_ALLOWED")),
    "PATCH": ({"method": "PATCH", "json": {"query": "{ viewer }"}}, (405, "METHOD_NOT_ALLOWED")),
    "DELETE": ({"method": "DELETE"}, (405, "METHOD_NOT_ALLOWED")),
    "GET nothing": ({"method": "GET"}, BAD),
    "GET for a browser": ({"method": "GET", "headers": {"accept": "text/html"}}, BAD),
    "GET bad variables": ({"method": "GET", "params": {"query": "{ viewer }", "variables": "{"}}, BAD),
    "GET variables in an array": ({"method": "GET", "params": {"query": "{ viewer }", "variables": "[]"}}, BAD),
    "GET a mutation": ({"method": "GET", "params": {"query": "mutation { touch }"}}, (405, "METHOD_NOT_ALLOWED")),
    "GET a mutation among queries": (
        {"method": "GET", "params": {"query": "query A { viewer } mutation B { touch }", "operationName": "B"}},
        (405, "METHOD_NOT_ALLOWED"),
    ),
    "a stream for another site": (
        {
            "json": {"query": "{ viewer }"},
            "headers": {"accept": EVENTS, "origin": "https://elsewhere.example"},
        },
        (403, "FORBIDDEN"),
    ),
    "a stream for a page of nowhere": (
        {"method": "GET", "params": {"query": "{ viewer }"}, "headers": {"accept": EVENTS, "origin": "null"}},
        (403, "FORBIDDEN"),
    ),
    "a stream for files": (one_file() | {"headers": {"accept": EVENTS}}, (406, "NOT_ACCEPTABLE")),
    "a stream for a batch": (
        {"json": [{"query": "{ viewer }"}], "headers": {"accept": EVENTS}},
        (406, "NOT_ACCEPTABLE"),
    ),
    "a stream for text": ({"content": b"{ viewer }", "headers": {"accept": PARTS}}, (415, "UNSUPPORTED_MEDIA_TYPE")),
    "a stream for no JSON": ({"content": b"{", "headers": JSON_TYPE | {"accept": PARTS}}, BAD),
    "GET a subscription": ({"method": "GET", "params": {"query": "subscription { count(to: 1) }"}}, BAD),
    "multipart of nothing": ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=B"}}, BAD),
    "multipart without boundary": ({"content": b"--B--", "headers": {"content-type": "multipart/form-data"}}, BAD),
    "multipart without map": ({"files": [("operations", (None, b"{}"))]}, BAD),
    "multipart operations too large": (form({"query": "q" * 30_000}, {}), (413, "PAYLOAD_TOO_LARGE")),
    "multipart too large": (one_file(bytes(LIMITS.total_bytes)), (413, "PAYLOAD_TOO_LARGE")),
    "multipart path into null": (form({"query": UPLOAD}, {"f": ["variables.file"]}, f=("a", b"x")), BAD),
    "multipart item that is none": (form([None, 1], {}), BAD),
    "multipart variables that are none": (form({"query": UPLOAD, "variables": []}, {}), BAD),
    "multipart file not sent": (form({"query": UPLOAD, "variables": {"file": None}}, {"f": ["variables.file"]}), BAD),
    "multipart second file unknown": (
        form(
            {"query": UPLOAD, "variables": {"file": None}},
            {"f": ["variables.file"]},
            f=("a", bytes(2_000_000)),
            g=("b", b"x"),
        ),
        BAD,
    ),
}


@pytest.mark.parametrize(("request_", "answer"), REFUSED.values(), ids=REFUSED)
async def test_refusals(
    served: Served, client: httpx.AsyncClient, request_: dict[str, Any], answer: tuple[int, str]
) -> None:
    method = request_.get("method", "POST")
    given = {"headers": {}, **request_}
    given.pop("method", None)
    given["headers"] = given["headers"] | SIGNED_IN

    response = await client.request(method, "/graphql", **given)

    assert refused_with(response, *answer).endswith(".")
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert served.spooled() == []


async def test_what_is_allowed_is_said(client: httpx.AsyncClient) -> None:
    assert (await client.put("/graphql")).headers["allow"] == "GET, POST"
    assert (await client.get("/graphql", params={"query": "mutation { touch }"})).headers["allow"] == "POST"
    said = refused_with(await client.post("/graphql", json={"query": "subscription { count(to: 1) }"}), *BAD)
    assert all(way in said for way in ("graphql-transport-ws", "text/event-stream", "subscriptionSpec=1.0"))


# ---------------------------------------------------------------- who asks


async def test_nobody_is_anonymous_and_a_token_is_somebody(client: httpx.AsyncClient) -> None:
    assert (await client.post("/graphql", json={"query": "{ viewer }"})).json() == {"data": {"viewer": None}}
    signed_in = await client.post("/graphql", json={"query": "{ viewer }"}, headers=SIGNED_IN)
    assert signed_in.json() == {"data": {"viewer": "ann"}}
    signed_out = await client.post("/graphql", json={"query": "{ viewer }"}, headers={"authorization": ""})
    assert signed_out.json() == {"data": {"viewer": None}}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_bad_token_is_401(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(
        method,
        "/graphql",
        params={"query": "{ viewer }"},
        headers={"authorization": "Bearer old", "accept": GRAPHQL_RESPONSE},
    )
    assert refused_with(response, 401, "UNAUTHENTICATED") == "The token is invalid or expired."
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == f"{GRAPHQL_RESPONSE}; charset=utf-8"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"content-type: application/json\r\nauthorization: Bearer old\r\ncontent-length: 9\r\n\r\n", b"401"),
        (b"content-type: application/json\r\ncontent-length: 50001\r\n\r\n", b"413"),
        (
            b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nc351\r\n" + b" " * 50_001 + b"\r\n",
            b"413",
        ),
        (b"content-type: text/plain\r\ncontent-length: 9\r\n\r\n", b"415"),
        (b"content-type: multipart/form-data; boundary=B\r\ncontent-length: 9\r\n\r\n", b"400"),
        (
            b"content-type: multipart/form-data; boundary=B\r\nx-requested-with: x\r\ncontent-length: 10000001\r\n\r\n",
            b"401",
        ),
        (
            b"content-type: multipart/form-data; boundary=B\r\nauthorization: Bearer ann\r\n"
            b"content-length: 10000001\r\n\r\n",
            b"413",
        ),
    ],
    ids=[
        "token",
        "JSON said to be large",
        "JSON that is large",
        "type",
        "preflight",
        "nobody's large multipart",
        "multipart said to be large",
    ],
)
async def test_a_refusal_does_not_wait_for_the_rest_of_the_body(served: Served, sent: bytes, status: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /graphql HTTP/1.1\r\nhost: x\r\n" + sent)
    async with asyncio.timeout(5):
        answered = await reader.readline()
    writer.close()
    assert answered.split()[1] == status


@pytest.mark.parametrize("sent", [b"", b'{"query": '], ids=["nothing", "half"])
async def test_a_body_that_does_not_come_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(controller, "JSON_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n")
    writer.write(sent)
    async with asyncio.timeout(5):
        answered = await reader.read()  # to its end: the connection is not kept
    writer.close()
    head, _, body = answered.partition(b"\r\n\r\n")
    assert head.split()[1] == b"408"
    error = {"message": "The body took longer than 0 seconds.", "extensions": {"code": "REQUEST_TIMEOUT"}}
    assert json.loads(body) == {"errors": [error]}


async def test_an_unexpected_failure_is_masked(client: httpx.AsyncClient) -> None:
    response = await client.post("/graphql", json={"query": "{ viewer }"}, headers={"authorization": "Bearer crash"})
    assert response.status_code == 500
    assert response.json() == masked(response.json()["errors"][0]["extensions"]["id"])


async def at_once(client: httpx.AsyncClient, headers: dict[str, str]) -> Any:
    return (await client.post("/graphql", json={"query": "{ viewer }"}, headers=headers)).json()


async def in_a_batch(client: httpx.AsyncClient, headers: dict[str, str]) -> Any:
    asked = [{"query": "{ viewer }"}] * 2
    first, second = (await client.post("/graphql", json=asked, headers=headers)).json()
    assert second == {"data": {"viewer": "ann"}}
    return first


async def in_a_stream(client: httpx.AsyncClient, headers: dict[str, str]) -> Any:
    response = await client.post("/graphql", json={"query": "{ viewer }"}, headers=headers | {"accept": EVENTS})
    _, result, complete, _ = response.text.split("\n\n")
    assert complete == "event: complete\ndata: "
    return json.loads(result.removeprefix("event: next\ndata: "))


@pytest.mark.parametrize("answered", [at_once, in_a_batch, in_a_stream])
async def test_what_fails_between_the_door_and_the_operation_is_coded_or_masked(
    served: Served, client: httpx.AsyncClient, answered: Callable[[httpx.AsyncClient, dict[str, str]], Any]
) -> None:
    served.failing_later = {
        "Bearer ends": Unauthenticated("This session has ended."),
        "Bearer breaks": RuntimeError("the database at 10.0.0.7 is down"),
    }
    ended, broken = [await answered(client, {"authorization": header}) for header in served.failing_later]
    extensions = {"code": "UNAUTHENTICATED"}
    assert ended == {"errors": [{"message": "This session has ended.", "extensions": extensions}]}
    assert broken == masked(broken["errors"][0]["extensions"]["id"])


async def test_a_rate_refuses_one_operation_with_a_status_or_among_others_with_a_code(
    served: Served, client: httpx.AsyncClient
) -> None:
    served.failing_later = {"Bearer hurries": RateLimited(2.5)}
    hurried = {"authorization": "Bearer hurries"}
    alone = await client.post("/graphql", json={"query": "{ viewer }"}, headers=hurried)
    said = refused_with(alone, 429, "RATE_LIMITED")
    assert alone.headers["retry-after"] == "3"
    error = {"errors": [{"message": said, "extensions": {"code": "RATE_LIMITED"}}]}
    assert await in_a_stream(client, hurried) == error
    assert await in_a_batch(client, hurried) == error


# ---------------------------------------------------------------- GraphQL over HTTP


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("text/html", "application/json"),
        (GRAPHQL_RESPONSE, GRAPHQL_RESPONSE),
        (f"{GRAPHQL_RESPONSE}, application/json;q=0.9", GRAPHQL_RESPONSE),
        (f"application/json;q=0.9, {GRAPHQL_RESPONSE}", GRAPHQL_RESPONSE),
        (f"{GRAPHQL_RESPONSE};q=0.5, application/json", "application/json"),
        ("application/json;q=inf", "application/json"),
        (f"{GRAPHQL_RESPONSE}, application/json, {EVENTS}, multipart/mixed", GRAPHQL_RESPONSE),  # urql's
        (f"{EVENTS};q=0.5, application/json", "application/json"),
        (f"{EVENTS};q=inf", "application/json"),
        ("text/html, */*;q=0.8", "application/json"),
        ("multipart/mixed", "application/json"),
        (PARTS.replace("1.0", "2.0"), "application/json"),
        (EVENTS.replace("event-", ""), "application/json"),
    ],
)
async def test_the_media_type_is_the_clients_choice(
    client: httpx.AsyncClient, accept: str | None, answered: str
) -> None:
    del client.headers["accept"]
    headers = {} if accept is None else {"accept": accept}
    response = await client.post("/graphql", json={"query": "{ viewer }"}, headers=headers)
    assert (response.status_code, response.json()) == (200, {"data": {"viewer": None}})
    assert response.headers["content-type"] == f"{answered}; charset=utf-8"
    assert response.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    "operation",
    [
        {"query": "{"},
        {"query": "{ nothing }"},
        {"query": "query Q($word: String!) { echo(word: $word) }"},
        {"query": "query Q($word: String!) { echo(word: $word) }", "variables": {"word": 1}},
    ],
    ids=["syntax", "unknown field", "missing variable", "variable of another type"],
)
async def test_an_error_before_execution_has_no_data(client: httpx.AsyncClient, operation: dict[str, Any]) -> None:
    modern = await client.post("/graphql", json=operation, headers={"accept": GRAPHQL_RESPONSE})
    assert (modern.status_code, list(modern.json())) == (400, ["errors"])
    old = await client.post("/graphql", json=operation, headers={"accept": "application/json"})
    assert (old.status_code, list(old.json())) == (200, ["errors"])


@pytest.mark.parametrize("accept", [GRAPHQL_RESPONSE, "application/json"])
async def test_an_error_while_executing_has_null_for_data(client: httpx.AsyncClient, accept: str) -> None:
    response = await client.post("/graphql", json={"query": "{ required }"}, headers={"accept": accept})
    assert response.status_code == 200
    assert response.json()["data"] is None
    assert response.json()["errors"][0]["path"] == ["required"]


async def test_get_runs_queries(client: httpx.AsyncClient) -> None:
    query = "query Q($word: String!) { echo(word: $word) }"
    response = await client.get("/graphql", params={"query": query, "variables": '{"word": "é"}', "operationName": "Q"})
    assert response.json() == {"data": {"echo": "é"}}


async def test_a_batch_is_answered_in_order(client: httpx.AsyncClient) -> None:
    response = await client.post("/graphql", json=[{"query": '{ echo(word: "a") }'}, {"query": "{ nothing }"}])
    first, second = response.json()
    assert (response.status_code, first, list(second)) == (200, {"data": {"echo": "a"}}, ["errors"])


async def test_what_is_no_operation_leaves_the_others_of_its_batch(client: httpx.AsyncClient) -> None:
    fine = {"query": '{ echo(word: "a") }'}
    for wrong in ({"query": "{ viewer }", "operationName": "Other"}, {"query": "subscription { count }"}, {}):
        response = await client.post("/graphql", json=[fine, wrong])
        first, second = response.json()
        assert (response.status_code, first, list(second)) == (200, {"data": {"echo": "a"}}, ["errors"])
        assert second["errors"][0]["extensions"] == {"code": "BAD_REQUEST"}


async def test_keys_that_are_no_strings_are_answered(client: httpx.AsyncClient) -> None:
    response = await client.post("/graphql", json={"query": "{ odd }"})
    assert response.json() == {"data": {"odd": {"1": "a key that is no string"}}}


async def test_requests_in_parallel_do_not_mix(client: httpx.AsyncClient) -> None:
    async def ask(number: int) -> None:
        accept = GRAPHQL_RESPONSE if number % 2 else "application/json"
        asked = {"query": f'{{ echo(word: "{number}") {"" if number % 3 else "nothing"} }}'}
        response = await client.post("/graphql", json=asked, headers={"accept": accept})
        assert response.headers["content-type"].startswith(accept)
        if number % 3:
            assert response.json() == {"data": {"echo": str(number)}}
        else:
            assert response.status_code == (400 if number % 2 else 200)

    await asyncio.gather(*(ask(number) for number in range(60)))


# ---------------------------------------------------------------- uploads


async def test_an_uploaded_file_arrives(served: Served, client: httpx.AsyncClient) -> None:
    content = os.urandom(2_500_000)
    response = await client.post("/graphql", **one_file(content, "C:\\Oma.jpg"), headers=SIGNED_IN)
    answered = response.json()["data"]["upload"]
    assert len(answered.pop("onDisk")) == 1
    assert answered == {
        "filename": "Oma.jpg",
        "size": 2_500_000,
        "sha256": hashlib.sha256(content).hexdigest(),
        "tooLarge": False,
    }
    assert served.spooled() == []


async def test_uploads_in_parallel_do_not_mix(served: Served, client: httpx.AsyncClient) -> None:
    async def upload(number: int) -> None:
        content = bytes([number]) * (200_000 + number)
        response = await client.post("/graphql", **one_file(content, f"{number}.jpg"), headers=SIGNED_IN)
        answered = response.json()["data"]["upload"]
        assert answered["filename"] == f"{number}.jpg"
        assert answered["sha256"] == hashlib.sha256(content).hexdigest()

    await asyncio.gather(*(upload(number) for number in range(12)))
    assert served.spooled() == []


async def test_a_file_too_large_leaves_the_others_of_its_batch(client: httpx.AsyncClient) -> None:
    sent = form(
        {"query": UPLOADS, "variables": {"files": [None, None]}},
        {"f": ["variables.files.0"], "g": ["variables.files.1"]},
        f=("large.jpg", bytes(LIMITS.file_bytes + 1)),
        g=("small.jpg", b"x"),
    )
    response = await client.post("/graphql", **sent, headers=SIGNED_IN)
    assert response.json()["data"]["uploads"] == [
        {"filename": "large.jpg", "size": LIMITS.file_bytes + 1, "sha256": "", "tooLarge": True},
        {"filename": "small.jpg", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest(), "tooLarge": False},
    ]


async def test_files_of_a_batch_of_operations(client: httpx.AsyncClient) -> None:
    sent = form(
        [{"query": "{ viewer }"}, {"query": UPLOAD, "variables": {"file": None}}],
        {"f": ["1.variables.file"]},
        f=("a.jpg", b"x"),
    )
    response = await client.post("/graphql", **sent, headers=SIGNED_IN)
    assert response.json()[1]["data"]["upload"]["filename"] == "a.jpg"


async def test_a_string_is_no_upload(client: httpx.AsyncClient) -> None:
    response = await client.post("/graphql", json={"query": UPLOAD, "variables": {"file": "a.jpg"}}, headers=SIGNED_IN)
    assert list(response.json()) == ["errors"]
    assert "An Upload is a file part" in response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    "header",
    [
        "authorization",
        "apollo-require-preflight",
        "x-apollo-operation-name",
        "x-requested-with",
        "graphql-require-preflight",
    ],
)
async def test_a_form_needs_a_header_that_other_sites_cannot_send(client: httpx.AsyncClient, header: str) -> None:
    said = refused_with(await client.post("/graphql", **form({"query": "mutation { touch }"}, {})), *BAD)
    assert "apollo-require-preflight" in said

    response = await client.post("/graphql", **form({"query": "{ viewer }"}, {}), headers={header: "Bearer bob"})
    assert response.json() == {"data": {"viewer": "bob" if header == "authorization" else None}}


async def test_of_an_anonymous_caller_nothing_is_ever_written(served: Served, client: httpx.AsyncClient) -> None:
    os.utime(served.scratch, (0, 0))  # any file that is made in it, and be it for a moment, changes this
    response = await client.post("/graphql", **one_file(bytes(2_500_000)), headers={"x-requested-with": "x"})
    answered = response.json()["data"]["upload"]
    assert (answered["size"], answered["sha256"], answered["onDisk"]) == (2_500_000, "", [])
    assert served.scratch.stat().st_mtime == 0

    await client.post("/graphql", **one_file(), headers=SIGNED_IN)
    assert served.scratch.stat().st_mtime != 0


async def test_a_body_cut_off_leaves_nothing(served: Served, client: httpx.AsyncClient) -> None:
    request = client.build_request("POST", "/graphql", **one_file(bytes(2_500_000)))
    content = request.read()
    head = "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ann\r\n" + "".join(
        f"{name}: {request.headers[name]}\r\n" for name in ("content-type", "content-length")
    )
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head.encode() + b"\r\n" + content[:2_000_000])
    await writer.drain()
    await until(lambda: len(served.spooled()) == 1)

    writer.close()

    await until(lambda: served.spooled() == [])
    assert (await client.post("/graphql", json={"query": "{ viewer }"})).status_code == 200


# ---------------------------------------------------------------- sockets


@contextlib.asynccontextmanager
async def opened(served: Served, init: Any = None, **options: Any) -> AsyncIterator[ClientConnection]:
    options.setdefault("subprotocols", [Subprotocol("graphql-transport-ws")])
    url = f"ws://127.0.0.1:{served.port}/graphql"
    async with asyncio.timeout(10), connect(url, proxy=None, **options) as connection:
        if init is not None:
            await connection.send(json.dumps({"type": "connection_init", "payload": init}))
        yield connection


async def messages(connection: ClientConnection, operation: Any) -> list[Any]:
    """Everything that answers one operation."""
    await connection.send(json.dumps({"type": "subscribe", "id": "1", "payload": operation}))
    received_: list[Any] = []
    while not received_ or received_[-1]["type"] not in ("complete", "error"):
        received_.append(json.loads(await connection.recv()))
    return received_


async def closed_with(connection: ClientConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.recv()
    assert connection.close_code is not None
    return connection.close_code


@pytest.mark.parametrize(
    ("init", "viewer"),
    [
        ({}, None),
        ({"authorization": None}, None),
        ({"Authorization": ""}, None),
        ({"authorization": "Bearer ann"}, "ann"),
        ({"AUTHORIZATION": "Bearer bob"}, "bob"),
    ],
)
async def test_a_socket_knows_its_viewer(served: Served, init: dict[str, Any], viewer: str | None) -> None:
    async with opened(served, init) as connection:
        assert json.loads(await connection.recv()) == {"type": "connection_ack"}
        first, _ = await messages(connection, {"query": "{ viewer }"})
        assert first["payload"] == {"data": {"viewer": viewer}}


async def test_a_subscription_streams(served: Served) -> None:
    async with opened(served, {}) as connection:
        await connection.recv()
        *numbers, last = await messages(connection, {"query": "subscription { count(to: 3) }"})
        assert [message["payload"]["data"]["count"] for message in numbers] == [0, 1, 2]
        assert last == {"type": "complete", "id": "1"}


@pytest.mark.parametrize(
    "init",
    [
        {"authorization": "Bearer old"},
        {"Authorization": "ann"},
        {"authorization": ["Bearer ann"]},
        {"authorization": "Bearer ann", "Authorization": "Bearer bob"},
    ],
)
async def test_a_socket_with_a_bad_token_is_closed(served: Served, init: dict[str, Any]) -> None:
    async with opened(served, init) as connection:
        assert await closed_with(connection) == 4403


async def test_a_session_that_ends_is_seen_on_an_open_socket(served: Served) -> None:
    async with opened(served, {"authorization": "Bearer ann"}) as connection:
        await connection.recv()
        served.tokens.remove("Bearer ann")
        (answer,) = await messages(connection, {"query": "{ viewer }"})
        assert answer["type"] == "error"
        assert answer["payload"][0]["message"] == "The token is invalid or expired."
        assert answer["payload"][0]["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_an_unexpected_failure_on_a_socket_is_masked(served: Served) -> None:
    async with opened(served, {"authorization": "Bearer ann"}) as connection:
        await connection.recv()
        served.tokens = None  # type: ignore[assignment]  # looking into it fails
        (answer,) = await messages(connection, {"query": "{ viewer }"})
        assert answer["type"] == "error"
        assert {"errors": answer["payload"]} == masked(answer["payload"][0]["extensions"]["id"])


@pytest.mark.parametrize(
    "message",
    [
        "[]",
        "1",
        "{",
        '{"type": 1}',
        '{"type": "unknown"}',
        '{"type": "subscribe", "payload": {"query": "{ viewer }"}}',
        '{"type": "subscribe", "id": [1], "payload": {"query": "{ viewer }"}}',
        '{"type": "subscribe", "id": "1", "payload": null}',
        '{"type": "subscribe", "id": "1", "payload": {"query": 1}}',
        '{"type": "subscribe", "id": "1", "payload": {"query": "{ viewer }", "variables": []}}',
        '{"type": "complete", "id": {}}',
        b"{}",
    ],
)
async def test_a_message_of_the_wrong_shape_closes_the_socket(served: Served, message: str | bytes) -> None:
    async with opened(served, {}) as connection:
        await connection.recv()
        await connection.send(message)
        assert await closed_with(connection) == 4400


async def test_what_is_wrong_with_a_message_is_told(served: Served) -> None:
    async with opened(served, {}) as connection:
        await connection.recv()
        await connection.send('{"type": "subscribe", "id": "1", "payload": {"query": 1}}')
        assert await closed_with(connection) == 4400
        assert connection.close_reason == "`query` must be a string, or null."


async def test_the_legacy_protocol_is_not_spoken(served: Served) -> None:
    async with opened(served, subprotocols=[Subprotocol("graphql-ws")]) as connection:
        assert await closed_with(connection) == 4406


async def test_other_sites_may_not_open_a_socket(served: Served) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(served, origin=Origin("https://elsewhere.example")):
            pytest.fail("it was opened")
    assert refused.value.response.status_code == 403
    async with opened(served, {}, origin=Origin(served.allowed_origin)) as connection:
        assert json.loads(await connection.recv()) == {"type": "connection_ack"}
