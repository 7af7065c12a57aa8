"""Storage tells a content type by the key's extension, and processing gives both: they must agree."""

from __future__ import annotations

import pytest

from processing import kinds
from processing.kinds import FILE_TYPES, RAW_TYPES, FileType, claimed, may_be
from storage.keys import content_type_of, extension_of


@pytest.mark.parametrize("file_type", FILE_TYPES, ids=lambda file_type: file_type.extension)
def test_storage_and_processing_mean_the_same(file_type: FileType) -> None:
    assert content_type_of(f"key.{file_type.extension}") == file_type.content_type
    assert extension_of(file_type.content_type) == file_type.extension


@pytest.mark.parametrize(
    ("content_type", "meant"),
    [
        ("image/dng", kinds.DNG),
        ("image/x-dcraw", kinds.DNG),
        ("Image/X-Canon-CR2", kinds.CR2),
        ("image/x-nikon-nrw", kinds.NEF),
        ("image/x-panasonic-raw2", kinds.RW2),
        ("image/heic-sequence", kinds.HEIC),
        ("image/x-nothing", None),
        ("", None),
    ],
)
def test_other_names(content_type: str, meant: FileType | None) -> None:
    assert claimed(content_type) == meant


@pytest.mark.parametrize("silence", ["", "application/octet-stream", "Application/Octet-Stream; charset=binary"])
def test_where_the_type_says_nothing_the_name_speaks(silence: str) -> None:
    assert claimed(silence, "IMG_0042.HEIC") == kinds.HEIC
    assert claimed(silence, "scan.tif") == kinds.TIFF
    assert {claimed(silence, name) for name in ("", "heic", "notes.txt", "a.heic.exe", "x.", ".heic")} == {None}
    assert claimed("text/html", "IMG_0042.HEIC") is None


def test_raw_files_may_be_taken_for_tiffs_and_for_each_other() -> None:
    family = {kinds.TIFF, *RAW_TYPES}
    for claim in FILE_TYPES:
        for raw in RAW_TYPES:
            assert may_be(claim, raw) == may_be(raw, claim) == (claim in family)
