"""What a decoder leaves, stored: whatever it does with its file afterwards."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from app.db import hydrate
from app.tables import Media
from app.variants import store
from processing.variants import Rendered, VariantName
from storage.local import LocalStorage
from storage.signing import UrlSigner


async def test_a_decoder_that_keeps_its_file_open_changes_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(
        tmp_path / "objects", signer=UrlSigner(b"a secret for tests only"), base_url="http://localhost"
    )
    made = Rendered(VariantName.SMALL, "0123abcd4567", tmp_path / "made", "image/webp", 3, 2, size_bytes=5)
    with made.path.open("wb", buffering=0) as kept:
        kept.write(b"small")
        variant = await store(storage, hydrate(Media, {"id": uuid4(), "storage_key": "image/a.jpg"}), made)
        kept.seek(0)
        kept.write(b"large and evil")
    assert b"".join([chunk async for chunk in storage.open(variant.storage_key)]) == b"small"
    assert (variant.name, variant.digest, variant.size_bytes) == ("SMALL", made.digest, 5)
