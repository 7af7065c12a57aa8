"""Bodies of requests, as they arrive."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Final

STALL_SECONDS: Final = 30.0


async def patient(
    stream: AsyncIterable[bytes], stalled: Callable[[str], Exception], *, whole: float = math.inf
) -> AsyncGenerator[bytes, None]:
    """The stream as long as something comes: half a body would hold its socket for ever.

    Raises `stalled`, also when all of it takes longer than so many seconds.
    """
    chunks = aiter(stream)
    limit = time.monotonic() + whole
    while True:
        try:
            async with asyncio.timeout(min(STALL_SECONDS, limit - time.monotonic())):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            if time.monotonic() >= limit:
                raise stalled(f"The body took longer than {whole:.0f} seconds.") from error
            raise stalled(f"Nothing came for {STALL_SECONDS:.0f} seconds in the middle of the body.") from error
        yield chunk
