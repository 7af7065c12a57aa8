"""Uploads in parts, on an S3.

Servers differ in what they answer when something is wrong. Completing what is completed already: Ceph says 200, others
NoSuchUpload. Completing what was aborted: Ceph says 500, "already in progress". Naming a wrong part: rclone drops the
whole upload. Small parts: rclone takes them; parts in disorder: Ceph does. So a completion first looks at what has
arrived, and all of them behave as one.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any

from botocore.exceptions import ClientError

from storage.base import InvalidKey, InvalidParts, OpenUpload, StoredPart, UploadNotFound
from storage.keys import validate_key
from storage.parts import check_parts
from storage.s3_calls import Attempts, Calls, code_of, failures

COMPLETION_SECONDS = 300.0  # Amazon: "several minutes", for the largest
ENDED = {"NoSuchUpload", "NoSuchKey", "404"}  # the second is Ceph's, for a listing
WRONG_PARTS = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML"}


class Parts:
    """Keys are validated by the caller."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        calls.client.meta.events.register("before-call.s3.CompleteMultipartUpload", _allow_minutes)

    async def create(self, key: str, content_type: str) -> str:
        with failures(key):
            answer = await self._calls.call("create_multipart_upload", Key=key, ContentType=content_type)
        return str(answer["UploadId"])

    async def list(self, key: str, upload_id: str) -> Sequence[StoredPart]:
        found: list[StoredPart] = []
        page: dict[str, Any] = {"IsTruncated": True}
        position: dict[str, Any] = {}
        while page.get("IsTruncated"):
            with _endings(key, upload_id):
                page = await self._calls.call("list_parts", Key=key, UploadId=upload_id, **position)
            found += [
                StoredPart(part["PartNumber"], quoted(part["ETag"]), part["Size"]) for part in page.get("Parts", ())
            ]
            position = {"PartNumberMarker": page.get("NextPartNumberMarker", 0)}
        return sorted(found, key=lambda part: part.number)

    async def complete(self, key: str, upload_id: str, parts: Sequence[StoredPart]) -> None:
        named = {"Parts": [{"PartNumber": part.number, "ETag": part.etag} for part in parts]}
        attempts: Attempts | None = None
        with _endings(key, upload_id):
            while True:
                # Each time: an answer that was lost may have been that it is done.
                check_parts(parts, await self.list(key, upload_id))
                try:
                    async with asyncio.timeout(COMPLETION_SECONDS):
                        await self._calls.once(
                            "complete_multipart_upload", Key=key, UploadId=upload_id, MultipartUpload=named
                        )
                except Exception as error:
                    if isinstance(error, ClientError) and code_of(error) in ENDED | WRONG_PARTS:
                        raise  # which Amazon may say with status 200, and botocore then takes for a 500
                    # The deadline is counted from here on, for a completion itself may take longer than it.
                    attempts = attempts or self._calls.attempts()
                    await attempts.pause(error)
                else:
                    return

    async def abort(self, key: str, upload_id: str) -> None:
        try:
            with _endings(key, upload_id):
                await self._calls.call("abort_multipart_upload", Key=key, UploadId=upload_id)
        except UploadNotFound:
            return

    async def open_uploads(self) -> AsyncGenerator[OpenUpload, None]:
        page: dict[str, Any] = {"IsTruncated": True}
        position: dict[str, Any] = {}
        while page.get("IsTruncated"):
            with failures("listing uploads"):
                page = await self._page_of_uploads(position)
            for item in page.get("Uploads", ()):
                if upload := _listed(item):
                    yield upload
            position = {
                "KeyMarker": page.get("NextKeyMarker", ""),
                "UploadIdMarker": page.get("NextUploadIdMarker", ""),
            }

    async def _page_of_uploads(self, position: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._calls.call("list_multipart_uploads", **position)
        except ClientError as error:
            if code_of(error) == "NoSuchUpload":  # so says rclone of a bucket that never had one
                return {}
            raise


def quoted(etag: str) -> str:
    """In quotes, as in HTTP: rclone gives it so in a head, and bare in a listing."""
    return f'"{etag.strip(chr(34))}"'


def _allow_minutes(context: dict[str, Any], **_event: Any) -> None:
    """Else the client would hang up after its read_timeout, as for everything else."""
    context["read_timeout"] = COMPLETION_SECONDS


@contextmanager
def _endings(key: str, upload_id: str) -> Iterator[None]:
    """What the storage answers becomes UploadNotFound or InvalidParts, the rest StorageUnavailable."""
    with failures(key):
        try:
            yield
        except ClientError as error:
            if code_of(error) in ENDED:
                raise UploadNotFound(upload_id) from None
            if code_of(error) in WRONG_PARTS:
                raise InvalidParts(f"{key}: the storage answered {code_of(error)}") from error
            raise


def _listed(item: dict[str, Any]) -> OpenUpload | None:
    """An upload of ours; None for one that somebody else has begun in the bucket."""
    try:
        return OpenUpload(validate_key(item["Key"]), item["UploadId"], item["Initiated"].astimezone(UTC))
    except InvalidKey:
        return None
