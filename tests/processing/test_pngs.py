"""PNG photographs are what they are to Pillow's own reader, whole or broken."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from processing import kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.pngs import PngFile
from processing.variants import VariantName
from tests.processing.pictures import CORNERS, chunk, close, corners, encoded, exif, produced, quadrants, stored

_END: Final = chunk(b"IEND", b"")


def read(reader: type[PngImageFile], data: bytes) -> tuple[object, ...]:
    """All that is in a file, or None."""
    try:
        image = reader(io.BytesIO(data))
        image.load()
    except Exception:  # which of Pillow's many, is its own matter
        return (None,)
    return image.mode, image.size, image.tobytes(), dict(image.info), dict(image.getexif())


def grain(mode: str, width: int = 61) -> bytes:
    """No line like the other: every filter has its use."""
    picture = Image.blend(Image.effect_noise((width, 40), 60).convert("RGB"), quadrants(width, 40), 0.7)
    return encoded(picture.convert(mode), kinds.PNG)


def broken(data: bytes) -> Iterator[bytes]:
    chance = random.Random(4)
    for _ in range(150):
        at = chance.randrange(8, len(data))
        yield data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        yield data[:at]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
@pytest.mark.parametrize("width", [1, 61])
def test_pixels_and_facts(mode: str, width: int) -> None:
    data = grain(mode, width) if mode != "I;16" else encoded(Image.new(mode, (width, 40), 40_000), kinds.PNG)
    found = read(PngFile, data)
    assert found == read(PngImageFile, data)
    assert found != (None,)


def test_photographs_are_decoded_by_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would show that it still is faster."""
    asked: list[int] = []

    def load_read(self: PngImageFile, read_bytes: int) -> bytes:
        asked.append(read_bytes)
        return original(self, read_bytes)

    original = PngImageFile.load_read
    monkeypatch.setattr(PngImageFile, "load_read", load_read)
    for mode, by_ffmpeg in (("RGB", True), ("RGBA", True), ("P", False)):
        asked.clear()
        read(PngFile, grain(mode))
        assert (min(asked) == 1024 * 1024) is by_ffmpeg, mode


def test_whatever_is_broken() -> None:
    for data in broken(grain("RGB")):
        assert read(PngFile, data) == read(PngImageFile, data)


def test_exif_behind_the_pixels_turns_them(tmp_path: Path) -> None:
    data = encoded(stored(quadrants(300, 200), 6), kinds.PNG)
    assert data.endswith(_END)
    late = data.removesuffix(_END) + chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")) + _END
    image = produced(tmp_path, late, kinds.PNG).variants[VariantName.LARGE]
    assert image.size == (300, 200)
    assert close(corners(image), CORNERS)


def test_what_is_cut_off_is_corrupt(tmp_path: Path) -> None:
    data = grain("RGB")
    with pytest.raises(ProcessingFailed) as caught:
        produced(tmp_path, data[: len(data) // 2], kinds.PNG)
    assert caught.value.code is FailureCode.CORRUPT
    assert list((tmp_path / "variants").iterdir()) == []
