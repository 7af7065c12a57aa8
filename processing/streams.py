"""A film for any player: H.264 and AAC in an MP4 that plays while it is still being loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final, Protocol

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from processing import frames, mp4, soundtracks
from processing.containers import LONGEST_SECONDS, THREADS, AnyPacket, decoded, packets
from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits
from processing.stills import Still
from processing.variants import StreamSpec

_CLOCK: Final = 90_000  # ticks a second: the usual frame rates come out even
# Frames nearer to one another are left out. 60 a second, as timestamps in whole milliseconds have them, stay.
_NEAREST_FRAMES: Final = Fraction(15, 1000)
_SECONDS_TO_KEY_FRAME: Final = 4  # as far as a player has to decode before it shows the moment that was asked for

_SECONDS_OF_RATE: Final = 2  # over which the bits of a second are counted

_COPIED_FORMATS: Final = frozenset({"yuv420p", "yuvj420p"})
_COPIED_PROFILES: Final = frozenset({"Baseline", "Constrained Baseline", "Main", "High"})
_PROGRESSIVE: Final = frozenset({0, 1})  # AVFieldOrder: unknown, progressive
# AVI knows no time of presentation, without which frames that refer to later ones can't be told in order.
_COPIED_CONTAINERS: Final = ("mov", "matroska")

_MOST_REORDERED: Final = 16  # frames, of H.264
# Of H.264's units (ITU-T H.264, table 7-1) what is shown, and what is needed for that. All else may say where and with
# what it was taken (SEI, in which cameras write that) or whatever somebody put there.
_SHOWN: Final = "filter_units=pass_types=1-5|7|8"

# Seconds for which nothing comes, as in a film of slides. What comes later still has a wrong timestamp rather.
_LONGEST_PAUSE: Final = 3600.0

Advance = Callable[[float], None]


class _Track(Protocol):
    def packets(self, packet: AnyPacket | None) -> Iterator[AnyPacket]: ...


def make(  # noqa: PLR0917
    container: InputContainer,
    video: VideoStream,
    audio: AudioStream | None,
    still: Still,
    spec: StreamSpec,
    path: Path,
    limits: Limits,
    advance: Advance,
) -> tuple[tuple[int, int], float]:
    """Writes the film to `path`, and tells by `advance` how many of its seconds are done.

    Returns its size and how many seconds it lasts. Raises ProcessingFailed: CORRUPT, UNSUPPORTED where the file
    would become larger than `limits.output_bytes`.
    """
    zero = _zero(video, audio)
    seconds = 0.0
    with mp4.written(path, limits) as output:
        picture = _Copied(output, video, zero) if can_be_copied(container, video, still, spec) else None
        shown = picture or _Encoded(output, video, still, spec, zero)
        tracks: dict[int, _Track] = {video.index: shown}
        if audio is not None:
            copied = container.format.name.startswith(_COPIED_CONTAINERS) and soundtracks.can_be_copied(audio)
            heard = _Copied(output, audio, zero) if copied else soundtracks.Encoded(output, audio, spec, zero)
            tracks[audio.index] = heard
        for packet in packets(container, *(stream for stream in (video, audio) if stream)):
            begins, ends = _span(packet, zero)
            if begins > min(seconds + _LONGEST_PAUSE, LONGEST_SECONDS):
                continue
            seconds = max(seconds, ends)
            output.mux([*tracks[packet.stream_index].packets(packet)])
            advance(seconds)
        for track in tracks.values():
            output.mux([*track.packets(None)])
        shown.check()
    return still.size if picture else fitting(still.size, spec), seconds


def _span(packet: AnyPacket, zero: Fraction) -> tuple[float, float]:
    """Seconds from the film's beginning on. Where the packet doesn't say, it is shown at the beginning, for no time.

    A duration that is nonsense is taken from the packet.
    """
    at = packet.dts if packet.pts is None else packet.pts
    if at is None:
        return 0.0, 0.0
    if not 0 <= (packet.duration or 0) * packet.time_base <= _LONGEST_PAUSE:
        packet.duration = 0
    begins = float(at * packet.time_base - zero)
    return begins, begins + float((packet.duration or 0) * packet.time_base)


def can_be_copied(container: InputContainer, stream: VideoStream, still: Still, spec: StreamSpec) -> bool:
    """Whether every player shows these pictures as they are, and they show nothing else."""
    context = stream.codec_context
    width, height = sorted((stream.width, stream.height), reverse=True)
    return (
        container.format.name.startswith(_COPIED_CONTAINERS)
        and context.codec.canonical_name == "h264"
        and context.profile in _COPIED_PROFILES
        and bool(context.extradata)
        and context.pix_fmt in _COPIED_FORMATS
        and context.field_order in _PROGRESSIVE
        and not still.frame.interlaced_frame
        and not frames.is_high_dynamic_range(still.frame)
        and not frames.is_mirrored(still.turned)
        and frames.pixel_aspect(stream) == 1
        and width <= spec.width
        and height <= spec.height
        and (stream.average_rate is None or 1 / stream.average_rate >= _NEAREST_FRAMES)
    )


def fitting(size: tuple[int, int], spec: StreamSpec) -> tuple[int, int]:
    """Within the spec, or within its sides swapped; even, as colours are stored at half the resolution."""
    across, down = (spec.width, spec.height) if size[0] >= size[1] else (spec.height, spec.width)
    scale = min(1.0, across / size[0], down / size[1])
    width, height = (max(2, round(side * scale / 2) * 2) for side in size)
    return min(width, across), min(height, down)


class _Copied:
    """Passes on what is encoded already; `zero` is the film's first moment by its own clock, in seconds."""

    def __init__(self, output: OutputContainer, source: Stream, zero: Fraction) -> None:
        assert source.time_base is not None
        self._clock = source.time_base
        self._target = output.add_stream_from_template(source, opaque=True)
        pictures = isinstance(source, VideoStream)
        self._filter = BitStreamFilterContext(_SHOWN, source, self._target) if pictures else None
        self._zero = round(zero / source.time_base)
        self._waiting: list[AnyPacket] = []
        self._last: int | None = None
        self._read = self._damaged = 0

    def packets(self, packet: AnyPacket | None) -> Iterator[AnyPacket]:
        if packet is not None and packet.pts is None:
            return
        if packet is not None:
            self._waiting.append(packet)
        # Matroska doesn't say when frames are to be decoded: FFmpeg has found out when as many have come as are put in
        # another order. Those before are to be decoded one after another before that.
        if packet is None or packet.dts is not None or len(self._waiting) > _MOST_REORDERED:
            yield from self._in_time(packet)

    def _in_time(self, latest: AnyPacket | None) -> Iterator[AnyPacket]:
        waiting, self._waiting = self._waiting, []
        for before, packet in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
            assert packet.pts is not None
            known = packet.pts if latest is None or latest.dts is None else latest.dts
            dts = min(packet.pts, known - before * max(1, packet.duration or 1))
            if self._last is not None and dts <= self._last:
                continue  # damaged; a player would stop here
            self._last = dts
            packet.pts, packet.dts = packet.pts - self._zero, dts - self._zero
            found = self._shown(packet)
            self._read += 1
            self._damaged += not found
            for shown in found:
                shown.time_base, shown.stream = self._clock, self._target
                yield shown

    def _shown(self, packet: AnyPacket) -> list[AnyPacket]:
        """The packet without what isn't shown; nothing, where it is damaged or that is all it had."""
        if self._filter is None:
            return [packet]
        try:
            return [*self._filter.filter(packet)]
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            return []

    def check(self) -> None:
        """Raises ProcessingFailed CORRUPT where more is damaged than not."""
        if self._last is None or self._damaged * 2 > self._read:
            raise _nothing_left()


class _Encoded:
    """Decodes the pictures and encodes them, upright."""

    def __init__(
        self, output: OutputContainer, source: VideoStream, still: Still, spec: StreamSpec, zero: Fraction
    ) -> None:
        assert source.time_base is not None
        size = fitting(still.size, spec)
        interlaced = still.frame.interlaced_frame or source.codec_context.field_order not in _PROGRESSIVE
        self._source = source
        self._zero = zero
        self._target = _h264(output, size, _rate(source), spec)
        self._shown = frames.Shown(size, "yuv420p", source.time_base, turned=still.turned, interlaced=interlaced)
        self._nearest = round(_NEAREST_FRAMES / source.time_base)
        self._last: int | None = None
        self._read = self._damaged = 0

    def packets(self, packet: AnyPacket | None) -> Iterator[AnyPacket]:
        found = decoded(self._source, packet)
        self._read += 1
        self._damaged += found is None
        for frame in found or ():
            if self._is_due(frame):
                for each in self._shown.frames(frame):
                    yield from self._encode(each)
        if packet is None:
            for each in self._shown.rest():
                yield from self._encode(each)
            with _encoding():
                yield from self._target.encode(None)

    def check(self) -> None:
        """Raises ProcessingFailed CORRUPT where more is damaged than not."""
        if self._last is None or self._damaged * 2 > self._read:
            raise _nothing_left()

    def _is_due(self, frame: VideoFrame) -> bool:
        """Gives the frame its time from the film's beginning on; False: too near to the last, or before it."""
        assert frame.time_base is not None
        if frame.pts is None:
            return False
        at = frame.pts - round(self._zero / frame.time_base)
        if at < 0 or (self._last is not None and at < self._last + max(1, self._nearest)):
            return False
        frame.pts = self._last = at
        return True

    def _encode(self, frame: VideoFrame) -> Iterator[AnyPacket]:
        frame.pict_type = PictureType.NONE  # else the encoder takes the decoder's word for what it should become
        with _encoding():
            yield from self._target.encode(frame)


def _h264(output: OutputContainer, size: tuple[int, int], rate: Fraction, spec: StreamSpec) -> VideoStream:
    stream = output.add_stream(
        "libx264",
        rate=rate,
        options={
            "preset": spec.preset,
            "crf": str(spec.quality),
            "profile": "high",
            "maxrate": str(spec.most_bits_per_second),
            "bufsize": str(spec.most_bits_per_second * _SECONDS_OF_RATE),
        },
        time_base=Fraction(1, _CLOCK),
    )
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.width, context.height = size
    context.pix_fmt = "yuv420p"
    context.colorspace = context.color_primaries = context.color_trc = frames.BT709
    context.color_range = frames.LIMITED_RANGE
    context.gop_size = max(1, round(rate * _SECONDS_TO_KEY_FRAME))
    context.thread_count = THREADS
    with _encoding():
        context.open()
    return stream


@contextmanager
def _encoding() -> Iterator[None]:
    """What fails within isn't the film's fault, and not to be taken for it."""
    try:
        yield
    except av.FFmpegError as error:
        raise ProcessingFailed(FailureCode.CRASHED, "There was no room to encode this film.") from error


def _rate(stream: VideoStream) -> Fraction:
    """Frames a second, for the encoder's planning alone: timestamps stay as they are."""
    return min(max(Fraction(stream.average_rate or 25), Fraction(1)), 1 / _NEAREST_FRAMES)


def _zero(*streams: Stream | None) -> Fraction:
    starts = [
        stream.start_time * stream.time_base
        for stream in streams
        if stream is not None and stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=Fraction(0))


def _nothing_left() -> ProcessingFailed:
    return ProcessingFailed(FailureCode.CORRUPT, "This film is too damaged to be played.")
