"""Raw files of cameras: shown by the preview in JPEG that a camera puts in, as it developed the picture itself.

Nothing is developed here: that takes seconds a file, and would look different from what the camera's screen showed.
"""

import io
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import rawpy
from PIL import ExifTags, Image

from processing import exif, images, kinds
from processing.confinement import overwriting_memory
from processing.failures import FailureCode, ProcessingFailed
from processing.headers import dimensions
from processing.kinds import FileType
from processing.limits import MIB, Limits
from processing.sizes import Size
from processing.variants import Facts, Tell

# The file is read into memory. Twice what a sensor of 100 megapixels fills without compression.
_MAX_BYTES: Final = 512 * MIB

# LibRaw counts mirroring (1), upside down (2) and swapped sides (4) together. EXIF's numbers for the same.
_ORIENTATIONS: Final = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}
_SWAPS_SIDES: Final = 4

_JPEG_WITH_EXIF: Final = b"\xff\xd8\xff\xe1"

# They hold their EXIF elsewhere than a TIFF does; their previews have it too, or LibRaw puts it there.
_NO_TIFF: Final = frozenset({kinds.CR3, kinds.RAF})
# What EXIF has in the first directory. The rest of a raw file's describes the preview's layout, and how to develop.
_EXIF_TAGS: Final = frozenset(
    {
        *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Orientation),
        *(ExifTags.Base.Software, ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright),
        *(ExifTags.Base.ExifOffset, ExifTags.Base.GPSInfo, ExifTags.Base.Rating),
    }
)


@dataclass(frozen=True, slots=True)
class _Preview:
    """A picture in JPEG, which `orientation` turns upright, of one that has `size` as displayed."""

    jpeg: bytes
    orientation: int
    size: Size


def produce(file: BinaryIO, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """Makes the variants of a picture from the preview. Width and height are those of the camera's full picture.

    Raises ProcessingFailed: UNSUPPORTED where there is no preview, CORRUPT, TOO_MANY_PIXELS; OSError when `into` can't
    be written to.
    """
    if file.seek(0, io.SEEK_END) > _MAX_BYTES:
        message = f"Raw files of up to {_MAX_BYTES // MIB} MiB can be processed."
        raise ProcessingFailed(FailureCode.UNSUPPORTED, message)
    file.seek(0)
    data = file.read()
    preview = _preview(data)
    facts = images.produce(io.BytesIO(_turned(preview)), kinds.JPEG, into, limits, tell)
    tags = _exif_of_preview(preview) if type in _NO_TIFF else _exif_of_tiff(data)
    latitude, longitude = exif.location(tags) or (None, None)
    return replace(
        facts,
        width=preview.size[0],
        height=preview.size[1],
        taken_at=exif.taken_at(tags),
        latitude=latitude,
        longitude=longitude,
        tags=exif.as_json(tags),
    )


def _preview(data: bytes) -> _Preview:
    try:
        with overwriting_memory(), rawpy.imread(io.BytesIO(data)) as raw:
            sizes = raw.sizes
            thumbnail = raw.extract_thumb()
            if not _is_of(data, thumbnail):
                raise _damaged()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError, rawpy.NotSupportedError) as error:
        message = "This raw file holds no preview that can be shown."
        raise ProcessingFailed(FailureCode.UNSUPPORTED, message) from error
    except (rawpy.LibRawUnsufficientMemoryError, rawpy.LibRawTooBigError, rawpy.LibRawMemPoolOverflowError) as error:
        message = "The picture needs more memory than processing may use."
        raise ProcessingFailed(FailureCode.TOO_MANY_PIXELS, message) from error
    except rawpy.LibRawError as error:
        raise _damaged() from error
    stored = (sizes.crop_width, sizes.crop_height) if sizes.crop_width and sizes.crop_height else None
    return _upright(_jpeg(thumbnail), stored or (sizes.width, sizes.height), sizes.flip)


def _is_of(data: bytes, thumbnail: rawpy.Thumbnail) -> bool:
    """Whether the preview is what the file has, word for word.

    Where one ends up to 16 KiB behind the file's end, LibRaw takes it, with what its memory held of the file before.
    """
    if not isinstance(thumbnail.data, bytes):
        return thumbnail.data.tobytes() in data
    # LibRaw writes the first marker anew, and puts in EXIF of its own where there is none.
    behind_marker, behind_exif = thumbnail.data[2:], thumbnail.data[4 + int.from_bytes(thumbnail.data[4:6]) :]
    return behind_marker in data or (thumbnail.data.startswith(_JPEG_WITH_EXIF) and behind_exif in data)


def _damaged() -> ProcessingFailed:
    message = "The file is damaged, or of a camera that is not known here."
    return ProcessingFailed(FailureCode.CORRUPT, message)


def _jpeg(thumbnail: rawpy.Thumbnail) -> bytes:
    if isinstance(thumbnail.data, bytes):
        return thumbnail.data
    # An uncompressed one, of early cameras and of Android: small.
    buffer = io.BytesIO()
    Image.fromarray(thumbnail.data).convert("RGB").save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _upright(jpeg: bytes, stored: Size, flip: int) -> _Preview:
    """Previews lie as the sensor did, in nearly all cameras: where one stands instead, it is upright already."""
    if not flip & _SWAPS_SIDES:
        return _Preview(jpeg, _ORIENTATIONS.get(flip, 1), stored)
    width, height = dimensions(io.BytesIO(jpeg), kinds.JPEG) or stored
    turned = (width > height) != (stored[0] > stored[1])
    return _Preview(jpeg, 1 if turned else _ORIENTATIONS.get(flip, 1), (stored[1], stored[0]))


def _turned(preview: _Preview) -> bytes:
    """The JPEG, saying its orientation first: what its own EXIF says of that, right or wrong, counts no longer."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = preview.orientation
    content = tags.tobytes()
    return _JPEG_WITH_EXIF + (len(content) + 2).to_bytes(2) + content + preview.jpeg[2:]


def _exif_of_tiff(data: bytes) -> Image.Exif:
    tags = Image.Exif()
    with suppress(Exception):  # broken EXIF, which Pillow meets with nearly any error, doesn't spoil the picture
        # Olympus and Panasonic write a magic number of their own.
        tags.load({b"II": b"II*\0", b"MM": b"MM\0*"}[data[:2]] + data[4:])
        for tag in set(tags) - _EXIF_TAGS:
            del tags[tag]
    return tags


def _exif_of_preview(preview: _Preview) -> Image.Exif:
    with suppress(Exception):
        return Image.open(io.BytesIO(preview.jpeg), formats=["JPEG"]).getexif()
    return Image.Exif()
