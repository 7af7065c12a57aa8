import random
import struct

import pytest
from PIL import Image

from processing import kinds
from processing.identify import HEAD_BYTES, identify
from processing.kinds import FileType
from tests.processing.pictures import FORMATS, encoded, label, quadrants
from tests.processing.rawfiles import (
    DNG_VERSION,
    FILTER_ARRAY,
    MAKE,
    NEW_SUBFILE_TYPE,
    PHOTOMETRIC,
    SUB_DIRECTORIES,
    raf,
    tiff,
)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    return box(b"ftyp", major + bytes(4) + b"".join(compatible)) + box(b"moov", bytes(100))


def riff(form: bytes, chunk: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 200) + form + chunk + bytes(200)


def ebml(doctype: bytes) -> bytes:
    content = b"\x42\x86\x81\x01" + b"\x42\x82" + bytes([0x80 | len(doctype)]) + doctype
    return b"\x1a\x45\xdf\xa3" + bytes([0x80 | len(content)]) + content + bytes(50)


def ogg(packet: bytes) -> bytes:
    return b"OggS\x00\x02" + bytes(20) + b"\x01\x1e" + packet + bytes(40)


# 128 kbit/s at 44.1 kHz: 417 bytes.
MP3_FRAME = b"\xff\xfb\x90\x00" + bytes(413)

# What the first directory of a camera's file is like: a preview, or what the sensor saw.
REDUCED = {NEW_SUBFILE_TYPE: 1, SUB_DIRECTORIES: 1000}
UNDEVELOPED = {PHOTOMETRIC: FILTER_ARRAY}

SAMPLES: list[tuple[str, bytes, FileType]] = [
    ("jpeg exif first", b"\xff\xd8\xff\xe1\x00\x10Exif\x00\x00", kinds.JPEG),
    ("jpeg tables first", b"\xff\xd8\xff\xdb\x00\x43\x00", kinds.JPEG),
    ("gif without table", b"GIF87a\x01\x00\x01\x00\x00\x00\x00,", kinds.GIF),
    ("big-endian tiff", b"MM\x00*\x00\x00\x00\x08\x00\x01", kinds.TIFF),
    ("bigtiff", b"II+\x00\x08\x00\x00\x00" + struct.pack("<Q", 16) + bytes(8), kinds.TIFF),
    ("dng", tiff({DNG_VERSION: b"\1\4\0\0"}), kinds.DNG),
    ("dng of a maker with another format", tiff({**REDUCED, MAKE: b"SONY \0", DNG_VERSION: b"\1\1\0\0"}), kinds.DNG),
    ("big-endian dng", tiff({**UNDEVELOPED, DNG_VERSION: b"\1\1\0\0"}, ">"), kinds.DNG),
    ("canon raw", tiff({MAKE: b"Canon\0"}, behind=b"CR\2\0" + bytes(4)), kinds.CR2),
    ("canon raw of later years", ftyp(b"crx ", b"crx ", b"isom"), kinds.CR3),
    ("nikon raw", tiff({**REDUCED, MAKE: b"NIKON CORPORATION\0"}, ">"), kinds.NEF),
    ("sony raw", tiff({**REDUCED, MAKE: b"SONY           \0"}), kinds.ARW),
    ("olympus raw", tiff({MAKE: b"OLYMPUS\0"}, magic=b"IIRO"), kinds.ORF),
    ("olympus raw of other models", tiff({MAKE: b"OLYMPUS\0"}, magic=b"IIRS"), kinds.ORF),
    ("big-endian olympus raw", tiff({MAKE: b"OLYMPUS\0"}, ">", magic=b"MMOR"), kinds.ORF),
    ("panasonic raw", tiff({1: 3}, magic=b"IIU\0", behind=bytes(16)), kinds.RW2),
    ("older panasonic raw", tiff({1: 3}, magic=b"IIU\0"), kinds.RW2),
    ("fuji raw", raf(b""), kinds.RAF),
    ("pentax raw", tiff({**UNDEVELOPED, MAKE: b"PENTAX             \0"}, ">"), kinds.PEF),
    ("pentax raw of later years", tiff({**UNDEVELOPED, MAKE: b"RICOH IMAGING COMPANY, LTD.  \0"}), kinds.PEF),
    ("scan", tiff({NEW_SUBFILE_TYPE: 0, PHOTOMETRIC: 2, MAKE: b"Nikon\0"}), kinds.TIFF),
    ("scan with a preview beside it", tiff({NEW_SUBFILE_TYPE: 0, SUB_DIRECTORIES: 1000, MAKE: b"Nikon\0"}), kinds.TIFF),
    ("tiff of a camera", tiff({PHOTOMETRIC: 2, MAKE: b"PENTAX Corporation\0"}), kinds.TIFF),
    ("reduced tiff of somebody else", tiff({**REDUCED, MAKE: b"Heirloom\0"}), kinds.TIFF),
    ("tiff whose directory comes last", b"II*\0" + struct.pack("<I", 10**6) + bytes(4088), kinds.TIFF),
    ("heic", ftyp(b"heic", b"mif1", b"heic"), kinds.HEIC),
    ("heic of a general brand", ftyp(b"mif1", b"mif1", b"heic"), kinds.HEIC),
    ("avif of a general brand", ftyp(b"mif1", b"miaf", b"avif"), kinds.AVIF),
    ("heif of no known codec", ftyp(b"mif1", b"miaf"), kinds.HEIF),
    ("mp4", ftyp(b"isom", b"iso2", b"avc1", b"mp41"), kinds.MP4),
    ("phone film", ftyp(b"3gp4", b"isom", b"3gp4"), kinds.MP4),
    ("quicktime", ftyp(b"qt  ", b"qt  "), kinds.MOV),
    ("old quicktime, index first", box(b"moov", box(b"mvhd", bytes(100))), kinds.MOV),
    ("old quicktime, data first", box(b"wide", b"") + box(b"mdat", bytes(50)), kinds.MOV),
    ("m4a", ftyp(b"M4A ", b"M4A ", b"mp42", b"isom"), kinds.M4A),
    ("webm", ebml(b"webm"), kinds.WEBM),
    ("mkv", ebml(b"matroska"), kinds.MKV),
    ("avi", riff(b"AVI ", b"LIST"), kinds.AVI),
    ("wav", riff(b"WAVE", b"fmt "), kinds.WAV),
    ("broadcast wav", riff(b"WAVE", b"bext"), kinds.WAV),
    ("mp3 tagged", b"ID3\x03\x00\x00\x00\x00\x0f\x76" + bytes(100), kinds.MP3),
    ("mp3 bare", MP3_FRAME * 2, kinds.MP3),
    ("ogg vorbis", ogg(b"\x01vorbis"), kinds.OGG),
    ("ogg opus", ogg(b"OpusHead"), kinds.OGG),
    ("flac", b"fLaC\x00\x00\x00\x22" + bytes(34), kinds.FLAC),
    ("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj", kinds.PDF),
]  # fmt: skip

DECEPTIONS: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("text", b"To whom it may concern, " * 50),
    ("html", b"<!DOCTYPE html><html><body>GIF89a</body></html>"),
    ("svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
    ("zip", b"PK\x03\x04" + bytes(100)),
    ("elf", b"\x7fELF\x02\x01\x01" + bytes(100)),
    ("exe", b"MZ\x90\x00" + bytes(100)),
    ("shell script", b"#!/bin/sh\nrm -rf /\n"),
    ("text that begins like bmp", b"BMW sold more cars this year than in the one before, and more than ever."),
    ("text that begins like tiff", b"II* is what some call it, and MM* is what others do"),
    ("text that begins like gif", b"GIF89a is the second version of the format, of 1989; " * 40),
    ("script disguised as gif", b"GIF89a/*" + b" " * 900 + b"*/=1;alert(1)"),
    ("text that begins like mp3", b"ID3 is a kind of metadata, most often found in MP3 files"),
    ("text that begins like pdf", b"%PDF-1.4 is what this text begins with, and nothing more of it follows"),
    ("pdf header without an object", b"%PDF-1.4\nHello"),
    ("text that begins like riff", b"RIFF is a container by Microsoft and IBM, WAVE a use of it"),
    ("riff of something else", riff(b"ACON", b"LIST")),
    ("text that begins like ogg", b"OggS is how each page of an Ogg stream begins"),
    ("film in ogg", ogg(b"\x80theora")),
    ("text that begins like flac", b"fLaC is how it begins"),
    ("utf-16 text", "\ufeffÿûýú Ein Brief an die Familie".encode("utf-16-le") * 20),
    ("mp3 frame with nothing after it", MP3_FRAME + b"and now for something completely different" * 20),
    ("aac", b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(100)),
    ("text that begins like fuji raw", b"FUJIFILMCCD-RAW is how each of these files begins, a version follows"),
    ("text that begins like olympus raw", b"IIRO is what stands there, and IIRS in those of other models"),
    ("panasonic header without a directory", b"IIU\0" + bytes(100)),
    ("ebml of something else", ebml(b"private")),
    ("jpeg start without a segment", b"\xff\xd8\xff\x00" + bytes(100)),
    ("jpeg 2000", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100)),
    ("png signature without header", b"\x89PNG\r\n\x1a\n" + b"CgBI" + bytes(100)),
    ("photoshop", b"8BPS\x00\x01" + bytes(100)),
    ("icon", b"\x00\x00\x01\x00\x01\x00\x10\x10" + bytes(100)),
]  # fmt: skip


@pytest.mark.parametrize("type_", FORMATS, ids=label)
def test_what_pillow_writes(type_: FileType) -> None:
    assert identify(encoded(quadrants(40, 30), type_)[:HEAD_BYTES]) == type_


@pytest.mark.parametrize(("head", "expected"), [s[1:] for s in SAMPLES], ids=[s[0] for s in SAMPLES])
def test_samples(head: bytes, expected: FileType) -> None:
    assert identify(head) == expected


@pytest.mark.parametrize("head", [d[1] for d in DECEPTIONS], ids=[d[0] for d in DECEPTIONS])
def test_deceptions(head: bytes) -> None:
    assert identify(head) is None


def test_every_type_has_a_sample() -> None:
    assert {expected for *_, expected in SAMPLES} | set(FORMATS) == set(kinds.FILE_TYPES)
    assert len({type_.extension for type_ in kinds.FILE_TYPES}) == len(kinds.FILE_TYPES)


def test_any_cut_of_a_head_is_answered() -> None:
    heads = [head for _, head, _ in SAMPLES] + [encoded(quadrants(8, 8), type_) for type_ in FORMATS]
    for head in heads:
        known = identify(head)
        # Before the first directory is there, a camera's file is a TIFF like others.
        allowed = {None, known, kinds.TIFF} if known in kinds.RAW_TYPES else {None, known}
        assert {identify(head[:count]) for count in range(min(len(head), 64))} <= allowed


def test_noise_is_nothing() -> None:
    noise = random.Random(7)
    assert not any(identify(noise.randbytes(HEAD_BYTES)) for _ in range(2000))


def test_colour_table_is_skipped_in_a_gif() -> None:
    palette = quadrants(8, 8).quantize(256)
    assert isinstance(palette, Image.Image)
    assert identify(encoded(palette, kinds.GIF)[:HEAD_BYTES]) == kinds.GIF
