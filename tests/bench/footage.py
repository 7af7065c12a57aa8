"""Films as telephones write them: 1080p at 30 frames a second, with sound, the index at the end."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.audio.frame import AudioFrame
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tests.bench.material import landscape

WIDTH: Final = 1920
HEIGHT: Final = 1080
FRAMES_PER_SECOND: Final = 30
SAMPLES_PER_SECOND: Final = 48_000
BITS_PER_SECOND: Final = 16_000_000
ONCE_SECONDS: Final = 4
PIXELS_PER_FRAME: Final = 8  # by which the camera turns
ULTRAFAST: Final = {"preset": "ultrafast"}


@dataclass(frozen=True)
class Footage:
    path: Path
    seconds: float


def h264(folder: Path) -> Footage:
    """Some 100 MB that may be streamed as they are."""
    return _repeated(folder / "h264.mp4", 17, _take(folder, "libx264", ULTRAFAST))


def hevc(folder: Path) -> Footage:
    """A film that not every browser plays."""
    return _repeated(folder / "hevc.mov", 5, _take(folder, "libx265", {**ULTRAFAST, "x265-params": "log-level=error"}))


def _take(folder: Path, codec: str, options: dict[str, str]) -> Path:
    """A few seconds in which the camera turns."""
    path = folder / f"{codec}.mov"
    view = landscape()
    with av.open(path, "w") as film:
        pictures = film.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        assert isinstance(pictures, VideoStream)
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        pictures.bit_rate = BITS_PER_SECOND
        sound = film.add_stream("aac", rate=SAMPLES_PER_SECOND, layout="stereo")
        for number in range(ONCE_SECONDS * FRAMES_PER_SECOND):
            left = number * PIXELS_PER_FRAME
            seen = view.crop((left, left // 2, left + WIDTH, left // 2 + HEIGHT))
            film.mux(pictures.encode(VideoFrame.from_image(seen)))  # type: ignore[no-untyped-call]  # PyAV's
            film.mux(sound.encode(_silence(number * SAMPLES_PER_SECOND // FRAMES_PER_SECOND)))
        film.mux(pictures.encode(None))
        film.mux(sound.encode(None))
    return path


def _silence(at: int) -> AudioFrame:
    frame = AudioFrame(format="fltp", layout="stereo", samples=SAMPLES_PER_SECOND // FRAMES_PER_SECOND)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate, frame.time_base, frame.pts = SAMPLES_PER_SECOND, Fraction(1, SAMPLES_PER_SECOND), at
    return frame


def _repeated(path: Path, times: int, take: Path) -> Footage:
    """The packets of a take again and again: encoding as much would take minutes."""
    with av.open(path, "w") as film:
        streams: dict[int, Stream] = {}
        latest: dict[int, int] = {}
        for number in range(times):
            with av.open(take) as container:
                for stream in container.streams:
                    if stream.index not in streams:
                        streams[stream.index] = film.add_stream_from_template(stream)
                for packet in container.demux():
                    if packet.pts is None or packet.dts is None:
                        continue  # the one at the end, which is empty
                    index, offset = packet.stream.index, round(number * ONCE_SECONDS / packet.time_base)
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    if packet.dts <= latest.get(index, packet.dts - 1):
                        continue  # sound comes by whole packets, and so goes on for a little longer
                    latest[index] = packet.dts
                    packet.stream = streams[index]
                    film.mux_one(packet)
    take.unlink()
    return Footage(path, times * ONCE_SECONDS)
