import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from processing import documents, kinds, pipeline
from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits
from processing.variants import Facts, Progress, Rendered
from tests.processing.pdffiles import deflated, document, encrypted, pdf, quadrants, stream
from tests.processing.pictures import BLUE, CORNERS, GREEN, RED, WHITE, Colour, close, corners

CYAN = (0, 255, 255)
PAPER = (255, 255, 255)


class Produced:
    """What became of one document."""

    def __init__(self, folder: Path, data: bytes, limits: Limits) -> None:
        source, self.into = folder / "source", folder / "out"
        source.write_bytes(data)
        self.into.mkdir()
        self.told: list[Rendered | Progress] = []
        self.facts: Facts = pipeline.produce(source, kinds.PDF, self.into, limits, self.told.append)

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {each.name: (each.width, each.height) for each in self.told if isinstance(each, Rendered)}

    def colours(self, name: str = "LARGE") -> list[Colour]:
        (path,) = (each.path for each in self.told if isinstance(each, Rendered) and each.name == name)
        with Image.open(path) as picture:
            return corners(picture)


Produce = Callable[..., Produced]


@pytest.fixture
def produce(tmp_path: Path) -> Produce:
    def it(data: bytes, limits: Limits = Limits()) -> Produced:  # noqa: B008
        return Produced(tmp_path, data, limits)

    return it


# ---------------------------------------------------------------- the first page


def test_first_page(produce: Produce) -> None:
    made = produce(document())
    assert made.told[0] == Progress(0)
    assert made.sizes() == {"THUMBNAIL": (150, 150), "SMALL": (400, 200), "MEDIUM": (800, 400), "LARGE": (1600, 800)}
    for name in made.sizes():
        assert close(made.colours(name), CORNERS)
    assert made.facts.page_count == 1
    assert (made.facts.width, made.facts.height, made.facts.duration, made.facts.taken_at) == (None,) * 4
    assert made.facts.looks is not None


@pytest.mark.parametrize(
    ("angle", "size", "expected"),
    [
        (0, (400, 200), (RED, GREEN, BLUE, WHITE)),
        (90, (200, 400), (BLUE, RED, WHITE, GREEN)),
        (180, (400, 200), (WHITE, BLUE, GREEN, RED)),
        (270, (200, 400), (GREEN, WHITE, RED, BLUE)),
        (-90, (200, 400), (GREEN, WHITE, RED, BLUE)),
    ],
)
def test_rotation(produce: Produce, angle: int, size: tuple[int, int], expected: tuple[Colour, ...]) -> None:
    made = produce(document(page=b"/Rotate %d" % angle))
    assert made.sizes()["SMALL"] == size
    assert close(made.colours(), expected)


def test_crop_box(produce: Produce) -> None:
    made = produce(document(page=b"/CropBox [100 0 200 100]"))
    assert made.sizes()["LARGE"] == (1600, 1600)
    assert close(made.colours(), (GREEN, GREEN, WHITE, WHITE))


def test_paper_is_white(produce: Produce) -> None:
    assert produce(document(b"")).colours() == [PAPER] * 4


def test_a_page_smaller_than_a_stamp_is_drawn_large(produce: Produce) -> None:
    made = produce(document(quadrants(2, 1), box=b"0 0 2 1"))
    assert made.sizes()["LARGE"] == (1600, 800)
    assert close(made.colours(), CORNERS)


MARK = stream(b"0 1 1 rg 0 0 100 50 re f", b"/Type /XObject /Subtype /Form /BBox [0 0 100 50]")


def annotated(subtype: bytes, entries: bytes = b"") -> bytes:
    annotation = b"<</Type /Annot /Subtype /%s /Rect [0 0 100 50] /Contents (a note) /AP <</N 100 0 R>> %s>>"
    return document(page=b"/Annots [101 0 R]", more={100: MARK, 101: annotation % (subtype, entries)})


def test_annotations_are_drawn(produce: Produce) -> None:
    assert close(produce(annotated(b"Stamp")).colours(), (RED, GREEN, CYAN, WHITE))


@pytest.mark.parametrize(("subtype", "entries"), [(b"Popup", b""), (b"Stamp", b"/F 2")], ids=["popup", "hidden"])
def test_what_a_viewer_hides_is_not_drawn(produce: Produce, subtype: bytes, entries: bytes) -> None:
    assert close(produce(annotated(subtype, entries)).colours(), CORNERS)


def test_what_was_filled_in_is_drawn(produce: Produce) -> None:
    data = annotated(b"Widget", b"/FT /Tx /T (name) /V (Anna)")
    form = data.replace(b"/Catalog", b"/Catalog /AcroForm <</Fields [101 0 R]>>", 1)
    assert close(produce(form).colours(), (RED, GREEN, CYAN, WHITE))


# ---------------------------------------------------------------- facts


@pytest.mark.parametrize("pages", [2, 40])
def test_page_count(produce: Produce, pages: int) -> None:
    assert produce(document(pages=pages)).facts.page_count == pages


def test_tags(produce: Produce) -> None:
    made = produce(
        document(
            info=b"/Title (Gro\\337mutters Rezepte) /Author <FEFF0041006E006E0061> /Subject () /Creator (Scanner)"
            b" /CreationDate (D:20240501123000+02'00') /ModDate (D:2024) /Unheard (of)"
        )
    )
    assert made.facts.tags == {
        "Title": "Großmutters Rezepte",
        "Author": "Anna",
        "Creator": "Scanner",
        "CreationDate": "2024-05-01T12:30:00+02:00",
        "ModDate": "D:2024",
    }


def test_nonsense_in_tags_is_made_safe(produce: Produce) -> None:
    made = produce(
        document(
            info=b"/Title (\\000a\\007b" + b"x" * 5000 + b") /Author <FEFF0041D83D> /Subject [1 2] /Creator 7 0 R"
            b" /Producer (\\001) /CreationDate (D:99999999999999Z)"
        )
    )
    json.dumps(made.facts.tags, allow_nan=False).encode()
    title = made.facts.tags["Title"]
    assert isinstance(title, str)
    assert title.startswith("abx")
    assert len(title) <= 1000
    assert not {"Author", "Subject", "Creator", "Producer"} & set(made.facts.tags)


# ---------------------------------------------------------------- locked, damaged, hostile


def test_encrypted_says_so(produce: Produce, tmp_path: Path) -> None:
    with pytest.raises(ProcessingFailed, match="encrypted") as failed:
        produce(encrypted(b"secret"))
    assert failed.value.code == FailureCode.UNSUPPORTED
    assert list((tmp_path / "out").iterdir()) == []


def test_encrypted_without_a_password_to_open_it(produce: Produce) -> None:
    """Its owner's password guards printing and copying alone."""
    assert close(produce(encrypted(b"")).colours(), CORNERS)


def test_no_more_pages_than_the_limit(produce: Produce, tmp_path: Path) -> None:
    with pytest.raises(ProcessingFailed, match="5 pages; at most 4") as failed:
        produce(document(pages=5), Limits(pages=4))
    assert failed.value.code == FailureCode.UNSUPPORTED
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (b"0 0 1000000000 1", (1600, 1)),
        (b"0 0 1 1000000000", (1, 1600)),
        (b"0 0 1000000000 1000000000", (1600, 1600)),
        (b"0 0 0.0001 0.0001", (1600, 1600)),
        # PDFium takes US letter for what is no box at all.
        (b"0 0 0 0", (1236, 1600)),
        (b"", (1236, 1600)),
        (b"/a /b /c /d", (1236, 1600)),
        (b"0 0 99999999999999999999999999999999999999 10", (1236, 1600)),
    ],
)
def test_any_box_makes_a_picture_of_bounded_size(produce: Produce, box: bytes, size: tuple[int, int]) -> None:
    assert produce(document(b"", box=box)).sizes()["LARGE"] == size


def catalogued(objects: Mapping[int, bytes]) -> bytes:
    return pdf({1: b"<</Type /Catalog /Pages 2 0 R>>", **objects})


KIDS = b"<</Type /Pages /Count %s /Kids [%s] /MediaBox [0 0 9 9]>>"
NO_PAGE = {
    "no catalog": pdf({1: b"null"}),
    "no pages": document(pages=0),
    "its own parent": catalogued({2: KIDS % (b"1", b"2 0 R")}),
    "a circle": catalogued({2: KIDS % (b"1", b"3 0 R"), 3: KIDS % (b"1", b"2 0 R")}),
    "a count without pages": catalogued({2: KIDS % (b"1000000000", b"")}),
    "a negative count": catalogued({2: KIDS % (b"-1", b"")}),
    "a number for a page": catalogued({2: KIDS % (b"1", b"7")}),
    "cut short": document()[:-150],
    "cut shorter": document()[:200],
    "nothing": b"",
    "another format": b"GIF89a" + bytes(100),
}


@pytest.mark.parametrize("data", NO_PAGE.values(), ids=NO_PAGE)
def test_without_a_page(produce: Produce, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ProcessingFailed) as failed:
        produce(data)
    assert failed.value.code == FailureCode.CORRUPT
    assert list((tmp_path / "out").iterdir()) == []


def test_a_locked_document_is_not_held_against_the_next(tmp_path: Path) -> None:
    for data, code in ((encrypted(b"secret"), FailureCode.UNSUPPORTED), (NO_PAGE["no pages"], FailureCode.CORRUPT)):
        with pytest.raises(ProcessingFailed) as failed:
            documents.produce(io.BytesIO(data), kinds.PDF, tmp_path, Limits(), lambda _: None)
        assert failed.value.code == code


def looping_form() -> bytes:
    """A drawing that draws itself."""
    resources = b"/Resources <</XObject <</X 100 0 R>>>>"
    form = stream(b"/X Do", b"/Type /XObject /Subtype /Form /BBox [0 0 200 100] " + resources)
    return document(quadrants(200, 100) + b"/X Do", page=resources, more={100: form})


def test_drawings_that_draw_themselves_end(produce: Produce) -> None:
    assert close(produce(looping_form()).colours(), CORNERS)


def test_a_table_that_is_wrong_is_made_anew(produce: Produce) -> None:
    assert close(produce(document().replace(b"startxref\n", b"startxref\n9")).colours(), CORNERS)


def test_a_page_that_inflates_to_a_hundred_times_its_size(produce: Produce) -> None:
    """16 MiB of blanks in 16 KiB."""
    data = document().replace(stream(quadrants(200, 100)), deflated(quadrants(200, 100) + b" " * 2**24))
    assert close(produce(data).colours(), CORNERS)
