"""Films: their facts, a still as pictures, an excerpt that moves, and a stream that every player plays."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from av.audio.stream import AudioStream
from av.codec.context import ThreadType
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from processing import previews, recordings, renditions, stills, streams, tags
from processing.containers import THREADS, declared_seconds, moment, only, opened, readable, undecodable
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.sizes import check_pixels
from processing.stills import Still
from processing.variants import (
    BEFORE_STREAM,
    JSON,
    PREVIEW,
    STILL_VARIANTS,
    STREAM,
    Facts,
    Progress,
    Rendered,
    Tell,
    variant_path,
)

_NAMES: Final = {
    "title": "Title",
    "comment": "Comment",
    "description": "Description",
    "artist": "Artist",
    "copyright": "Copyright",
    "make": "Make",
    "com.apple.quicktime.make": "Make",
    "com.android.manufacturer": "Make",
    "model": "Model",
    "com.apple.quicktime.model": "Model",
    "com.android.model": "Model",
    "software": "Software",
    "com.apple.quicktime.software": "Software",
    "encoder": "Software",
}
# In the order in which they are believed. QuickTime's has the camera's offset; the other is in UTC.
_MOMENTS: Final = ("com.apple.quicktime.creationdate", "creation_time", "date_recorded", "date")
_PLACES: Final = ("com.apple.quicktime.location.iso6709", "location", "location-eng")

# Tracks of pictures that are no film.
_NOT_MOVING: Final = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

# What of the work is done by then: the stream takes nearly all of it.
_AFTER_STILL: Final = 0.05
_SECONDS_BETWEEN_REPORTS: Final = 0.25


def produce(file: BinaryIO, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """Facts, the still's variants, and the PREVIEW: what takes moments. A film of sound alone is a recording.

    Raises ProcessingFailed: UNSUPPORTED, CORRUPT, TOO_MANY_PIXELS; OSError when `into` can't be written to.
    """
    if not _has_pictures(file, type, limits):
        # Messengers and browsers put voices into the containers of films.
        file.seek(0)
        return recordings.produce(file, type, into, limits, tell)
    with _film(file, type, limits) as film:
        still = _still(film, limits)
        facts = _facts(film, still)
        tell(Progress(0))
        looks = renditions.render(still.picture, still.size, STILL_VARIANTS, into, tell)
    tell(Progress(_AFTER_STILL))
    with _film(file, type, limits) as film:
        path = variant_path(into, PREVIEW.name, PREVIEW.digest, "image/webp")
        preview = previews.make(
            film.container, film.video, still, PREVIEW, path, alive=lambda: tell(Progress(_AFTER_STILL))
        )
        if preview:
            tell(preview)
    return replace(facts, looks=looks)


def stream(file: BinaryIO, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """The STREAM, which may take as long as the film plays, or longer, with progress all along.

    Of the facts only the duration, by what there was to be read, whatever the header says. Raises as `produce`.
    """
    with _film(file, type, limits) as film:
        still = _still(film, limits)
        declared = _facts(film, still).duration
    with _film(file, type, limits) as film:
        path = variant_path(into, STREAM.name, STREAM.digest, "video/mp4")
        advance = _advance(tell, declared)
        size, seconds = streams.make(film.container, film.video, film.audio, still, STREAM, path, limits, advance)
    tell(Rendered(STREAM.name, STREAM.digest, path, "video/mp4", *size, path.stat().st_size))
    return Facts(duration=round(seconds, 3) or declared)


@dataclass(frozen=True, slots=True)
class _Film:
    container: InputContainer
    video: VideoStream
    audio: AudioStream | None


@contextmanager
def _film(file: BinaryIO, type: FileType, limits: Limits) -> Iterator[_Film]:  # noqa: A002
    """The film at its beginning, with decoders that haven't begun either."""
    file.seek(0)
    with opened(file, type, limits) as container:
        video = _moving(container)
        check_pixels("The film", (video.width, video.height), limits)
        audio = _sound(container, video)
        only(container, video, audio)
        for stream in (video, audio):
            if stream is not None:
                # Again of each frame: a film may change its size.
                stream.codec_context.options = {"max_pixels": str(limits.pixels)}
        video.codec_context.thread_count = THREADS
        video.codec_context.thread_type = ThreadType.AUTO
        yield _Film(container, video, audio)


def _has_pictures(file: BinaryIO, type: FileType, limits: Limits) -> bool:  # noqa: A002
    with opened(file, type, limits) as container:
        return bool(_all_moving(container)) or not container.streams.audio


def _all_moving(container: InputContainer) -> list[VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & _NOT_MOVING]


def _moving(container: InputContainer) -> VideoStream:
    """Raises ProcessingFailed UNSUPPORTED."""
    moving = _all_moving(container)
    if not moving:
        raise ProcessingFailed(FailureCode.UNSUPPORTED, "There are no pictures in this film.")
    best = container.streams.best("video")
    chosen = best if best in moving else moving[0]
    assert isinstance(chosen, VideoStream)
    if chosen.codec_context is None:
        raise undecodable()
    return chosen


def _sound(container: InputContainer, video: VideoStream) -> AudioStream | None:
    """None too where it can't be decoded: the pictures may be fine."""
    best = container.streams.best("audio", related=video)
    return best if isinstance(best, AudioStream) and best.codec_context is not None else None


def _facts(film: _Film, still: Still) -> Facts:
    written = {**film.video.metadata, **film.container.metadata}
    lower = {key.lower(): value for key, value in written.items()}
    moments = (moment(lower[key]) for key in _MOMENTS if key in lower)
    places = (tags.place(lower[key]) for key in _PLACES if key in lower)
    latitude, longitude = next((place for place in places if place), (None, None))
    streams_ = [stream for stream in (film.video, film.audio) if stream]
    return Facts(
        width=still.size[0],
        height=still.size[1],
        duration=declared_seconds(film.container, *streams_),
        taken_at=next((moment for moment in moments if moment), None),
        latitude=latitude,
        longitude=longitude,
        tags={**readable(written, _NAMES), **_technical(film)},
    )


def _technical(film: _Film) -> dict[str, JSON]:
    found: dict[str, JSON] = {"VideoCodec": film.video.codec_context.codec.canonical_name}
    if film.video.average_rate:
        found["FrameRate"] = round(float(film.video.average_rate), 3)
    if film.audio:
        found["AudioCodec"] = film.audio.codec_context.codec.canonical_name
    return found


def _still(film: _Film, limits: Limits) -> Still:
    largest = max(spec.width for spec in STILL_VARIANTS), max(spec.height for spec in STILL_VARIANTS)
    return stills.find(film.container, film.video, largest, limits)


def _advance(tell: Tell, duration: float | None) -> Callable[[float], None]:
    """Tells what part of the duration is done, every now and then. Without one it only tells that work goes on."""
    fraction, told = BEFORE_STREAM, 0.0

    def advance(seconds: float) -> None:
        nonlocal fraction, told
        if duration:
            fraction = max(fraction, BEFORE_STREAM + (1 - BEFORE_STREAM) * min(1.0, seconds / duration))
        if time.monotonic() - told >= _SECONDS_BETWEEN_REPORTS:
            told = time.monotonic()
            tell(Progress(fraction))

    return advance
