"""How many requests a second one API process answers, and how soon; graphql-yoga in turn, which has it in memory."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from app.postmaster import address
from tests.bench.batch import all_seen
from tests.bench.report import Figure, milliseconds
from tests.bench.sending import send_batch
from tests.client import Account, Json, register
from tests.graphql_schema.rows import execute
from tests.node import PROJECT, installed
from tests.pictures import photograph
from tests.server import running

CONNECTIONS = 8
ROUNDS = 3
ROUND_SECONDS = 2.0
PAGE = 100
VARIANTS = 5
YOGA = Path(__file__).with_name("yoga")
SCHEMA = PROJECT / "graphql_schema" / "schema.graphql"
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
            await _add_posters(folder / "data")
            library = await ada.ask(LIBRARY, first=PAGE)
            assert [len(edge["node"]["variants"]) for edge in library["edges"]] == [VARIANTS] * PAGE
            viewer = await ada.ask(VIEWER)
            with _yoga(folder, {"library": library, "viewer": viewer}) as yoga:
                return [
                    *await _compared(ada, yoga, f"library(first: {PAGE})", LIBRARY, {"first": PAGE}, least=1.0),
                    *await _compared(ada, yoga, "viewer", VIEWER, {}, least=0.5),
                ]


@contextmanager
def _yoga(folder: Path, data: Json) -> Iterator[str]:
    """The address of graphql-yoga, which has the same data in memory, and the same schema."""
    node, environment = installed(YOGA, folder)
    (folder / "yoga.json").write_text(json.dumps(data))
    arguments = [node, str(YOGA / "server.mjs"), str(SCHEMA), str(folder / "yoga.json")]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


async def _add_posters(data: Path) -> None:
    """A fifth variant for each: four are what a picture has."""
    await execute(
        address(data),
        "INSERT INTO variant (id, media, name, digest, content_type, width, height, size_bytes, storage_key) "
        "SELECT gen_random_uuid(), media, 'POSTER', digest, content_type, width, height, size_bytes, "
        "storage_key FROM variant WHERE name = 'LARGE'",
    )


async def _fill(account: Account, folder: Path) -> None:
    person = await account.person()
    for _ in range(PAGE // BATCH):
        paths = [folder / f"{index}.jpg" for index in range(BATCH)]
        for path in paths:
            path.write_bytes(photograph(200, 150))
        sent = await send_batch(account, paths, entityId=person["id"])
        async with account.socket() as socket:
            await all_seen(socket, sent)


async def _compared(
    account: Account, yoga: str, name: str, query: str, variables: Json, *, least: float
) -> list[Figure]:
    """Each in turn, so that what else the machine does is the same for both; by how much yoga is ahead at most."""
    body: Json = {"query": query, "variables": variables}
    token = account.token
    sides = [await _connected(url, token, body) for url in (account.url, yoga)]
    rates: list[list[float]] = [[], []]
    latencies: list[float] = []
    try:
        for number in range(ROUNDS + 1):
            for side, connections in enumerate(sides):
                rate, middle = await _round(connections)
                if number == 0:  # both warm up
                    continue
                rates[side].append(rate)
                if side == 0:
                    latencies.append(middle)
    finally:
        for connection in chain.from_iterable(sides):
            connection.close()
    ahead = [theirs / ours for ours, theirs in zip(*rates, strict=True)]
    return [
        Figure(name, rates[0], "/s"),
        milliseconds(f"  its median latency, {CONNECTIONS} at once", latencies),
        Figure("  graphql-yoga, from memory", rates[1], "/s"),
        Figure("  yoga's rate by ours", ahead, "×", 1 / least),
    ]


async def _connected(url: str, token: str | None, body: Json) -> list[Connection]:
    return [await Connection.open(url, token, body) for _ in range(CONNECTIONS)]


async def _round(connections: Sequence[Connection]) -> tuple[float, float]:
    """Answers a second, and the seconds of the middle one."""
    began = time.monotonic()
    each = await asyncio.gather(*(one.ask_until(began + ROUND_SECONDS) for one in connections))
    taken = [*chain.from_iterable(each)]
    return len(taken) / (time.monotonic() - began), median(taken)


class Connection:
    """HTTP/1.1 at its barest, kept alive: a full client takes longer than the server, of which it shares the cores."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._request = request

    @classmethod
    async def open(cls, url: str, token: str | None, body: Json) -> Connection:
        parts = urlsplit(url)
        content = json.dumps(body).encode()
        head = (
            f"POST /graphql HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
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
        length = head.partition(b"content-length:")[2].split(None, 1)
        content = await (self._reader.readexactly(int(length[0])) if length else self._chunks())
        assert b'"errors"' not in content, content[:1000]

    async def _chunks(self) -> bytes:
        content = b""
        while size := int(await self._reader.readline(), 16):
            content += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()
        return content
