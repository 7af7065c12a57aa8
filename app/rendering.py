"""One run of an original through a sandbox: its variants are stored while further ones are made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from app import variants
from app.tables import Media, Variant
from processing.kinds import FILE_TYPES
from processing.sandbox import Sandbox
from processing.variants import Facts, Progress, Rendered
from storage.base import ObjectStorage

FILE_TYPE: Final = {file_type.content_type: file_type for file_type in FILE_TYPES}
PUBLISH_EVERY: Final = 1.0  # seconds
LOOK_EVERY: Final = 5.0

# Told how much of the rendering is done, from 0 to 1, and which variants are stored by then.
Publish: TypeAlias = Callable[[float, Sequence[Variant]], Awaitable[None]]
# Asked whether anybody still wants it.
Wanted: TypeAlias = Callable[[], Awaitable[bool]]


class Superseded(Exception):
    """Somebody else has the media by now, or it is gone."""


@dataclass(frozen=True, slots=True)
class Sandboxes:
    """What takes minutes must not keep waiting what takes moments: films are streamed apart."""

    quick: Sandbox
    streams: Sandbox


async def render(
    storage: ObjectStorage, sandbox: Sandbox, media: Media, original: Path, *, publish: Publish, wanted: Wanted
) -> tuple[Facts, list[Variant]]:
    """Facts, and the variants, stored and without rows; pieces are left in the original's folder.

    `publish` is awaited when rendering begins, and every second while the sandbox tells of progress; `wanted` where it
    doesn't. Raises ProcessingFailed, Superseded, and what `publish` raises: then nothing goes on.
    """
    run = _Run(storage, media, publish, wanted)
    try:
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(run.report())
            try:
                facts = await sandbox.produce(
                    original, FILE_TYPE[media.content_type], original.parent, lambda told: run.take(told, tasks)
                )
            finally:
                await run.end(reporting)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors  # the first; the others came of its cancelling them
    return facts, run.stored


class _Run:
    def __init__(self, storage: ObjectStorage, media: Media, publish: Publish, wanted: Wanted) -> None:
        self._storage = storage
        self._media = media
        self._publish = publish
        self._wanted = wanted
        self._fraction = self._published = -1.0
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self.stored: list[Variant] = []

    def take(self, told: Rendered | Progress, tasks: asyncio.TaskGroup) -> None:
        if isinstance(told, Rendered):
            tasks.create_task(self._store(told))
        else:
            self._fraction = told.fraction
            self._news.set()

    async def report(self) -> None:
        while True:
            await _wait(self._news, LOOK_EVERY)
            self._news.clear()
            if self._fraction > self._published:
                self._published = self._fraction
                await self._publish(self._fraction, tuple(self.stored))
            if self._over.is_set():
                return
            if not await self._wanted():
                raise Superseded
            await _wait(self._over, PUBLISH_EVERY)

    async def end(self, reporting: asyncio.Task[None]) -> None:
        """Not by cancelling, which would undo a report that is just being written; what was told is reported."""
        self._over.set()
        self._news.set()
        await reporting

    async def _store(self, made: Rendered) -> None:
        self.stored.append(await variants.store(self._storage, self._media, made))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
