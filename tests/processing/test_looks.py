"""Against the algorithms' own implementations: `imagehash` for pHash, thumbhash 0.1.1 of npm for ThumbHash."""

from __future__ import annotations

import base64
import io
import random

import imagehash
import pytest
from PIL import Image

from processing.looks import looks
from tests.pictures import photograph
from tests.processing.pictures import BLUE, GREEN, RED, WHITE, quadrants

FLAT, BLACK = "8000000000000000", "0000000000000000"


def a_photograph(seed: int, width: int, height: int) -> Image.Image:
    return Image.open(io.BytesIO(photograph(width, height, seed=seed)))


def noise(seed: int, width: int, height: int, mode: str) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (width, height), random.Random(seed).randbytes(width * height * bands))


def stripes(width: int, height: int, *, transparent: bool) -> Image.Image:
    """All frequencies, from the same bytes for ever."""
    pixels = bytes(
        value % 256
        for y in range(height)
        for x in range(width)
        for value in (x * 37 + y * 11, x * y * 5, 255 - x * 8 + y * 3, x * x + y * 13 if transparent else 255)
    )
    picture = Image.frombytes("RGBA", (width, height), pixels)
    return picture if transparent else picture.convert("RGB")


def on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("RGB")


def apart(one: Image.Image, other: Image.Image) -> int:
    """Bits in which the hashes differ."""
    return (int(looks(one).perceptual_hash, 16) ^ int(looks(other).perceptual_hash, 16)).bit_count()


# ---------------------------------------------------------------- perceptual hash

SIZES = ((400, 300), (300, 400), (150, 150), (33, 31), (400, 9), (3, 200), (1, 1))
GRADIENT = Image.linear_gradient("L").convert("RGB")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_hash_is_the_standard_one(size: tuple[int, int]) -> None:
    pictures = [a_photograph(1, *size), *(noise(seed, *size, mode) for seed, mode in enumerate(("RGB", "RGBA", "RGB")))]
    for picture in pictures:
        assert looks(picture).perceptual_hash == str(imagehash.phash(on_white(picture)))


@pytest.mark.parametrize("turns", range(4))
def test_hash_where_most_frequencies_are_missing(turns: int) -> None:
    picture = GRADIENT.rotate(90 * turns)
    assert looks(picture).perceptual_hash == str(imagehash.phash(picture))


def test_hash_of_one_colour() -> None:
    assert looks(Image.new("RGB", (400, 300), "black")).perceptual_hash == BLACK
    for colour in ("white", "#808080", "#123456", "#010101"):
        assert looks(Image.new("RGB", (400, 300), colour)).perceptual_hash == FLAT


def test_transparent_pictures_are_hashed_on_white() -> None:
    picture = a_photograph(2, 80, 60)
    cutout, page = picture.convert("RGBA"), picture.copy()
    cutout.paste((0, 0, 0, 0), (0, 0, 40, 60))
    page.paste("white", (0, 0, 40, 60))
    assert looks(cutout).perceptual_hash == looks(page).perceptual_hash != looks(picture).perceptual_hash
    assert looks(Image.new("RGBA", (40, 30))).perceptual_hash == FLAT


def test_look_alikes_are_near_and_others_far() -> None:
    picture, other = (a_photograph(seed, 400, 300) for seed in (3, 4))
    again = io.BytesIO()
    picture.resize((200, 150)).save(again, "WEBP", quality=60)
    assert apart(picture, Image.open(again).convert("RGB")) <= 4
    assert apart(picture, picture.point(lambda value: value * 0.8)) <= 4
    assert apart(picture, other) > 16


# ---------------------------------------------------------------- ThumbHash


@pytest.mark.parametrize(
    ("size", "transparent", "expected"),
    [
        ((32, 24), False, "3hcGNYQJRGaWeWZ1l2iIdvI21v+5"),
        ((24, 32), False, "YBcGLQQCVrdXVohpeHdod/sU9ty6"),
        ((32, 5), False, "G0cGaYwOFTWAqSmZgHW2+rc="),
        ((7, 31), True, "GjmGGQYmYFuXaFod0PSbmYd3dnhgGNk="),
        ((32, 32), True, "HxiGHQAHCGWmaYZpWPVH+Nz1RWRld0UTkA=="),
    ],
    ids=str,
)
def test_thumbhash_is_that_of_the_reference(size: tuple[int, int], *, transparent: bool, expected: str) -> None:
    assert looks(stripes(*size, transparent=transparent)).thumbhash == expected


def test_thumbhash_hardly_depends_on_the_size() -> None:
    picture = a_photograph(5, 400, 300)
    large, small = (base64.b64decode(looks(picture.resize(size)).thumbhash) for size in ((400, 300), (64, 48)))
    assert (len(large), len(small)) == (21, 21)
    # Header apart, a nibble for each frequency.
    steps = [(value >> shift & 15) for hashed in (large, small) for value in hashed[5:] for shift in (0, 4)]
    half = len(steps) // 2
    assert all(abs(one - other) <= 1 for one, other in zip(steps[:half], steps[half:], strict=True))


@pytest.mark.parametrize("size", [(8, 8), (400, 30), (30, 400), (400, 300)], ids=str)
def test_thumbhash_of_one_colour_is_the_colour(size: tuple[int, int]) -> None:
    header = int.from_bytes(base64.b64decode(looks(Image.new("RGB", size, (255, 0, 0))).thumbhash)[:3], "little")
    luminance, yellow_blue, red_green = (header >> shift & 63 for shift in (0, 6, 12))
    # A third of white, halfway to yellow, all of red; without contrast, and opaque.
    assert (luminance, yellow_blue, red_green, header >> 18) == (21, 47, 63, 0)


# ---------------------------------------------------------------- dominant colour


def test_dominant_colour_is_that_of_most_pixels() -> None:
    picture = quadrants(300, 200, (RED, BLUE, GREEN, BLUE))
    assert looks(picture).dominant_color == "#1e28c8"
    grainy = Image.blend(picture, noise(6, 300, 200, "RGB"), 0.1)
    red, green, blue = bytes.fromhex(looks(grainy).dominant_color[1:])
    assert abs(red - (27 + 13)) < 10
    assert abs(green - (36 + 13)) < 10
    assert abs(blue - (180 + 13)) < 10


def test_transparent_pixels_have_no_colour() -> None:
    picture = quadrants(300, 200, (WHITE, WHITE, WHITE, RED)).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 300, 100))
    picture.paste((0, 255, 0, 127), (0, 100, 150, 200))
    assert looks(picture).dominant_color == "#dc1e1e"
    assert looks(Image.new("RGBA", (40, 30))).dominant_color == "#ffffff"


def test_the_picture_stays_as_it_was() -> None:
    picture = noise(7, 60, 40, "RGBA")
    before = picture.tobytes()
    assert looks(picture) == looks(picture.copy())
    assert (picture.mode, picture.size, picture.tobytes()) == ("RGBA", (60, 40), before)
