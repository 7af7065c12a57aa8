"""Every format in every mode and orientation comes out upright, in its colours, and bare of all that is no picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image, ImageCms

from processing import kinds
from processing.kinds import FileType
from processing.variants import PICTURE_VARIANTS, VariantName
from tests.processing.pictures import (
    CORNERS,
    chunk,
    close,
    corners,
    deep_png,
    deep_tiff,
    encoded,
    exif,
    label,
    produced,
    quadrants,
    stored,
)

# A tenth of the real ones: the same steps, on a hundredth of the pixels.
SPECS: Final = tuple(replace(spec, width=spec.width // 10, height=spec.height // 10) for spec in PICTURE_VARIANTS)
SIZE: Final = (200, 150)
SIZES: Final = {
    VariantName.THUMBNAIL: (15, 15),
    VariantName.SMALL: (40, 30),
    VariantName.MEDIUM: (80, 60),
    VariantName.LARGE: (160, 120),
}

GREYS: Final = tuple((v, v, v) for v in (20, 90, 160, 240))
BLACK_AND_WHITE: Final = ((0, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 0))

GREY: Final = ("L", "LA", "I;16", "I;16B", "I", "F")

# The modes that a file may have its pixels in, in Pillow's names; "16" and "clear" by hand, below.
TABLE: Final = {
    kinds.JPEG: ("RGB", "L", "CMYK"),
    kinds.PNG: ("RGB", "RGBA", "P", "P clear", "L", "LA", "1", "I;16", "L 16", "LA 16", "RGB 16", "RGBA 16"),
    kinds.WEBP: ("RGB", "RGBA", "RGBA clear"),
    kinds.AVIF: ("RGB", "RGBA", "L", "RGBA clear"),
    kinds.TIFF: (
        *("RGB", "RGBA", "RGBA clear", "CMYK", "YCbCr", "LAB", "P", "L", "LA", "1"),
        *("I;16", "I;16B", "I", "F", "RGB 16", "RGBA 16"),
    ),
    kinds.GIF: ("RGB", "P", "RGBA clear", "L", "1"),
    kinds.BMP: ("RGB", "RGBA", "P", "L", "1"),
}
TURNED: Final = (kinds.JPEG, kinds.PNG, kinds.WEBP, kinds.AVIF, kinds.TIFF)


@pytest.mark.parametrize(
    ("type_", "mode", "orientation"),
    [
        (type_, mode, orientation)
        for type_, modes in TABLE.items()
        for mode in modes
        for orientation in (range(1, 9) if type_ in TURNED else (1,))
    ],
    ids=label,
)
def test_table(tmp_path: Path, type_: FileType, mode: str, orientation: int) -> None:
    layout, _, extra = mode.partition(" ")
    colours = BLACK_AND_WHITE if layout == "1" else GREYS if layout in GREY else CORNERS
    upright = quadrants(*SIZE, colours)
    if extra == "clear":
        upright.putalpha(quadrants(*SIZE, ((255,) * 3, (0,) * 3, (255,) * 3, (255,) * 3)).convert("L"))
    data = written(stored(upright, orientation), type_, layout, extra, orientation)
    made = produced(tmp_path, data, type_, SPECS)
    assert (made.facts.width, made.facts.height) == SIZE
    assert made.sizes == SIZES
    for image in made.variants.values():
        assert image.mode == ("RGBA" if extra == "clear" else "RGB")
        assert alphas(image) == ([255, 0, 255, 255] if extra == "clear" else [255] * 4)
        seen = [index for index, alpha in enumerate(alphas(image)) if alpha]
        assert close([corners(image)[i] for i in seen], tuple(colours[i] for i in seen), 16)


def written(picture: Image.Image, type_: FileType, layout: str, extra: str, orientation: int) -> bytes:
    if extra == "16":
        if type_ is kinds.TIFF:
            return deep_tiff(picture.convert(layout), orientation)
        return deep_png(picture.convert(layout), chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0")))
    options: dict[str, Any] = {"exif": exif(orientation)} if type_ in TURNED else {}
    return encoded(in_mode(picture, layout), type_, **options)


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "P":
        return picture.quantize(5, Image.Quantize.FASTOCTREE if picture.mode == "RGBA" else None)
    if mode == "LAB":
        return converted_to_lab(picture)
    if mode == "F":
        return picture.convert("L").convert("F").point(lambda value: value * (1 / 255) + 0)
    if mode in ("I;16", "I;16B", "I"):
        doubled = b"".join(bytes((v, v)) for v in picture.convert("L").tobytes())
        deep = Image.frombytes("I;16B" if mode == "I;16B" else "I;16", picture.size, doubled)
        return deep.convert("I") if mode == "I" else deep
    return picture.convert(mode)


def converted_to_lab(picture: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    assert converted is not None
    return converted


def alphas(image: Image.Image) -> list[int]:
    alpha = image.convert("RGBA").getchannel("A").convert("RGB")
    return [red for red, _, _ in corners(alpha)]
