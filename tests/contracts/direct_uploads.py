"""What every ObjectStorage must do for clients that send bytes straight to it, and for the uploads in parts they make.

A subclass gives the `storage` fixture, its URLs' names, and says where its server differs.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from storage.base import (
    MIN_PART_BYTES,
    InvalidKey,
    InvalidParts,
    ObjectNotFound,
    ObjectStorage,
    OpenUpload,
    SetUp,
    SignedRequest,
    StoredPart,
    UploadNotFound,
)
from tests.contracts.storage import JPEG, keys_below, read, with_parameter

ORIGIN = "https://family.example.org"
LIFETIME = timedelta(minutes=5)
BODY = bytes(range(256)) * 4
TAIL = b"the last part may be short"


def part_body(number: int) -> bytes:
    """The least that a part which is not the last may have, each different from the others."""
    return random.Random(number).randbytes(MIN_PART_BYTES)


def without_parameters(url: str, *names: str) -> str:
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, strict_parsing=True) if name not in names]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def signed_put(
    storage: ObjectStorage, key: str, *, size: int = len(BODY), age: timedelta = timedelta(0)
) -> SignedRequest:
    """For BODY unless another size is given, signed so long ago."""
    now = datetime.now(UTC) - age
    return storage.presign_put(key, size=size, content_type=JPEG, now=now, expires_in=LIFETIME)


def signed_part(
    storage: ObjectStorage,
    key: str,
    upload_id: str,
    number: int,
    *,
    size: int = len(BODY),
    age: timedelta = timedelta(0),
) -> SignedRequest:
    now = datetime.now(UTC) - age
    return storage.presign_part(key, upload_id, number, size=size, now=now, expires_in=LIFETIME)


async def send(http: httpx.AsyncClient, signed: SignedRequest, body: bytes = BODY) -> httpx.Response:
    return await http.put(signed.url, content=body, headers=dict(signed.headers))


async def send_part(
    storage: ObjectStorage, http: httpx.AsyncClient, key: str, upload_id: str, *, number: int, body: bytes
) -> StoredPart:
    answer = await send(http, signed_part(storage, key, upload_id, number, size=len(body)), body)
    assert answer.status_code == 200, answer.text
    return StoredPart(number, answer.headers["etag"], len(body))


async def open_uploads(storage: ObjectStorage, key: str) -> list[OpenUpload]:
    return [upload async for upload in storage.list_multiparts() if upload.key == key]


async def assert_missing(storage: ObjectStorage, key: str) -> None:
    with pytest.raises(ObjectNotFound):
        await storage.head(key)
    assert await keys_below(storage, key) == []


class DirectUploadContract:
    expiry_parameter: str
    signature_parameter: str
    refusals: frozenset[int] = frozenset({403})
    refused_steps: Sequence[str] = ()
    drops_parts = True
    answers_preflights = True

    @pytest.fixture
    def key(self, folder: str) -> str:
        return f"{folder}/a.jpg"

    @pytest.fixture
    async def upload_id(self, storage: ObjectStorage, key: str) -> AsyncIterator[str]:
        """An upload in parts of `key`."""
        upload_id = await storage.create_multipart(key, content_type=JPEG)
        yield upload_id
        await storage.abort_multipart(key, upload_id)

    # ------------------------------------------------------------------------------------------ one PUT of an object

    async def test_a_signed_put_stores_the_bytes(
        self, storage: ObjectStorage, key: str, http: httpx.AsyncClient
    ) -> None:
        signed = signed_put(storage, key)
        answer = await send(http, signed)
        head = await storage.head(key)

        assert (answer.status_code, answer.headers["etag"]) == (200, head.etag)
        assert signed.headers == {"Content-Type": JPEG}
        assert (head.size, head.content_type) == (len(BODY), JPEG)
        assert await read(storage, key) == BODY
        assert await keys_below(storage, key) == [key]

    async def test_a_put_of_many_chunks(self, storage: ObjectStorage, key: str, http: httpx.AsyncClient) -> None:
        body = part_body(0)
        answer = await send(http, signed_put(storage, key, size=len(body)), body)

        assert answer.status_code == 200
        assert await read(storage, key) == body

    @pytest.mark.parametrize("body", [BODY[:-1], BODY + b"x", b""], ids=["shorter", "longer", "empty"])
    async def test_a_put_of_another_length_is_refused(
        self, storage: ObjectStorage, key: str, http: httpx.AsyncClient, body: bytes
    ) -> None:
        answer = await send(http, signed_put(storage, key), body)

        assert answer.status_code in self.refusals
        await assert_missing(storage, key)

    async def test_a_put_without_a_length_is_refused(
        self, storage: ObjectStorage, key: str, http: httpx.AsyncClient
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield BODY

        signed = signed_put(storage, key)
        answer = await http.put(signed.url, content=chunks(), headers=dict(signed.headers))

        assert answer.status_code in self.refusals | {411}
        await assert_missing(storage, key)

    @pytest.mark.parametrize("headers", [{"Content-Type": "text/html"}, {}], ids=["other", "none"])
    async def test_a_put_of_another_type_is_refused(
        self, storage: ObjectStorage, key: str, http: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        answer = await http.put(signed_put(storage, key).url, content=BODY, headers=headers)

        assert answer.status_code in self.refusals
        await assert_missing(storage, key)

    async def test_a_tampered_put_is_refused(
        self, storage: ObjectStorage, folder: str, http: httpx.AsyncClient
    ) -> None:
        mine, other = f"{folder}/mine.jpg", f"{folder}/other.jpg"
        signed = signed_put(storage, mine)
        for url in (
            signed.url.replace(mine, other),
            with_parameter(signed.url, self.expiry_parameter, "86399"),
            with_parameter(signed.url, self.signature_parameter, "0" * 64),
            with_parameter(signed.url, self.signature_parameter, ""),
            without_parameters(signed.url, self.signature_parameter),
            urlunsplit(urlsplit(signed.url)._replace(query="")),
        ):
            answer = await http.put(url, content=BODY, headers=dict(signed.headers))
            assert answer.status_code in self.refusals, url
        assert await keys_below(storage, folder) == []

    async def test_an_expired_put_is_refused(self, storage: ObjectStorage, key: str, http: httpx.AsyncClient) -> None:
        signed = signed_put(storage, key, age=LIFETIME + timedelta(seconds=2))
        answer = await send(http, signed)

        assert signed.expires_at < datetime.now(UTC)
        assert answer.status_code in self.refusals
        await assert_missing(storage, key)

    async def test_a_url_is_for_one_method(self, storage: ObjectStorage, key: str, http: httpx.AsyncClient) -> None:
        await storage.put(key, b"mine", size=4, content_type=JPEG)
        to_put, to_get = signed_put(storage, key), storage.presign_get(key, now=datetime.now(UTC))
        answers = [
            await http.get(to_put.url, headers=dict(to_put.headers)),
            await http.head(to_put.url, headers=dict(to_put.headers)),
            await http.put(to_get.url, content=BODY, headers=dict(to_put.headers)),
        ]

        assert {answer.status_code for answer in answers} <= self.refusals
        assert all(answer.content != b"mine" for answer in answers)
        for url in (to_put.url, to_get.url):
            assert (await http.delete(url)).status_code in self.refusals | {405}
        assert await read(storage, key) == b"mine"

    async def test_how_long_a_signature_is_good(self, storage: ObjectStorage, key: str) -> None:
        now = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
        until = now + LIFETIME
        put = storage.presign_put(key, size=1, content_type=JPEG, now=now, expires_in=LIFETIME)
        part = storage.presign_part(key, "0" * 32, 1, size=1, now=now, expires_in=LIFETIME)

        for signed in (put, part):
            assert until - timedelta(seconds=1) < signed.expires_at <= until
        assert part.headers == {}

    async def test_what_is_not_signed(self, storage: ObjectStorage, folder: str) -> None:
        now = datetime.now(UTC)
        with pytest.raises(ValueError, match="says image/jpeg, not text/html"):
            storage.presign_put(f"{folder}/a.jpg", size=1, content_type="text/html", now=now, expires_in=LIFETIME)
        with pytest.raises(ValueError, match="says image/jpeg, not text/html"):
            await storage.create_multipart(f"{folder}/a.jpg", content_type="text/html")
        for key in ("../a.jpg", "a//b.jpg", ".incoming/a.jpg"):
            with pytest.raises(InvalidKey):
                storage.presign_put(key, size=1, content_type=JPEG, now=now, expires_in=LIFETIME)
            with pytest.raises(InvalidKey):
                storage.presign_part(key, "0" * 32, 1, size=1, now=now, expires_in=LIFETIME)
            with pytest.raises(InvalidKey):
                await storage.create_multipart(key, content_type=JPEG)
        for number in (0, 10_001):
            with pytest.raises(ValueError, match=f"from 1 to 10000, not {number}"):
                signed_part(storage, f"{folder}/a.jpg", "0" * 32, number)
        zoneless = now.replace(tzinfo=None)
        with pytest.raises(ValueError, match="time zone"):
            storage.presign_put(f"{folder}/a.jpg", size=1, content_type=JPEG, now=zoneless, expires_in=LIFETIME)

    # ------------------------------------------------------------------------------------------ parts, as they arrive

    async def test_parts_arrive_in_any_order(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        assert list(await storage.list_parts(key, upload_id)) == []
        bodies = {3: TAIL, 2: part_body(2), 1: part_body(1)}
        sent = await asyncio.gather(
            *(send_part(storage, http, key, upload_id, number=number, body=body) for number, body in bodies.items())
        )

        assert list(await storage.list_parts(key, upload_id)) == sorted(sent, key=lambda part: part.number)
        assert all(part.etag.startswith('"') and part.etag.endswith('"') for part in sent)
        await assert_missing(storage, key)

    async def test_a_part_sent_again_replaces_the_former(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        await send_part(storage, http, key, upload_id, number=1, body=part_body(1))
        again = await send_part(storage, http, key, upload_id, number=1, body=BODY)
        assert list(await storage.list_parts(key, upload_id)) == [again]

        await storage.complete_multipart(key, upload_id, [again])
        assert await read(storage, key) == BODY

    @pytest.mark.parametrize("body", [BODY[:-1], BODY + b"x", b""], ids=["shorter", "longer", "empty"])
    async def test_a_part_of_another_length_is_refused(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient, body: bytes
    ) -> None:
        answer = await send(http, signed_part(storage, key, upload_id, 1), body)

        assert answer.status_code in self.refusals
        assert list(await storage.list_parts(key, upload_id)) == []

    async def test_a_tampered_part_is_refused(
        self, storage: ObjectStorage, folder: str, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        other_id = await storage.create_multipart(key, content_type=JPEG)
        url = signed_part(storage, key, upload_id, 1).url
        for tampered in (
            with_parameter(url, "partNumber", "2"),
            with_parameter(url, "uploadId", other_id),
            with_parameter(url, self.expiry_parameter, "86399"),
            with_parameter(url, self.signature_parameter, "0" * 64),
            url.replace(key, f"{folder}/other.jpg"),
            without_parameters(url, "partNumber", "uploadId"),
            without_parameters(url, "uploadId"),
            signed_part(storage, key, upload_id, 1, age=LIFETIME + timedelta(seconds=2)).url,
        ):
            assert (await http.put(tampered, content=BODY)).status_code in self.refusals, tampered
        assert (await http.get(url)).status_code in self.refusals

        assert list(await storage.list_parts(key, upload_id)) == list(await storage.list_parts(key, other_id)) == []
        assert await keys_below(storage, folder) == []
        await storage.abort_multipart(key, other_id)

    @pytest.mark.parametrize("unknown", ["0" * 32, "not-an-id", "../../key"])
    async def test_an_upload_that_nobody_began(
        self, storage: ObjectStorage, key: str, http: httpx.AsyncClient, unknown: str
    ) -> None:
        with pytest.raises(UploadNotFound):
            await storage.list_parts(key, unknown)
        with pytest.raises(UploadNotFound):
            await storage.complete_multipart(key, unknown, [StoredPart(1, f'"{"0" * 32}"', 1)])
        await storage.abort_multipart(key, unknown)
        assert (await send(http, signed_part(storage, key, unknown, 1))).status_code in self.refusals | {404}
        await assert_missing(storage, key)

    async def test_an_upload_is_for_one_key(
        self, storage: ObjectStorage, folder: str, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        part = await send_part(storage, http, key, upload_id, number=1, body=BODY)
        other = f"{folder}/other.jpg"
        with pytest.raises(UploadNotFound):
            await storage.list_parts(other, upload_id)
        with pytest.raises(UploadNotFound):
            await storage.complete_multipart(other, upload_id, [part])
        await storage.abort_multipart(other, upload_id)
        assert (await send(http, signed_part(storage, other, upload_id, 1))).status_code in self.refusals | {404}

        assert list(await storage.list_parts(key, upload_id)) == [part]
        assert await keys_below(storage, folder) == []

    # ------------------------------------------------------------------------------------------ completed, or aborted

    async def test_a_completed_upload_is_an_object(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        bodies = [part_body(1), part_body(2), TAIL]
        parts = [
            await send_part(storage, http, key, upload_id, number=number, body=body)
            for number, body in enumerate(bodies, 1)
        ]
        await assert_missing(storage, key)
        await storage.complete_multipart(key, upload_id, parts)

        head = await storage.head(key)
        assert (head.size, head.content_type) == (sum(map(len, bodies)), JPEG)
        assert await read(storage, key) == b"".join(bodies)
        assert await keys_below(storage, key) == [key]
        assert await open_uploads(storage, key) == []

    async def test_nothing_changes_what_is_completed(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        signed = signed_part(storage, key, upload_id, 1)
        part = await send_part(storage, http, key, upload_id, number=1, body=BODY)
        await storage.complete_multipart(key, upload_id, [part])
        etag = (await storage.head(key)).etag

        with pytest.raises(UploadNotFound):
            await storage.complete_multipart(key, upload_id, [part])
        with pytest.raises(UploadNotFound):
            await storage.list_parts(key, upload_id)
        assert (await send(http, signed, BODY[::-1])).status_code in self.refusals | {404}
        await storage.abort_multipart(key, upload_id)
        assert (await storage.head(key)).etag == etag
        assert await read(storage, key) == BODY
        assert await open_uploads(storage, key) == []

    async def test_completed_by_two_at_once(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        bodies = [part_body(1), TAIL]
        parts = [
            await send_part(storage, http, key, upload_id, number=number, body=body)
            for number, body in enumerate(bodies, 1)
        ]
        outcomes = await asyncio.gather(
            *(storage.complete_multipart(key, upload_id, parts) for _ in range(3)), return_exceptions=True
        )

        # Some servers say to the second, too, that it is done: so it is.
        assert None in outcomes
        assert {type(outcome) for outcome in outcomes} <= {type(None), UploadNotFound}
        assert await read(storage, key) == b"".join(bodies)

    async def test_a_completion_that_names_other_parts(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        bodies = [part_body(1), TAIL]
        first, last = [
            await send_part(storage, http, key, upload_id, number=number, body=body)
            for number, body in enumerate(bodies, 1)
        ]
        for parts in (
            [],
            [last, first],
            [first, first, last],
            [first, StoredPart(2, first.etag, last.size)],
            [first, StoredPart(2, f'"{"0" * 32}"', last.size)],
            [first, last, StoredPart(3, last.etag, last.size)],
        ):
            with pytest.raises(InvalidParts):
                await storage.complete_multipart(key, upload_id, parts)
        await assert_missing(storage, key)

        assert list(await storage.list_parts(key, upload_id)) == [first, last]
        await storage.complete_multipart(key, upload_id, [first, last])
        assert await read(storage, key) == b"".join(bodies)

    async def test_only_the_last_part_may_be_small(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        parts = [
            await send_part(storage, http, key, upload_id, number=1, body=part_body(1)[:-1]),
            await send_part(storage, http, key, upload_id, number=2, body=part_body(2)),
        ]
        with pytest.raises(InvalidParts):
            await storage.complete_multipart(key, upload_id, parts)

        await assert_missing(storage, key)
        assert list(await storage.list_parts(key, upload_id)) == parts

    async def test_parts_that_are_not_named_are_dropped(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        if not self.drops_parts:
            pytest.skip("this server can't")
        first = await send_part(storage, http, key, upload_id, number=1, body=BODY)
        await send_part(storage, http, key, upload_id, number=2, body=TAIL)
        await storage.complete_multipart(key, upload_id, [first])

        assert await read(storage, key) == BODY

    async def test_a_completed_upload_replaces(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        await storage.put(key, b"former", size=6, content_type=JPEG)
        part = await send_part(storage, http, key, upload_id, number=1, body=BODY)
        assert await read(storage, key) == b"former"
        await storage.complete_multipart(key, upload_id, [part])
        assert await read(storage, key) == BODY

    async def test_an_aborted_upload_is_gone(
        self, storage: ObjectStorage, key: str, upload_id: str, http: httpx.AsyncClient
    ) -> None:
        part = await send_part(storage, http, key, upload_id, number=1, body=BODY)
        await storage.abort_multipart(key, upload_id)
        await storage.abort_multipart(key, upload_id)

        with pytest.raises(UploadNotFound):
            await storage.complete_multipart(key, upload_id, [part])
        with pytest.raises(UploadNotFound):
            await storage.list_parts(key, upload_id)
        assert (await send(http, signed_part(storage, key, upload_id, 1))).status_code in self.refusals | {404}
        assert await open_uploads(storage, key) == []
        await assert_missing(storage, key)

    async def test_open_uploads_are_listed(self, storage: ObjectStorage, folder: str) -> None:
        keys = [f"{folder}/a.jpg", f"{folder}/a.jpg", f"{folder}/b/c.jpg"]
        ids = [await storage.create_multipart(key, content_type=JPEG) for key in keys]
        assert len({*ids}) == 3
        listed = [upload async for upload in storage.list_multiparts() if upload.key.startswith(folder)]

        assert sorted((upload.key, upload.upload_id) for upload in listed) == sorted(zip(keys, ids, strict=True))
        for upload in listed:
            assert abs(upload.begun - datetime.now(UTC)) < timedelta(minutes=1)
            assert upload.begun.tzinfo is UTC
        assert await keys_below(storage, folder) == []

        for key, upload_id in zip(keys, ids, strict=True):
            await storage.abort_multipart(key, upload_id)
        assert [upload async for upload in storage.list_multiparts() if upload.key.startswith(folder)] == []

    # ------------------------------------------------------------------------------------------ copies

    async def test_a_copy_is_another_object(self, storage: ObjectStorage, folder: str, http: httpx.AsyncClient) -> None:
        source, target = f"{folder}/source.jpg", f"{folder}/deep/target.jpg"
        signed = signed_put(storage, source)
        await storage.put(target, b"former", size=6, content_type=JPEG)
        assert (await send(http, signed)).status_code == 200
        copied = await storage.copy(source, target)
        assert await read(storage, target) == BODY
        assert (copied.key, copied.size, copied.content_type) == (target, len(BODY), JPEG)
        assert (await storage.head(target)).etag == copied.etag
        assert abs(copied.modified - datetime.now(UTC)) < timedelta(minutes=1)

        # The URL is still good, and what it puts does not reach the copy.
        assert (await send(http, signed, BODY[::-1])).status_code == 200
        assert (await read(storage, source), await read(storage, target)) == (BODY[::-1], BODY)
        await storage.delete([source])
        assert await read(storage, target) == BODY
        assert (await storage.head(target)).etag == copied.etag

    async def test_what_cannot_be_copied(self, storage: ObjectStorage, folder: str) -> None:
        there = await storage.put(f"{folder}/a.jpg", BODY, size=len(BODY), content_type=JPEG)
        with pytest.raises(ObjectNotFound):
            await storage.copy(f"{folder}/missing.jpg", f"{folder}/b.jpg")
        with pytest.raises(ValueError, match="png"):
            await storage.copy(there.key, f"{folder}/b.png")
        for source, target in ((there.key, "../b.jpg"), ("../a.jpg", f"{folder}/b.jpg")):
            with pytest.raises(InvalidKey):
                await storage.copy(source, target)
        assert await keys_below(storage, folder) == [there.key]

    # ------------------------------------------------------------------------------------------ set up for browsers

    async def test_a_page_of_any_origin_may_send(
        self, storage: ObjectStorage, key: str, http: httpx.AsyncClient
    ) -> None:
        if not self.answers_preflights:
            pytest.skip("this server can't")
        await storage.set_up()
        signed = signed_put(storage, key)
        asked = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type",
        }
        preflight = await http.options(signed.url, headers=asked)
        answer = await http.put(signed.url, content=BODY, headers={**signed.headers, "Origin": ORIGIN})
        shown = await http.get(storage.presign_get(key, now=datetime.now(UTC)).url, headers={"Origin": ORIGIN})

        assert preflight.status_code in {200, 204}
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["access-control-allow-headers"].lower() in {"content-type", "*"}
        assert (answer.status_code, shown.content) == (200, BODY)
        for each in (preflight, answer, shown):
            assert each.headers["access-control-allow-origin"] in {"*", ORIGIN}
        for each in (answer, shown):
            assert "etag" in each.headers["access-control-expose-headers"].lower()

    async def test_it_is_set_up_once(self, storage: ObjectStorage) -> None:
        await storage.set_up()
        steps = await storage.set_up()

        assert len(steps) > 0
        assert [step.name for step in steps if step.outcome is SetUp.REFUSED] == list(self.refused_steps)
        assert all(step.detail for step in steps if step.outcome is SetUp.REFUSED)
        assert {step.outcome for step in steps} <= {SetUp.THERE, SetUp.REFUSED}
