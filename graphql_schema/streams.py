"""An operation's results over plain HTTP, in one answer that goes on.

Two forms of it: Server-Sent Events, as graphql-sse has them in its distinct connections mode
(https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md), and Apollo's multipart protocol
(https://www.apollographql.com/docs/graphos/routing/operations/subscriptions/multipart-protocol). In both, what is wrong
with an operation is told in the stream, what is wrong with its request by an HTTP status.

The token comes in `Authorization`, and neither a cookie nor the URL is ever looked at for one: so what a page of
another site can open unasked, by an EventSource, is a stream of nobody's; and its `Origin` is refused, as on a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

from app import metrics
from graphql_schema.refusals import GRAPHQL_RESPONSE, JSON, best_match, encode

STOPPING: Final = {"message": "The server is stopping.", "extensions": {"code": "SERVICE_UNAVAILABLE"}}
HEADERS: Final = {
    "Vary": "Accept",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would hold back what is small
}


@dataclass(frozen=True, slots=True)
class Form:
    """How results are written: `before` and `after` each. `interrupted` is what a client that is to come again gets."""

    name: str
    accepted: str
    content_type: str
    opening: bytes
    before: bytes
    after: bytes
    heartbeat: bytes
    heartbeat_seconds: float
    complete: bytes
    interrupted: bytes


EVENTS: Final = Form(
    name="graphql-sse",
    accepted="text/event-stream",
    content_type="text/event-stream; charset=utf-8",
    opening=b":\n\n",
    before=b"event: next\ndata: ",
    after=b"\n\n",
    heartbeat=b":\n\n",
    heartbeat_seconds=12.0,
    complete=b"event: complete\ndata: \n\n",  # without its `data` no EventSource would tell of it
    interrupted=b"",  # without a `complete` they connect anew
)

_DELIMITER: Final = b"\r\n--graphql"
_PART: Final = b"\r\nContent-Type: application/json; charset=utf-8\r\n\r\n"
PARTS: Final = Form(
    name="multipart",
    accepted="multipart/mixed;subscriptionSpec=1.0",
    content_type='multipart/mixed; boundary="graphql"; subscriptionSpec="1.0"',
    opening=_DELIMITER,
    before=_PART + b'{"payload":',
    after=b"}" + _DELIMITER,
    heartbeat=_PART + b"{}" + _DELIMITER,
    heartbeat_seconds=5.0,  # as Apollo's own router has it
    complete=b"--\r\n",
    interrupted=_PART + encode({"payload": None, "errors": [STOPPING]}) + _DELIMITER + b"--\r\n",
)

_FORMS: Final = {form.accepted: form for form in (EVENTS, PARTS)}
_ANSWERS: Final = (JSON, GRAPHQL_RESPONSE, *_FORMS)


def form_of(request: Request[Any, Any, Any]) -> Form | None:
    """The stream that the request would rather have than an answer in JSON."""
    return _FORMS.get(best_match(request, _ANSWERS))


def protocol_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """By which a subscription comes, in a word for metrics."""
    form = form_of(connection) if isinstance(connection, Request) else None
    return form.name if form else GRAPHQL_TRANSPORT_WS_PROTOCOL


class OpenStreams:
    """Those of a process. When it stops they have to be told: uvicorn waits for an answer that goes on."""

    def __init__(self) -> None:
        self._stops: set[asyncio.Future[None]] = set()
        self._stopped = False

    def stop(self) -> None:
        """End all that are open, and at once all that are still to come."""
        self._stopped = True
        for stop in self._stops:
            if not stop.done():
                stop.set_result(None)

    @contextmanager
    def joined(self) -> Iterator[asyncio.Future[None]]:
        """One more; what is given is done when it has to end."""
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stops.add(stop)
        if self._stopped:
            stop.set_result(None)
        try:
            yield stop
        finally:
            self._stops.discard(stop)


class StreamResponse(Response[None]):
    """Sends `results`, each of them JSON, until they end, the client goes, or the process stops."""

    def __init__(self, form: Form, results: AsyncGenerator[bytes, None], streams: OpenStreams) -> None:
        super().__init__(None, headers={"Content-Type": form.content_type, **HEADERS})
        self._body = (form, results, streams)

    def to_asgi_response(self, *_: Any, headers: dict[str, str] | None = None, **__: Any) -> ASGIResponse:
        return _Streaming(*self._body, headers={**(headers or {}), **self.headers})


class _Streaming(ASGIResponse):
    _should_set_content_length = False

    def __init__(
        self, form: Form, results: AsyncGenerator[bytes, None], streams: OpenStreams, headers: dict[str, str]
    ) -> None:
        super().__init__(headers=headers)
        self._form = form
        self._results = results
        self._streams = streams

    async def send_body(self, send: Send, receive: Receive) -> None:
        async def write(chunk: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

        await write(self._form.opening)
        # One task for all results: what a hook puts into a ContextVar with the first has to be there with the last.
        delivery = asyncio.ensure_future(self._deliver(write))
        gone = asyncio.ensure_future(_disconnected(receive))
        with self._streams.joined() as stop, metrics.stream_open():
            ends: set[asyncio.Future[None]] = {delivery, gone, stop}
            try:
                while not await _any_of(ends, self._form.heartbeat_seconds):
                    await write(self._form.heartbeat)
            finally:
                delivery.cancel()
                gone.cancel()
                outcome, _ = await asyncio.gather(delivery, gone, return_exceptions=True)
        if isinstance(outcome, asyncio.CancelledError):
            await write(self._form.interrupted)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            await write(self._form.complete)  # here, or a heartbeat could come after it
        await write(b"", more=False)

    async def _deliver(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        async with aclosing(self._results) as results:
            async for result in results:
                await write(self._form.before + result + self._form.after)


async def _any_of(ends: set[asyncio.Future[None]], seconds: float) -> bool:
    """Whether one of them is done, within this time."""
    done, _ = await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
