"""What the log says, how, and what it never says."""

from __future__ import annotations

import io
import logging
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from app import calls, logs
from app.calls import Call
from tests.app.conftest import Guarded, new_address
from tests.client import PASSWORD, Account, admitted

pytestmark = pytest.mark.xdist_group("guarded")

LOGIN = "mutation SignIn($input: LoginInput!) { login(input: $input) { accessToken errors { code } } }"


@pytest.fixture
async def ann(guarded: Guarded) -> AsyncIterator[Account]:
    async with admitted(guarded, "Ann") as ann:
        ann.http.headers["x-forwarded-for"] = new_address()
        yield ann


async def line_of(guarded: Guarded, answer: httpx.Response) -> dict[str, Any]:
    return guarded.told(answer.headers["x-request-id"])


async def test_a_request_is_one_line(guarded: Guarded, ann: Account) -> None:
    began = datetime.now(UTC)
    answer = await ann.http.post("/graphql", json={"query": "query Mine { viewer { email } }"})
    line = await line_of(guarded, answer)
    assert abs(datetime.fromisoformat(line.pop("time")) - began) < timedelta(minutes=1)
    assert 0 < line.pop("ms") < 60_000
    assert line == {
        "level": "info",
        "logger": "app.access_log",
        "message": "POST /graphql 200",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "route": "/graphql",
        "status": 200,
        "bytes": len(answer.content),
        "client": ann.http.headers["x-forwarded-for"],
        "user": ann.id,
        "operation": "Mine",
    }


async def test_nothing_secret_is_told(guarded: Guarded, ann: Account) -> None:
    secret = secrets.token_hex(8)
    url = f"/files/{secret}/photo.jpg?signature={secret}"
    last = [
        await ann.http.post("/graphql", json={"query": LOGIN, "variables": {"input": {"email": ann.email,
                                                                                     "password": PASSWORD}}}),
        await ann.http.get("/graphql", params={"query": f'{{ node(id: "{secret}") {{ id }} }}'}),
        await ann.http.get(url, headers={"cookie": secret, "user-agent": secret}),
        await ann.http.get(f"/nothing/{secret}"),
    ]  # fmt: skip
    lines = [await line_of(guarded, answer) for answer in last]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/graphql", 200),
        ("/graphql", 200),
        ("/files/{key}", 403),
        (None, 404),
    ]
    assert lines[0]["operation"] == "SignIn"
    text = (guarded.server.data_dir.parent / "serve.log").read_text()
    assert ann.token is not None
    for each in (secret, ann.token, ann.refresh_token, ann.email, PASSWORD, "signature="):
        assert each not in text


async def test_a_name_is_cut_short(guarded: Guarded, ann: Account) -> None:
    answer = await ann.http.post("/graphql", json={"query": f"query {'N' * 5000} {{ viewer {{ email }} }}"})
    assert answer.status_code == 200
    assert (await line_of(guarded, answer))["operation"] == "N" * 100


async def test_a_refused_query_has_its_line_too(guarded: Guarded, ann: Account) -> None:
    answer = await ann.http.post("/graphql", json={"query": "query Wrong { nothing }"})
    line = await line_of(guarded, answer)
    assert (line["status"], line["user"], line["operation"]) == (200, ann.id, "Wrong")
    nobody = await ann.http.post("/graphql", headers={"authorization": "Bearer x"}, json={"query": "{ viewer }"})
    line = await line_of(guarded, nobody)
    assert (line["status"], line.keys() & {"user", "operation"}) == (401, set())


async def test_who_watches_over_the_server_leaves_no_line(guarded: Guarded, ann: Account) -> None:
    watched = await ann.http.get("/health/live")
    other = await ann.http.get("/graphql", params={"query": "{ viewer { email } }"})
    assert (await line_of(guarded, other))["status"] == 200  # written after where the first one's would be
    assert watched.headers["x-request-id"] not in [line.get("request_id") for line in guarded.lines()]


# ---------------------------------------------------------------- how it is written


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger(f"app.{uuid.uuid4().hex}")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)


def written(logger: logging.Logger, form: str, stream: io.StringIO, *arguments: Any, **options: Any) -> str:
    handler = logs.handler(form, stream)
    logger.addHandler(handler)
    logger.warning(*arguments, **options)
    logger.removeHandler(handler)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ],
)
def test_on_a_terminal_it_is_for_people(logger: logging.Logger, form: str, stream: io.StringIO, is_json: bool) -> None:
    line = written(logger, form, stream, "It is %s", "so", extra={"fields": {"ms": 1.5, "client": "192.0.2.1"}})
    if is_json:
        assert orjson.loads(line).items() >= {"level": "warning", "message": "It is so", "ms": 1.5}.items()
    else:
        name = logger.name.removeprefix("app.")
        assert re.fullmatch(rf"\d\d:\d\d:\d\d WARNING {name}: It is so ms=1.5\n", line)


async def test_every_line_names_the_call_it_belongs_to(logger: logging.Logger) -> None:
    calls.begin(Call("some-request", "192.0.2.1"))
    assert orjson.loads(written(logger, "json", io.StringIO(), "So"))["request_id"] == "some-request"
    assert written(logger, "text", io.StringIO(), "So").endswith(": So request_id=some-request\n")


@pytest.mark.parametrize("said", ["two\nlines", "\x1b[2J", "\r", "\u2028", "\u202e"])
def test_nobody_can_forge_a_line(logger: logging.Logger, said: str) -> None:
    for form in ("json", "text"):
        line = written(logger, form, io.StringIO(), "They say %s", said)
        assert line.endswith("\n")
        assert form == "json" or line[:-1].isprintable()
        assert "\n" not in line[:-1]
        assert "\r" not in line
        assert "\x1b" not in line
        assert form == "text" or orjson.loads(line)["message"] == f"They say {said}"


@pytest.mark.parametrize("said", ["\ud800", 2**70, b"bytes", {1: 2}])
def test_whatever_is_said_is_written(logger: logging.Logger, said: Any) -> None:
    line = written(logger, "json", io.StringIO(), "So", extra={"fields": {"said": said}})
    assert orjson.loads(line.replace("\\ud800", ""))["message"] == "So"


def test_an_exception_comes_with_its_trace(logger: logging.Logger) -> None:
    error = ValueError("of no use\x1b[2J")
    line = orjson.loads(written(logger, "json", io.StringIO(), "It failed", exc_info=error))
    text = written(logger, "text", io.StringIO(), "It failed", exc_info=error)
    assert line["exception"].splitlines()[-1] == "ValueError: of no use\x1b[2J"
    assert text.splitlines()[0].endswith(": It failed")
    assert text.splitlines()[-1] == r"ValueError: of no use\x1b[2J"
