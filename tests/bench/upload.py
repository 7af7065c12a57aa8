"""One photograph, from the end of the request's body until it is READY."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.bench.material import camera_picture
from tests.bench.report import Figure, seconds
from tests.bench.sending import Sent, send_one
from tests.bench.stages import breakdown, marks
from tests.client import WATCH, Account, Socket, register
from tests.server import running

RUNS = 7
TARGET_SECONDS = 0.5
POLL_SECONDS = 0.05


async def measure(folder: Path) -> list[Figure]:
    subscribed, polled, answered, told = [], [], [], []
    with running(folder, None) as server:
        async with register(server.url, "Ada") as ada, ada.socket() as socket:
            await _seen_by_subscription(socket, await send_one(ada, camera_picture(folder)))  # warms up
            for _ in range(RUNS):
                sent = await send_one(ada, camera_picture(folder))
                seen = await _seen_by_subscription(socket, sent)
                subscribed.append(seen - sent.body_ended)
                answered.append(sent.answered - sent.body_ended)
                told.append((sent.body_ended, (await marks(server, sent.media))[0], seen))
            for _ in range(RUNS):
                sent = await send_one(ada, camera_picture(folder))
                polled.append(await _seen_by_polling(ada, sent) - sent.body_ended)
    return [
        seconds("READY, by subscription", subscribed, TARGET_SECONDS),
        seconds(f"READY, asking every {1000 * POLL_SECONDS:.0f} ms", polled, TARGET_SECONDS),
        seconds("answer of uploadMedia", answered),
        *breakdown(told),
    ]


async def _seen_by_subscription(socket: Socket, sent: Sent) -> float:
    async for update in socket.subscribe(WATCH, id=sent.media[0]):
        last, seen = update["mediaProcessing"], time.time()
    assert last["status"] == "READY", last
    return seen


async def _seen_by_polling(account: Account, sent: Sent) -> float:
    while True:
        media = await account.ask("query($id: ID!) { media(id: $id) { status } }", id=sent.media[0])
        if media["status"] == "READY":
            return time.time()
        assert media["status"] != "FAILED"
        await asyncio.sleep(POLL_SECONDS)
