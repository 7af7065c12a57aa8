"""How often somebody may do something.

GCRA (ITU-T I.371): for each of them one number is kept, the moment at which everything done so far would be done if it
had been done at the allowed pace. It may be a whole period ahead of the clock, and no further. So all of a period's
number may come at once, and what was used comes back evenly.

The numbers are in the memory of the process. Where there is a Redis they are in that, for all processes together; while
it is away each process counts for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from app import calls, metrics
from app.errors import RateLimited
from app.settings import Rate, Settings

logger = logging.getLogger(__name__)

# Of each kind; a bucket takes 200 bytes. Those not used for longest go first, nearly all of which are full again.
MOST_BUCKETS: Final = 50_000
ROUNDING: Final = 1e-6  # seconds, by which a moment in a float of today may be wrong
REDIS_SECONDS: Final = 0.1  # that a request waits for Redis
REDIS_AWAY_SECONDS: Final = 2.0  # that it is left alone for when it didn't answer
# A whole family may mistype its passwords behind one address. The account's own bucket is larger, so that nobody can
# shut somebody else out from one place; and still nobody guesses a password, from however many.
PLACES_OF_AN_ACCOUNT: Final = 5
# Each password that is looked at costs a core a tenth of a second, the right one too.
PASSWORDS_OF_A_PLACE: Final = 10  # times the sign-ins that may fail


class Limit(StrEnum):
    """What is counted, and by whom."""

    REQUEST = "request"  # GraphQL over HTTP and operations over sockets, by user or address
    FILE = "file"  # signed URLs of local storage and static pages, by address
    UPLOAD = "upload"  # files taken in, by user
    SIGN_IN = "sign-in"  # accounts made, and sign-ins that fail, by site
    HASH = "hash"  # passwords looked at, right or wrong, by site
    ACCOUNT = "account"  # sign-ins that fail, by account


def rates(settings: Settings) -> dict[Limit, Rate]:
    """Empty where limits are off."""
    if settings.rate_limits == "off":
        return {}
    sign_in = settings.sign_in_rate
    return {
        Limit.REQUEST: settings.request_rate,
        Limit.FILE: settings.file_rate,
        Limit.UPLOAD: settings.upload_rate,
        Limit.SIGN_IN: sign_in,
        Limit.HASH: Rate(sign_in.count * PASSWORDS_OF_A_PLACE, sign_in.seconds),
        Limit.ACCOUNT: Rate(sign_in.count * PLACES_OF_AN_ACCOUNT, sign_in.seconds),
    }


class Buckets(Protocol):
    """`cost` may be negative, which gives back; with `keep` False it is only looked whether there is room."""

    async def spend(self, limit: Limit, key: bytes, rate: Rate, cost: int, *, keep: bool) -> float:
        """0, or the seconds after which there is room; then nothing is spent."""
        ...


@dataclass(slots=True)
class MemoryBuckets:
    clock: Callable[[], float] = time.monotonic
    most: int = MOST_BUCKETS
    _due: dict[Limit, OrderedDict[bytes, float]] = field(
        default_factory=lambda: {limit: OrderedDict() for limit in Limit}
    )

    async def spend(self, limit: Limit, key: bytes, rate: Rate, cost: int, *, keep: bool) -> float:
        now, due_of = self.clock(), self._due[limit]
        due = max(due_of.get(key, now), now) + cost * rate.interval
        if cost > 0 and due - now > rate.seconds + ROUNDING:
            return due - now - rate.seconds
        if keep:
            due_of[key] = due
            due_of.move_to_end(key)
            self._forget(due_of, now)
        return 0.0

    def _forget(self, due_of: OrderedDict[bytes, float], now: float) -> None:
        """The longest unused, where it is full again or there are too many: one or two each time keep pace."""
        for _ in range(2):
            key, due = next(iter(due_of.items()), (b"", 0.0))
            if not due_of or (due > now and len(due_of) <= self.most):
                return
            del due_of[key]


# Redis's own clock, since those of several machines differ. A bucket that is full again goes by itself.
SPEND: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local interval, seconds, cost, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + cost * interval
if cost > 0 and due - now > seconds + 0.000001 then
    return string.format('%.6f', due - now - seconds)
end
if keep == '1' then
    if due > now then
        redis.call('SET', KEYS[1], string.format('%.6f', due), 'PX', math.ceil((due - now) * 1000))
    else
        redis.call('DEL', KEYS[1])
    end
end
return '0'
"""


class SharedBuckets:
    """In Redis, by one script a call; `failures` are the exceptions that say Redis is away."""

    def __init__(self, redis: Any, failures: tuple[type[Exception], ...]) -> None:
        self._script = redis.register_script(SPEND)
        self._failures: tuple[type[Exception], ...] = (*failures, OSError, TimeoutError)
        self._memory = MemoryBuckets()
        self._away_until = 0.0

    async def spend(self, limit: Limit, key: bytes, rate: Rate, cost: int, *, keep: bool) -> float:
        if time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(REDIS_SECONDS):
                    name = f"heirloom:rate:{limit}:{key.hex()}"
                    return float(await self._script(keys=[name], args=[rate.interval, rate.seconds, cost, int(keep)]))
            except self._failures as error:
                logger.warning("Redis is away, and rates are counted in this process: %r", error)
                self._away_until = time.monotonic() + REDIS_AWAY_SECONDS
        return await self._memory.spend(limit, key, rate, cost, keep=keep)


class RateLimits:
    """What has no rate has no limit. `secret` keeps names and addresses from whoever can read the buckets."""

    def __init__(self, rates: Mapping[Limit, Rate], buckets: Buckets, secret: bytes) -> None:
        self._rates = rates
        self._buckets = buckets
        self._secret = secret

    async def spend(self, limit: Limit, who: str, cost: int = 1) -> None:
        """Raises RateLimited."""
        await self._spend(limit, who, cost, keep=True)

    async def check(self, limit: Limit, who: str) -> None:
        """Whether there is room for one. Raises RateLimited."""
        await self._spend(limit, who, 1, keep=False)

    async def give_back(self, limit: Limit, who: str) -> None:
        await self._spend(limit, who, -1, keep=True)

    async def _spend(self, limit: Limit, who: str, cost: int, *, keep: bool) -> None:
        rate = self._rates.get(limit)
        if rate is None:
            return
        key = hashlib.blake2b(who.encode("utf-8", "surrogatepass"), digest_size=16, key=self._secret).digest()
        # What is dearer than all that there is takes all.
        wait = await self._buckets.spend(limit, key, rate, min(cost, rate.count), keep=keep)
        if wait > 0:
            metrics.rate_limited(limit)
            raise RateLimited(wait)


def caller(user: object = None) -> str:
    """By what the call at hand is counted: its user, or where it comes from."""
    if user is not None:
        return f"user {user}"
    call = calls.current()
    return f"address {call.network}" if call else "this process"


def site() -> str:
    """Where the call at hand comes from, as far as one customer of a provider reaches."""
    call = calls.current()
    return f"site {call.site}" if call else "this process"
