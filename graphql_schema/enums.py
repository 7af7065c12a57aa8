"""The closed sets of values, with what the contract says of them."""

from __future__ import annotations

from enum import Enum
from typing import Final

import strawberry
from strawberry.types.enum import StrawberryEnumDefinition

from app import media
from app.errors import ErrorCode
from app.keyset import Order
from app.stages import Stage
from app.tables import MediaStatus, UploadMethod, UploadState, UserRole
from processing.failures import FailureCode
from processing.kinds import MediaKind
from processing.variants import VariantName


class MediaOrder(Enum):
    NEWEST = "NEWEST"
    OLDEST = "OLDEST"
    TAKEN_NEWEST = "TAKEN_NEWEST"
    TAKEN_OLDEST = "TAKEN_OLDEST"
    GALLERY = "GALLERY"


ORDERS: Final[dict[MediaOrder, Order]] = {
    MediaOrder.NEWEST: media.NEWEST,
    MediaOrder.OLDEST: media.OLDEST,
    MediaOrder.TAKEN_NEWEST: media.TAKEN_NEWEST,
    MediaOrder.TAKEN_OLDEST: media.TAKEN_OLDEST,
    MediaOrder.GALLERY: media.GALLERY,
}


def _public(values: type[Enum], name: str | None = None, **descriptions: str) -> None:
    """Make an enum of ours one of the schema's."""
    strawberry.enum(values, name=name)
    definition: StrawberryEnumDefinition = values.__strawberry_definition__  # type: ignore[attr-defined] # just set
    for value in definition.values:
        value.description = descriptions.get(value.name)


_public(ErrorCode)
_public(UserRole)
_public(MediaKind)
_public(
    MediaStatus,
    PENDING="Promised by an upload session; no bytes yet.",
    UPLOADED="The bytes are stored; processing has not begun.",
    READY="Analysed, with all its variants stored.",
    FAILED="Processing gave up; `failure` says why. The original stays downloadable.",
)
_public(UploadMethod, SINGLE="One PUT to `uploadUrl`.", MULTIPART="Parts of `partSize` bytes, each PUT to its own URL.")
_public(UploadState)
_public(Stage, name="ProcessingStage")
_public(
    FailureCode,
    UNSUPPORTED="Nothing here can read it, an encrypted document included.",
    CHECKSUM_MISMATCH="The stored bytes are not those that the upload session promised; they were removed.",
    NOT_UPLOADED="Its upload was aborted, or never finished: there are no bytes.",
)
_public(
    MediaOrder,
    TAKEN_NEWEST="What doesn't know when it was taken comes last.",
    TAKEN_OLDEST="What doesn't know when it was taken comes last.",
    GALLERY="By `sortOrder`, then oldest first: a gallery's own order.",
)
_public(
    VariantName,
    THUMBNAIL="150 x 150, cropped to fill.",
    SMALL="Within 400 x 400.",
    MEDIUM="Within 800 x 800.",
    LARGE="Within 1600 x 1600.",
    POSTER="A still of a video, within 1600 x 1600.",
    PREVIEW="A short, silent, looping excerpt of a video.",
    STREAM="A video made playable everywhere: H.264 and AAC in MP4, index first, at most 1080p.",
)
