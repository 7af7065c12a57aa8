"""Objects as files below one folder, served by our own routes behind signed URLs."""

import asyncio
import errno
import os
import secrets
import shutil
import stat
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import FileIO
from itertools import islice
from pathlib import Path

from storage.base import (
    CHUNK_BYTES,
    InvalidKey,
    ObjectNotFound,
    SignedUrl,
    SizeMismatch,
    StorageUnavailable,
    StoredObject,
)
from storage.disposition import safe_filename
from storage.keys import check_content_type, content_type_of, validate_key, validate_prefix
from storage.signing import DEFAULT_LIFETIME, DEFAULT_WINDOW, SigningWindow, UrlSigner, disposition_for

INCOMING = ".incoming"  # no key can begin with a dot
LIST_BATCH = 500  # objects a thread's hop: a hop costs as much as some twenty stats
FOLDER_RACE_ATTEMPTS = 20  # deletes may remove the folder that a put has just made; each loses some 50 µs

# Not ours to judge: these mean that a hard link can't be had here, and a copy is made instead.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


class LocalStorage:
    """`base_url` is where `app.files` is mounted, `/files` included. The folder is made when it is missing."""

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
        (root / INCOMING).mkdir(parents=True, exist_ok=True)
        self.signer = signer
        self._root = root.resolve()
        self._incoming = self._root / INCOMING
        self._base_url = base_url.rstrip("/")
        self._window = SigningWindow(lifetime=lifetime, window=window)

    async def put(self, key: str, source: bytes | Path, *, size: int, content_type: str) -> StoredObject:
        check_content_type(key, content_type)
        return await asyncio.to_thread(self._put, key, source, size)

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
        folder = validate_prefix(prefix).rpartition("/")[0]
        found = self._walk(f"{folder}/" if folder else "", prefix)
        while batch := await asyncio.to_thread(_batch, found):
            for stored in batch:
                yield stored

    async def ready(self) -> None:
        await asyncio.to_thread(self._ready)

    def presign_get(self, key: str, *, now: datetime, filename: str | None = None, inline: bool = True) -> SignedUrl:
        period = self._window.at(now)
        query = self.signer.query(
            "GET",
            validate_key(key),
            expires=period.expires,
            disposition=disposition_for(key, inline=inline),
            filename=safe_filename(filename) if filename else None,
        )
        return SignedUrl(f"{self._base_url}/{key}?{query}", period.expires_at)

    async def sweep(self, *, older_than: datetime) -> int:
        """Remove what interrupted puts left in the folder of unfinished files; how many there were."""
        return await asyncio.to_thread(self._sweep, older_than)

    def _checked(self, key: str) -> Path:
        """The file of `key`. A symbolic link on the way, even one of the operator's, does not lead out of the root."""
        path = self._root / validate_key(key)
        if path.parent.resolve() != path.parent:
            raise InvalidKey(f"the key {key} leads through a symbolic link")
        return path

    def _put(self, key: str, source: bytes | Path, size: int) -> StoredObject:
        path = self._checked(key)
        temporary = self._incoming / secrets.token_hex(16)
        try:
            facts = _fill(temporary, source, size)
            self._publish(temporary, path)
        except OSError as error:
            raise StorageUnavailable(f"storing {key} failed: {error.strerror}") from error
        finally:
            # Also after success: rename does nothing, and leaves both names, when they are links to one file, as when
            # the same source is stored twice under the same key.
            temporary.unlink(missing_ok=True)
        return _stored(key, facts)

    def _publish(self, temporary: Path, path: Path) -> None:
        for attempt in range(FOLDER_RACE_ATTEMPTS):
            try:
                made = _make_folders(path.parent)
                temporary.replace(path)
                break
            except (FileNotFoundError, FileExistsError):  # mkdir reports a folder that goes as one that "exists"
                if attempt == FOLDER_RACE_ATTEMPTS - 1:
                    raise
        for folder in (path.parent, *made):
            _fsync(folder)

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
        return _stored(key, facts)

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

    def _walk(self, folder: str, prefix: str) -> Iterator[StoredObject]:
        try:
            with os.scandir(self._checked(folder + "x").parent) as entries:
                # A folder sorts as its name with the slash: `a.jpg` and `a-b/` come before `a/`, as on S3.
                named = sorted((f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageUnavailable(f"listing {folder} failed: {error.strerror}") from error
        for name, entry in named:
            key = folder + name
            if name.startswith("."):
                continue
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError, InvalidKey):  # deleted meanwhile; put here by somebody else
                    yield _stored(validate_key(key), entry.stat(follow_symlinks=False))

    def _ready(self) -> None:
        if not os.access(self._incoming, os.W_OK | os.X_OK):
            raise StorageUnavailable(f"{self._incoming} is missing or cannot be written to")

    def _sweep(self, older_than: datetime) -> int:
        swept = 0
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                # ctime: a hard link's mtime is set only once it is complete
                if path.lstat().st_ctime < older_than.timestamp():
                    path.unlink()
                    swept += 1
        return swept


def _fill(temporary: Path, source: bytes | Path, size: int) -> os.stat_result:
    """Make `temporary` hold exactly the `size` bytes of `source`, durably."""
    if isinstance(source, bytes):
        if len(source) != size:
            raise SizeMismatch(f"{len(source)} bytes were given, {size} announced")
        temporary.write_bytes(source)
    elif not _link(source, temporary):
        shutil.copyfile(source, temporary)
    facts = temporary.stat()
    if facts.st_size != size:
        raise SizeMismatch(f"the source has {facts.st_size} bytes, {size} were announced")
    # A link keeps its source's time, by which a sweep for orphans would take a new object for an old one.
    os.utime(temporary)
    _fsync(temporary)
    return temporary.stat()


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


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stored(key: str, facts: os.stat_result) -> StoredObject:
    etag = f'"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"'
    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
    return StoredObject(key, facts.st_size, content_type_of(key), etag, modified)


def _missing_or_unavailable(key: str, error: OSError) -> ObjectNotFound | StorageUnavailable:
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}:
        return ObjectNotFound(key)
    return StorageUnavailable(f"reading {key} failed: {error.strerror}")


def _batch(found: Iterator[StoredObject]) -> list[StoredObject]:
    return list(islice(found, LIST_BATCH))
