"""Signed URLs as clients get them, through the real server: who has one may read, and no other way leads there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from app.auth import derived_key
from app.settings import Settings
from storage.signing import Disposition, UrlSigner
from tests.client import Account, Json
from tests.pictures import photograph, tiny_pdf
from tests.server import SECRET_KEY, Server, running

LIFETIME: timedelta = Settings().url_lifetime
CONTENT = photograph(64, 48)
FOREVER = "9999999999"


@pytest.fixture
async def anybody() -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who knows an address, and nothing else."""
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture
async def media(ada: Account) -> Json:
    return await ada.uploaded(CONTENT, "grandmother's garden.jpg")


def with_query(url: str, **changes: str | None) -> str:
    """The URL with parameters changed, added, or with None removed."""
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **changes}
    kept = {name: value for name, value in query.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(kept, quote_via=quote)))


def with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=path))


def signed(url: str, *, expires: datetime, secret: str = SECRET_KEY, disposition: Disposition = "inline") -> str:
    """What the server itself would have made, at another time or with another secret."""
    key = urlsplit(url).path.removeprefix("/files/")
    signer = UrlSigner(derived_key(secret, "files"))
    query = signer.query("GET", key, expires=int(expires.timestamp()), disposition=disposition, filename=None)
    return urlunsplit(urlsplit(url)._replace(query=query))


async def assert_refused(anybody: httpx.AsyncClient, url: str) -> None:
    """403 to everybody, without a byte of the file, and kept by no cache."""
    answer = await anybody.get(url)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert list(answer.json()) == ["error"]
    assert (await anybody.get(url, headers={"Range": "bytes=0-0"})).status_code == 403
    assert (await anybody.head(url)).status_code == 403


async def test_whoever_has_the_url_has_the_file(anybody: httpx.AsyncClient, eve: Account, media: Json) -> None:
    unseen = await eve.ask("query($id: ID!) { media(id: $id) { url } }", id=media["id"])
    assert unseen is None
    answer = await anybody.get(media["url"])
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_what_a_file_is_served_with(anybody: httpx.AsyncClient, media: Json) -> None:
    answer = await anybody.get(media["url"])
    headers = dict(answer.headers)
    max_age = re.fullmatch(r"private, max-age=(\d+), immutable", headers.pop("cache-control"))
    assert max_age is not None
    assert LIFETIME / 2 <= timedelta(seconds=int(max_age[1])) <= LIFETIME
    assert re.fullmatch(r'"[0-9a-f-]+"', headers.pop("etag"))
    headers.pop("date")
    assert re.fullmatch(r"[0-9a-f]{32}", headers.pop("x-request-id"))
    assert headers == {
        "accept-ranges": "bytes",
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag",
        "content-disposition": 'inline; filename="grandmother\'s garden.jpg"',
        "content-length": str(len(CONTENT)),
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; sandbox",
        "content-type": "image/jpeg",
        "cross-origin-resource-policy": "cross-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


async def test_a_name_in_another_script(anybody: httpx.AsyncClient, ada: Account) -> None:
    media = await ada.uploaded(tiny_pdf(), "завещание “копия”.html")
    answer = await anybody.get(media["url"])
    assert (answer.status_code, answer.content) == (200, tiny_pdf())
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == (
        f"inline; filename=\"_________ _______.html\"; filename*=UTF-8''{quote('завещание “копия”.html', safe='')}"
    )


async def test_ranges_and_conditions(anybody: httpx.AsyncClient, media: Json) -> None:
    part = await anybody.get(media["url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, CONTENT[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(CONTENT)}"

    outside = await anybody.get(media["url"], headers={"Range": f"bytes={len(CONTENT)}-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")

    unchanged = await anybody.get(media["url"], headers={"If-None-Match": part.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == part.headers["etag"]

    head = await anybody.head(media["url"])
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))


async def test_a_changed_url_is_refused(anybody: httpx.AsyncClient, media: Json) -> None:
    url: str = media["url"]
    signature = dict(parse_qsl(urlsplit(url).query))["signature"]
    flipped = ("1" if signature[0] == "0" else "0") + signature[1:]
    for changed in (
        with_query(url, signature=flipped),
        with_query(url, signature=signature[:-1]),
        with_query(url, signature=""),
        with_query(url, signature=None),
        with_query(url, expires=FOREVER),
        with_query(url, expires=None),
        with_query(url, expires="soon"),
        with_query(url, filename="invoice.exe"),
        with_query(url, filename=None),
        with_query(url, disposition="attachment"),
        with_query(url, disposition=None),
        urlunsplit(urlsplit(url)._replace(query="")),
    ):
        await assert_refused(anybody, changed)
    # None of this has done the URL itself any harm.
    assert (await anybody.get(url)).content == CONTENT


async def test_a_signature_opens_no_other_file(
    anybody: httpx.AsyncClient, server: Server, ada: Account, eve: Account
) -> None:
    adas = await ada.settled((await ada.uploaded(photograph(640, 480)))["id"])
    eves = await eve.uploaded(photograph(64, 48))
    thumbnail = adas["variants"][0]["url"]
    for target in (adas["url"], thumbnail, f"{server.url}/files/image/nothing.jpg"):
        await assert_refused(anybody, with_path(eves["url"], urlsplit(target).path))
    # Nor does the original's open a variant, or the other way about.
    await assert_refused(anybody, with_path(adas["url"], urlsplit(thumbnail).path))
    await assert_refused(anybody, with_path(thumbnail, urlsplit(adas["url"]).path))


async def test_an_expired_url_is_refused(anybody: httpx.AsyncClient, media: Json) -> None:
    now = datetime.now(UTC)
    # The same way of signing, with time left: so it is the time alone that is refused.
    assert (await anybody.get(signed(media["url"], expires=now + timedelta(minutes=1)))).content == CONTENT
    await assert_refused(anybody, signed(media["url"], expires=now - timedelta(seconds=1)))
    await assert_refused(anybody, signed(media["url"], expires=datetime.fromtimestamp(0, UTC)))


async def test_another_secret_is_refused(anybody: httpx.AsyncClient, media: Json) -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)
    await assert_refused(anybody, signed(media["url"], expires=later, secret="f" * 64))


async def test_a_token_is_no_signature(ada: Account, media: Json) -> None:
    assert (await ada.http.get(urlunsplit(urlsplit(media["url"])._replace(query="")))).status_code == 403


async def test_only_get_and_head(anybody: httpx.AsyncClient, media: Json) -> None:
    for method in ("POST", "DELETE", "PATCH"):
        assert (await anybody.request(method, media["url"], content=b"other")).status_code == 405
    assert (await anybody.put(media["url"], content=b"other")).status_code == 403
    assert (await anybody.get(media["url"])).content == CONTENT


async def test_any_origin_may_read_and_write_whatever_the_api_allows(
    anybody: httpx.AsyncClient, database_dsn: str, tmp_path: Path
) -> None:
    ours, another = "https://ours.example", "https://another.example"
    preflight = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
    with running(tmp_path, database_dsn, worker=False, allowed_origins=ours) as server:
        file, api = f"{server.url}/files/image/a.jpg", f"{server.url}/graphql"
        for origin in (ours, another):
            asked = await anybody.options(file, headers=preflight | {"Origin": origin})
            assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")
            assert asked.headers["access-control-allow-methods"] == "GET, HEAD, PUT"
            assert asked.headers["access-control-allow-headers"] == "content-type"
            for method in ("GET", "PUT"):
                refused = await anybody.request(method, file, headers={"Origin": origin}, content=b"")
                assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (403, "*")
        # The API's own settings stay as they were.
        asking = {"Access-Control-Request-Method": "POST"}
        allowed = await anybody.options(api, headers=asking | {"Origin": ours})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, ours)
        denied = await anybody.options(api, headers=asking | {"Origin": another})
        assert denied.status_code == 400
        assert "access-control-allow-origin" not in denied.headers


async def test_a_url_stays_the_same_for_some_minutes(ada: Account, media: Json) -> None:
    query = "query($id: ID!) { media(id: $id) { url urlExpiresAt } }"
    asked = [await ada.ask(query, id=media["id"]) for _ in range(3)]
    # One boundary of the window at most can lie between three questions.
    assert asked[1] in (asked[0], asked[2])
    for answer in asked:
        expires_at = datetime.fromisoformat(answer["urlExpiresAt"])
        assert dict(parse_qsl(urlsplit(answer["url"]).query))["expires"] == str(int(expires_at.timestamp()))
        assert LIFETIME / 2 <= expires_at - datetime.now(UTC) <= LIFETIME
