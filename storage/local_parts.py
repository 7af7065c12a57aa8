"""Uploads in parts, as folders: `<upload id>/key` says what they are for, and each part is a file named by its number.

An upload is open as long as its file `key` is there. Whoever ends it holds that file's lock, removes the file first,
and then the rest; what a crash leaves has no `key`, and is swept.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from storage.base import (
    InvalidKey,
    InvalidParts,
    OpenUpload,
    StoredPart,
    UploadNotFound,
)
from storage.keys import validate_key
from storage.local_files import Incoming, etag_of, expect_room, failures, fsync, join
from storage.parts import check_parts

KEY_FILE = "key"
UPLOAD_ID_BYTES = 16

_UPLOAD_ID = re.compile(f"[0-9a-f]{{{2 * UPLOAD_ID_BYTES}}}", re.ASCII)
_PART = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class BeingEnded(Exception):
    """Another process or thread completes or aborts this upload now."""


class PartsFolder:
    """All of it is for worker threads."""

    def __init__(self, folder: Path, incoming: Incoming) -> None:
        self.folder = folder
        self._incoming = incoming

    def begin(self, key: str) -> str:
        """The id of a new upload for this validated key."""
        upload_id = secrets.token_hex(UPLOAD_ID_BYTES)
        folder = self.folder / upload_id
        with failures(f"beginning an upload of {key}"), self._incoming.unfinished() as temporary:
            temporary.write_text(key, "ascii")
            fsync(temporary)
            folder.mkdir()
            temporary.replace(folder / KEY_FILE)
            fsync(folder)
            fsync(self.folder)
        return upload_id

    def expect(self, key: str, upload_id: str) -> Path:
        """The folder of an upload that is open. Raises UploadNotFound, also for an id that is none of ours."""
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise UploadNotFound(upload_id)
        folder = self.folder / upload_id
        with failures(f"reading the upload of {key}"), _ended_meanwhile(upload_id):
            if (folder / KEY_FILE).read_text("ascii") != key:
                raise UploadNotFound(upload_id)
        return folder

    def take(self, key: str, upload_id: str, number: int, finished: Path) -> StoredPart:
        """Make the finished file a part, in place of the one that has its number. Raises UploadNotFound."""
        folder = self.expect(key, upload_id)
        facts = finished.stat()
        with failures(f"storing a part of {key}"), _ended_meanwhile(upload_id):
            finished.replace(folder / str(number))
            fsync(folder)
        # Should the upload have ended since, then whoever ended it removes this part too, and it counts for nothing.
        self.expect(key, upload_id)
        return StoredPart(number, etag_of(facts), facts.st_size)

    def parts(self, key: str, upload_id: str) -> list[StoredPart]:
        """What has arrived, by number. Raises UploadNotFound."""
        folder = self.expect(key, upload_id)
        found = []
        with failures(f"listing the parts of {key}"), _ended_meanwhile(upload_id), os.scandir(folder) as entries:
            for entry in entries:
                if _PART.fullmatch(entry.name):
                    facts = entry.stat(follow_symlinks=False)
                    found.append(StoredPart(int(entry.name), etag_of(facts), facts.st_size))
        self.expect(key, upload_id)  # or they were being removed meanwhile, and these are not all
        return sorted(found, key=lambda part: part.number)

    def complete(self, key: str, upload_id: str, parts: Sequence[StoredPart], publish: Callable[[Path], None]) -> None:
        """Hand one durable file of these parts to `publish`, then end the upload.

        A crash before the end leaves it open, to be completed again, and so does a full disk. Raises UploadNotFound,
        InvalidParts, BeingEnded, StorageUnavailable.
        """
        with self._ending(key, upload_id) as folder:
            arrived = {part.number: part for part in self.parts(key, upload_id)}
            # Both before a byte is copied.
            check_parts(parts, arrived.values())
            expect_room(self.folder, sum(arrived[part.number].size for part in parts))
            with failures(f"completing {key}"), self._incoming.unfinished() as temporary:
                join(temporary, _opened(folder, parts))
                publish(temporary)
            _end(folder)

    def abort(self, key: str, upload_id: str) -> None:
        """Raises BeingEnded."""
        with suppress(UploadNotFound), self._ending(key, upload_id) as folder:
            _end(folder)

    def names(self) -> list[str]:
        """What there is that may be an upload."""
        with failures("listing uploads"):
            return os.listdir(self.folder)  # noqa: PTH208 - names are all that is held of a hundred thousand

    def upload(self, upload_id: str) -> OpenUpload | None:
        """None for one that has ended, or was never quite begun."""
        path = self.folder / upload_id / KEY_FILE
        with failures("listing uploads"), suppress(FileNotFoundError, NotADirectoryError, InvalidKey):
            begun = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            return OpenUpload(validate_key(path.read_text("ascii")), upload_id, begun)
        return None

    def sweep(self, older_than: datetime) -> int:
        """Remove what was ended, or never quite begun, by a process that is gone; how many uploads that were."""
        swept = 0
        for name in self.names():
            folder = self.folder / name
            with suppress(OSError):  # gone meanwhile; or not to be removed by us, and then it stays
                if not (folder / KEY_FILE).exists() and folder.stat().st_mtime < older_than.timestamp():
                    _remove(folder)
                    swept += 1
        return swept

    @contextmanager
    def _ending(self, key: str, upload_id: str) -> Iterator[Path]:
        """The upload's folder, for one at a time over all processes; a process that dies gives its lock back."""
        folder = self.expect(key, upload_id)
        with failures(f"ending the upload of {key}"), _ended_meanwhile(upload_id):
            lock = FileIO(folder / KEY_FILE)
        with lock:
            _lock(lock.fileno())
            if not os.fstat(lock.fileno()).st_nlink:
                raise UploadNotFound(upload_id)
            yield folder


@contextmanager
def _ended_meanwhile(upload_id: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UploadNotFound(upload_id) from None


def _opened(folder: Path, parts: Sequence[StoredPart]) -> Iterator[FileIO]:
    """Each part in its turn. Raises InvalidParts for one that was sent again since it was looked at."""
    for part in parts:
        with FileIO(folder / str(part.number)) as file:
            if etag_of(os.fstat(file.fileno())) != part.etag:
                raise InvalidParts(f"part {part.number} was replaced while the upload was completed")
            yield file


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BeingEnded from None


def _end(folder: Path) -> None:
    """From the first step on the upload is not there; the others may be taken later, by a sweep."""
    with failures("ending an upload"):
        (folder / KEY_FILE).unlink()
    with suppress(OSError):
        # Before the parts go: else a machine that loses its power might come back with the key, and without them.
        fsync(folder)
        _remove(folder)


def _remove(folder: Path) -> None:
    while True:
        for name in os.listdir(folder):  # noqa: PTH208 - as above
            (folder / name).unlink(missing_ok=True)
        try:
            return _remove_folder(folder)
        except OSError as error:
            # A part has come just now. There can't be many more: they look for the key before they come.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise


def _remove_folder(folder: Path) -> None:
    folder.rmdir()
