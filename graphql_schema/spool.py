"""Files on their way in: written to the scratch folder and hashed in worker threads, gone when their request ends."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeVar

from graphql_schema.errors import SpoolFailed

logger = logging.getLogger(__name__)

FLUSH_BYTES = 1024 * 1024  # one hop to a thread costs 0.1 ms: rare enough here, and small beside what a server may hold
HEAD_BYTES = 4096  # every signature that identifies a file type lies within
FILENAME_CHARACTERS = 255  # the limit of the usual file systems, so a download can be saved under it
# Control characters, surrogates, line separators, and the marks that turn the direction of writing: with those
# "gpj.exe" is shown as "exe.jpg". Joiners stay, several scripts need them.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)  # RFC 6838, 4.2

T = TypeVar("T")


@dataclass(eq=False, repr=False)
class UploadedFile:
    """A file of a multipart request; what the scalar `Upload` delivers.

    `filename` and `claimed_type` are the client's words, cleaned and never to be trusted. `path` is there until the
    request ends, except when the file was `too_large` or its sender anonymous: then nothing is on disk, and `sha256`
    (hex) and `head` (the first `HEAD_BYTES`) are empty. `size` counts all bytes that arrived, in each case.
    """

    path: Path
    filename: str = ""
    claimed_type: str | None = None
    size: int = 0
    sha256: str = ""
    too_large: bool = False
    head: bytes = b""


class FilePart:
    """A part that holds a file: gathered until a write is worth a thread, dropped once above its limit."""

    def __init__(self, file: UploadedFile, limit: int, spool: Spool | None) -> None:
        self._file = file
        self._limit = limit
        self._spool = spool
        self._pending = bytearray()

    async def write(self, data: bytes) -> None:
        self._file.size += len(data)
        if self._file.size > self._limit and not self._file.too_large:
            await self._drop()
        if self._spool is None:
            return
        if len(self._file.head) < HEAD_BYTES:
            self._file.head += data[: HEAD_BYTES - len(self._file.head)]
        self._pending += data
        if len(self._pending) >= FLUSH_BYTES:
            pending, self._pending = self._pending, bytearray()
            await _in_thread(self._spool.append, pending)

    async def _drop(self) -> None:
        self._file.too_large = True
        self._file.head = b""
        if self._spool is not None:
            await discard([self._spool])
        self._spool = None

    async def end(self) -> None:
        if self._spool is not None:
            self._file.sha256 = await _in_thread(self._spool.finish, self._pending)


class Spool:
    """One file on disk, written and hashed in worker threads.

    A cancelled task does not stop its thread: the lock, and the mark that is looked at under it, keep a write that
    comes late from making the file anew after it was discarded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._discarded = False
        self._lock = Lock()

    def append(self, data: bytearray) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._file is None:
                self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            self._file.write(data)
            self._hash.update(data)

    def finish(self, data: bytearray) -> str:
        """Write the rest and close; returns the SHA-256 of the whole in hex."""
        self.append(data)
        with self._lock:
            if self._file is not None:
                self._file.close()
        return self._hash.hexdigest()

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._file is not None:
                with suppress(OSError):  # a full disk refuses what is still buffered
                    self._file.close()
                self._path.unlink(missing_ok=True)


async def _in_thread(work: Callable[[bytearray], T], data: bytearray) -> T:
    try:
        return await asyncio.to_thread(work, data)
    except OSError as error:
        logger.exception("The scratch folder can't be written")
        raise SpoolFailed("The server can't take files at the moment.") from error


async def discard(spools: list[Spool]) -> None:
    if not spools:
        return

    def discard() -> None:
        for spool in spools:
            spool.discard()

    # Shielded: a second cancellation must not take back the work while it waits for a free thread.
    await asyncio.shield(asyncio.to_thread(discard))


def clean_filename(claimed: str) -> str:
    name = UNPRINTABLE.sub("", re.split(r"[/\\]", claimed)[-1]).strip()[:FILENAME_CHARACTERS]
    return name if name.strip(".") else "unnamed"


def media_type(claimed: str) -> str | None:
    return claimed if MEDIA_TYPE.fullmatch(claimed) else None
