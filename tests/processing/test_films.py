import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import pytest
from PIL import Image

from processing import films, kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import STREAM, Facts, Progress, Rendered, VariantName
from tests.processing.filmfiles import SIZE, Film, Sound, blocks, retimed, with_gps_in_its_pictures
from tests.processing.pictures import BLUE, CORNERS, GREEN, RED, WHITE, close, corners, label, quadrants
from tests.processing.whole import produce

LIMITS = Limits()
BLACK = Image.new("RGB", SIZE)


@dataclass(frozen=True)
class Produced:
    facts: Facts
    told: list[Rendered | Progress]

    def variant(self, name: VariantName) -> Rendered:
        (found,) = (each for each in self.told if isinstance(each, Rendered) and each.name is name)
        return found

    def picture(self, name: VariantName) -> Image.Image:
        image = Image.open(self.variant(name).path)
        image.load()
        return image

    @property
    def stream(self) -> Path:
        return self.variant(VariantName.STREAM).path

    def frame(self) -> Image.Image:
        """Of the STREAM, in its middle, turned as a player does."""
        with av.open(self.stream) as container:
            shown = list(container.decode(video=0))
            middle = shown[len(shown) // 2]
            image: Image.Image = middle.to_image()  # type: ignore[no-untyped-call]
            return image.rotate(middle.rotation, expand=True)


Produce = Callable[..., Produced]


@pytest.fixture
def made(tmp_path: Path) -> Produce:
    """Processes a film, checking that what is told is what is there."""
    into = tmp_path / "out"
    into.mkdir()

    def make(film: Film | bytes, type_: FileType = kinds.MP4, limits: Limits = LIMITS) -> Produced:
        source = tmp_path / "source"
        source.write_bytes(film.encoded() if isinstance(film, Film) else film)
        type_ = film.type if isinstance(film, Film) else type_
        told: list[Rendered | Progress] = []
        facts = produce(source, type_, into, limits, told.append)
        variants = [each for each in told if isinstance(each, Rendered)]
        assert sorted(into.iterdir()) == sorted(each.path for each in variants)
        assert all(each.path.stat().st_size == each.size_bytes for each in variants)
        return Produced(facts, told)

    return make


def failure(made: Produce, film: Film | bytes, type_: FileType = kinds.MP4, limits: Limits = LIMITS) -> FailureCode:
    with pytest.raises(ProcessingFailed) as caught:
        made(film, type_, limits)
    assert "/" not in caught.value.message
    return caught.value.code


def tracks(path: Path) -> list[tuple[str, str]]:
    with av.open(path) as container:
        return [(stream.type, stream.codec_context.codec.canonical_name) for stream in container.streams]


def encoded(path: Path, kind: str) -> list[bytes]:
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def units(path: Path) -> list[list[bytes]]:
    """Of each picture in H.264, what an MP4 or a Matroska file has behind their lengths."""
    return [list(_units(packet)) for packet in encoded(path, "video")]


def _units(packet: bytes) -> Iterator[bytes]:
    while packet:
        size = int.from_bytes(packet[:4])
        yield packet[4 : 4 + size]
        packet = packet[4 + size :]


def shown(path: Path) -> list[list[bytes]]:
    """The units without those that say something else than what is to be seen (SEI)."""
    return [[unit for unit in picture if unit[0] & 31 != 6] for picture in units(path)]


def seconds(path: Path, kind: Literal["video", "audio"]) -> list[float]:
    """When each frame is shown."""
    with av.open(path) as container:
        shown = container.decode(container.streams.best(kind))
        return [frame.time or 0.0 for frame in shown if isinstance(frame, av.VideoFrame | av.AudioFrame)]


def boxes(data: bytes) -> list[bytes]:
    """Of an MP4, in their order (ISO/IEC 14496-12, 4.2)."""
    found, at = [], 0
    while at < len(data):
        found.append(data[at + 4 : at + 8])
        at += struct.unpack_from(">I", data, at)[0]
    return found


# ---------------------------------------------------------------- containers and codecs


@pytest.mark.parametrize(
    ("type_", "codec", "pixel_format", "sound", "names"),
    [
        (kinds.MP4, "libx264", "yuv420p", "aac", ("h264", "aac")),
        (kinds.MP4, "libx265", "yuv420p", "aac", ("hevc", "aac")),
        (kinds.MP4, "mpeg4", "yuv420p", "libmp3lame", ("mpeg4", "mp3")),
        (kinds.MOV, "libx265", "yuv420p10le", "pcm_s16le", ("hevc", "pcm_s16le")),
        (kinds.MOV, "prores_ks", "yuv422p10le", "aac", ("prores", "aac")),
        (kinds.MOV, "mjpeg", "yuvj420p", "aac", ("mjpeg", "aac")),
        (kinds.WEBM, "libvpx", "yuv420p", "libopus", ("vp8", "opus")),
        (kinds.WEBM, "libvpx-vp9", "yuv420p", "libopus", ("vp9", "opus")),
        (kinds.MKV, "libx264", "yuv444p", "aac", ("h264", "aac")),
        (kinds.MKV, "mpeg4", "yuv420p", "aac", ("mpeg4", "aac")),
        (kinds.AVI, "mpeg4", "yuv420p", "libmp3lame", ("mpeg4", "mp3")),
        (kinds.AVI, "libx264", "yuv420p", "pcm_s16le", ("h264", "pcm_s16le")),
        (kinds.AVI, "mjpeg", "yuvj422p", "pcm_s16le", ("mjpeg", "pcm_s16le")),
    ],
    ids=label,
)
def test_containers_and_codecs(  # noqa: PLR0917
    made: Produce, type_: FileType, codec: str, pixel_format: str, sound: str, names: tuple[str, str]
) -> None:
    film = made(Film(type=type_, codec=codec, pixel_format=pixel_format, sound=Sound(codec=sound)))
    assert (film.facts.width, film.facts.height) == SIZE
    assert film.facts.duration == pytest.approx(1.0, abs=0.15)
    assert (film.facts.tags["VideoCodec"], film.facts.tags["AudioCodec"]) == names
    assert film.facts.looks is not None
    assert close(corners(film.picture(VariantName.POSTER)), CORNERS)
    assert close(corners(film.picture(VariantName.PREVIEW)), CORNERS, 20)
    assert close(corners(film.frame()), CORNERS)
    assert tracks(film.stream) == [("video", "h264"), ("audio", "aac")]
    assert len(seconds(film.stream, "video")) == 10
    # AVI knows when a frame is decoded, not when it is shown.
    assert seconds(film.stream, "video")[0] <= (0.1 if type_ is kinds.AVI else 0)
    assert max(seconds(film.stream, "audio")) == pytest.approx(1.0, abs=0.1)


def test_what_is_told_and_when(made: Produce) -> None:
    film = made(Film(codec="mpeg4", pictures=[quadrants(900, 600)] * 3))
    assert film.told[0] == Progress(0)
    assert [each.name for each in film.told if isinstance(each, Rendered)] == [
        VariantName.POSTER,
        VariantName.MEDIUM,
        VariantName.SMALL,
        VariantName.THUMBNAIL,
        VariantName.PREVIEW,
        VariantName.STREAM,
    ]
    # A report publishes: the still doesn't wait for what moves.
    still = film.told.index(film.variant(VariantName.THUMBNAIL))
    assert isinstance(film.told[still + 1], Progress)
    fractions = [each.fraction for each in film.told if isinstance(each, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1
    assert film.variant(VariantName.STREAM).content_type == "video/mp4"
    assert film.variant(VariantName.POSTER).content_type == "image/webp"


# ---------------------------------------------------------------- upright


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(
    ("turned", "mirrored", "colours"),
    [
        (90, False, (GREEN, WHITE, RED, BLUE)),
        (180, False, (WHITE, BLUE, GREEN, RED)),
        (270, False, (BLUE, RED, WHITE, GREEN)),
        (0, True, (GREEN, RED, WHITE, BLUE)),
    ],
)
def test_upright(
    made: Produce, codec: str, turned: int, mirrored: bool, colours: tuple[tuple[int, int, int], ...]
) -> None:
    film = made(Film(codec=codec, turned=turned, mirrored=mirrored))
    size = SIZE[::-1] if turned in (90, 270) else SIZE
    assert (film.facts.width, film.facts.height) == size
    for name in (VariantName.POSTER, VariantName.PREVIEW):
        assert film.picture(name).size == size
        assert close(corners(film.picture(name)), colours, 20)
    assert film.frame().size == size
    assert close(corners(film.frame()), colours)
    stream = film.variant(VariantName.STREAM)
    assert (stream.width, stream.height) == size


def test_pixels_that_are_not_square(made: Produce) -> None:
    film = made(Film(codec="mpeg4", context={"sample_aspect_ratio": Fraction(2)}))
    assert (film.facts.width, film.facts.height) == (128, 48)
    assert film.picture(VariantName.POSTER).size == (128, 48)
    assert film.frame().size == (128, 48)


def test_odd_sides(made: Produce) -> None:
    film = made(Film(codec="mjpeg", type=kinds.MOV, pixel_format="yuvj444p", pictures=[quadrants(51, 37)] * 5))
    assert (film.facts.width, film.facts.height) == (51, 37)
    assert film.picture(VariantName.POSTER).size == (51, 37)
    assert film.frame().size == (52, 36)
    assert close(corners(film.frame()), CORNERS)


@pytest.mark.parametrize(("size", "expected"), [((2560, 640), (1920, 480)), ((640, 2560), (480, 1920))])
def test_at_most_1080p(made: Produce, size: tuple[int, int], expected: tuple[int, int]) -> None:
    film = made(Film(pictures=[quadrants(*size)] * 2, sound=None, context={"colorspace": 1, "color_range": 1}))
    stream = film.variant(VariantName.STREAM)
    assert (stream.width, stream.height) == film.frame().size == expected
    assert close(corners(film.frame()), CORNERS)
    assert max(film.picture(VariantName.POSTER).size) == 1600


# ---------------------------------------------------------------- the still


def test_a_black_beginning_is_not_the_poster(made: Produce) -> None:
    # One key frame, at the beginning: what can be found by seeking is black.
    film = made(Film(pictures=[BLACK] * 20 + [quadrants(*SIZE)] * 12, options={"g": "250"}))
    assert close(corners(film.picture(VariantName.POSTER)), CORNERS)


def test_a_flat_frame_is_not_the_poster(made: Produce) -> None:
    flat = Image.new("RGB", SIZE, GREEN)
    film = made(Film(pictures=[flat] * 6 + [quadrants(*SIZE)] * 6, options={"g": "1"}))
    assert close(corners(film.picture(VariantName.POSTER)), CORNERS)


def test_a_black_film_has_a_black_poster(made: Produce) -> None:
    film = made(Film(pictures=[BLACK] * 5))
    assert close(corners(film.picture(VariantName.POSTER)), ((0, 0, 0),) * 4)


def test_the_preview_moves(made: Produce) -> None:
    pictures = [quadrants(*SIZE)] * 10 + [quadrants(*SIZE, (WHITE, BLUE, GREEN, RED))] * 10
    film = made(Film(pictures=pictures))
    preview = film.picture(VariantName.PREVIEW)
    assert preview.info["loop"] == 0
    assert getattr(preview, "n_frames", 1) == 2  # what doesn't change is one
    assert close(corners(preview), CORNERS, 20)
    shown = [preview.info["duration"]]
    preview.seek(1)
    assert close(corners(preview), (WHITE, BLUE, GREEN, RED), 20)
    assert sum([*shown, preview.info["duration"]]) == pytest.approx(2000, abs=100)


# ---------------------------------------------------------------- the stream


def test_what_plays_already_is_copied(made: Produce, tmp_path: Path) -> None:
    film = made(Film())
    source = tmp_path / "source"
    assert units(film.stream) == shown(source)
    assert encoded(film.stream, "audio") == encoded(source, "audio")
    assert seconds(film.stream, "video") == seconds(source, "video")


@pytest.mark.parametrize("type_", [kinds.MP4, kinds.MKV], ids=label)
def test_frames_in_another_order_are_copied_too(made: Produce, tmp_path: Path, type_: FileType) -> None:
    pictures = [Image.new("RGB", SIZE, (8 * index, 255 - 8 * index, 128)) for index in range(30)]
    film = made(Film(type=type_, pictures=pictures, options={"preset": "medium", "bf": "3"}))
    assert units(film.stream) == shown(tmp_path / "source")
    assert [round(10 * each) for each in seconds(film.stream, "video")] == list(range(30))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_index_comes_first_and_nothing_is_told_of_the_maker(made: Produce, codec: str) -> None:
    secrets = {"title": "Grandma", "location": "+48.2082+016.3738/", "com.apple.quicktime.make": "Rollei"}
    film = made(Film(codec=codec, metadata=secrets | {"creation_time": "2024-05-01T12:00:00.000000Z"}))
    assert [box for box in boxes(film.stream.read_bytes()) if box != b"free"] == [b"ftyp", b"moov", b"mdat"]
    with av.open(film.stream) as container:
        assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands"}
        for stream in container.streams:
            assert set(stream.metadata) <= {"language", "handler_name", "vendor_id"}
    assert not any(secret.encode() in film.stream.read_bytes() for secret in ("Grandma", "48.2082", "Rollei", "Lavf"))
    for name in (VariantName.POSTER, VariantName.THUMBNAIL, VariantName.PREVIEW):
        assert not {"exif", "xmp", "icc_profile"} & set(film.picture(name).info)


def test_pictures_are_copied_without_what_they_say(made: Produce, tmp_path: Path) -> None:
    film = made(with_gps_in_its_pictures(Film(sound=None).encoded()))
    source = tmp_path / "source"
    assert b"MDPMgps48.2082" in source.read_bytes()
    assert b"MDPM" not in film.stream.read_bytes()
    assert units(film.stream) == shown(source) != units(source)
    assert close(corners(film.frame()), CORNERS)


def test_pictures_and_sound_are_copied_each_apart(made: Produce, tmp_path: Path) -> None:
    film = made(Film(type=kinds.MOV, sound=Sound(codec="pcm_s16le")))
    assert units(film.stream) == shown(tmp_path / "source")
    assert tracks(film.stream) == [("video", "h264"), ("audio", "aac")]


def test_a_silent_film(made: Produce) -> None:
    film = made(Film(codec="mpeg4", sound=None))
    assert tracks(film.stream) == [("video", "h264")]
    assert "AudioCodec" not in film.facts.tags


@pytest.mark.parametrize(
    ("sound", "rate", "channels"),
    [
        (Sound(rate=8_000, layout="mono", codec="pcm_s16le"), 8_000, 1),
        (Sound(layout="5.1"), 48_000, 2),
        (Sound(rate=96_000, codec="pcm_s16le"), 48_000, 2),
    ],
)
def test_sound_for_any_player(made: Produce, sound: Sound, rate: int, channels: int) -> None:
    film = made(Film(type=kinds.MOV, codec="mpeg4", sound=sound))
    with av.open(film.stream) as container:
        heard = container.streams.audio[0]
        assert (heard.profile, heard.rate, heard.channels) == ("LC", rate, channels)
        loudest = max(
            max(abs(value) for value in memoryview(frame.planes[0]).cast("B").cast("f"))
            for frame in container.decode(heard)
        )
    assert loudest == pytest.approx(0.5, abs=0.3)


def test_sound_that_begins_later_stays_in_time(made: Produce) -> None:
    film = made(Film(codec="mpeg4", sound=Sound(begins=0.5), type=kinds.MKV))
    with av.open(film.stream) as container:
        loud = [
            frame.time
            for frame in container.decode(audio=0)
            if max(abs(value) for value in memoryview(frame.planes[0]).cast("B").cast("f")) > 0.2
        ]
    assert loud[0] == pytest.approx(0.5, abs=0.05)


def test_silence_is_put_in_within_reason(made: Produce) -> None:
    # Each frame of sound comes nearly a minute after the one before.
    film = made(
        retimed(Film(codec="mpeg4", sound=Sound(codec="libopus")), "audio", lambda number: number * 58_000), kinds.MKV
    )
    assert max(seconds(film.stream, "audio")) == pytest.approx(58, abs=1)
    assert len(seconds(film.stream, "video")) == 10


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frames_keep_their_times(made: Produce, codec: str) -> None:
    moments = [0, 40, 400, 440, 1000, 1033, 2000]
    film = made(Film(codec=codec, type=kinds.MKV, pictures=[quadrants(*SIZE)] * 7, moments=moments, sound=None))
    assert [round(1000 * each) for each in seconds(film.stream, "video")] == moments


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("wrong", [40_000_000, 2_000_000_000_000, 10**16])
def test_a_wrong_time_costs_one_frame(made: Produce, codec: str, wrong: int) -> None:
    moments = [0, 40, 80, 120, wrong]
    options = {"x264-params": "bframes=0"} if codec == "libx264" else {}
    right = Film(codec=codec, pictures=[quadrants(*SIZE)] * 5, rate=25, sound=None, options=options)
    film = made(retimed(right, "video", lambda number: moments[number]), kinds.MKV)
    assert [round(1000 * each) for each in seconds(film.stream, "video")] == moments[:-1]
    assert film.facts.duration == pytest.approx(0.16, abs=0.001)


def test_slides_may_last(made: Produce) -> None:
    moments = [0, 900_000, 4_400_000]
    film = made(Film(type=kinds.MKV, codec="mpeg4", pictures=[quadrants(*SIZE)] * 3, moments=moments, sound=None))
    assert [round(1000 * each) for each in seconds(film.stream, "video")] == moments


def test_more_frames_than_anybody_sees_are_halved(made: Produce) -> None:
    film = made(Film(pictures=[quadrants(*SIZE)] * 60, rate=120, sound=None))
    assert [round(60 * each) for each in seconds(film.stream, "video")] == list(range(30))


def test_noise_takes_no_more_than_a_line_carries(made: Produce, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = [Image.effect_noise(SIZE, 100).convert("RGB") for _ in range(40)]
    monkeypatch.setattr(films, "STREAM", replace(STREAM, most_bits_per_second=100_000))
    film = made(Film(codec="mpeg4", pictures=noise, sound=None))  # four seconds, and two that may come at once
    assert film.variant(VariantName.STREAM).size_bytes * 8 < 100_000 * (4 + 2)


def test_interlaced_pictures_become_progressive(made: Produce) -> None:
    stripes = Image.new("RGB", SIZE, WHITE)
    for line in range(0, SIZE[1], 2):
        stripes.paste((0, 0, 0), (0, line, SIZE[0], line + 1))
    film = made(Film(type=kinds.MKV, pictures=[stripes] * 6, options={"x264-params": "interlaced=1"}, sound=None))
    with av.open(film.stream) as container:
        shown = list(container.decode(video=0))
    assert len(shown) == 6
    assert not any(frame.interlaced_frame for frame in shown)


@pytest.mark.parametrize(
    ("transfer", "signal", "shown"),
    [
        # White paper, by ITU-R BT.2408: 75 % of HLG, 58 % of PQ, where it would be a murky grey.
        (18, 0.75, 190),
        (16, 0.58, 189),
        (16, 1.0, 255),
        (16, 0.0, 0),
    ],
)
def test_high_dynamic_range_is_brought_within_what_screens_show(
    made: Produce, transfer: int, signal: float, shown: int
) -> None:
    hdr = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    grey = [Image.new("RGB", SIZE, (round(255 * signal),) * 3)] * 3
    film = made(Film(codec="libx265", pixel_format="yuv420p10le", pictures=grey, context=hdr, sound=None))
    for picture in (film.picture(VariantName.POSTER), film.frame()):
        assert close(corners(picture), ((shown,) * 3,) * 4, 8)
    with av.open(film.stream) as container:
        frame = next(container.decode(video=0))
        assert (frame.color_trc, frame.color_primaries, frame.colorspace) == (1, 1, 1)


# ---------------------------------------------------------------- facts


def test_facts(made: Produce) -> None:
    film = made(
        Film(
            type=kinds.MOV,
            metadata={
                "com.apple.quicktime.creationdate": "2023-08-01T18:20:11+0200",
                "com.apple.quicktime.location.ISO6709": "+48.2082+016.3738+171.000/",
                "com.apple.quicktime.make": "Apple\0",
                "com.apple.quicktime.model": "iPhone\x07 13",
                "creation_time": "2024-01-01T00:00:00.000000Z",
                "title": "Ferien",
                "com.vendor.nonsense": "x",
            },
        )
    )
    assert film.facts.taken_at == datetime(2023, 8, 1, 16, 20, 11, tzinfo=UTC)
    assert (film.facts.latitude, film.facts.longitude) == (48.2082, 16.3738)
    assert film.facts.duration == pytest.approx(1.0, abs=0.05)
    tags = dict(film.facts.tags)
    assert tags.pop("Software", None) is not None
    assert tags == {
        "Make": "Apple",
        "Model": "iPhone 13",
        "Title": "Ferien",
        "VideoCodec": "h264",
        "AudioCodec": "aac",
        "FrameRate": 10.0,
    }


@pytest.mark.parametrize("written", ["1970-01-01T00:00:00Z", "1904-01-01T00:00:00Z", "yesterday", "2024-13-45"])
def test_no_moment_rather_than_a_wrong_one(made: Produce, written: str) -> None:
    metadata = {
        "com.apple.quicktime.creationdate": written,
        "com.apple.quicktime.location.ISO6709": "+00.0000+000.0000/",
    }
    film = made(Film(type=kinds.MOV, metadata=metadata))
    assert film.facts.taken_at is None
    assert (film.facts.latitude, film.facts.longitude) == (None, None)


# ---------------------------------------------------------------- failures


def test_cut_off_at_every_tenth(made: Produce) -> None:
    whole = Film().encoded()  # its index comes last
    assert {failure(made, whole[: len(whole) * tenth // 10]) for tenth in range(1, 10)} == {FailureCode.CORRUPT}


def test_cut_off_matroska_plays_as_far_as_it_goes(made: Produce) -> None:
    whole = Film(type=kinds.MKV, codec="mpeg4", pictures=[quadrants(*SIZE)] * 40).encoded()
    film = made(whole[: len(whole) // 2], kinds.MKV)
    assert film.facts.duration is not None
    assert 0.5 < film.facts.duration < 3.5
    assert 5 < len(seconds(film.stream, "video")) < 35


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_damage_in_the_middle_is_passed_over(made: Produce, codec: str) -> None:
    film = Film(codec=codec, pictures=[quadrants(*SIZE)] * 40, options={"g": "10"}, sound=None)
    data = bytearray(film.encoded())
    packets = _places(bytes(data))
    for at, size in packets[12:15]:
        data[at : at + size] = b"\xff" * size
    result = made(bytes(data))
    assert len(encoded(result.stream, "video")) >= 30
    assert result.facts.duration == pytest.approx(4, abs=0.2)


def test_nothing_but_damage(made: Produce) -> None:
    data = bytearray(Film(codec="mpeg4", sound=None).encoded())
    for at, size in _places(bytes(data)):
        data[at : at + size] = b"\xff" * size
    assert failure(made, bytes(data)) is FailureCode.CORRUPT


def _places(data: bytes) -> list[tuple[int, int]]:
    with av.open(io.BytesIO(data), "r") as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


def test_a_film_of_sound_alone_is_a_recording(made: Produce) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=8_000)
        for block in blocks(Sound(rate=8_000), 1):
            output.mux(stream.encode(block))
        output.mux(stream.encode(None))
    result = made(file.getvalue())
    assert (result.facts.width, result.facts.looks) == (None, None)
    assert result.facts.duration == pytest.approx(1, abs=0.25)
    assert result.facts.tags["AudioCodec"] == "aac"
    assert [each for each in result.told if isinstance(each, Rendered)] == []


def test_a_cover_is_no_film(made: Produce) -> None:
    film = Film(codec="mpeg4", sound=None, cover=quadrants(*SIZE, (WHITE, BLUE, GREEN, RED)))
    result = made(film)
    assert close(corners(result.picture(VariantName.POSTER)), CORNERS)
    assert tracks(result.stream) == [("video", "h264")]


def test_too_many_pixels(made: Produce) -> None:
    limits = Limits(pixels=SIZE[0] * SIZE[1] - 1)
    assert failure(made, Film(), limits=limits) is FailureCode.TOO_MANY_PIXELS


def test_too_many_streams(made: Produce) -> None:
    assert failure(made, Film(), limits=Limits(streams=1)) is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_stream_that_becomes_too_large(made: Produce, codec: str) -> None:
    assert failure(made, Film(codec=codec), limits=Limits(output_bytes=1000)) is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("type_", [kinds.MP4, kinds.MKV, kinds.AVI], ids=label)
def test_no_film_at_all(made: Produce, type_: FileType) -> None:
    assert failure(made, b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/secret\n", type_) is FailureCode.CORRUPT
