import asyncio
from collections.abc import Callable

LIMIT_SECONDS = 10.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds; fails with TimeoutError when it does not within the limit."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for here tells nobody
            await asyncio.sleep(0.01)
