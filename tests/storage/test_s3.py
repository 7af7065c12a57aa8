"""What S3 adds to the contract: buckets, credentials, and servers that fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from storage.base import ObjectStorage, SizeMismatch, StorageError, StorageUnavailable
from storage.s3 import BUFFERED_BYTES, S3Storage
from tests.contracts.servers import REGION, S3Server
from tests.server import free_port

pytestmark = pytest.mark.usefixtures("aws_credentials")

BINARY = "application/octet-stream"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def opened(server: S3Server, bucket: str | None = None) -> AbstractAsyncContextManager[S3Storage]:
    return S3Storage.open_bucket(bucket or f"b-{uuid4()}", region=REGION, endpoint_url=server.endpoint_url)


@asynccontextmanager
async def storage_on(serve: Serve, *, deadline: timedelta = timedelta(seconds=0.5)) -> AsyncIterator[S3Storage]:
    """A storage whose server does what `serve` does with each connection."""
    connections: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with S3Storage.open_bucket("bucket", region=REGION, endpoint_url=url, deadline=deadline) as storage:
            yield storage
    finally:
        for writer in connections:
            writer.close()
        server.close()


def sparse_file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


async def read(storage: ObjectStorage, key: str) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key)])


async def keys_below(storage: ObjectStorage, prefix: str) -> list[str]:
    return [stored.key async for stored in storage.list(prefix)]


async def assert_unavailable(storage: S3Storage, source: Path) -> None:
    """Every operation says that the storage is unavailable, and nothing else."""
    outcomes = await asyncio.gather(
        storage.ready(),
        storage.ensure_bucket(),
        storage.put("a/b.bin", b"bytes", size=5, content_type=BINARY),
        storage.put("a/b.bin", source, size=BUFFERED_BYTES, content_type=BINARY),
        storage.head("a/b.bin"),
        storage.delete(["a/b.bin"]),
        read(storage, "a/b.bin"),
        keys_below(storage, "a/"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 8


async def test_its_bucket_is_made_once(rclone_server: S3Server) -> None:
    async with opened(rclone_server) as storage:
        with pytest.raises(StorageUnavailable, match="does not exist"):
            await storage.ready()
        await asyncio.gather(storage.ensure_bucket(), storage.ensure_bucket())
        await storage.put("a/b.bin", b"bytes", size=5, content_type=BINARY)
        await storage.ensure_bucket()
        await storage.ready()
        assert await read(storage, "a/b.bin") == b"bytes"


async def test_wrong_credentials(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with opened(rclone_server) as storage:
        await assert_unavailable(storage, sparse_file(tmp_path / "large", BUFFERED_BYTES))


async def test_no_credentials(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        async with opened(rclone_server):
            pass


async def test_a_token_and_a_public_address_are_in_signed_urls(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a/token")
    async with S3Storage.open_bucket(
        "bucket",
        region=REGION,
        endpoint_url=rclone_server.endpoint_url,
        public_endpoint_url="https://media.example.com",
    ) as storage:
        parts = urlsplit(storage.presign_get("a/b.jpg", now=datetime.now(UTC)).url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "media.example.com", "/bucket/a/b.jpg")
    assert "X-Amz-Security-Token=a%2Ftoken" in parts.query


async def test_more_objects_than_a_page(rclone_server: S3Server) -> None:
    async with opened(rclone_server) as storage:
        await storage.ensure_bucket()
        keys = [f"a/{number:04}.bin" for number in range(1001)]
        for start in range(0, len(keys), 100):
            await asyncio.gather(
                *(storage.put(key, b"", size=0, content_type=BINARY) for key in keys[start : start + 100])
            )
        assert await keys_below(storage, "a/") == keys
        await storage.delete(keys)
        assert await keys_below(storage, "a/") == []


async def test_a_refused_connection_is_told_quickly(tmp_path: Path) -> None:
    endpoint_url = f"http://127.0.0.1:{free_port()}"
    async with S3Storage.open_bucket("bucket", region=REGION, endpoint_url=endpoint_url) as storage:
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await storage.put("a/b.bin", b"bytes", size=5, content_type=BINARY)
        assert time.monotonic() - begun < 5


async def test_a_server_that_never_answers(tmp_path: Path) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Neither reads nor writes: also the upload's own buffers run full."""

    async with storage_on(silence) as storage:
        begun = time.monotonic()
        await assert_unavailable(storage, sparse_file(tmp_path / "large", BUFFERED_BYTES))
        assert time.monotonic() - begun < 5


async def test_a_server_that_fails(tmp_path: Path) -> None:
    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with storage_on(fail) as storage:
        await assert_unavailable(storage, sparse_file(tmp_path / "large", BUFFERED_BYTES))


async def test_a_put_is_retried(rclone_server: S3Server, tmp_path: Path) -> None:
    """The first connection breaks in the middle of the body, the next is led to a real server."""
    target = urlsplit(rclone_server.endpoint_url)
    attempts = 0

    async def break_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await reader.readexactly(100_000)
            writer.transport.abort()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pipe(reader, upstream_writer), pipe(upstream_reader, writer))

    content = bytes(range(256)) * (BUFFERED_BYTES // 256)
    (tmp_path / "large").write_bytes(content)
    async with opened(rclone_server, "bucket") as direct:
        await direct.ensure_bucket()
        async with storage_on(break_once, deadline=timedelta(seconds=30)) as storage:
            key = f"{uuid4()}.bin"
            await storage.put(key, tmp_path / "large", size=len(content), content_type=BINARY)
        assert attempts == 2
        assert await read(direct, key) == content


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
async def test_a_file_that_changes_while_it_is_sent(tmp_path: Path, change: int) -> None:
    size = 64 * 1024 * 1024  # far more than sockets buffer
    source = sparse_file(tmp_path / "large", size)
    received = 0

    async def change_the_source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received = 0
        await reader.readuntil(b"\r\n\r\n")
        while data := await reader.read(65_536):
            if received == 0:
                sparse_file(source, size + change)
            received += len(data)

    async with storage_on(change_the_source, deadline=timedelta(seconds=20)) as storage:
        with pytest.raises(SizeMismatch, match="changed while it was sent"):
            await storage.put("a/b.bin", source, size=size, content_type=BINARY)
    assert received < size


async def test_an_answer_cut_short() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "x"\r\n\r\nonly this')
        await writer.drain()
        writer.close()

    async with storage_on(cut) as storage:
        with pytest.raises(StorageUnavailable):
            await read(storage, "a/b.bin")
