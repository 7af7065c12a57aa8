"""The one frame that stands for a film."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Final

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageStat

from processing import frames
from processing.containers import declared_seconds, decoded, packets
from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits
from processing.sizes import Size, check_pixels, within

# Where to look, as parts of the film: not at its very beginning, which is often black, unless all others are too.
_PLACES: Final = (0.1, 0.25, 0.5, 0.75, 0.0)
# Then one after another, where there is nothing to be seen: four seconds of 1080p, which take one.
_PIXELS_FROM_START: Final = 250_000_000
_EVERY: Final = 10
_DULL: Final = 0.5

# Lightness, 0 to 255, of a frame that shows something.
_DARK: Final = 20.0
_FLAT: Final = 6.0  # standard deviation; a title on black has 15 and more, noise on black 2
_GLANCE: Final = (64, 64)

_PACKETS_WITHOUT_FRAME: Final = 500


@dataclass(frozen=True, slots=True)
class Still:
    """`picture` is upright, in sRGB, within the size that was asked for; `size` is the film's as displayed; `at` the
    seconds at which it stands, by the film's own clock."""

    frame: VideoFrame
    turned: frames.Turn
    picture: Image.Image
    size: tuple[int, int]
    at: float


def find(container: InputContainer, stream: VideoStream, most: Size, limits: Limits) -> Still:
    """Raises ProcessingFailed CORRUPT where no frame can be decoded, TOO_MANY_PIXELS."""
    best = _most_interesting(_key_frames(container, stream), limits)
    if best is None or best[0] < _DULL:
        another = _most_interesting(_from_start(container, stream), limits)
        best = max((each for each in (best, another) if each), key=lambda found: found[0], default=None)
    if best is None:
        raise ProcessingFailed(FailureCode.CORRUPT, "No picture of this film can be read.")
    return _still(best[1], stream, most, limits)


def _most_interesting(candidates: Iterator[VideoFrame], limits: Limits) -> tuple[float, VideoFrame] | None:
    """The first that shows something, or else the one that comes nearest to it, and how near."""
    best: tuple[float, VideoFrame] | None = None
    for frame in candidates:
        check_pixels("The film", (frame.width, frame.height), limits)
        interest = _interest(frame)
        if best is None or interest > best[0]:
            best = interest, frame
        if interest >= 1:
            break
    return best


def _key_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    seen: set[int | None] = set()
    seconds = declared_seconds(container, stream) or 0.0
    for place in _PLACES:
        sought(container, stream, place * seconds)
        for packet in islice(packets(container, stream), _PACKETS_WITHOUT_FRAME):
            if not packet.is_keyframe:
                continue
            # At once, without waiting for those after it, which may have to be shown before.
            found = None if packet.pts in seen else decoded(stream, packet) or decoded(stream, None)
            seen.add(packet.pts)
            yield from (found or ())[:1]
            break


def _from_start(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    sought(container, stream, 0.0)
    most = _PIXELS_FROM_START // max(1, stream.width * stream.height)
    yield from islice(following(container, stream), 0, max(1, most), _EVERY)


def following(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames from where the container stands. What can't be decoded is passed over, as long as it isn't too much."""
    fruitless = 0
    for packet in packets(container, stream):
        found = decoded(stream, packet)
        yield from found or ()
        fruitless = 0 if found else fruitless + 1
        if fruitless > _PACKETS_WITHOUT_FRAME:
            return
    yield from decoded(stream, None) or ()


def sought(container: InputContainer, stream: VideoStream, seconds: float) -> None:
    """To the key frame before, or the first after; `seconds` from the start. It stays where it is if it can't."""
    try:
        container.seek(int(seconds * av.time_base) + (container.start_time or 0))
    except av.FFmpegError:
        stream.codec_context.flush_buffers()


def _interest(frame: VideoFrame) -> float:
    """1 and more: something is to be seen."""
    luma = ImageStat.Stat(_picture(frame, _GLANCE).convert("L"))
    return min(luma.mean[0] / _DARK, luma.stddev[0] / _FLAT)


def _still(frame: VideoFrame, stream: VideoStream, most: Size, limits: Limits) -> Still:
    turned = frames.turn(frame)
    size = frames.displayed(frame, stream, turned)
    check_pixels("The film", size, limits)
    picture = _picture(frame, within(size, most), turned)
    return Still(frame, turned, picture, size, frame.time or 0.0)


def _picture(frame: VideoFrame, size: tuple[int, int], turned: frames.Turn = frames.AS_STORED) -> Image.Image:
    time_base = frame.time_base or Fraction(1)
    shown = frames.Shown(size, "rgb24", time_base, turned=turned, interlaced=frame.interlaced_frame)
    (picture,) = [*shown.frames(frame), *shown.rest()]
    return picture.to_image()  # type: ignore[no-any-return,no-untyped-call]  # PyAV leaves it so
