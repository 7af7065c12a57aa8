"""Operations answered by a stream: as Server-Sent Events, and in the parts of Apollo's multipart protocol."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.wiring import Services
from graphql_schema import streams
from tests.app.test_progress import ENDED, LOGOUT, NOT_FOUND, QUEUED, STAGES, served_here, until_nobody_listens
from tests.client import WAIT_SECONDS, Account, Json, admitted
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import running

EVENTS = {"accept": "text/event-stream"}
PARTS = {"accept": "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json"}
DELIMITER = "\r\n--graphql"
PART = "\r\nContent-Type: application/json; charset=utf-8\r\n\r\n"
PEOPLE = "{ viewer { people { nodes { name } } } }"
STOPPING = {"message": "The server is stopping.", "extensions": {"code": "SERVICE_UNAVAILABLE"}}

both = pytest.mark.parametrize("accept", [EVENTS, PARTS], ids=["events", "parts"])


@dataclass(frozen=True)
class Here:
    """The application in this process, without a worker: what is uploaded waits."""

    services: Services
    url: str
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
async def here(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Here]:
    name = f"streams_{worker_name}"
    dsn = await create_database(server_dsn, name)
    async with served_here(dsn, tmp_path_factory.mktemp("streams")) as (services, url):
        secret_key = services.settings.secret_key
        yield Here(services, url, {"HEIRLOOM_DATABASE_URL": dsn, "HEIRLOOM_SECRET_KEY": secret_key})
    await drop_database(server_dsn, name)


@pytest.fixture
async def ida(here: Here) -> AsyncIterator[Account]:
    async with admitted(here, "Ida") as account:
        yield account


async def messages(response: httpx.Response) -> AsyncGenerator[Any, None]:
    """What comes, each as it comes: results, "beat" for what keeps the connection, and "complete"; else it was cut."""
    events = response.headers["content-type"].startswith("text/event-stream")
    separator, text = ("\n\n" if events else DELIMITER), ""
    read = _event if events else _part
    async for chunk in response.aiter_text():
        text += chunk
        while separator in text:
            message, text = text.split(separator, 1)
            if message:
                yield read(message)
    assert text in {"", "--\r\n"}
    if text:
        yield "complete"


def _event(block: str) -> Any:
    if block == ":":
        return "beat"
    first, second = block.split("\n")
    if first == "event: complete":
        assert second == "data: "
        return "complete"
    assert first == "event: next"
    assert second.startswith("data: ")
    return json.loads(second.removeprefix("data: "))


def _part(part: str) -> Any:
    assert part.startswith(PART)
    content = json.loads(part.removeprefix(PART))
    if content == {}:
        return "beat"
    return content if "errors" in content else content["payload"]


@asynccontextmanager
async def opened(account: Account, accept: dict[str, str], query: str, **variables: Any) -> AsyncIterator[Any]:
    """What comes of an operation, but for what a stream of events opens with."""
    operation = {"query": query, "variables": variables}
    async with account.http.stream("POST", "/graphql", json=operation, headers=accept) as response:
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store, no-transform"
        assert response.headers["vary"] == "Accept"
        async with asyncio.timeout(WAIT_SECONDS), aclosing(messages(response)) as told:
            if accept == EVENTS:
                assert await anext(told) == "beat"
            yield told


async def all_of(account: Account, accept: dict[str, str], query: str, **variables: Any) -> list[Any]:
    async with opened(account, accept, query, **variables) as told:
        return [message async for message in told]


def updated(update: Json) -> Json:
    return {"data": {"mediaProcessing": update}}


# ---------------------------------------------------------------- byte for byte


async def test_events_are_those_of_graphql_sse(ida: Account) -> None:
    query = {"query": "{ viewer { email } }"}
    posted = await ida.http.post("/graphql", json=query, headers=EVENTS)
    assert posted.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert posted.text == (
        f':\n\nevent: next\ndata: {{"data":{{"viewer":{{"email":"{ida.email}"}}}}}}\n\nevent: complete\ndata: \n\n'
    )
    assert (await ida.http.get("/graphql", params=query, headers=EVENTS)).text == posted.text


async def test_parts_are_those_of_apollo(ida: Account) -> None:
    answer = await ida.http.post("/graphql", json={"query": "{ viewer { email } }"}, headers=PARTS)
    assert answer.headers["content-type"] == 'multipart/mixed; boundary="graphql"; subscriptionSpec="1.0"'
    data = f'{{"payload":{{"data":{{"viewer":{{"email":"{ida.email}"}}}}}}}}'
    assert answer.text == f"{DELIMITER}{PART}{data}{DELIMITER}--\r\n"


# ---------------------------------------------------------------- operations


@both
@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ({"query": "{"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "subscription { nothing }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": STAGES}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": STAGES, "operationName": "Other"}, "BAD_REQUEST"),
        ({}, "BAD_REQUEST"),
    ],
    ids=["syntax", "validation", "variables", "name", "nothing"],
)
async def test_what_is_wrong_with_an_operation_is_told_in_the_stream(
    ida: Account, accept: dict[str, str], operation: Json, code: str
) -> None:
    async with ida.http.stream("POST", "/graphql", json=operation, headers=accept) as response:
        assert response.status_code == 200
        *_, result, last = [message async for message in messages(response)]
    assert list(result) == ["errors"]
    assert [error["extensions"] for error in result["errors"]] == [{"code": code}]
    assert last == "complete"


async def test_a_mutation_runs_by_post_alone(ida: Account) -> None:
    create = 'mutation { createPerson(input: {name: "Grace"}) { person { name } } }'
    refused = await ida.http.get("/graphql", params={"query": create}, headers=EVENTS)
    error = '{"message":"A mutation is sent by POST.","extensions":{"code":"METHOD_NOT_ALLOWED"}}'
    assert refused.text == f':\n\nevent: next\ndata: {{"errors":[{error}]}}\n\nevent: complete\ndata: \n\n'
    assert await ida.ask(PEOPLE) == {"people": {"nodes": []}}
    created = {"data": {"createPerson": {"person": {"name": "Grace"}}}}
    assert await all_of(ida, EVENTS, create) == [created, "complete"]
    assert await ida.ask(PEOPLE) == {"people": {"nodes": [{"name": "Grace"}]}}


@both
async def test_a_subscription_goes_on_until_its_session_ends(ida: Account, accept: dict[str, str]) -> None:
    media = await ida.uploaded(photograph(64, 48))
    async with opened(ida, accept, STAGES, id=media["id"]) as told:
        assert await anext(told) == updated(QUEUED)
        assert await ida.ask(LOGOUT) == {"errors": []}
        assert [message async for message in told] == [{"errors": [ENDED]}, "complete"]


@both
async def test_what_is_not_to_be_seen_is_not_found(here: Here, ida: Account, accept: dict[str, str]) -> None:
    media = await ida.uploaded(photograph(64, 48))
    async with admitted(here, "Eve") as eve:
        for media_id in (media["id"], str(uuid.uuid4())):
            assert await all_of(eve, accept, STAGES, id=media_id) == [{"errors": [NOT_FOUND]}, "complete"]
    await until_nobody_listens(here.services)


@both
async def test_a_bad_token_opens_no_stream(ida: Account, accept: dict[str, str]) -> None:
    answer = await ida.http.post("/graphql", json={"query": STAGES}, headers=accept | {"authorization": "Bearer no"})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/json; charset=utf-8")
    assert answer.json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_a_token_in_the_address_is_none(ida: Account) -> None:
    parameters = {"query": "{ viewer { email } }", "token": ida.token or "", "authorization": f"Bearer {ida.token}"}
    answer = await ida.http.get("/graphql", params=parameters, headers=EVENTS | {"authorization": ""})
    assert answer.text == ':\n\nevent: next\ndata: {"data":{"viewer":null}}\n\nevent: complete\ndata: \n\n'


async def test_pages_of_this_origin_may_open_streams(here: Here, ida: Account) -> None:
    for headers in ({"origin": here.url}, {"origin": "https://outside.example", "sec-fetch-site": "same-origin"}):
        assert (await all_of(ida, EVENTS | headers, "{ viewer { email } }"))[-1] == "complete"


# ---------------------------------------------------------------- how long


@both
async def test_a_stream_ends_when_its_client_goes(here: Here, ida: Account, accept: dict[str, str]) -> None:
    media = await ida.uploaded(photograph(64, 48))
    async with opened(ida, accept, STAGES, id=media["id"]) as told:
        assert await anext(told) == updated(QUEUED)
        assert len(here.services.hub._subscriptions) == 2  # its media, and its session
    await until_nobody_listens(here.services)


@both
async def test_a_quiet_stream_is_kept_open(
    ida: Account, accept: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, form in streams._FORMS.items():
        monkeypatch.setitem(streams._FORMS, name, replace(form, heartbeat_seconds=0.05))
    media = await ida.uploaded(photograph(64, 48))
    async with opened(ida, accept, STAGES, id=media["id"]) as told:
        while (first := await anext(told)) == "beat":  # on a busy machine it beats before there is anything to tell
            pass
        assert first == updated(QUEUED)
        assert [await anext(told) for _ in range(3)] == ["beat"] * 3
        assert await ida.ask(LOGOUT) == {"errors": []}
        *beats, result, last = [message async for message in told]
    assert set(beats) <= {"beat"}
    assert (result, last) == ({"errors": [ENDED]}, "complete")


async def test_a_stop_ends_streams_so_that_their_clients_come_again(
    server_dsn: str, worker_name: str, tmp_path: Path
) -> None:
    name = f"stopping_{worker_name}"
    dsn = await create_database(server_dsn, name)
    with running(tmp_path, dsn, worker=False) as server:
        async with admitted(server, "Ida") as ida:
            media = await ida.uploaded(photograph(64, 48))
            async with (
                opened(ida, EVENTS, STAGES, id=media["id"]) as events,
                opened(ida, PARTS, STAGES, id=media["id"]) as parts,
            ):
                assert [await anext(told) for told in (events, parts)] == [updated(QUEUED)] * 2
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                assert [message async for message in events] == []
                assert [message async for message in parts] == [{"payload": None, "errors": [STOPPING]}, "complete"]
        assert server.process.wait(WAIT_SECONDS) == 0
        assert time.monotonic() - began < 4, "a stop waits 5 seconds for answers that go on"
    await drop_database(server_dsn, name)
