"""What every answer about a file says, whatever its bytes are and whoever asks."""

from __future__ import annotations

from typing import Final

ALWAYS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag",
    # An <img> on another site's page needs this where that page isolates itself.
    "Cross-Origin-Resource-Policy": "cross-origin",
    # Nothing of a file runs; the browser's own page around a film needs its source and its style.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; sandbox",
    "Referrer-Policy": "no-referrer",  # the address is the credential
    "X-Content-Type-Options": "nosniff",
}
NEVER_KEPT: Final = {"Cache-Control": "no-store"}
