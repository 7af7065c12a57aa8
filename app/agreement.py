"""Whether the storage and the database agree: every object has its row, and every row its object.

Both are read in the order of their keys and joined as they pass, so that memory does not grow with their number. They
are read at different moments, while others write: what seems to be wrong is looked at again before it is believed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from app import known_keys, mending
from app.errors import Conflict
from app.known_keys import Known, Source
from app.piccolo_conf import DB
from app.tables import MediaStatus
from app.wiring import Services
from storage.base import ObjectNotFound, ObjectStorage, OpenUpload, StoredObject

LOCK: Final = 0x4865_6972_6C6F_6F6E  # PostgreSQL's advisory locks are numbers; migrations have another
EXAMPLES: Final = 20  # of each kind
BATCH: Final = 500  # suspects looked at together
HEADS_AT_ONCE: Final = 8
PROGRESS_EVERY: Final = 1_000  # objects
# Beyond both, nothing is mended: a disk that is not mounted, a wrong bucket or an old database looks like this.
BRAKE_SHARE: Final = 0.1
BRAKE_COUNT: Final = 10  # which may be all, of little

Pair = tuple[StoredObject | None, Known | None]


class Kind(StrEnum):
    """How an object and its row may disagree; the last two are no faults.

    A lost variant is one whose original is gone too.
    """

    ORPHAN = "ORPHAN"
    MISSING_ORIGINAL = "MISSING_ORIGINAL"
    MISSING_VARIANT = "MISSING_VARIANT"
    LOST_VARIANT = "LOST_VARIANT"
    WRONG_SIZE = "WRONG_SIZE"
    FOUND_AGAIN = "FOUND_AGAIN"
    STALE_UPLOAD = "STALE_UPLOAD"
    RECENT = "RECENT"
    ELSEWHERE = "ELSEWHERE"


NO_FAULT: Final = frozenset({Kind.RECENT, Kind.ELSEWHERE})
# Of these only the rows can be mended: what they tell of is gone for good.
LOSSES: Final = frozenset({Kind.MISSING_ORIGINAL, Kind.LOST_VARIANT})


@dataclass(frozen=True, slots=True)
class Example:
    """`id` is the media's, or that of an upload in parts."""

    key: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    count: int
    mended: int
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class Report:
    """`objects` there are in the storage; `originals` and `variants` are the rows that should have theirs in it."""

    objects: int
    originals: int
    variants: int
    repair: bool
    findings: Mapping[Kind, Finding]

    @property
    def faults(self) -> int:
        """What is wrong still, and what this check has found to be lost: the next one knows that."""
        return sum(
            found.count - (0 if kind in LOSSES else found.mended)
            for kind, found in self.findings.items()
            if kind not in NO_FAULT
        )

    @property
    def too_much(self) -> str | None:
        """Why nobody should mend this without having looked at it; None when it may be."""
        counts = {kind: found.count for kind, found in self.findings.items()}
        for count, total, what in (
            (counts[Kind.ORPHAN], self.objects, "objects have no row"),
            (counts[Kind.MISSING_ORIGINAL], self.originals, "originals are not in the storage"),
            (
                counts[Kind.MISSING_VARIANT] + counts[Kind.LOST_VARIANT],
                self.variants,
                "variants are not in the storage",
            ),
        ):
            if count > BRAKE_COUNT and count > BRAKE_SHARE * total:
                return (
                    f"{count} of {total} {what}. Is it the right bucket or folder, and is the database no old backup? "
                    "See `heirloom storage check`, and only when all is as it should be, run "
                    "`heirloom storage check --repair --force`."
                )
        return None

    def as_json(self) -> dict[str, Any]:
        return {
            "agrees": self.faults == 0,
            "objects": self.objects,
            "originals": self.originals,
            "variants": self.variants,
            "repair": self.repair,
            "findings": {
                kind.value: {
                    "count": found.count,
                    "mended": found.mended,
                    "examples": [{"key": example.key, "id": example.id} for example in found.examples],
                }
                for kind, found in self.findings.items()
            },
        }


async def check(
    services: Services,
    *,
    repair: bool,
    now: datetime,
    force: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Compare all objects with all rows; `repair` also mends what can be, in a second walk where the first finds any.

    `progress` is told the objects walked so far. Objects and uploads without a row count once they are older than the
    settings' grace at `now`. Raises StorageUnavailable, and Conflict while another check runs anywhere in the
    deployment, and when there is too much to mend, unless that is to be done by `force`.
    """
    async with _alone():
        found = await _compared(services, repair=False, now=now, progress=progress)
        if not repair or found.faults == 0:
            return replace(found, repair=repair)
        if found.too_much and not force:
            raise Conflict(found.too_much)
        return await _compared(services, repair=True, now=now, progress=progress)


async def _compared(services: Services, *, repair: bool, now: datetime, progress: Callable[[int], None]) -> Report:
    await services.storage.ready()  # a disk that is not mounted, or a bucket that is not there, is not empty
    comparison = _Comparison(services.storage, repair, now, now - services.settings.orphan_grace)
    await comparison.compare(progress)
    await comparison.look_for_stale_uploads()
    return comparison.report()


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    connection = await DB.get_new_connection()
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
            raise Conflict("The storage is being checked already.")
        try:
            yield
        finally:
            # Closing alone would leave it to the server when the lock is free.
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    finally:
        connection.terminate()


def judge(stored: StoredObject | None, row: Known | None, *, backend: str, old: datetime) -> Kind | None:
    """What an object and a row of one key, or one of the two without the other, have to say of each other."""
    if stored is not None and (row is None or row.is_tombstone):
        return Kind.ORPHAN if stored.modified < old else Kind.RECENT
    if row is None or row.is_tombstone or row.status == MediaStatus.PENDING:
        return None
    if row.backend != backend:
        return Kind.ELSEWHERE
    return _missing(row) if stored is None else _different(stored, row)


def _missing(row: Known) -> Kind | None:
    if row.source is not Source.ORIGINAL:
        return Kind.LOST_VARIANT if row.is_lost else Kind.MISSING_VARIANT
    return None if row.is_lost else Kind.MISSING_ORIGINAL


def _different(stored: StoredObject, row: Known) -> Kind | None:
    is_original = row.source is Source.ORIGINAL
    if stored.size != row.size:
        # A worker replaces variants before it replaces their rows.
        being_replaced = not is_original and row.status not in mending.SETTLED
        return None if being_replaced else Kind.WRONG_SIZE
    return Kind.FOUND_AGAIN if is_original and row.is_lost else None


@dataclass(slots=True)
class _Comparison:
    storage: ObjectStorage
    repair: bool
    now: datetime
    old: datetime
    objects: int = 0
    originals: int = 0
    variants: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    mended: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[Example]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    # Media whose originals were just found to be gone: those of their variants come next.
    lost: deque[UUID] = field(default_factory=lambda: deque(maxlen=BATCH))

    def report(self) -> Report:
        findings = {kind: Finding(self.counts[kind], self.mended[kind], self.examples[kind]) for kind in Kind}
        return Report(self.objects, self.originals, self.variants, self.repair, findings)

    async def compare(self, progress: Callable[[int], None]) -> None:
        orphans: list[StoredObject] = []
        suspects: list[Known] = []
        async with aclosing(self.storage.list("")) as objects, aclosing(known_keys.stream()) as rows:
            async for stored, row in _joined(objects, rows):
                self._pass(stored, row, progress)
                kind = self._judge(stored, row)
                if kind is Kind.ORPHAN and stored is not None:
                    orphans.append(stored)
                elif kind in NO_FAULT:
                    self._count(kind, _example(stored, row))
                elif kind is not None and row is not None:
                    suspects.append(row)
                if len(orphans) == BATCH:
                    await self._settle_orphans(orphans)
                    orphans.clear()
                if len(suspects) == BATCH:
                    await self._settle_rows(suspects)
                    suspects.clear()
        await self._settle_orphans(orphans)
        await self._settle_rows(suspects)
        progress(self.objects)

    def _pass(self, stored: StoredObject | None, row: Known | None, progress: Callable[[int], None]) -> None:
        if stored is not None:
            self.objects += 1
            if self.objects % PROGRESS_EVERY == 0:
                progress(self.objects)
        if row is not None and _should_be_here(row, self.storage.name):
            self.originals += row.source is Source.ORIGINAL
            self.variants += row.source is Source.VARIANT

    def _judge(self, stored: StoredObject | None, row: Known | None) -> Kind | None:
        return judge(stored, row, backend=self.storage.name, old=self.old)

    async def _settle_orphans(self, suspects: Sequence[StoredObject]) -> None:
        if not suspects:
            return
        claimed = await known_keys.claimed([stored.key for stored in suspects])
        orphans = [stored for stored in suspects if stored.key not in claimed]
        if self.repair:
            await self.storage.delete([stored.key for stored in orphans])
        for stored in orphans:
            self._count(Kind.ORPHAN, Example(stored.key), mended=self.repair)

    async def _settle_rows(self, suspects: Sequence[Known]) -> None:
        # The object first: a row that still says so afterwards has said so all the time.
        objects = await self._look_again(suspects)
        rows = await known_keys.again(suspects)
        for suspect, stored in zip(suspects, objects, strict=True):
            row = rows.get(suspect.id)
            if row is None or row.key != suspect.key:
                continue
            kind = self._judge(stored, row)
            if kind is None or kind in NO_FAULT or kind is Kind.ORPHAN:  # it has changed meanwhile
                continue
            if kind is Kind.MISSING_ORIGINAL:
                self.lost.append(row.media)
            elif kind is Kind.MISSING_VARIANT and row.media in self.lost:
                kind = Kind.LOST_VARIANT
            self._count(kind, _example(stored, row), mended=self.repair and await self._mend(kind, row))

    async def _look_again(self, suspects: Sequence[Known]) -> list[StoredObject | None]:
        turns = asyncio.Semaphore(HEADS_AT_ONCE)

        async def look(row: Known) -> StoredObject | None:
            async with turns:
                try:
                    return await self.storage.head(row.key)
                except ObjectNotFound:
                    return None

        return await asyncio.gather(*map(look, suspects))

    async def _mend(self, kind: Kind, row: Known) -> bool:
        match kind:
            case Kind.MISSING_ORIGINAL:
                return await mending.lose(row, self.now)
            case Kind.MISSING_VARIANT | Kind.LOST_VARIANT:
                return await mending.drop_variant(row, self.now)
            case Kind.FOUND_AGAIN:
                return await mending.find_again(row, self.now)
        return False  # a wrong size: nobody knows which of the two is right

    async def look_for_stale_uploads(self) -> None:
        """Uploads in parts that nobody can complete any more: their parts take room, and no listing shows them."""
        suspects: list[OpenUpload] = []
        async with aclosing(self.storage.list_multiparts()) as uploads:
            async for upload in uploads:
                if upload.begun < self.old:
                    suspects.append(upload)
                if len(suspects) == BATCH:
                    await self._settle_uploads(suspects)
                    suspects.clear()
        await self._settle_uploads(suspects)

    async def _settle_uploads(self, suspects: Sequence[OpenUpload]) -> None:
        going_on = await known_keys.open_uploads([upload.key for upload in suspects])
        for upload in suspects:
            if (upload.key, upload.upload_id) in going_on:
                continue
            if self.repair:
                await self.storage.abort_multipart(upload.key, upload.upload_id)
            self._count(Kind.STALE_UPLOAD, Example(upload.key, upload.upload_id), mended=self.repair)

    def _count(self, kind: Kind, example: Example, *, mended: bool = False) -> None:
        self.counts[kind] += 1
        self.mended[kind] += mended
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(example)


async def _joined(
    objects: AsyncGenerator[StoredObject, None], rows: AsyncGenerator[Known, None]
) -> AsyncIterator[Pair]:
    """Objects and rows by key, in one order: both, or the one without the other."""
    stored, row = await anext(objects, None), await anext(rows, None)
    while stored is not None or row is not None:
        if row is None or (stored is not None and stored.key < row.key):
            yield stored, None
            stored = await anext(objects, None)
        elif stored is None or row.key < stored.key:
            yield None, row
            row = await anext(rows, None)
        else:
            yield stored, row
            stored, row = await anext(objects, None), await anext(rows, None)


def _should_be_here(row: Known, backend: str) -> bool:
    is_known_to_be_gone = row.source is Source.ORIGINAL and row.is_lost
    return row.backend == backend and row.status != MediaStatus.PENDING and not is_known_to_be_gone


def _example(stored: StoredObject | None, row: Known | None) -> Example:
    if row is not None:
        return Example(row.key, str(row.media))
    assert stored is not None, "one of the two is there"
    return Example(stored.key)
