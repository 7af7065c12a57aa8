"""Films of 1080p, from the answer to their upload until the POSTER is to be seen, and until the STREAM is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from tests.bench import footage
from tests.bench.footage import Footage
from tests.bench.material import MIB
from tests.bench.report import Figure, seconds
from tests.bench.sending import send_one
from tests.client import Account, register
from tests.server import running

TARGET_POSTER_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.1
STATE: Final = "query($id: ID!) { media(id: $id) { status failure { code } variants { name } } }"
EXPECTED: Final = {"THUMBNAIL", "SMALL", "MEDIUM", "POSTER", "PREVIEW", "STREAM"}


async def measure(folder: Path) -> list[Figure]:
    figures: list[Figure] = []
    with running(folder, None) as server:
        async with register(server.url, "Ada") as ada:
            # The first film loads what only films need; and it is copied, where the other is transcoded.
            for make, what in ((footage.h264, "copied"), (footage.hevc, "transcoded")):
                figures += await _watched(ada, await asyncio.to_thread(make, folder), what)
    return figures


async def _watched(account: Account, film: Footage, what: str) -> list[Figure]:
    size = film.path.stat().st_size / MIB
    sent = await send_one(account, film.path)
    seen: dict[str, float] = {}
    while "READY" not in seen:
        media = await account.ask(STATE, id=sent.media[0])
        assert media["status"] != "FAILED", media
        for name in (media["status"], *(variant["name"] for variant in media["variants"])):
            seen.setdefault(name, time.time() - sent.answered)
        await asyncio.sleep(POLL_SECONDS)
    assert seen.keys() >= EXPECTED, seen
    return [
        seconds(f"{size:.0f} MiB, {film.seconds:.0f} s, {what}: POSTER", [seen["POSTER"]], TARGET_POSTER_SECONDS),
        seconds("  PREVIEW", [seen["PREVIEW"]]),
        seconds("  READY, with its STREAM", [seen["READY"]], film.seconds),
    ]
