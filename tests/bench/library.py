"""How many requests a second one API process answers, and how soon."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import chain
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from tests.bench.batch import all_seen
from tests.bench.report import Figure, milliseconds
from tests.bench.sending import send_batch
from tests.client import Account, Json, register
from tests.pictures import photograph
from tests.server import running

CONNECTIONS = 8
ROUNDS = 3
ROUND_SECONDS = 2.0
PAGE = 100
BATCH = 50  # files that a request may hold

LIBRARY = """
    query($first: Int) { library(first: $first) { edges { node {
        id publicId kind status filename contentType sizeBytes width height title tags takenAt createdAt url
        variants { name contentType width height sizeBytes url } entity { id name } owner { id displayName }
    } } pageInfo { hasNextPage endCursor } } }
"""
VIEWER = "{ viewer { user { displayName } } }"


async def measure(folder: Path) -> list[Figure]:
    with running(folder, None) as server:
        async with register(server.url, "Ada") as ada:
            await _fill(ada, folder)
            library = await ada.ask(LIBRARY, first=PAGE)
            assert [len(edge["node"]["variants"]) for edge in library["edges"]] == [4] * PAGE
            return [
                *await _load(ada, f"library(first: {PAGE})", {"query": LIBRARY, "variables": {"first": PAGE}}),
                *await _load(ada, "viewer", {"query": VIEWER}),
            ]


async def _fill(account: Account, folder: Path) -> None:
    person = await account.person()
    for _ in range(PAGE // BATCH):
        paths = [folder / f"{index}.jpg" for index in range(BATCH)]
        for path in paths:
            path.write_bytes(photograph(200, 150))
        sent = await send_batch(account, paths, entityId=person["id"])
        async with account.socket() as socket:
            await all_seen(socket, sent)


async def _load(account: Account, name: str, body: Json) -> list[Figure]:
    rates, latencies = [], []
    connections = [await Connection.open(account, body) for _ in range(CONNECTIONS)]
    try:
        for _ in range(ROUNDS):
            began = time.monotonic()
            each = await asyncio.gather(*(one.ask_until(began + ROUND_SECONDS) for one in connections))
            taken = [*chain.from_iterable(each)]
            elapsed = time.monotonic() - began
            rates.append(len(taken) / elapsed)
            latencies.append(median(taken))
    finally:
        for connection in connections:
            connection.close()
    return [Figure(name, rates, "/s"), milliseconds(f"  its median latency, {CONNECTIONS} at once", latencies)]


class Connection:
    """HTTP/1.1 at its barest, kept alive: a full client takes longer than the server, of which it shares the cores."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._request = request

    @classmethod
    async def open(cls, account: Account, body: Json) -> Connection:
        address = urlsplit(account.url)
        content = json.dumps(body).encode()
        head = (
            f"POST /graphql HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {account.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        return cls(reader, writer, head.encode() + content)

    def close(self) -> None:
        self._writer.close()

    async def ask_until(self, limit: float) -> list[float]:
        """Seconds that each request took."""
        taken = []
        while (began := time.monotonic()) < limit:
            await self._ask()
            taken.append(time.monotonic() - began)
        return taken

    async def _ask(self) -> None:
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200 "), head
        length = int(head.partition(b"content-length:")[2].split(None, 1)[0])
        content = await self._reader.readexactly(length)
        assert b'"errors"' not in content, content[:1000]
