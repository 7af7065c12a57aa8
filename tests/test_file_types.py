"""Storage tells a content type by the key's extension, and processing gives both: they must agree."""

from __future__ import annotations

import pytest

from processing.kinds import FILE_TYPES, FileType
from storage.keys import content_type_of, extension_of


@pytest.mark.parametrize("file_type", FILE_TYPES, ids=lambda file_type: file_type.extension)
def test_storage_and_processing_mean_the_same(file_type: FileType) -> None:
    assert content_type_of(f"key.{file_type.extension}") == file_type.content_type
    assert extension_of(file_type.content_type) == file_type.extension
