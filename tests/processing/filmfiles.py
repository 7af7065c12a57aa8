"""Films for the tests: four quadrants of known colours, in any container and codec, tiny and short."""

import io
import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from processing import kinds
from processing.kinds import FileType
from tests.processing.pictures import quadrants

FORMATS: Final = {kinds.MP4: "mp4", kinds.MOV: "mov", kinds.WEBM: "webm", kinds.MKV: "matroska", kinds.AVI: "avi"}

SIZE: Final = (64, 48)
_MILLISECOND: Final = Fraction(1, 1000)


@dataclass(frozen=True, kw_only=True)
class Sound:
    codec: str = "aac"
    rate: int = 48_000
    layout: str = "stereo"
    begins: float = 0.0  # seconds after the pictures


@dataclass(frozen=True, kw_only=True)
class Film:
    """`pictures` are shown one after another at `rate` a second, or each at its moment (milliseconds)."""

    type: FileType = kinds.MP4
    codec: str = "libx264"
    pictures: Sequence[Image.Image] = field(default_factory=lambda: [quadrants(*SIZE)] * 10)
    rate: int = 10
    moments: Sequence[int] | None = None
    pixel_format: str = "yuv420p"
    sound: Sound | None = Sound()
    turned: int | None = None  # degrees counter-clockwise
    mirrored: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    # Of the encoder.
    options: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    cover: Image.Image | None = None  # as a track of its own, which comes first

    def encoded(self) -> bytes:
        file = io.BytesIO()
        # So that FFmpeg writes QuickTime's keys as they are.
        options = {"movflags": "use_metadata_tags"} if self.type in (kinds.MP4, kinds.MOV) else {}
        with av.open(file, "w", format=FORMATS[self.type], container_options=options) as output:
            output.metadata.update(self.metadata)
            cover = output.add_stream("mjpeg", rate=1) if self.cover else None
            video = self._video(output)
            if self.cover and cover:
                cover.width, cover.height = self.cover.size
                cover.pix_fmt = "yuvj420p"
                cover.disposition = Disposition.attached_pic
                picture = VideoFrame.from_image(self.cover)  # type: ignore[no-untyped-call]
                output.mux([*cover.encode(picture), *cover.encode(None)])
            audio = _audio(output, self.sound) if self.sound else None
            for frame in self._frames():
                output.mux(video.encode(frame))
            output.mux(video.encode(None))
            if self.sound and audio:
                for block in blocks(self.sound, len(self.pictures) / self.rate):
                    output.mux(audio.encode(block))
                output.mux(audio.encode(None))
        return file.getvalue()

    def _video(self, output: OutputContainer) -> VideoStream:
        stream = output.add_stream(
            self.codec, rate=self.rate, options=_NEARLY_LOSSLESS.get(self.codec, {}) | self.options
        )
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = self.pictures[0].size
        stream.pix_fmt = self.pixel_format
        stream.codec_context.thread_count = 1
        if self.moments is not None:
            stream.codec_context.time_base = _MILLISECOND
        for name, value in self.context.items():
            setattr(stream.codec_context, name, value)
        if self.turned is not None:
            stream.set_display_rotation(self.turned, hflip=self.mirrored)
        return stream

    def _frames(self) -> Iterable[VideoFrame]:
        for index, picture in enumerate(self.pictures):
            # What is not said is taken for BT.601 here, and for BT.709 by players if it is large.
            frame = VideoFrame.from_image(picture).reformat(  # type: ignore[no-untyped-call]
                format=self.pixel_format, dst_colorspace=self.context.get("colorspace")
            )
            frame.pts = index if self.moments is None else self.moments[index]
            frame.time_base = Fraction(1, self.rate) if self.moments is None else _MILLISECOND
            yield frame


def with_gps_in_its_pictures(film: bytes) -> bytes:
    """Of H.264 in an MP4, as AVCHD's cameras have it: user data within the first picture."""
    file = io.BytesIO()
    with av.open(io.BytesIO(film), "r") as source, av.open(file, "w", format="mp4") as output:
        stream = source.streams.video[0]
        target = output.add_stream_from_template(stream)
        data = "h264_metadata=sei_user_data=17ee8c60-f84d-11d9-8cd6-0800200c9a66+MDPMgps48.2082"
        filtered = BitStreamFilterContext(data, stream, target)
        for packet in source.demux(stream):
            for each in filtered.filter(packet if packet.size else None):
                each.stream = target
                output.mux(each)
    return file.getvalue()


def retimed(film: Film, kind: Literal["video", "audio"], moment: Callable[[int], int]) -> bytes:
    """In Matroska: what comes at which millisecond, by its number, whatever an encoder would make of that."""
    file = io.BytesIO()
    with av.open(io.BytesIO(film.encoded()), "r") as source, av.open(file, "w", format="matroska") as output:
        targets = [output.add_stream_from_template(stream) for stream in source.streams]
        number = 0
        for packet in source.demux():
            if not packet.size:
                continue
            if packet.stream.type == kind:
                packet.time_base, packet.duration = _MILLISECOND, 0
                packet.pts = packet.dts = moment(number)
                number += 1
            packet.stream = targets[packet.stream_index]
            output.mux(packet)
    return file.getvalue()


_NEARLY_LOSSLESS: Final = {
    "libx264": {"crf": "8", "preset": "ultrafast"},
    "libx265": {"crf": "8", "preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"},
    "libvpx": {"crf": "4", "b": "2M", "deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"crf": "8", "b": "0", "deadline": "realtime", "cpu-used": "8"},
    "mpeg4": {"b": "4M"},
}


def _audio(output: OutputContainer, sound: Sound) -> AudioStream:
    stream = output.add_stream(sound.codec, rate=sound.rate, options={"strict": "experimental"})
    assert isinstance(stream, AudioStream)
    stream.layout = sound.layout
    return stream


def blocks(sound: Sound, seconds: float) -> Iterable[av.AudioFrame]:
    """A tone of 440 Hz."""
    channels = av.AudioLayout(sound.layout).nb_channels
    size = 960  # of Opus, which takes no other; the rest take any
    tone = array("f", (0.5 * math.sin(2 * math.pi * 440 * at / sound.rate) for at in range(size)))
    for start in range(0, int(seconds * sound.rate), size):
        block = av.AudioFrame(format="fltp", layout=sound.layout, samples=size, align=1)
        for plane in block.planes[:channels]:
            plane.update(tone.tobytes())
        block.sample_rate = sound.rate
        block.time_base = Fraction(1, sound.rate)
        block.pts = start + round(sound.begins * sound.rate)
        yield from _fitting(block, sound)


def _fitting(block: av.AudioFrame, sound: Sound) -> list[av.AudioFrame]:
    """In the samples that the codec takes; the rest is the encoder's own doing."""
    formats = {"libopus": "flt", "pcm_s16le": "s16", "libmp3lame": "fltp"}
    if sound.codec not in formats:
        return [block]
    return av.AudioResampler(format=formats[sound.codec]).resample(block)
