"""What only local storage can get wrong of direct uploads: its routes, its files, and what a crash leaves of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from app import bodies
from storage import base, local_parts
from storage.base import (
    DISK_RESERVE,
    MAX_PARTS,
    MIN_PART_BYTES,
    InvalidKey,
    InvalidParts,
    InvalidSignature,
    ObjectNotFound,
    SetUp,
    SignedRequest,
    SizeMismatch,
    StorageUnavailable,
    StoredPart,
    UploadNotFound,
)
from storage.local import INCOMING, UPLOADS, LocalStorage
from storage.signing import AllowedPart
from tests.contracts.waiting import eventually
from tests.storage.conftest import served_local_storage

BIN = "application/octet-stream"
JPEG = "image/jpeg"
KEY = "a/b.bin"
PATIENCE = timedelta(minutes=15)
CONTENT = b"0123456789"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def storage(root: Path) -> AsyncIterator[LocalStorage]:
    async with served_local_storage(root) as storage:
        yield storage


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


async def read(storage: LocalStorage, key: str) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key)])


def signed_put(
    storage: LocalStorage, key: str = KEY, *, size: int = len(CONTENT), expires_in: timedelta = PATIENCE
) -> SignedRequest:
    return storage.presign_put(key, size=size, content_type=BIN, now=datetime.now(UTC), expires_in=expires_in)


def signed_part(
    storage: LocalStorage,
    upload_id: str,
    number: int = 1,
    *,
    size: int = len(CONTENT),
    expires_in: timedelta = PATIENCE,
) -> SignedRequest:
    return storage.presign_part(KEY, upload_id, number, size=size, now=datetime.now(UTC), expires_in=expires_in)


def with_query(url: str, **changes: str | None) -> str:
    """The URL with parameters changed, added, or with None removed."""
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **changes}
    return urlunsplit(parts._replace(query=urlencode({k: v for k, v in query.items() if v is not None})))


async def begun(storage: LocalStorage) -> str:
    return await storage.create_multipart(KEY, content_type=BIN)


async def arrive(storage: LocalStorage, upload_id: str, number: int, content: bytes) -> StoredPart:
    async def body() -> AsyncIterator[bytes]:
        yield content

    return await storage.receive_part(KEY, upload_id, number, body(), size=len(content))


async def two_parts(storage: LocalStorage, upload_id: str) -> list[StoredPart]:
    return [await arrive(storage, upload_id, 1, b"a" * MIN_PART_BYTES), await arrive(storage, upload_id, 2, b"b")]


async def open_uploads(storage: LocalStorage) -> list[str]:
    return [upload.upload_id async for upload in storage.list_multiparts()]


class RawPut:
    """A PUT whose body is sent as the test likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def head(self) -> tuple[int, bytes]:
        """The status, and all headers in lower case."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), head.lower()

    async def close(self) -> None:
        self.writer.close()


async def raw_put(request: SignedRequest, *headers: str) -> RawPut:
    url = urlsplit(request.url)
    raw = RawPut(*await asyncio.open_connection(url.hostname, url.port))
    lines = [f"PUT {url.path}?{url.query} HTTP/1.1", f"Host: {url.netloc}", f"Content-Type: {BIN}", *headers, "", ""]
    await raw.send("\r\n".join(lines).encode())
    return raw


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Files that can't grow further: the nearest to a full disk that needs no disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---------------------------------------------------------------- an object


@pytest.mark.parametrize("size", [0, 10, 12 * 1024**2], ids=["empty", "small", "above Litestar's limit"])
async def test_a_put_is_stored(storage: LocalStorage, http: httpx.AsyncClient, root: Path, size: int) -> None:
    request = signed_put(storage, size=size)
    answer = await http.put(request.url, content=os.urandom(size), headers=request.headers)
    headers = dict(answer.headers)
    stored = await storage.head(KEY)

    assert (answer.status_code, answer.content) == (200, b"")
    assert (headers["etag"], headers["cache-control"]) == (stored.etag, "no-store")
    assert headers["access-control-allow-origin"] == "*"
    assert "ETag" in headers["access-control-expose-headers"]
    assert await read(storage, KEY) == answer.request.content
    assert datetime.now(UTC) - stored.modified < timedelta(minutes=1)
    assert files_below(root) == [KEY]


async def test_what_was_not_signed_is_refused(storage: LocalStorage, http: httpx.AsyncClient, root: Path) -> None:
    request = signed_put(storage)
    url, signed = request.url, request.headers
    upload_id = await begun(storage)
    part = signed_part(storage, upload_id).url
    got = storage.presign_get(KEY, now=datetime.now(UTC)).url
    elsewhere = LocalStorage(root, signer=storage.signer, base_url=url.partition(f"/{KEY}")[0])
    other_key = elsewhere.presign_put("a/c.bin", size=10, content_type=BIN, now=datetime.now(UTC), expires_in=PATIENCE)
    expires = dict(parse_qsl(urlsplit(url).query))["expires"]
    for refused, headers, content in (
        (url, {}, CONTENT),
        (url, {"Content-Type": JPEG}, CONTENT),
        (url, {"Content-Type": f"{BIN}; charset=utf-8"}, CONTENT),
        (url, signed, CONTENT + b"0"),
        (url, signed, CONTENT[:-1]),
        (url, signed, b""),
        (got, signed, CONTENT),
        (url.partition("?")[0], signed, CONTENT),
        (other_key.url.replace("c.bin", "b.bin"), signed, CONTENT),
        (url.replace("b.bin", "b.jpg"), {"Content-Type": JPEG}, CONTENT),
        (with_query(url, expires="9999999999"), signed, CONTENT),
        (with_query(url, expires=f"{expires}1"), signed, CONTENT[:1]),
        (with_query(url, expires=None), signed, CONTENT),
        (with_query(url, signature="0" * 64), signed, CONTENT),
        (with_query(url, uploadId=upload_id, partNumber="1"), signed, CONTENT),
        (with_query(url, uploadId="", partNumber=""), signed, CONTENT),
        (with_query(part, uploadId=None), {}, CONTENT),
        (with_query(part, uploadId=None, partNumber=None), {}, CONTENT),
        (with_query(part, partNumber="2"), {}, CONTENT),
        (with_query(part, partNumber="01"), {}, CONTENT),
        (with_query(part, uploadId="0" * 32), {}, CONTENT),
        (with_query(part, uploadId=upload_id + "1", partNumber=""), {}, CONTENT),
        (part, {}, CONTENT + b"0"),
        (part.replace("b.bin", "c.bin"), {}, CONTENT),
        (signed_put(storage, expires_in=timedelta(seconds=-1)).url, signed, CONTENT),
        (signed_part(storage, upload_id, expires_in=timedelta(seconds=-1)).url, {}, CONTENT),
    ):
        answer = await http.put(refused, content=content, headers=headers)
        assert (answer.status_code, list(answer.json())) == (403, ["error"]), (refused, headers)
        assert (answer.headers["access-control-allow-origin"], answer.headers["cache-control"]) == ("*", "no-store")
    for method in ("GET", "HEAD", "POST", "DELETE"):
        for address in (url, part):
            assert (await http.request(method, address)).status_code in {403, 405}
    assert files_below(root) == [f"{UPLOADS}/{upload_id}/key"]
    assert await storage.list_parts(KEY, upload_id) == []
    # None of this has done the URLs themselves any harm.
    assert (await http.put(url, content=CONTENT, headers=signed)).status_code == 200
    assert (await http.put(part, content=CONTENT)).status_code == 200


def test_no_character_moves_from_one_part_to_the_next(storage: LocalStorage) -> None:
    now = datetime.now(UTC)
    expires = int(now.timestamp()) + 60

    def verify(query: dict[str, str], *, key: str = KEY, length: str = "12", content_type: str = BIN) -> object:
        return storage.signer.verify_put(key, query, length=length, content_type=content_type, now=now)

    part = dict(parse_qsl(storage.signer.part_query(KEY, "abc", 12, size=12, expires=expires)))
    whole = dict(parse_qsl(storage.signer.put_query(KEY, size=12, content_type=BIN, expires=expires)))
    assert verify(part) == AllowedPart("abc", 12)
    assert verify(whole) is None
    for query, how in (
        (part | {"uploadId": "abc1", "partNumber": "2"}, {}),
        (part | {"uploadId": "ab", "partNumber": "c12"}, {}),
        (part | {"uploadId": "2abc"}, {"length": "1"}),
        (part | {"expires": f"{expires}1"}, {"length": "2"}),
        (part | {"expires": str(expires)[1:]}, {"key": f"{KEY}{str(expires)[0]}"}),
        (whole, {"length": "1", "content_type": f"2{BIN}"}),
        (whole | {"expires": f"{expires}1"}, {"length": "2"}),
        (whole | {"uploadId": BIN, "partNumber": ""}, {}),
    ):
        with pytest.raises(InvalidSignature):
            verify(query, **how)
    for query in (part, whole):
        with pytest.raises(InvalidSignature):
            storage.signer.verify("PUT", KEY, query, now=now)
        with pytest.raises(InvalidSignature):
            storage.signer.verify("GET", KEY, query | {"disposition": "12", "filename": BIN}, now=now)


async def test_an_expired_put_says_so(storage: LocalStorage, http: httpx.AsyncClient) -> None:
    request = signed_put(storage, expires_in=timedelta(seconds=-1))
    answer = await http.put(request.url, content=CONTENT, headers=request.headers)
    assert (answer.status_code, answer.json()) == (403, {"error": "the URL has expired"})


@pytest.mark.parametrize("key", ["../b.bin", "a/../../b.bin", ".incoming/b.bin", ".uploads/b.bin", "", "a/b.exe"])
async def test_no_path_leads_out(storage: LocalStorage, root: Path, key: str) -> None:
    """Not even one that we had signed, which no code of ours can do."""
    with pytest.raises(InvalidKey):
        signed_put(storage, key)
    expires = int(datetime.now(UTC).timestamp()) + 60
    query = storage.signer.put_query(key, size=10, content_type=BIN, expires=expires)
    base = signed_put(storage).url.partition(KEY)[0]
    raw = await raw_put(SignedRequest(f"{base}{key}?{query}", {}, datetime.now(UTC)), "Content-Length: 10")
    await raw.send(CONTENT)
    status, _ = await raw.head()
    await raw.close()
    assert status in {403, 404, 405}
    assert files_below(root.parent) == []


async def test_a_put_needs_its_length(storage: LocalStorage, http: httpx.AsyncClient, root: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield CONTENT

    request = signed_put(storage)
    answer = await http.put(request.url, content=body(), headers=request.headers)
    assert (answer.status_code, list(answer.json())) == (411, ["error"])
    assert files_below(root) == []


@pytest.mark.parametrize("headers", [["Content-Length: 10", "Transfer-Encoding: chunked"], ["Content-Length: 1e1"]])
async def test_two_minds_about_the_length(storage: LocalStorage, root: Path, headers: list[str]) -> None:
    raw = await raw_put(signed_put(storage), *headers)
    await raw.send(b"5\r\n01234\r\n0\r\n\r\n")
    status, _ = await raw.head()
    await raw.close()
    assert status == 400
    assert files_below(root) == []


async def test_a_refusal_does_not_wait_for_the_body(storage: LocalStorage, root: Path) -> None:
    for headers in (["Content-Length: 5497558138880"], ["Content-Length: 99", "Expect: 100-continue"]):
        raw = await raw_put(signed_put(storage), *headers)
        status, head = await raw.head()
        assert (status, b"connection: close" in head) == (403, True)
        await raw.close()
    assert files_below(root) == []


async def test_a_client_that_sends_on_hears_the_refusal(storage: LocalStorage) -> None:
    """It looks for the answer only when it has sent all; a reset before would have taken it away."""
    size = 32 * 1024**2
    raw = await raw_put(signed_put(storage), f"Content-Length: {size}")
    for _ in range(size // 2**20):
        await raw.send(bytes(2**20))
    status, _ = await raw.head()
    async with asyncio.timeout(10):
        assert b"signature" in await raw.reader.read()
    assert status == 403
    await raw.close()


async def test_a_client_that_asks_first_is_told_to_go_on(storage: LocalStorage) -> None:
    raw = await raw_put(signed_put(storage), "Content-Length: 10", "Expect: 100-continue")
    assert (await raw.head())[0] == 100
    await raw.send(CONTENT)
    assert (await raw.head())[0] == 200
    await raw.close()
    assert await read(storage, KEY) == CONTENT


async def test_one_connection_for_many(storage: LocalStorage, http: httpx.AsyncClient) -> None:
    raw = await raw_put(signed_put(storage), "Content-Length: 10")
    await raw.send(CONTENT)
    status, head = await raw.head()
    assert (status, b"connection: close" in head, b"content-length: 0" in head) == (200, False, True)
    url = urlsplit(storage.presign_get(KEY, now=datetime.now(UTC)).url)
    await raw.send(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
    assert (await raw.head())[0] == 200
    assert await raw.reader.readexactly(10) == CONTENT
    await raw.close()


async def half_arrived(storage: LocalStorage, root: Path, request: SignedRequest, size: int) -> RawPut:
    """A PUT of which so much has come that a file was begun."""
    raw = await raw_put(request, f"Content-Length: {size}")
    await raw.send(bytes(size // 2))
    await eventually(lambda: any((root / INCOMING).iterdir()))
    return raw


HALVES = 1024**2


async def test_a_body_that_breaks_off(storage: LocalStorage, root: Path) -> None:
    raw = await half_arrived(storage, root, signed_put(storage, size=HALVES), HALVES)
    await raw.close()
    await eventually(lambda: files_below(root) == [])


async def test_a_body_that_stalls(storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.3)
    raw = await half_arrived(storage, root, signed_put(storage, size=HALVES), HALVES)
    status, head = await raw.head()
    assert (status, b"connection: close" in head) == (400, True)
    assert files_below(root) == []
    await raw.close()


async def test_a_second_put_while_the_first_runs(storage: LocalStorage, http: httpx.AsyncClient, root: Path) -> None:
    request = signed_put(storage, size=HALVES)
    first = await half_arrived(storage, root, request, HALVES)
    second = await http.put(request.url, content=b"2" * HALVES, headers=request.headers)
    assert second.headers["etag"] == (await storage.head(KEY)).etag
    assert await read(storage, KEY) == b"2" * HALVES

    await first.send(bytes(HALVES - HALVES // 2))
    assert (await first.head())[0] == 200
    await first.close()
    assert await read(storage, KEY) == bytes(HALVES)
    assert files_below(root) == [KEY]


async def test_a_stream_of_another_length(storage: LocalStorage, root: Path) -> None:
    """No server lets one through, and yet."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(256 * 1024)

    for size in (1024**2 - 1, 1024**2 + 1, 0):
        with pytest.raises(SizeMismatch):
            await storage.receive(KEY, body(), size=size)
        assert files_below(root) == []


async def test_a_disk_that_is_full(storage: LocalStorage, http: httpx.AsyncClient, root: Path) -> None:
    upload_id = await begun(storage)
    before = files_below(root)
    request, part = signed_put(storage, size=HALVES), signed_part(storage, upload_id, size=HALVES)
    with files_limited_to(HALVES // 2):
        for answer in (
            await http.put(request.url, content=bytes(HALVES), headers=request.headers),
            await http.put(part.url, content=bytes(HALVES)),
        ):
            assert (answer.status_code, answer.json()) == (503, {"error": "the storage is not available"})
    assert files_below(root) == before
    assert (await http.put(part.url, content=bytes(HALVES))).status_code == 200


async def test_the_last_of_the_disk_is_not_taken(
    storage: LocalStorage, http: httpx.AsyncClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DISK_RESERVE", 2**62)
    request = signed_put(storage)
    assert (await http.put(request.url, content=CONTENT, headers=request.headers)).status_code == 503
    assert files_below(root) == []


async def test_without_its_folder(storage: LocalStorage, http: httpx.AsyncClient, root: Path) -> None:
    (root / INCOMING).rmdir()
    request = signed_put(storage)
    assert (await http.put(request.url, content=CONTENT, headers=request.headers)).status_code == 503
    assert [step.outcome for step in await storage.set_up()] == [SetUp.DONE, SetUp.THERE]
    assert [step.outcome for step in await storage.set_up()] == [SetUp.THERE, SetUp.THERE]
    assert (await http.put(request.url, content=CONTENT, headers=request.headers)).status_code == 200


async def test_any_origin_may_put(storage: LocalStorage, http: httpx.AsyncClient) -> None:
    asked = {
        "Origin": "https://anywhere.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type",
    }
    for url in (signed_put(storage).url, signed_put(storage).url.partition("?")[0]):
        answer = await http.options(url, headers=asked)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "GET, HEAD, PUT"
        assert answer.headers["access-control-allow-headers"] == "content-type"


# ---------------------------------------------------------------- parts


async def test_parts_of_an_upload_that_is_over(storage: LocalStorage, http: httpx.AsyncClient, root: Path) -> None:
    completed, aborted = await begun(storage), await begun(storage)
    await storage.complete_multipart(KEY, completed, [await arrive(storage, completed, 1, b"whole")])
    await storage.abort_multipart(KEY, aborted)
    for upload_id in (completed, aborted, "0" * 32):
        answer = await http.put(signed_part(storage, upload_id).url, content=CONTENT)
        assert (answer.status_code, answer.json()) == (404, {"error": "there is no such upload"})
        # Before a byte of it is read.
        raw = await raw_put(signed_part(storage, upload_id, size=5 * 1024**3), f"Content-Length: {5 * 1024**3}")
        assert (await raw.head())[0] == 404
        await raw.close()
    assert await read(storage, KEY) == b"whole"
    assert files_below(root) == [KEY]
    assert list((root / UPLOADS).iterdir()) == []


@pytest.mark.parametrize("upload_id", ["", ".", "..", "../../a", "key", "A" * 32, "0" * 31, "0" * 33, "0" * 31 + "\n"])
async def test_upload_ids_that_are_none(
    storage: LocalStorage, http: httpx.AsyncClient, root: Path, upload_id: str
) -> None:
    (root / "a").mkdir()
    (root / "a/key").write_text(KEY)
    (root / UPLOADS / "key").write_text(KEY)
    before = files_below(root.parent)
    with pytest.raises(UploadNotFound):
        await storage.list_parts(KEY, upload_id)
    with pytest.raises(UploadNotFound):
        await arrive(storage, upload_id, 1, CONTENT)
    with pytest.raises(UploadNotFound):
        await storage.complete_multipart(KEY, upload_id, [StoredPart(1, '"a"', 1)])
    await storage.abort_multipart(KEY, upload_id)
    query = urlencode(parse_qsl(urlsplit(signed_part(storage, upload_id).url).query, keep_blank_values=True))
    answer = await http.put(f"{signed_part(storage, upload_id).url.partition('?')[0]}?{query}", content=CONTENT)
    assert answer.status_code in {403, 404}
    assert files_below(root.parent) == before
    assert await open_uploads(storage) == []


async def test_an_upload_is_for_one_key(storage: LocalStorage, root: Path) -> None:
    upload_id = await begun(storage)
    parts = [await arrive(storage, upload_id, 1, CONTENT)]
    with pytest.raises(UploadNotFound):
        await storage.list_parts("a/c.bin", upload_id)
    with pytest.raises(UploadNotFound):
        await storage.complete_multipart("a/c.bin", upload_id, parts)
    await storage.abort_multipart("a/c.bin", upload_id)
    assert await storage.list_parts(KEY, upload_id) == parts
    assert files_below(root) == [f"{UPLOADS}/{upload_id}/1", f"{UPLOADS}/{upload_id}/key"]


@pytest.mark.parametrize("number", [0, -1, MAX_PARTS + 1])
async def test_there_is_no_such_part(storage: LocalStorage, number: int) -> None:
    with pytest.raises(ValueError, match="numbered"):
        signed_part(storage, "0" * 32, number)


async def test_ten_thousand_parts(storage: LocalStorage, root: Path) -> None:
    upload_id = await begun(storage)
    for number in range(1, MAX_PARTS + 1):
        (root / UPLOADS / upload_id / str(number)).write_bytes(b"x")
    parts = await storage.list_parts(KEY, upload_id)
    assert [part.number for part in parts] == list(range(1, MAX_PARTS + 1))
    with pytest.raises(InvalidParts, match=f"not {MAX_PARTS + 1}"):
        await storage.complete_multipart(KEY, upload_id, [*parts, StoredPart(MAX_PARTS + 1, '"a"', 1)])
    with pytest.raises(InvalidParts, match="only the last"):
        await storage.complete_multipart(KEY, upload_id, parts)
    await storage.abort_multipart(KEY, upload_id)
    assert files_below(root) == []


async def test_parts_that_are_not_so(storage: LocalStorage, root: Path) -> None:
    upload_id = await begun(storage)
    first, last = await two_parts(storage, upload_id)
    before = files_below(root)
    wrong: list[Sequence[StoredPart]] = [
        [],
        [last, first],
        [first, first],
        [first, StoredPart(2, '"0-0-0"', 1)],
        [first, last, StoredPart(3, last.etag, 1)],
        [StoredPart(0, last.etag, 1), first],
    ]
    for parts in wrong:
        with pytest.raises(InvalidParts):
            await storage.complete_multipart(KEY, upload_id, parts)
    again = await arrive(storage, upload_id, 2, b"c")
    with pytest.raises(InvalidParts):
        await storage.complete_multipart(KEY, upload_id, [first, last])
    with pytest.raises(ObjectNotFound):
        await storage.head(KEY)
    assert files_below(root) == before
    await storage.complete_multipart(KEY, upload_id, [first, again])
    assert await read(storage, KEY) == b"a" * MIN_PART_BYTES + b"c"


@pytest.mark.parametrize("end", ["abort", "complete"])
async def test_a_part_that_comes_while_the_upload_ends(storage: LocalStorage, root: Path, end: str) -> None:
    upload_id = await begun(storage)
    parts = [await arrive(storage, upload_id, 1, b"whole")]
    late = await half_arrived(storage, root, signed_part(storage, upload_id, 2, size=HALVES), HALVES)
    if end == "abort":
        await storage.abort_multipart(KEY, upload_id)
    else:
        await storage.complete_multipart(KEY, upload_id, parts)
    await late.send(bytes(HALVES - HALVES // 2))
    assert (await late.head())[0] == 404
    await late.close()
    assert files_below(root) == ([] if end == "abort" else [KEY])
    assert list((root / UPLOADS).iterdir()) == []


async def test_parts_race_with_aborts(storage: LocalStorage, root: Path) -> None:
    async def sent(upload_id: str, number: int) -> None:
        try:
            await arrive(storage, upload_id, number, CONTENT)
        except UploadNotFound:
            return

    for _ in range(20):
        upload_id = await begun(storage)
        await asyncio.gather(
            *(sent(upload_id, number) for number in range(1, 7)), storage.abort_multipart(KEY, upload_id)
        )
        assert files_below(root) == []
        assert list((root / UPLOADS).iterdir()) == []


async def test_one_of_two_completions_wins(storage: LocalStorage, root: Path) -> None:
    upload_id = await begun(storage)
    parts = await two_parts(storage, upload_id)
    outcomes = await asyncio.gather(
        *(storage.complete_multipart(KEY, upload_id, parts) for _ in range(4)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [UploadNotFound] * 3
    assert await read(storage, KEY) == b"a" * MIN_PART_BYTES + b"b"
    assert files_below(root) == [KEY]
    assert list((root / UPLOADS).iterdir()) == []


@pytest.mark.parametrize("end", ["abort", "complete"])
async def test_only_one_process_ends_an_upload(storage: LocalStorage, root: Path, end: str) -> None:
    upload_id = await begun(storage)
    parts = [await arrive(storage, upload_id, 1, b"whole")]
    abort, complete = storage.abort_multipart(KEY, upload_id), storage.complete_multipart(KEY, upload_id, parts)
    ending, other_way = (abort, complete) if end == "abort" else (complete, abort)
    other_way.close()
    with (root / UPLOADS / upload_id / "key").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        task = asyncio.create_task(ending)
        done, _ = await asyncio.wait([task], timeout=0.3)
        assert not done
        assert files_below(root) == [f"{UPLOADS}/{upload_id}/1", f"{UPLOADS}/{upload_id}/key"]
    await asyncio.wait_for(task, 10)
    assert files_below(root) == ([] if end == "abort" else [KEY])


def once(monkeypatch: pytest.MonkeyPatch, name: str, meanwhile: Callable[[], object]) -> None:
    """Makes `meanwhile` happen just before the next call of what is named so in the module of parts."""
    real = getattr(local_parts, name)

    def first(*arguments: object) -> object:
        monkeypatch.setattr(local_parts, name, real)
        meanwhile()
        return real(*arguments)

    monkeypatch.setattr(local_parts, name, first)


async def test_aborted_by_another_just_before(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await begun(storage)
    folder = root / UPLOADS / upload_id
    once(monkeypatch, "_lock", lambda: shutil.rmtree(folder))
    await storage.abort_multipart(KEY, upload_id)
    assert not folder.exists()


async def test_a_part_that_comes_while_the_others_are_removed(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await begun(storage)
    folder = root / UPLOADS / upload_id
    once(monkeypatch, "_remove_folder", lambda: (folder / "2").write_bytes(CONTENT))
    await storage.abort_multipart(KEY, upload_id)
    assert not folder.exists()


async def test_a_part_whose_upload_ended_as_it_was_stored(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await begun(storage)
    once(monkeypatch, "fsync", (root / UPLOADS / upload_id / "key").unlink)
    with pytest.raises(UploadNotFound):
        await arrive(storage, upload_id, 1, CONTENT)
    assert await storage.sweep(older_than=datetime.now(UTC) + timedelta(hours=1)) == 1
    assert files_below(root) == []


async def test_parts_that_are_removed_as_they_are_listed(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of them would look like all that has arrived."""
    upload_id = await begun(storage)
    await two_parts(storage, upload_id)
    once(monkeypatch, "etag_of", (root / UPLOADS / upload_id / "key").unlink)
    with pytest.raises(UploadNotFound):
        await storage.list_parts(KEY, upload_id)


async def test_a_part_that_is_replaced_as_it_is_joined(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await begun(storage)
    parts = await two_parts(storage, upload_id)
    (root.parent / "other").write_bytes(b"c")
    once(monkeypatch, "join", lambda: (root.parent / "other").rename(root / UPLOADS / upload_id / "2"))
    with pytest.raises(InvalidParts):
        await storage.complete_multipart(KEY, upload_id, parts)
    assert files_below(root) == [f"{UPLOADS}/{upload_id}/{name}" for name in ("1", "2", "key")]
    assert await storage.list_parts(KEY, upload_id) != parts


async def test_a_completion_leaves_the_last_of_the_disk(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await begun(storage)
    parts = await two_parts(storage, upload_id)
    before = files_below(root)
    needed = DISK_RESERVE + MIN_PART_BYTES + 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(StorageUnavailable, match=f"no room for {MIN_PART_BYTES + 1} bytes"):
        # The sizes are those of what has arrived, whatever the caller says.
        await storage.complete_multipart(KEY, upload_id, [replace(part, size=0) for part in parts])
    assert (files_below(root), await open_uploads(storage)) == (before, [upload_id])
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=needed))
    await storage.complete_multipart(KEY, upload_id, parts)
    assert files_below(root) == [KEY]
    assert await read(storage, KEY) == b"a" * MIN_PART_BYTES + b"b"


async def test_others_fill_the_disk_meanwhile(
    storage: LocalStorage, http: httpx.AsyncClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = await begun(storage)
    parts = await two_parts(storage, upload_id)
    before = files_below(root)
    left = iter([2**40, DISK_RESERVE - 1, 2**40, DISK_RESERVE - 1])  # at the beginning, and then, of each
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=next(left)))
        with pytest.raises(StorageUnavailable, match="no room"):
            await storage.complete_multipart(KEY, upload_id, parts)
        assert (await http.put(signed_part(storage, upload_id).url, content=CONTENT)).status_code == 503
    assert list(left) == []
    assert (files_below(root), await open_uploads(storage)) == (before, [upload_id])
    await storage.complete_multipart(KEY, upload_id, parts)
    assert files_below(root) == [KEY]


async def test_a_copy_leaves_the_last_of_the_disk(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.put(KEY, CONTENT, size=len(CONTENT), content_type=BIN)
    needed = DISK_RESERVE + len(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(StorageUnavailable, match="no room"):
        await storage.copy(KEY, "a/c.bin")
    assert files_below(root) == [KEY]
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=needed))
    await storage.copy(KEY, "a/c.bin")
    assert await read(storage, "a/c.bin") == CONTENT


async def test_a_completion_without_room_leaves_the_upload_open(storage: LocalStorage, root: Path) -> None:
    upload_id = await begun(storage)
    parts = await two_parts(storage, upload_id)
    before = files_below(root)
    with files_limited_to(MIN_PART_BYTES - 1), pytest.raises(StorageUnavailable):
        await storage.complete_multipart(KEY, upload_id, parts)
    assert files_below(root) == before
    await storage.complete_multipart(KEY, upload_id, parts)
    assert (await storage.head(KEY)).size == MIN_PART_BYTES + 1


DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from storage import local, local_files, local_parts
from storage.base import StoredPart
from storage.local import LocalStorage
from storage.signing import UrlSigner

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

module, name, root, upload_id, *parts = sys.argv[1:]
setattr({"local": local, "local_parts": local_parts, "local_files": local_files}[module], name, die)
storage = LocalStorage(Path(root), signer=UrlSigner(b"a secret for tests only"), base_url="http://localhost/files")
stored = [StoredPart(number, etag, 0) for number, etag in enumerate(parts, 1)]
asyncio.run(storage.complete_multipart("a/b.bin", upload_id, stored))
"""


@pytest.mark.parametrize(
    ("where", "there", "still_open"),
    [
        ("local_parts.join", False, True),
        ("local.publish", False, True),
        ("local_parts._end", True, True),
        ("local_parts._remove", True, False),
    ],
)
async def test_a_crash_while_completing(
    storage: LocalStorage, root: Path, where: str, there: bool, still_open: bool
) -> None:
    upload_id = await begun(storage)
    parts = await two_parts(storage, upload_id)
    arguments = [*where.split("."), str(root), upload_id, *(part.etag for part in parts)]
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DYING, *arguments], cwd=Path(__file__).parents[2], timeout=60
    )
    assert died.returncode == -9
    assert (root / KEY).exists() == there
    assert await open_uploads(storage) == ([upload_id] if still_open else [])

    if still_open:
        await storage.complete_multipart(KEY, upload_id, parts)
    with pytest.raises(UploadNotFound):
        await storage.complete_multipart(KEY, upload_id, parts)
    assert await read(storage, KEY) == b"a" * MIN_PART_BYTES + b"b"
    await storage.sweep(older_than=datetime.now(UTC) + timedelta(hours=1))
    assert files_below(root) == [KEY]
    assert list((root / UPLOADS).iterdir()) == []


async def test_what_is_open_is_listed_and_not_swept(storage: LocalStorage, root: Path) -> None:
    upload_id = await begun(storage)
    await arrive(storage, upload_id, 1, CONTENT)
    for name in ("never-begun", "ended"):
        (root / UPLOADS / name).mkdir()
    (root / UPLOADS / "ended" / "1").write_bytes(CONTENT)

    [upload] = [upload async for upload in storage.list_multiparts()]
    assert (upload.key, upload.upload_id) == (KEY, upload_id)
    assert abs(datetime.now(UTC) - upload.begun) < timedelta(minutes=1)
    assert [stored.key async for stored in storage.list("")] == []
    assert await storage.sweep(older_than=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await storage.sweep(older_than=datetime.now(UTC) + timedelta(hours=1)) == 2
    assert files_below(root) == [f"{UPLOADS}/{upload_id}/1", f"{UPLOADS}/{upload_id}/key"]


# ---------------------------------------------------------------- copies


async def test_a_copy_is_another_file_of_its_own_age(storage: LocalStorage, root: Path) -> None:
    source = await storage.put(KEY, CONTENT, size=10, content_type=BIN)
    os.utime(root / KEY, (1, 1))
    copy = await storage.copy(KEY, "c/d.bin")
    assert not (root / KEY).samefile(root / copy.key)
    assert datetime.now(UTC) - copy.modified < timedelta(minutes=1)
    assert (root / KEY).stat().st_mtime == 1
    assert copy == await storage.head("c/d.bin")
    assert copy.etag != source.etag
    assert await read(storage, "c/d.bin") == CONTENT
    assert files_below(root) == [KEY, "c/d.bin"]


async def test_a_copy_onto_itself(storage: LocalStorage, root: Path) -> None:
    await storage.put(KEY, CONTENT, size=10, content_type=BIN)
    await storage.copy(KEY, KEY)
    assert await read(storage, KEY) == CONTENT
    assert files_below(root) == [KEY]


async def test_a_copy_without_room(storage: LocalStorage, root: Path) -> None:
    await storage.put(KEY, bytes(HALVES), size=HALVES, content_type=BIN)
    with files_limited_to(HALVES - 1), pytest.raises(StorageUnavailable):
        await storage.copy(KEY, "c/d.bin")
    assert files_below(root) == [KEY]


async def test_bytes_are_copied_where_the_kernel_does_not(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "another")
    content = os.urandom(HALVES + 1)
    await storage.put(KEY, content, size=len(content), content_type=BIN)
    await storage.copy(KEY, "c/d.bin")
    assert await read(storage, "c/d.bin") == content
