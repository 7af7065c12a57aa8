"""How many requests a second one API process answers, and how soon; in turn with it graphql-yoga, which has the same in
memory, and PostGraphile, which asks the same tables.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
ROUNDS = 9  # short and many: what else the machine does comes and goes
ROUND_SECONDS = 1.0
PAGE = 100
VARIANTS = 5
YOGA = Path(__file__).with_name("yoga")
POSTGRAPHILE = Path(__file__).with_name("postgraphile")
SCHEMA = PROJECT / "graphql_schema" / "schema.graphql"
BATCH = 50  # files that a request may hold

LIBRARY = """
    query($first: Int) { library(first: $first) { edges { node {
        id publicId kind status filename contentType sizeBytes width height title tags takenAt createdAt url
        variants { name contentType width height sizeBytes url } entity { id name } owner { id displayName }
    } } pageInfo { hasNextPage endCursor } } }
"""
VIEWER = "{ viewer { user { displayName } } }"


# PostGraphile's own names for the same. It asks nobody who they are: it is told whose media are meant.
TABLES_LIBRARY = """
    query($first: Int, $owner: UUID!) {
        allMedia(first: $first, condition: {owner: $owner}, orderBy: [CREATED_AT_DESC, ROW_ID_DESC]) {
            edges { node {
                rowId publicId kind status filename contentType sizeBytes width height title tags takenAt createdAt url
                variantsByMedia { nodes { name contentType width height sizeBytes url } }
                entityByEntity { rowId name } userAccountByOwner { rowId displayName }
            } } pageInfo { hasNextPage endCursor }
        }
    }
"""
TABLES_VIEWER = "query($owner: UUID!) { userAccountByRowId(rowId: $owner) { displayName } }"


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    url: str
    ahead: float  # of us, at most: how many of its requests to one of ours
    query: str
    variables: Json


async def measure(folder: Path) -> list[Figure]:
    # Nothing is kept from one answer to the next: all of each comes from PostgreSQL.
    with running(folder, None, cached_rows=0) as server:
        async with register(server.url, "Ada") as ada:
            await _fill(ada, folder)
            await _add_posters(folder / "data")
            library = await ada.ask(LIBRARY, first=PAGE)
            assert [len(edge["node"]["variants"]) for edge in library["edges"]] == [VARIANTS] * PAGE
            viewer = await ada.ask(VIEWER)
            (folder / "yoga.json").write_text(json.dumps({"library": library, "viewer": viewer}))
            with (
                _served(YOGA, folder, str(SCHEMA), str(folder / "yoga.json")) as yoga,
                _served(POSTGRAPHILE, folder, address(folder / "data"), "a secret to sign by") as tables,
            ):
                page, owner = {"first": PAGE}, {"owner": ada.id}
                return [
                    *await _compared(
                        ada,
                        f"library(first: {PAGE})",
                        LIBRARY,
                        page,
                        [
                            Contender("graphql-yoga, from memory", yoga, 1.0, LIBRARY, page),
                            Contender("PostGraphile, same tables", tables, 1.0, TABLES_LIBRARY, page | owner),
                        ],
                    ),
                    *await _compared(
                        ada,
                        "viewer",
                        VIEWER,
                        {},
                        [
                            Contender("graphql-yoga, from memory", yoga, 2.0, VIEWER, {}),
                            Contender("PostGraphile, same tables", tables, 1.0, TABLES_VIEWER, owner),
                        ],
                    ),
                ]


@contextmanager
def _served(packages: Path, folder: Path, *arguments: str) -> Iterator[str]:
    """The address of `server.mjs` among these packages, as it is run in production."""
    node, environment = installed(packages, folder)
    environment |= {"NODE_ENV": "production", "GRAPHILE_ENV": "production"}
    process = subprocess.Popen(
        [node, str(packages / "server.mjs"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # where PostGraphile says that it knows no xid8
        text=True,
    )
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
    account: Account, name: str, query: str, variables: Json, contenders: Sequence[Contender]
) -> list[Figure]:
    """Each in turn, so that what else the machine does is the same for all; by how much others are ahead at most."""
    sides = [await _connected(account.url, account.token, query, variables)]
    sides += [await _connected(each.url, None, each.query, each.variables) for each in contenders]
    rates: list[list[float]] = [[] for _ in sides]
    latencies: list[float] = []
    try:
        for number in range(ROUNDS + 1):
            for side, connections in enumerate(sides):
                rate, middle = await _round(connections)
                if number == 0:  # all warm up
                    continue
                rates[side].append(rate)
                if side == 0:
                    latencies.append(middle)
    finally:
        for connection in chain.from_iterable(sides):
            connection.close()
    ours, *theirs = rates
    figures = [
        Figure(name, ours, "/s"),
        milliseconds(f"  its median latency, {CONNECTIONS} at once", latencies),
    ]
    for contender, their in zip(contenders, theirs, strict=True):
        ahead = [rate / our for rate, our in zip(their, ours, strict=True)]
        figures += [
            Figure(f"  {contender.name}", their, "/s"),
            Figure("    its rate by ours", ahead, "×", contender.ahead),
        ]
    return figures


async def _connected(url: str, token: str | None, query: str, variables: Json) -> list[Connection]:
    body: Json = {"query": query, "variables": variables}
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
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        head = (
            f"POST /graphql HTTP/1.1\r\nHost: {parts.netloc}\r\n{authorization}"
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
