"""1 GiB straight into local storage in parallel parts: what it costs the API process and the worker."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx

from app.embedded import EmbeddedPostgres
from app.postmaster import address
from tests.bench.material import MIB
from tests.bench.memory import Process
from tests.bench.report import Figure, seconds
from tests.client import Account, Json, register
from tests.pictures import photograph
from tests.server import running

SIZE: Final = 1024 * MIB
PUTS_AT_ONCE: Final = 4
TARGET_MIB: Final = 32.0
PATIENCE_SECONDS: Final = 600.0
POLL_SECONDS: Final = 0.2
STATUS: Final = "query($id: ID!) { media(id: $id) { status failure { code } sha256 url } }"

_BLOCK: Final = os.urandom(MIB)
_HEAD: Final = b"RIFF" + (SIZE - 8).to_bytes(4, "little") + b"WAVEfmt \x10\x00\x00\x00"


async def measure(folder: Path) -> list[Figure]:
    if sys.platform != "linux":
        return []  # nowhere else is there /proc
    with EmbeddedPostgres(folder / "database"), running(folder, address(folder / "database")) as server:
        assert server.worker is not None
        async with register(server.url, "Ada") as ada:
            ada.http.timeout = httpx.Timeout(PATIENCE_SECONDS)
            # What the first ones load and allocate stays.
            await ada.settled((await ada.sent(photograph()))["id"])
            sha256 = await asyncio.to_thread(_digest)
            api, worker = Process(server.process.pid), Process(server.worker.pid)
            before = api.resident(), worker.resident()
            with api.peak() as api_peak, worker.peak() as worker_peak:
                session = await ada.begun(SIZE, "sound.wav", contentType="audio/wav", sha256=sha256)
                began = time.monotonic()
                await _send(session)
                sent = time.monotonic()
                media_id = (await ada.completed(session["id"]))["id"]
                completed = time.monotonic()
                media = await _processed(ada, media_id)
                processed = time.monotonic()
                assert await _downloaded(media["url"]) == sha256
        copied = await asyncio.to_thread(_copy, server.data_dir / "files", folder / "copy")
    return [
        Figure("growth of the API's RSS, at its peak", [max(api_peak) - before[0]], "MiB", TARGET_MIB),
        Figure("growth of the worker's RSS, at its peak", [max(worker_peak) - before[1]], "MiB", TARGET_MIB),
        Figure(f"upload, {PUTS_AT_ONCE} parts at once", [SIZE / MIB / (sent - began)], "MiB/s"),
        seconds("completion", [completed - sent]),
        seconds("fetched and hashed by the worker", [processed - completed]),
        seconds("plain copy on this disk, made durable", [copied]),
        Figure("upload and completion, in plain copies", [(completed - began) / copied], "×"),
    ]


def _content(start: int, end: int) -> Iterator[bytes]:
    """The file's bytes from `start` to `end`, both whole MiB: a sound by its head, and no two MiB alike."""
    for number in range(start // MIB, end // MIB):
        head = number.to_bytes(8, "big") if number else _HEAD
        yield head + _BLOCK[len(head) :]


def _digest() -> str:
    digest = hashlib.sha256()
    for chunk in _content(0, SIZE):
        digest.update(chunk)
    return digest.hexdigest()


async def _send(session: Json) -> None:
    turns = asyncio.Semaphore(PUTS_AT_ONCE)
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as anybody, asyncio.TaskGroup() as tasks:
        for part in session["parts"]:
            tasks.create_task(_put(anybody, turns, part, session["partSize"]))


async def _put(anybody: httpx.AsyncClient, turns: asyncio.Semaphore, part: Json, part_size: int) -> None:
    start = (part["partNumber"] - 1) * part_size

    async def body() -> AsyncIterator[bytes]:
        for chunk in _content(start, start + part["sizeBytes"]):
            yield chunk

    async with turns:
        answer = await anybody.put(part["url"], content=body(), headers={"content-length": str(part["sizeBytes"])})
    assert answer.status_code == 200, answer.text


async def _processed(account: Account, media_id: str) -> Json:
    """The media once the worker has hashed it, and found that it can do nothing more with a sound."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            media: Json = await account.ask(STATUS, id=media_id)
            if media["status"] == "FAILED":
                break
            await asyncio.sleep(POLL_SECONDS)
    assert (media["failure"]["code"], media["sha256"] is not None) == ("UNSUPPORTED", True), media
    return media


async def _downloaded(url: str) -> str:
    digest = hashlib.sha256()
    async with (
        httpx.AsyncClient(timeout=PATIENCE_SECONDS) as anybody,
        anybody.stream("GET", url) as answer,
    ):
        assert answer.status_code == 200
        async for chunk in answer.aiter_bytes(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def _copy(files: Path, target: Path) -> float:
    """Seconds."""
    (source,) = files.rglob("*.wav")
    began = time.monotonic()
    shutil.copyfile(source, target)
    with target.open("rb") as copied:
        os.fsync(copied.fileno())
    return time.monotonic() - began
