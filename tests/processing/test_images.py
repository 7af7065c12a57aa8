import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from processing import kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.images import analyze, render
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import IMAGE_VARIANTS, Rendered, VariantName, VariantSpec
from tests.processing.pictures import (
    BLUE,
    CORNERS,
    FORMATS,
    GREEN,
    RED,
    WHITE,
    chunk,
    close,
    corners,
    encoded,
    exif,
    label,
    quadrants,
    stored,
    swapping_profile,
    with_place,
)

LIMITS = Limits()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path


def rendered(
    scratch: Path,
    data: bytes,
    type_: FileType,
    specs: tuple[VariantSpec, ...] = IMAGE_VARIANTS,
) -> dict[VariantName, Image.Image]:
    """Renders, checks that what is reported is what is there, and opens the results."""
    source = scratch / "source"
    source.write_bytes(data)
    results = render(source, type_, scratch / "out", specs, LIMITS)
    assert [result.name for result in results] == [spec.name for spec in specs]
    assert sorted((scratch / "out").iterdir()) == sorted(result.path for result in results)
    assert source.read_bytes() == data
    return {result.name: opened(result) for result in results}


def opened(result: Rendered) -> Image.Image:
    image = Image.open(result.path)
    image.load()
    assert (image.format, result.content_type) == ("WEBP", "image/webp")
    assert image.size == (result.width, result.height)
    assert result.path.stat().st_size == result.size_bytes
    return image


def sizes(images: dict[VariantName, Image.Image]) -> list[tuple[int, int]]:
    return [image.size for image in images.values()]


def failure(source: Path, type_: FileType, limits: Limits = LIMITS) -> ProcessingFailed:
    """What rendering fails with, having written nothing."""
    out = source.parent / "out"
    with pytest.raises(ProcessingFailed) as caught:
        render(source, type_, out, IMAGE_VARIANTS, limits)
    assert list(out.iterdir()) == []
    assert str(source) not in caught.value.message
    return caught.value


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
        ((1, 1), [(1, 1), (1, 1), (1, 1), (1, 1)]),
    ],
    ids=label,
)
@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG], ids=label)
def test_sizes(scratch: Path, type_: FileType, original: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert sizes(rendered(scratch, encoded(quadrants(*original), type_), type_)) == expected


def test_thumbnail_is_the_middle(scratch: Path) -> None:
    picture = Image.new("RGB", (900, 300), RED)
    picture.paste(GREEN, (300, 0, 600, 150))
    picture.paste(BLUE, (300, 150, 600, 300))
    images = rendered(scratch, encoded(picture, kinds.PNG), kinds.PNG)
    assert close(corners(images[VariantName.THUMBNAIL]), (GREEN, GREEN, BLUE, BLUE))
    assert close(corners(images[VariantName.SMALL]), (RED, RED, RED, RED))


def test_order_of_specs_does_not_matter(scratch: Path) -> None:
    data = encoded(quadrants(1000, 700), kinds.JPEG)
    assert sizes(rendered(scratch, data, kinds.JPEG, IMAGE_VARIANTS[::-1])) == [
        (1000, 700), (800, 560), (400, 280), (150, 150),
    ]  # fmt: skip


# ---------------------------------------------------------------- upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG, kinds.WEBP, kinds.AVIF, kinds.TIFF], ids=label)
def test_upright_exactly_once(scratch: Path, type_: FileType, orientation: int) -> None:
    data = encoded(stored(quadrants(960, 640), orientation), type_, exif=exif(orientation))
    images = rendered(scratch, data, type_)
    assert sizes(images) == [(150, 150), (400, 267), (800, 533), (960, 640)]
    assert all(close(corners(image), CORNERS) for image in images.values())
    facts = analyze(scratch / "source", type_, LIMITS)
    assert (facts.width, facts.height) == (960, 640)


@pytest.mark.parametrize("nonsense", [0, 9, 65535])
def test_orientations_that_do_not_exist(scratch: Path, nonsense: int) -> None:
    data = encoded(quadrants(300, 200), kinds.JPEG, exif=exif(nonsense))
    assert close(corners(rendered(scratch, data, kinds.JPEG)[VariantName.LARGE]), CORNERS)


def test_compressed_tiff_is_turned_once_too(scratch: Path) -> None:
    data = encoded(stored(quadrants(300, 200), 6), kinds.TIFF, exif=exif(6), compression="tiff_lzw")
    image = rendered(scratch, data, kinds.TIFF)[VariantName.LARGE]
    assert image.size == (300, 200)
    assert close(corners(image), CORNERS)


# ---------------------------------------------------------------- colours

GREYS = tuple((v, v, v) for v in (20, 90, 160, 240))


@pytest.mark.parametrize(
    ("type_", "mode"),
    [
        *((kinds.JPEG, mode) for mode in ("RGB", "CMYK")),
        *((kinds.PNG, mode) for mode in ("RGB", "RGBA", "P")),
        *((kinds.GIF, mode) for mode in ("P", "RGB")),
        *((kinds.WEBP, mode) for mode in ("RGB", "RGBA")),
        *((kinds.AVIF, mode) for mode in ("RGB", "RGBA")),
        *((kinds.TIFF, mode) for mode in ("RGB", "RGBA", "CMYK", "YCbCr", "P", "LAB")),
        *((kinds.BMP, mode) for mode in ("RGB", "P")),
    ],
    ids=label,
)
def test_colours_in_every_mode(scratch: Path, type_: FileType, mode: str) -> None:
    picture = quadrants(480, 320)
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    else:
        converted = picture.quantize(4) if mode == "P" else picture.convert(mode)
    assert converted is not None
    for image in rendered(scratch, encoded(converted, type_), type_).values():
        assert image.mode == "RGB"
        assert close(corners(image), CORNERS, 16)


@pytest.mark.parametrize(
    ("type_", "mode"),
    [
        *((kinds.JPEG, mode) for mode in ("L",)),
        *((kinds.PNG, mode) for mode in ("L", "LA", "I;16")),
        *((kinds.TIFF, mode) for mode in ("L", "LA", "I;16", "I;16B", "I", "F")),
        *((kinds.GIF, mode) for mode in ("L",)),
        *((kinds.BMP, mode) for mode in ("L",)),
    ],
    ids=label,
)
def test_greys_in_every_depth(scratch: Path, type_: FileType, mode: str) -> None:
    picture = quadrants(480, 320, GREYS).convert("L")
    if mode == "I;16B":
        data = encoded(Image.frombytes("I;16B", (480, 320), b"".join(bytes((v, v)) for v in picture.tobytes())), type_)
    elif mode in ("I;16", "I"):
        deep = Image.frombytes("I;16", (480, 320), b"".join(bytes((v, v)) for v in picture.tobytes()))
        data = encoded(deep.convert(mode) if mode == "I" else deep, type_)
    elif mode == "F":
        data = encoded(picture.convert("F").point(lambda value: value * (1 / 255) + 0), type_)
    else:
        data = encoded(picture.convert(mode), type_)
    assert all(close(corners(image), GREYS) for image in rendered(scratch, data, type_).values())


def test_black_and_white(scratch: Path) -> None:
    picture = quadrants(480, 320, ((0, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 0))).convert("1")
    image = rendered(scratch, encoded(picture, kinds.PNG), kinds.PNG)[VariantName.SMALL]
    assert close(corners(image), ((0, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 0)))


def test_sixteen_bits_a_channel(scratch: Path) -> None:
    rows = b"".join(
        b"\0" + b"".join(struct.pack(">HHH", *(v * 257 for v in CORNERS[(y >= 16) * 2 + (x >= 24)])) for x in range(48))
        for y in range(32)
    )
    header = struct.pack(">IIBBBBB", 48, 32, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert close(corners(rendered(scratch, png, kinds.PNG)[VariantName.LARGE]), CORNERS)


@pytest.mark.parametrize("type_", [kinds.PNG, kinds.WEBP, kinds.AVIF, kinds.TIFF, kinds.GIF], ids=label)
def test_transparency_stays(scratch: Path, type_: FileType) -> None:
    picture = quadrants(480, 320).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 240, 160))
    for image in rendered(scratch, encoded(picture, type_), type_).values():
        assert image.mode == "RGBA"
        alpha = image.getchannel("A")
        assert alpha.getpixel((image.width // 4, image.height // 4)) == 0
        assert alpha.getpixel((image.width * 3 // 4, image.height // 4)) == 255
        assert close(corners(image)[1:], CORNERS[1:])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_one_transparent_colour_of_a_png(scratch: Path, mode: str) -> None:
    picture = quadrants(480, 320, ((0, 0, 0), WHITE, WHITE, WHITE)).convert(mode)
    key = {"RGB": (0, 0, 0), "L": 0, "1": 0, "P": picture.getpixel((0, 0))}[mode]
    image = rendered(scratch, encoded(picture, kinds.PNG, transparency=key), kinds.PNG)[VariantName.SMALL]
    assert image.mode == "RGBA"
    assert image.getchannel("A").getpixel((100, 66)) == 0
    assert image.getchannel("A").getpixel((300, 200)) == 255


def test_deep_grey_with_a_transparent_level(scratch: Path) -> None:
    rows = (b"\0" + b"\x60\x60" * 64) * 64
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", b"\xff\xff") + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip
    assert close(corners(rendered(scratch, png, kinds.PNG)[VariantName.SMALL]), ((96, 96, 96),) * 4)


# ---------------------------------------------------------------- colour profiles


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_profile_is_applied(scratch: Path, mode: str) -> None:
    pure = ((255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255))
    data = encoded(quadrants(480, 320, pure).convert(mode), kinds.PNG, icc_profile=swapping_profile())
    for image in rendered(scratch, data, kinds.PNG).values():
        assert close(corners(image), (pure[1], pure[0], *pure[2:]), 16)


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"not a profile",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["srgb", "broken", "of another kind"],
)
def test_profile_that_changes_nothing(scratch: Path, profile: bytes) -> None:
    data = encoded(quadrants(480, 320), kinds.PNG, icc_profile=profile)
    assert all(close(corners(image), CORNERS) for image in rendered(scratch, data, kinds.PNG).values())


# ---------------------------------------------------------------- nothing else in the variants

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><secret>GPS here</secret></x:xmpmeta>'


@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG, kinds.WEBP, kinds.AVIF, kinds.TIFF], ids=label)
def test_no_metadata(scratch: Path, type_: FileType) -> None:
    tags = with_place(
        exif(1, DateTimeOriginal="2020:05:01 10:00:00"), ((48.0, 12.0, 30.0), "N"), ((16.0, 22.0, 0.0), "E")
    )
    tags[ExifTags.Base.Artist] = "Somebody"
    options: dict[str, Any] = {"exif": tags, "xmp": XMP}
    if type_ is kinds.TIFF:
        options = {"tiffinfo": {700: XMP, ExifTags.Base.Artist: "Somebody"}}
    elif type_ is kinds.PNG:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    data = encoded(quadrants(640, 480), type_, icc_profile=swapping_profile(), **options)
    assert b"Somebody" in data
    assert b"GPS here" in data
    for image in rendered(scratch, data, type_).values():
        assert not {"exif", "xmp", "icc_profile"} & set(image.info)
        assert dict(image.getexif()) == {}
    for path in (scratch / "out").iterdir():
        written = path.read_bytes()
        assert not any(word in written for word in (b"EXIF", b"XMP ", b"ICCP", b"Somebody", b"GPS", b"VP8X"))


# ---------------------------------------------------------------- animated, and several pictures in one file


@pytest.mark.parametrize("type_", [kinds.GIF, kinds.WEBP, kinds.PNG, kinds.AVIF, kinds.TIFF], ids=label)
def test_first_frame(scratch: Path, type_: FileType) -> None:
    later = Image.new("RGB", (480, 320), (0, 0, 0))
    data = encoded(quadrants(480, 320), type_, save_all=True, append_images=[later, later])
    assert all(close(corners(image), CORNERS, 16) for image in rendered(scratch, data, type_).values())


def test_jpeg_with_further_pictures(scratch: Path) -> None:
    buffer = io.BytesIO()  # as phones write it: the picture, and a depth map or a gain map
    quadrants(2000, 1000).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (500, 250))])
    images = rendered(scratch, buffer.getvalue(), kinds.JPEG)
    assert sizes(images) == [(150, 150), (400, 200), (800, 400), (1600, 800)]
    assert close(corners(images[VariantName.LARGE]), CORNERS)


# ---------------------------------------------------------------- what can't be processed


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("type_", FORMATS, ids=label)
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_truncated(scratch: Path, type_: FileType, part: float) -> None:
    options = {"compression": "tiff_lzw"} if type_ is kinds.TIFF else {}
    data = encoded(Image.effect_noise((400, 300), 80).convert("RGB"), type_, **options)
    (scratch / "source").write_bytes(data[: int(len(data) * part)])
    assert failure(scratch / "source", type_).code is FailureCode.CORRUPT


@pytest.mark.parametrize("type_", FORMATS, ids=label)
def test_another_format_than_identified_is_not_read(scratch: Path, type_: FileType) -> None:
    other = kinds.PNG if type_ is not kinds.PNG else kinds.JPEG
    (scratch / "source").write_bytes(encoded(quadrants(40, 30), other))
    assert failure(scratch / "source", type_).code is FailureCode.CORRUPT


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_nearly_nothing(scratch: Path, data: bytes) -> None:
    (scratch / "source").write_bytes(data)
    assert failure(scratch / "source", kinds.PNG).code is FailureCode.CORRUPT
    with pytest.raises(ProcessingFailed) as caught:
        analyze(scratch / "source", kinds.PNG, LIMITS)
    assert caught.value.code is FailureCode.CORRUPT


@pytest.mark.parametrize("type_", [kinds.HEIC, kinds.HEIF, kinds.PDF, kinds.MP4, kinds.MP3], ids=label)
def test_unsupported(scratch: Path, type_: FileType) -> None:
    (scratch / "source").write_bytes(bytes(100))
    assert failure(scratch / "source", type_).code is FailureCode.UNSUPPORTED
    with pytest.raises(ProcessingFailed) as caught:
        analyze(scratch / "source", type_, LIMITS)
    assert caught.value.code is FailureCode.UNSUPPORTED


def test_bomb(scratch: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")
    (scratch / "source").write_bytes(data)
    caught = failure(scratch / "source", kinds.PNG)
    assert caught.code is FailureCode.TOO_MANY_PIXELS
    assert "50000 x 50000" in caught.message
    with pytest.raises(ProcessingFailed) as analyzed:
        analyze(scratch / "source", kinds.PNG, LIMITS)
    assert analyzed.value.code is FailureCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("type_", FORMATS, ids=label)
def test_the_limit_is_exact(scratch: Path, type_: FileType) -> None:
    (scratch / "source").write_bytes(encoded(quadrants(100, 80), type_))
    assert failure(scratch / "source", type_, Limits(pixels=7999)).code is FailureCode.TOO_MANY_PIXELS
    assert len(render(scratch / "source", type_, scratch / "out", IMAGE_VARIANTS, Limits(pixels=8000))) == 4


def test_jpeg_that_claims_two_sizes(scratch: Path) -> None:
    small = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 10, 10) + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    data = bytearray(encoded(quadrants(300, 300), kinds.JPEG))
    (scratch / "source").write_bytes(bytes(data[:2]) + small + bytes(data[2:]))
    assert failure(scratch / "source", kinds.JPEG, Limits(pixels=1000)).code is FailureCode.TOO_MANY_PIXELS


def test_what_the_machine_lacks_is_not_the_files_fault(scratch: Path) -> None:
    source = scratch / "source"
    with pytest.raises(FileNotFoundError):
        analyze(source, kinds.PNG, LIMITS)
    source.write_bytes(encoded(quadrants(40, 30), kinds.PNG))
    with pytest.raises(FileNotFoundError):
        render(source, kinds.PNG, scratch / "missing", IMAGE_VARIANTS, LIMITS)


def test_large_original_is_decoded_at_reduced_size(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    load = Image.Image.load

    def recording(self: Image.Image) -> Any:
        decoded.append(self.size)
        return load(self)

    monkeypatch.setattr(Image.Image, "load", recording)
    rendered(scratch, encoded(quadrants(3300, 2475), kinds.JPEG, exif=exif(6)), kinds.JPEG)
    assert (1650, 1238) in decoded
