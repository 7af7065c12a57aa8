"""Calls to an S3: tried again while it is away, inside a deadline, and what they fail with."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from storage.base import ObjectNotFound, StorageUnavailable

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1  # doubled each time …
LONGEST_PAUSE_SECONDS = 2.0  # … up to this: what is back again is noticed soon
MISSING = {"404", "NoSuchKey", "NotFound"}  # an answer to HEAD has no body: its status serves as the code

_TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
# Said with other statuses too; the first with 400. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_TRANSIENT_CODES = {
    "RequestTimeout",
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "Throttling",
    "OperationAborted",
}


class Attempts:
    """The time in which one operation is tried, with growing pauses.

    A stream has the whole of it again whenever it comes further than ever before: large files may take hours, and one
    that breaks at the same byte each time ends.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._time = asyncio.get_running_loop().time
        self._until = self._time() + seconds
        self._pause = FIRST_PAUSE_SECONDS
        self._furthest = 0
        self._timeout: asyncio.Timeout | None = None

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What it returns; or raises, when that will not change or time is up."""
        while True:
            try:
                async with asyncio.timeout_at(self._until) as self._timeout:
                    return await attempt()
            except Exception as error:
                await self.pause(error)

    async def pause(self, error: Exception) -> None:
        """Wait before the next attempt. Raises `error` when there should be none."""
        remaining = self._until - self._time()
        if not is_transient(error) or remaining < FIRST_PAUSE_SECONDS:
            raise error
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(min(pause, remaining / 2))

    def progressed(self, position: int) -> None:
        """A stream has come to this byte."""
        now = self._time()
        if position > self._furthest:
            self._furthest = position
            self._until = now + self._seconds
            self._pause = FIRST_PAUSE_SECONDS
        # Within an attempt only standing still is a failure, be it behind what an earlier one has reached.
        if self._timeout is not None:
            with suppress(RuntimeError):  # a body may be asked for another chunk when its attempt has just ended
                self._timeout.reschedule(now + self._seconds)


class Calls:
    """One client's operations on one bucket."""

    def __init__(self, client: Any, bucket: str, deadline: float) -> None:
        self.client = client
        self.bucket = bucket
        self._deadline = deadline

    def attempts(self) -> Attempts:
        return Attempts(self._deadline)

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Raises what botocore does, once the deadline is over."""
        return await self.attempts().run(lambda: self.once(operation, **parameters))

    async def once(self, operation: str, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await getattr(self.client, operation)(Bucket=self.bucket, **parameters)
        return answer


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _TRANSIENT_STATUSES or code_of(error) in _TRANSIENT_CODES
    return isinstance(error, HTTPClientError | NoConnection | IncompleteReadError | aiohttp.ClientError | TimeoutError)


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def failures(subject: str) -> Iterator[None]:
    """What botocore and aiohttp raise becomes ObjectNotFound(subject) or StorageUnavailable."""
    try:
        yield
    except ClientError as error:
        if code_of(error) in MISSING:
            raise ObjectNotFound(subject) from None
        raise StorageUnavailable(f"{subject}: the storage answered {code_of(error)}") from error
    except (BotoCoreError, ResponseParserError, aiohttp.ClientError, TimeoutError) as error:
        raise StorageUnavailable(f"{subject}: the storage does not answer ({type(error).__name__})") from error
