"""What every storage offers, and how it fails.

StorageError
├── ObjectNotFound       nothing is stored under the key
├── UploadNotFound       no multipart upload of that id is open: completed, aborted, or never begun
├── InvalidParts         a completion names parts that the storage doesn't have, or not so
├── StorageUnavailable   the storage does not answer, or refuses; trying later may help
├── SizeMismatch         a source longer or shorter than announced; nothing was stored
├── InvalidKey           a key no server of ours would make
└── InvalidSignature     a URL that was not signed by us, or was changed since
    └── SignatureExpired
"""

import shutil
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 256 * 1024
"""The most that is held of one object at a time: large enough that a thread's hop (50 µs) is small beside it."""

# S3's limits (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html), which every storage keeps to.
MIN_PART_BYTES = 5 * 1024**2  # but for the last part
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 5 * 1024**4

DISK_RESERVE = 256 * 1024**2
"""Bytes that whatever grows with what clients send leaves free: on a full disk an embedded database stops."""


def has_room(folder: Path, size: int) -> bool:
    """Whether the disk of `folder` takes `size` more bytes and keeps its reserve. Raises OSError."""
    return shutil.disk_usage(folder).free >= size + DISK_RESERVE


class StorageError(Exception):
    """The root of all that a storage raises on purpose."""


class ObjectNotFound(StorageError):
    """Nothing is stored under this key."""


class UploadNotFound(StorageError):
    """No multipart upload of this id is open under this key."""


class InvalidParts(StorageError):
    """Parts that are not there, have another ETag, are out of order, or too small; the upload stays open."""


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


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A PUT that needs no other credential until `expires_at` (UTC), sent with these headers.

    Its Content-Length is signed too: every client tells that by itself.
    """

    url: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that has arrived: `number` counts from 1, `etag` is quoted, `size` in bytes."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that was begun (UTC), and neither completed nor aborted."""

    key: str
    upload_id: str
    begun: datetime


class SetUp(StrEnum):
    """What became of one step of the storage's setting up."""

    DONE = "done"
    THERE = "there already"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class SetUpStep:
    """`name` is what was to be set up; `detail` says why it was refused, and what that costs."""

    name: str
    outcome: SetUp
    detail: str = ""


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

    async def put(
        self, key: str, source: bytes | Path, *, size: int, content_type: str, handed_over: bool = True
    ) -> StoredObject:
        """Store `source` (bytes, or a finished file) under `key`, replacing what is there; all of it or nothing.

        `content_type` is the one that the key's extension tells (ValueError otherwise). A file is handed over: local
        storage may keep it by a hard link, so it can be deleted afterwards but must never be written to again. One
        that is not, because somebody may have it open still, is copied. Raises SizeMismatch unless the source has
        exactly `size` bytes.
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

    async def copy(self, source: str, target: str) -> StoredObject:
        """Store the bytes of `source` under `target` too, without their passing through this process.

        Both keys have one extension (ValueError otherwise). `target` is replaced, and is another object from then on:
        what is put to `source` later does not change it. Raises ObjectNotFound.
        """

    async def create_multipart(self, key: str, *, content_type: str) -> str:
        """Begin an upload in parts; its id. Nothing is stored under `key` until it is completed."""

    async def list_parts(self, key: str, upload_id: str) -> Sequence[StoredPart]:
        """What has arrived, by number, each once. Raises UploadNotFound."""

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[StoredPart]) -> None:
        """Make `key` of these parts, in their order; parts that are not named are dropped.

        Every part but the last has at least MIN_PART_BYTES, which not every server looks after: the caller does. Raises
        UploadNotFound, also when somebody else has just completed it, and InvalidParts.
        """

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Drop the upload with its parts; one that is not there is no failure."""

    def list_multiparts(self) -> AsyncGenerator[OpenUpload, None]:
        """Every upload in parts that is open, in bounded memory."""

    async def set_up(self) -> Sequence[SetUpStep]:
        """Make what the storage needs, where that is allowed and not done yet.

        Raises StorageUnavailable when the storage does not answer at all.
        """

    async def ready(self) -> None:
        """One cheap round trip. Raises StorageUnavailable when the storage would not take an upload now."""

    def presign_get(self, key: str, *, now: datetime, filename: str | None = None, inline: bool = True) -> SignedUrl:
        """A URL for GET and its Range requests. Computed, not fetched: a page of hundreds may be signed at once.

        `now` is aware. `filename` is what a browser saves it as; `inline` is honoured only for types that a browser
        can show without running them.
        """

    def presigned(self, now: datetime) -> Mapping[str | tuple[str, str], str]:
        """The URLs that `presign_get` gives at this moment, by key, or by key and filename; for many at once."""

    def presign_put(
        self, key: str, *, size: int, content_type: str, now: datetime, expires_in: timedelta
    ) -> SignedRequest:
        """A PUT of exactly `size` bytes of this type to `key`, good from `now` (aware) on. Computed, not fetched.

        `content_type` is the one that the key's extension tells (ValueError otherwise).
        """

    def presign_part(
        self, key: str, upload_id: str, number: int, *, size: int, now: datetime, expires_in: timedelta
    ) -> SignedRequest:
        """A PUT of part `number`, from 1, of exactly `size` bytes; a part sent again replaces the former."""
