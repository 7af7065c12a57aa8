"""Files that are there as a whole or not at all, after a crash and on a full disk too."""

import asyncio
import errno
import os
import secrets
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from storage.base import CHUNK_BYTES, SizeMismatch, StorageUnavailable, has_room

FOLDER_RACE_ATTEMPTS = 20  # deletes may remove the folder that a put has just made; each loses some 50 µs
COPY_BYTES = 64 * 1024**2  # one call to the kernel, which can't be interrupted; far less than DISK_RESERVE

# Not ours to judge: these mean that a hard link can't be had here, and a copy is made instead.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
# Nor these: that the kernel doesn't copy between such files, and we do.
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


class Incoming:
    """The folder in which files are made before they are published: what stays in it was interrupted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def unfinished(self) -> Iterator[Path]:
        """A name for a new file, which is gone after the block unless it was renamed."""
        path = self._new()
        try:
            yield path
        finally:
            # Also after success: rename does nothing, and leaves both names, when they are links to one file, as when
            # the same source is stored twice under the same key.
            path.unlink(missing_ok=True)

    @asynccontextmanager
    async def received(self, chunks: AsyncIterable[bytes], size: int) -> AsyncIterator[Path]:
        """A durable file of exactly `size` bytes from the stream, which is gone after the block unless it was renamed.

        Raises SizeMismatch, StorageUnavailable, and what the stream raises.
        """
        await asyncio.to_thread(expect_room, self.folder, size)
        file = _ArrivingFile(self._new())
        try:
            await _receive(file, chunks, size)
            yield file.path
        finally:
            # Shielded: a second cancellation must not take back the work while it waits for a free thread.
            await asyncio.shield(asyncio.to_thread(file.discard))

    def sweep(self, older_than: datetime) -> int:
        swept = 0
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                # ctime: a hard link's mtime is set only once it is complete
                if path.lstat().st_ctime < older_than.timestamp():
                    path.unlink()
                    swept += 1
        return swept

    def _new(self) -> Path:
        return self.folder / secrets.token_hex(16)


class _ArrivingFile:
    """One file that is written in worker threads, as its bytes come.

    A cancelled task does not stop its thread: the lock, and the mark that is looked at under it, keep a write that
    comes late from making the file anew, or from another file's descriptor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._discarded = False
        self._lock = Lock()

    def append(self, data: bytearray) -> None:
        with self._lock, failures("receiving"):
            if self._discarded:
                return
            if self._file is None:
                self._file = self.path.open("xb")
            expect_room(self.path.parent)
            self._file.write(data)

    def finish(self, data: bytearray) -> None:
        """Write the rest, and close."""
        self.append(data)
        with self._lock, failures("receiving"):
            if self._file is not None and not self._discarded:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._file is not None:
                with suppress(OSError):  # a full disk refuses what is still buffered
                    self._file.close()
                self.path.unlink(missing_ok=True)


async def _receive(file: _ArrivingFile, chunks: AsyncIterable[bytes], size: int) -> None:
    received = 0
    pending = bytearray()
    async for chunk in chunks:
        received += len(chunk)
        if received > size:
            raise SizeMismatch(f"more than the {size} bytes that were announced")
        pending += chunk
        if len(pending) >= CHUNK_BYTES:
            await asyncio.to_thread(file.append, pending)
            pending = bytearray()
    if received != size:
        raise SizeMismatch(f"{received} bytes came, {size} were announced")
    await asyncio.to_thread(file.finish, pending)


def expect_room(folder: Path, size: int = 0) -> None:
    """Raises StorageUnavailable when `size` bytes more would take the last of the disk.

    It is asked before a file is begun, and again as it grows, for others grow beside it.
    """
    with failures("looking for room"):
        if not has_room(folder, size):
            raise StorageUnavailable(f"the disk has no room for {size} bytes")


def fill(target: Path, source: bytes | Path, size: int, *, may_link: bool) -> os.stat_result:
    """Make the new file `target` hold exactly the `size` bytes of `source`, durably; a link where that can be, and may.

    Raises StorageUnavailable when the disk has come to its reserve by a copy.
    """
    if isinstance(source, bytes):
        if len(source) != size:
            raise SizeMismatch(f"{len(source)} bytes were given, {size} announced")
        target.write_bytes(source)
    elif not (may_link and _link(source, target)):
        with FileIO(source) as original:
            return _of_size(join(target, [original]), size)
    _of_size(target.stat(), size)
    # A link keeps its source's time, by which a sweep for orphans would take a new object for an old one.
    os.utime(target)
    fsync(target)
    return target.stat()


def _of_size(facts: os.stat_result, size: int) -> os.stat_result:
    if facts.st_size != size:
        raise SizeMismatch(f"the source has {facts.st_size} bytes, {size} were announced")
    return facts


def join(target: Path, sources: Iterable[FileIO]) -> os.stat_result:
    """Make the new file `target` of the sources' bytes, one after the other, durably; no link, so of a new age.

    Raises StorageUnavailable when the disk has come to its reserve.
    """
    with FileIO(target, "xb") as whole:
        for source in sources:
            _append(whole.fileno(), source.fileno(), target.parent)
        os.fsync(whole.fileno())
        return os.fstat(whole.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, in place of what has it, durably. The folders on the way are made."""
    for attempt in range(FOLDER_RACE_ATTEMPTS):
        try:
            made = _make_folders(path.parent)
            temporary.replace(path)
            break
        except (FileNotFoundError, FileExistsError):  # mkdir reports a folder that goes as one that "exists"
            if attempt == FOLDER_RACE_ATTEMPTS - 1:
                raise
    for folder in (path.parent, *made):
        fsync(folder)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def etag_of(facts: os.stat_result) -> str:
    """Another one for other bytes: those come in a file of their own, and no other writes into one that is finished."""
    return f'"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"'


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """What the system refuses becomes StorageUnavailable: a full disk, a folder that isn't ours."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"{doing} failed: {error.strerror}") from error


def _append(target: int, source: int, folder: Path) -> None:
    try:
        # Within the kernel; on XFS and Btrfs no bytes are copied where blocks can be shared.
        while sys.platform == "linux" and os.copy_file_range(source, target, COPY_BYTES):
            expect_room(folder)
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
    while chunk := os.read(source, CHUNK_BYTES):
        expect_room(folder)
        while chunk := chunk[os.write(target, chunk) :]:
            pass


def _link(source: Path, temporary: Path) -> bool:
    if source.is_symlink():  # Linux would link the link
        return False
    try:
        temporary.hardlink_to(source)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder`; the folders that thereby got a new entry."""
    changed = []
    missing = folder
    while not missing.exists():
        missing = missing.parent
        changed.append(missing)
    folder.mkdir(parents=True, exist_ok=True)
    return changed
