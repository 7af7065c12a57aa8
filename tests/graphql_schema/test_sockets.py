"""What one caller may hold open and send: sockets, streams, operations over a socket, and frames."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
import uvicorn
import websockets

from app import heads
from app.auth import Tokens
from app.edge import SOCKET_MESSAGES
from app.serve import SOCKET_MESSAGE_BYTES
from app.socket_frames import BoundedSocket
from graphql_schema.sockets import MOST_OPERATIONS
from tests.app.conftest import new_address
from tests.app.in_process import until
from tests.app.test_progress import ENDED, LOGOUT, NOT_FOUND, failed, first, frames
from tests.client import WAIT_SECONDS, WATCH, Account, Client, Json, Socket, admitted
from tests.footprint import fetch
from tests.pictures import photograph
from tests.server import SECRET_KEY, Apart, Server

pytestmark = pytest.mark.xdist_group("sockets")

MOST = 12
QUERY = "{ viewer { email } }"
FOLLOW = "subscription($after: String) { mediaEvents(after: $after) { cursor kind mediaId } }"
EVENTS = {"accept": "text/event-stream"}
PARTS = {"accept": "multipart/mixed;subscriptionSpec=1.0"}
TRY_AGAIN_LATER = 1013
PING = b'{"type":"ping"}'


@pytest.fixture(scope="module")
async def guarded(server_apart: Apart) -> AsyncIterator[Server]:
    """A server on which a caller may hold little, and many callers come from one place."""
    settings = {"max_open": MOST, "rate_limits": "on", "trusted_proxies": "127.0.0.1"}
    async with server_apart("sockets", worker=False, **settings) as server:
        yield server


@pytest.fixture
async def ann(guarded: Server) -> AsyncIterator[Account]:
    async with admitted(guarded, "Ann") as ann:
        yield ann


@pytest.fixture
async def bob(guarded: Server) -> AsyncIterator[Account]:
    async with admitted(guarded, "Bob") as bob:
        yield bob


@asynccontextmanager
async def connected(server: Server, address: str) -> AsyncIterator[Socket]:
    """A socket, nothing said yet."""
    url = f"{server.url.replace('http', 'ws', 1)}/graphql"
    protocols = [websockets.Subprotocol("graphql-transport-ws")]
    headers = {"x-forwarded-for": address}
    async with websockets.connect(
        url, subprotocols=protocols, additional_headers=headers, compression=None, max_queue=None
    ) as connection:
        yield Socket(connection)


@asynccontextmanager
async def signed_in(server: Server, account: Account, address: str) -> AsyncIterator[Socket]:
    async with connected(server, address) as socket:
        await socket.send({"type": "connection_init", "payload": {"authorization": f"Bearer {account.token}"}})
        assert await socket.receive() == {"type": "connection_ack"}
        yield socket


async def closed_with(socket: Socket) -> tuple[int | None, str | None]:
    with pytest.raises(websockets.ConnectionClosed):
        await socket.receive()
    return socket.connection.close_code, socket.connection.close_reason


async def works(socket: Socket) -> None:
    await socket.send({"type": "subscribe", "id": "works", "payload": {"query": "{ __typename }"}})
    assert await frames(socket, "works") == [{"data": {"__typename": "Query"}}, {"type": "complete"}]


async def refused_at_handshake(server: Server, address: str) -> websockets.Response | None:
    try:
        async with connected(server, address):
            return None
    except websockets.InvalidStatus as refused:
        return refused.response


@asynccontextmanager
async def streaming(account: Account, accept: dict[str, str], query: str = FOLLOW) -> AsyncIterator[httpx.Response]:
    async with account.http.stream("POST", "/graphql", json={"query": query}, headers=accept) as response:
        yield response


# ---------------------------------------------------------------- how many


async def test_an_address_holds_so_many_sockets_and_others_are_not_shut_out(guarded: Server, ann: Account) -> None:
    address = new_address()
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(connected(guarded, address)) for _ in range(MOST)]
        refused = await refused_at_handshake(guarded, address)
        assert refused is not None
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert json.loads(refused.body or b"") == {
            "errors": [
                {"message": "Too many open connections. Close some first.", "extensions": {"code": "RATE_LIMITED"}}
            ]
        }
        assert await refused_at_handshake(guarded, new_address()) is None
        # What is answered at once is no connection that stays, and who holds many may still say who they are.
        ann.http.headers["x-forwarded-for"] = address
        assert await ann.ask(QUERY) == {"email": ann.email}
        for socket in held:
            await socket.send({"type": "connection_init", "payload": {}})
            assert await socket.receive() == {"type": "connection_ack"}
        await works(held[0])
    await until_free(guarded, address)


async def until_free(server: Server, address: str) -> None:
    """The close handshake is over before the server has let go."""
    async with asyncio.timeout(WAIT_SECONDS):
        while await refused_at_handshake(server, address) is not None:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)


async def test_many_users_behind_one_address_are_not_in_each_others_way(
    guarded: Server, ann: Account, bob: Account
) -> None:
    address = new_address()
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(signed_in(guarded, ann, address)) for _ in range(MOST)]
        others = await stack.enter_async_context(signed_in(guarded, bob, address))
        async with connected(guarded, address) as socket:
            await socket.send({"type": "connection_init", "payload": {"authorization": f"Bearer {ann.token}"}})
            assert await closed_with(socket) == (TRY_AGAIN_LATER, "Too many open connections. Close some first.")
        for socket in (held[0], held[-1], others):
            await works(socket)


async def test_streams_count_with_sockets(guarded: Server, ann: Account, bob: Account) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(MOST - 2):
            await stack.enter_async_context(signed_in(guarded, ann, new_address()))
        for accept in (EVENTS, PARTS):
            assert (await stack.enter_async_context(streaming(ann, accept))).status_code == 200
        for accept in (EVENTS, PARTS):
            answer = await ann.http.post("/graphql", json={"query": QUERY}, headers=accept)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
            assert answer.json()["errors"][0]["extensions"] == {"code": "RATE_LIMITED"}
        assert await ann.ask(QUERY) == {"email": ann.email}
        async with streaming(bob, EVENTS) as response:
            assert response.status_code == 200


async def test_what_ends_makes_room_however_it_ends(guarded: Server) -> None:
    """Each time as many as may be are opened, after as many have ended."""
    address = new_address()
    async with admitted(guarded, "Ida") as ida, AsyncExitStack() as stack:

        async def opened() -> Socket:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    socket = await stack.enter_async_context(connected(guarded, address))
                    await socket.send({"type": "connection_init", "payload": {"authorization": f"Bearer {ida.token}"}})
                    try:
                        assert await socket.receive() == {"type": "connection_ack"}
                    except websockets.ConnectionClosed:  # the last ones are not gone yet
                        continue
                    return socket

        for socket in [await opened() for _ in range(MOST)]:
            socket.connection.transport.abort()  # the network is gone
        for socket in [await opened() for _ in range(MOST)]:
            await socket.connection.send(b"nonsense")
            assert (await closed_with(socket))[0] == 4400
        for _ in range(MOST):
            answer = await ida.http.post("/graphql", json={"query": "{ viewer { email } }"}, headers=EVENTS)
            assert answer.status_code == 200
        async with streaming(ida, EVENTS, "subscription { nothing }") as response:
            assert "GRAPHQL_VALIDATION_FAILED" in (await response.aread()).decode()
        sockets = [await opened() for _ in range(MOST - 1)]
        async with streaming(ida, EVENTS) as response:
            assert await ida.ask(LOGOUT) == {"errors": []}
            assert "UNAUTHENTICATED" in (await response.aread()).decode()
        assert len(sockets) == MOST - 1


async def test_operations_over_a_socket_are_bounded_and_it_goes_on(guarded: Server, ann: Account) -> None:
    async with signed_in(guarded, ann, new_address()) as socket, signed_in(guarded, ann, new_address()) as other:
        followed = [await socket.start(FOLLOW) for _ in range(MOST_OPERATIONS)]
        refused = await socket.start(QUERY)
        error = {
            "message": "Too many operations over this socket. Complete some first.",
            "extensions": {"code": "RATE_LIMITED"},
        }
        assert await frames(socket, refused) == [{"type": "error", "payload": [error]}]
        # Of all sockets of a user ten times as many as of sockets.
        rest = [await other.start(FOLLOW) for _ in range(10 * MOST - MOST_OPERATIONS)]
        error = {"message": "Too many open operations. Close some first.", "extensions": {"code": "RATE_LIMITED"}}
        refused = await other.start(QUERY)
        assert await frames(other, refused) == [{"type": "error", "payload": [error]}]
        await other.send({"type": "complete", "id": rest[0]})
        await works(other)
        await socket.send({"type": "complete", "id": followed[0]})
        media = await ann.uploaded(photograph(8, 8))
        heard = [await socket.receive() for _ in followed[1:]]
        assert {message["payload"]["data"]["mediaEvents"]["mediaId"] for message in heard} == {media["id"]}
        assert sorted(message["id"] for message in heard) == sorted(followed[1:])


# ---------------------------------------------------------------- how much


@asynccontextmanager
async def raw(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A socket below any library's own bounds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /graphql HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}"
        "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def frame(opcode: int, content: bytes = b"", *, last: bool = True) -> bytes:
    """Masked by zeros, as RFC 6455 wants it of a client."""
    assert len(content) < 126
    return bytes([0x80 * last | opcode, 0x80 | len(content)]) + bytes(4) + content


async def sent_for_ever(writer: asyncio.StreamWriter, content: bytes) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            writer.write(content)
            await writer.drain()


FLOODS = {
    "pings": (b"", frame(9, b"x" * 125)),
    "pongs": (b"", frame(10, b"x" * 125)),
    "fragments": (frame(1, last=False), frame(0, last=False)),
    "messages": (b"", frame(1, PING)),
}


@pytest.mark.parametrize(("first", "repeated"), FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_frames_is_cut_off_and_holds_nobody_up(
    guarded: Server, ann: Account, first: bytes, repeated: bytes
) -> None:
    """By one who reads no answer. What the server has taken is bounded by what it reads at once."""
    process = psutil.Process(guarded.process.pid)
    async with signed_in(guarded, ann, new_address()) as honest, raw(guarded) as (_, writer):
        memory, cpu = process.memory_info().rss, sum(process.cpu_times()[:2])
        writer.write(first)
        with pytest.raises(ConnectionError):
            await sent_for_ever(writer, repeated * 1000)
        await works(honest)
        assert sum(process.cpu_times()[:2]) - cpu < 2
        assert process.memory_info().rss - memory < 16 * 1024 * 1024


async def test_what_a_socket_says_in_a_hurry_is_read_in_pace(guarded: Server, ann: Account) -> None:
    began = time.monotonic()
    async with signed_in(guarded, ann, new_address()) as socket:
        for number in range(SOCKET_MESSAGES.count + 100):
            await socket.connection.send(PING.decode())
            if number % 100 == 99:  # more than a thousand unread ones would be a flood
                for _ in range(100):
                    assert await socket.receive() == {"type": "pong"}
        assert time.monotonic() - began > 0.9 * 100 * SOCKET_MESSAGES.interval
        await works(socket)


JUNK: Json = {"junk": [[]] * 14_000}  # 56 KB of JSON, which take 900 KB as Python's objects


async def test_what_nobody_asked_for_is_not_kept(guarded: Server, ann: Account) -> None:
    process = psutil.Process(guarded.process.pid)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(signed_in(guarded, ann, new_address()))
        await works(first)
        memory = process.memory_info().rss
        address = new_address()
        for _ in range(MOST):
            socket = await stack.enter_async_context(connected(guarded, address))
            await socket.send({"type": "connection_init", "payload": JUNK})
            assert await socket.receive() == {"type": "connection_ack"}
        for number in range(30):
            payload = {"query": FOLLOW, "variables": JUNK, "extensions": JUNK}
            await first.send({"type": "subscribe", "id": str(number), "payload": payload})
        await works(first)
        assert process.memory_info().rss - memory < 30 * 1024 * 1024, "and not 65 MB"
        media = await ann.uploaded(photograph(8, 8))
        heard = [event_of(await first.receive())["mediaId"] for _ in range(30)]
        assert heard == [media["id"]] * 30


@pytest.mark.parametrize(
    "message",
    [
        {"type": "x" * 500},
        {"type": "é" * 500},
        {"type": "complete", "id": "x" * 129},
        {"type": "subscribe", "id": "x" * 129, "payload": {"query": QUERY}},
    ],
    ids=["type", "type in letters of two bytes", "id", "id of a subscription"],
)
async def test_what_is_too_long_is_closed_as_it_should_be(guarded: Server, ann: Account, message: Json) -> None:
    async with signed_in(guarded, ann, new_address()) as socket:
        await socket.send(message)
        assert (await closed_with(socket))[0] == 4400


async def test_no_message_is_longer_than_an_operation_may_be(guarded: Server, ann: Account) -> None:
    async with signed_in(guarded, ann, new_address()) as socket:
        await socket.connection.send(" " * (SOCKET_MESSAGE_BYTES - len(PING)) + PING.decode())
        assert await socket.receive() == {"type": "pong"}
        await socket.connection.send(" " * (SOCKET_MESSAGE_BYTES + 1))
        assert (await closed_with(socket))[0] == 1009


async def test_who_says_twice_who_they_are_is_sent_away(guarded: Server, ann: Account) -> None:
    async with signed_in(guarded, ann, new_address()) as socket:
        await socket.send({"type": "connection_init"})
        assert await closed_with(socket) == (4429, "Too many initialisation requests")


# ---------------------------------------------------------------- how long


async def test_a_subscription_outlives_its_token_and_is_taken_up_with_the_next(guarded: Server, ann: Account) -> None:
    """An access token opens; what is open lasts as long as its session."""
    tokens = Tokens(SECRET_KEY, timedelta(seconds=4))
    token, soon = tokens.access(UUID(ann.id), tokens.read_access(ann.token or ""), datetime.now(UTC))
    short = Client(guarded.url, token)
    cursor = await ann.ask("{ eventsCursor }")
    made = []
    async with short, short.socket() as socket:
        followed = await socket.start(FOLLOW, after=cursor)
        await asyncio.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()))  # the token's end is what is tested
        made.append((await ann.uploaded(photograph(8, 8)))["id"])
        told = await socket.receive()
        assert (told["id"], event_of(told)["mediaId"]) == (followed, made[0])
        operation = await socket.start(QUERY)
        expired = {"message": "This token has expired.", "extensions": {"code": "UNAUTHENTICATED"}}
        assert await frames(socket, operation) == [{"type": "error", "payload": [expired]}]
    made += [(await ann.uploaded(photograph(8, 8)))["id"] for _ in range(2)]
    async with ann.socket() as socket:
        again = socket.subscribe(FOLLOW, after=event_of(told)["cursor"])
        assert [(await anext(again))["mediaEvents"]["mediaId"] for _ in made[1:]] == made[1:]
        await ann.ask(LOGOUT)
        message = await socket.receive()
        assert message["payload"] == {"data": None, "errors": [ENDED]}


def event_of(message: Json) -> Json:
    event: Json = message["payload"]["data"]["mediaEvents"]
    return event


async def test_an_admin_who_is_none_any_more_is_told_nothing_more(guarded: Server, ann: Account) -> None:
    media = await ann.uploaded(photograph(8, 8))
    ended = {"message": "You may see less than before: subscribe anew.", "extensions": {"code": "FORBIDDEN"}}
    async with admitted(guarded, "Root") as root, AsyncExitStack() as stack:
        await give_role(guarded, root, "ADMIN")
        of_ann = await stack.enter_async_context(ann.socket())
        following, watching = [await stack.enter_async_context(root.socket()) for _ in range(2)]
        await until_all_is_settled(guarded)
        cursor = await root.ask("{ eventsCursor }")
        await following.start(FOLLOW, after=cursor)
        watched = await watching.start(WATCH, id=media["id"])
        assert (await first(watching))["status"] == "UPLOADED"
        await of_ann.start(FOLLOW, after=cursor)
        await rename(ann, media["id"], "While there is an admin")
        assert event_of(await following.receive())["mediaId"] == media["id"]
        await give_role(guarded, root, "USER")
        await rename(ann, media["id"], "Among us")
        for socket, operation in ((following, "1"), (watching, watched)):
            assert await frames(socket, operation) == failed(ended)
        assert [event_of(await of_ann.receive())["kind"] for _ in range(2)] == ["UPDATED"] * 2
        operation = await watching.start(WATCH, id=media["id"])
        assert await frames(watching, operation) == failed(NOT_FOUND)


async def until_all_is_settled(server: Server) -> None:
    """Else the cursor of now comes before what other tests have left to be told."""
    unsettled = "SELECT FROM event WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()) LIMIT 1"
    async with asyncio.timeout(WAIT_SECONDS):
        while await fetch(server, unsettled):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.02)


async def give_role(server: Server, account: Account, role: str) -> None:
    await fetch(server, "UPDATE user_account SET role = $2 WHERE id = $1", UUID(account.id), role)


async def rename(account: Account, media_id: str, title: str) -> None:
    update = "mutation($id: ID!, $title: String) { updateMedia(input: { id: $id, title: $title }) { errors { code } } }"
    assert await account.ask(update, id=media_id, title=title) == {"errors": []}


async def test_a_socket_outlives_the_time_for_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.2)

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    config = uvicorn.Config(
        echo, port=0, http=heads.BoundedHeads, ws=BoundedSocket, lifespan="off", log_config=None, timeout_keep_alive=1
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with websockets.connect(f"ws://127.0.0.1:{port}/") as connection:
        await asyncio.sleep(3 * heads.HEAD_SECONDS)  # which is what has to be outlived
        await connection.send("still here")
        assert await connection.recv() == "still here"
    server.should_exit = True
    await serving


# ---------------------------------------------------------------- from elsewhere


async def test_there_is_no_cookie_that_another_site_could_make_use_of(guarded: Server, ann: Account) -> None:
    """An EventSource of any page sends GET with the reader's cookies: neither these nor the address sign in."""
    cookies = {"cookie": f"authorization=Bearer {ann.token}; token={ann.token}"}
    parameters = {"query": QUERY, "token": ann.token or ""}
    async with Client(guarded.url) as page:
        answer = await page.http.get("/graphql", params=parameters, headers=EVENTS | cookies)
        assert answer.text == ':\n\nevent: next\ndata: {"data":{"viewer":null}}\n\nevent: complete\ndata: \n\n'
        assert "set-cookie" not in answer.headers
        elsewhere = EVENTS | cookies | {"origin": "https://evil.example"}
        answer = await page.http.get("/graphql", params=parameters, headers=elsewhere)
        assert (answer.status_code, answer.json()["errors"][0]["extensions"]) == (403, {"code": "FORBIDDEN"})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1:1", "https://localhost"],
)
async def test_a_page_of_elsewhere_opens_no_socket(guarded: Server, ann: Account, origin: str) -> None:
    url = f"{guarded.url.replace('http', 'ws', 1)}/graphql"
    protocols = [websockets.Subprotocol("graphql-transport-ws")]
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url, subprotocols=protocols, origin=websockets.Origin(origin)):
            pytest.fail("it was opened")
    assert refused.value.response.status_code == 403
