"""What is told of failures that nobody expected: that they were, and under which id the log has them; never what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.client import Account, Client, Json, admitted
from tests.graphql_schema.rows import execute
from tests.postgres import create_database, drop_database
from tests.server import Server, running

MASKED = "Something went wrong on our side."


@dataclass(frozen=True)
class Fragile:
    """A server on a database of its own, which a test may break for a while."""

    server: Server
    dsn: str
    log: Path

    @asynccontextmanager
    async def without(self, table: str) -> AsyncIterator[None]:
        await execute(self.dsn, f"ALTER TABLE {table} RENAME TO away")
        try:
            yield
        finally:
            await execute(self.dsn, f"ALTER TABLE away RENAME TO {table}")

    def logged(self, error_id: str, text: str) -> None:
        """The log tells under this id what happened, once."""
        (line,) = [line for line in self.log.read_text().splitlines() if f"Unexpected error {error_id}" in line]
        assert text in json.loads(line)["exception"]


@pytest.fixture(scope="module")
async def fragile(
    server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fragile]:
    name, folder = f"fragile_{worker_name}", tmp_path_factory.mktemp("fragile")
    dsn = await create_database(server_dsn, name)
    with running(folder, dsn, worker=False) as server:
        yield Fragile(server, dsn, folder / "serve.log")
    await drop_database(server_dsn, name)


@pytest.fixture
async def una(fragile: Fragile) -> AsyncIterator[Account]:
    async with admitted(fragile.server, "Una") as account:
        yield account


def masked(error: Json, **placed: Any) -> str:
    """The id of an error that tells nothing else."""
    error_id: str = error["extensions"]["id"]
    assert error == {"message": MASKED, **placed, "extensions": {"code": "INTERNAL_SERVER_ERROR", "id": error_id}}
    assert len(error_id) == 16
    return error_id


async def test_a_query_that_fails_is_masked(fragile: Fragile, una: Account) -> None:
    async with fragile.without("media"):
        answer = await una.post("{ viewer { email } library { nodes { id } } }")
    (error,) = answer.pop("errors")
    assert answer == {"data": None}
    error_id = masked(error, path=["library"], locations=[{"line": 1, "column": 20}])
    fragile.logged(error_id, 'relation "media" does not exist')
    assert await una.ask("{ library { nodes { id } } }") == {"nodes": []}


async def test_a_mutation_that_fails_is_masked_and_changes_nothing(fragile: Fragile, una: Account) -> None:
    create = 'mutation { createPerson(input: {name: "Grace"}) { person { id } errors { code } } }'
    async with fragile.without("person"):
        answer = await una.post(create)
    (error,) = answer.pop("errors")
    assert answer == {"data": None}
    error_id = masked(error, path=["createPerson"], locations=[{"line": 1, "column": 12}])
    fragile.logged(error_id, 'relation "person" does not exist')
    assert await una.ask("{ viewer { people { nodes { id } } } }") == {"people": {"nodes": []}}


async def test_the_rest_of_an_answer_is_given(fragile: Fragile, una: Account) -> None:
    person = await una.person("Grace")
    async with fragile.without("profile"):
        answer = await una.post("query($id: ID!) { person(id: $id) { name profile { id } } }", id=person["id"])
    (error,) = answer.pop("errors")
    assert answer == {"data": {"person": {"name": "Grace", "profile": None}}}
    masked(error, path=["person", "profile"], locations=[{"line": 1, "column": 42}])


async def test_a_request_whose_viewer_cannot_be_known_is_masked(fragile: Fragile, una: Account) -> None:
    async with fragile.without("session"):
        response = await una.http.post("/graphql", json={"query": "{ viewer { email } }"})
    assert (response.status_code, response.headers["content-type"]) == (500, "application/json; charset=utf-8")
    (error,) = response.json()["errors"]
    assert response.json() == {"errors": [error]}
    fragile.logged(masked(error), 'relation "session" does not exist')


async def test_a_query_on_a_socket_that_fails_is_masked(fragile: Fragile, una: Account) -> None:
    async with una.socket() as socket:
        async with fragile.without("media"):
            operation = await socket.start("{ library { nodes { id } } }")
            message = await socket.receive()
        assert (message["type"], message["id"], message["payload"]["data"]) == ("next", operation, None)
        (error,) = message["payload"]["errors"]
        error_id = masked(error, path=["library"], locations=[{"line": 1, "column": 3}])
        fragile.logged(error_id, 'relation "media" does not exist')
        assert await socket.receive() == {"type": "complete", "id": operation}


async def test_a_subscription_that_fails_is_masked(fragile: Fragile, una: Account) -> None:
    async with una.socket() as socket:
        async with fragile.without("media"):
            operation = await socket.start('subscription { mediaProcessing(mediaId: "17") { stage } }')
            message = await socket.receive()
        assert (message["type"], message["id"], message["payload"]["data"]) == ("next", operation, None)
        (error,) = message["payload"]["errors"]
        # What a subscription's own generator raises, graphql-core places nowhere.
        fragile.logged(masked(error), 'relation "media" does not exist')


@pytest.mark.parametrize(
    "query", ["{ library { nodes { id } } }", 'subscription { mediaProcessing(mediaId: "17") { stage } }']
)
async def test_a_stream_that_fails_is_masked(fragile: Fragile, una: Account, query: str) -> None:
    async with fragile.without("media"):
        answer = await una.http.post("/graphql", json={"query": query}, headers={"accept": "text/event-stream"})
    opening, result, complete, end = answer.text.split("\n\n")
    assert (opening, complete, end) == (":", "event: complete\ndata: ", "")
    (error,) = json.loads(result.removeprefix("event: next\ndata: "))["errors"]
    placed = {name: error[name] for name in ("path", "locations") if name in error}
    assert placed == (
        {} if "mediaProcessing" in query else {"path": ["library"], "locations": [{"line": 1, "column": 3}]}
    )
    fragile.logged(masked(error, **placed), 'relation "media" does not exist')


async def test_an_operation_on_a_socket_that_is_none_has_a_code(una: Account) -> None:
    async with una.socket() as socket:
        payload = {"query": "query Mine { viewer { email } }", "operationName": "Other"}
        await socket.send({"type": "subscribe", "id": "1", "payload": payload})
        error = {"message": 'Unknown operation named "Other".', "extensions": {"code": "BAD_REQUEST"}}
        assert await socket.receive() == {"type": "error", "id": "1", "payload": [error]}


async def test_an_operation_on_a_socket_whose_viewer_cannot_be_known_is_masked(fragile: Fragile, una: Account) -> None:
    async with una.socket() as socket:
        async with fragile.without("session"):
            for query in ("{ viewer { email } }", 'subscription { mediaProcessing(mediaId: "17") { stage } }'):
                operation = await socket.start(query)
                message = await socket.receive()
                (error,) = message.pop("payload")
                assert message == {"type": "error", "id": operation}
                fragile.logged(masked(error), 'relation "session" does not exist')
        # The socket lives on.
        assert [answer async for answer in socket.subscribe("{ viewer { email } }")] == [
            {"viewer": {"email": una.email}}
        ]


async def test_a_session_that_ends_is_told_on_a_socket_with_its_code(una: Account) -> None:
    async with una.socket() as socket:
        await una.ask("mutation { logout { errors { code } } }")
        for query in ("{ viewer { email } }", 'subscription { mediaProcessing(mediaId: "17") { stage } }'):
            operation = await socket.start(query)
            error = {"message": "This session has ended.", "extensions": {"code": "UNAUTHENTICATED"}}
            assert await socket.receive() == {"type": "error", "id": operation, "payload": [error]}


async def test_a_socket_whose_viewer_cannot_be_known_is_closed_without_a_word(fragile: Fragile, una: Account) -> None:
    address = f"{una.url.replace('http', 'ws', 1)}/graphql"
    async with (
        fragile.without("session"),
        websockets.connect(address, subprotocols=[websockets.Subprotocol("graphql-transport-ws")]) as connection,
    ):
        payload = {"authorization": f"Bearer {una.token}"}
        await connection.send(json.dumps({"type": "connection_init", "payload": payload}))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(connection.recv(), 30)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4500, "Internal Server Error")


# ---------------------------------------------------------------- what is expected has its code


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ viewer { email }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("query($id: ID!) { media(id: $id) { id } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ library(first: -1) { nodes { id } } }", "BAD_INPUT"),
        (f"{{ {'{ a ' * 2_000}", "GRAPHQL_VALIDATION_FAILED"),
        ("{ viewer " + "{ user " * 2_000 + "}" * 2_001, "GRAPHQL_VALIDATION_FAILED"),
        ("{ a" * 1_600 + "}" * 1_600, "GRAPHQL_VALIDATION_FAILED"),
        ("{ a(b: " + "[" * 2_000 + "]" * 2_000 + ") }", "GRAPHQL_VALIDATION_FAILED"),
        ("{" + " a" * 6_000 + "}", "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_what_is_wrong_with_a_query_has_a_code(client: Client, query: str, code: str) -> None:
    answer = await client.post(query)
    assert answer.get("data") is None
    assert {error["extensions"]["code"] for error in answer["errors"]} == {code}
    assert [error["extensions"] for error in answer["errors"]] == [{"code": code}] * len(answer["errors"])
    async with client.socket({}) as socket:
        operation = await socket.start(query)
        message = await socket.receive()
        assert message["id"] == operation
        errors = message["payload"] if message["type"] == "error" else message["payload"]["errors"]
        assert [error["extensions"] for error in errors] == [{"code": code}] * len(errors)
