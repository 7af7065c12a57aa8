"""The browser pages: GraphiQL at `/graphiql/`, from the files that `web/build.py` leaves in the package."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from litestar import Request, Response, route
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.response import Redirect
from litestar.types import ControllerRouterHandler

GRAPHIQL = Path(__file__).parent / "static" / "graphiql"

# 'unsafe-inline' is for styles alone: Monaco, the editor, positions its lines by style attributes.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",  # a page that opened it has no hold on it
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Written out, since `mimetypes` reads the machine's own tables: some call a script text/plain, which nosniff refuses.
MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".woff2": "font/woff2",
}
# No part may begin with a dot: neither `..` nor the build's own stamp can be asked for.
SERVED_NAME = re.compile(r"(assets/)?[A-Za-z0-9_-][A-Za-z0-9_.-]*")
# Everything below assets/ has a hash of its content in its name; a year is the longest that HTTP caches count.
CACHE_HASHED = "public, max-age=31536000, immutable"
CACHE_NAMED = "no-cache"
NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Heirloom</title>
<h1>GraphiQL has not been built</h1>
<p>Run <code>python web/build.py</code> in the project's folder, then reload this page.
The API itself is there, at <code>/graphql</code>.</p>
</html>
"""


def _read(path: Path, *, gzipped: bool) -> tuple[bytes, dict[str, str]]:
    """The bytes to send and the headers that say how they are encoded. Raises FileNotFoundError."""
    compressed = path.with_name(f"{path.name}.gz")
    if not compressed.is_file():
        return path.read_bytes(), {}
    if not gzipped:
        return path.read_bytes(), {"Vary": "Accept-Encoding"}
    return compressed.read_bytes(), {"Vary": "Accept-Encoding", "Content-Encoding": "gzip"}


def _page(folder: Path, name: str, *, gzipped: bool) -> Response[bytes]:
    """Raises NotFoundException for what is not one of the built files."""
    if not (folder / "index.html").is_file():
        return _not_built()
    media_type = MEDIA_TYPES.get(Path(name).suffix)
    if media_type is None or not SERVED_NAME.fullmatch(name):
        raise NotFoundException
    try:
        content, encoding = _read(folder / name, gzipped=gzipped)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundException from error
    caching = CACHE_HASHED if name.startswith("assets/") else CACHE_NAMED
    return Response(content, media_type=media_type, headers={**SECURITY_HEADERS, **encoding, "Cache-Control": caching})


def _not_built() -> Response[bytes]:
    headers = {**SECURITY_HEADERS, "Cache-Control": "no-store"}
    return Response(NOT_BUILT.encode(), status_code=503, media_type=MEDIA_TYPES[".html"], headers=headers)


def page_routes(folder: Path = GRAPHIQL) -> list[ControllerRouterHandler]:
    """The handlers of `/graphiql/`. Files are looked up at each request: they may be built while the server runs."""

    @route(
        ["/graphiql", "/graphiql/{name:path}"],
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        include_in_schema=False,
    )
    async def graphiql(request: Request[Any, Any, Any]) -> Response[bytes] | Redirect:
        # Litestar takes a path with and without its last slash for the same; only `raw_path` tells them apart.
        if request.scope["raw_path"].partition(b"?")[0].endswith(b"/graphiql"):
            return Redirect("/graphiql/", status_code=308, headers=SECURITY_HEADERS)
        gzipped = "gzip" in request.headers.get("accept-encoding", "")
        # Not a parameter of this function: for `/graphiql` Litestar would look for it in the query string.
        name = request.path_params.get("name", "").removeprefix("/") or "index.html"
        return await asyncio.to_thread(_page, folder, name, gzipped=gzipped)

    return [graphiql]
