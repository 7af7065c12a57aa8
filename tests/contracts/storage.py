"""What every ObjectStorage must do, whichever it is. A subclass gives the `storage` fixture and its URLs' names."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from storage.base import (
    CHUNK_BYTES,
    InvalidKey,
    ObjectNotFound,
    ObjectStorage,
    SizeMismatch,
    StoredObject,
)

JPEG = "image/jpeg"
MIB = 1024 * 1024
CLOCK_TOLERANCE = timedelta(seconds=2)  # S3 tells whole seconds


async def read(storage: ObjectStorage, key: str, **span: int) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key, **span)])


async def keys_below(storage: ObjectStorage, prefix: str) -> list[str]:
    return [stored.key async for stored in storage.list(prefix)]


def with_parameter(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query, strict_parsing=True))
    assert name in parameters
    return urlunsplit(parts._replace(query=urlencode(parameters | {name: value})))


class StorageContract:
    expiry_parameter: str
    signature_parameter: str
    filename_parameter: str
    expired_status = 403
    unsigned_status = 403
    partial_status = 206

    async def test_bytes_come_back_as_they_went_in(self, storage: ObjectStorage, folder: str) -> None:
        key = f"{folder}/a.jpg"
        put = await storage.put(key, b"\x00\xffbytes", size=7, content_type=JPEG)

        assert await read(storage, key) == b"\x00\xffbytes"
        assert (put.key, put.size, put.content_type) == (key, 7, JPEG)
        assert abs(put.modified - datetime.now(UTC)) < timedelta(minutes=1)

    async def test_head_list_and_put_agree(self, storage: ObjectStorage, folder: str) -> None:
        put = await storage.put(f"{folder}/a.jpg", b"bytes", size=5, content_type=JPEG)
        head = await storage.head(put.key)
        [listed] = [stored async for stored in storage.list(folder)]

        for other in (head, listed):
            assert abs(other.modified - put.modified) <= CLOCK_TOLERANCE
            assert other == StoredObject(put.key, 5, JPEG, put.etag, other.modified)
        assert put.etag.startswith('"')
        assert put.etag.endswith('"')
        assert head.modified.tzinfo is UTC

    @pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES + 1, 9 * MIB], ids=["empty", "1 B", "256 KiB + 1", "9 MiB"])
    async def test_files_of_every_size(self, storage: ObjectStorage, folder: str, tmp_path: Path, size: int) -> None:
        source = tmp_path / "source"
        content = (bytes(range(251)) * (size // 251 + 1))[:size]
        source.write_bytes(content)
        put = await storage.put(f"{folder}/a.bin", source, size=size, content_type="application/octet-stream")
        source.unlink()
        chunks = [chunk async for chunk in storage.open(put.key)]

        assert put.size == size
        assert b"".join(chunks) == content
        assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)

    async def test_put_replaces(self, storage: ObjectStorage, folder: str) -> None:
        first = await storage.put(f"{folder}/a.jpg", b"first", size=5, content_type=JPEG)
        second = await storage.put(first.key, b"second", size=6, content_type=JPEG)

        assert await read(storage, first.key) == b"second"
        assert (await storage.head(first.key)).etag == second.etag != first.etag
        assert await keys_below(storage, folder) == [first.key]

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (3, 7, b"3456"),
            (9, 10, b"9"),
            (8, 99, b"89"),
            (0, 0, b""),
            (4, 4, b""),
            (10, None, b""),
            (99, 120, b""),
        ],
    )
    async def test_ranges(
        self, storage: ObjectStorage, folder: str, start: int, end: int | None, expected: bytes
    ) -> None:
        key = f"{folder}/a.jpg"
        await storage.put(key, b"0123456789", size=10, content_type=JPEG)
        chunks = [chunk async for chunk in storage.open(key, start=start, end=end)]

        assert b"".join(chunks) == expected

    async def test_a_reader_may_leave_early(self, storage: ObjectStorage, folder: str) -> None:
        key = f"{folder}/a.bin"
        await storage.put(key, bytes(2 * MIB), size=2 * MIB, content_type="application/octet-stream")
        async with aclosing(storage.open(key)) as chunks:
            assert set(await anext(chunks)) == {0}

        assert len(await read(storage, key)) == 2 * MIB

    async def test_what_is_missing(self, storage: ObjectStorage, folder: str) -> None:
        missing = f"{folder}/missing.jpg"
        with pytest.raises(ObjectNotFound):
            await storage.head(missing)
        for span in ({}, {"start": 3}, {"start": 3, "end": 3}):
            with pytest.raises(ObjectNotFound):
                await read(storage, missing, **span)
        await storage.delete([missing])
        assert await keys_below(storage, folder) == []

    @pytest.mark.parametrize("announced", [4, 6, 0])
    async def test_a_wrong_size_stores_nothing(
        self, storage: ObjectStorage, folder: str, tmp_path: Path, announced: int
    ) -> None:
        key = f"{folder}/a.jpg"
        source = tmp_path / "source"
        source.write_bytes(b"bytes")
        for given in (b"bytes", source):
            with pytest.raises(SizeMismatch):
                await storage.put(key, given, size=announced, content_type=JPEG)
        with pytest.raises(ObjectNotFound):
            await storage.head(key)
        assert await keys_below(storage, folder) == []

    async def test_a_failed_put_keeps_what_was_there(self, storage: ObjectStorage, folder: str) -> None:
        key = f"{folder}/a.jpg"
        await storage.put(key, b"first", size=5, content_type=JPEG)
        with pytest.raises(SizeMismatch):
            await storage.put(key, b"second", size=5, content_type=JPEG)
        assert await read(storage, key) == b"first"

    async def test_the_content_type_is_the_keys(self, storage: ObjectStorage, folder: str) -> None:
        with pytest.raises(ValueError, match="says image/jpeg, not text/html"):
            await storage.put(f"{folder}/a.jpg", b"bytes", size=5, content_type="text/html")
        assert await keys_below(storage, folder) == []

    async def test_delete_takes_many_and_only_those(self, storage: ObjectStorage, folder: str) -> None:
        keys = [f"{folder}/{number}.jpg" for number in range(5)]
        await asyncio.gather(*(storage.put(key, b"x", size=1, content_type=JPEG) for key in keys))
        await storage.delete([keys[0], f"{folder}/missing.jpg", keys[3], *(f"{folder}/{n}.png" for n in range(1001))])
        assert await keys_below(storage, folder) == [keys[1], keys[2], keys[4]]
        await storage.delete([])
        await storage.delete(iter(keys))
        assert await keys_below(storage, folder) == []

    async def test_list_is_by_prefix_in_the_order_of_bytes(self, storage: ObjectStorage, folder: str) -> None:
        names = ["a-b/x.jpg", "a.jpg", "a/b.jpg", "a/b/c.jpg", "a0.jpg", "aB.jpg", "a_b.jpg", "ab.jpg", "b.jpg"]
        keys = [f"{folder}/{name}" for name in names]
        for key in reversed(keys):
            await storage.put(key, b"x", size=1, content_type=JPEG)

        assert await keys_below(storage, f"{folder}/") == sorted(keys)
        assert await keys_below(storage, f"{folder}/a/") == [f"{folder}/a/b.jpg", f"{folder}/a/b/c.jpg"]
        assert await keys_below(storage, f"{folder}/a/b.") == [f"{folder}/a/b.jpg"]
        assert await keys_below(storage, f"{folder}/ab") == [f"{folder}/ab.jpg"]
        assert await keys_below(storage, f"{folder}/a.jpg/x") == []
        assert await keys_below(storage, f"{folder}/none/") == []

    @pytest.mark.parametrize(
        "key", ["", "/a.jpg", "a//b.jpg", "../a.jpg", "a/../b.jpg", "a/.b.jpg", "ä.jpg", "a\0.jpg"]
    )
    async def test_other_keys_than_ours_are_refused(self, storage: ObjectStorage, key: str) -> None:
        with pytest.raises(InvalidKey):
            await storage.put(key, b"x", size=1, content_type=JPEG)
        with pytest.raises(InvalidKey):
            await storage.head(key)
        with pytest.raises(InvalidKey):
            await read(storage, key)
        with pytest.raises(InvalidKey):
            await storage.delete([key])
        with pytest.raises(InvalidKey):
            storage.presign_get(key, now=datetime.now(UTC))

    async def test_ready(self, storage: ObjectStorage) -> None:
        await storage.ready()

    async def test_a_signed_url_gives_the_bytes(
        self, storage: ObjectStorage, folder: str, http: httpx.AsyncClient
    ) -> None:
        key = f"{folder}/a.jpg"
        await storage.put(key, b"0123456789", size=10, content_type=JPEG)
        signed = storage.presign_get(key, now=datetime.now(UTC), filename='Großmutter & "ich".jpg')
        whole = await http.get(signed.url)
        part = await http.get(signed.url, headers={"Range": "bytes=2-4"})

        assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, b"0123456789", JPEG)
        assert whole.headers["content-disposition"] == (
            "inline; filename=\"Gro_mutter & _ich_.jpg\"; filename*=UTF-8''Gro%C3%9Fmutter%20%26%20%22ich%22.jpg"
        )
        assert (part.status_code, part.content, part.headers["content-range"]) == (
            self.partial_status,
            b"234",
            "bytes 2-4/10",
        )

    async def test_a_signed_url_can_ask_for_a_download(
        self, storage: ObjectStorage, folder: str, http: httpx.AsyncClient
    ) -> None:
        now = datetime.now(UTC)
        picture = await storage.put(f"{folder}/a.jpg", b"x", size=1, content_type=JPEG)
        unknown = await storage.put(f"{folder}/a.bin", b"x", size=1, content_type="application/octet-stream")
        asked = await http.get(storage.presign_get(picture.key, now=now, inline=False).url)
        forced = await http.get(storage.presign_get(unknown.key, now=now, inline=True).url)

        assert asked.headers["content-disposition"] == "attachment"
        assert forced.headers["content-disposition"] == "attachment"

    async def test_a_tampered_url_is_refused(
        self, storage: ObjectStorage, folder: str, http: httpx.AsyncClient
    ) -> None:
        secret = await storage.put(f"{folder}/secret.jpg", b"secret", size=6, content_type=JPEG)
        mine = await storage.put(f"{folder}/mine.jpg", b"mine", size=4, content_type=JPEG)
        url = storage.presign_get(mine.key, now=datetime.now(UTC), filename="mine.jpg").url
        assert (await http.get(url)).content == b"mine"

        for tampered in (
            url.replace(mine.key, secret.key),
            with_parameter(url, self.expiry_parameter, "86399"),
            with_parameter(url, self.signature_parameter, "0" * 64),
            with_parameter(url, self.filename_parameter, "yours.jpg"),
        ):
            answer = await http.get(tampered)
            assert answer.status_code == 403, tampered
            assert b"mine" not in answer.content.replace(mine.key.encode(), b"")
        assert (await http.get(with_parameter(url, self.signature_parameter, ""))).status_code == self.unsigned_status

    async def test_an_expired_url_is_refused(
        self, storage: ObjectStorage, folder: str, http: httpx.AsyncClient
    ) -> None:
        stored = await storage.put(f"{folder}/a.jpg", b"secret", size=6, content_type=JPEG)
        signed = storage.presign_get(stored.key, now=datetime.now(UTC) - timedelta(hours=2))
        answer = await http.get(signed.url)

        assert signed.expires_at < datetime.now(UTC)
        assert answer.status_code == self.expired_status
        assert answer.content != b"secret"

    async def test_a_url_is_stable_within_its_window(self, storage: ObjectStorage) -> None:
        start = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
        first = storage.presign_get("a/b.jpg", now=start)

        assert storage.presign_get("a/b.jpg", now=start + timedelta(minutes=14, seconds=59)) == first
        assert first.expires_at == start + timedelta(hours=1)
        later = storage.presign_get("a/b.jpg", now=start + timedelta(minutes=15))
        assert later.url != first.url
        assert later.expires_at == start + timedelta(hours=1, minutes=15)
