"""What is made from an original: the specifications, and the values that processing hands back."""

import hashlib
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

from processing.kinds import MediaKind

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

# Part of every digest. Raise it when the same spec would give other bytes: another filter, colour treatment, encoder.
PIPELINE_VERSION: Final = 2

# What variants are made as.
_EXTENSIONS: Final = {"image/webp": "webp", "video/mp4": "mp4"}

# 48 bits: enough to keep the few specs that one media ever sees apart, short enough for a file name.
_DIGEST_HEX_DIGITS: Final = 12


class VariantName(StrEnum):
    THUMBNAIL = "THUMBNAIL"
    SMALL = "SMALL"
    MEDIUM = "MEDIUM"
    LARGE = "LARGE"
    POSTER = "POSTER"
    PREVIEW = "PREVIEW"
    STREAM = "STREAM"


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(tuple(map(str, parts))).encode()).hexdigest()[:_DIGEST_HEX_DIGITS]


@dataclass(frozen=True, slots=True)
class _Spec:
    name: VariantName

    @property
    def digest(self) -> str:
        """Changes whenever the bytes made by this spec may change, so that a changed spec gets new keys and URLs."""
        return _digest(PIPELINE_VERSION, type(self).__name__, *astuple(self))


@dataclass(frozen=True, slots=True)
class VariantSpec(_Spec):
    """A picture to make, in WebP: within `width` x `height` pixels, or cropped to fill them; never enlarged.

    `quality` is WebP's, 0 to 100. `effort` is WebP's `method`, 0 (fast) to 6 (small).
    """

    width: int
    height: int
    crop: bool = False
    quality: int = 82  # at which effort 2 comes out as like the original as 4 does at 80
    # Measured on photographs of 1600 x 1200: 2 costs up to 1.4 times what 1 costs and saves a tenth of the bytes;
    # 3 and 4 cost twice what 2 costs, and save 5 to 12 % more at the same likeness.
    effort: int = 2


@dataclass(frozen=True, slots=True)
class PreviewSpec(_Spec):
    """An excerpt of a film as animated WebP, which loops and is silent: within `width` x `height` pixels."""

    width: int
    height: int
    seconds: float
    frames_per_second: int
    quality: int
    effort: int


@dataclass(frozen=True, slots=True)
class StreamSpec(_Spec):
    """A film in H.264 and AAC, in an MP4 whose index comes first: within `width` x `height`, or upright within both
    swapped. `quality` is x264's constant rate factor, `preset` its name for how much it tries; pictures that would take
    more bits than `most_bits_per_second` at that quality get a lower one."""

    width: int
    height: int
    quality: int
    preset: str
    most_bits_per_second: int
    audio_bits_per_second: int


Spec: TypeAlias = VariantSpec | PreviewSpec | StreamSpec

_THUMBNAIL: Final = VariantSpec(VariantName.THUMBNAIL, 150, 150, crop=True)
_SMALL: Final = VariantSpec(VariantName.SMALL, 400, 400)
_MEDIUM: Final = VariantSpec(VariantName.MEDIUM, 800, 800)

# Of a picture, of a recording's cover, of a document's first page.
PICTURE_VARIANTS: Final = (_THUMBNAIL, _SMALL, _MEDIUM, VariantSpec(VariantName.LARGE, 1600, 1600))
# Of a film: of one still, which as a POSTER is as large as a LARGE would be, and of what moves.
STILL_VARIANTS: Final = (_THUMBNAIL, _SMALL, _MEDIUM, VariantSpec(VariantName.POSTER, 1600, 1600))
PREVIEW: Final = PreviewSpec(VariantName.PREVIEW, 480, 480, seconds=4, frames_per_second=8, quality=60, effort=1)
# Measured on 1080p HEVC of 30 frames a second: "veryfast" takes 0.92 s of one core for a second of film, decoding
# included; "superfast" 0.75 for twice the bytes, "faster" 1.6 for no fewer.
STREAM: Final = StreamSpec(
    VariantName.STREAM,
    *(1920, 1080),
    quality=23,
    preset="veryfast",
    most_bits_per_second=12_000_000,  # twice what films take; noise took 50
    audio_bits_per_second=160_000,
)

SPECS: Final[dict[MediaKind, tuple[Spec, ...]]] = {
    MediaKind.IMAGE: PICTURE_VARIANTS,
    MediaKind.VIDEO: (*STILL_VARIANTS, PREVIEW, STREAM),
    MediaKind.AUDIO: PICTURE_VARIANTS,
    MediaKind.DOCUMENT: PICTURE_VARIANTS,
}


# What there is of a film before its STREAM, which is made in a second step; and how much of the work that is.
BEFORE_STREAM: Final = 0.15
FILM_WITHOUT_STREAM: Final = _digest(*(spec.digest for spec in (*STILL_VARIANTS, PREVIEW)))


def recipe(kind: MediaKind) -> str:
    """Digest of all that is made of a kind: what was made by another is out of date."""
    return _digest(*(spec.digest for spec in SPECS[kind]))


@dataclass(frozen=True, slots=True)
class Looks:
    """What a picture looks like, at a glance."""

    perceptual_hash: str  # 64 bits in hex
    thumbhash: str  # base64
    dominant_color: str  # #rrggbb


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file says of itself. Width and height in pixels as displayed, after orientation; seconds; degrees in
    WGS 84. `tags` are EXIF's of a picture, by the standard's names, and the tags of a recording, a film, a document."""

    width: int | None = None
    height: int | None = None
    duration: float | None = None
    page_count: int | None = None
    taken_at: datetime | None = None
    latitude: float | None = None
    longitude: float | None = None
    tags: dict[str, JSON] = field(default_factory=dict)
    looks: Looks | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A variant that was made, in a file at `path`."""

    name: VariantName
    digest: str
    path: Path
    content_type: str
    width: int
    height: int
    size_bytes: int


def variant_path(into: Path, name: VariantName, digest: str, content_type: str) -> Path:
    """Where a child leaves a variant, and its parent finds it. Raises KeyError: variants have no such type."""
    return into / f"{name.lower()}-{digest}.{_EXTENSIONS[content_type]}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the rendering is done: 0 when the file has been analysed, up to 1, never falling."""

    fraction: float


# What a process that is at a file says meanwhile: each variant once its file is complete, and how it is coming along.
Tell: TypeAlias = Callable[[Rendered | Progress], None]
