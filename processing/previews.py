"""A few seconds of a film, as an animated picture."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Final

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from processing import frames, renditions
from processing.containers import declared_seconds
from processing.sizes import within
from processing.stills import Still, following, sought
from processing.variants import PreviewSpec, Rendered

# No more of them are decoded, whatever their timestamps say: ten seconds of the fastest, to get there and through.
_MOST_DECODED: Final = 1200


def make(
    container: InputContainer,
    stream: VideoStream,
    still: Still,
    spec: PreviewSpec,
    path: Path,
    *,
    alive: Callable[[], None],
) -> Rendered | None:
    """From where the still was found, or earlier where the film ends before. None: nothing there can be decoded.

    `alive` is called for each frame that is decoded.
    """
    size = within(still.size, (spec.width, spec.height))
    start = still.at
    if (seconds := declared_seconds(container, stream)) is not None:
        end = seconds + (container.start_time or 0) / 1_000_000
        start = max(0.0, min(start, end - spec.seconds))
    chosen = _chosen(container, stream, start, spec, alive=alive)
    pictures = list(_pictures(chosen, size, still))
    if not pictures:
        return None
    usual = 1000 // spec.frames_per_second
    durations = [max(1, round(1000 * (after - before))) for (before, _), (after, _) in pairwise(pictures)]
    moving = zip((picture for _, picture in pictures), [*durations, usual], strict=True)
    renditions.animate(moving, path, quality=spec.quality, effort=spec.effort)
    return Rendered(spec.name, spec.digest, path, "image/webp", *pictures[0][1].size, path.stat().st_size)


def _chosen(
    container: InputContainer, stream: VideoStream, start: float, spec: PreviewSpec, *, alive: Callable[[], None]
) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their seconds, as far apart as the spec has them, or as the film."""
    sought(container, stream, start - (container.start_time or 0) / 1_000_000)
    due = start - 0.001  # seconds are rounded
    for frame in islice(following(container, stream), _MOST_DECODED):
        alive()
        if frame.pts is None or frame.time < due:
            continue
        if frame.time >= start + spec.seconds:
            return
        yield frame.time, frame
        due = max(due + 1 / spec.frames_per_second, frame.time)


def _pictures(
    chosen: Iterator[tuple[float, VideoFrame]], size: tuple[int, int], still: Still
) -> Iterator[tuple[float, Image.Image]]:
    time_base, interlaced = still.frame.time_base or Fraction(1), still.frame.interlaced_frame
    shown = frames.Shown(size, "rgb24", time_base, turned=still.turned, interlaced=interlaced)
    seconds: list[float] = []
    for at, frame in chosen:
        seconds.append(at)
        for each in shown.frames(frame):
            yield seconds.pop(0), each.to_image()  # type: ignore[no-untyped-call]  # PyAV leaves it so
    for each in shown.rest():
        yield seconds.pop(0), each.to_image()  # type: ignore[no-untyped-call]
