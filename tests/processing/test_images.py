import errno
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from processing import images, kinds
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import PICTURE_VARIANTS, Progress, Rendered, VariantName
from tests.processing.pictures import (
    ADOBE_RGB,
    CORNERS,
    DISPLAY_P3,
    FORMATS,
    WHITE,
    Colour,
    chunk,
    close,
    corners,
    deep_png,
    encoded,
    exif,
    grey_profile,
    ink_profile,
    label,
    produced,
    quadrants,
    rgb_profile,
    stored,
    swapping_profile,
    tiff,
    with_place,
)


def large(folder: Path, data: bytes, type_: FileType) -> Image.Image:
    return produced(folder, data, type_).variants[VariantName.LARGE]


def failure(folder: Path, data: bytes, type_: FileType, limits: Limits | None = None) -> ProcessingFailed:
    """What processing fails with, having made nothing."""
    with pytest.raises(ProcessingFailed) as caught:
        produced(folder, data, type_, limits=limits)
    assert list((folder / "variants").iterdir()) == []
    return caught.value


# ---------------------------------------------------------------- upright (see test_table, too)


@pytest.mark.parametrize("nonsense", [0, 9, 65535])
def test_orientations_that_do_not_exist(tmp_path: Path, nonsense: int) -> None:
    data = encoded(quadrants(300, 200), kinds.JPEG, exif=exif(nonsense))
    assert close(corners(large(tmp_path, data, kinds.JPEG)), CORNERS)


def test_compressed_tiff_is_turned_once_too(tmp_path: Path) -> None:
    data = encoded(stored(quadrants(300, 200), 6), kinds.TIFF, exif=exif(6), compression="tiff_lzw")
    image = large(tmp_path, data, kinds.TIFF)
    assert image.size == (300, 200)
    assert close(corners(image), CORNERS)


def test_only_exif_says_how_to_turn(tmp_path: Path) -> None:
    """Browsers don't read XMP, and who turns pixels forgets about it."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(quadrants(60, 40), kinds.JPEG, xmp=xmp)
    assert b"tiff:Orientation" in data
    image = large(tmp_path, data, kinds.JPEG)
    assert image.size == (60, 40)
    assert close(corners(image), CORNERS)


def test_large_original_is_decoded_at_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    load = Image.Image.load

    def recording(self: Image.Image) -> Any:
        decoded.append(self.size)
        return load(self)

    data = encoded(quadrants(3300, 2475), kinds.JPEG, exif=exif(6))
    monkeypatch.setattr(Image.Image, "load", recording)
    made = produced(tmp_path, data, kinds.JPEG)
    assert (1650, 1238) in decoded
    assert (3300, 2475) not in decoded
    assert (made.facts.width, made.facts.height) == (2475, 3300)


# ---------------------------------------------------------------- colours (see test_table, too)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_one_transparent_colour_of_a_png(tmp_path: Path, mode: str) -> None:
    picture = quadrants(48, 32, ((0, 0, 0), WHITE, WHITE, WHITE)).convert(mode)
    key = {"RGB": (0, 0, 0), "L": 0, "1": 0, "P": picture.getpixel((0, 0))}[mode]
    image = large(tmp_path, encoded(picture, kinds.PNG, transparency=key), kinds.PNG)
    assert image.mode == "RGBA"
    assert image.getchannel("A").getpixel((12, 8)) == 0
    assert image.getchannel("A").getpixel((36, 24)) == 255


def test_deep_grey_with_a_transparent_level(tmp_path: Path) -> None:
    grey = Image.new("L", (64, 64), 96)
    png = deep_png(grey, chunk(b"tRNS", b"\xff\xff"))
    assert close(corners(large(tmp_path, png, kinds.PNG)), ((96, 96, 96),) * 4)


def grey_tiff(layout: str, values: list[float], **options: int) -> bytes:
    """In a row, each value twenty pixels wide."""
    return tiff((20 * len(values), 20), 1, b"".join(struct.pack(layout, v) * 20 for v in values) * 20, **options)


@pytest.mark.parametrize(
    ("data", "greys"),
    [
        (grey_tiff("<H", [0, 65535], photometric=1), [0, 255]),
        (grey_tiff("<H", [0, 65535], photometric=0), [255, 0]),
        (grey_tiff("<B", [0, 255], photometric=0, bits=8), [255, 0]),
        (grey_tiff("<f", [0.5, 1.0], photometric=1, bits=32, sample_format=3), [128, 255]),
        (grey_tiff("<f", [100, 200], photometric=1, bits=32, sample_format=3), [100, 200]),
        (grey_tiff("<f", [0.5, math.inf], photometric=1, bits=32, sample_format=3), [128, 255]),
        (grey_tiff("<f", [-math.inf, 0.5], photometric=1, bits=32, sample_format=3), [0, 128]),
        (grey_tiff("<f", [0.5, -1.0], photometric=1, bits=32, sample_format=3), [128, 0]),
    ],
    ids=[
        *("16 bits", "16 bits from white", "8 bits from white", "parts of one", "parts of 255"),
        *("with infinity", "with minus infinity", "below black"),
    ],
)
def test_greys_by_what_they_count_from(tmp_path: Path, data: bytes, greys: list[int]) -> None:
    seen = corners(large(tmp_path, data, kinds.TIFF))
    assert close(seen, tuple((grey,) * 3 for grey in greys * 2), 6)


def test_colours_in_floating_point_are_not_read(tmp_path: Path) -> None:
    data = tiff((20, 20), 3, struct.pack("<f", 0.5) * 3 * 400, bits=32, sample_format=3)
    assert failure(tmp_path, data, kinds.TIFF).code is FailureCode.UNSUPPORTED


# ---------------------------------------------------------------- colour profiles


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_profile_is_applied(tmp_path: Path, mode: str) -> None:
    pure = ((255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255))
    data = encoded(quadrants(480, 320, pure).convert(mode), kinds.PNG, icc_profile=swapping_profile())
    for image in produced(tmp_path, data, kinds.PNG).variants.values():
        assert close(corners(image), (pure[1], pure[0], *pure[2:]), 16)


@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG, kinds.WEBP, kinds.AVIF, kinds.TIFF], ids=label)
@pytest.mark.parametrize(
    ("profile", "written", "meant"),
    [
        # How the three spaces name the same colours: those that sRGB has, computed from the primaries.
        (
            rgb_profile(DISPLAY_P3),
            ((234, 51, 35), (117, 251, 76), (0, 0, 245), (128, 128, 128)),
            ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)),
        ),
        (
            rgb_profile(ADOBE_RGB, gamma=2.2),
            ((219, 0, 0), (144, 255, 60), (0, 0, 250), (127, 127, 127)),
            ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)),
        ),
    ],
    ids=["Display P3", "Adobe RGB"],
)
def test_wide_colours(
    tmp_path: Path, type_: FileType, profile: bytes, written: tuple[Colour, ...], meant: tuple[Colour, ...]
) -> None:
    data = encoded(quadrants(80, 60, written), type_, icc_profile=profile, **LITTLE_LOSS.get(type_, {}))
    assert close(corners(large(tmp_path, data, type_)), meant, 6)


LITTLE_LOSS: Final[dict[FileType, dict[str, Any]]] = {
    kinds.JPEG: {"quality": 100, "subsampling": 0},
    kinds.WEBP: {"lossless": True},
    kinds.AVIF: {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG, kinds.TIFF], ids=label)
def test_grey_profile(tmp_path: Path, type_: FileType) -> None:
    data = encoded(Image.new("L", (60, 40), 55), type_, icc_profile=grey_profile(1.0))
    # A light of 55/255 looks like 128 in sRGB.
    assert close(corners(large(tmp_path, data, type_)), ((128, 128, 128),) * 4, 3)


@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.TIFF], ids=label)
def test_ink_profile(tmp_path: Path, type_: FileType) -> None:
    inks = Image.new("CMYK", (80, 60), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (0, 0, 40, 30))
    inks.paste((0, 0, 0, 255), (0, 30, 40, 60))
    image = large(tmp_path, encoded(inks, type_, icc_profile=ink_profile()), type_)
    assert close(corners(image), ((255, 0, 255), (255, 255, 255), (0, 0, 0), (255, 255, 255)), 8)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        ("RGB", b"not a profile"),
        ("RGB", swapping_profile()[:300]),
        ("RGB", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()),
        ("RGB", grey_profile(1.0)),
        ("CMYK", swapping_profile()),
    ],
    ids=["srgb", "broken", "cut short", "Lab for RGB", "grey for RGB", "RGB for CMYK"],
)
def test_profile_that_changes_nothing(tmp_path: Path, mode: str, profile: bytes) -> None:
    data = encoded(quadrants(480, 320).convert(mode), kinds.TIFF, icc_profile=profile)
    assert all(close(corners(image), CORNERS) for image in produced(tmp_path, data, kinds.TIFF).variants.values())


# ---------------------------------------------------------------- nothing else in the variants

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><secret>GPS here</secret></x:xmpmeta>'
# As Photoshop stores it: a resource 0x0404 in an APP13 segment or in TIFF's tag 34377, with a caption in it.
IPTC = b"8BIM\x04\x04\0\0\0\0\0\x13\x1c\x02\x78\0\x0eSomebody's tag\0"


@pytest.mark.parametrize("type_", [kinds.JPEG, kinds.PNG, kinds.WEBP, kinds.AVIF, kinds.TIFF], ids=label)
def test_no_metadata(tmp_path: Path, type_: FileType) -> None:
    tags = with_place(
        exif(1, DateTimeOriginal="2020:05:01 10:00:00"), ((48.0, 12.0, 30.0), "N"), ((16.0, 22.0, 0.0), "E")
    )
    tags[ExifTags.Base.Artist] = "Somebody"
    options: dict[str, Any] = {"exif": tags, "xmp": XMP}
    if type_ is kinds.JPEG:
        options["extra"] = b"\xff\xed" + struct.pack(">H", 2 + 14 + len(IPTC)) + b"Photoshop 3.0\0" + IPTC
    elif type_ is kinds.TIFF:
        options = {"tiffinfo": {700: XMP, 34377: IPTC, ExifTags.Base.Artist: "Somebody"}}
    elif type_ is kinds.PNG:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    data = encoded(quadrants(640, 480), type_, icc_profile=swapping_profile(), **options)
    assert b"Somebody" in data
    assert b"GPS here" in data
    variants = produced(tmp_path, data, type_).variants  # which looks at the parts of the files
    assert not any({"exif", "xmp", "icc_profile"} & set(image.info) for image in variants.values())
    for path in (tmp_path / "variants").iterdir():
        written = path.read_bytes()
        assert not any(word in written for word in (b"Exif", b"EXIF", b"XMP", b"ICCP", b"Somebody", b"GPS", b"8BIM"))


# ---------------------------------------------------------------- several pictures in one file


def test_jpeg_with_further_pictures(tmp_path: Path) -> None:
    buffer = io.BytesIO()  # as phones write it: the picture, and a depth map or a gain map
    quadrants(2000, 1000).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (500, 250))])
    made = produced(tmp_path, buffer.getvalue(), kinds.JPEG)
    assert made.variants[VariantName.LARGE].size == (1600, 800)
    assert close(corners(made.variants[VariantName.LARGE]), CORNERS)
    assert (made.facts.width, made.facts.height) == (2000, 1000)


@pytest.mark.parametrize(
    "index", [b"", b"II*\0\x08\0\0\0\xff\xff", b"\xff" * 60], ids=["none", "cut short", "nonsense"]
)
def test_broken_index_of_further_pictures(tmp_path: Path, index: bytes) -> None:
    segment = b"\xff\xe2" + struct.pack(">H", 6 + len(index)) + b"MPF\0" + index
    data = encoded(quadrants(60, 40), kinds.JPEG, extra=segment) + encoded(Image.new("L", (30, 20)), kinds.JPEG)
    assert close(corners(large(tmp_path, data, kinds.JPEG)), CORNERS)


def test_gain_map(tmp_path: Path) -> None:
    """Ultra HDR: the picture, by itself right for every screen, and behind it by how much to brighten it for some."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description hdrgm:Version="1.0"/></x:xmpmeta>'
    gain_map = encoded(Image.new("L", (15, 10), 255), kinds.JPEG)
    data = encoded(quadrants(60, 40), kinds.JPEG, xmp=xmp) + gain_map
    assert close(corners(large(tmp_path, data, kinds.JPEG)), CORNERS)


# ---------------------------------------------------------------- what can't be processed


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("type_", FORMATS, ids=label)
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_truncated(tmp_path: Path, type_: FileType, part: float) -> None:
    options = {"compression": "tiff_lzw"} if type_ is kinds.TIFF else {}
    data = encoded(Image.effect_noise((400, 300), 80).convert("RGB"), type_, **options)
    assert failure(tmp_path, data[: int(len(data) * part)], type_).code is FailureCode.CORRUPT


@pytest.mark.parametrize("type_", FORMATS, ids=label)
def test_another_format_than_identified_is_not_read(tmp_path: Path, type_: FileType) -> None:
    other = kinds.PNG if type_ is not kinds.PNG else kinds.JPEG
    assert failure(tmp_path, encoded(quadrants(40, 30), other), type_).code is FailureCode.CORRUPT


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
@pytest.mark.parametrize("type_", FORMATS, ids=label)
def test_nearly_nothing(tmp_path: Path, data: bytes, type_: FileType) -> None:
    assert failure(tmp_path, data, type_).code is FailureCode.CORRUPT


@pytest.mark.parametrize("type_", [kinds.PDF, kinds.MP4, kinds.MP3], ids=label)
def test_what_is_no_picture(tmp_path: Path, type_: FileType) -> None:
    assert failure(tmp_path, bytes(100), type_).code is FailureCode.UNSUPPORTED


def test_kinds_of_a_format_that_nobody_reads(tmp_path: Path) -> None:
    bmp = bytearray(encoded(quadrants(40, 30), kinds.BMP))
    bmp[30:34] = struct.pack("<I", 4)  # a JPEG within, which printers were to have
    assert failure(tmp_path, bytes(bmp), kinds.BMP).code is FailureCode.UNSUPPORTED


def test_bomb(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")
    caught = failure(tmp_path, data, kinds.PNG)
    assert caught.code is FailureCode.TOO_MANY_PIXELS
    assert "50000 x 50000" in caught.message


def test_long_comments_do_not_spoil_a_picture(tmp_path: Path) -> None:
    comment = PngInfo()
    comment.add_text("workflow", "x" * 2_000_000, zip=True)
    data = encoded(quadrants(60, 40), kinds.PNG, pnginfo=comment)
    assert close(corners(large(tmp_path, data, kinds.PNG)), CORNERS)


@pytest.mark.parametrize("type_", FORMATS, ids=label)
def test_the_limit_is_exact(tmp_path: Path, type_: FileType) -> None:
    data = encoded(quadrants(100, 80), type_)
    assert failure(tmp_path, data, type_, Limits(pixels=7999)).code is FailureCode.TOO_MANY_PIXELS
    (tmp_path / "variants").rmdir()
    assert len(produced(tmp_path, data, type_, limits=Limits(pixels=8000)).variants) == 4


def test_jpeg_that_claims_two_sizes(tmp_path: Path) -> None:
    small = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 10, 10) + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    data = encoded(quadrants(300, 300), kinds.JPEG)
    two = data[:2] + small + data[2:]
    assert failure(tmp_path, two, kinds.JPEG, Limits(pixels=1000)).code is FailureCode.TOO_MANY_PIXELS


class _Unreadable(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_what_the_machine_lacks_is_not_the_files_fault(tmp_path: Path) -> None:
    data = encoded(quadrants(40, 30), kinds.PNG)
    told: list[Rendered | Progress] = []
    with pytest.raises(OSError, match="Input/output error"):
        images.produce(_Unreadable(data), kinds.PNG, tmp_path, Limits(), told.append)
    assert told == []
    with pytest.raises(FileNotFoundError):
        images.produce(io.BytesIO(data), kinds.PNG, tmp_path / "missing", Limits(), told.append)
    assert told == [Progress(0)]


def test_variants_are_those_of_every_picture(tmp_path: Path) -> None:
    told: list[Rendered | Progress] = []
    images.produce(io.BytesIO(encoded(quadrants(40, 30), kinds.PNG)), kinds.PNG, tmp_path, Limits(), told.append)
    rendered = {each.name: each.digest for each in told if isinstance(each, Rendered)}
    assert rendered == {spec.name: spec.digest for spec in PICTURE_VARIANTS}
