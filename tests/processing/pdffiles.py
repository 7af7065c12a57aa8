"""PDF documents for the tests, written by hand: whatever is wrong with one is wrong on purpose."""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Final

from tests.processing.pictures import CORNERS, Colour

# ISO 32000-1, algorithm 2: what passwords are filled up with.
_PADDING: Final = bytes.fromhex("28BF4E5E4E758A41 64004E56FFFA0108 2E2E00B6D0683E80 2F0CA9FE6453697A")
_FILE_ID: Final = bytes(16)
_PERMISSIONS: Final = -4  # everything is allowed


def pdf(objects: Mapping[int, bytes], *, root: int = 1, trailer: bytes = b"") -> bytes:
    """A file of these objects by number, with a valid table of where each is."""
    body = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
    offsets = {}
    for number, content in objects.items():
        offsets[number] = len(body)
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    count = max(objects) + 1
    entries = [
        b"%010d 00000 n \n" % offsets[number] if number in offsets else b"0000000000 65535 f \n"
        for number in range(count)
    ]
    table = b"xref\n0 %d\n" % count + b"".join(entries)
    end = b"trailer\n<</Size %d /Root %d 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (count, root, trailer, len(body))
    return body + table + end


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d %s>>\nstream\n%s\nendstream" % (len(content), entries, content)


def deflated(content: bytes, entries: bytes = b"") -> bytes:
    return stream(zlib.compress(content, 9), b"/Filter /FlateDecode " + entries)


def quadrants(width: float, height: float, colours: tuple[Colour, ...] = CORNERS) -> bytes:
    """Page content: four rectangles of known colours. The origin of a page is at its bottom left."""
    places = ((0, height / 2), (width / 2, height / 2), (0, 0), (width / 2, 0))
    return b"".join(
        b"%f %f %f rg %f %f %f %f re f\n" % (*(channel / 255 for channel in colour), *place, width / 2, height / 2)
        for colour, place in zip(colours, places, strict=True)
    )


def document(
    content: bytes | None = None,
    *,
    pages: int = 1,
    box: bytes = b"0 0 200 100",
    page: bytes = b"",
    info: bytes = b"",
    more: Mapping[int, bytes] | None = None,
) -> bytes:
    """`content` is drawn on each page; `page` are further entries of each, `info` those of the document information,
    `more` further objects, from 100 on."""
    kids = b" ".join([b"%d 0 R" % number for number in range(10, 10 + pages)])
    return pdf(
        {
            1: b"<</Type /Catalog /Pages 2 0 R>>",
            2: b"<</Type /Pages /Count %d /Kids [%s] /MediaBox [%s] >>" % (pages, kids, box),
            3: stream(quadrants(200, 100) if content is None else content),
            4: b"<<%s>>" % info,
            **{10 + at: b"<</Type /Page /Parent 2 0 R /Contents 3 0 R %s>>" % page for at in range(pages)},
            **(more or {}),
        },
        trailer=b"/Info 4 0 R",
    )


def encrypted(password: bytes) -> bytes:
    """As of PDF 1.1 (RC4 of 40 bits), to be opened with `password`, which may be empty."""
    filled = (password + _PADDING)[:32]
    owner = _rc4(hashlib.md5((b"owner" + _PADDING)[:32]).digest()[:5], filled)
    permissions = _PERMISSIONS.to_bytes(4, "little", signed=True)
    key = hashlib.md5(filled + owner + permissions + _FILE_ID).digest()[:5]
    content_key = hashlib.md5(key + (3).to_bytes(3, "little") + bytes(2)).digest()[:10]  # of object 3, generation 0
    rights = b"<</Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P %d>>" % (
        owner.hex().encode(),
        _rc4(key, _PADDING).hex().encode(),
        _PERMISSIONS,
    )
    return pdf(
        {
            1: b"<</Type /Catalog /Pages 2 0 R>>",
            2: b"<</Type /Pages /Count 1 /Kids [10 0 R] /MediaBox [0 0 200 100]>>",
            3: stream(_rc4(content_key, quadrants(200, 100))),
            10: b"<</Type /Page /Parent 2 0 R /Contents 3 0 R>>",
        },
        trailer=b"/ID [<%s> <%s>] /Encrypt %s" % (*[_FILE_ID.hex().encode()] * 2, rights),
    )


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    result = bytearray()
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        result.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(result)
