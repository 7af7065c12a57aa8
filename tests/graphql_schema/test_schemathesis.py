"""Whatever GraphQL is sent, by anybody: an answer as the standards have it, soon, and nothing unexpected in the log.

`make test` sends a few hundred requests, the same each time; `make attack` new ones for ten minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import pytest
import schemathesis
from graphql import GraphQLSchema, build_schema
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis_graphql import queries
from schemathesis import GenerationMode
from schemathesis.specs.graphql.scalars import CUSTOM_SCALARS

from app.errors import ErrorCode
from graphql_schema.limits import TOO_COMPLEX
from graphql_schema.refusals import GRAPHQL_RESPONSE, JSON
from tests.client import PASSWORD, Account, Json, admitted
from tests.graphql_schema.generated import Known, Request, as_subscription, null_above, prepared, register_scalars
from tests.graphql_schema.rows import dsn_of, execute
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import Server, running

pytestmark = pytest.mark.xdist_group("schemathesis")

SCHEMA_FILE: Final = Path(__file__).parents[2] / "graphql_schema" / "schema.graphql"
ATTACK_SECONDS: Final = float(os.environ.get("ATTACK_SECONDS", "0"))
# Of each operation, well and badly formed; of the subscriptions, which are each waited for.
EXAMPLES, OPENED = (12, 8) if ATTACK_SECONDS else (4, 2)
COMPARED: Final = 500 if ATTACK_SECONDS else 15
PUBLIC_URL: Final = "https://heirloom.example.org"
ANSWER_SECONDS, TRIES = 2.0, 3
OPEN_SECONDS: Final = 0.2  # that a stream which says nothing is listened to
GROWTH_MIB: Final = 60.0
GET_CHARACTERS: Final = 4000
CODES: Final = {code.value for code in ErrorCode} | {
    *("BAD_REQUEST", "GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", TOO_COMPLEX, "METHOD_NOT_ALLOWED"),
}
KINDS: Final[dict[str, Callable[[], bytes]]] = {
    "photograph": lambda: photograph(60, 40),
    "nothing": lambda: b"",
    "half a photograph": lambda: photograph(60, 40)[:900],
    "noise": lambda: secrets.token_bytes(300),
    "text": lambda: b"%PDF-1.4 is what it says, and <svg/> what it is not",
}


@dataclass
class Speaker:
    """Somebody whose session may end by what they say."""

    http: httpx.Client
    email: str | None

    def sign_in(self) -> None:
        query = "mutation($input: LoginInput!) { login(input: $input) { accessToken } }"
        variables = {"input": {"email": self.email, "password": PASSWORD}}
        answer = self.http.post(
            "/graphql", json={"query": query, "variables": variables}, headers={"authorization": ""}
        )
        self.http.headers["authorization"] = f"Bearer {answer.json()['data']['login']['accessToken']}"


@dataclass
class Target:
    server: Server
    known: Known
    speakers: list[Speaker]
    schema: GraphQLSchema = field(default_factory=lambda: build_schema(SCHEMA_FILE.read_text()))
    told: Counter[str] = field(default_factory=Counter)  # codes of errors, and "data"
    faults: dict[str, str] = field(default_factory=dict)  # the first of each kind

    def memory(self) -> float:
        """In MiB."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def log(self) -> Iterator[str]:
        """Lines of server and worker that tell of what was not expected."""
        for name in ("serve.log", "worker.log"):
            for line in (self.server.data_dir.parent / name).read_text().splitlines():
                if (
                    not line.startswith("{")
                    or json.loads(line)["level"] in {"error", "critical"}
                    or "exception" in line
                ):
                    yield f"{name}: {line}"


@pytest.fixture(scope="module")
async def target(server_dsn: str, worker_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """A family's server with something of everything, and three who speak to it: nobody, Ada, and an admin."""
    name = f"attack_{worker_name}"
    dsn = await create_database(server_dsn, name)
    settings: dict[str, Any] = {"processes": 1, "log_format": "json", "public_url": PUBLIC_URL}
    with running(tmp_path_factory.mktemp("attack"), dsn, **settings) as server:
        async with admitted(server, "Ada") as ada, admitted(server, "Root") as root, admitted(server, "Eve") as eve:
            await execute(dsn_of(server), "UPDATE user_account SET role = 'ADMIN' WHERE email = $1", root.email)
            known = Known()
            await asyncio.gather(*(furnish(somebody, known) for somebody in (ada, root, eve)))
            speakers = [
                Speaker(httpx.Client(base_url=server.url, timeout=30), email) for email in (None, ada.email, root.email)
            ]
            for speaker in speakers[1:]:
                speaker.sign_in()
            yield Target(server, known, speakers)
            for speaker in speakers:
                speaker.http.close()
    await drop_database(server_dsn, name)


async def furnish(who: Account, known: Known) -> None:
    """A person with a profile, pictures, and an upload that goes on."""
    person = await who.person(birthDate="1943~")
    profile = await who.profile(person["id"])
    known.learn([person, profile, {"id": who.id, "refreshToken": who.refresh_token}])
    known.add("email", who.email)
    known.add("password", PASSWORD)
    for fields in ({"entityId": person["id"]}, {"entityId": profile["id"], "slot": "avatar"}, {"isPublic": True}):
        uploaded = await who.uploaded(photograph(60, 40), **fields)
        known.learn(await who.settled(uploaded["id"]))
    known.learn(await who.begun(9_000_000, idempotencyKey="again"))
    known.add("slot", "photos", "avatar", "cover")
    known.add("contentType", "image/jpeg", "video/mp4")
    known.add("idempotencyKey", "again")


@pytest.fixture(scope="module")
def twin(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same family's server with the other executor."""
    executor = "plain" if target.server.environment.get("HEIRLOOM_EXECUTOR") == "stock" else "stock"
    settings = {"data_dir": target.server.data_dir, "public_url": PUBLIC_URL, "executor": executor}
    dsn = target.server.environment["HEIRLOOM_DATABASE_URL"]
    with running(tmp_path_factory.mktemp("twin"), dsn, worker=False, **settings) as server:
        yield server


def test_queries_are_answered_alike_by_either_executor(target: Target, twin: Server) -> None:
    """Before anything is changed."""
    register_scalars([*KINDS])
    schema = schemathesis.graphql.from_path(str(SCHEMA_FILE))
    asked: Counter[str] = Counter()
    with httpx.Client(base_url=twin.url, timeout=30) as other:
        for operation in schema["Query"].values():
            compare_generated(target, other, operation.as_strategy(), asked)
    # Neither has all been refused, nor all been let through.
    assert min(asked["data"], asked["errors"]) > asked.total() / 10


def compare_generated(target: Target, other: httpx.Client, cases: Any, asked: Counter[str]) -> None:
    random = Random(1)

    @generated(COMPARED, 1)
    @given(cases)
    def compare(case: Any) -> None:
        request = prepared(target.schema, case.body, target.known, random)
        speaker = random.choice(target.speakers)
        other.headers["authorization"] = speaker.http.headers.get("authorization", "")
        body = {"query": request.document, "variables": request.variables, "extensions": {"cost": True}}
        for left in reversed(range(2)):  # a minute may pass in between, and with it what URLs are signed for
            ours, theirs = (
                told(http.post("/graphql", content=json.dumps(body), headers={"content-type": JSON}))
                for http in (speaker.http, other)
            )
            assert ours == theirs or left, request
            if ours == theirs:
                break
        asked["errors" if "errors" in ours else "data"] += 1

    compare()


def told(response: httpx.Response) -> Json:
    """An answer with its errors in an order of their own: those that come from awaited siblings have none.

    Of several that make the same object null it is chance which is told; that it is null is not.
    """
    answer: Json = response.json()
    errors = {str(_explained(answer.get("data"), error)) for error in answer.get("errors", ())}
    return answer | {"errors": sorted(errors)} if errors else answer


def _explained(data: Any, error: Json) -> Any:
    place = null_above(data, error["path"]) if "path" in error else None
    return error if place is None or place == error["path"] else place


def test_whatever_is_sent_is_answered_as_the_standards_have_it(target: Target) -> None:
    register_scalars([*KINDS])
    before = target.memory()
    until = time.monotonic() + ATTACK_SECONDS
    for turn in range(10_000):
        attack(target, turn if not ATTACK_SECONDS else secrets.randbits(32))
        if ATTACK_SECONDS:
            print(f"{dict(target.told)}, {target.memory():.0f} MiB", *target.faults.items(), sep="\n")  # noqa: T201
        if time.monotonic() >= until:
            break
    assert not target.faults, "\n".join(f"{fault}: {example}" for fault, example in target.faults.items())
    assert list(target.log()) == []
    assert target.memory() - before < GROWTH_MIB
    # Neither has all been refused, nor all been let through.
    answered = target.told["data"]
    assert answered > sum(target.told.values()) / 10
    assert {"GRAPHQL_VALIDATION_FAILED", "UNAUTHENTICATED"} <= set(target.told)


def attack(target: Target, number: int) -> None:
    """Everything once, in ways that this number decides."""
    schema = schemathesis.graphql.from_path(str(SCHEMA_FILE))
    for operation in [schema[kind][name] for kind in schema for name in schema[kind]]:
        for mode in GenerationMode:
            send_generated(target, operation.as_strategy(generation_mode=mode), mode, number)
    subscriptions = target.schema.subscription_type
    assert subscriptions is not None
    for name in subscriptions.fields:
        listen_generated(
            target, queries(GraphQLSchema(subscriptions), fields=[name], custom_scalars=CUSTOM_SCALARS), number
        )


def send_generated(target: Target, cases: Any, mode: GenerationMode, number: int) -> None:
    random = Random(number)  # not Hypothesis' own, which wants the same choices each time: more is known by then
    well_formed = mode is GenerationMode.POSITIVE

    @generated(EXAMPLES if well_formed else EXAMPLES // 3, number)
    @given(cases)
    def send(case: Any) -> None:
        # What is malformed on purpose stays as it is.
        request = prepared(target.schema, case.body, target.known, random) if well_formed else Request(case.body)
        ask(target, request, random)

    send()


def listen_generated(target: Target, documents: Any, number: int) -> None:
    random = Random(number)

    @generated(OPENED, number)
    @given(documents)
    def send(document: str) -> None:
        listen(target, prepared(target.schema, as_subscription(document), target.known, random), random)

    send()


def generated(count: int, number: int) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """So many, decided by the number. A fault is noted, not raised: there is nothing to make smaller."""
    how = settings(
        max_examples=count, phases=[Phase.generate], deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    return lambda test: seed(number)(how(test))


# ---------------------------------------------------------------- one request


def ask(target: Target, request: Request, random: Random) -> None:
    speaker = random.choice(target.speakers)
    accept = random.choice(["*/*", JSON, GRAPHQL_RESPONSE])
    response, taken = sent(speaker.http, request, accept, by_get=random.random() < 0.3)
    found = [*faults_of(response, accept)]
    for _ in range(TRIES):  # a machine that does something else is slow for a while
        if taken > ANSWER_SECONDS:
            _, taken = sent(speaker.http, request, accept, by_get=False)
    if taken > ANSWER_SECONDS:
        found.append("slow")
    note(target, request, response.text, found)
    if response.status_code == 401 and speaker.email:
        speaker.sign_in()


def sent(http: httpx.Client, request: Request, accept: str, *, by_get: bool) -> tuple[httpx.Response, float]:
    body = {"query": request.document, "variables": request.variables}
    headers = {"accept": accept, "apollo-require-preflight": "true"}
    began = time.monotonic()
    if request.files:
        places = {str(index): [f"variables.{path}"] for index, path in enumerate(request.files)}
        files = {str(index): (f"{kind}.jpg", KINDS[kind]()) for index, kind in enumerate(request.files.values())}
        data = {"operations": json.dumps(body), "map": json.dumps(places)}
        response = http.post("/graphql", data=data, files=files, headers=headers)
    elif by_get and request.is_query and len(json.dumps(body)) < GET_CHARACTERS:
        params = {"query": request.document, "variables": json.dumps(request.variables)}
        response = http.get("/graphql", params=params, headers=headers)
    else:
        response = http.post("/graphql", content=json.dumps(body), headers={**headers, "content-type": JSON})
    return response, time.monotonic() - began


def listen(target: Target, request: Request, random: Random) -> None:
    """The first that it tells, or nothing for a while."""
    speaker = random.choice(target.speakers)
    body = {"query": request.document, "variables": request.variables}
    headers = {"accept": "text/event-stream"}
    lines: list[str] = []
    try:
        with speaker.http.stream("POST", "/graphql", json=body, headers=headers, timeout=OPEN_SECONDS) as response:
            for line in response.iter_lines():
                lines.append(line)
                if line.startswith("data: {"):
                    break
            status, told = response.status_code, response.headers["content-type"]
    except httpx.ReadTimeout:
        return
    results = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    found = [] if (status, told) == (200, "text/event-stream; charset=utf-8") else [f"stream: {status} {told}"]
    for result in results:
        found += faults_of_result(result)
    note(target, request, "\n".join(lines), found)


def note(target: Target, request: Request, answer: str, found: list[str]) -> None:
    for fault in found:
        target.faults.setdefault(fault, f"{request} is answered with {answer[:1000]}")
    try:
        told = json.loads(answer.partition("data: ")[2] or answer)
    except ValueError:
        return
    target.known.learn(told.get("data"))
    target.told.update(error["extensions"]["code"] for error in told.get("errors", ()))
    target.told["data"] += bool(told.get("data") and any(told["data"].values()))


# ---------------------------------------------------------------- what is wrong with an answer


def faults_of(response: httpx.Response, accept: str) -> Iterator[str]:
    """https://graphql.github.io/graphql-over-http/draft/#sec-Response"""
    if response.status_code not in {200, 400, 401}:
        yield f"status {response.status_code}"
    media_type = GRAPHQL_RESPONSE if accept == GRAPHQL_RESPONSE else JSON
    if response.headers["content-type"] != f"{media_type}; charset=utf-8":
        yield f"content type {response.headers['content-type']}"
    try:
        result = response.json()
    except ValueError:
        yield "no JSON"
        return
    if "data" in result and response.status_code != 200:
        yield f"data with status {response.status_code}"
    if "data" not in result and media_type == GRAPHQL_RESPONSE and response.status_code == 200:
        yield "refused with status 200"
    yield from faults_of_result(result)


def faults_of_result(result: Json) -> Iterator[str]:
    """https://spec.graphql.org/draft/#sec-Response-Format"""
    if not result or result.keys() - {"data", "errors", "extensions"}:
        yield f"keys {[*result]}"
    errors = result.get("errors")
    if errors == [] or (errors is None and result.get("data") is None):
        yield "neither data nor errors"
    for error in errors or ():
        if (code := error["extensions"]["code"]) not in CODES:
            yield f"code {code}"
        if not isinstance(error["message"], str) or not error["message"]:
            yield "no message"
        if any(place["line"] < 1 or place["column"] < 1 for place in error.get("locations", ())):
            yield "location"
        if "path" in error and not _leads_to_null(result.get("data"), error["path"]):
            yield "path"


def _leads_to_null(data: Any, path: list[str | int]) -> bool:
    """An error's path ends where null is, or below it."""
    for step in path:
        if data is None:
            return True
        data = data[step]
    return data is None
