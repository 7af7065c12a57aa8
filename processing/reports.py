"""What a child process tells its parent, in lines of JSON, of which the parent believes nothing that it can't check.

A decoder that was taken over may write what it likes: so nothing is unpickled, no path is taken from it, and a line
that doesn't fit ends the child.
"""

import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from processing.failures import FailureCode, ProcessingFailed
from processing.limits import MIB
from processing.variants import Facts, Looks, Progress, Rendered, VariantName, variant_path

# A camera's tags take some kilobytes. Whoever reads lines of a child needs to bound them so.
LINE_BYTES: Final = 4 * MIB
_FINEST_STEP: Final = 0.001  # of progress: less is no news, only a sign of life
_SIGN_OF_LIFE_SECONDS: Final = 1.0
# Of one file, and so many more for each second: twice what a child has to say that keeps to the above.
_LINES: Final = 2000
_LINES_A_SECOND: Final = 2
_WORDS: Final = 10_000  # of an error, for the log: the end of a traceback
# Of tags as JSON: a recording's take 92 KB, when each is as long as it may be. Pictures' lie in one another three deep.
_TAGS_BYTES: Final = 128 * 1024
_TAGS_DEPTH: Final = 8
# Why a child may say that a file failed; and that it crashed, where an encoder did. The rest is the parent's to know.
_ITS_CODES: Final = frozenset(
    {FailureCode.CORRUPT, FailureCode.UNSUPPORTED, FailureCode.TOO_MANY_PIXELS, FailureCode.CRASHED}
)

# As far as the columns reach that they are kept in.
_Side = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Words = Annotated[str, Meta(max_length=_WORDS)]


class _Message(Struct, forbid_unknown_fields=True):
    pass


class _Ready(_Message, tag="ready"):
    """The child has started."""


class _Variant(_Message, tag="variant"):
    name: VariantName
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{12}$")]
    content_type: Literal["image/webp", "video/mp4"]
    width: _Side
    height: _Side


class _Progress(_Message, tag="progress"):
    fraction: Annotated[float, Meta(ge=0, le=1)]


class _Looks(_Message):
    perceptual_hash: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    thumbhash: Annotated[str, Meta(pattern="^[A-Za-z0-9+/]{1,60}={0,2}$", max_length=60)]
    dominant_color: Annotated[str, Meta(pattern="^#[0-9a-f]{6}$")]


class _Facts(_Message, tag="facts"):
    width: _Side | None
    height: _Side | None
    duration: Annotated[float, Meta(ge=0, le=1e9)] | None
    page_count: _Count | None
    taken_at: Annotated[datetime, Meta(tz=True)] | None
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None
    tags: dict[str, Any]
    looks: _Looks | None


class _Failure(_Message, tag="failure"):
    code: FailureCode
    message: Annotated[str, Meta(max_length=1000, pattern=r"^[^\0]*$")]  # NUL is what no column keeps


class _Trouble(_Message, tag="trouble"):
    """An error that nobody expected, or of the system, which then has a number."""

    words: _Words
    number: Annotated[int, Meta(ge=1, le=4095)] | UnsetType = UNSET


_decoder: Final = msgspec.json.Decoder(_Ready | _Variant | _Progress | _Facts | _Failure | _Trouble)

# How work at a file ends.
Outcome: TypeAlias = Facts | ProcessingFailed | OSError | RuntimeError


class NoReport(Exception):
    """The child has written what it may not."""


class Sink(Protocol):
    def write(self, line: bytes, /) -> int | None: ...


class Reporter:
    """The child's side. `into` is the folder of the file that is worked at."""

    def __init__(self, sink: Sink, into: Path) -> None:
        self._sink = sink
        self._into = into
        self._fraction = -1.0
        self._written = 0.0

    def tell(self, told: Rendered | Progress) -> None:
        """Raises ValueError when a variant isn't where the parent looks for it."""
        if isinstance(told, Progress):
            self._progress(told.fraction)
            return
        if told.path != variant_path(self._into, told.name, told.digest, told.content_type):
            raise ValueError(f"{told.name} is not where it belongs")
        self._write(_Variant(told.name, told.digest, told.content_type, told.width, told.height))  # type: ignore[arg-type]

    def end(self, outcome: Outcome) -> None:
        match outcome:
            case Facts():
                self._end_with(outcome)
            case ProcessingFailed():
                self._write(_Failure(outcome.code, outcome.message))
            case OSError(errno=int(number)):
                self._write(_Trouble(_legible(outcome.strerror or ""), number))
            case _:
                self._write(_Trouble(_legible(str(outcome))))

    def _progress(self, fraction: float) -> None:
        now = time.monotonic()
        if fraction - self._fraction >= _FINEST_STEP or now - self._written >= _SIGN_OF_LIFE_SECONDS:
            self._fraction, self._written = fraction, now
            self._write(_Progress(fraction))

    def _end_with(self, facts: Facts) -> None:
        try:
            self._write(msgspec.convert(facts, _Facts, from_attributes=True))
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            self.end(RuntimeError(f"Facts that can't be: {error}"))

    def _write(self, message: _Message) -> None:
        write(self._sink, message)


def report_ready(sink: Sink) -> None:
    write(sink, _Ready())


def is_ready(line: bytes) -> bool:
    return line == msgspec.json.encode(_Ready()) + b"\n"


def write(sink: Sink, message: Struct) -> None:
    """One line of it, whole."""
    rest = msgspec.json.encode(message) + b"\n"
    while rest:  # a pipe takes what it has room for
        rest = rest[sink.write(rest) or 0 :]


class Receiver:
    """The parent's side, for one file."""

    def __init__(self, into: Path, output_bytes: int) -> None:
        self._into = into
        self._output_bytes = output_bytes
        self._started = time.monotonic()
        self._lines = 0
        self._names: set[VariantName] = set()
        self._fraction = -1.0

    def receive(self, line: bytes) -> Rendered | Progress | Outcome | None:
        """What a line says; None: no news. Raises NoReport."""
        self._lines += 1
        allowed = _LINES + _LINES_A_SECOND * (time.monotonic() - self._started)
        if self._lines > allowed or not line.endswith(b"\n"):
            raise NoReport
        try:
            return self._understood(_decoder.decode(line))
        except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
            raise NoReport from error

    def _understood(self, message: _Message) -> Rendered | Progress | Outcome | None:
        match message:
            case _Variant():
                return self._variant(message)
            case _Progress():
                return self._progress(message.fraction)
            case _Facts():
                return _facts(message)
            case _Failure() if message.code in _ITS_CODES:
                return ProcessingFailed(message.code, message.message)
            case _Trouble(number=int(number)):
                return OSError(number, message.words)
            case _Trouble():
                return RuntimeError(message.words)
        raise NoReport

    def _variant(self, said: _Variant) -> Rendered:
        path = variant_path(self._into, said.name, said.digest, said.content_type)
        try:
            found = path.lstat()
        except OSError as error:
            raise NoReport from error
        if said.name in self._names or not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= self._output_bytes:
            raise NoReport
        self._names.add(said.name)
        return Rendered(said.name, said.digest, path, said.content_type, said.width, said.height, found.st_size)

    def _progress(self, fraction: float) -> Progress | None:
        if fraction - self._fraction < _FINEST_STEP:
            return None
        self._fraction = fraction
        return Progress(fraction)


def _legible(words: str) -> str:
    return words[-_WORDS:].encode(errors="replace").decode()


def _facts(said: _Facts) -> Facts:
    """Raises NoReport, ValueError, OverflowError: facts that no column keeps."""
    if len(msgspec.json.encode(said.tags)) > _TAGS_BYTES:
        raise NoReport
    _check(said.tags, _TAGS_DEPTH)
    values = msgspec.structs.asdict(said)
    looks = said.looks and Looks(**msgspec.structs.asdict(said.looks))
    taken_at = said.taken_at and said.taken_at.astimezone(UTC)
    return Facts(**{**values, "looks": looks, "taken_at": taken_at})


def _check(value: object, depth: int) -> None:
    """Raises NoReport where there is NUL in a text, or more lies in one another."""
    if depth < 0 or (isinstance(value, str) and "\0" in value):
        raise NoReport
    match value:
        case dict():
            within = [*value, *value.values()]
        case list():
            within = value
        case _:
            within = []
    for item in within:
        _check(item, depth - 1)
