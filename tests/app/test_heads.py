"""Heads of requests that are too large, or don't come to their end: over bare connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from app import heads
from app.heads import HEAD_BYTES, HEADERS, WAITING, BoundedHeads

SEEN: list[list[tuple[bytes, bytes]]] = []
LINE = b"GET / HTTP/1.1\r\nhost: a\r\n"


async def answered(scope: Any, receive: Any, send: Any) -> None:
    """200, with how many bytes came."""
    SEEN.append(scope["headers"])
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@asynccontextmanager
async def served() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of this process."""
    config = uvicorn.Config(answered, port=0, http=BoundedHeads, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    try:
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
    finally:
        server.should_exit = True
        await task


async def told(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and body of an answer."""
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            size = int(await reader.readline(), 16)
            body = (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(5)
        else:
            body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
        return int(head.split()[1]), body


async def refused(reader: asyncio.StreamReader) -> None:
    status, body = await told(reader)
    assert (status, [error["extensions"]["code"] for error in json.loads(body)["errors"]]) == (431, ["BAD_REQUEST"])
    async with asyncio.timeout(10):
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "head",
    {
        "one long header": LINE + b"accept: " + b"a" * HEAD_BYTES + b"\r\n\r\n",
        "many headers": LINE + b"a: b\r\n" * HEADERS + b"\r\n",
        "many long ones": LINE + b"".join(b"a%d: %s\r\n" % (n, b"b" * 1000) for n in range(80)) + b"\r\n",
        "a long line": b"GET /?" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    }.items(),
    ids=lambda item: item[0],
)
async def test_a_head_that_is_too_large_is_refused(head: tuple[str, bytes]) -> None:
    async with served() as (reader, writer):
        writer.write(head[1])
        await refused(reader)


async def test_a_header_without_an_end_is_not_kept() -> None:
    async with served() as (_, writer):
        writer.write(LINE + b"accept: ")
        with pytest.raises(ConnectionError):
            await send_megabytes(writer, 64)  # of which the connection takes a few at most


async def send_megabytes(writer: asyncio.StreamWriter, count: int) -> None:
    async with asyncio.timeout(20):
        for _ in range(count):
            writer.write(b"a" * 1_000_000)
            await writer.drain()


async def test_what_is_just_small_enough_is_answered_and_so_are_large_bodies_one_after_another() -> None:
    async with served() as (reader, writer):
        writer.write(LINE + b"a: b\r\n" * (HEADERS - 1) + b"\r\n")
        assert await told(reader) == (200, b"0")
        writer.write(LINE + b"accept: " + b"a" * (HEAD_BYTES - 100) + b"\r\n\r\n")
        assert await told(reader) == (200, b"0")
        for _ in range(2):
            writer.write(LINE + b"content-length: 1000000\r\n\r\n" + b"x" * 1_000_000)
            assert await told(reader) == (200, b"1000000")


async def test_a_head_in_pieces_is_counted_once() -> None:
    async with served() as (reader, writer):
        writer.write(LINE)
        for number in range(50):
            writer.write(b"a%d: %s\r\n" % (number, b"b" * 600))
            await writer.drain()
            await asyncio.sleep(0.001)  # so that they come in several pieces
        writer.write(b"\r\n")
        assert await told(reader) == (200, b"0")


@pytest.mark.parametrize("sent", [b"", b"GET", LINE + b"accept: ", b"\r\n"], ids=["nothing", "word", "header", "none"])
async def test_a_head_that_does_not_come_to_its_end_is_hung_up_on(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.2)
    async with served() as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(10):
            assert await reader.read() == b""


async def test_an_answer_takes_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.2)
    async with served() as (reader, writer):
        writer.write(LINE + b"content-length: 1\r\n\r\n")
        await asyncio.sleep(0.5)
        writer.write(b"x")
        assert await told(reader) == (200, b"1")


async def test_what_comes_behind_a_body_is_no_header() -> None:
    async with served() as (reader, writer):
        writer.write(LINE + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-forwarded-for: 1.2.3.4\r\n\r\n")
        assert await told(reader) == (200, b"1")
        assert [name for name, _ in SEEN[-1]] == [b"host", b"transfer-encoding"]


async def goes_on(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(10):
        while True:
            writer.write(b"x" * HEAD_BYTES)
            await writer.drain()


@pytest.mark.parametrize("behind", [b"1\r\nx\r\n0\r\nx-a: ", b"1; a="])
async def test_nothing_behind_a_body_or_its_chunks_goes_on_without_end(behind: bytes) -> None:
    async with served() as (_, writer):
        writer.write(LINE + b"transfer-encoding: chunked\r\n\r\n" + behind)
        with pytest.raises(ConnectionError):
            await goes_on(writer)


async def test_a_body_in_chunks_may_be_long() -> None:
    async with served() as (reader, writer):
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        writer.write(LINE + b"transfer-encoding: chunked\r\n\r\n" + chunk * 20 + b"0\r\nx-a: b\r\n\r\n")
        assert await told(reader) == (200, b"%d" % (20 * 65_536))


@pytest.mark.parametrize("name", [b"authorization", b"content-type", b"host", b"origin"])
async def test_what_there_is_one_of_is_not_there_twice(name: bytes) -> None:
    async with served() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n" + (name + b": b\r\n") * 2 + b"\r\n")
        assert (await told(reader))[0] == 400


async def test_requests_do_not_queue_up_without_end() -> None:
    async with served() as (reader, writer):
        writer.write((LINE + b"\r\n") * 10)
        for _ in range(10):
            assert await told(reader) == (200, b"0")
        seen = len(SEEN)
        writer.write((LINE + b"\r\n") * 1000)
        async with asyncio.timeout(10):
            await reader.read()
        assert len(SEEN) - seen <= WAITING + 1
