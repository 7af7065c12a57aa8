"""What other services are told over Redis: `photo:uploaded` and `photo:deleted`, of media of every kind.

Read from the events by a consumer whose place is stored after each batch: at least once, in commit order, whatever
ends or is away meanwhile. Of all workers one holds the lock, and does it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import orjson

from app import media
from app.db import hydrate
from app.event_cursors import Consumer
from app.event_hub import POLL_SECONDS, Connect, listening, pause
from app.events import Happening, read_new
from app.tables import EventKind, Media
from app.wiring import Services

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

CONSUMER: Final = "redis"
UPLOADED: Final = "photo:uploaded"
DELETED: Final = "photo:deleted"
# What goes into the trash is out of sight, for other services too; of what comes out of it they are told anew.
CHANNELS: Final = {
    EventKind.UPLOADED: UPLOADED,
    EventKind.RESTORED: UPLOADED,
    EventKind.TRASHED: DELETED,
    EventKind.PURGED: DELETED,
}
RETRY_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
REDIS_SECONDS: Final = 5.0  # in which Redis has to answer
LOCK_SECONDS: Final = 2.0  # until one asks again for what another worker holds
_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('heirloom announcements'))"


@asynccontextmanager
async def announcing(services: Services, connect: Connect) -> AsyncIterator[None]:
    """Within the block, where the settings name a Redis. It need not answer: what happens meanwhile is told later."""
    if services.settings.redis_url is None:
        yield
        return
    redis = _open(services.settings.redis_url)
    task = asyncio.create_task(_announce(services, connect, redis), name="announcements")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await redis.aclose()


def _open(url: str) -> Redis:
    # Imported where it is used: few deployments have a Redis.
    from redis.asyncio import Redis  # noqa: PLC0415
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    # It is tried again here, by whichever worker then holds the lock.
    never = Retry(NoBackoff(), 0)
    return Redis.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=never)


async def _announce(services: Services, connect: Connect, redis: Redis) -> None:
    """Whatever fails, all is begun anew at the place that is stored; the lock goes with the connection."""
    from redis.exceptions import RedisError  # noqa: PLC0415 - as above

    failures = 0
    while True:
        look = asyncio.Event()
        try:
            async with listening(connect, look) as connection:
                await _hold_lock(connection)
                consumer = Consumer(CONSUMER, connection)
                place = await consumer.place()
                while not connection.is_closed():
                    happenings, _ = await read_new(connection, place)
                    if happenings:
                        await _publish(redis, await _messages(services, happenings))
                        place = happenings[-1].cursor
                        await consumer.move(place)
                    else:
                        await pause(look, POLL_SECONDS)
                    failures = 0
        except (OSError, TimeoutError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if failures == 0:
                logger.warning("Other services can't be told what happened, and will be later: %r", error)
        except Exception:
            logger.exception("Other services can't be told what happened, and will be later")
        await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
        failures += 1


async def _hold_lock(connection: asyncpg.Connection) -> None:
    while not await connection.fetchval(_LOCK, timeout=LOCK_SECONDS):  # noqa: ASYNC110  # nobody tells of another's lock
        await asyncio.sleep(LOCK_SECONDS)


async def _publish(redis: Redis, messages: Iterable[tuple[str, bytes]]) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for channel, body in messages:
            pipeline.publish(channel, body)
        await pipeline.execute()


async def _messages(services: Services, happenings: Iterable[Happening]) -> list[tuple[str, bytes]]:
    told = [happening for happening in happenings if happening.kind in CHANNELS]
    rows = await _present({each.media for each in told if CHANNELS[each.kind] == UPLOADED and each.media})
    return [(CHANNELS[each.kind], orjson.dumps(_body(services, each, rows), default=str)) for each in told]


async def _present(ids: set[uuid.UUID]) -> dict[uuid.UUID, Media]:
    if not ids:  # Piccolo refuses an empty IN
        return {}
    return {row["id"]: hydrate(Media, row) for row in await Media.select().where(Media.id.is_in([*ids]))}


def _body(services: Services, happening: Happening, rows: Mapping[uuid.UUID, Media]) -> dict[str, Any]:
    """Of what is deleted the id, of what is uploaded also whose it is and what; no URL of what is gone by now."""
    told: dict[str, Any] = {"id": happening.media}
    if CHANNELS[happening.kind] == DELETED:
        return told
    told |= {"userId": happening.owner, "entityId": happening.entity, "url": None, "urlExpiresAt": None}
    row = rows.get(happening.media) if happening.media else None
    if row is None or row.deleted_at is not None:
        return told
    told |= {
        "publicId": row.public_id,
        "kind": row.kind,
        "filename": row.filename,
        "contentType": row.content_type,
        "sizeBytes": row.size_bytes,
    }
    if media.stored(row):
        signed = services.storage.presign_get(row.storage_key, now=services.clock(), filename=row.filename)
        told |= {"url": signed.url, "urlExpiresAt": signed.expires_at}
    return told
