"""Opens what a process needs, once, and closes it in reverse: the same for API, worker, command line and tests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg

from app.auth import Tokens, derived_key
from app.event_hub import EventHub
from app.issuers import Issuer, KeySet, fetched
from app.passwords import Passwords
from app.piccolo_conf import DB
from app.rate_limits import REDIS_SECONDS, Buckets, MemoryBuckets, RateLimits, SharedBuckets, rates
from app.read_cache import ReadCache
from app.scratch import own_scratch
from app.settings import Settings, SettingsError
from app.storage_calls import measured
from storage.base import ObjectStorage, SetUp, StorageUnavailable
from storage.keys import KeyTemplate
from storage.local import LocalStorage
from storage.signing import UrlSigner

logger = logging.getLogger(__name__)

# A URL keeps for a quarter of its life before the next is made, so it is given out with at least three quarters left.
WINDOWS_PER_LIFETIME: Final = 4
# What is half-stored for so long was left by a process that is gone.
UNFINISHED: Final = timedelta(days=1)
REDIS_CONNECTIONS: Final = 20
SET_UP_SECONDS: Final = 5.0  # that a start waits for it; it goes on behind the start's back


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """`scratch` is this process's own folder; `clock` tells the time by which uploads and the trash run out."""

    settings: Settings
    scratch: Path
    storage: ObjectStorage
    hub: EventHub
    tokens: Tokens
    passwords: Passwords
    key_template: KeyTemplate
    limits: RateLimits
    read_cache: ReadCache
    clock: Callable[[], datetime] = _now


@asynccontextmanager
async def open_services(settings: Settings, *, dsn: str) -> AsyncIterator[Services]:
    """Everything but the hub's listening, which whoever subscribes starts (`services.hub.start()`).

    The storage is as it is found: the server alone has it set up.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_database(dsn, connections=settings.database_pool))
        yield Services(
            settings=settings,
            scratch=stack.enter_context(own_scratch(settings.scratch_dir)),
            storage=await stack.enter_async_context(open_storage(settings)),
            hub=EventHub(lambda: connect(dsn)),
            tokens=Tokens(settings.secret_key, settings.access_token_lifetime, outside_issuer(settings)),
            passwords=Passwords(),
            key_template=KeyTemplate(settings.key_template),
            limits=RateLimits(
                rates(settings),
                await stack.enter_async_context(open_buckets(settings.redis_url)),
                derived_key(settings.secret_key, "rate limits"),
            ),
            read_cache=ReadCache(settings.cached_rows),
        )


def outside_issuer(settings: Settings) -> Issuer | None:
    """Raises SettingsError: a token for somebody else, or of somebody else, must not be good here."""
    if settings.jwks_url is None:
        return None
    if not settings.token_issuer or not settings.token_audience:
        raise SettingsError("HEIRLOOM_TOKEN_ISSUER and HEIRLOOM_TOKEN_AUDIENCE must be set when HEIRLOOM_JWKS_URL is.")
    return Issuer(
        KeySet(settings.jwks_url, fetched),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        quota_bytes=settings.quota_bytes or None,
    )


@asynccontextmanager
async def open_buckets(redis_url: str | None) -> AsyncIterator[Buckets]:
    """In Redis, if there is one. It need not answer yet."""
    if redis_url is None:
        yield MemoryBuckets()
        return
    # Imported where it is used: the laptop shape has no Redis.
    from redis.asyncio import BlockingConnectionPool, Redis  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    # One that waits for a free connection, rather than opening one for each request that comes meanwhile.
    pool = BlockingConnectionPool.from_url(redis_url, max_connections=REDIS_CONNECTIONS, timeout=REDIS_SECONDS)
    async with Redis.from_pool(pool) as redis:
        yield SharedBuckets(redis, (RedisError,))


@asynccontextmanager
async def open_database(dsn: str, *, connections: int) -> AsyncIterator[None]:
    """The engine, connected by at most so many. Raises SettingsError when there is no database to work with."""
    try:
        await DB.start(dsn, max_size=connections)
    except (OSError, RuntimeError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        raise SettingsError(f"HEIRLOOM_DATABASE_URL: the database can't be used: {reason}") from error
    try:
        yield
    finally:
        await DB.close()


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[ObjectStorage]:
    """The storage as it is; `set_up` makes what it lacks."""
    window = settings.url_lifetime / WINDOWS_PER_LIFETIME
    if settings.storage == "local":
        # Not for other accounts of the machine. The data folder itself is passed by PostgreSQL's.
        settings.files_dir.mkdir(parents=True, exist_ok=True)
        settings.files_dir.chmod(0o700)
        signer = UrlSigner(derived_key(settings.secret_key, "files"))
        local = measured(LocalStorage)(
            settings.files_dir,
            signer=signer,
            base_url=f"{settings.public_url}/files",
            lifetime=settings.url_lifetime,
            window=window,
        )
        await local.sweep(older_than=datetime.now(UTC) - UNFINISHED)
        yield local
        return
    # Imported where it is used: aiobotocore takes 0.4 s, and the laptop shape has no S3.
    from storage.s3 import S3Storage  # noqa: PLC0415

    assert settings.s3_bucket is not None, "settings refuse s3 without a bucket"
    async with measured(S3Storage).open_bucket(
        settings.s3_bucket,
        region=settings.s3_region,
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_url,
        lifetime=settings.url_lifetime,
        window=window,
        deadline=settings.storage_deadline,
        unfinished=settings.upload_session_lifetime + UNFINISHED,
    ) as storage:
        yield storage


@asynccontextmanager
async def being_set_up(storage: ObjectStorage) -> AsyncIterator[None]:
    """What needs no bytes goes on without a storage that is away: uploads are refused, and jobs tried again."""
    setting_up = asyncio.create_task(_set_up(storage))
    try:
        await asyncio.wait({setting_up}, timeout=SET_UP_SECONDS)
        yield
    finally:
        setting_up.cancel()
        await asyncio.gather(setting_up, return_exceptions=True)


async def _set_up(storage: ObjectStorage) -> None:
    try:
        steps = await storage.set_up()
    except StorageUnavailable as error:
        logger.warning("The storage does not answer yet: %s", error)
        return
    for step in steps:
        if step.outcome is SetUp.REFUSED:
            logger.warning("The storage could not be set up: %s. %s", step.name, step.detail)


async def connect(dsn: str) -> asyncpg.Connection:
    """A connection outside the pool, for what holds a session: LISTEN, and the queue."""
    return await asyncpg.connect(dsn, timeout=10)
