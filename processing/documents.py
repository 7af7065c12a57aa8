"""PDF documents: how many pages, what they say of themselves, and the first page as a picture."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import pypdfium2
from PIL import Image
from pypdfium2 import raw

from processing import renditions, tags
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import Limits
from processing.variants import JSON, PICTURE_VARIANTS, Facts, Progress, Tell

# A page has no pixels of its own: it is drawn as large as the largest variant, whatever size in print it claims.
_LONG_SIDE: Final = max(max(spec.width, spec.height) for spec in PICTURE_VARIANTS)
_PAPER: Final = (255, 255, 255, 255)

_LOCKED: Final = (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY)


def produce(file: BinaryIO, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002, ARG001
    """Counts the pages, reads the title and so on, and makes pictures of the first page in the folder `into`.

    Width and height stay None: a page is measured in millimetres. Raises ProcessingFailed: UNSUPPORTED where it can't
    be read without a password or has too many pages, CORRUPT.
    """
    with _opened(file) as document:
        page_count = _page_count(document, limits)
        written = _tags(document)
        tell(Progress(0))
        picture = _first_page(document)
    looks = renditions.render(picture, picture.size, PICTURE_VARIANTS, into, tell)
    return Facts(page_count=page_count, tags=written, looks=looks)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[pypdfium2.PdfDocument]:
    # From the file rather than from bytes or a path: PDFium reads what it needs, of a file that we have open already.
    _forget_the_last_failure()
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if error.err_code in _LOCKED:
            message = "The document is encrypted: it can't be read without its password."
            raise ProcessingFailed(FailureCode.UNSUPPORTED, message) from error
        raise _damaged() from error
    try:
        yield document
    finally:
        document.close()


def _forget_the_last_failure() -> None:
    """PDFium doesn't say of every broken file what is wrong: it would be what was wrong with the one before."""
    raw.FPDF_LoadMemDocument(b"?", 1, None)


def _page_count(document: pypdfium2.PdfDocument, limits: Limits) -> int:
    count = len(document)
    if count > limits.pages:
        message = f"The document has {count:,} pages; at most {limits.pages:,} can be processed."
        raise ProcessingFailed(FailureCode.UNSUPPORTED, message)
    if count < 1:
        raise _damaged()
    return count


def _first_page(document: pypdfium2.PdfDocument) -> Image.Image:
    """Upright, cropped as its viewers crop it, with its annotations, on white paper."""
    try:
        document.init_forms()  # what was filled in is drawn as well; scripts aren't run: this PDFium knows none
        page = document[0]
        longest = max(page.get_size())  # in points, as displayed
        if not 0 < longest < math.inf:
            raise _damaged()
        # Sides are rounded up: half a pixel less makes the longer one what it should be.
        bitmap = page.render((_LONG_SIDE - 0.5) / longest, fill_color=_PAPER, rev_byteorder=True)
        picture: Image.Image = bitmap.to_pil()
        return picture.copy()  # the bitmap's own memory goes with the document
    except pypdfium2.PdfiumError as error:
        raise _damaged() from error


def _tags(document: pypdfium2.PdfDocument) -> dict[str, JSON]:
    """The document information dictionary (ISO 32000-1, 14.3.3) by its own names."""
    written: dict[str, JSON] = {}
    for name in document.METADATA_KEYS:
        with suppress(UnicodeDecodeError):  # half a character
            value = document.get_metadata_value(name)
            if text := tags.clean(_iso_8601(value) if name.endswith("Date") else value):
                written[name] = text
    return written


def _iso_8601(written: str) -> str:
    """A PDF's date (ISO 32000-1, 7.9.4), D:20240501120000+02'00', as everybody else writes it; others as they are."""
    parts = re.match(r"D:(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:([+-]\d\d)'(\d\d)|(Z))?", written)
    if parts is None:
        return written
    year, month, day, hour, minute, second, hours, minutes, utc = parts.groups()
    offset = f"{hours}:{minutes}" if hours else utc or ""
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}{offset}"


def _damaged() -> ProcessingFailed:
    return ProcessingFailed(FailureCode.CORRUPT, "The document is damaged or incomplete.")
