import io
from pathlib import Path
from typing import Final

import pytest
from PIL import Image

from processing import kinds
from processing.kinds import FileType
from processing.looks import looks
from processing.renditions import animate, render
from processing.variants import PICTURE_VARIANTS, Looks, Progress, Rendered, VariantName, VariantSpec
from tests.pictures import photograph
from tests.processing.pictures import (
    BLUE,
    CORNERS,
    GREEN,
    RED,
    WHITE,
    assert_bare,
    close,
    corners,
    encoded,
    label,
    opened,
    produced,
    quadrants,
)

THUMBNAIL, SMALL, MEDIUM, LARGE = VariantName.THUMBNAIL, VariantName.SMALL, VariantName.MEDIUM, VariantName.LARGE


def rendered(
    folder: Path, picture: Image.Image, size: tuple[int, int] | None = None, *specs: VariantSpec
) -> list[Rendered]:
    told: list[Rendered | Progress] = []
    render(picture, size or picture.size, specs or PICTURE_VARIANTS, folder, told.append)
    return [each for each in told if isinstance(each, Rendered)]


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ((2000, 1500), [(150, 150), (400, 300), (800, 600), (1600, 1200)]),
        ((1500, 2000), [(150, 150), (300, 400), (600, 800), (1200, 1600)]),
        ((1601, 1067), [(150, 150), (400, 267), (800, 533), (1600, 1066)]),
        ((600, 450), [(150, 150), (400, 300), (600, 450), (600, 450)]),
        ((100, 80), [(80, 80), (100, 80), (100, 80), (100, 80)]),
        ((120, 300), [(120, 120), (120, 300), (120, 300), (120, 300)]),
        ((5000, 250), [(150, 150), (400, 20), (800, 40), (1600, 80)]),
        ((4000, 2), [(2, 2), (400, 1), (800, 1), (1600, 1)]),
        ((1, 5000), [(1, 1), (1, 400), (1, 800), (1, 1600)]),
        ((1, 1), [(1, 1), (1, 1), (1, 1), (1, 1)]),
    ],
    ids=label,
)
@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG], ids=label)
def test_sizes(tmp_path: Path, type_: FileType, original: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    made = produced(tmp_path, encoded(quadrants(*original), type_), type_)
    assert [made.sizes[name] for name in (THUMBNAIL, SMALL, MEDIUM, LARGE)] == expected


def test_a_panorama_keeps_its_colours(tmp_path: Path) -> None:
    made = produced(tmp_path, encoded(quadrants(5000, 250), kinds.JPEG), kinds.JPEG)
    assert all(close(corners(image), CORNERS) for image in made.variants.values())


def test_never_larger_than_the_original(tmp_path: Path) -> None:
    """Of which the picture may be a reduced one."""
    original = (1000, 700)
    made = {each.name: (each.width, each.height) for each in rendered(tmp_path, quadrants(1000, 700), original)}
    assert made == {THUMBNAIL: (150, 150), SMALL: (400, 280), MEDIUM: (800, 560), LARGE: (1000, 700)}
    again = {each.name: (each.width, each.height) for each in rendered(tmp_path, quadrants(1600, 1120), (4000, 2800))}
    assert again == {THUMBNAIL: (150, 150), SMALL: (400, 280), MEDIUM: (800, 560), LARGE: (1600, 1120)}


# ---------------------------------------------------------------- what is cropped


def test_thumbnail_is_the_middle(tmp_path: Path) -> None:
    picture = Image.new("RGB", (900, 300), RED)
    picture.paste(GREEN, (300, 0, 600, 150))
    picture.paste(BLUE, (300, 150, 600, 300))
    variants = {each.name: opened(each) for each in rendered(tmp_path, picture)}
    assert close(corners(variants[THUMBNAIL]), (GREEN, GREEN, BLUE, BLUE))
    assert close(corners(variants[SMALL]), (RED, RED, RED, RED))


def test_thumbnail_fills_its_frame_to_the_edge(tmp_path: Path) -> None:
    thumbnail = rendered(tmp_path, Image.new("RGB", (640, 427), WHITE), None, PICTURE_VARIANTS[0])[0]
    image = opened(thumbnail)
    edges = [image.getpixel((x, y)) for x in (0, 149) for y in (0, 149)]
    assert close(edges, (WHITE,) * 4, 3)  # type: ignore[arg-type]  # colours, as the mode is RGB


# ---------------------------------------------------------------- telling


def test_the_largest_comes_first_whatever_the_order_of_specs(tmp_path: Path) -> None:
    for specs in (PICTURE_VARIANTS, PICTURE_VARIANTS[::-1]):
        assert [each.name for each in rendered(tmp_path, quadrants(1000, 700), None, *specs)] == [
            LARGE, MEDIUM, SMALL, THUMBNAIL,
        ]  # fmt: skip


def test_a_file_is_complete_when_it_is_told(tmp_path: Path) -> None:
    seen: list[int] = []

    def tell(message: Rendered | Progress) -> None:
        assert isinstance(message, Rendered)  # of a still there is no progress to tell
        seen.append(len(list(tmp_path.iterdir())))
        assert opened(message).size == (message.width, message.height)

    render(quadrants(500, 400), (500, 400), PICTURE_VARIANTS, tmp_path, tell)
    assert seen == [1, 2, 3, 4]


def test_variants_that_are_the_same_are_the_same_bytes(tmp_path: Path) -> None:
    made = {each.name: each.path.read_bytes() for each in rendered(tmp_path, quadrants(300, 200))}
    assert made[SMALL] == made[MEDIUM] == made[LARGE] != made[THUMBNAIL]
    assert len(list(tmp_path.iterdir())) == 4
    rough = VariantSpec(SMALL, 400, 400, quality=10)
    fine = VariantSpec(MEDIUM, 800, 800, quality=90)
    noise = Image.effect_noise((300, 200), 80).convert("RGB")
    sizes = {each.name: each.size_bytes for each in rendered(tmp_path, noise, None, rough, fine)}
    assert sizes[SMALL] < sizes[MEDIUM] / 2


def test_looks_are_those_of_the_whole_picture(tmp_path: Path) -> None:
    data = photograph(1000, 600, format="PNG", seed=1)
    picture = Image.open(io.BytesIO(data))
    seen = render(picture, picture.size, PICTURE_VARIANTS, tmp_path, lambda _: None)
    assert produced(tmp_path, data, kinds.PNG).facts.looks == seen
    assert bits_apart(seen, looks(picture)) <= 2  # it was reduced to SMALL before
    assert bits_apart(seen, looks(picture.crop((200, 0, 800, 600)))) > 8  # and is not THUMBNAIL's


def bits_apart(one: Looks, other: Looks) -> int:
    return (int(one.perceptual_hash, 16) ^ int(other.perceptual_hash, 16)).bit_count()


# ---------------------------------------------------------------- animations of one's own

FRAMES: Final = [(quadrants(80, 60, (*CORNERS[turn:], *CORNERS[:turn])), 50 + 100 * turn) for turn in range(4)]


def test_animate(tmp_path: Path) -> None:
    path = tmp_path / "preview.webp"
    animate(iter(FRAMES), path, quality=80, effort=1)
    data = path.read_bytes()
    assert_bare(data)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size, image.info["loop"]) == ("WEBP", (80, 60), 0)
    found = []
    for index in range(4):
        image.seek(index)
        image.load()
        found.append(image.info["duration"])
        assert close(corners(image), (*CORNERS[index:], *CORNERS[:index]), 16)
    assert found == [50, 150, 250, 350]
    with pytest.raises(EOFError):
        image.seek(4)


def test_what_stands_still_all_along(tmp_path: Path) -> None:
    """Encoded as one frame, of which some have transparency."""
    hole = quadrants(80, 60).convert("RGBA")
    hole.paste((0, 0, 0, 0), (0, 0, 40, 30))
    for picture, mode in ((quadrants(80, 60), "RGB"), (hole, "RGBA")):
        animate([(picture, 100)] * 3, tmp_path / "still.webp", quality=80, effort=1)
        image = Image.open(tmp_path / "still.webp")
        assert (image.mode, image.size) == (mode, (80, 60))
        assert close(corners(image)[1:], CORNERS[1:])


def test_it_needs_a_place_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rendered(tmp_path / "missing", quadrants(40, 30))
