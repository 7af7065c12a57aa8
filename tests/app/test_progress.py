"""`mediaProcessing` over the socket: what is told, in which order, when it ends, and who may hear it."""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import websockets

from app.event_hub import Subscription
from app.main import create_app
from app.migrate import migrate
from app.settings import load
from app.wiring import Services, open_services
from tests.client import WAIT_SECONDS, WATCH, Account, Client, Json, Socket, register
from tests.footprint import fetch
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import OF_THE_RUN, Server

STAGES = "subscription($id: ID!) { mediaProcessing(mediaId: $id) { status stage percent failure { code message } } }"
REPROCESS = """
    mutation($id: ID!) { reprocessMedia(input: { ids: [$id] }) {
        results { index id media { status variants { name } } errors { code } } errors { code }
    } }
"""
TRASH = "mutation($id: ID!) { deleteMedia(input: { ids: [$id] }) { results { id errors { code } } } }"
PUBLISH = "mutation($id: ID!, $to: Boolean) { updateMedia(input: { id: $id, isPublic: $to }) { errors { code } } }"
AVATAR = """
    mutation($id: ID!, $avatar: Upload) {
        updateProfile(input: { id: $id, avatar: $avatar }) { profile { avatar { id } } errors { code } }
    }
"""
LOGOUT = "mutation { logout { errors { code } } }"

DAMAGED = {"code": "CORRUPT", "message": "The file is damaged or incomplete."}
NOT_FOUND = {"message": "There is no such media.", "extensions": {"code": "NOT_FOUND"}}
ENDED = {"message": "This session has ended.", "extensions": {"code": "UNAUTHENTICATED"}}


def update(status: str, stage: str, percent: int, failure: Json | None = None) -> Json:
    return {"status": status, "stage": stage, "percent": percent, "failure": failure}


QUEUED = update("UPLOADED", "QUEUED", 0)
READY = update("READY", "DONE", 100)
WELL = [
    QUEUED,
    update("PROCESSING", "FETCHING", 5),
    update("PROCESSING", "ANALYZING", 10),
    update("PROCESSING", "RENDERING", 20),
    update("PROCESSING", "STORING", 85),
    READY,
]


@asynccontextmanager
async def worker_paused(server: Server) -> AsyncIterator[None]:
    """Nothing is processed within the block; shorter than the worker's heartbeat."""
    assert server.worker is not None
    server.worker.send_signal(signal.SIGSTOP)
    # Not in the middle of a transaction: the events of all others would wait for its end.
    while await fetch(
        server, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
    ):
        server.worker.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.01)
        server.worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.worker.send_signal(signal.SIGCONT)


async def frames(socket: Socket, operation: str) -> list[Json]:
    """All that is sent, which is all of this operation, until it is over; by its payloads, and the last by its type."""
    told: list[Json] = []
    while True:
        message = await socket.receive()
        assert message.pop("id") == operation
        if message["type"] != "next":
            return [*told, message]
        told.append(message["payload"])


def progress(told: list[Json]) -> list[Json]:
    """The updates of an operation that ended by itself and without an error."""
    assert told[-1] == {"type": "complete"}
    return [payload["data"]["mediaProcessing"] for payload in told[:-1] if set(payload) == {"data"}]


def failed(error: Json) -> list[Json]:
    return [{"data": None, "errors": [error]}, {"type": "complete"}]


async def first(socket: Socket) -> Json:
    """The first update of an operation just begun."""
    told: Json = (await socket.receive())["payload"]["data"]["mediaProcessing"]
    return told


# ---------------------------------------------------------------- what is told


async def test_every_stage_in_order_and_the_end(server: Server, ada: Account) -> None:
    async with ada.socket() as socket:
        async with worker_paused(server):
            media = await ada.uploaded(photograph())
            operation = await socket.start(STAGES, id=media["id"])
            assert await first(socket) == QUEUED
        assert progress(await frames(socket, operation)) == WELL[1:]
        # And once it is over, that alone.
        again = await socket.start(WATCH, id=media["id"])
        assert progress(await frames(socket, again)) == [READY | {"media": {"id": media["id"], "status": "READY"}}]


async def test_a_failure_is_told_with_its_reason(server: Server, ada: Account) -> None:
    photo = photograph()
    async with ada.socket() as socket:
        async with worker_paused(server):
            media = await ada.uploaded(photo[: len(photo) // 2])
            operation = await socket.start(STAGES, id=media["id"])
            assert await first(socket) == QUEUED
        told = progress(await frames(socket, operation))
        assert told == [*WELL[1:4], update("FAILED", "DONE", 100, DAMAGED)]
        again = await socket.start(WATCH, id=media["id"])
        last = update("FAILED", "DONE", 100, DAMAGED) | {"media": {"id": media["id"], "status": "FAILED"}}
        assert progress(await frames(socket, again)) == [last]


async def test_the_row_is_never_behind_what_is_told(ada: Account) -> None:
    order = ["UPLOADED", "PROCESSING", "READY"]
    for _ in range(5):
        media = await ada.uploaded(photograph(64, 48))
        told = await ada.watch(media["id"])
        assert all(order.index(each["media"]["status"]) >= order.index(each["status"]) for each in told)
        assert told[-1] == READY | {"media": {"id": media["id"], "status": "READY"}}


async def test_reprocessing_is_told_from_the_start(server: Server, ada: Account) -> None:
    media = await ada.uploaded(photograph())
    ready = await ada.settled(media["id"])
    names = [{"name": variant["name"]} for variant in ready["variants"]]
    async with ada.socket() as socket:
        async with worker_paused(server):
            assert await ada.ask(REPROCESS, id=media["id"]) == {
                "results": [
                    {"index": 0, "id": media["id"], "media": {"status": "UPLOADED", "variants": names}, "errors": []}
                ],
                "errors": [],
            }
            operation = await socket.start(STAGES, id=media["id"])
            assert await first(socket) == QUEUED
        assert progress(await frames(socket, operation)) == WELL[1:]
    again = await ada.settled(media["id"])
    assert [variant["name"] for variant in again["variants"]] == [variant["name"] for variant in ready["variants"]]


async def test_what_lies_in_the_trash_is_processed_and_watched_by_its_owner(server: Server, ada: Account) -> None:
    async with ada.socket() as socket:
        async with worker_paused(server):
            media = await ada.uploaded(photograph())
            operation = await socket.start(STAGES, id=media["id"])
            assert await first(socket) == QUEUED
            assert (await ada.ask(TRASH, id=media["id"]))["results"] == [{"id": media["id"], "errors": []}]
        assert progress(await frames(socket, operation)) == WELL[1:]


# ---------------------------------------------------------------- who may hear it


@pytest.mark.parametrize("media_id", [str(uuid.UUID(int=7)), "", "nonsense"])
async def test_what_does_not_exist_is_not_found(ada: Account, media_id: str) -> None:
    async with ada.socket() as socket:
        assert await frames(socket, await socket.start(WATCH, id=media_id)) == failed(NOT_FOUND)


async def test_what_is_anothers_is_not_found(ada: Account, eve: Account, client: Client) -> None:
    media = await ada.uploaded(photograph())
    for stranger in (eve, client):
        async with stranger.socket() as socket:
            assert await frames(socket, await socket.start(WATCH, id=media["id"])) == failed(NOT_FOUND)


async def test_what_is_public_anybody_may_watch_until_it_is_not(server: Server, ada: Account, client: Client) -> None:
    async with client.socket() as socket, worker_paused(server):
        media = await ada.uploaded(photograph(), isPublic=True)
        operation = await socket.start(STAGES, id=media["id"])
        assert await first(socket) == QUEUED
        assert await ada.ask(PUBLISH, id=media["id"], to=False) == {"errors": []}
        assert await frames(socket, operation) == failed(NOT_FOUND)
    assert (await ada.watch(media["id"]))[-1]["status"] == "READY"


async def test_what_is_replaced_while_it_is_watched_is_not_found(server: Server, ada: Account) -> None:
    profile = await ada.profile((await ada.person())["id"])
    async with ada.socket() as socket:
        async with worker_paused(server):
            old = await ada.send_files(
                AVATAR, {"id": profile["id"], "avatar": None}, {"avatar": ("a.jpg", photograph())}
            )
            old_id = old["profile"]["avatar"]["id"]
            operation = await socket.start(STAGES, id=old_id)
            assert await first(socket) == QUEUED
            new = await ada.send_files(
                AVATAR, {"id": profile["id"], "avatar": None}, {"avatar": ("b.jpg", photograph())}
            )
            assert await frames(socket, operation) == failed(NOT_FOUND)
        operation = await socket.start(STAGES, id=new["profile"]["avatar"]["id"])
        assert progress(await frames(socket, operation))[-1] == READY
    assert await fetch(server, "SELECT id FROM media WHERE id = $1", uuid.UUID(old_id)) == []


# ---------------------------------------------------------------- the socket


@asynccontextmanager
async def unopened(server: Server) -> AsyncIterator[Socket]:
    address = f"{server.url.replace('http', 'ws', 1)}/graphql"
    subprotocol = websockets.Subprotocol("graphql-transport-ws")
    async with websockets.connect(address, subprotocols=[subprotocol]) as connection:
        yield Socket(connection)


async def closed_with(socket: Socket) -> int | None:
    with pytest.raises(websockets.ConnectionClosed):
        await socket.receive()
    return socket.connection.close_code


@pytest.mark.parametrize("key", ["authorization", "Authorization", "AUTHORIZATION"])
async def test_the_token_comes_under_a_key_in_any_case(ada: Account, key: str) -> None:
    async with ada.socket({key: f"Bearer {ada.token}"}) as socket:
        operation = await socket.start("{ viewer { email } }")
        assert await frames(socket, operation) == [{"data": {"viewer": {"email": ada.email}}}, {"type": "complete"}]


@pytest.mark.parametrize("authorization", ["Bearer nonsense", "Bearer", "nonsense", "Basic YTpi"])
async def test_a_bad_token_closes_the_socket(server: Server, authorization: str) -> None:
    async with unopened(server) as socket:
        await socket.send({"type": "connection_init", "payload": {"authorization": authorization}})
        assert await closed_with(socket) == 4403


async def test_the_token_of_an_ended_session_closes_the_socket(server: Server, ada: Account) -> None:
    assert await ada.ask(LOGOUT) == {"errors": []}
    async with unopened(server) as socket:
        await socket.send({"type": "connection_init", "payload": {"authorization": f"Bearer {ada.token}"}})
        assert await closed_with(socket) == 4403


async def test_a_refresh_token_opens_no_socket(server: Server, ada: Account) -> None:
    async with unopened(server) as socket:
        await socket.send({"type": "connection_init", "payload": {"authorization": f"Bearer {ada.refresh_token}"}})
        assert await closed_with(socket) == 4403


async def test_nothing_is_answered_before_the_init(server: Server, ada: Account) -> None:
    media = await ada.uploaded(photograph(64, 48))
    async with unopened(server) as socket:
        await socket.start(WATCH, id=media["id"])
        assert await closed_with(socket) == 4401


async def test_one_socket_serves_many_operations(server: Server, ada: Account) -> None:
    async with ada.socket() as socket:
        told: dict[str, list[Any]] = {}
        over: set[str] = set()

        async def hear() -> None:
            message = await socket.receive()
            assert message["id"] not in over
            if message["type"] == "complete":
                over.add(message["id"])
            else:
                told.setdefault(message["id"], []).append(message["payload"]["data"])

        async with worker_paused(server):
            watched = [(await ada.uploaded(photograph(64, 48)))["id"] for _ in range(3)]
            operations = [await socket.start(STAGES, id=media_id) for media_id in (*watched, watched[0])]
            query = await socket.start("{ viewer { email } }")
            mutation = await socket.start(
                'mutation { createPerson(input: { name: "Grace" }) { person { name } errors { code } } }'
            )
            while len(told) < 6:
                await hear()
        while len(over) < 6:
            await hear()
    assert told == {operation: [{"mediaProcessing": each} for each in WELL] for operation in operations} | {
        query: [{"viewer": {"email": ada.email}}],
        mutation: [{"createPerson": {"person": {"name": "Grace"}, "errors": []}}],
    }


async def test_an_operation_that_is_stopped_is_told_no_more(server: Server, ada: Account) -> None:
    async with ada.socket() as socket:
        async with worker_paused(server):
            media = await ada.uploaded(photograph(64, 48))
            stopped = await socket.start(STAGES, id=media["id"])
            assert await first(socket) == QUEUED
            await socket.send({"type": "complete", "id": stopped})
            operation = await socket.start(STAGES, id=media["id"])
            assert await first(socket) == QUEUED
        assert progress(await frames(socket, operation)) == WELL[1:]


async def test_signing_out_elsewhere_ends_what_is_open(server: Server, ada: Account) -> None:
    async with ada.socket() as socket:
        async with worker_paused(server):
            media = await ada.uploaded(photograph())
            operation = await socket.start(STAGES, id=media["id"])
            assert await first(socket) == QUEUED
            assert await ada.ask(LOGOUT) == {"errors": []}
            assert await frames(socket, operation) == failed(ENDED)
        for query in ("{ viewer { email } }", LOGOUT, STAGES.replace("$id: ID!", "$id: ID = 1")):
            operation = await socket.start(query)
            assert await frames(socket, operation) == [{"type": "error", "payload": [ENDED]}]


async def test_a_stolen_refresh_token_ends_what_is_open(server: Server, ada: Account, client: Client) -> None:
    refresh = "mutation($token: String!) { refreshSession(input: { refreshToken: $token }) { errors { code } } }"
    async with ada.socket() as socket, worker_paused(server):
        media = await ada.uploaded(photograph())
        operation = await socket.start(STAGES, id=media["id"])
        assert await first(socket) == QUEUED
        assert await client.ask(refresh, token=ada.refresh_token) == {"errors": []}
        assert await client.ask(refresh, token=ada.refresh_token) == {"errors": [{"code": "UNAUTHENTICATED"}]}
        assert await frames(socket, operation) == failed(ENDED)


# ---------------------------------------------------------------- in this process, to look inside


@asynccontextmanager
async def served_here(dsn: str, folder: Path) -> AsyncIterator[tuple[Services, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = load(OF_THE_RUN, data_dir=folder, database_url=dsn, secret_key=secrets.token_hex(32), public_url=url)
        async with open_services(settings, dsn=dsn) as services:
            await migrate()
            await services.hub.start()
            config = uvicorn.Config(
                create_app(services),
                log_config=None,
                lifespan="on",
                ws="websockets-sansio",
                timeout_graceful_shutdown=2,
            )
            server = uvicorn.Server(config)
            running = asyncio.create_task(server._serve([listening]))
            try:
                yield services, url
            finally:
                server.should_exit = True
                await running
                await services.hub.stop()


async def until_nobody_listens(services: Services) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while services.hub._subscriptions:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)


async def test_what_a_subscription_held_goes_with_it(server_dsn: str, worker_name: str, tmp_path: Path) -> None:
    """However it ends: by the client's word, by its silence, by a failure, or with the session."""
    name = f"progress_{worker_name}"
    dsn = await create_database(server_dsn, name)
    async with served_here(dsn, tmp_path) as (services, url), register(url, "Ada") as ada:
        media = await ada.uploaded(photograph(64, 48))  # no worker is here: it stays in the queue
        assert services.hub._subscriptions == {}

        async with ada.socket() as socket:
            for _ in range(20):
                await socket.start(WATCH, id=media["id"])
                await first(socket)
            (of_media,) = (value for key, value in services.hub._subscriptions.items() if str(key) == media["id"])
            assert len(of_media) == 20
            of_media = set()
            for operation in range(1, 20):
                await socket.send({"type": "complete", "id": str(operation)})
            connection: Any = socket.connection
            connection.transport.abort()  # no closing handshake: the network is gone
        await until_nobody_listens(services)

        async with ada.socket() as socket:
            await socket.start(WATCH, id=str(uuid.uuid4()))
            assert json.loads(await socket.connection.recv())["payload"]["errors"] == [NOT_FOUND]
            await until_nobody_listens(services)
            await socket.start(WATCH, id=media["id"])
            await socket.receive()
            assert await ada.ask(LOGOUT) == {"errors": []}
            await until_nobody_listens(services)
        gc.collect()
        assert [thing for thing in gc.get_objects() if isinstance(thing, Subscription)] == []
    await drop_database(server_dsn, name)
