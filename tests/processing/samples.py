"""A small valid file of every type."""

import io
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Final

import av
import pillow_heif
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import ExifTags, Image

from processing import kinds
from processing.kinds import FileType
from tests.processing import pictures, rawfiles
from tests.processing.pdffiles import document
from tests.processing.pictures import encoded, exif, gif, gif_frame, quadrants, with_place
from tests.processing.soundfiles import (
    FRONT_COVER,
    bare,
    flac_picture,
    id3,
    ogg_cover,
    samples,
    tone,
    with_flac_cover,
    with_m4a_cover,
)

SIZE: Final = (48, 32)
FILM_SIZE: Final = (64, 48)
_FRAMES: Final = 8
_FRAMES_PER_SECOND: Final = 8
_SOUND_SECONDS: Final = 0.5

# Container, codec of the pictures, codec of the sound.
_FILMS: Final = {
    kinds.MP4: ("mp4", "libx264", "aac"),
    kinds.MOV: ("mov", "mpeg4", "pcm_s16le"),
    kinds.WEBM: ("webm", "libvpx", "libopus"),
    kinds.MKV: ("matroska", "libx264", "flac"),
    kinds.AVI: ("avi", "mjpeg", "libmp3lame"),
}


@cache
def sample(type: FileType) -> bytes:  # noqa: A002
    """With metadata where the format has any, and a cover where it can."""
    return _MAKERS[type]()


def film(type: FileType, frames: int | None = _FRAMES, sound: bool = True) -> bytes:  # noqa: A002
    """A second of four colours, as long as there are frames; None: not even a track for them.

    With when and where, if the container has room for it.
    """
    container_name, video_codec, audio_codec = _FILMS[type]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_name) as container:
        video = _pictures(container, video_codec) if frames is not None else None
        audio = container.add_stream(audio_codec, rate=48_000, layout="stereo") if sound else None
        assert audio is None or isinstance(audio, AudioStream)
        container.metadata.update({"creation_time": "2024-05-01T12:00:00Z", "location": "+48.2083+016.3700/"})
        if video is not None:
            for at in range(frames or 0):
                picture: av.VideoFrame = av.VideoFrame.from_image(quadrants(*FILM_SIZE))  # type: ignore[no-untyped-call]
                picture.pts, picture.time_base = at, Fraction(1, _FRAMES_PER_SECOND)
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(samples(0, round(_SOUND_SECONDS * 48_000))))
            container.mux(audio.encode(None))
    return buffer.getvalue()


def _pictures(container: OutputContainer, codec: str) -> VideoStream:
    stream = container.add_stream(codec, rate=_FRAMES_PER_SECOND)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = FILM_SIZE
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return stream


def photo(type: FileType) -> bytes:  # noqa: A002
    # In bytes: of an `Exif`, Pillow writes no more than the first directory into a TIFF.
    return encoded(quadrants(*SIZE), type, exif=_exif().tobytes())


def _exif() -> Image.Exif:
    """Says when and where."""
    tags = exif(DateTimeOriginal="2024:05:01 12:00:00", OffsetTimeOriginal="+02:00", FNumber=2.8, LensModel="50mm")
    tags[ExifTags.Base.Make] = "Heirloom"
    return with_place(tags, ((48.0, 12.0, 30.0), "N"), ((16.0, 22.0, 12.0), "E"))


def _animation() -> bytes:
    return gif(*SIZE, *(gif_frame(colour, (0, 0, *SIZE), disposal=colour % 3 + 1) for colour in range(4)))


def _heif() -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(quadrants(*SIZE)).save(buffer, exif=_exif().tobytes(), enc_params={"preset": "ultrafast"})
    return buffer.getvalue()


def _raw(type: FileType) -> bytes:  # noqa: A002
    preview = rawfiles.jpeg(quadrants(*rawfiles.SENSOR))
    return rawfiles.raw(type, preview, rawfiles.SENSOR, camera=_CAMERA, place=_PLACE)


# As in `_exif`.
_CAMERA: Final[rawfiles.Tags] = {36867: b"2024:05:01 12:00:00\0", 36881: b"+02:00\0", 42036: b"50mm\0"}
_PLACE: Final[rawfiles.Tags] = {1: b"N\0", 2: (48, 1, 12, 1, 30, 1), 3: b"E\0", 4: (16, 1, 22, 1, 12, 1)}


def _cover() -> bytes:
    return encoded(quadrants(*SIZE), kinds.JPEG)


_MAKERS: Final[dict[FileType, Callable[[], bytes]]] = {
    **{type_: lambda type_=type_: photo(type_) for type_ in pictures.FORMATS},  # type: ignore[misc]
    kinds.GIF: _animation,
    kinds.BMP: lambda: encoded(quadrants(*SIZE), kinds.BMP),
    kinds.HEIC: _heif,
    kinds.DNG: lambda: _raw(kinds.DNG),
    kinds.NEF: lambda: _raw(kinds.NEF),
    kinds.RAF: lambda: rawfiles.raf(rawfiles.jpeg(quadrants(*rawfiles.SENSOR), _exif())),
    **{type_: lambda type_=type_: film(type_) for type_ in _FILMS},  # type: ignore[misc]
    kinds.MP3: lambda: id3((FRONT_COVER, _cover()), title="Tone") + bare(tone(kinds.MP3, _SOUND_SECONDS)),
    kinds.M4A: lambda: with_m4a_cover(tone(kinds.M4A, _SOUND_SECONDS, tags={"title": "Tone"}), _cover()),
    kinds.OGG: lambda: tone(
        kinds.OGG,
        _SOUND_SECONDS,
        tags=ogg_cover(flac_picture(FRONT_COVER, _cover())),
        options={"page_duration": "100000"},  # microseconds: not all in one page
    ),
    kinds.WAV: lambda: tone(kinds.WAV, 0.1, tags={"title": "Tone"}),
    kinds.FLAC: lambda: with_flac_cover(tone(kinds.FLAC, _SOUND_SECONDS), flac_picture(FRONT_COVER, _cover())),
    kinds.PDF: lambda: document(pages=3, info=b"/Title (Pages)"),
}
TYPES: Final = tuple(_MAKERS)
