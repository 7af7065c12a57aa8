"""Objects in a bucket of Amazon S3, or of any server that speaks its API: MinIO, R2, Ceph."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header

from storage.base import (
    CHUNK_BYTES,
    MAX_PARTS,
    InvalidKey,
    ObjectNotFound,
    OpenUpload,
    SetUpStep,
    SignedRequest,
    SignedUrl,
    StorageError,
    StorageUnavailable,
    StoredObject,
    StoredPart,
)
from storage.keys import check_content_type, content_type_of, validate_key, validate_prefix
from storage.s3_bodies import FileBody, body_of
from storage.s3_bucket import set_up
from storage.s3_calls import Calls, code_of, failures
from storage.s3_parts import Parts, quoted
from storage.s3_signing import S3Credentials, S3Presigner
from storage.signing import DEFAULT_LIFETIME, DEFAULT_WINDOW, Disposition, Period, SignedUrls, SigningWindow

DELETE_BATCH = 1000  # S3's limit for one request
DEFAULT_DEADLINE = timedelta(seconds=30)
DEFAULT_UNFINISHED = timedelta(days=2)
READY_SECONDS = 5.0  # a health check that waits longer tells nothing

CONFIG = AioConfig(
    signature_version="s3v4",
    s3={"addressing_style": "path", "payload_signing_enabled": False},
    # The default, a checksum trailing the body, makes every upload over https fail on Ceph.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    connect_timeout=2,
    read_timeout=20,
    # `s3_calls` tries again: botocore's own retries know no deadline, and a budget for all calls ends them early.
    retries={"mode": "standard", "total_max_attempts": 1},
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
        unfinished: timedelta,
    ) -> None:
        self.bucket = bucket
        self._calls = Calls(client, bucket, deadline.total_seconds())
        self._parts = Parts(self._calls)
        self._credentials = credentials
        self._region = region
        self._public_url = public_url
        self._ready_seconds = min(READY_SECONDS, deadline.total_seconds())
        self._unfinished = unfinished
        self._presigner = self._new_presigner(S3Credentials("", ""))
        self._urls = SignedUrls(window, self._sign)

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
        unfinished: timedelta = DEFAULT_UNFINISHED,
    ) -> AsyncIterator[Self]:
        """The storage, until the block is left. Credentials come by the usual AWS variables, files and roles.

        `endpoint_url` None is Amazon's. `public_endpoint_url` is written into signed URLs where clients reach the
        storage by another address. `deadline` is for one operation, which is tried again and again while the storage
        is away; while a large file is sent or read, for each of its chunks. `unfinished` is the age at which the bucket
        itself may drop uploads that were never completed. Nothing is sent yet: `ready` and `set_up` find out whether
        the storage answers. Raises StorageError when there are no credentials.
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
                unfinished=unfinished,
            )
            with failures("signing in"):
                await storage._refresh_presigner()
            yield storage

    async def put(
        self,
        key: str,
        source: bytes | Path,
        *,
        size: int,
        content_type: str,
        handed_over: bool = True,  # noqa: ARG002 - a bucket holds copies in any case
    ) -> StoredObject:
        check_content_type(validate_key(key), content_type)
        body = await body_of(source, size)
        attempts = self._calls.attempts()
        if isinstance(body, FileBody):
            body.on_progress = attempts.progressed

        async def send() -> dict[str, Any]:
            try:
                return await self._calls.once(
                    "put_object", Key=key, Body=body, ContentLength=size, ContentType=content_type
                )
            except BotoCoreError:
                # aiohttp turns what the body raised into a broken connection.
                if isinstance(body, FileBody) and body.mismatch:
                    raise body.mismatch from None
                raise

        with failures(key):
            answer = await attempts.run(send)
        return StoredObject(key, size, content_type, quoted(answer["ETag"]), _date_of(answer))

    async def open(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        if start < 0 or (end is not None and end < 0):
            raise ValueError("a range counts from the object's first byte")
        if end is not None and end <= start:
            await self.head(key)  # an empty range can't be asked for; a missing object is still missing
            return
        span = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        with failures(key):
            try:
                answer = await self._calls.call("get_object", Key=validate_key(key), **span)
            except ClientError as error:
                if code_of(error) == "InvalidRange":  # it starts past the end
                    return
                raise
            position, stop = start, start + answer["ContentLength"]
            attempts, broken_at = self._calls.attempts(), start
            while True:
                try:
                    # Raises IncompleteReadError itself when the connection ends before ContentLength.
                    async for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                        position += len(chunk)
                        yield chunk
                except Exception as error:
                    if position > broken_at:  # else it is the same failure still
                        attempts, broken_at = self._calls.attempts(), position
                    await attempts.pause(error)
                else:
                    return
                finally:
                    answer["Body"].close()
                answer = await self._rest(key, position, stop, answer["ETag"])

    async def _rest(self, key: str, position: int, stop: int, etag: str) -> dict[str, Any]:
        """The answer with what is missing of an object that was read up to `position`. Raises StorageUnavailable."""
        answer = await self._calls.call("get_object", Key=key, Range=f"bytes={position}-{stop - 1}", IfMatch=etag)
        if not answer.get("ContentRange", "").startswith(f"bytes {position}-") or answer["ETag"] != etag:
            answer["Body"].close()
            raise StorageUnavailable(f"{key}: the storage broke off, and does not go on where it did")
        return answer

    async def head(self, key: str) -> StoredObject:
        with failures(key):
            answer = await self._calls.call("head_object", Key=validate_key(key))
        return StoredObject(
            key,
            answer["ContentLength"],
            answer["ContentType"],
            quoted(answer["ETag"]),
            answer["LastModified"].astimezone(UTC),
        )

    async def delete(self, keys: Iterable[str]) -> None:
        remaining = iter([{"Key": validate_key(key)} for key in keys])
        while batch := [*islice(remaining, DELETE_BATCH)]:
            with failures("deleting"):
                answer = await self._calls.call("delete_objects", Delete={"Objects": batch, "Quiet": True})
            if errors := answer.get("Errors"):
                raise StorageUnavailable(f"deleting {errors[0]['Key']} failed: {errors[0].get('Code')}")

    async def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        page: dict[str, Any] = {"IsTruncated": True}
        position: dict[str, Any] = {}
        while page.get("IsTruncated"):
            with failures(f"listing {prefix}"):
                page = await self._calls.call("list_objects_v2", Prefix=validate_prefix(prefix), **position)
            for item in page.get("Contents", ()):
                if stored := _listed(item):
                    yield stored
            position = {"ContinuationToken": page.get("NextContinuationToken", "")}

    async def copy(self, source: str, target: str) -> StoredObject:
        check_content_type(validate_key(target), content_type_of(validate_key(source)))
        with failures(source):
            await self._calls.call(
                "copy_object",
                Key=target,
                CopySource={"Bucket": self.bucket, "Key": source},
                # Of the client's own headers nothing is taken over.
                MetadataDirective="REPLACE",
                ContentType=content_type_of(target),
            )
        return await self.head(target)

    async def create_multipart(self, key: str, *, content_type: str) -> str:
        check_content_type(validate_key(key), content_type)
        return await self._parts.create(key, content_type)

    async def list_parts(self, key: str, upload_id: str) -> Sequence[StoredPart]:
        return await self._parts.list(validate_key(key), upload_id)

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[StoredPart]) -> None:
        await self._parts.complete(validate_key(key), upload_id, parts)

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        await self._parts.abort(validate_key(key), upload_id)

    def list_multiparts(self) -> AsyncGenerator[OpenUpload, None]:
        return self._parts.open_uploads()

    async def set_up(self) -> Sequence[SetUpStep]:
        return await set_up(self._calls, region=self._region, unfinished=self._unfinished)

    async def ready(self) -> None:
        try:
            with failures(f"the bucket {self.bucket}"):
                async with asyncio.timeout(self._ready_seconds):
                    await self._refresh_presigner()
                    await self._calls.once("head_bucket")
        except ObjectNotFound:
            raise StorageUnavailable(f"the bucket {self.bucket} does not exist") from None

    def presign_get(self, key: str, *, now: datetime, filename: str | None = None, inline: bool = True) -> SignedUrl:
        return self._urls.get_url(key, now=now, filename=filename, inline=inline)

    def presigned(self, now: datetime) -> SignedUrls:
        return self._urls.at(now)

    def presign_put(
        self, key: str, *, size: int, content_type: str, now: datetime, expires_in: timedelta
    ) -> SignedRequest:
        check_content_type(validate_key(key), content_type)
        period = Period.starting(now, expires_in)
        url = self._presigner.put_url(key, size=size, content_type=content_type, period=period)
        return SignedRequest(url, {"Content-Type": content_type}, period.expires_at)

    def presign_part(
        self, key: str, upload_id: str, number: int, *, size: int, now: datetime, expires_in: timedelta
    ) -> SignedRequest:
        if not 1 <= number <= MAX_PARTS:
            raise ValueError(f"parts are numbered from 1 to {MAX_PARTS}, not {number}")
        period = Period.starting(now, expires_in)
        url = self._presigner.part_url(validate_key(key), upload_id, number, size=size, period=period)
        return SignedRequest(url, {}, period.expires_at)

    async def _refresh_presigner(self) -> None:
        """Take up what a role's rotating credentials have become; signing itself may not wait for them."""
        frozen = await self._credentials.get_frozen_credentials()
        credentials = S3Credentials(frozen.access_key, frozen.secret_key, frozen.token)
        if credentials != self._presigner.credentials:
            self._presigner = self._new_presigner(credentials)
            self._urls.clear()  # what the former ones signed ends with them

    def _sign(self, key: str, period: Period, disposition: Disposition, filename: str | None) -> str:
        return self._presigner.url(key, period=period, disposition=disposition, filename=filename)

    def _new_presigner(self, credentials: S3Credentials) -> S3Presigner:
        return S3Presigner(
            endpoint_url=self._public_url, bucket=self.bucket, region=self._region, credentials=credentials
        )


def _listed(item: dict[str, Any]) -> StoredObject | None:
    """An object of ours; None for what somebody else has put into the bucket."""
    try:
        key = validate_key(item["Key"])
        return StoredObject(
            key, item["Size"], content_type_of(key), quoted(item["ETag"]), item["LastModified"].astimezone(UTC)
        )
    except InvalidKey:
        return None


def _date_of(answer: dict[str, Any]) -> datetime:
    """When the storage answered, by its own clock: a PUT is not told LastModified."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)
