"""What S3 adds to the contract: buckets, credentials, and servers that fail."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import httpx
import pytest
from aiobotocore.config import AioConfig

from storage.base import (
    InvalidParts,
    ObjectStorage,
    OpenUpload,
    SetUp,
    SizeMismatch,
    StorageError,
    StorageUnavailable,
    StoredPart,
    UploadNotFound,
)
from storage.s3 import CONFIG, S3Storage
from storage.s3_bodies import BUFFERED_BYTES
from tests.contracts.servers import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.server import free_port

pytestmark = pytest.mark.usefixtures("aws_credentials")

BINARY = "application/octet-stream"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def opened(server: S3Server, bucket: str | None = None) -> AbstractAsyncContextManager[S3Storage]:
    return S3Storage.open_bucket(bucket or f"b-{uuid4()}", region=REGION, endpoint_url=server.endpoint_url)


@asynccontextmanager
async def serving(serve: Serve | None, port: int = 0) -> AsyncIterator[str]:
    """Does what `serve` does with each connection, at the address it gives; None refuses them."""
    if serve is None:
        yield f"http://127.0.0.1:{port}"
        return
    connections: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client was faster to leave
            await serve(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in connections:
            writer.close()
        server.close()


@asynccontextmanager
async def storage_on(serve: Serve, *, deadline: timedelta = timedelta(seconds=0.5)) -> AsyncIterator[S3Storage]:
    """A storage whose server does what `serve` does with each connection."""
    async with (
        serving(serve) as url,
        S3Storage.open_bucket("bucket", region=REGION, endpoint_url=url, deadline=deadline) as storage,
    ):
        yield storage


def led_to(server: S3Server) -> Serve:
    """Each connection is one to this server."""
    target = urlsplit(server.endpoint_url)

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pipe(reader, upstream_writer), pipe(upstream_reader, writer))

    return lead


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


def sparse_file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


async def read(storage: ObjectStorage, key: str) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key)])


async def uploads(storage: ObjectStorage) -> list[OpenUpload]:
    return [upload async for upload in storage.list_multiparts()]


async def keys_below(storage: ObjectStorage, prefix: str) -> list[str]:
    return [stored.key async for stored in storage.list(prefix)]


def operations(storage: S3Storage, source: Path) -> list[Awaitable[object]]:
    """Each there is, once, with a small file and with one large enough to be streamed."""
    large = source.stat().st_size
    return [
        storage.put("a/b.bin", b"bytes", size=5, content_type=BINARY),
        storage.put("a/large.bin", source, size=large, content_type=BINARY),
        storage.head("there.bin"),
        storage.delete(["a/c.bin"]),
        read(storage, "there.bin"),
        keys_below(storage, "a/"),
        storage.copy("there.bin", "a/copy.bin"),
        storage.create_multipart("a/parts.bin", content_type=BINARY),
        storage.abort_multipart("a/parts.bin", "unknown"),
        uploads(storage),
    ]


async def assert_unavailable(storage: S3Storage, source: Path) -> None:
    """Every operation says that the storage is unavailable, and nothing else."""
    outcomes = await asyncio.gather(
        storage.ready(),
        *operations(storage, source),
        storage.list_parts("a/parts.bin", "unknown"),
        storage.complete_multipart("a/parts.bin", "unknown", [StoredPart(1, '"x"', 1)]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * len(outcomes)


async def test_its_bucket_is_made_once(rclone_server: S3Server) -> None:
    async with opened(rclone_server) as storage:
        with pytest.raises(StorageUnavailable, match="does not exist"):
            await storage.ready()
        await asyncio.gather(storage.set_up(), storage.set_up())
        await storage.put("a/b.bin", b"bytes", size=5, content_type=BINARY)
        await storage.set_up()
        await storage.ready()
        assert await read(storage, "a/b.bin") == b"bytes"


async def test_wrong_credentials(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with opened(rclone_server) as storage:
        await assert_unavailable(storage, sparse_file(tmp_path / "large", BUFFERED_BYTES))
        assert {step.outcome for step in await storage.set_up()} == {SetUp.REFUSED}


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


async def test_credentials_that_change_sign_from_then_on(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a role's do, long before they run out: here they are asked for anew each time."""
    token, told = tmp_path / "token", tmp_path / "told.py"
    fields = {"Version": 1, "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY}
    told.write_text(
        "import datetime, json, pathlib\n"
        "soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)\n"
        f"token = pathlib.Path({str(token)!r}).read_text()\n"
        f"print(json.dumps({{**{fields!r}, 'SessionToken': token, 'Expiration': soon.isoformat()}}))\n"
    )
    (config := tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {told}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    token.write_text("former")
    async with opened(rclone_server) as storage:
        await storage.set_up()
        now = datetime.now(UTC)
        former = storage.presign_get("a/b.jpg", now=now)
        token.write_text("latter")
        assert storage.presign_get("a/b.jpg", now=now) == former
        await storage.ready()
        latter = storage.presign_get("a/b.jpg", now=now)
    assert [dict(parse_qsl(urlsplit(each.url).query))["X-Amz-Security-Token"] for each in (former, latter)] == [
        "former",
        "latter",
    ]
    assert latter.expires_at == former.expires_at


async def test_more_objects_than_a_page(rclone_server: S3Server) -> None:
    async with opened(rclone_server) as storage:
        await storage.set_up()
        keys = [f"a/{number:04}.bin" for number in range(1001)]
        for start in range(0, len(keys), 100):
            await asyncio.gather(
                *(storage.put(key, b"", size=0, content_type=BINARY) for key in keys[start : start + 100])
            )
        assert await keys_below(storage, "a/") == keys
        await storage.delete(keys)
        assert await keys_below(storage, "a/") == []


async def test_more_uploads_and_parts_than_a_page(rclone_server: S3Server) -> None:
    async with opened(rclone_server) as storage, httpx.AsyncClient() as http:
        await storage.set_up()
        ids = [await storage.create_multipart("a/b.bin", content_type=BINARY) for _ in range(1001)]
        assert sorted(upload.upload_id for upload in await uploads(storage)) == sorted(ids)

        async def send(number: int) -> StoredPart:
            minute = timedelta(minutes=1)
            signed = storage.presign_part("a/b.bin", ids[0], number, size=1, now=datetime.now(UTC), expires_in=minute)
            return StoredPart(number, (await http.put(signed.url, content=b"x")).headers["etag"], 1)

        sent = [await send(number) for number in range(1001, 0, -1)]
        assert list(await storage.list_parts("a/b.bin", ids[0])) == sent[::-1]


# ------------------------------------------------------------------------------ a storage that is away, or fails


async def slow_down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    error = b"<Error><Code>SlowDown</Code></Error>"
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(error) + error)
    await writer.drain()
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1000)
    writer.transport.abort()


@pytest.mark.parametrize("away", [slow_down, reset, None], ids=["503", "reset", "refused"])
async def test_a_storage_that_is_away_for_a_while(rclone_server: S3Server, tmp_path: Path, away: Serve | None) -> None:
    """Every operation waits for it, and then does what it is for."""
    source = sparse_file(tmp_path / "large", BUFFERED_BYTES)
    bucket = f"b-{uuid4()}"
    async with opened(rclone_server, bucket) as direct:
        await direct.set_up()
        await direct.put("there.bin", b"there", size=5, content_type=BINARY)
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        async with S3Storage.open_bucket(bucket, region=REGION, endpoint_url=address) as storage:
            async with serving(away, port):
                under_way = [asyncio.ensure_future(operation) for operation in operations(storage, source)]
                await asyncio.sleep(1)  # long enough for several attempts of each
                assert not any(each.done() for each in under_way)
            async with serving(led_to(rclone_server), port):
                outcomes = await asyncio.gather(*under_way)
        assert b"there" in outcomes
        assert await keys_below(direct, "") == ["a/b.bin", "a/copy.bin", "a/large.bin", "there.bin"]
        assert (await direct.head("a/large.bin")).size == BUFFERED_BYTES


async def test_a_storage_that_stays_away(tmp_path: Path) -> None:
    """Every operation waits for its deadline; whether it is ready is told at once."""
    source = sparse_file(tmp_path / "large", BUFFERED_BYTES)
    endpoint_url = f"http://127.0.0.1:{free_port()}"
    deadline = timedelta(seconds=2)
    async with S3Storage.open_bucket("bucket", region=REGION, endpoint_url=endpoint_url, deadline=deadline) as storage:
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await storage.ready()
        assert time.monotonic() - begun < 1

        async def seconds_until_unavailable(operation: Awaitable[object]) -> float:
            begun = time.monotonic()
            with pytest.raises(StorageUnavailable):
                await operation
            return time.monotonic() - begun

        every = [*operations(storage, source), storage.set_up()]
        waited = await asyncio.gather(*(seconds_until_unavailable(operation) for operation in every))
    assert all(1.8 < seconds < 3.5 for seconds in waited), waited


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
    lead = led_to(rclone_server)
    attempts = 0

    async def break_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await reader.readexactly(100_000)
            writer.transport.abort()
            return
        await lead(reader, writer)

    content = bytes(range(256)) * (BUFFERED_BYTES // 256)
    (tmp_path / "large").write_bytes(content)
    async with opened(rclone_server, "bucket") as direct:
        await direct.set_up()
        async with storage_on(break_once, deadline=timedelta(seconds=30)) as storage:
            key = f"{uuid4()}.bin"
            await storage.put(key, tmp_path / "large", size=len(content), content_type=BINARY)
        assert attempts == 2
        assert await read(direct, key) == content


async def test_a_put_that_breaks_off_each_time_ends(tmp_path: Path) -> None:
    attempts = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        await reader.readexactly(100_000)
        writer.transport.abort()

    source = sparse_file(tmp_path / "large", 64 * 1024 * 1024)
    async with storage_on(break_off, deadline=timedelta(seconds=1)) as storage:
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await storage.put("a/b.bin", source, size=source.stat().st_size, content_type=BINARY)
        assert time.monotonic() - begun < 10
    assert attempts > 2


async def test_a_large_file_may_take_longer_than_the_deadline(tmp_path: Path) -> None:
    size = 64 * 1024 * 1024  # far more than sockets buffer
    received = 0

    async def receive_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        while received < size:
            received += len(await reader.read(4 * 1024 * 1024))
            await asyncio.sleep(0.002)
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n')
        await writer.drain()

    async with storage_on(receive_slowly, deadline=timedelta(seconds=0.5)) as storage:
        begun = time.monotonic()
        await storage.put("a/b.bin", sparse_file(tmp_path / "large", size), size=size, content_type=BINARY)
        assert time.monotonic() - begun > 0.6
    assert received == size


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


async def test_a_read_goes_on_where_it_broke_off(rclone_server: S3Server) -> None:
    lead = led_to(rclone_server)
    attempts = 0

    async def break_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 2:
            await lead(reader, writer)
            return
        target = urlsplit(rclone_server.endpoint_url)
        upstream_reader, upstream_writer = await asyncio.open_connection(target.hostname, target.port)
        upstream_writer.write(await reader.readuntil(b"\r\n\r\n"))
        writer.write(await upstream_reader.readexactly(1_000_000))
        await writer.drain()
        upstream_writer.close()
        writer.close()

    content = random.Random(1).randbytes(5_000_000)
    async with opened(rclone_server, "bucket") as direct:
        await direct.set_up()
        key = f"{uuid4()}.bin"
        await direct.put(key, content, size=len(content), content_type=BINARY)
        async with storage_on(break_twice, deadline=timedelta(seconds=10)) as storage:
            assert await read(storage, key) == content
            assert attempts == 3
            attempts = 1
            part = [chunk async for chunk in storage.open(key, start=10, end=4_000_000)]
            assert b"".join(part) == content[10:4_000_000]


async def test_a_read_does_not_go_on_with_other_bytes(rclone_server: S3Server) -> None:
    async with opened(rclone_server, "bucket") as storage:
        await storage.set_up()
        key = f"{uuid4()}.bin"
        requests = 0

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal requests
            requests += 1
            await reader.readuntil(b"\r\n\r\n")
            etag = b"first" if requests == 1 else b"other"
            span = b"" if requests == 1 else b"Content-Range: bytes 9-999/1000\r\n"
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n%bETag: "%b"\r\n\r\nonly this' % (span, etag))
            await writer.drain()
            writer.close()

        async with storage_on(cut, deadline=timedelta(seconds=10)) as changing:
            with pytest.raises(StorageUnavailable, match="does not go on where it did"):
                await read(changing, key)
        assert requests == 2


# ------------------------------------------------------------------------------ completions that answer oddly

PARTS = [StoredPart(1, '"one"', 5)]
LISTED = b'<ListPartsResult><Part><PartNumber>1</PartNumber><ETag>"one"</ETag><Size>5</Size></Part></ListPartsResult>'
DONE = b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'


def error_of(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>Said in the middle of it.</Message></Error>".encode()


def completing(*answers: bytes, seconds: float = 0) -> tuple[Serve, list[bytes]]:
    """A server of one open upload that gives its completions these answers, each after so long; and those it gave."""
    given: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        answer = LISTED if len(given) < len(answers) else error_of("NoSuchUpload")
        if head.startswith(b"POST "):
            await asyncio.sleep(seconds)
            answer = answers[len(given)]
            given.append(answer)
        status = b"404 Not Found" if b"NoSuchUpload" in answer else b"200 OK"
        if answer:
            length = b"Content-Length: %d" % len(answer)
            writer.write(b"HTTP/1.1 %b\r\n%b\r\nConnection: close\r\n\r\n%b" % (status, length, answer))
            await writer.drain()
        writer.close()

    return serve, given


async def test_a_completion_that_fails_behind_its_status() -> None:
    """Amazon says 200 before it begins, and in the body what came of it."""
    serve, given = completing(error_of("InternalError"), DONE)
    async with storage_on(serve, deadline=timedelta(seconds=10)) as storage:
        await storage.complete_multipart("a/b.bin", "id", PARTS)
    assert given == [error_of("InternalError"), DONE]

    serve, given = completing(error_of("InvalidPart"), DONE)
    async with storage_on(serve, deadline=timedelta(seconds=10)) as storage:
        with pytest.raises(InvalidParts):
            await storage.complete_multipart("a/b.bin", "id", PARTS)
    assert len(given) == 1


async def test_a_completion_whose_answer_is_lost() -> None:
    """It may have been done: the caller looks for the object."""
    serve, given = completing(b"")
    async with storage_on(serve, deadline=timedelta(seconds=10)) as storage:
        with pytest.raises(UploadNotFound):
            await storage.complete_multipart("a/b.bin", "id", PARTS)
    assert given == [b""]


async def test_a_completion_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than both a read may be silent, and the deadline."""
    monkeypatch.setattr("storage.s3.CONFIG", CONFIG.merge(AioConfig(read_timeout=0.3)))
    serve, given = completing(DONE, seconds=1.5)
    async with storage_on(serve, deadline=timedelta(seconds=1)) as storage:
        await storage.complete_multipart("a/b.bin", "id", PARTS)
    assert given == [DONE]
