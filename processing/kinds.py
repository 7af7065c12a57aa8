"""The file types that Heirloom takes in."""

from dataclasses import dataclass
from enum import StrEnum
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

FILE_TYPES: Final = (
    *(JPEG, PNG, GIF, WEBP, AVIF, HEIC, HEIF, TIFF, BMP),
    *(MP4, MOV, WEBM, MKV, AVI),
    *(MP3, M4A, OGG, WAV, FLAC),
    PDF,
)
