"""A film's sound, for any player: AAC, mono or stereo, without gaps."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingMore
from av.filter import Graph

from processing.containers import AnyPacket, decoded
from processing.variants import StreamSpec

# Of AAC (ISO/IEC 14496-3, table 1.18), up to what everything plays.
_RATES: Final = (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_FRAME: Final = 1024  # samples that AAC encodes together

# Silence is put in where sound is missing. Where more is missing than that, a timestamp is wrong rather.
_LONGEST_GAP: Final = 60.0
# As many seconds in all for each that is heard: telephones send one frame in twenty while nobody speaks.
_SILENCE: Final = 20


def can_be_copied(stream: AudioStream) -> bool:
    """Whether it is what a STREAM's sound is: AAC-LC with what decoders need known beforehand."""
    context = stream.codec_context
    return (
        stream.codec_context.codec.canonical_name == "aac"
        and stream.profile == "LC"
        and bool(context.extradata)
        and context.layout.nb_channels in (1, 2)
        and context.sample_rate in _RATES
    )


class Encoded:
    """Decodes the sound and encodes it; `zero` is the film's first moment by its own clock, in seconds."""

    def __init__(self, output: OutputContainer, source: AudioStream, spec: StreamSpec, zero: Fraction) -> None:
        context = source.codec_context
        self._source = source
        self._zero = zero
        self._layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        self._rate = context.sample_rate if context.sample_rate in _RATES else _RATES[0]
        channels = 1 if self._layout == "mono" else 2
        self._target = output.add_stream("aac", rate=self._rate)
        self._target.layout = self._layout
        self._target.bit_rate = min(spec.audio_bits_per_second * channels // 2, 3 * self._rate * channels)
        self._graph: Graph | None = None
        self._kind: object = None
        self._until = 0.0
        self._silence = _LONGEST_GAP  # seconds that may be put in yet

    def packets(self, packet: AnyPacket | None) -> Iterator[AnyPacket]:
        """What has become complete; None: there is no more."""
        for frame in decoded(self._source, packet) or ():
            for each in self._even(frame):
                yield from self._target.encode(each)
        if packet is None:
            for each in self._rest():
                yield from self._target.encode(each)
            yield from self._target.encode(None)

    def _even(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        at = self._until if frame.time is None else frame.time - float(self._zero)
        lasts = frame.samples / frame.sample_rate
        missing = max(0.0, at - self._until)
        if missing > min(_LONGEST_GAP, self._silence):
            return
        self._silence += _SILENCE * lasts - missing
        kind = (frame.sample_rate, frame.format.name, frame.layout.name)
        if kind != self._kind:
            yield from self._rest()
            self._graph, self._kind = self._graph_for(frame, start=self._until), kind
        assert self._graph is not None
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = round(at * frame.sample_rate)
        self._until = max(self._until, at + lasts)
        self._graph.push(frame)
        yield from _pulled(self._graph)

    def _rest(self) -> Iterator[AudioFrame]:
        if self._graph is not None:
            self._graph.push(None)
            yield from _pulled(self._graph)
            self._graph = self._kind = None

    def _graph_for(self, frame: AudioFrame, start: float) -> Graph:
        graph = Graph()
        graph.link_nodes(
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format,
                layout=frame.layout.name,
                time_base=Fraction(1, frame.sample_rate),
            ),
            # Fills gaps, cuts what overlaps, and begins where the pictures do. Channels that are added up stay within
            # bounds.
            graph.add("aresample", f"{self._rate}:async=1:first_pts={round(start * self._rate)}:rematrix_maxval=1"),
            graph.add("aformat", f"sample_fmts=fltp:channel_layouts={self._layout}"),
            graph.add("abuffersink"),
        )
        graph.configure()
        graph.set_audio_frame_size(_FRAME)
        return graph


def _pulled(graph: Graph) -> Iterator[AudioFrame]:
    while True:
        try:
            frame = graph.pull()
        except (NothingYet, NothingMore):
            return
        assert isinstance(frame, av.AudioFrame)
        yield frame
