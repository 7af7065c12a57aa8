"""Sockets below the application: uvicorn's protocol, bounded in what a client has it do and keep unasked.

It answers pings and collects fragments by itself, and queues all messages of what it has read before it stops to read
more: who sends nothing but such frames would cost a core (74 MB of pings: 4 s of it), and as much memory as they send,
if they read none of the answers. Who passes these bounds is cut off; no honest client comes near.
"""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

# Of pings, pongs and fragments. Browsers split a message at 64 KiB or more.
FRAMES_A_SECOND: Final = 10.0
FRAMES_AT_ONCE: Final = 100
MESSAGES_WAITING: Final = 1000  # the application reads as many in ten seconds (see edge)


class BoundedSocket(WebSocketsSansIOProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._frames_due = 0.0

    def handle_ping(self) -> None:
        if self._in_bounds():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if self._in_bounds():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        if self._in_bounds():
            super().handle_cont(event)

    async def send(self, message: Any) -> None:
        await super().send(message)
        # uvicorn forgets it, and would call the application to blame.
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        if self.transport.is_closing():
            return
        if self.queue.qsize() >= MESSAGES_WAITING:
            self.transport.abort()
            return
        super().send_receive_event_to_app()

    def _in_bounds(self) -> bool:
        now = self.loop.time()
        due = max(self._frames_due, now) + 1 / FRAMES_A_SECOND
        if due - now <= FRAMES_AT_ONCE / FRAMES_A_SECOND:
            self._frames_due = due
            return True
        self.transport.abort()
        return False
