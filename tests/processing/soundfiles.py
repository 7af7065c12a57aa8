"""Recordings for the tests: a tone of any length, in any format, with tags and a cover."""

import array
import base64
import io
import math
import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import av
from av.audio.stream import AudioStream

from processing import kinds
from processing.kinds import FileType

RATE: Final = 48_000  # samples a second: the one that all of these codecs know
_CHUNK: Final = 4_800

# Container and codec.
FORMATS: Final = {
    kinds.MP3: ("mp3", "libmp3lame"),
    kinds.M4A: ("ipod", "aac"),
    kinds.OGG: ("ogg", "libopus"),
    kinds.WAV: ("wav", "pcm_s16le"),
    kinds.FLAC: ("flac", "flac"),
}

FRONT_COVER: Final = 3  # ID3v2.4, 4.14; FLAC has the same numbers
BACK_COVER: Final = 4


def tone(
    type: FileType,  # noqa: A002
    seconds: float = 1.0,
    *,
    codec: str | None = None,
    bits_per_second: int = 128_000,
    tags: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> bytes:
    """440 Hz in stereo. `options` are the container's."""
    container_name, usual = FORMATS[type]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_name, options=dict(options or {})) as container:
        # FFmpeg calls its own encoder of Vorbis experimental.
        stream = container.add_stream(codec or usual, rate=RATE, layout="stereo", options={"strict": "experimental"})
        assert isinstance(stream, AudioStream)
        stream.bit_rate = bits_per_second
        container.metadata.update(tags or {})
        count = round(seconds * RATE)
        for at in range(0, count, _CHUNK):
            container.mux(stream.encode(samples(at, min(_CHUNK, count - at))))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def samples(first: int, count: int) -> av.AudioFrame:
    """So many of the tone, from one on."""
    frame = av.AudioFrame(format="s16", layout="mono", samples=count)
    wave = array.array("h", (round(9000 * math.sin(math.tau * 440 * at / RATE)) for at in range(first, first + count)))
    frame.planes[0].update(wave.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
    frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
    return frame


def bare(mp3: bytes) -> bytes:
    """The frames alone: without tags, and without the frame that holds the table of a variable bit rate."""
    start = 10 + sum(byte << 7 * place for place, byte in zip((3, 2, 1, 0), mp3[6:10], strict=True))
    assert mp3[:3] == b"ID3"
    second = mp3.index(mp3[start : start + 2], start + 4)
    assert b"Xing" in mp3[start:second] or b"Info" in mp3[start:second]
    return mp3[second:]


def id3(*covers: tuple[int, bytes], media_type: str = "image/jpeg", title: str = "") -> bytes:
    """An ID3v2.4 tag, to stand before the frames of an MP3: `covers` by their number in the standard."""
    frames = b"".join(
        _id3_frame(b"APIC", b"\x03" + media_type.encode() + b"\0" + bytes([number]) + b"\0" + picture)
        for number, picture in covers
    )
    if title:
        frames += _id3_frame(b"TIT2", b"\x03" + title.encode())
    return b"ID3\x04\0\0" + _syncsafe(len(frames)) + frames


def _id3_frame(name: bytes, content: bytes) -> bytes:
    return name + _syncsafe(len(content)) + bytes(2) + content


def _syncsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def flac_picture(number: int, picture: bytes, media_type: str = "image/jpeg") -> bytes:
    """The content of a PICTURE block (RFC 9639, 8.8), which other formats borrow."""
    name = media_type.encode()
    return struct.pack(">II", number, len(name)) + name + struct.pack(">IIIIII", 0, 0, 0, 0, 0, len(picture)) + picture


def with_flac_cover(flac: bytes, block: bytes) -> bytes:
    """Puts a PICTURE block behind STREAMINFO, which has 34 bytes."""
    assert flac[4] == 0
    return flac[:42] + b"\x06" + len(block).to_bytes(3) + block + flac[42:]


def ogg_cover(block: bytes) -> dict[str, str]:
    """The tag by which an OGG carries a PICTURE block."""
    return {"METADATA_BLOCK_PICTURE": base64.b64encode(block).decode()}


def with_m4a_cover(m4a: bytes, picture: bytes) -> bytes:
    """Puts a `covr` first into the list of tags. FFmpeg writes that behind the sound, whose place stays the same."""
    item = _box(b"covr", _box(b"data", struct.pack(">II", 13, 0) + picture))
    grown = bytearray(m4a)
    for name in (b"moov", b"udta", b"meta", b"ilst"):
        at = m4a.rindex(name) - 4
        struct.pack_into(">I", grown, at, int.from_bytes(m4a[at : at + 4]) + len(item))
    grown[at + 8 : at + 8] = item
    return bytes(grown)


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content
