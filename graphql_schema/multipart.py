"""A streaming reader of GraphQL multipart requests: files go to disk as they arrive, hashed on the way.

The format is https://github.com/jaydenseric/graphql-multipart-request-spec, version 2: first the part `operations`
(JSON, `null` where a file belongs), then `map` (part name -> paths into operations), then the files.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import secrets
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Self, TypeVar

import orjson
from multipart import (  # type: ignore[import-untyped]  # it has neither stubs nor a py.typed
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

logger = logging.getLogger(__name__)

SPOOL_PREFIX = "upload-"
FLUSH_BYTES = 1024 * 1024  # one hop to a thread costs 0.1 ms: rare enough here, and small beside what a server may hold
HEAD_BYTES = 4096  # every signature that identifies a file type lies within
FILENAME_CHARACTERS = 255  # the limit of the usual file systems, so a download can be saved under it
BOUNDARY_CHARACTERS = 70  # RFC 2046, 5.1.1
# Control characters, surrogates, line separators, and the marks that turn the direction of writing: with those
# "gpj.exe" is shown as "exe.jpg". Joiners stay, several scripts need them.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)  # RFC 6838, 4.2

T = TypeVar("T")


class RequestError(Exception):
    """A request that is answered by its HTTP `status` before anything of it is executed. The message is for people."""

    status: ClassVar[int]
    code: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}


class MalformedRequest(RequestError):
    status = 400
    code = "BAD_REQUEST"


class RequestTooLarge(RequestError):
    status = 413
    code = "PAYLOAD_TOO_LARGE"


class SpoolFailed(RequestError):
    """The scratch folder can't be written: full, or not there."""

    status = 503
    code = "STORAGE_UNAVAILABLE"


@dataclass(frozen=True)
class UploadLimits:
    """Bytes of one file, bytes of `operations` and of `map`, files in a request, bytes of its whole body."""

    file_bytes: int
    field_bytes: int
    files: int
    total_bytes: int


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


class Parsed:
    """The operations, an object or in a batch an array, with their files in place. Closing it deletes the files."""

    def __init__(self, operations: Any, files: list[UploadedFile], spools: list[_Spool]) -> None:
        self.operations = operations
        self.files = files
        self._spools = spools

    async def close(self) -> None:
        await _discard(self._spools)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def sweep(scratch: Path) -> int:
    """Delete what killed processes left in `scratch`; returns the number of files.

    To be called before the first request, by the only process that uses this folder.
    """
    leftovers = list(scratch.glob(f"{SPOOL_PREFIX}*"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


async def parse(
    stream: AsyncIterable[bytes],
    content_type: str,
    *,
    limits: UploadLimits,
    scratch: Path,
    keep: bool,
    content_length: int | None = None,
) -> Parsed:
    """Read a multipart body; files go into `scratch`, or with `keep=False` nowhere.

    A file above its limit is dropped and marked, the others go on. Raises RequestError for everything else that is
    wrong. Whatever is raised here, a cancellation included, leaves no file behind.
    """
    boundary = _boundary(content_type)
    if content_length is not None and content_length > limits.total_bytes:
        raise _too_large(limits.total_bytes)
    reader = _Reader(limits, scratch, keep=keep)
    try:
        await _feed(reader, stream, boundary, limits.total_bytes)
        return reader.finish()
    except BaseException:
        await _discard(reader.spools)
        raise


def _boundary(content_type: str) -> str:
    _, options = parse_options_header(content_type)
    boundary: str = options.get("boundary", "")
    if not 0 < len(boundary) <= BOUNDARY_CHARACTERS or not boundary.isascii():
        raise MalformedRequest("The Content-Type names no valid multipart boundary.")
    return boundary


async def _feed(reader: _Reader, stream: AsyncIterable[bytes], boundary: str, total_bytes: int) -> None:
    # Not `strict`: that refuses the line break after the last boundary when it happens to come as a chunk of its own.
    parser = PushMultipartParser(boundary)
    received = 0
    try:
        async for chunk in stream:
            received += len(chunk)
            if received > total_bytes:
                raise _too_large(total_bytes)
            if chunk:  # an empty one would tell the parser that the body is over
                for event in parser.parse(chunk):
                    await reader.take(event)
        if not received:
            raise MalformedRequest("The body is empty.")
        parser.close()
    except MultipartError as error:
        raise MalformedRequest(f"The multipart body is broken: {error.args[0]}.") from error


class _Reader:
    """Takes the parser's events in their order: `operations`, `map`, files."""

    def __init__(self, limits: UploadLimits, scratch: Path, *, keep: bool) -> None:
        self.spools: list[_Spool] = []
        self._limits = limits
        self._scratch = scratch
        self._keep = keep
        self._operations: Any = None
        self._awaited: dict[str, UploadedFile] | None = None
        self._received: dict[str, UploadedFile] = {}
        self._part: _Field | _FilePart

    async def take(self, event: MultipartSegment | bytes | None) -> None:
        if isinstance(event, MultipartSegment):
            self._part = self._open(event)
        elif event is None:
            await self._part.end()
        else:
            await self._part.write(event)

    def _open(self, segment: MultipartSegment) -> _Field | _FilePart:
        name = segment.name or ""
        if self._operations is None:
            return self._field("operations", name, self._take_operations)
        if self._awaited is None:
            return self._field("map", name, self._take_map)
        if name in self._received or name in {"operations", "map"}:
            raise MalformedRequest(f"The part {name[:80]!r} comes twice.")
        if name not in self._awaited:
            raise MalformedRequest(f"The part {name[:80]!r} is not named in `map`.")
        file = self._received[name] = self._awaited.pop(name)
        file.filename = _clean_filename(segment.filename or "")
        file.claimed_type = _media_type(segment.content_type or "")
        spool = None
        if self._keep:
            spool = _Spool(file.path)
            self.spools.append(spool)
        return _FilePart(file, self._limits.file_bytes, spool)

    def _field(self, expected: str, name: str, accept: Callable[[Any], None]) -> _Field:
        if name != expected:
            raise MalformedRequest(
                f"The parts of a GraphQL multipart request are `operations`, `map`, then the files; "
                f"{name[:80]!r} came where `{expected}` belongs."
            )
        return _Field(expected, self._limits.field_bytes, accept)

    def _take_operations(self, value: Any) -> None:
        if not isinstance(value, dict | list):
            raise MalformedRequest("`operations` is neither a JSON object nor an array of them.")
        self._operations = value

    def _take_map(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise MalformedRequest("`map` is not a JSON object.")
        if len(value) > self._limits.files:
            raise MalformedRequest(f"At most {self._limits.files} files fit into one request.")
        self._awaited = {name: self._place(paths) for name, paths in value.items()}

    def _place(self, paths: Any) -> UploadedFile:
        """Put one file at all its places, now: a place that is taken twice is then no longer null."""
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise MalformedRequest("Each value of `map` is an array of paths into `operations`.")
        file = UploadedFile(self._scratch / f"{SPOOL_PREFIX}{secrets.token_hex(16)}")
        for path in paths:
            _set(self._operations, path, file)
        return file

    def finish(self) -> Parsed:
        if self._operations is None or self._awaited is None:
            raise MalformedRequest("A GraphQL multipart request needs the parts `operations` and `map`.")
        if self._awaited:
            raise MalformedRequest(f"`map` names the part {next(iter(self._awaited))[:80]!r}, which was not sent.")
        return Parsed(self._operations, list(self._received.values()), self.spools)


class _Field:
    """A part that holds JSON, in memory."""

    def __init__(self, name: str, limit: int, accept: Callable[[Any], None]) -> None:
        self._name = name
        self._limit = limit
        self._accept = accept
        self._content = bytearray()

    async def write(self, data: bytes) -> None:
        if len(self._content) + len(data) > self._limit:
            raise RequestTooLarge(f"The part `{self._name}` is larger than {self._limit} bytes.")
        self._content += data

    async def end(self) -> None:
        try:
            value = orjson.loads(self._content)  # refuses NaN, invalid UTF-8, and more than 1024 levels
        except orjson.JSONDecodeError as error:
            raise MalformedRequest(f"The part `{self._name}` is not JSON: {error.msg}.") from error
        self._accept(value)


class _FilePart:
    """A part that holds a file: gathered until a write is worth a thread, dropped once above its limit."""

    def __init__(self, file: UploadedFile, limit: int, spool: _Spool | None) -> None:
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
            await _discard([self._spool])
        self._spool = None

    async def end(self) -> None:
        if self._spool is not None:
            self._file.sha256 = await _in_thread(self._spool.finish, self._pending)


class _Spool:
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


async def _discard(spools: list[_Spool]) -> None:
    if not spools:
        return

    def discard() -> None:
        for spool in spools:
            spool.discard()

    # Shielded: a second cancellation must not take back the work while it waits for a free thread.
    await asyncio.shield(asyncio.to_thread(discard))


def _set(operations: Any, path: str, file: UploadedFile) -> None:
    """Put `file` at `path`, such as `variables.file` or, in a batch, `0.variables.files.1`; null must be there."""
    *parents, last = path.split(".")
    variables = parents[1:2] if isinstance(operations, list) else parents[:1]
    if variables != ["variables"]:
        raise MalformedRequest(f"`map` leads to {path[:80]!r}: files belong into the variables.")
    target = operations
    for segment in parents:
        target = target[_key(target, segment, path)]
    key = _key(target, last, path)
    if target[key] is not None:
        raise MalformedRequest(f"`map` leads to {path[:80]!r}, where there is something else than null.")
    target[key] = file


def _key(container: Any, segment: str, path: str) -> str | int:
    if isinstance(container, dict) and segment in container:
        return segment
    if isinstance(container, list) and segment.isascii() and segment.isdigit():
        digits = segment.lstrip("0") or "0"
        if len(digits) < 10 and int(digits) < len(container):  # int() itself refuses a few thousand digits
            return int(digits)
    raise MalformedRequest(f"`map` leads to {path[:80]!r}, which is not in `operations`.")


def _clean_filename(claimed: str) -> str:
    name = UNPRINTABLE.sub("", re.split(r"[/\\]", claimed)[-1]).strip()[:FILENAME_CHARACTERS]
    return name if name.strip(".") else "unnamed"


def _media_type(claimed: str) -> str | None:
    return claimed if MEDIA_TYPE.fullmatch(claimed) else None


def _too_large(total_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request is larger than {total_bytes} bytes.")
