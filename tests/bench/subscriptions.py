"""A thousand subscriptions on one process: their memory, how soon they hear while uploads go on, and their end."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

import websockets

from app.embedded import EmbeddedPostgres
from app.postmaster import address
from tests.bench.memory import Process
from tests.bench.report import Figure, milliseconds
from tests.client import Account, admitted
from tests.pictures import photograph
from tests.server import Server, running

ACCOUNTS = 50
SOCKETS = 20  # of each
TOTAL = ACCOUNTS * SOCKETS
AT_ONCE = 50  # that are being opened
UPLOAD_SECONDS = 10.0
UPLOADERS = 2
TARGET_KB = 100.0
TARGET_MS = 50.0
GRACE_SECONDS = 10.0
FEW = 20  # descriptors that come and go by themselves: the pool's, and kept-alive connections
FOLLOW = "subscription { mediaEvents { cursor kind occurredAt media { id status } } }"


async def measure(folder: Path) -> list[Figure]:
    with EmbeddedPostgres(folder / "database"), running(folder, address(folder / "database")) as server:
        return await _measure(server)


async def _measure(server: Server) -> list[Figure]:
    process = Process(server.process.pid)
    async with AsyncExitStack() as stack:
        accounts = [await stack.enter_async_context(admitted(server, "Ada")) for _ in range(ACCOUNTS)]
        delays: list[float] = []
        async with _subscribed(accounts[:2], delays):  # what the first ones load and allocate stays
            await accounts[0].settled((await accounts[0].uploaded(photograph()))["id"])
        descriptors, before = _descriptors(server), process.resident()
        async with _subscribed(accounts, delays):
            each = (process.resident() - before) * 1024 / TOTAL
            delays.clear()
            heard = await _uploads(accounts, delays)
        dropped = await _until_few(server, descriptors)
        again_before = process.resident()
        async with _subscribed(accounts, delays):
            again = (process.resident() - again_before) * 1024 / TOTAL
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.process.wait, 3 * GRACE_SECONDS)
            stopped = time.monotonic() - began
    return [
        Figure(f"memory of each of {TOTAL}", [each], "KB", TARGET_KB),
        milliseconds("event to client", heard, TARGET_MS),
        Figure("all dropped at once: until they are gone", [dropped], "s", 2.0),
        Figure(f"as many again, of each of {TOTAL}", [again], "KB", TARGET_KB),
        Figure("SIGTERM with all of them open", [stopped], "s", GRACE_SECONDS),
    ]


@asynccontextmanager
async def _subscribed(accounts: Sequence[Account], delays: list[float]) -> AsyncIterator[None]:
    """Sockets that note how old each event is when it comes; then dropped, all at once."""
    opening = asyncio.Semaphore(AT_ONCE)

    async def opened(account: Account) -> websockets.ClientConnection:
        async with opening:
            return await _open(account)

    sockets = await asyncio.gather(*(opened(account) for account in accounts for _ in range(SOCKETS)))
    listening = [asyncio.create_task(_listen(socket, delays)) for socket in sockets]
    try:
        yield
    finally:
        for task in listening:
            task.cancel()
        for socket in sockets:
            socket.transport.abort()
        await asyncio.gather(*listening, return_exceptions=True)


async def _open(account: Account) -> websockets.ClientConnection:
    """A socket with one subscription, that the server has begun."""
    url = f"{account.url.replace('http', 'ws', 1)}/graphql"
    protocol = websockets.Subprotocol("graphql-transport-ws")
    socket = await websockets.connect(url, subprotocols=[protocol], compression=None, ping_interval=None)
    payload = {"authorization": f"Bearer {account.token}"}
    await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
    await socket.recv()
    await socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": FOLLOW}}))
    await socket.send(json.dumps({"type": "subscribe", "id": "2", "payload": {"query": "{ viewer { email } }"}}))
    for _ in range(2):
        assert json.loads(await socket.recv())["id"] == "2"
    return socket


async def _listen(socket: websockets.ClientConnection, delays: list[float]) -> None:
    async for message in socket:
        came = time.time()
        occurred = datetime.fromisoformat(json.loads(message)["payload"]["data"]["mediaEvents"]["occurredAt"])
        delays.append(came - occurred.timestamp())


async def _uploads(accounts: Sequence[Account], delays: list[float]) -> list[float]:
    """The age of each event that anybody heard of, while some upload one picture after another."""
    until = time.monotonic() + UPLOAD_SECONDS

    async def upload(mine: Sequence[Account]) -> None:
        count = 0
        while time.monotonic() < until:
            account = mine[count % len(mine)]
            await account.settled((await account.uploaded(photograph()))["id"])
            count += 1

    await asyncio.gather(*(upload(accounts[number::UPLOADERS]) for number in range(UPLOADERS)))
    assert len(delays) > 10 * SOCKETS
    return list(delays)


async def _until_few(server: Server, before: int) -> float:
    """Seconds until the process has no more open than before."""
    began = time.monotonic()
    while _descriptors(server) > before + FEW:
        assert time.monotonic() - began < 30, "sockets that nobody has are still open"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def _descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
