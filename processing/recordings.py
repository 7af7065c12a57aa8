"""Sound recordings: how long they last, what they say of themselves, and their cover as a picture."""

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from processing import containers, images, kinds, tags
from processing.containers import AnyPacket
from processing.failures import FailureCode, ProcessingFailed
from processing.identify import HEAD_BYTES, identify
from processing.kinds import FileType, MediaKind
from processing.limits import Limits
from processing.variants import JSON, Facts, Looks, Progress, Tell

# FFmpeg's names, which are the same for ID3, Vorbis comments, iTunes' atoms and RIFF's INFO.
_NAMES: Final = {
    "title": "Title",
    "artist": "Artist",
    "album": "Album",
    "album_artist": "AlbumArtist",
    "composer": "Composer",
    "performer": "Performer",
    "conductor": "Conductor",
    "genre": "Genre",
    "date": "Date",
    "track": "Track",
    "disc": "Disc",
    "comment": "Comment",
    "description": "Description",
    "synopsis": "Synopsis",
    "lyrics": "Lyrics",
    "lyricist": "Lyricist",
    "publisher": "Publisher",
    "copyright": "Copyright",
    "isrc": "ISRC",
    "make": "Make",
    "model": "Model",
    "encoded_by": "EncodedBy",
    "encoder": "Software",
}

_FRONT_COVER: Final = "Cover (front)"  # ID3v2.4, 4.14, picture type 3, in FFmpeg's words

# Proof that there is sound: so much of it decoded, or so many packets tried in vain.
_HEARD_SECONDS: Final = 1.0
_TRIED_PACKETS: Final = 1000

# 28 hours of AAC, which take 12 s. What has more is believed its header.
_COUNTED_PACKETS: Final = 5_000_000
# Headers that are right know to the sample what encoders put before and after; that is never more than this.
_PADDING_SECONDS: Final = 0.1


@dataclass(slots=True)
class _Found:
    """What comes up while all packets pass by."""

    covers: dict[int, bytes] = field(default_factory=dict)  # by the number of the stream
    packets: int = 0
    size_bytes: int = 0
    ticks: int = 0  # of the stream's time base
    decoded_samples: int = 0


def produce(file: BinaryIO, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """Measures the recording, and makes pictures of its cover, if it has one, in the folder `into`.

    Width and height stay None: the cover's are not the recording's. Raises ProcessingFailed: UNSUPPORTED, CORRUPT
    where nothing can be heard.
    """
    with containers.opened(file, type, limits) as container:
        sound = _sound(container)
        found = _walked(container, sound)
        written = {key.lower(): value for key, value in {**sound.metadata, **container.metadata}.items()}
        latitude, longitude = _place(written) or (None, None)
        duration = _duration(container, sound, found)
        facts = Facts(
            duration=duration,
            taken_at=_taken_at(written),
            latitude=latitude,
            longitude=longitude,
            tags={**containers.readable(written, _NAMES), **_technical(sound, found, duration)},
        )
        cover = _cover(container, found)
    tell(Progress(0))
    return replace(facts, looks=_pictures(cover, into, limits, tell)) if cover else facts


def _sound(container: InputContainer) -> AudioStream:
    """The stream that a player would play."""
    best = container.streams.best("audio")
    if best is None:
        raise ProcessingFailed(FailureCode.CORRUPT, "There is no sound in this file.")
    if not isinstance(best, AudioStream) or best.codec_context is None:
        raise containers.undecodable()
    return best


def _walked(container: InputContainer, sound: AudioStream) -> _Found:
    """Has every packet pass by. Headers lie about durations, and MP3 and what was streamed may have none."""
    covers = [stream for stream in container.streams if Disposition.attached_pic in stream.disposition]
    containers.only(container, sound, *covers)
    found = _Found()
    for packet in containers.packets(container, sound, *covers):
        if packet.stream is sound:
            _pass(sound, packet, found)
        else:
            found.covers.setdefault(packet.stream.index, bytes(packet))
        if found.packets == _COUNTED_PACKETS:
            break
    if not (found.decoded_samples or _samples(sound, None)):  # of a single packet, decoders may hold back all
        raise ProcessingFailed(FailureCode.CORRUPT, "Nothing can be heard in this file.")
    return found


def _pass(sound: AudioStream, packet: AnyPacket, found: _Found) -> None:
    if found.packets < _TRIED_PACKETS and found.decoded_samples < _HEARD_SECONDS * sound.codec_context.sample_rate:
        found.decoded_samples += _samples(sound, packet)
    found.packets += 1
    found.size_bytes += packet.size
    found.ticks += max(0, packet.duration or 0)


def _samples(sound: AudioStream, packet: AnyPacket | None) -> int:
    return sum(frame.samples for frame in containers.decoded(sound, packet) or ())


def _duration(container: InputContainer, sound: AudioStream, found: _Found) -> float | None:
    """In seconds: the header's where the packets don't prove it wrong, else theirs."""
    declared = containers.declared_seconds(container, sound)
    if found.packets == _COUNTED_PACKETS or not found.ticks or sound.time_base is None:
        return declared
    counted = round(float(found.ticks * sound.time_base), 3)
    if declared is not None and abs(declared - counted) <= _PADDING_SECONDS:
        return declared
    return counted if counted <= containers.LONGEST_SECONDS else None


def _technical(sound: AudioStream, found: _Found, duration: float | None) -> dict[str, JSON]:
    codec = sound.codec_context
    measured = round(found.size_bytes * 8 / duration) if duration else None
    facts: dict[str, int | str | None] = {
        "AudioCodec": codec.codec.canonical_name,
        "SampleRate": codec.sample_rate,
        "Channels": codec.channels,
        "BitRate": codec.bit_rate or measured,
    }
    return {name: value for name, value in facts.items() if value}


def _taken_at(written: Mapping[str, str]) -> datetime | None:
    """When a memo or an interview was recorded. Of music it is known by the year or the day, which is no moment."""
    candidates = (
        written.get("com.apple.quicktime.creationdate"),
        f"{written.get('date')}T{written.get('creation_time')}",  # of a Broadcast Wave (EBU Tech 3285), which has both
        written.get("creation_time"),
        written.get("date"),
    )
    moments = (
        containers.moment(each) for each in candidates if each and re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", each)
    )
    return next((moment for moment in moments if moment), None)


def _place(written: Mapping[str, str]) -> tuple[float, float] | None:
    return tags.place(written.get("com.apple.quicktime.location.iso6709") or written.get("location") or "")


def _cover(container: InputContainer, found: _Found) -> bytes | None:
    """The front one, if there are several, else the first."""
    front = (index for index in found.covers if container.streams[index].metadata.get("comment") == _FRONT_COVER)
    return found.covers.get(next(front, min(found.covers, default=-1)))


def _pictures(cover: bytes, into: Path, limits: Limits, tell: Tell) -> Looks | None:
    type_ = identify(cover[:HEAD_BYTES])
    if type_ is None or type_.kind is not MediaKind.IMAGE or type_ in kinds.RAW_TYPES:
        return None
    with suppress(ProcessingFailed):  # a broken cover doesn't spoil the recording
        return images.produce(io.BytesIO(cover), type_, into, limits, tell).looks
    return None
