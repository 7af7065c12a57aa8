"""The routes that serve local storage, over real HTTP."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psutil
import pytest

from app.files import RangeNotSatisfiable, parse_range
from storage.base import StoredObject
from storage.local import LocalStorage
from storage.signing import Disposition
from tests.contracts.waiting import eventually

CONTENT = b"0123456789"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture
async def stored(local_storage: LocalStorage) -> StoredObject:
    return await local_storage.put(f"files/{uuid4()}.jpg", CONTENT, size=len(CONTENT), content_type="image/jpeg")


@pytest.fixture
def url(local_storage: LocalStorage, stored: StoredObject) -> str:
    return local_storage.presign_get(stored.key, now=datetime.now(UTC), filename="a.jpg").url


def signed(storage: LocalStorage, key: str, *, seconds: float = 60, disposition: Disposition = "inline") -> str:
    """A URL for any key at all, which `presign_get` would refuse."""
    expires = int(datetime.now(UTC).timestamp() + seconds)
    base = storage.presign_get("a.jpg", now=datetime.now(UTC)).url.partition("a.jpg")[0]
    return base + key + "?" + storage.signer.query("GET", key, expires=expires, disposition=disposition, filename=None)


async def test_the_whole_file(http: httpx.AsyncClient, url: str, stored: StoredObject) -> None:
    answer = await http.get(url)
    headers = dict(answer.headers)
    max_age = re.fullmatch(r"private, max-age=(\d+), immutable", headers.pop("cache-control"))
    for name in ("date", "server"):
        headers.pop(name, None)

    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert max_age is not None
    assert 1800 <= int(max_age[1]) <= 3600
    assert headers == {
        "accept-ranges": "bytes",
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag",
        "content-disposition": 'inline; filename="a.jpg"',
        "content-length": "10",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; sandbox",
        "content-type": "image/jpeg",
        "cross-origin-resource-policy": "cross-origin",
        "etag": stored.etag,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


async def test_head_says_the_same_without_the_bytes(http: httpx.AsyncClient, url: str) -> None:
    got, head = await http.get(url), await http.head(url, headers={"Range": "bytes=1-2"})
    same = {"content-length", "content-type", "etag", "content-disposition", "accept-ranges"}
    assert (head.status_code, head.content) == (200, b"")
    assert {name: head.headers[name] for name in same} == {name: got.headers[name] for name in same}
    refused = await http.head(url + "0")
    assert (refused.status_code, refused.content) == (403, b"")


@pytest.mark.parametrize(
    ("wanted", "content", "content_range"),
    [
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", CONTENT, "bytes 0-9/10"),
        ("bytes=5-9999", b"56789", "bytes 5-9/10"),
    ],
)
async def test_one_range(http: httpx.AsyncClient, url: str, wanted: str, content: bytes, content_range: str) -> None:
    answer = await http.get(url, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (206, content)
    assert answer.headers["content-range"] == content_range
    assert answer.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "bytes=4-2", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=1", ""])
async def test_other_ranges_get_the_whole(http: httpx.AsyncClient, url: str, wanted: str) -> None:
    answer = await http.get(url, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", "bytes=-0"])
async def test_a_range_outside(http: httpx.AsyncClient, url: str, wanted: str) -> None:
    answer = await http.get(url, headers={"Range": wanted})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */10"
    assert CONTENT not in answer.content


async def test_if_range(http: httpx.AsyncClient, url: str, stored: StoredObject) -> None:
    for condition, status in (
        (stored.etag, 206),
        ('"another"', 200),
        (f"W/{stored.etag}", 200),
        ("Sun, 01 Feb 2026 12:00:00 GMT", 200),
    ):
        answer = await http.get(url, headers={"Range": "bytes=2-4", "If-Range": condition})
        assert answer.status_code == status, condition
        assert answer.content == (b"234" if status == 206 else CONTENT)


async def test_if_none_match(http: httpx.AsyncClient, url: str, stored: StoredObject) -> None:
    for condition in (stored.etag, f"W/{stored.etag}", f'"a", {stored.etag}', "*"):
        for answer in (
            await http.get(url, headers={"If-None-Match": condition}),
            await http.head(url, headers={"If-None-Match": condition}),
            await http.get(url, headers={"If-None-Match": condition, "Range": "bytes=99-"}),
        ):
            assert (answer.status_code, answer.content) == (304, b""), condition
            assert answer.headers["etag"] == stored.etag
            assert answer.headers["cache-control"].startswith("private, max-age=")
    for condition in ('"another"', "", stored.etag.strip('"')):
        assert (await http.get(url, headers={"If-None-Match": condition})).status_code == 200


async def test_replaced_bytes_have_another_etag(
    http: httpx.AsyncClient, url: str, local_storage: LocalStorage, stored: StoredObject
) -> None:
    await local_storage.put(stored.key, b"9876543210", size=10, content_type="image/jpeg")
    answer = await http.get(url, headers={"If-None-Match": stored.etag})
    assert (answer.status_code, answer.content) == (200, b"9876543210")


async def test_a_json_file_is_only_ever_downloaded(http: httpx.AsyncClient, local_storage: LocalStorage) -> None:
    stored = await local_storage.put(f"files/{uuid4()}.json", b"{}", size=2, content_type="application/json")
    answer = await http.get(local_storage.presign_get(stored.key, now=datetime.now(UTC), filename="x.json").url)
    assert answer.headers["content-disposition"] == 'attachment; filename="x.json"'
    assert answer.headers["content-type"] == "application/json"


async def test_without_a_valid_signature(
    http: httpx.AsyncClient, url: str, local_storage: LocalStorage, stored: StoredObject
) -> None:
    bare = url.partition("?")[0]
    missing = local_storage.presign_get("files/missing.jpg", now=datetime.now(UTC)).url.partition("?")[0]
    for refused in (
        bare,
        missing,
        f"{bare}?signature=",
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("disposition=inline", "disposition=attachment"),
        url.replace("filename=a.jpg", "filename=b.jpg"),
        re.sub(r"expires=\d+", "expires=9999999999", url),
        re.sub(r"expires=\d+", "expires=%0A", url),
        re.sub(r"signature=\w+", "signature=%ff%c3%28", url),
        signed(local_storage, stored.key, seconds=-1),
    ):
        answer = await http.get(refused)
        assert answer.status_code == 403, refused
        assert list(answer.json()) == ["error"]
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers


async def test_an_expired_url_says_so(
    http: httpx.AsyncClient, local_storage: LocalStorage, stored: StoredObject
) -> None:
    old = local_storage.presign_get(stored.key, now=datetime.now(UTC) - timedelta(hours=2)).url
    answer = await http.get(old)
    assert (answer.status_code, answer.json()) == (403, {"error": "the URL has expired"})


async def test_a_deleted_object(
    http: httpx.AsyncClient, url: str, local_storage: LocalStorage, stored: StoredObject
) -> None:
    await local_storage.delete([stored.key])
    answer = await http.get(url)
    assert (answer.status_code, answer.json()) == (404, {"error": "there is no such file"})


async def test_only_get_and_head(http: httpx.AsyncClient, url: str, local_storage: LocalStorage) -> None:
    for method in ("POST", "DELETE", "PATCH"):
        assert (await http.request(method, url, content=b"x")).status_code == 405
    assert (await http.put(url, content=b"x")).status_code == 403
    assert (await http.get(url)).content == CONTENT


def raw_get(url: str, target: str) -> tuple[int, bytes]:
    """GET of a target exactly as it stands: httpx would tidy it up."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.putrequest("GET", target, skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("signed_by_us", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "a/../../secret.jpg",
        "%2e%2e/secret.jpg",
        "..%2fsecret.jpg",
        "%2e%2e%2fsecret.jpg",
        "..%5csecret.jpg",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "a.jpg%00",
        "%00",
        ".incoming/a.jpg",
        "",
    ],
)
async def test_no_path_leads_out(local_storage: LocalStorage, tmp_path: Path, path: str, signed_by_us: bool) -> None:
    """Not even one that we had signed, which no code of ours can do."""
    query = urlsplit(signed(local_storage, path if signed_by_us else "a.jpg")).query
    status, content = await asyncio.to_thread(raw_get, signed(local_storage, ""), f"/files/{path}?{query}")
    assert status in {403, 404}
    assert b"root:" not in content
    assert set(json.loads(content)) <= {"error", "detail", "status_code"}


async def test_a_client_that_goes_away_frees_the_file(local_storage: LocalStorage, tmp_path: Path) -> None:
    size = 64 * 1024 * 1024  # far more than sockets buffer
    (tmp_path / "large").touch()
    with (tmp_path / "large").open("r+b") as file:
        file.truncate(size)
    key = f"files/{uuid4()}.bin"
    await local_storage.put(key, tmp_path / "large", size=size, content_type="application/octet-stream")

    def is_open() -> bool:
        return any(file.path.endswith(key) for file in psutil.Process().open_files())

    url = local_storage.presign_get(key, now=datetime.now(UTC)).url
    async with httpx.AsyncClient() as http, http.stream("GET", url) as answer:
        assert answer.headers["content-length"] == str(size)
        await anext(answer.aiter_bytes())
        assert is_open()
    await eventually(lambda: not is_open())


def test_ranges_of_an_empty_file() -> None:
    assert parse_range(None, 0) is None
    for wanted in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        with pytest.raises(RangeNotSatisfiable):
            parse_range(wanted, 0)
