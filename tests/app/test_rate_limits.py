"""How often somebody may do something, and what they are told who do it more often."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from app import rate_limits, wiring
from app.calls import network_of
from app.errors import RateLimited
from app.rate_limits import REDIS_AWAY_SECONDS, REDIS_SECONDS, Buckets, Limit, MemoryBuckets, RateLimits
from app.settings import Rate
from app.wiring import open_buckets
from tests.app.conftest import FILES, ORIGIN, REQUESTS, SIGN_INS, SLOWLY, UPLOADS, Guarded, new_address
from tests.app.identity_provider import token
from tests.client import ERRORS, PASSWORD, Account, Client, admitted
from tests.server import Server, free_port, spawned, wait_for

pytestmark = pytest.mark.xdist_group("guarded")

QUERY = "{ viewer { email } }"
# A hundred media with twenty fields each: 2,650, as two requests.
DEAR = f"{{ library(first: 100) {{ nodes {{ {' '.join(f'a{number}: id' for number in range(20))} }} }} }}"
LOGIN = f"mutation($input: LoginInput!) {{ login(input: $input) {{ accessToken {ERRORS} }} }}"
REGISTER = f"mutation($input: RegisterInput!) {{ register(input: $input) {{ accessToken {ERRORS} }} }}"
JPEG = b"\xff\xd8\xff\xe0" + bytes(64)


def at(client: Client, address: str) -> None:
    client.http.headers["x-forwarded-for"] = address


@pytest.fixture
async def nobody(guarded: Guarded) -> AsyncIterator[Client]:
    async with Client(guarded.url) as nobody:
        at(nobody, new_address())
        yield nobody


@pytest.fixture
async def ann(guarded: Guarded) -> AsyncIterator[Account]:
    async with admitted(guarded, "Ann") as ann:
        at(ann, new_address())
        yield ann


async def ask(client: Client, query: str = QUERY) -> httpx.Response:
    return await client.http.post("/graphql", json={"query": query})


async def sign_in(client: Client, email: str, password: str) -> tuple[bool, list[str]]:
    """Whether it gave a token, and the codes of its errors."""
    payload = await client.ask(LOGIN, input={"email": email, "password": password})
    return payload["accessToken"] is not None, [error["code"] for error in payload["errors"]]


# ---------------------------------------------------------------- requests


async def test_an_address_is_told_to_wait(nobody: Client, guarded: Guarded) -> None:
    answers = [await ask(nobody) for _ in range(REQUESTS + 1)]
    assert [answer.status_code for answer in answers] == [200] * REQUESTS + [429]
    refused = answers[-1]
    seconds = int(refused.headers["retry-after"])
    assert SLOWLY / REQUESTS - 60 < seconds <= SLOWLY / REQUESTS
    assert refused.json() == {
        "errors": [
            {"message": f"Too often. Try again in {seconds} s.", "extensions": {"code": "RATE_LIMITED"}},
        ]
    }
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert guarded.told(refused.headers["x-request-id"])["status"] == 429
    # Others go on, and so does who watches over the server.
    at(nobody, new_address())
    assert (await ask(nobody)).status_code == 200


async def test_each_operation_of_a_batch_counts(nobody: Client) -> None:
    async def send(operations: int) -> list[str | None]:
        answer = await nobody.http.post("/graphql", json=[{"query": QUERY}] * operations)
        assert answer.status_code == 200
        return [error_code(item) for item in answer.json()]

    for _ in range(3):
        assert await send((REQUESTS - 6) // 3) == [None] * ((REQUESTS - 6) // 3)
    assert (await ask(nobody)).status_code == 200
    assert sorted(await send(7), key=str) == [None] * 5 + ["RATE_LIMITED"] * 2
    assert (await ask(nobody)).status_code == 429


async def test_what_costs_much_counts_as_many_and_is_told_to_wait(nobody: Client) -> None:
    for _ in range(REQUESTS // 2):
        assert (await ask(nobody, DEAR)).status_code == 200
    refused = await ask(nobody, DEAR)
    assert (refused.status_code, error_code(refused.json())) == (429, "RATE_LIMITED")
    assert 0 < int(refused.headers["retry-after"]) <= 2 * SLOWLY / REQUESTS


def error_code(result: dict[str, Any]) -> str | None:
    if "errors" not in result:
        return None
    [error] = result["errors"]
    code: str = error["extensions"]["code"]
    return code


async def test_who_watches_over_the_server_is_not_counted(nobody: Client) -> None:
    for _ in range(REQUESTS + FILES):
        assert (await nobody.http.get("/health/live")).status_code == 200
    assert (await nobody.http.get("/health/ready")).status_code == 200
    assert (await ask(nobody)).status_code == 200


async def test_a_user_is_counted_wherever_they_are_and_their_address_is_not(ann: Account, nobody: Client) -> None:
    address = nobody.http.headers["x-forwarded-for"]
    at(ann, address)
    for number in range(REQUESTS):
        if number == REQUESTS // 2:
            at(ann, new_address())
        assert (await ask(ann)).status_code == 200
    assert (await ask(ann)).status_code == 429
    at(ann, address)
    assert (await ask(ann)).status_code == 429
    assert (await ask(nobody)).status_code == 200


async def test_a_token_that_is_of_no_use_is_counted_by_its_address(nobody: Client) -> None:
    for number in range(REQUESTS):
        nobody.http.headers["authorization"] = f"Bearer made-up-{number}"
        assert (await ask(nobody)).status_code == 401
    del nobody.http.headers["authorization"]
    assert (await ask(nobody)).status_code == 429


async def test_a_whole_network_of_ipv6_is_one_address(nobody: Client) -> None:
    for number in range(REQUESTS):
        at(nobody, f"2001:db8:1:2::{number:x}")
        assert (await ask(nobody)).status_code == 200
    at(nobody, "2001:db8:1:2:ffff::1")
    assert (await ask(nobody)).status_code == 429
    at(nobody, "2001:db8:1:3::1")
    assert (await ask(nobody)).status_code == 200


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::ff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("", ""),
    ],
)
def test_what_an_address_is_counted_by(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_only_a_trusted_proxy_is_believed(client: Client, server: Server, guarded: Guarded) -> None:
    """The other server trusts nobody."""
    for url, believed in ((server.url, "127.0.0.1"), (guarded.url, "198.51.100.7")):
        given = secrets.token_hex(8)
        headers = {"x-forwarded-for": "203.0.113.9, 198.51.100.7", "x-request-id": given}
        answer = await client.http.get(f"{url}/graphql", params={"query": QUERY}, headers=headers)
        assert answer.status_code == 200
        log = Guarded(server, guarded.issuer, []) if url == server.url else guarded
        assert log.told(given)["client"] == believed


async def test_a_page_of_an_allowed_origin_reads_that_it_has_to_wait(nobody: Client) -> None:
    for _ in range(REQUESTS):
        await ask(nobody)
    nobody.http.headers["origin"] = ORIGIN
    refused = await ask(nobody)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (429, ORIGIN)
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
    preflight = await nobody.http.options("/graphql", headers={"access-control-request-method": "POST"})
    assert preflight.status_code == 204
    nobody.http.headers["origin"] = "https://evil.example.org"
    refused = await ask(nobody)
    assert refused.status_code == 429
    assert "access-control-allow-origin" not in refused.headers


async def test_files_and_pages_are_counted_apart(nobody: Client) -> None:
    for _ in range(FILES):
        assert (await nobody.http.get("/files/a/b.jpg")).status_code == 403
    refused = await nobody.http.get("/files/a/b.jpg")
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (429, "*")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json() == {"error": f"Too often. Try again in {refused.headers['retry-after']} s."}
    assert (await nobody.http.get("/graphiql/")).status_code == 429
    assert (await ask(nobody)).status_code == 200


# ---------------------------------------------------------------- sockets


async def test_operations_over_a_socket_are_counted_with_requests(ann: Account) -> None:
    for _ in range(REQUESTS // 2):
        assert (await ask(ann)).status_code == 200
    async with ann.socket() as socket:
        answers = []
        for _ in range(REQUESTS // 2 + 1):
            await socket.start(QUERY)
            answers.append(await socket.receive())
            if answers[-1]["type"] == "next":
                assert (await socket.receive())["type"] == "complete"
    assert [answer["type"] for answer in answers[:-1]] == ["next"] * (REQUESTS // 2)
    [error] = errors_of(answers[-1])
    assert error["extensions"]["code"] == "RATE_LIMITED"
    assert (await ask(ann)).status_code == 429


async def test_somebody_of_an_outside_issuer_is_one_whichever_way_they_come(guarded: Guarded) -> None:
    async with Client(guarded.url, token(guarded.keys[0], f"subject-{secrets.token_hex(8)}")) as eve:
        at(eve, new_address())
        assert (await ask(eve)).status_code == 200  # by the issuer's name for them: of the account nobody knows yet
        for _ in range(REQUESTS // 4):
            assert (await ask(eve, DEAR)).status_code == 200
        left = REQUESTS - 2 * (REQUESTS // 4)
        async with eve.socket() as socket:
            for query in [DEAR] * (left // 2) + [QUERY] * (left % 2):
                await socket.start(query)
                assert [(await socket.receive())["type"] for _ in range(2)] == ["next", "complete"]
            await socket.start(QUERY)
            [error] = errors_of(await socket.receive())
        assert error["extensions"]["code"] == "RATE_LIMITED"
        assert (await ask(eve)).status_code == 429


def errors_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    payload = message["payload"]
    errors: list[dict[str, Any]] = payload if message["type"] == "error" else payload["errors"]
    return errors


async def test_a_socket_too_many_is_refused_before_its_handshake(guarded: Guarded) -> None:
    address = new_address()

    async def open_one() -> None:
        url = f"{guarded.url.replace('http', 'ws', 1)}/graphql"
        protocols = [websockets.Subprotocol("graphql-transport-ws")]
        headers = {"x-forwarded-for": address}
        async with websockets.connect(url, subprotocols=protocols, additional_headers=headers):
            pass

    for _ in range(REQUESTS):
        await open_one()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await open_one()
    answer = refused.value.response
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-content-type-options"] == "nosniff"


# ---------------------------------------------------------------- signing in


async def test_failed_sign_ins_at_an_address_are_few(nobody: Client, ann: Account) -> None:
    for _ in range(SIGN_INS):
        assert await sign_in(nobody, ann.email, "wrong password") == (False, ["UNAUTHENTICATED"])
    # Not even the right password: or it could be found by going on.
    assert await sign_in(nobody, ann.email, PASSWORD) == (False, ["RATE_LIMITED"])
    # Nobody else is shut out by it, nor is she elsewhere.
    at(nobody, new_address())
    assert await sign_in(nobody, ann.email, PASSWORD) == (True, [])


async def test_those_that_succeed_are_not_counted(nobody: Client, ann: Account) -> None:
    for _ in range(2 * SIGN_INS):
        assert await sign_in(nobody, ann.email, PASSWORD) == (True, [])


@pytest.mark.parametrize("exists", [True, False], ids=["account", "nobody's"])
async def test_an_account_is_not_guessed_at_from_many_addresses(nobody: Client, ann: Account, exists: bool) -> None:
    email = ann.email if exists else f"not-{ann.email}"
    for number in range(5 * SIGN_INS):
        at(nobody, new_address())
        written = email.upper() if number % 2 else email
        assert await sign_in(nobody, written, "wrong password") == (False, ["UNAUTHENTICATED"])
    at(nobody, new_address())
    assert await sign_in(nobody, email, PASSWORD) == (False, ["RATE_LIMITED"])


async def test_tries_at_once_are_counted_too(nobody: Client, ann: Account) -> None:
    tries = await asyncio.gather(*(sign_in(nobody, ann.email, "wrong password") for _ in range(SIGN_INS + 3)))
    assert sorted(codes for _, codes in tries) == [["RATE_LIMITED"]] * 3 + [["UNAUTHENTICATED"]] * SIGN_INS


async def test_accounts_are_made_few_at_an_address(nobody: Client) -> None:
    async def register(number: int) -> list[str]:
        name = nobody.http.headers["x-forwarded-for"]
        given = {"email": f"{name}-{number}@example.org", "password": "short", "displayName": "Somebody"}
        payload = await nobody.ask(REGISTER, input=given)
        return [error["code"] for error in payload["errors"]]

    codes = [await register(number) for number in range(SIGN_INS + 1)]
    assert codes == [["BAD_INPUT"]] * SIGN_INS + [["RATE_LIMITED"]]


# ---------------------------------------------------------------- uploads


async def test_a_user_may_upload_so_many_files(ann: Account) -> None:
    async def begin(number: int) -> list[str]:
        payload = await ann.begin(1000 + number)
        return [error["code"] for error in payload["errors"]]

    codes = [await begin(number) for number in range(UPLOADS - 1)]
    batch = await ann.upload_batch([("a.jpg", JPEG), ("b.jpg", JPEG + b"b")])
    codes += [[error["code"] for error in result["errors"]] for result in batch["results"]]
    assert codes == [[]] * UPLOADS + [["RATE_LIMITED"]]
    # Then no file is even read.
    variables = {"input": {"file": None}}
    refused = await ann.post_files("mutation { __typename }", variables, {"input.file": ("c.jpg", JPEG)})
    assert (refused.status_code, refused.json()["errors"][0]["extensions"]["code"]) == (429, "RATE_LIMITED")
    assert (await ask(ann)).status_code == 200


# ---------------------------------------------------------------- the buckets


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


THREE = Rate(3, 30)


async def spend(buckets: Buckets, key: bytes = b"k", rate: Rate = THREE, cost: int = 1, keep: bool = True) -> int:
    return round(await buckets.spend(Limit.REQUEST, key, rate, cost, keep=keep))


async def check_a_bucket(buckets: Buckets) -> None:
    """What holds of both: three in thirty seconds."""
    assert [await spend(buckets) for _ in range(5)] == [0, 0, 0, 10, 10]
    assert await spend(buckets, keep=False) == 10
    assert await spend(buckets, b"other", keep=False) == 0
    assert [await spend(buckets, b"other") for _ in range(4)] == [0, 0, 0, 10]
    assert await spend(buckets, cost=-1) == 0
    assert [await spend(buckets), await spend(buckets)] == [0, 10]
    for _ in range(9):  # more than was ever taken
        assert await spend(buckets, cost=-1) == 0
    assert [await spend(buckets) for _ in range(4)] == [0, 0, 0, 10]


async def test_a_bucket_in_memory() -> None:
    clock = Clock()
    buckets = MemoryBuckets(clock)
    await check_a_bucket(buckets)
    clock.now += 10
    assert [await spend(buckets), await spend(buckets)] == [0, 10]
    clock.now += 3600
    assert [await spend(buckets) for _ in range(4)] == [0, 0, 0, 10]


async def test_memory_is_bounded() -> None:
    clock = Clock()
    buckets = MemoryBuckets(clock, most=100)
    for number in range(1000):
        assert await spend(buckets, number.to_bytes(2, "big")) == 0
    held = buckets._due[Limit.REQUEST]
    assert len(held) == 100
    # What is full again goes first, two for each that comes.
    clock.now += 3600
    for number in range(60):
        await spend(buckets, number.to_bytes(3, "big"))
    assert len(held) == 60


async def test_what_has_no_rate_has_no_limit() -> None:
    limits = RateLimits({Limit.UPLOAD: Rate(1, 60)}, MemoryBuckets(), b"secret")
    for _ in range(100):
        await limits.spend(Limit.REQUEST, "somebody")
    await limits.spend(Limit.UPLOAD, "somebody")
    with pytest.raises(RateLimited) as refused:
        await limits.spend(Limit.UPLOAD, "somebody")
    assert refused.value.retry_after == 60


# ---------------------------------------------------------------- over Redis


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server")
    log = folder / f"redis-{secrets.token_hex(4)}.log"
    with spawned([program, "--port", str(port), "--save", "", "--bind", "127.0.0.1"], {}, log, cwd=folder):
        wait_for(lambda: b"Ready to accept connections" in log.read_bytes())
        yield f"redis://127.0.0.1:{port}"


async def test_a_bucket_in_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "REDIS_SECONDS", 10.0)  # as below
    with redis_server(tmp_path, free_port()) as url:
        async with open_buckets(url) as buckets:
            await check_a_bucket(buckets)
            # It is gone by itself when it is full again; until then nobody's name can be read from it.
            limits = RateLimits({Limit.ACCOUNT: Rate(1, 1)}, buckets, b"secret")
            await limits.spend(Limit.ACCOUNT, "ada@example.org")
            redis = buckets._script.registered_client  # type: ignore[attr-defined]
            [key] = [key async for key in redis.scan_iter("*:account:*")]
            assert re.fullmatch(rb"heirloom:rate:account:[0-9a-f]{32}", key)
            assert 0 < await redis.pttl(key) <= 1000


async def test_processes_share_what_is_in_redis_and_count_for_themselves_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that runs the whole suite is busy: one that answers late would be taken for one that is away.
    monkeypatch.setattr(rate_limits, "REDIS_SECONDS", 10.0)
    port = free_port()
    rates = {Limit.REQUEST: Rate(4, 3600)}

    async def spent(limits: RateLimits, times: int) -> int:
        """How many of them there was room for."""
        allowed = 0
        for _ in range(times):
            try:
                await limits.spend(Limit.REQUEST, "ada")
                allowed += 1
            except RateLimited:
                pass
        return allowed

    async with AsyncExitStack() as stack:
        with redis_server(tmp_path, port) as url:
            one, other = [
                RateLimits(rates, await stack.enter_async_context(open_buckets(url)), b"secret") for _ in range(2)
            ]
            assert (await spent(one, 3), await spent(other, 3)) == (3, 1)
        # Away: nobody waits for it, and nobody is let through without limit.
        began = time.monotonic()
        assert (await spent(one, 6), await spent(other, 6)) == (4, 4)
        assert time.monotonic() - began < REDIS_AWAY_SECONDS
        with redis_server(tmp_path, port):
            redis_again = await stack.enter_async_context(open_buckets(url))
            await redis_again.spend(Limit.REQUEST, b"key", Rate(1, 60), 1, keep=True)
            limits = RateLimits(rates, redis_again, b"secret")
            assert await spent(limits, 3) == 3
            # They find it again by themselves, with what the third has spent there.
            async with asyncio.timeout(10 * REDIS_AWAY_SECONDS):
                while not await spent(one, 1):  # noqa: ASYNC110 - a Redis tells nobody that it is back
                    await asyncio.sleep(0.1)
            assert (await spent(one, 1), await spent(limits, 1)) == (0, 0)


async def test_an_answer_that_comes_too_late_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "REDIS_SECONDS", 10.0)  # for a connection
    with redis_server(tmp_path, free_port()) as url:
        async with open_buckets(url) as buckets:
            # Many at once, on fewer connections.
            with monkeypatch.context() as patient:
                patient.setattr(rate_limits, "REDIS_SECONDS", 10.0)
                waits = await asyncio.gather(*(spend(buckets, b"many") for _ in range(100)))
            assert (waits.count(0), waits.count(10)) == (3, 97)
            redis = buckets._script.registered_client  # type: ignore[attr-defined]
            await redis.client_pause(round(REDIS_SECONDS * 3000))
            assert [await spend(buckets, b"many") for _ in range(4)] == [0, 0, 0, 10]  # of the process
            await redis.ping()
            buckets._away_until = 0.0  # type: ignore[attr-defined]
            assert [await spend(buckets, number.to_bytes(2, "big")) for number in range(40)] == [0] * 40
            assert 0 < await spend(buckets, b"many") <= 10  # seconds, some of which may have passed


async def test_a_redis_that_says_nothing_holds_nobody_up(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # and never answers
        async with open_buckets(f"redis://127.0.0.1:{silent.getsockname()[1]}") as buckets:
            began = time.monotonic()
            assert [await spend(buckets) for _ in range(4)] == [0, 0, 0, 10]
            assert time.monotonic() - began < 10 * REDIS_SECONDS
