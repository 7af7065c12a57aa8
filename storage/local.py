"""Objects as files below one folder, served and received by our own routes behind signed URLs."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TypeVar

from storage.base import (
    CHUNK_BYTES,
    MAX_PARTS,
    InvalidKey,
    ObjectNotFound,
    OpenUpload,
    SetUp,
    SetUpStep,
    SignedRequest,
    SignedUrl,
    StorageUnavailable,
    StoredObject,
    StoredPart,
)
from storage.disposition import safe_filename
from storage.keys import check_content_type, content_type_of, validate_key, validate_prefix
from storage.local_files import Incoming, expect_room, failures, fill, join, publish
from storage.local_listing import stored_object, walk
from storage.local_parts import BeingEnded, PartsFolder
from storage.signing import (
    DEFAULT_LIFETIME,
    DEFAULT_WINDOW,
    Disposition,
    Period,
    SignedUrls,
    SigningWindow,
    UrlSigner,
)

T = TypeVar("T")

# No key can begin with a dot.
INCOMING = ".incoming"
UPLOADS = ".uploads"
LIST_BATCH = 500  # objects a thread's hop: a hop costs as much as some twenty stats
COMPLETIONS = 2  # at once: each has a thread to itself while it copies, and reading needs threads too
ENDING_POLL_SECONDS = 0.05


class LocalStorage:
    """`base_url` is where `app.files` is mounted, `/files` included. The folders are made when they are missing."""

    name = "local"
    bucket = None

    def __init__(
        self,
        root: Path,
        *,
        signer: UrlSigner,
        base_url: str,
        lifetime: timedelta = DEFAULT_LIFETIME,
        window: timedelta = DEFAULT_WINDOW,
    ) -> None:
        self.signer = signer
        self._root = root.resolve()
        self._incoming = Incoming(self._root / INCOMING)
        self._parts = PartsFolder(self._root / UPLOADS, self._incoming)
        self._completions = asyncio.Semaphore(COMPLETIONS)
        self._base_url = base_url.rstrip("/")
        self._urls = SignedUrls(SigningWindow(lifetime=lifetime, window=window), self._sign)
        self._set_up()

    async def put(
        self, key: str, source: bytes | Path, *, size: int, content_type: str, handed_over: bool = True
    ) -> StoredObject:
        check_content_type(key, content_type)
        return await asyncio.to_thread(self._put, key, source, size, handed_over)

    async def receive(self, key: str, chunks: AsyncIterable[bytes], *, size: int) -> StoredObject:
        """`put` of a stream. Raises SizeMismatch as soon as it is too long, and what the stream raises."""
        content_type_of(key)  # raises InvalidKey
        path = await asyncio.to_thread(self._checked, key)
        async with self._incoming.received(chunks, size) as finished:
            return await asyncio.to_thread(self._publish, key, finished, path)

    async def open(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if start < 0 or (end is not None and end < 0):
            raise ValueError("a range counts from the object's first byte")
        file = await asyncio.to_thread(self._open, key)
        try:
            position = start
            while end is None or position < end:
                length = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - position)
                # pread, not read: a cancelled reader's thread may still run when the descriptor has been closed and
                # given to another file, whose position it must not move.
                chunk = await asyncio.to_thread(os.pread, file.fileno(), length, position)
                if not chunk:
                    return
                position += len(chunk)
                yield chunk
        except OSError as error:
            raise StorageUnavailable(f"reading {key} failed: {error.strerror}") from error
        finally:
            file.close()

    async def head(self, key: str) -> StoredObject:
        return await asyncio.to_thread(self._head, key)

    async def delete(self, keys: Iterable[str]) -> None:
        await asyncio.to_thread(self._delete, [self._checked(key) for key in keys])

    async def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        folder = validate_prefix(prefix)[: prefix.rfind("/") + 1]
        await asyncio.to_thread(self._checked, f"{folder}x")
        found = walk(self._root, folder, prefix)
        while batch := await asyncio.to_thread(_batch, found):
            for stored in batch:
                yield stored

    async def copy(self, source: str, target: str) -> StoredObject:
        check_content_type(target, content_type_of(source))
        return await asyncio.to_thread(self._copy, source, target)

    async def create_multipart(self, key: str, *, content_type: str) -> str:
        check_content_type(validate_key(key), content_type)
        return await asyncio.to_thread(self._parts.begin, key)

    async def receive_part(
        self, key: str, upload_id: str, number: int, chunks: AsyncIterable[bytes], *, size: int
    ) -> StoredPart:
        """A stream as a part. Raises as `receive` does, and UploadNotFound, also when the upload ends meanwhile."""
        await asyncio.to_thread(self._parts.expect, key, upload_id)
        async with self._incoming.received(chunks, size) as finished:
            return await asyncio.to_thread(self._parts.take, key, upload_id, number, finished)

    async def list_parts(self, key: str, upload_id: str) -> Sequence[StoredPart]:
        return await asyncio.to_thread(self._parts.parts, validate_key(key), upload_id)

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[StoredPart]) -> None:
        path = await asyncio.to_thread(self._checked, key)

        async def complete() -> None:
            await self._completions.acquire()
            joining = asyncio.ensure_future(
                asyncio.to_thread(self._parts.complete, key, upload_id, parts, lambda finished: publish(finished, path))
            )
            # When the thread has ended: it goes on for a caller who is cancelled, and counts as long.
            joining.add_done_callback(lambda _: self._completions.release())
            await asyncio.shield(joining)

        await _in_turn(complete)

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        await _in_turn(lambda: asyncio.to_thread(self._parts.abort, validate_key(key), upload_id))

    async def list_multiparts(self) -> AsyncGenerator[OpenUpload, None]:
        found = filter(None, map(self._parts.upload, await asyncio.to_thread(self._parts.names)))
        while batch := await asyncio.to_thread(_batch, found):
            for upload in batch:
                yield upload

    async def set_up(self) -> Sequence[SetUpStep]:
        return await asyncio.to_thread(self._set_up)

    async def ready(self) -> None:
        await asyncio.to_thread(self._ready)

    def presign_get(self, key: str, *, now: datetime, filename: str | None = None, inline: bool = True) -> SignedUrl:
        return self._urls.get_url(key, now=now, filename=filename, inline=inline)

    def presigned(self, now: datetime) -> SignedUrls:
        return self._urls.at(now)

    def presign_put(
        self, key: str, *, size: int, content_type: str, now: datetime, expires_in: timedelta
    ) -> SignedRequest:
        check_content_type(validate_key(key), content_type)
        period = Period.starting(now, expires_in)
        query = self.signer.put_query(key, size=size, content_type=content_type, expires=period.expires)
        return SignedRequest(self._url(key, query), {"Content-Type": content_type}, period.expires_at)

    def presign_part(
        self, key: str, upload_id: str, number: int, *, size: int, now: datetime, expires_in: timedelta
    ) -> SignedRequest:
        if not 1 <= number <= MAX_PARTS:
            raise ValueError(f"parts are numbered from 1 to {MAX_PARTS}, not {number}")
        period = Period.starting(now, expires_in)
        query = self.signer.part_query(validate_key(key), upload_id, number, size=size, expires=period.expires)
        return SignedRequest(self._url(key, query), {}, period.expires_at)

    async def sweep(self, *, older_than: datetime) -> int:
        """Remove what interrupted puts, completions and aborts left; how many of them there were."""
        return await asyncio.to_thread(self._sweep, older_than)

    def _sign(self, key: str, period: Period, disposition: Disposition, filename: str | None) -> str:
        name = safe_filename(filename) if filename else None
        query = self.signer.query("GET", key, expires=period.expires, disposition=disposition, filename=name)
        return self._url(key, query)

    def _url(self, key: str, query: str) -> str:
        return f"{self._base_url}/{key}?{query}"

    def _checked(self, key: str) -> Path:
        """The file of `key`. A symbolic link on the way, even one of the operator's, does not lead out of the root."""
        path = self._root / validate_key(key)
        if path.parent.resolve() != path.parent:
            raise InvalidKey(f"the key {key} leads through a symbolic link")
        return path

    def _put(self, key: str, source: bytes | Path, size: int, may_link: bool) -> StoredObject:
        path = self._checked(key)
        with failures(f"storing {key}"), self._incoming.unfinished() as temporary:
            facts = fill(temporary, source, size, may_link=may_link)
            publish(temporary, path)
        return stored_object(key, facts)

    def _publish(self, key: str, finished: Path, path: Path) -> StoredObject:
        with failures(f"storing {key}"):
            facts = finished.stat()
            publish(finished, path)
        return stored_object(key, facts)

    def _copy(self, source: str, target: str) -> StoredObject:
        path = self._checked(target)
        # Not a link: its time would be that of both, and a new object must not look as old as the other one.
        with self._open(source) as original, failures(f"copying {source}"), self._incoming.unfinished() as temporary:
            expect_room(self._incoming.folder, os.fstat(original.fileno()).st_size)
            facts = join(temporary, [original])
            publish(temporary, path)
        return stored_object(target, facts)

    def _open(self, key: str) -> FileIO:
        # An object, not a bare descriptor: a reader cancelled while this thread runs drops it, which closes it.
        path = self._checked(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _missing_or_unavailable(key, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ObjectNotFound(key)
        return FileIO(descriptor)

    def _head(self, key: str) -> StoredObject:
        try:
            facts = self._checked(key).lstat()
        except OSError as error:
            raise _missing_or_unavailable(key, error) from error
        if not stat.S_ISREG(facts.st_mode):
            raise ObjectNotFound(key)
        return stored_object(key, facts)

    def _delete(self, paths: Sequence[Path]) -> None:
        for path in paths:
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError as error:
                raise StorageUnavailable(f"deleting failed: {error.strerror}") from error
            self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        with suppress(OSError):  # the first folder with something in it ends the climb
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def _set_up(self) -> Sequence[SetUpStep]:
        steps = []
        for folder in (self._incoming.folder, self._parts.folder):
            there = folder.is_dir()
            with failures(f"making {folder}"):
                folder.mkdir(parents=True, exist_ok=True)
            steps.append(SetUpStep(f"folder {folder}", SetUp.THERE if there else SetUp.DONE))
        return steps

    def _ready(self) -> None:
        for folder in (self._incoming.folder, self._parts.folder):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StorageUnavailable(f"{folder} is missing or cannot be written to")

    def _sweep(self, older_than: datetime) -> int:
        return self._incoming.sweep(older_than) + self._parts.sweep(older_than)


def _missing_or_unavailable(key: str, error: OSError) -> ObjectNotFound | StorageUnavailable:
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}:
        return ObjectNotFound(key)
    return StorageUnavailable(f"reading {key} failed: {error.strerror}")


def _batch(found: Iterator[T]) -> list[T]:
    return list(islice(found, LIST_BATCH))


async def _in_turn(end: Callable[[], Awaitable[None]]) -> None:
    """Once nobody else is ending the same upload. It is waited for without a thread, for it may take minutes."""
    while True:
        try:
            return await end()
        except BeingEnded:
            await asyncio.sleep(ENDING_POLL_SECONDS)
