"""Raw files are shown by their preview: upright exactly once, with the facts of the file and not of the preview."""

import io
import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Final

import pytest
import rawpy
from PIL import Image

from processing import kinds, raws
from processing.failures import FailureCode, ProcessingFailed
from processing.identify import HEAD_BYTES, identify
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import PICTURE_VARIANTS, Facts, Progress, Rendered, VariantName
from tests.processing.pictures import CORNERS, Produced, close, corners, exif, label, opened, quadrants, stored
from tests.processing.rawfiles import RAW_TIFFS, SENSOR, Tags, jpeg, raf, raw

PREVIEW: Final = (48, 32)
UPRIGHT: Final = quadrants(*PREVIEW)
STANDING: Final = quadrants(PREVIEW[1], PREVIEW[0])


def made(folder: Path, data: bytes, limits: Limits | None = None) -> Produced:
    type_ = identify(data[:HEAD_BYTES])
    assert type_ in kinds.RAW_TYPES
    into = folder / "variants"
    into.mkdir()
    told: list[Rendered | Progress] = []
    facts = raws.produce(io.BytesIO(data), type_, into, limits or Limits(), told.append)
    rendered = [each for each in told if isinstance(each, Rendered)]
    assert told[0] == Progress(0)
    assert sorted(each.name for each in rendered) == sorted(spec.name for spec in PICTURE_VARIANTS)
    return Produced(facts, told, {each.name: opened(each) for each in rendered})


def failure(folder: Path, data: bytes, limits: Limits | None = None) -> ProcessingFailed:
    with pytest.raises(ProcessingFailed) as caught:
        made(folder, data, limits)
    assert not list((folder / "variants").iterdir())
    return caught.value


def is_upright(found: Produced) -> bool:
    return all(close(corners(image), CORNERS) for image in found.variants.values())


# ---------------------------------------------------------------- upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_preview_lies_as_the_sensor_did(tmp_path: Path, orientation: int, order: str) -> None:
    standing = orientation > 4
    lying = jpeg(stored(STANDING if standing else UPRIGHT, orientation))
    found = made(tmp_path, raw(kinds.DNG, lying, PREVIEW, orientation=orientation, order=order))
    assert is_upright(found)
    assert found.sizes[VariantName.LARGE] == (PREVIEW[::-1] if standing else PREVIEW)
    assert (found.facts.width, found.facts.height) == (SENSOR[::-1] if standing else SENSOR)
    assert found.facts.tags["Orientation"] == orientation


@pytest.mark.parametrize("type_", RAW_TIFFS, ids=label)
def test_every_maker(tmp_path: Path, type_: FileType) -> None:
    data = raw(type_, jpeg(stored(STANDING, 6)), PREVIEW, orientation=6, camera={36867: b"2020:05:06 07:08:09\0"})
    assert identify(data[:HEAD_BYTES]) == type_
    found = made(tmp_path, data)
    assert is_upright(found)
    assert found.facts.taken_at == datetime(2020, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert found.facts.tags["Model"] == "Heirloom One"


def test_fuji(tmp_path: Path) -> None:
    tags = exif(8, DateTimeOriginal="2020:05:06 07:08:09")
    tags[0x010F] = "FUJIFILM"
    found = made(tmp_path, raf(jpeg(stored(STANDING, 8), tags)))
    assert is_upright(found)
    assert (found.facts.width, found.facts.height) == SENSOR[::-1]
    assert found.facts.taken_at == datetime(2020, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert found.facts.tags["Make"] == "FUJIFILM"


def test_preview_that_stands_already(tmp_path: Path) -> None:
    found = made(tmp_path, raw(kinds.NEF, jpeg(STANDING), PREVIEW[::-1], orientation=6))
    assert is_upright(found)
    assert (found.facts.width, found.facts.height) == SENSOR[::-1]


@pytest.mark.parametrize("orientation", [1, 3])
def test_what_the_preview_says_of_itself_does_not_count(tmp_path: Path, orientation: int) -> None:
    preview = jpeg(stored(UPRIGHT, orientation), exif(6, DateTimeOriginal="1999:01:01 00:00:00"))
    found = made(tmp_path, raw(kinds.ARW, preview, PREVIEW, orientation=orientation))
    assert is_upright(found)
    assert found.facts.taken_at is None


def test_preview_without_compression(tmp_path: Path) -> None:
    found = made(tmp_path, raw(kinds.DNG, stored(STANDING, 8), PREVIEW, orientation=8))
    assert is_upright(found)


# ---------------------------------------------------------------- facts


def test_facts(tmp_path: Path) -> None:
    camera = {36867: b"2021:07:04 18:30:05\0", 36881: b"+02:00\0"}
    place: Tags = {1: b"N\0", 2: (47, 1, 22, 1, 30, 1), 3: b"W\0", 4: (8, 1, 32, 1, 24, 1)}
    facts = made(tmp_path, raw(kinds.DNG, jpeg(UPRIGHT), PREVIEW, size=(120, 80), camera=camera, place=place)).facts
    tags = {
        "Make": "Heirloom",
        "Model": "Heirloom One",
        "Orientation": 1,
        "DateTimeOriginal": "2021:07:04 18:30:05",
        "GPS": {
            "GPSLatitudeRef": "N",
            "GPSLatitude": [47.0, 22.0, 30.0],
            "GPSLongitudeRef": "W",
            "GPSLongitude": [8.0, 32.0, 24.0],
        },
    }
    assert {key: value for key, value in facts.tags.items() if key != "OffsetTimeOriginal"} == tags
    assert facts.looks is not None
    assert replace(facts, tags={}, looks=None) == Facts(
        width=120,
        height=80,
        taken_at=datetime(2021, 7, 4, 16, 30, 5, tzinfo=UTC),
        latitude=47.375,
        longitude=-8.54,
    )


def test_no_facts_are_made_up(tmp_path: Path) -> None:
    facts = made(tmp_path, raw(kinds.DNG, jpeg(UPRIGHT), PREVIEW)).facts
    assert facts.tags == {"Make": "Heirloom", "Model": "Heirloom One", "Orientation": 1}
    assert (facts.taken_at, facts.latitude) == (None, None)


@pytest.mark.filterwarnings("ignore:Tag data larger")
def test_broken_facts_spoil_no_picture(tmp_path: Path) -> None:
    data = raw(kinds.NEF, jpeg(UPRIGHT), PREVIEW, camera={36867: b"2021:07:04 18:30:05\0"})
    pointer = struct.pack("<HHI", 34665, 4, 1)
    at = data.index(pointer) + len(pointer)
    found = made(tmp_path, data[:at] + b"\2\0\0\0" + data[at + 4 :])  # where there is no directory
    assert is_upright(found)
    assert found.facts.taken_at is None
    assert found.facts.tags["Make"] == "NIKON CORPORATION"


# ---------------------------------------------------------------- what isn't as it should be


def without_scan(preview: bytes) -> bytes:
    return preview[: preview.index(b"\xff\xda")] + b"\xff\xd9" + bytes(200)


@pytest.mark.parametrize(
    "data",
    [
        raw(kinds.DNG, None, PREVIEW),
        raw(kinds.DNG, without_scan(jpeg(UPRIGHT)), PREVIEW),
        raf(without_scan(jpeg(UPRIGHT))),
    ],
    ids=["none", "damaged", "damaged in a Fuji's"],
)
def test_no_preview(tmp_path: Path, data: bytes) -> None:
    caught = failure(tmp_path, data)
    assert caught.code is FailureCode.UNSUPPORTED
    assert caught.message == "This raw file holds no preview that can be shown."


def test_preview_with_too_many_pixels(tmp_path: Path) -> None:
    data = raw(kinds.DNG, jpeg(UPRIGHT), PREVIEW)
    caught = failure(tmp_path, data, Limits(pixels=PREVIEW[0] * PREVIEW[1] - 1))
    assert caught.code is FailureCode.TOO_MANY_PIXELS


def test_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = raw(kinds.DNG, jpeg(UPRIGHT), PREVIEW)
    monkeypatch.setattr(raws, "_MAX_BYTES", len(data) - 1)
    assert failure(tmp_path, data).code is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("type_", [*RAW_TIFFS, kinds.RAF, kinds.CR3, kinds.PEF], ids=label)
def test_nothing_but_a_head(tmp_path: Path, type_: FileType) -> None:
    head = raf(b"")[:160] if type_ == kinds.RAF else raw(kinds.DNG, None, PREVIEW)[:600]
    told: list[Rendered | Progress] = []
    with pytest.raises(ProcessingFailed) as caught:
        raws.produce(io.BytesIO(head), type_, tmp_path, Limits(), told.append)
    assert caught.value.code is FailureCode.CORRUPT
    assert not told


@pytest.mark.parametrize("tenths", range(1, 10))
def test_cut_short(tmp_path: Path, tenths: int) -> None:
    data = raw(kinds.ORF, jpeg(UPRIGHT), PREVIEW)
    assert failure(tmp_path, data[: len(data) * tenths // 10]).code is FailureCode.CORRUPT


@pytest.mark.parametrize("preview", [jpeg(UPRIGHT), jpeg(UPRIGHT, exif(6)), UPRIGHT], ids=["JPEG", "EXIF", "bitmap"])
@pytest.mark.parametrize("missing", [1, 40])
def test_preview_that_ends_behind_the_files_end(tmp_path: Path, preview: bytes | Image.Image, missing: int) -> None:
    """LibRaw takes it, with 16 KiB of whatever its memory holds: that of another's file."""
    data = raw(kinds.DNG, preview, PREVIEW, preview_last=True)
    assert is_upright(made(tmp_path, data))
    with rawpy.imread(io.BytesIO(data[:-missing])) as opened_:
        assert opened_.extract_thumb() is not None
    rmtree(tmp_path / "variants")
    assert failure(tmp_path, data[:-missing]).code is FailureCode.CORRUPT


def test_preview_is_not_the_one_of_a_picture_library(tmp_path: Path) -> None:
    """What Pillow would take for the picture is the preview without its orientation: the type decides who reads it."""
    data = raw(kinds.DNG, jpeg(stored(STANDING, 6)), PREVIEW, orientation=6)
    assert Image.open(io.BytesIO(data)).format == "TIFF"
    assert is_upright(made(tmp_path, data))
