"""What of AVIF is our own: colours that a file names by number."""

import io
import struct

import pytest
from PIL import Image

from processing import colour, kinds
from processing.avif import AvifPicture
from processing.headers import code_points
from tests.processing.pictures import CORNERS, Colour, close, corners, encoded, quadrants, swapping_profile
from tests.processing.test_heif import IN_P3


def avif(picture: Image.Image, primaries: int, transfer: int) -> bytes:
    data = encoded(picture, kinds.AVIF, quality=90, subsampling="4:4:4")
    box = b"colrnclx"
    assert data.count(box + struct.pack(">HH", 1, 13)) == 1
    return data.replace(box + struct.pack(">HH", 1, 13), box + struct.pack(">HH", primaries, transfer))


@pytest.mark.parametrize(
    ("primaries", "transfer", "written"),
    [(12, 13, IN_P3), (1, 13, CORNERS), (2, 2, CORNERS)],
    ids=["Display P3", "sRGB", "unspecified"],
)
def test_colours_by_number(primaries: int, transfer: int, written: tuple[Colour, ...]) -> None:
    data = avif(quadrants(96, 64, written), primaries, transfer)
    assert code_points(io.BytesIO(data)) == (primaries, transfer)
    with AvifPicture(io.BytesIO(data)) as image:
        assert close(corners(colour.to_srgb(image, image.info.get("icc_profile"))), CORNERS)
        assert ("icc_profile" in image.info) == (primaries == 12)


def test_profile_before_numbers() -> None:
    data = encoded(quadrants(96, 64), kinds.AVIF, icc_profile=swapping_profile())
    with AvifPicture(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == swapping_profile()


def test_no_numbers() -> None:
    assert code_points(io.BytesIO(b"")) is None
    assert code_points(io.BytesIO(encoded(quadrants(8, 8), kinds.PNG))) is None
