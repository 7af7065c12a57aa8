"""Ten photographs in one request, from the end of its body until all are READY."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.material import camera_picture
from tests.bench.report import Figure, milliseconds, seconds
from tests.bench.sending import Sent, send_batch
from tests.bench.stages import breakdown, marks
from tests.client import WATCH, Socket, register
from tests.server import running

RUNS = 3
PICTURES = 10
TARGET_SECONDS = 3.0


async def measure(folder: Path) -> list[Figure]:
    taken, answered, told = [], [], []
    with running(folder, None) as server:
        async with register(server.url, "Ada") as ada, ada.socket() as socket:
            await all_seen(socket, await send_batch(ada, [camera_picture(folder) for _ in range(2)]))  # warms up
            for _ in range(RUNS):
                sent = await send_batch(ada, [camera_picture(folder) for _ in range(PICTURES)])
                seen = await all_seen(socket, sent)
                taken.append(max(seen.values()) - sent.body_ended)
                answered.append(sent.answered - sent.body_ended)
                told += [(sent.body_ended, one, one["READY"]) for one in await marks(server, sent.media)]
    return [
        seconds(f"{PICTURES} READY, by subscription", taken, TARGET_SECONDS),
        seconds("answer of uploadMediaBatch", answered),
        *breakdown(told)[:-1],
        milliseconds("  a picture, from row to READY", [one["READY"] - one["UPLOADED"] for _, one, _ in told]),
    ]


async def all_seen(socket: Socket, sent: Sent) -> dict[str, float]:
    """When each of the media was READY for its subscriber, all on one socket."""
    media = {await socket.start(WATCH, id=one): one for one in sent.media}
    seen: dict[str, float] = {}
    while media:
        message = await socket.receive()
        if message["type"] == "complete":
            del media[message["id"]]
            continue
        update = message["payload"]["data"]["mediaProcessing"]
        assert update["status"] != "FAILED", update
        if update["status"] == "READY":
            seen[media[message["id"]]] = time.time()
    return seen
