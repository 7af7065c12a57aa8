"""The queue. A job is enqueued in the transaction of what calls for it, and so commits with it or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import orjson
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from piccolo.querystring import QueryString

from app import tracing
from app.db import HeirloomTransaction
from app.piccolo_conf import DB
from app.tables import Media

INGEST: Final = "ingest"  # stored bytes -> facts and variants
STREAM: Final = "stream"  # a film's STREAM, which may take hours
ERASE: Final = "erase"  # the bytes of a row that is gone

PRIORITY_ERASE: Final = 0  # nobody waits for it
MOST_LATER: Final = 4  # and yet before what has been waiting for less good a reason
_WAITING: Final = "SELECT count(*) FROM media WHERE owner = $1 AND status IN ('UPLOADED', 'PROCESSING')"
# Payloads of jobs that wait, or are being worked at, to make variants.
RENDERING: Final = f"""
    SELECT payload FROM pgqueuer WHERE entrypoint IN ('{INGEST}', '{STREAM}') AND status IN ('queued', 'picked')
"""  # noqa: S608 - put together from constants


async def enqueue_ingest(transaction: HeirloomTransaction, media: Media, *, priority: int) -> None:
    """The more its owner has waiting, the later it comes: whoever brings a disk full lets others pass."""
    waiting: int = await transaction.connection.fetchval(_WAITING, media.owner)
    later = min(MOST_LATER, (waiting // 8).bit_length())  # by one from 8 on, by two from 16, by three from 32 …
    await _enqueue(transaction, INGEST, _naming(media.id), priority - later)


async def enqueue_stream(transaction: HeirloomTransaction, media: Media, *, priority: int) -> None:
    await _enqueue(transaction, STREAM, _naming(media.id), priority)


def _naming(media_id: uuid.UUID) -> dict[str, Any]:
    return {"media": str(media_id)}


async def is_rendering(media_id: uuid.UUID) -> bool:
    """Whether a job waits, or is being worked at, to make this media's variants."""
    # By its bytes: to read each as JSON takes three times as long, and they may be as many as there are media.
    wanted = QueryString(f"{RENDERING} AND payload = {{}} LIMIT 1", orjson.dumps(_naming(media_id)))
    return bool(await DB.run_querystring(wanted))


async def enqueue_erase(
    transaction: HeirloomTransaction,
    keys: Sequence[str],
    *,
    uploads: Sequence[tuple[str, str]] = (),
    variants: Sequence[str] = (),
    media: uuid.UUID | None = None,
    after: timedelta | None = None,
) -> None:
    """Remove every stored byte of the originals under these keys, variants included, and `after` that time.

    `uploads` are (key, upload id) of uploads in parts that are not to be completed any more; `variants` the keys of
    single variants that have been replaced, of `media`.
    """
    payload: dict[str, Any] = {"keys": list(keys), "uploads": list(uploads), "variants": list(variants)}
    if media is not None:
        payload["media"] = str(media)
    await _enqueue(transaction, ERASE, payload, PRIORITY_ERASE, after)


async def _enqueue(
    transaction: HeirloomTransaction,
    entrypoint: str,
    payload: dict[str, Any],
    priority: int,
    after: timedelta | None = None,
) -> None:
    queries = Queries(AsyncpgDriver(transaction.connection))
    trace = tracing.parent_header()
    headers = {tracing.HEADER: trace} if trace else None
    await queries.enqueue(entrypoint, orjson.dumps(payload), priority=priority, execute_after=after, headers=headers)


def trace(job: Job) -> str | None:
    """What goes on with the trace of whatever enqueued it."""
    found = (job.headers or {}).get(tracing.HEADER)
    return found if isinstance(found, str) else None


def payload(job: Job) -> dict[str, Any]:
    assert job.payload is not None, "every job of ours has one"
    found: dict[str, Any] = orjson.loads(job.payload)
    return found
