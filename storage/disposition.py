"""The Content-Disposition header (RFC 6266), for names that people gave their files."""

import re
from functools import lru_cache
from urllib.parse import quote

MAX_FILENAME_CHARACTERS = 150  # 4 bytes each, percent-encoded twice in a URL: stays below the 8 KB that proxies allow

# Controls (a line break would end the header), lone surrogates (not encodable), path separators, and the marks that
# turn the reading direction, with which a name ending in `gpj.exe` shows as ending in `exe.jpg`.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff/\\\\]")
_TOKEN = re.compile(r"[A-Za-z0-9 ._()\[\],;=+@!#$&'^-]+", re.ASCII)
_NOT_TOKEN = re.compile(r"[^A-Za-z0-9 ._()\[\],;=+@!#$&'^-]", re.ASCII)


def shows_inline(content_type: str) -> bool:
    """Whether a browser shows this type without running anything that its author wrote."""
    return content_type.startswith(("image/", "video/", "audio/")) or content_type == "application/pdf"


@lru_cache(maxsize=4096)
def content_disposition(kind: str, filename: str | None) -> str:
    """The header's value; `kind` is `inline` or `attachment`.

    A name that is not plain ASCII is given twice: as `filename*` by RFC 8187, and for old clients with `_` in place of
    what they can't read.
    """
    name = safe_filename(filename) if filename else ""
    if not name:
        return kind
    if _TOKEN.fullmatch(name):
        return f'{kind}; filename="{name}"'
    # `%` is not in the plain form either: some browsers decode it there.
    return f"{kind}; filename=\"{_NOT_TOKEN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


@lru_cache(maxsize=4096)
def safe_filename(filename: str) -> str:
    """`filename` without what could leave a header or a folder, or deceive the reader; an overlong one is cut
    in its stem."""
    name = _UNSAFE.sub("_", filename).strip(" .")
    if len(name) <= MAX_FILENAME_CHARACTERS:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > 10:
        return name[:MAX_FILENAME_CHARACTERS]
    return stem[: MAX_FILENAME_CHARACTERS - len(extension) - 1] + dot + extension
