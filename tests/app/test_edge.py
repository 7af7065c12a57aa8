"""What every call passes before anything is answered: ids, headers, and who may read the answer."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import httpx
import pytest
import websockets

from tests.app.conftest import ORIGIN, Guarded
from tests.client import Client

pytestmark = pytest.mark.xdist_group("guarded")

MADE = re.compile(r"[0-9a-f]{32}")
API_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
NO_SOCKET = "No socket is served here, or not to this page."
JSON = {"content-type": "application/json"}
QUERY = {"query": "{ viewer { email } }"}

ANSWERS: dict[str, tuple[int, dict[str, Any]]] = {
    "query": (200, {"method": "POST", "url": "/graphql", "json": QUERY}),
    "refused query": (400, {"method": "POST", "url": "/graphql", "content": b"{", "headers": JSON}),
    "bad token": (401, {"method": "POST", "url": "/graphql", "json": QUERY, "headers": {"authorization": "Bearer x"}}),
    "not allowed": (405, {"method": "DELETE", "url": "/graphql"}),
    "nothing there": (404, {"method": "GET", "url": "/nothing/there"}),
    "forbidden file": (403, {"method": "GET", "url": "/files/a/b.jpg"}),
    "forbidden upload": (403, {"method": "PUT", "url": "/files/a/b.jpg", "content": b"x"}),
    "health": (200, {"method": "GET", "url": "/health/live"}),
    "health for admins": (401, {"method": "GET", "url": "/health/storage"}),
    "root": (302, {"method": "GET", "url": "/"}),
    "preflight": (
        204,
        {
            "method": "OPTIONS",
            "url": "/graphql",
            "headers": {"origin": ORIGIN, "access-control-request-method": "POST"},
        },
    ),
    "preflight of a file": (204, {"method": "OPTIONS", "url": "/files/a", "headers": {"origin": "https://other"}}),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_says_what_a_browser_may_do_with_it(caller: httpx.AsyncClient, name: str) -> None:
    status, request = ANSWERS[name]
    answer = await caller.request(**request)
    assert answer.status_code == status, answer.text
    headers = answer.headers
    of_files = request["url"].startswith("/files/")
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    assert headers.get_list("strict-transport-security") == ["max-age=31536000"]
    assert headers.get_list("cross-origin-resource-policy") == ["cross-origin" if of_files else "same-origin"]
    assert len(headers.get_list("content-security-policy")) == 1
    assert of_files or headers["content-security-policy"] == API_POLICY
    assert headers.get_list("cache-control") == ["no-store"]
    assert MADE.fullmatch(headers["x-request-id"])
    assert "server" not in headers


async def test_a_page_has_a_policy_of_its_own(caller: httpx.AsyncClient) -> None:
    page = await caller.get("/graphiql/")
    assert page.status_code in {200, 503}  # built or not
    assert len(page.headers.get_list("content-security-policy")) == 1
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    assert page.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_over_http_no_browser_is_told_to_come_by_https(client: Client) -> None:
    answer = await client.http.get("/health/live")
    assert "strict-transport-security" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("given", ["0123456789abcdef", "req-1:2_3/4+5=.", "a" * 128])
async def test_a_sane_request_id_is_kept(caller: httpx.AsyncClient, given: str) -> None:
    answer = await caller.get("/health/live", headers={"x-request-id": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize(
    "given", [["short"], ["a" * 129], ["has a space in it"], ['quote"quote"'], ["line\\nbreak"], ["a" * 16, "b" * 16]]
)
async def test_another_gets_a_new_one(caller: httpx.AsyncClient, given: list[str]) -> None:
    answer = await caller.get("/health/live", headers=[("x-request-id", each) for each in given])
    assert MADE.fullmatch(answer.headers["x-request-id"])


async def test_two_requests_never_share_an_id(caller: httpx.AsyncClient) -> None:
    ids = [(await caller.get("/health/live")).headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3


async def test_a_page_of_an_allowed_origin_may_read_what_it_needs(caller: httpx.AsyncClient) -> None:
    answer = await caller.post("/graphql", json=QUERY, headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-expose-headers"] == "Retry-After, WWW-Authenticate, X-Request-Id"
    stranger = await caller.post("/graphql", json=QUERY, headers={"origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in stranger.headers


async def test_a_socket_is_told_its_id(guarded: Guarded) -> None:
    given = secrets.token_hex(8)
    async with websockets.connect(
        f"{guarded.url.replace('http', 'ws', 1)}/graphql",
        subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
        additional_headers={"x-request-id": given},
    ) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == given
    line = guarded.told(given)
    assert (line["method"], line["route"], line["status"]) == ("WEBSOCKET", "/graphql", 101)


@pytest.mark.parametrize(
    ("path", "origin", "body"),
    [
        (
            "/graphql",
            "https://evil.example.org",
            {"errors": [{"message": NO_SOCKET, "extensions": {"code": "FORBIDDEN"}}]},
        ),
        ("/nothing/there", None, {"error": NO_SOCKET}),
        ("/health/live", None, {"error": NO_SOCKET}),
    ],
)
async def test_a_refused_socket_is_answered_like_any_request(
    guarded: Guarded, path: str, origin: str | None, body: Any
) -> None:
    given = secrets.token_hex(8)
    headers = {"x-request-id": given, **({"origin": origin} if origin else {})}
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"{guarded.url.replace('http', 'ws', 1)}{path}", additional_headers=headers)
    answer = refused.value.response
    assert (answer.status_code, answer.headers["x-request-id"]) == (403, given)
    assert answer.headers["content-security-policy"] == API_POLICY
    assert json.loads(answer.body or b"") == body


async def test_a_method_of_no_use_is_told_as_graphql_tells(caller: httpx.AsyncClient) -> None:
    answer = await caller.head("/graphql")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/json; charset=utf-8")
