"""AVIF, as Pillow reads it, with the colours that the file names by number."""

from PIL.AvifImagePlugin import AvifImageFile

from processing import cicp
from processing.headers import code_points


class AvifPicture(AvifImageFile):
    """Pillow hands on an ICC profile, and forgets what a file without one says instead."""

    def _open(self) -> None:
        super()._open()
        assert self.fp is not None
        if "icc_profile" in self.info or (points := code_points(self.fp)) is None:
            return
        if profile := cicp.profile(*points):
            self.info["icc_profile"] = profile
