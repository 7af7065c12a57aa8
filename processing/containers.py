"""Opening what FFmpeg demuxes: films and recordings.

A file is read by the one demuxer of its type, from the open file alone: no protocol, no playlist, no other file that it
may name.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from errno import EINVAL
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from processing import kinds, tags
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import JSON

# FFmpeg's words on a broken file go nowhere. (PyAV's default too, but one that any import may change.)
av.logging.set_level(None)

if TYPE_CHECKING:
    AnyPacket: TypeAlias = Packet[Any]  # of any stream
else:
    AnyPacket = Packet  # which can't say of which but in PyAV's stub

_DEMUXERS: Final = {
    **dict.fromkeys((kinds.MP4, kinds.MOV, kinds.M4A), "mov"),
    **dict.fromkeys((kinds.WEBM, kinds.MKV), "matroska"),
    kinds.AVI: "avi",
    kinds.MP3: "mp3",
    kinds.OGG: "ogg",
    kinds.WAV: "wav",
    kinds.FLAC: "flac",
}

_OPTIONS: Final = {
    # How much is read to find out what the streams are: bytes, and microseconds of the file. FFmpeg's own defaults.
    "probesize": "5000000",
    "analyzeduration": "5000000",
    # What QuickTime may refer to elsewhere. Off unless somebody changes the defaults.
    "enable_drefs": "0",
    "use_absolute_path": "0",
    # Reading chapters means reading the tracks of their titles and pictures as well.
    "ignore_chapters": "1",
}

# Of a decoder, and of an encoder beside it. Each keeps frames of its own: with 16, a film in 4K takes 1.5 GB.
THREADS: Final = min(os.cpu_count() or 1, 4)

_READ_BYTES: Final = 256 * 1024

# A container's clock that was never set: Unix time, old Macintosh time.
_CLOCK_NEVER_SET: Final = frozenset({1904, 1970})
_FIRST_MOTION_PICTURE: Final = 1888  # Le Prince's garden at Roundhay

# Longer than anything that was ever recorded in one go; what a header claims beyond it is nonsense.
LONGEST_SECONDS: Final = 100 * 86_400.0


@contextmanager
def opened(file: BinaryIO, type: FileType, limits: Limits) -> Iterator[InputContainer]:  # noqa: A002
    """The container in `file`, whose streams are known, and not decoded yet. What fails within is the file's fault.

    Raises ProcessingFailed: UNSUPPORTED (more streams than `limits.streams` too), CORRUPT, TOO_MANY_PIXELS.
    """
    with reading():
        container = av.open(
            file,
            "r",
            format=_DEMUXERS[type],
            container_options=_OPTIONS,
            # Of the decoders that find out what the streams are.
            options={"max_pixels": str(limits.pixels), "threads": "1"},
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
            io_open=_refuse,
        )
        with container:
            if len(container.streams) > limits.streams:
                raise ProcessingFailed(
                    FailureCode.UNSUPPORTED,
                    f"The file has {len(container.streams)} streams; at most {limits.streams} can be processed.",
                )
            yield container


@contextmanager
def reading() -> Iterator[None]:
    """PyAV raises nearly anything on broken input. What the machine lacks is not the file's fault, though."""
    try:
        yield
    except ProcessingFailed:
        raise
    except MemoryError as error:  # FFmpeg's ENOMEM is one too
        message = "The file needs more memory than processing may use."
        raise ProcessingFailed(FailureCode.TOO_MANY_PIXELS, message) from error
    except (av.DecoderNotFoundError, av.PatchWelcomeError, av.error.NotImplementedError) as error:
        raise undecodable() from error
    except Exception as error:
        # Where it was told to seek by the file, it is that one's fault.
        if isinstance(error, OSError) and error.errno not in (None, EINVAL) and not isinstance(error, av.FFmpegError):
            raise
        raise ProcessingFailed(FailureCode.CORRUPT, "The file is damaged or incomplete.") from error


def undecodable() -> ProcessingFailed:
    return ProcessingFailed(FailureCode.UNSUPPORTED, "What this file is encoded with can't be processed.")


def only(container: InputContainer, *wanted: Stream | None) -> None:
    """Leaves out the packets of all other streams, so that nobody waits for theirs or keeps them."""
    for stream in container.streams:
        stream.discard = av.stream.Discard.default if stream in wanted else av.stream.Discard.all


def packets(container: InputContainer, *streams: Stream) -> Iterator[AnyPacket]:
    """Encoded data in the order of the file, up to its end or to where it can't be read any more."""
    try:
        for packet in container.demux(*streams):
            if packet.size:  # at the end come empty ones
                yield packet
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise


def decoded(stream: Stream, packet: AnyPacket | None) -> list[Any] | None:
    """The frames that have become complete, of a packet or (None) at the end. None: the packet is damaged."""
    if packet is None:
        packet = Packet()
        packet.time_base = stream.time_base or Fraction(1)
    try:
        return stream.codec_context.decode(packet)  # type: ignore[attr-defined,no-any-return]  # by kind
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        return None


def declared_seconds(container: InputContainer, *streams: Stream) -> float | None:
    """How long the streams last, or else the container, by what the file says; None where that makes no sense."""
    told = [stream.duration * stream.time_base for stream in streams if stream.duration and stream.time_base]
    whole = Fraction(container.duration, av.time_base) if container.duration else None
    for seconds in (max(told, default=None), whole):
        if seconds is not None and 0 < seconds <= LONGEST_SECONDS:
            return round(float(seconds), 3)
    return None


def readable(metadata: Mapping[str, str], names: Mapping[str, str]) -> dict[str, JSON]:
    """What a file says of itself, by the names we give its keys (in lower case); other keys are left out."""
    found: dict[str, JSON] = {}
    for key, value in metadata.items():
        name = names.get(key.lower())
        if name and name not in found and (safe := tags.clean(value)):
            found[name] = safe
    return found


def moment(written: str) -> datetime | None:
    """ISO 8601 in UTC; taken for UTC already where it says no offset. None: no such moment, or a clock never set."""
    try:
        local = datetime.fromisoformat(tags.clean(written))
        if local.year in _CLOCK_NEVER_SET or local.year < _FIRST_MOTION_PICTURE:
            return None
        return local.astimezone(UTC) if local.tzinfo else local.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _refuse(*_: object) -> NoReturn:
    """Of a file that has FFmpeg open another."""
    raise ProcessingFailed(FailureCode.UNSUPPORTED, "This file refers to others, and isn't complete by itself.")
