"""What every storage offers, and how it fails.

StorageError
├── ObjectNotFound       nothing is stored under the key
├── StorageUnavailable   the storage does not answer, or refuses; trying later may help
├── SizeMismatch         a source longer or shorter than announced; nothing was stored
├── InvalidKey           a key no server of ours would make
└── InvalidSignature     a URL that was not signed by us, or was changed since
    └── SignatureExpired
"""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 256 * 1024
"""The most that is held of one object at a time: large enough that a thread's hop (50 µs) is small beside it."""


class StorageError(Exception):
    """The root of all that a storage raises on purpose."""


class ObjectNotFound(StorageError):
    """Nothing is stored under this key."""


class StorageUnavailable(StorageError):
    """The storage does not answer, is full, or refuses us."""


class SizeMismatch(StorageError):
    """The source held more or fewer bytes than announced; nothing is stored."""


class InvalidKey(StorageError, ValueError):
    """A key outside the alphabet and shape that `storage.keys` makes."""


class InvalidSignature(StorageError):
    """A signed URL that is missing its signature, or whose parts do not match it."""


class SignatureExpired(InvalidSignature):
    """A signed URL that was ours, and whose time is over."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What is known of one object without reading it.

    `etag` is opaque and quoted, as in HTTP (RFC 9110, 8.8.3). `modified` is when it was stored, in UTC.
    """

    key: str
    size: int
    content_type: str
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL that needs no other credential until `expires_at` (UTC)."""

    url: str
    expires_at: datetime


class ObjectStorage(Protocol):
    """Bytes by key. Keys come from `storage.keys`; anything else raises InvalidKey.

    Every method may raise StorageUnavailable.
    """

    @property
    def name(self) -> str:
        """`local` or `s3`."""

    @property
    def bucket(self) -> str | None:
        """The S3 bucket; None where there is no such thing."""

    async def put(self, key: str, source: bytes | Path, *, size: int, content_type: str) -> StoredObject:
        """Store `source` (bytes, or a finished file) under `key`, replacing what is there; all of it or nothing.

        `content_type` is the one that the key's extension tells (ValueError otherwise). A file is handed over: local
        storage may keep it by a hard link, so it can be deleted afterwards but must never be written to again.
        Raises SizeMismatch unless the source has exactly `size` bytes.
        """

    def open(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to, not including, `end`, in chunks of at most CHUNK_BYTES.

        A range past the object's end yields what there is of it. Raises ObjectNotFound at the first step. Close the
        generator (`contextlib.aclosing`) when leaving it early.
        """

    async def head(self, key: str) -> StoredObject:
        """Raises ObjectNotFound."""

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove what is there of `keys`; a missing one is no failure."""

    def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        """Every object whose key starts with `prefix`, in the order of the keys' bytes, in bounded memory."""

    async def ready(self) -> None:
        """One cheap round trip. Raises StorageUnavailable when the storage would not take an upload now."""

    def presign_get(self, key: str, *, now: datetime, filename: str | None = None, inline: bool = True) -> SignedUrl:
        """A URL for GET and its Range requests. Computed, not fetched: a page of hundreds may be signed at once.

        `now` is aware. `filename` is what a browser saves it as; `inline` is honoured only for types that a browser
        can show without running them.
        """
