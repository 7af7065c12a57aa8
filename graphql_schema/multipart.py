"""A streaming reader of GraphQL multipart requests: files go to disk as they arrive, hashed on the way.

The format is https://github.com/jaydenseric/graphql-multipart-request-spec, version 2: first the part `operations`
(JSON, `null` where a file belongs), then `map` (part name -> paths into operations), then the files.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from multipart import (  # type: ignore[import-untyped]  # it has neither stubs nor a py.typed
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from graphql_schema.errors import MalformedRequest, RequestTooLarge
from graphql_schema.spool import FilePart, Spool, UploadedFile, clean_filename, discard, media_type

BOUNDARY_CHARACTERS = 70  # RFC 2046, 5.1.1


@dataclass(frozen=True)
class UploadLimits:
    """Bytes of one file, bytes of `operations` and of `map`, files in a request, bytes of its whole body."""

    file_bytes: int
    field_bytes: int
    files: int
    total_bytes: int


class Parsed:
    """The operations, an object or in a batch an array, with their files in place. Closing it deletes the files."""

    def __init__(self, operations: Any, files: list[UploadedFile], spools: list[Spool]) -> None:
        self.operations = operations
        self.files = files
        self._spools = spools

    async def close(self) -> None:
        await discard(self._spools)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


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
        await discard(reader.spools)
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
        self.spools: list[Spool] = []
        self._limits = limits
        self._scratch = scratch
        self._keep = keep
        self._operations: Any = None
        self._awaited: dict[str, UploadedFile] | None = None
        self._received: dict[str, UploadedFile] = {}
        self._part: _Field | FilePart

    async def take(self, event: MultipartSegment | bytes | None) -> None:
        if isinstance(event, MultipartSegment):
            self._part = self._open(event)
        elif event is None:
            await self._part.end()
        else:
            await self._part.write(event)

    def _open(self, segment: MultipartSegment) -> _Field | FilePart:
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
        file.filename = clean_filename(segment.filename or "")
        file.claimed_type = media_type(segment.content_type or "")
        spool = None
        if self._keep:
            spool = Spool(file.path)
            self.spools.append(spool)
        return FilePart(file, self._limits.file_bytes, spool)

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
        # Counted by places: one part at a hundred of them would be a hundred uploads.
        if sum(len(paths) if isinstance(paths, list) else 1 for paths in value.values()) > self._limits.files:
            raise MalformedRequest(f"At most {self._limits.files} files fit into one request.")
        self._awaited = {name: self._place(paths) for name, paths in value.items()}

    def _place(self, paths: Any) -> UploadedFile:
        """Put one file at all its places, now: a place that is taken twice is then no longer null."""
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise MalformedRequest("Each value of `map` is an array of paths into `operations`.")
        file = UploadedFile(self._scratch / secrets.token_hex(16))
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


def _too_large(total_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request is larger than {total_bytes} bytes.")
