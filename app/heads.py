"""The heads of requests, bounded in bytes, number and seconds: uvicorn's fast parser takes and keeps any."""

from __future__ import annotations

from asyncio import BaseTransport, TimerHandle
from typing import Any, Final, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A document that goes by GET stands in there.
HEAD_BYTES: Final = 64 * 1024
HEADERS: Final = 100
HEAD_SECONDS: Final = 20.0  # for a whole one; the first comes with the connection
WAITING: Final = 16  # requests that were sent before those ahead of them were answered
# Two of these would be read as one by whoever counts, and as the other by whoever answers (RFC 9110, 5.3).
SINGLE: Final = frozenset((b"authorization", b"content-type", b"host", b"origin"))
OF_BODIES: Final = frozenset((b"content-length", b"transfer-encoding"))

_BODY: Final = orjson.dumps(
    {
        "errors": [
            {
                "message": f"The head of a request is at most {HEAD_BYTES} bytes and {HEADERS} headers long.",
                "extensions": {"code": "BAD_REQUEST"},
            }
        ]
    }
)
_TOO_LARGE: Final = b"\r\n".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"content-type: application/json",
        b"content-length: %d" % len(_BODY),
        b"x-content-type-options: nosniff",
        b"connection: close",
        b"",
        _BODY,
    )
)


class HeadRefused(Exception):
    """Raised through the parser, which ends with it."""


class BoundedHeads(HttpToolsProtocol):
    """Answers 431 (RFC 6585, 5) to a head that is too large, and hangs up on one that doesn't come to its end."""

    _size = 0  # bytes of the head as far as it has been told
    _untold = 0  # bytes since the last that were told: the parser keeps a header, or a trailer, until it is whole
    _in_head = False
    _too_large = False
    _too_many = False
    _upgraded = False
    _timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Any, transport))
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._untold += len(data)
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        if self._in_head and self._untold > HEAD_BYTES:
            self._too_large = True
            self.send_400_response("")
        elif self._untold > HEAD_BYTES:
            self.transport.close()  # trailers without end: an answer may be under way
        elif self._timer is None and (self._in_head or not self._is_answering):
            self._hurry()  # a head that isn't whole, or what begins no request

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._too_many:
            self.transport.close()  # an answer would come before those that are waited for
        else:
            super().send_400_response(msg)

    def handle_websocket_upgrade(self) -> None:
        self._end_head()
        self._upgraded = True  # what comes from now on is another protocol's
        super().handle_websocket_upgrade()

    @property
    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first
        return cycle is not None and not cycle.response_complete

    # Parser callbacks

    def on_message_begin(self) -> None:
        self._end_head()
        self._in_head = True
        self._size = self._untold = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        # Behind a body in chunks come trailers, which nobody between has looked at: they are none of the request's.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._end_head()
        # The parser stops at any upgrade, and would take a body for another request: one that nobody has looked at.
        if self.parser.should_upgrade() and any(name in OF_BODIES for name, _ in self.headers):
            raise HeadRefused
        if len(self.pipeline) >= WAITING:
            self._too_many = True
            raise HeadRefused
        if sum(name in SINGLE for name, _ in self.headers) != len({name for name, _ in self.headers} & SINGLE):
            raise HeadRefused
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._untold = 0
        super().on_body(body)

    def _hurry(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_head(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self, size: int) -> None:
        self._size += size
        self._untold = 0
        if self._size > HEAD_BYTES or len(self.headers) >= HEADERS:
            self._too_large = True
            raise HeadRefused
