import io
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import av
import pytest
from av.video.stream import VideoStream
from PIL import Image

from processing import kinds, pipeline
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import PICTURE_VARIANTS, Facts, Progress, Rendered
from tests.processing.pictures import CORNERS, close, corners, encoded, label, quadrants
from tests.processing.soundfiles import (
    BACK_COVER,
    FORMATS,
    FRONT_COVER,
    bare,
    flac_picture,
    id3,
    ogg_cover,
    tone,
    with_flac_cover,
    with_m4a_cover,
)

TAGS = {
    "title": "Großmutter erzählt",
    "artist": "Anna",
    "album": "Stories",
    "album_artist": "The family",
    "genre": "Speech",
    "date": "1999",
    "track": "3/12",
    "comment": "in the kitchen",
}
READABLE = {
    "Title": "Großmutter erzählt",
    "Artist": "Anna",
    "Album": "Stories",
    "AlbumArtist": "The family",
    "Genre": "Speech",
    "Date": "1999",
    "Track": "3/12",
    "Comment": "in the kitchen",
}
OPUS_PRE_SKIP = 0.0065  # seconds; FFmpeg counts it

COVER = encoded(quadrants(60, 40), kinds.JPEG)


class Produced:
    """What became of one file."""

    def __init__(self, folder: Path, data: bytes, type: FileType, limits: Limits) -> None:  # noqa: A002
        source, self.into = folder / "source", folder / "out"
        source.write_bytes(data)
        self.into.mkdir()
        self.told: list[Rendered | Progress] = []
        self.facts: Facts = pipeline.produce(source, type, self.into, limits, self.told.append)

    @property
    def rendered(self) -> list[Rendered]:
        return [each for each in self.told if isinstance(each, Rendered)]


Produce = Callable[..., Produced]


@pytest.fixture
def produce(tmp_path: Path) -> Produce:
    def it(data: bytes, type: FileType, limits: Limits = Limits()) -> Produced:  # noqa: A002, B008
        return Produced(tmp_path, data, type, limits)

    return it


# ---------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("type_", "codec", "name"),
    [
        (kinds.MP3, "libmp3lame", "mp3"),
        (kinds.M4A, "aac", "aac"),
        (kinds.M4A, "alac", "alac"),
        (kinds.OGG, "libopus", "opus"),
        (kinds.OGG, "vorbis", "vorbis"),
        (kinds.OGG, "flac", "flac"),
        (kinds.WAV, "pcm_s16le", "pcm_s16le"),
        (kinds.FLAC, "flac", "flac"),
    ],
    ids=label,
)
def test_facts(produce: Produce, type_: FileType, codec: str, name: str) -> None:
    made = produce(tone(type_, 1.5, codec=codec, tags=TAGS), type_)
    found = made.facts
    assert found.duration == pytest.approx(1.5, abs=OPUS_PRE_SKIP if name == "opus" else 0.001)
    # RIFF's INFO has no word for whose album it is.
    expected = READABLE if type_ != kinds.WAV else {k: v for k, v in READABLE.items() if k != "AlbumArtist"}
    told = {key: value for key, value in found.tags.items() if key not in ("BitRate", "Software")}
    assert told == {**expected, "AudioCodec": name, "SampleRate": 48_000, "Channels": 2}
    assert (found.width, found.height, found.page_count, found.looks, found.taken_at) == (None,) * 5
    assert made.told == [Progress(0)]
    assert list(made.into.iterdir()) == []


def test_every_type_is_tried() -> None:
    assert set(FORMATS) == {type_ for type_ in kinds.FILE_TYPES if type_.kind == "AUDIO"}


def test_bit_rate(produce: Produce) -> None:
    assert produce(tone(kinds.MP3), kinds.MP3).facts.tags["BitRate"] == 128_000


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"creation_time": "2024-05-01T12:30:00Z"}, datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ({"date": "2024-05-01T12:30:00+02:00"}, datetime(2024, 5, 1, 10, 30, tzinfo=UTC)),
        ({"DATE": "2024-05-01T12:30:00Z"}, datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ({"date": "2024-05-01 12:30:00"}, datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ({"date": "2024"}, None),
        ({"date": "2024-05-01"}, None),
        ({"date": "2024-13-01T12:30:00"}, None),
        ({"creation_time": "1970-01-01T00:00:00Z"}, None),
        ({"creation_time": "1904-01-01T00:00:00Z"}, None),
        ({"creation_time": "0000-00-00T00:00:00Z"}, None),
    ],
)
def test_taken_at_is_a_moment_or_nothing(produce: Produce, tags: dict[str, str], expected: datetime | None) -> None:
    assert produce(tone(kinds.FLAC, 0.2, tags=tags), kinds.FLAC).facts.taken_at == expected


def test_taken_at_of_a_voice_memo(produce: Produce) -> None:
    memo = tone(kinds.M4A, 0.2, tags={"creation_time": "2023-07-08T09:10:11Z"})
    assert produce(memo, kinds.M4A).facts.taken_at == datetime(2023, 7, 8, 9, 10, 11, tzinfo=UTC)


def test_taken_at_of_a_field_recorder(produce: Produce) -> None:
    tags = {"originator": "Zoom", "origination_date": "2022-03-04", "origination_time": "05:06:07"}
    found = produce(tone(kinds.WAV, 0.2, tags=tags, options={"write_bext": "1"}), kinds.WAV).facts
    assert found.taken_at == datetime(2022, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert found.tags["EncodedBy"] == "Zoom"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("+48.2082+016.3738+171/", (48.2082, 16.3738)),
        ("-33.9-070.5/", (-33.9, -70.5)),
        ("+00.0000+000.0000/", None),
        ("+91.0000+016.3738/", None),
        ("+48.2082+181.0000/", None),
        ("+48.2082", None),
        ("Vienna", None),
    ],
)
def test_location(produce: Produce, written: str, expected: tuple[float, float] | None) -> None:
    found = produce(tone(kinds.FLAC, 0.2, tags={"location": written}), kinds.FLAC).facts
    assert (found.latitude, found.longitude) == (expected or (None, None))


def test_nonsense_in_tags_is_made_safe(produce: Produce) -> None:
    text = "\x01a\x07b" + "x" * 5000
    tags = {"title": text, "artist": "\x02", "unheard_of": "y", "comment": "  "}
    found = produce(tone(kinds.FLAC, 0.2, tags=tags), kinds.FLAC).facts
    assert found.tags["Title"] == "ab" + "x" * 996  # a thousand, and then those two that may not be
    assert not {"Artist", "Comment", "unheard_of"} & set(found.tags)
    json.dumps(found.tags, allow_nan=False)


def test_tags_in_no_encoding_at_all(produce: Produce) -> None:
    tag = id3(title="####").replace(b"####", b"\xff\xfea\x80")
    title = produce(tag + bare(tone(kinds.MP3, 0.2)), kinds.MP3).facts.tags["Title"]
    assert isinstance(title, str)
    title.encode()


# ---------------------------------------------------------------- how long it is


def with_data_size(wav: bytes, size: int) -> bytes:
    lying = bytearray(wav)
    struct.pack_into("<I", lying, wav.index(b"data") + 4, size)
    return bytes(lying)


def without_total(flac: bytes, total: int = 0) -> bytes:
    """The number of samples is the lower 36 bits of what stands behind 10 bytes of STREAMINFO (RFC 9639, 8.2)."""
    changed = bytearray(flac)
    changed[21] &= 0xF0
    struct.pack_into(">I", changed, 22, total)
    return bytes(changed)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_that_lies_about_its_size(produce: Produce, size: int) -> None:
    assert produce(with_data_size(tone(kinds.WAV, 2), size), kinds.WAV).facts.duration == 2.0


def test_mp3_of_variable_bit_rate_without_a_table(produce: Produce) -> None:
    slow, fast = (bare(tone(kinds.MP3, 3, bits_per_second=rate)) for rate in (32_000, 320_000))
    assert produce(slow + fast, kinds.MP3).facts.duration == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize("total", [0, 0xFFFFFFFF])
def test_flac_that_does_not_know_its_length(produce: Produce, total: int) -> None:
    assert produce(without_total(tone(kinds.FLAC, 2), total), kinds.FLAC).facts.duration == 2.0


def test_no_recording_lasts_a_lifetime(produce: Produce) -> None:
    memo = tone(kinds.M4A, 0.2).replace(b"edts", b"free")  # which says where in all that the sound begins
    at = memo.index(b"stts") + 16  # behind version, number of entries and the first one's count: how long each is
    lying = memo[:at] + struct.pack(">I", 0x7FFFFFFF) + memo[at + 4 :]
    scaled = lying.index(b"mdhd") + 16  # of the track: ticks a second
    assert produce(lying[:scaled] + struct.pack(">I", 1) + lying[scaled + 4 :], kinds.M4A).facts.duration is None


# FLAC spends bytes where there is something to say.
@pytest.mark.parametrize(("type_", "tolerance"), [(kinds.MP3, 0.1), (kinds.WAV, 0.01), (kinds.FLAC, 0.4)], ids=label)
def test_what_is_left_of_a_recording_cut_short(produce: Produce, type_: FileType, tolerance: float) -> None:
    whole = tone(type_, 4)
    assert produce(whole[: len(whole) // 2], type_).facts.duration == pytest.approx(2, abs=tolerance)


# ---------------------------------------------------------------- the cover

COVERED = {
    kinds.MP3: lambda: id3((FRONT_COVER, COVER)) + bare(tone(kinds.MP3)),
    kinds.M4A: lambda: with_m4a_cover(tone(kinds.M4A), COVER),
    kinds.OGG: lambda: tone(kinds.OGG, tags=ogg_cover(flac_picture(FRONT_COVER, COVER))),
    kinds.FLAC: lambda: with_flac_cover(tone(kinds.FLAC), flac_picture(FRONT_COVER, COVER)),
}


@pytest.mark.parametrize("type_", COVERED, ids=label)
def test_cover(produce: Produce, type_: FileType) -> None:
    made = produce(COVERED[type_](), type_)
    assert made.facts.duration == pytest.approx(1, abs=0.05)
    assert (made.facts.width, made.facts.height) == (None, None)
    assert made.facts.looks is not None
    assert {each.name: (each.width, each.height) for each in made.rendered} == {
        "THUMBNAIL": (40, 40), "SMALL": (60, 40), "MEDIUM": (60, 40), "LARGE": (60, 40),
    }  # fmt: skip
    assert made.told[0] == Progress(0)
    for each in made.rendered:
        with Image.open(each.path) as picture:
            assert close(corners(picture), CORNERS, 24)


def test_front_cover_is_preferred(produce: Produce) -> None:
    back = encoded(Image.new("RGB", (60, 40), "black"), kinds.PNG)
    made = produce(id3((BACK_COVER, back), (FRONT_COVER, COVER)) + bare(tone(kinds.MP3)), kinds.MP3)
    assert len(made.rendered) == len(PICTURE_VARIANTS)
    with Image.open(made.rendered[0].path) as picture:
        assert close(corners(picture), CORNERS, 24)


def test_back_cover_where_there_is_no_other(produce: Produce) -> None:
    made = produce(id3((BACK_COVER, COVER)) + bare(tone(kinds.MP3)), kinds.MP3)
    assert len(made.rendered) == len(PICTURE_VARIANTS)


@pytest.mark.parametrize(
    "cover",
    [
        b"",
        b"no picture",
        COVER[:400],
        encoded(quadrants(8, 8), kinds.PNG)[:16] + struct.pack(">II", 60_000, 60_000) + bytes(100),
        b"https://example.org/cover.jpg",
        tone(kinds.WAV, 0.1),
    ],
    ids=["nothing", "text", "cut short", "huge", "elsewhere", "sound"],
)
def test_broken_cover_does_not_spoil_the_recording(produce: Produce, cover: bytes) -> None:
    made = produce(id3((FRONT_COVER, cover)) + bare(tone(kinds.MP3)), kinds.MP3)
    assert made.facts.duration == pytest.approx(1, abs=0.05)
    assert (made.facts.looks, made.rendered) == (None, [])


# ---------------------------------------------------------------- what is none


def with_codec(wav: bytes, number: int) -> bytes:
    changed = bytearray(wav)
    struct.pack_into("<H", changed, wav.index(b"fmt ") + 8, number)
    return bytes(changed)


def silent_film() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "type_", "code"),
    [
        (with_codec(tone(kinds.WAV, 0.2), 0x1234), kinds.WAV, FailureCode.UNSUPPORTED),
        (id3(title="and nothing else"), kinds.MP3, FailureCode.CORRUPT),
        (id3() + bytes(50_000), kinds.MP3, FailureCode.CORRUPT),
        (tone(kinds.M4A)[:5000], kinds.M4A, FailureCode.CORRUPT),
        (tone(kinds.OGG)[:200], kinds.OGG, FailureCode.CORRUPT),
        (tone(kinds.FLAC)[:60], kinds.FLAC, FailureCode.CORRUPT),
        (tone(kinds.WAV)[:40], kinds.WAV, FailureCode.CORRUPT),
        (with_data_size(tone(kinds.WAV), 1), kinds.WAV, FailureCode.CORRUPT),
        (silent_film(), kinds.M4A, FailureCode.CORRUPT),
        (b"", kinds.WAV, FailureCode.CORRUPT),
    ],
    ids=["codec", "tag alone", "silence of zeros", "no index", "ogg", "flac", "wav", "one byte", "film", "nothing"],
)
def test_failures(produce: Produce, tmp_path: Path, data: bytes, type_: FileType, code: FailureCode) -> None:
    with pytest.raises(ProcessingFailed) as failed:
        produce(data, type_)
    assert failed.value.code == code
    assert list((tmp_path / "out").iterdir()) == []


def test_no_more_streams_than_the_limit(produce: Produce) -> None:
    data = id3(*[(BACK_COVER, COVER)] * 4) + bare(tone(kinds.MP3))
    with pytest.raises(ProcessingFailed, match="5 streams; at most 4") as failed:
        produce(data, kinds.MP3, Limits(streams=4))
    assert failed.value.code == FailureCode.UNSUPPORTED
