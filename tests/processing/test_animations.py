from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image, ImageSequence

from processing import animations, kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import PICTURE_VARIANTS, Progress, VariantName
from tests.processing.pictures import (
    BLUE,
    CORNERS,
    GREEN,
    RED,
    WHITE,
    Colour,
    close,
    corners,
    encoded,
    exif,
    gif,
    gif_frame,
    label,
    produced,
    quadrants,
    stored,
)

SPECS: Final = tuple(replace(spec, width=spec.width // 10, height=spec.height // 10) for spec in PICTURE_VARIANTS)
ANIMATED: Final = (kinds.GIF, kinds.PNG, kinds.WEBP, kinds.AVIF)
CLEAR: Final = None
WHOLE: Final = (0, 0, 40, 40)
LAST_QUARTER: Final = (20, 20, 20, 20)
FIRST_QUARTER: Final = (0, 0, 20, 20)


def moving(type_: FileType, *frames: Image.Image, durations: list[int], **options: Any) -> bytes:
    return encoded(frames[0], type_, save_all=True, append_images=list(frames[1:]), duration=durations, **options)


def durations(image: Image.Image) -> list[int]:
    found = []
    for frame in ImageSequence.Iterator(image):
        frame.load()  # WebP's durations are known then
        found.append(frame.info["duration"])
    return found


def quarters(image: Image.Image) -> list[list[Colour | None]]:
    """Of each frame the colours of its quadrants, as the nearest of ours, or CLEAR."""
    return [[nearest(colour, alpha) for colour, alpha in seen(frame)] for frame in ImageSequence.Iterator(image)]


def seen(frame: Image.Image) -> list[tuple[Colour, int]]:
    rgba = frame.convert("RGBA")
    alphas = [red for red, _, _ in corners(rgba.getchannel("A").convert("RGB"))]
    return list(zip(corners(rgba), alphas, strict=True))


def nearest(colour: Colour, alpha: int) -> Colour | None:
    if alpha == 0:
        return CLEAR
    assert alpha == 255
    return next(each for each in CORNERS if close([colour], (each,), 16))


# ---------------------------------------------------------------- in every format


@pytest.mark.parametrize("type_", ANIMATED, ids=label)
def test_every_variant_moves(tmp_path: Path, type_: FileType) -> None:
    turned = [quadrants(200, 100, (*CORNERS[turn:], *CORNERS[:turn])) for turn in range(3)]
    made = produced(tmp_path, moving(type_, *turned, durations=[50, 200, 70]), type_, SPECS)
    assert made.sizes == {
        VariantName.THUMBNAIL: (15, 15), VariantName.SMALL: (40, 20),
        VariantName.MEDIUM: (80, 40), VariantName.LARGE: (160, 80),
    }  # fmt: skip
    for image in made.variants.values():
        assert durations(image) == [50, 200, 70]
        assert quarters(image) == [[*CORNERS[turn:], *CORNERS[:turn]] for turn in range(3)]
    assert (made.facts.width, made.facts.height) == (200, 100)


@pytest.mark.parametrize("type_", ANIMATED, ids=label)
def test_transparency_moves_too(tmp_path: Path, type_: FileType) -> None:
    picture = quadrants(80, 80).convert("RGBA")
    holes = [picture.copy(), picture.copy()]
    holes[0].putalpha(quadrants(80, 80, ((0,) * 3, (255,) * 3, (255,) * 3, (255,) * 3)).convert("L"))
    holes[1].putalpha(quadrants(80, 80, ((255,) * 3, (255,) * 3, (255,) * 3, (0,) * 3)).convert("L"))
    data = moving(type_, *holes, durations=[100, 100], **({"disposal": 2} if type_ is kinds.GIF else {}))
    for image in produced(tmp_path, data, type_, SPECS).variants.values():
        assert quarters(image) == [[CLEAR, GREEN, BLUE, WHITE], [RED, GREEN, BLUE, CLEAR]]


@pytest.mark.parametrize("type_", [kinds.PNG, kinds.WEBP], ids=label)  # an AVIF of that kind crashes Pillow's writer
def test_every_frame_is_upright(tmp_path: Path, type_: FileType) -> None:
    frames = [stored(quadrants(80, 40), 6), stored(quadrants(80, 40, CORNERS[::-1]), 6)]
    data = moving(type_, *frames, durations=[100, 100], exif=exif(6))
    for name, image in produced(tmp_path, data, type_).variants.items():
        assert image.size == ((40, 40) if name is VariantName.THUMBNAIL else (80, 40))
        assert quarters(image) == [[*CORNERS], [*CORNERS[::-1]]]


@pytest.mark.parametrize("type_", ANIMATED, ids=label)
def test_durations_that_nobody_means(tmp_path: Path, type_: FileType) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in CORNERS]
    data = moving(type_, *frames, durations=[0, 10, 20, 60_000])
    assert durations(produced(tmp_path, data, type_).variants[VariantName.SMALL]) == [100, 100, 20, 60_000]


@pytest.mark.parametrize(
    ("type_", "written", "plays"),
    [
        (kinds.GIF, None, 1), (kinds.GIF, 0, 0), (kinds.GIF, 3, 4), (kinds.GIF, 65_535, 65_535),
        (kinds.PNG, 0, 0), (kinds.PNG, 3, 3), (kinds.WEBP, 0, 0), (kinds.WEBP, 3, 3),
    ],
    ids=label,
)  # fmt: skip
def test_it_plays_as_often_as_it_says(tmp_path: Path, type_: FileType, written: int | None, plays: int) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in CORNERS]
    options = {} if written is None else {"loop": written}
    data = moving(type_, *frames, durations=[100] * 4, **options)
    assert produced(tmp_path, data, type_).variants[VariantName.SMALL].info["loop"] == plays


# ---------------------------------------------------------------- what browsers make of a GIF


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (
            [gif_frame(0, WHOLE), gif_frame(1, LAST_QUARTER), gif_frame(2, FIRST_QUARTER)],
            [[RED] * 4, [RED, RED, RED, GREEN], [BLUE, RED, RED, GREEN]],
        ),
        (
            [gif_frame(0, WHOLE), gif_frame(1, LAST_QUARTER, disposal=2), gif_frame(2, FIRST_QUARTER)],
            [[RED] * 4, [RED, RED, RED, GREEN], [BLUE, RED, RED, CLEAR]],
        ),
        (
            [gif_frame(0, WHOLE), gif_frame(1, LAST_QUARTER, disposal=3), gif_frame(2, FIRST_QUARTER)],
            [[RED] * 4, [RED, RED, RED, GREEN], [BLUE, RED, RED, RED]],
        ),
        (
            [gif_frame(1, LAST_QUARTER), gif_frame(3, WHOLE, transparent=3), gif_frame(2, FIRST_QUARTER)],
            [[CLEAR, CLEAR, CLEAR, GREEN], [BLUE, CLEAR, CLEAR, GREEN]],
        ),
        (
            [gif_frame(0, WHOLE), gif_frame(1, (20, 20, 400, 30))],
            [[RED] * 4, [RED, RED, RED, GREEN]],
        ),
        ([gif_frame(1, LAST_QUARTER)], [[CLEAR, CLEAR, CLEAR, GREEN]]),
    ],
    ids=["stays", "is cleared", "is undone", "changes nothing", "beyond the canvas", "a still"],
)
def test_a_frames_place(tmp_path: Path, frames: list[bytes], expected: list[list[Colour | None]]) -> None:
    made = produced(tmp_path, gif(40, 40, *frames), kinds.GIF)
    assert (made.facts.width, made.facts.height) == (40, 40)
    assert quarters(made.variants[VariantName.LARGE]) == expected


def test_a_first_frame_beyond_the_canvas_widens_it(tmp_path: Path) -> None:
    made = produced(tmp_path, gif(20, 20, gif_frame(0, WHOLE), gif_frame(1, LAST_QUARTER)), kinds.GIF)
    assert (made.facts.width, made.facts.height) == (40, 40)
    assert quarters(made.variants[VariantName.LARGE]) == [[RED] * 4, [RED, RED, RED, GREEN]]


# ---------------------------------------------------------------- other formats' peculiarities


def test_the_still_that_a_png_has_for_others_is_no_frame(tmp_path: Path) -> None:
    still, *frames = (Image.new("RGB", (40, 40), colour) for colour in CORNERS)
    data = encoded(still, kinds.PNG, save_all=True, default_image=True, append_images=frames, duration=100)
    image = produced(tmp_path, data, kinds.PNG).variants[VariantName.LARGE]
    assert quarters(image) == [[GREEN] * 4, [BLUE] * 4, [WHITE] * 4]


@pytest.mark.parametrize("disposal", [0, 1, 2])
@pytest.mark.parametrize("blend", [0, 1])
def test_composition_of_a_png(tmp_path: Path, disposal: int, blend: int) -> None:
    red = Image.new("RGBA", (40, 40), RED)
    hole = Image.new("RGBA", (40, 40), GREEN)
    hole.paste((0, 0, 0, 0), FIRST_QUARTER)
    data = moving(kinds.PNG, red, hole, durations=[100, 100], disposal=disposal, blend=blend)
    behind = RED if blend and disposal == 0 else CLEAR
    image = produced(tmp_path, data, kinds.PNG).variants[VariantName.LARGE]
    assert quarters(image) == [[RED] * 4, [behind, GREEN, GREEN, GREEN]]


def test_pages_are_not_frames(tmp_path: Path) -> None:
    data = moving(kinds.TIFF, quadrants(60, 40), Image.new("RGB", (90, 90)), durations=[1, 1])
    made = produced(tmp_path, data, kinds.TIFF)
    assert (made.facts.width, made.facts.height) == (60, 40)
    assert quarters(made.variants[VariantName.LARGE]) == [[*CORNERS]]


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("type_", ANIMATED, ids=label)
@pytest.mark.parametrize(
    ("limits", "kept"),
    [(Limits(frames=2), 2), (Limits(pixels=3 * 1600), 3), (Limits(pixels=1600), 1), (Limits(frames=1), 1)],
    ids=["frames", "pixels", "pixels of one", "one frame"],
)
def test_as_many_frames_as_the_limits_allow(tmp_path: Path, type_: FileType, limits: Limits, kept: int) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in CORNERS]
    made = produced(tmp_path, moving(type_, *frames, durations=[100] * 4), type_, limits=limits)
    assert quarters(made.variants[VariantName.LARGE]) == [[colour] * 4 for colour in CORNERS[:kept]]


def test_large_animations_have_fewer_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animations, "_MOST_PIXELS", 3 * 1600 - 1)
    frames = [Image.new("RGB", (40, 40), colour) for colour in CORNERS]
    made = produced(tmp_path, moving(kinds.GIF, *frames, durations=[100] * 4), kinds.GIF)
    assert quarters(made.variants[VariantName.LARGE]) == [[RED] * 4, [GREEN] * 4]


def test_a_later_frame_larger_than_any_picture_may_be(tmp_path: Path) -> None:
    huge = gif_frame(1, LAST_QUARTER).replace(b",\x14\0\x14\0\x14\0\x14\0", b",\x14\0\x14\0\xff\xff\xff\xff")
    assert b"\xff\xff\xff\xff" in huge
    with pytest.raises(ProcessingFailed) as caught:
        produced(tmp_path, gif(40, 40, gif_frame(0, WHOLE), huge), kinds.GIF)
    assert caught.value.code is FailureCode.CORRUPT


@pytest.mark.parametrize("type_", ANIMATED, ids=label)
def test_an_animation_cut_short_is_damaged(tmp_path: Path, type_: FileType) -> None:
    noise = [Image.effect_noise((60, 40), 80).convert("RGB") for _ in range(3)]
    data = moving(type_, *noise, durations=[100] * 3)
    with pytest.raises(ProcessingFailed) as caught:
        produced(tmp_path, data[: len(data) * 9 // 10], type_)
    assert caught.value.code is FailureCode.CORRUPT
    assert list((tmp_path / "variants").iterdir()) == []


def test_progress_is_told_of_an_animation_alone(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in CORNERS]
    made = produced(tmp_path, moving(kinds.GIF, *frames, durations=[100] * 4), kinds.GIF)
    progress = [each.fraction for each in made.told if isinstance(each, Progress)]
    assert progress == [0, 0.25, 0.5, 0.75, 1]
    assert made.told[-1] == Progress(1)
