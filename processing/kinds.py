"""The file types that Heirloom takes in."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Final


class MediaKind(StrEnum):
    IMAGE = "IMAGE"
    VIDEO = "VIDEO"
    AUDIO = "AUDIO"
    DOCUMENT = "DOCUMENT"


@dataclass(frozen=True, slots=True)
class FileType:
    """What the bytes are: the IANA media type, its kind, and the extension (without dot) that it is stored under."""

    content_type: str
    kind: MediaKind
    extension: str


JPEG: Final = FileType("image/jpeg", MediaKind.IMAGE, "jpg")
PNG: Final = FileType("image/png", MediaKind.IMAGE, "png")
GIF: Final = FileType("image/gif", MediaKind.IMAGE, "gif")
WEBP: Final = FileType("image/webp", MediaKind.IMAGE, "webp")
AVIF: Final = FileType("image/avif", MediaKind.IMAGE, "avif")
HEIC: Final = FileType("image/heic", MediaKind.IMAGE, "heic")
HEIF: Final = FileType("image/heif", MediaKind.IMAGE, "heif")
TIFF: Final = FileType("image/tiff", MediaKind.IMAGE, "tiff")
BMP: Final = FileType("image/bmp", MediaKind.IMAGE, "bmp")

# What a camera's sensor saw, beside a preview in JPEG. IANA knows none of these names; desktops and Android do.
DNG: Final = FileType("image/x-adobe-dng", MediaKind.IMAGE, "dng")
CR2: Final = FileType("image/x-canon-cr2", MediaKind.IMAGE, "cr2")
CR3: Final = FileType("image/x-canon-cr3", MediaKind.IMAGE, "cr3")
NEF: Final = FileType("image/x-nikon-nef", MediaKind.IMAGE, "nef")
ARW: Final = FileType("image/x-sony-arw", MediaKind.IMAGE, "arw")
ORF: Final = FileType("image/x-olympus-orf", MediaKind.IMAGE, "orf")
RW2: Final = FileType("image/x-panasonic-rw2", MediaKind.IMAGE, "rw2")
RAF: Final = FileType("image/x-fuji-raf", MediaKind.IMAGE, "raf")
PEF: Final = FileType("image/x-pentax-pef", MediaKind.IMAGE, "pef")

MP4: Final = FileType("video/mp4", MediaKind.VIDEO, "mp4")
MOV: Final = FileType("video/quicktime", MediaKind.VIDEO, "mov")
WEBM: Final = FileType("video/webm", MediaKind.VIDEO, "webm")
MKV: Final = FileType("video/matroska", MediaKind.VIDEO, "mkv")
AVI: Final = FileType("video/vnd.avi", MediaKind.VIDEO, "avi")

MP3: Final = FileType("audio/mpeg", MediaKind.AUDIO, "mp3")
M4A: Final = FileType("audio/mp4", MediaKind.AUDIO, "m4a")
OGG: Final = FileType("audio/ogg", MediaKind.AUDIO, "ogg")
WAV: Final = FileType("audio/wav", MediaKind.AUDIO, "wav")
FLAC: Final = FileType("audio/flac", MediaKind.AUDIO, "flac")

PDF: Final = FileType("application/pdf", MediaKind.DOCUMENT, "pdf")

RAW_TYPES: Final = frozenset({DNG, CR2, CR3, NEF, ARW, ORF, RW2, RAF, PEF})

FILE_TYPES: Final = (
    *(JPEG, PNG, GIF, WEBP, AVIF, HEIC, HEIF, TIFF, BMP),
    *(DNG, CR2, CR3, NEF, ARW, ORF, RW2, RAF, PEF),
    *(MP4, MOV, WEBM, MKV, AVI),
    *(MP3, M4A, OGG, WAV, FLAC),
    PDF,
)

# What browsers and operating systems call them besides.
_ALIASES: Final = {
    "image/jpg": JPEG,
    "image/pjpeg": JPEG,
    "image/x-png": PNG,
    "image/heic-sequence": HEIC,
    "image/heif-sequence": HEIF,
    "image/tif": TIFF,
    "image/x-ms-bmp": BMP,
    "image/x-bmp": BMP,
    "image/dng": DNG,
    "image/x-dng": DNG,
    "image/x-dcraw": DNG,  # any camera's, as desktops say where they don't know better
    "image/x-canon-raw": CR2,
    "image/x-nikon-nrw": NEF,
    "image/x-sony-raw": ARW,
    "image/x-panasonic-raw": RW2,
    "image/x-panasonic-raw2": RW2,
    "video/x-m4v": MP4,
    "application/mp4": MP4,
    "video/x-matroska": MKV,
    "video/avi": AVI,
    "video/msvideo": AVI,
    "video/x-msvideo": AVI,
    "audio/mp3": MP3,
    "audio/x-mp3": MP3,
    "audio/x-mpeg": MP3,
    "audio/m4a": M4A,
    "audio/x-m4a": M4A,
    "audio/opus": OGG,
    "audio/webm": WEBM,
    "audio/x-matroska": MKV,
    "video/3gpp": MP4,
    "audio/3gpp": MP4,
    "application/ogg": OGG,
    "audio/wave": WAV,
    "audio/x-wav": WAV,
    "audio/vnd.wave": WAV,
    "audio/x-flac": FLAC,
    "application/x-pdf": PDF,
}
_CLAIMS: Final = {**{each.content_type: each for each in FILE_TYPES}, **_ALIASES}

# One container format each, told apart by brands that its writers get wrong, or by what a camera's maker adds to TIFF:
# clients, who go by the file's name, can't know.
_FAMILIES: Final = (
    frozenset({MP4, MOV, M4A}),
    frozenset({HEIC, HEIF}),
    frozenset({WEBM, MKV}),
    frozenset({TIFF, *RAW_TYPES}),
)


# What browsers say of files that they don't know, HEIC and raw ones among them: nothing at all.
_SAY_NOTHING: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_EXTENSIONS: Final = {
    **{each.extension: each for each in FILE_TYPES},
    "jpeg": JPEG,
    "jfif": JPEG,
    "apng": PNG,
    "tif": TIFF,
    "hif": HEIF,
    "m4v": MP4,
    "qt": MOV,
    "3gp": MP4,
    "oga": OGG,
    "opus": OGG,
}


def claimed(content_type: str, filename: str = "") -> FileType | None:
    """The type that a client's media type (RFC 9110, 8.3.1; parameters are left aside) names; None: none of ours.

    Where it says nothing, the extension of the file's name speaks.
    """
    claim = content_type.partition(";")[0].strip().lower()
    if claim in _SAY_NOTHING:
        return _EXTENSIONS.get(PurePath(filename).suffix[1:].lower())
    return _CLAIMS.get(claim)


def told_apart(found: FileType, claim: FileType | None) -> FileType:
    """What was found, but a recording where its name says so: telephones write the brands of films for them too."""
    return M4A if claim == M4A and found in (MP4, MOV) else found


def may_be(claim: FileType, found: FileType) -> bool:
    """Whether bytes that were found to be one type may have been claimed to be another in good faith."""
    return claim == found or any({claim, found} <= family for family in _FAMILIES)
