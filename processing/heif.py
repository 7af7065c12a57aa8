"""HEIC and HEIF, by libheif, as a format of Pillow's.

A file may hold many pictures, thumbnails, depth and gain maps: the one that it calls primary is the picture.
"""

import functools
from typing import Any, Final

import pillow_heif
from PIL import Image

from processing import cicp
from processing.failures import FailureCode, ProcessingFailed

FORMAT: Final = "HEIF"

# How libheif's messages begin when a file is whole, and written by a codec or in a way that it doesn't know: AV1,
# JPEG 2000 and VVC may be in such files, too.
_UNKNOWN: Final = ("Unsupported ", "Error while loading plugin")
# Others of its kind are about numbers in the file, which exceed a limit.
_NO_MEMORY: Final = "Memory allocation error: Unspecified: "


@functools.cache
def register() -> None:
    """Makes `Image.open(file, formats=["HEIF"])` work.

    Pictures come upright, as the container's own properties say (ISO/IEC 23008-12, 6.5.10); their EXIF's orientation,
    which would turn them twice, is 1 always. libheif's limits on the numbers of a file stay in force.
    """
    # Children fill the cores already, and each thread's stack and heap count as address space.
    pillow_heif.options.DECODE_THREADS = 1
    # Nobody asks for what lies beside the picture. Thumbnails of phones are smaller than any variant but the smallest.
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    Image.register_open(FORMAT, _Picture)


class _Picture(pillow_heif.HeifImageFile):
    """The primary picture, and only that: the others of a burst are no animation."""

    n_frames = 1
    is_animated = False

    def _open(self) -> None:
        try:
            super()._open()  # type: ignore[no-untyped-call]
        except SyntaxError as error:  # which is what Pillow wants to hear of whatever goes wrong
            _explain(error)
            raise
        if "icc_profile" not in self.info and (profile := _profile(self.info.get("nclx_profile"))):
            self.info["icc_profile"] = profile

    def load(self) -> Any:
        try:
            return super().load()  # type: ignore[no-untyped-call]
        except (RuntimeError, SyntaxError) as error:
            _explain(error)
            raise


def _explain(error: Exception) -> None:
    """Raises something better than libheif's error, if it is not the file that is damaged."""
    if str(error).startswith(_UNKNOWN):
        raise ProcessingFailed(FailureCode.UNSUPPORTED, "This kind of picture can't be processed.") from error
    if str(error).startswith(_NO_MEMORY):
        raise MemoryError from error


def _profile(nclx: dict[str, Any] | None) -> bytes | None:
    return cicp.profile(nclx["color_primaries"], nclx["transfer_characteristics"]) if nclx else None
