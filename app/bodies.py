"""Bodies of requests, as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Final

STALL_SECONDS: Final = 30.0


async def patient(stream: AsyncIterable[bytes], stalled: Callable[[str], Exception]) -> AsyncGenerator[bytes, None]:
    """The stream as long as something comes: half a body would hold its socket for ever. Raises `stalled`."""
    chunks = aiter(stream)
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise stalled(f"Nothing came for {STALL_SECONDS:.0f} seconds in the middle of the body.") from error
        yield chunk
