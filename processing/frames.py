"""Decoded frames of a film as they are shown: upright, with square pixels, progressive, in the colours of BT.709."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingMore
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from processing.sizes import Size

# A display matrix (ISO/IEC 14496-12, 8.3.2.3) by the signs of a, b, c, d, and FFmpeg's filters that do what it says.
_UPRIGHT: Final = {
    (1, 0, 0, 1): (),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (-1, 0, 0, -1): (("hflip", None), ("vflip", None)),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (-1, 0, 0, 1): (("hflip", None),),
    (1, 0, 0, -1): (("vflip", None),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}
AS_STORED: Final = (1, 0, 0, 1)
Turn = tuple[int, int, int, int]

# Of ITU-T H.273, as FFmpeg numbers them too.
BT709: Final = 1
_SMPTE170M: Final = 6
_KNOWN_MATRICES: Final = frozenset({1, 4, 5, 6, 7, 9})
_PQ: Final = 16
_HLG: Final = 18
LIMITED_RANGE: Final = 1
_FULL_RANGE: Final = 2

# PQ says how bright each pixel is to be, up to 10,000 cd/m² (SMPTE ST 2084). White paper has 203 (ITU-R BT.2408), and
# what is up to five times as bright is brought together with it into what screens show, by Reinhard's curve.
_PQ_TO_SCREEN: Final = (
    "st(0, pow(clip((val-minval)/(maxval-minval),0,1), 1/78.84375));"
    "st(1, 10000/203 * pow(max(ld(0)-0.8359375,0)/(18.8515625-18.6875*ld(0)), 1/0.1593017578125));"
    "minval + (maxval-minval) * min(1, pow(ld(1)*(1+ld(1)/25)/(1+ld(1)), 1/2.2))"
)
_CHROMA: Final = "clip((minval+maxval)/2 + {0}*(val-(minval+maxval)/2), minval, maxval)"
# HLG was made to be looked at as it is. Its colours, and PQ's, are BT.2020's, which are paler than BT.709's by the same
# numbers; and what makes PQ's contrasts steeper must do the same to colours. FFmpeg's own conversion, which knows all
# of that exactly, takes 5 s before its first frame, and four times as long as scaling for each.
_WITHIN_SCREENS: Final = {
    _PQ: f"y='{_PQ_TO_SCREEN}':u='{_CHROMA.format(2)}':v='{_CHROMA.format(2)}'",
    _HLG: f"y=val:u='{_CHROMA.format(1.2)}':v='{_CHROMA.format(1.2)}'",
}

# Into RGB every pixel has its own colour, which costs twice as much.
_SCALING: Final = "flags=bicubic"
_SCALING_TO_RGB: Final = "flags=bicubic+full_chroma_int"

# The widest pixels in use are 2.2 times as wide as they are high (anamorphic MPEG-2): more is nonsense.
_WIDEST_PIXEL: Final = 4


def turn(frame: VideoFrame) -> Turn:
    """How a player turns the frame, to the next quarter: the signs of the display matrix' a, b, c, d.

    To be asked of one frame, not of each: one that has been asked for its side data refers to itself ever after, and
    waits for the garbage collector. Of 4K films that were 3 GB.
    """
    a, b, c, d = _matrix(frame)
    across, along = abs(a) + abs(d), abs(b) + abs(c)
    found = (_sign(a), 0, 0, _sign(d)) if across >= along else (0, _sign(b), _sign(c), 0)
    return found if found in _UPRIGHT else AS_STORED


def is_mirrored(turned: Turn) -> bool:
    a, b, c, d = turned
    return a * d - b * c < 0


def displayed(frame: VideoFrame, stream: VideoStream, turned: Turn) -> Size:
    """Width and height in square pixels, upright."""
    width, height = max(1, round(frame.width * pixel_aspect(stream))), frame.height
    return (width, height) if turned[0] else (height, width)


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel by its height."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return aspect if Fraction(1, _WIDEST_PIXEL) <= aspect <= _WIDEST_PIXEL else Fraction(1)


def is_high_dynamic_range(frame: VideoFrame) -> bool:
    return frame.color_trc in (_PQ, _HLG)


class Shown:
    """Makes frames of one upright size in a pixel format, whatever is decoded: films change their frames underway."""

    def __init__(
        self, size: Size, pixel_format: str, time_base: Fraction, *, turned: Turn = AS_STORED, interlaced: bool = False
    ) -> None:
        self._size = size
        self._turned = turned
        self._pixel_format = pixel_format
        self._time_base = time_base
        self._interlaced = interlaced
        self._graph: Graph | None = None
        self._kind: object = None

    def frames(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """None yet, or those that have become complete."""
        _settle(frame)
        colours = frame.colorspace, frame.color_range, frame.color_trc
        kind = frame.width, frame.height, frame.format.name, colours
        if kind != self._kind:
            yield from self.rest()
            self._graph, self._kind = self._graph_for(frame), kind
        assert self._graph is not None
        self._graph.push(frame)
        yield from _pulled(self._graph)

    def rest(self) -> Iterator[VideoFrame]:
        """After the last frame."""
        if self._graph is not None:
            self._graph.push(None)
            yield from _pulled(self._graph)
            self._graph = self._kind = None

    def _graph_for(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(self._time_base),
            colorspace=str(frame.colorspace),
            range=str(frame.color_range),
        )
        nodes = [graph.add(name, arguments) for name, arguments in self._filters(frame)]
        graph.link_nodes(source, *nodes, graph.add("buffersink"))
        graph.configure()
        return graph

    def _filters(self, frame: VideoFrame) -> Iterator[tuple[str, str | None]]:
        if self._interlaced:
            yield "bwdif", "mode=send_frame:deint=interlaced"
        width, height = self._size if self._turned[0] else self._size[::-1]
        scaling = _SCALING_TO_RGB if self._pixel_format == "rgb24" else _SCALING
        yield "scale", f"{width}:{height}:{scaling}:out_color_matrix=bt709:out_range=tv"
        if is_high_dynamic_range(frame):
            yield "format", "yuv420p10le"  # 8 bits are too few for what is stretched
            yield "lutyuv", _WITHIN_SCREENS[frame.color_trc]
        # Turning costs by the pixel: it comes after scaling.
        yield from _UPRIGHT[self._turned]
        yield "setsar", "1"
        yield "format", self._pixel_format


def _pulled(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (NothingYet, NothingMore):
            return


def _settle(frame: VideoFrame) -> None:
    """Says what the film leaves open, or says in a way that nobody reads, by what players assume."""
    if frame.format.is_rgb:
        return
    if frame.colorspace not in _KNOWN_MATRICES:
        high_definition = frame.width >= 1280 or frame.height > 576
        frame.colorspace = BT709 if high_definition else _SMPTE170M
    if frame.color_range not in (LIMITED_RANGE, _FULL_RANGE):
        frame.color_range = _FULL_RANGE if frame.format.name.startswith("yuvj") else LIMITED_RANGE


def _matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    try:
        written = bytes(frame.side_data[Type.DISPLAYMATRIX])  # type: ignore[typeddict-item]  # of PyAV's stub alone
    except (KeyError, ValueError):  # ValueError: of a kind that PyAV doesn't know
        return _quarter(frame.rotation)
    a, b, _, c, d = struct.unpack_from("=5i", written)
    return a, b, c, d


def _quarter(degrees: int) -> Turn:
    """Of a rotation counter-clockwise."""
    return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[round(degrees / 90) % 4]


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
