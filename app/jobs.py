"""The queue. A job is enqueued in the transaction of what calls for it, and so commits with it or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

import orjson
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from app.db import HeirloomTransaction

INGEST: Final = "ingest"  # stored bytes -> facts and variants
ERASE: Final = "erase"  # the bytes of a row that is gone

PRIORITY_ERASE: Final = 0  # nobody waits for it


async def enqueue_ingest(transaction: HeirloomTransaction, media: uuid.UUID, *, priority: int) -> None:
    await _enqueue(transaction, INGEST, {"media": str(media)}, priority)


async def enqueue_erase(transaction: HeirloomTransaction, keys: Sequence[str]) -> None:
    """Remove every stored byte of the originals under these keys, variants included."""
    await _enqueue(transaction, ERASE, {"keys": list(keys)}, PRIORITY_ERASE)


async def _enqueue(transaction: HeirloomTransaction, entrypoint: str, payload: dict[str, Any], priority: int) -> None:
    queries = Queries(AsyncpgDriver(transaction.connection))
    await queries.enqueue(entrypoint, orjson.dumps(payload), priority=priority)


def payload(job: Job) -> dict[str, Any]:
    assert job.payload is not None, "every job of ours has one"
    found: dict[str, Any] = orjson.loads(job.payload)
    return found
