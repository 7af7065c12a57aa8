"""Objects in a bucket of Amazon S3, or of any server that speaks its API: MinIO, R2, Ceph."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header

from storage.base import (
    CHUNK_BYTES,
    InvalidKey,
    ObjectNotFound,
    SignedUrl,
    SizeMismatch,
    StorageError,
    StorageUnavailable,
    StoredObject,
)
from storage.keys import check_content_type, content_type_of, validate_key, validate_prefix
from storage.signing import (
    DEFAULT_LIFETIME,
    DEFAULT_WINDOW,
    S3Credentials,
    S3Presigner,
    SigningWindow,
    disposition_for,
)

DELETE_BATCH = 1000  # S3's limit for one request
BUFFERED_BYTES = 8 * 1024 * 1024  # a source below this is sent as bytes: one read, and nothing to go wrong midway
DEFAULT_DEADLINE = timedelta(seconds=30)  # one read_timeout, and what retries of a quicker failure take
READY_SECONDS = 5.0  # a health check that waits longer tells nothing
MISSING = {"404", "NoSuchKey", "NotFound"}  # an answer to HEAD has no body: its status serves as the code

CONFIG = AioConfig(
    signature_version="s3v4",
    s3={"addressing_style": "path", "payload_signing_enabled": False},
    # The default, a checksum trailing the body, makes every upload over https fail on Ceph.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    connect_timeout=2,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 3},  # `legacy` takes 12 s to report a refused connection
    max_pool_connections=50,
)


class S3Storage:
    """One a process, opened by `open_bucket`: it holds the connection pool."""

    name = "s3"

    def __init__(
        self,
        client: Any,
        credentials: Any,
        *,
        bucket: str,
        region: str,
        public_url: str,
        window: SigningWindow,
        deadline: timedelta,
    ) -> None:
        self.bucket = bucket
        self._client = client
        self._credentials = credentials
        self._region = region
        self._public_url = public_url
        self._window = window
        self._deadline = deadline.total_seconds()
        self._presigner = self._new_presigner(S3Credentials("", ""))

    @classmethod
    @asynccontextmanager
    async def open_bucket(
        cls,
        bucket: str,
        *,
        region: str,
        endpoint_url: str | None = None,
        public_endpoint_url: str | None = None,
        lifetime: timedelta = DEFAULT_LIFETIME,
        window: timedelta = DEFAULT_WINDOW,
        deadline: timedelta = DEFAULT_DEADLINE,
    ) -> AsyncIterator[Self]:
        """The storage, until the block is left. Credentials come by the usual AWS variables, files and roles.

        `endpoint_url` None is Amazon's. `public_endpoint_url` is written into signed URLs where clients reach the
        storage by another address. `deadline` is for one operation with its retries; while a large file is sent, for
        each of its chunks. Nothing is sent yet: `ready` and `ensure_bucket` find out whether the storage answers.
        Raises StorageError when there are no credentials.
        """
        signing_window = SigningWindow(lifetime=lifetime, window=window)
        session = get_session()
        credentials = await session.get_credentials()
        if credentials is None:
            raise StorageError("S3 needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        async with session.create_client("s3", region_name=region, endpoint_url=endpoint_url, config=CONFIG) as client:
            # Sent with every file-like body; a server that never says "continue" then stalls it past read_timeout.
            client.meta.events.unregister("before-call.s3", add_expect_header)
            storage = cls(
                client,
                credentials,
                bucket=bucket,
                region=region,
                public_url=public_endpoint_url or client.meta.endpoint_url,
                window=signing_window,
                deadline=deadline,
            )
            with _failures("signing in"):
                await storage._refresh_presigner()
            yield storage

    async def put(self, key: str, source: bytes | Path, *, size: int, content_type: str) -> StoredObject:
        check_content_type(validate_key(key), content_type)
        body = await _body(source, size)
        with _failures(key):
            async with asyncio.timeout(self._deadline) as timeout:
                if isinstance(body, _FileBody):
                    body.on_progress = lambda: timeout.reschedule(asyncio.get_running_loop().time() + self._deadline)
                try:
                    answer = await self._client.put_object(
                        Bucket=self.bucket, Key=key, Body=body, ContentLength=size, ContentType=content_type
                    )
                except BotoCoreError:
                    # aiohttp turns what the body raised into a broken connection.
                    if isinstance(body, _FileBody) and body.mismatch:
                        raise body.mismatch from None
                    raise
        return StoredObject(key, size, content_type, _quoted(answer["ETag"]), _date_of(answer))

    async def open(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if start < 0 or (end is not None and end < 0):
            raise ValueError("a range counts from the object's first byte")
        if end is not None and end <= start:
            await self.head(key)  # an empty range can't be asked for; a missing object is still missing
            return
        span: dict[str, Any] = (
            {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        )
        with _failures(key):
            try:
                answer = await self._call("get_object", Key=validate_key(key), **span)
            except ClientError as error:
                if _code(error) == "InvalidRange":  # it starts past the end
                    return
                raise
            body = answer["Body"]
            try:
                # Raises IncompleteReadError itself when the connection ends before ContentLength.
                async for chunk in body.iter_chunks(CHUNK_BYTES):
                    yield chunk
            finally:
                body.close()

    async def head(self, key: str) -> StoredObject:
        with _failures(key):
            answer = await self._call("head_object", Key=validate_key(key))
        return StoredObject(
            key,
            answer["ContentLength"],
            answer["ContentType"],
            _quoted(answer["ETag"]),
            answer["LastModified"].astimezone(UTC),
        )

    async def delete(self, keys: Iterable[str]) -> None:
        remaining = iter([{"Key": validate_key(key)} for key in keys])
        while batch := [*islice(remaining, DELETE_BATCH)]:
            with _failures("deleting"):
                answer = await self._call("delete_objects", Delete={"Objects": batch, "Quiet": True})
            if errors := answer.get("Errors"):
                raise StorageUnavailable(f"deleting {errors[0]['Key']} failed: {errors[0].get('Code')}")

    async def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        page: dict[str, Any] = {"IsTruncated": True}
        position: dict[str, Any] = {}
        while page.get("IsTruncated"):
            with _failures(f"listing {prefix}"):
                page = await self._call("list_objects_v2", Prefix=validate_prefix(prefix), **position)
            for item in page.get("Contents", ()):
                if stored := _listed(item):
                    yield stored
            position = {"ContinuationToken": page.get("NextContinuationToken", "")}

    async def ready(self) -> None:
        try:
            with _failures(f"the bucket {self.bucket}"):
                await self._refresh_presigner()
                await self._call("head_bucket", min(READY_SECONDS, self._deadline))
        except ObjectNotFound:
            raise StorageUnavailable(f"the bucket {self.bucket} does not exist") from None

    async def ensure_bucket(self) -> None:
        """Make the bucket if it is absent. Raises StorageUnavailable where that is not allowed."""
        with _failures(f"the bucket {self.bucket}"):
            try:
                await self._call("head_bucket")
            except ClientError as error:
                if _code(error) not in MISSING:
                    raise
                await self._create_bucket()

    def presign_get(self, key: str, *, now: datetime, filename: str | None = None, inline: bool = True) -> SignedUrl:
        period = self._window.at(now)
        disposition = disposition_for(key, inline=inline)
        url = self._presigner.url(validate_key(key), period=period, disposition=disposition, filename=filename)
        return SignedUrl(url, period.expires_at)

    async def _call(self, operation: str, seconds: float | None = None, **parameters: Any) -> dict[str, Any]:
        async with asyncio.timeout(seconds or self._deadline):
            answer: dict[str, Any] = await getattr(self._client, operation)(Bucket=self.bucket, **parameters)
            return answer

    async def _create_bucket(self) -> None:
        # Amazon wants the region named everywhere but in its first; others know nothing of its regions.
        abroad = "amazonaws.com" in self._client.meta.endpoint_url and self._region != "us-east-1"
        where: dict[str, Any] = {"CreateBucketConfiguration": {"LocationConstraint": self._region}} if abroad else {}
        try:
            await self._call("create_bucket", **where)
        except ClientError as error:
            # Another process was faster, or it is somebody else's, which the second look tells apart.
            if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise
            await self._call("head_bucket")

    async def _refresh_presigner(self) -> None:
        """Take up what a role's rotating credentials have become; signing itself may not wait for them."""
        frozen = await self._credentials.get_frozen_credentials()
        credentials = S3Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        if credentials != self._presigner.credentials:
            self._presigner = self._new_presigner(credentials)

    def _new_presigner(self, credentials: S3Credentials) -> S3Presigner:
        return S3Presigner(
            endpoint_url=self._public_url, bucket=self.bucket, region=self._region, credentials=credentials
        )


class _FileBody:
    """A file for botocore, a stream for aiohttp. Each attempt iterates anew, so that it can be sent again.

    aiohttp silently cuts a stream that is longer than its Content-Length, and waits for ever for the rest of a
    shorter one: the bytes are counted here.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self.mismatch: SizeMismatch | None = None
        self.on_progress: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return self._size

    def read(self, _amount: int = -1) -> bytes:
        raise NotImplementedError("botocore only looks whether there is a read")

    def seek(self, _offset: int, _whence: int = 0) -> int:
        return 0  # asked for before a retry; the next iteration starts over in any case

    async def __aiter__(self) -> AsyncIterator[bytes]:
        remaining = self._size
        file = await asyncio.to_thread(self._path.open, "rb")
        try:
            while remaining:
                # The last read asks for a byte too many, so that a longer file shows before its end has been sent.
                last = remaining <= CHUNK_BYTES
                chunk = await asyncio.to_thread(file.read, remaining + 1 if last else CHUNK_BYTES)
                if not chunk or len(chunk) > remaining:
                    self.mismatch = SizeMismatch(f"{self._path.name} changed while it was sent: not {self._size} bytes")
                    raise self.mismatch
                remaining -= len(chunk)
                self.on_progress()
                yield chunk
        finally:
            file.close()


async def _body(source: bytes | Path, size: int) -> bytes | _FileBody:
    """What to send. Raises SizeMismatch unless `source` has exactly `size` bytes."""
    actual = len(source) if isinstance(source, bytes) else (await asyncio.to_thread(source.stat)).st_size
    if actual != size:
        raise SizeMismatch(f"the source has {actual} bytes, {size} were announced")
    if isinstance(source, bytes):
        return source
    if size >= BUFFERED_BYTES:
        return _FileBody(source, size)
    content = await asyncio.to_thread(source.read_bytes)
    if len(content) != size:
        raise SizeMismatch(f"{source.name} changed while it was read: not {size} bytes")
    return content


def _listed(item: dict[str, Any]) -> StoredObject | None:
    """An object of ours; None for what somebody else has put into the bucket."""
    try:
        key = validate_key(item["Key"])
        return StoredObject(
            key, item["Size"], content_type_of(key), _quoted(item["ETag"]), item["LastModified"].astimezone(UTC)
        )
    except InvalidKey:
        return None


def _date_of(answer: dict[str, Any]) -> datetime:
    """When the storage answered, by its own clock: a PUT is not told LastModified."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)


def _quoted(etag: str) -> str:
    """In quotes, as in HTTP: rclone gives it so in a head, and bare in a listing."""
    return f'"{etag.strip(chr(34))}"'


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _failures(subject: str) -> Iterator[None]:
    """What botocore and aiohttp raise becomes ObjectNotFound(subject) or StorageUnavailable."""
    try:
        yield
    except ClientError as error:
        if _code(error) in MISSING:
            raise ObjectNotFound(subject) from None
        raise StorageUnavailable(f"{subject}: the storage answered {_code(error)}") from error
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        raise StorageUnavailable(f"{subject}: the storage does not answer ({type(error).__name__})") from error
