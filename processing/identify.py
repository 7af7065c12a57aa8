"""What a file is, by its first bytes alone.

A client's file name and content type are claims and play no part. Each rule looks at enough structure that text which
happens to begin with a signature ("BM", "ID3", "GIF89a") is not taken for the real thing.
"""

import re
from collections.abc import Callable
from typing import Final, Literal

from processing import kinds
from processing.kinds import FileType

# The farthest look is the second frame of an MP3 (up to 1,441 bytes in) and the first object of a PDF.
HEAD_BYTES: Final = 4096


def identify(head: bytes) -> FileType | None:
    """Type of the file that begins with `head`: its first HEAD_BYTES, or all of a shorter one. None: none of ours."""
    return next((found for rule in _RULES if (found := rule(head))), None)


def _jpeg(head: bytes) -> FileType | None:
    # SOI, then a segment: a table, a frame, an application segment or a comment (ITU T.81, table B.1).
    segment = head[3:4]
    return (
        kinds.JPEG
        if head.startswith(b"\xff\xd8\xff") and b"\xc0" <= segment <= b"\xfe" and not (b"\xd0" <= segment <= b"\xda")
        else None
    )


def _png(head: bytes) -> FileType | None:
    return kinds.PNG if head.startswith(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR") else None


def _gif(head: bytes) -> FileType | None:
    if not head.startswith((b"GIF87a", b"GIF89a")) or len(head) < 14:
        return None
    flags = head[10]
    blocks = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    # After header and colour table comes an extension, an image or the end; text hardly ever puts one of them there.
    return kinds.GIF if head[blocks : blocks + 1] in (b"\x21", b"\x2c", b"\x3b") else None


def _riff(head: bytes) -> FileType | None:
    if not head.startswith(b"RIFF"):
        return None
    form, chunk = head[8:12], head[12:16]
    if form == b"WEBP" and chunk in (b"VP8 ", b"VP8L", b"VP8X"):
        return kinds.WEBP
    if form == b"AVI " and chunk == b"LIST":
        return kinds.AVI
    if form == b"WAVE" and chunk in (b"fmt ", b"JUNK", b"junk", b"bext", b"LIST", b"PAD ", b"FLLR", b"iXML", b"id3 "):
        return kinds.WAV
    return None


_BRANDS: Final = (
    # Order matters where a file names several: a picture lists `mif1` beside its codec's brand.
    (kinds.AVIF, {b"avif", b"avis"}),
    (kinds.HEIC, {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    (kinds.HEIF, {b"mif1", b"msf1"}),
    (kinds.CR3, {b"crx "}),
    (kinds.M4A, {b"M4A ", b"M4B ", b"M4P "}),
    (kinds.MOV, {b"qt  "}),
    (
        kinds.MP4,
        {b"isom", b"mp41", b"mp42", b"mp71", b"avc1", b"M4V ", b"M4VH", b"M4VP", b"MSNV", b"dash", b"f4v ", b"XAVC"}
        | {b"iso%d" % version for version in range(2, 10)},
    ),
)  # fmt: skip
_GENERAL_BRANDS: Final = frozenset({b"mif1", b"msf1", b"3gp4", b"3gp5", b"3gp6", b"3g2a"})


def _iso_base_media(head: bytes) -> FileType | None:
    """ISO/IEC 14496-12: a `ftyp` box names the major brand, and the others that a reader may go by."""
    size = int.from_bytes(head[:4])
    if head[4:8] != b"ftyp" or size % 4 or not 16 <= size <= len(head):
        return None
    major = head[8:12]
    if major not in _GENERAL_BRANDS:
        return _of_brands({major})
    # `mif1` says "a picture" and `3gp4` "a film for phones": the compatible brands say what can play it.
    return _of_brands({major, *(head[at : at + 4] for at in range(16, size, 4))})


def _of_brands(brands: set[bytes]) -> FileType | None:
    return next((type_ for type_, ours in _BRANDS if brands & ours), None)


def _old_quicktime(head: bytes) -> FileType | None:
    """Films of before 2005 have no `ftyp`: they begin with their index, or with a placeholder before the data."""
    first, second = head[4:8], head[12:16]
    if first == b"moov" and second in (b"mvhd", b"cmov"):
        return kinds.MOV
    return kinds.MOV if head.startswith(b"\x00\x00\x00\x08wide") and second == b"mdat" else None


def _matroska(head: bytes) -> FileType | None:
    """RFC 8794: an EBML header whose DocType element (0x4282) says which of the two it is."""
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    doctype = re.search(rb"\x42\x82(?:\x84(webm)|\x88(matroska))", head[4:128])
    if doctype is None:
        return None
    return kinds.WEBM if doctype[1] else kinds.MKV


def _tiff(head: bytes) -> FileType | None:
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        directory = int.from_bytes(head[4:8], order)
        if directory < 8 or len(head) <= 8:
            return None
        return _raw_tiff(head, _Directory(head, directory, order)) or kinds.TIFF
    if head[:8] in (b"II+\x00\x08\x00\x00\x00", b"MM\x00+\x00\x08\x00\x00"):  # BigTIFF: offsets of 8 bytes
        return kinds.TIFF if int.from_bytes(head[8:16], order) >= 16 else None
    return None


class _Directory:
    """The first directory of a TIFF 6.0 file, as far as it lies within the head."""

    def __init__(self, head: bytes, offset: int, order: Literal["little", "big"]) -> None:
        self._head = head
        self._order = order
        count = self._number(head[offset : offset + 2])
        entries = (head[at : at + 12] for at in range(offset + 2, min(offset + 2 + 12 * count, len(head) - 11), 12))
        self._entries = {self._number(entry[:2]): entry for entry in entries}

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def number(self, tag: int) -> int | None:
        """The first value of a tag of type SHORT, or the only one of type LONG. None: no such tag."""
        entry = self._entries.get(tag, b"")
        width = {3: 2, 4: 4}.get(self._number(entry[2:4]))
        return self._number(entry[8 : 8 + width]) if width else None

    def text(self, tag: int) -> bytes:
        """The value of a tag of type ASCII, of five bytes or more. Empty: no such tag."""
        entry = self._entries.get(tag, b"")
        offset = self._number(entry[8:12])
        return self._head[offset : offset + self._number(entry[4:8])] if self._number(entry[2:4]) == 2 else b""

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, self._order)


_NEW_SUBFILE_TYPE: Final = 254
_PHOTOMETRIC: Final = 262
_MAKE: Final = 271
_SUB_DIRECTORIES: Final = 330
_DNG_VERSION: Final = 50706
_REDUCED: Final = 1  # NewSubfileType of a preview
_FILTER_ARRAY: Final = 32803  # PhotometricInterpretation of what a sensor saw (TIFF/EP)


def _raw_tiff(head: bytes, first: _Directory) -> FileType | None:
    """Cameras' own files are TIFFs whose first picture is a preview, or whose pixels no TIFF reader understands.

    The maker alone says nothing: scanners are made by the same, and write plain TIFF.
    """
    if head[8:10] == b"CR":
        return kinds.CR2
    if _DNG_VERSION in first:
        return kinds.DNG
    make = first.text(_MAKE).upper()
    if first.number(_NEW_SUBFILE_TYPE) == _REDUCED and _SUB_DIRECTORIES in first:
        if make.startswith(b"NIKON"):
            return kinds.NEF
        if make.startswith(b"SONY"):
            return kinds.ARW
    pentax = make.startswith((b"PENTAX", b"RICOH", b"ASAHI"))
    return kinds.PEF if pentax and first.number(_PHOTOMETRIC) == _FILTER_ARRAY else None


# A TIFF but for its third and fourth byte, and where its first directory begins.
_RENAMED_TIFFS: Final = (
    (kinds.ORF, rb"IIR[OS]\x08\0\0\0|MMOR\0\0\0\x08"),
    (kinds.RW2, rb"IIU\0[\x08\x18]\0\0\0"),
)


def _raw(head: bytes) -> FileType | None:
    # The format's name and version, and the camera's number.
    if re.match(rb"FUJIFILMCCD-RAW \d{4}[0-9A-Z]{8}", head):
        return kinds.RAF
    return next((type_ for type_, header in _RENAMED_TIFFS if re.match(header, head)), None)


def _bmp(head: bytes) -> FileType | None:
    if not head.startswith(b"BM") or len(head) < 30 or head[6:10] != bytes(4):
        return None
    header_size = int.from_bytes(head[14:18], "little")
    planes_at = 22 if header_size == 12 else 26
    planes = int.from_bytes(head[planes_at : planes_at + 2], "little")
    bits = int.from_bytes(head[planes_at + 2 : planes_at + 4], "little")
    known = header_size in (12, 40, 52, 56, 64, 108, 124) and planes == 1 and bits in (1, 2, 4, 8, 16, 24, 32)
    return kinds.BMP if known else None


def _mp3(head: bytes) -> FileType | None:
    if head[:3] == b"ID3":
        version, revision, flags, size = head[3:4], head[4:5], head[5:6], head[6:10]
        # ID3v2.2 to 2.4; the size has the top bit of each byte clear.
        tag = version in (b"\x02", b"\x03", b"\x04") and revision == b"\x00" and len(size) == 4 and max(size) < 0x80
        return kinds.MP3 if tag and not flags[0] & 0x0F else None
    # Eleven set bits are also how UTF-16 text begins: a second frame of the same make must stand where the first ends.
    frame = _mp3_frame(head[:4])
    if frame is None:
        return None
    length, make = frame
    following = _mp3_frame(head[length : length + 4])
    return kinds.MP3 if following is not None and following[1] == make else None


_KBITS_MPEG1: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_MPEG2: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HERTZ: Final = (44_100, 48_000, 32_000)


def _mp3_frame(header: bytes) -> tuple[int, tuple[int, int]] | None:
    """Length in bytes of a Layer III frame, and (version, sampling rate), which a file doesn't change (ISO 11172-3)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version = header[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5, 1: reserved
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    kbits = (_KBITS_MPEG1 if version == 3 else _KBITS_MPEG2)[bitrate]
    hertz = _HERTZ[rate] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if version == 3 else 72) * kbits * 1000 // hertz + padding, (version, hertz)


def _ogg(head: bytes) -> FileType | None:
    # First page of a stream (RFC 3533), then the codec's own signature: films in Ogg are not taken.
    if not head.startswith(b"OggS\x00\x02") or len(head) < 28:
        return None
    packet = head[27 + head[26] :]
    return kinds.OGG if packet.startswith((b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")) else None


def _flac(head: bytes) -> FileType | None:
    # STREAMINFO comes first and has 34 bytes (RFC 9639).
    return kinds.FLAC if re.match(rb"fLaC[\x00\x80]\x00\x00\x22", head) else None


def _pdf(head: bytes) -> FileType | None:
    return kinds.PDF if re.match(rb"%PDF-[12]\.\d[ \t]*[\r\n]", head) and re.search(rb"\d \d+ obj\b", head) else None


_RULES: Final[tuple[Callable[[bytes], FileType | None], ...]] = (
    *(_jpeg, _png, _gif, _riff, _iso_base_media, _old_quicktime, _matroska, _tiff, _raw, _bmp, _mp3, _ogg, _flac, _pdf),
)
