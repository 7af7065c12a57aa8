"""The pages as HTTP answers."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from app.pages import CONTENT_SECURITY_POLICY, page_routes

SCRIPT = b"console.log('a script');" * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a build leaves, in small."""
    built = tmp_path / "graphiql"
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_bytes(b"<!doctype html><title>Heirloom</title>")
    (built / "favicon.svg").write_bytes(b"<svg/>")
    (built / ".built-from").write_bytes(b"a stamp")
    (built / "assets" / "index-1a2b.js").write_bytes(SCRIPT)
    (built / "assets" / "index-1a2b.js.gz").write_bytes(gzip.compress(SCRIPT))
    (tmp_path / "secret.js").write_bytes(b"outside")
    return built


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient[Litestar]]:
    with TestClient(Litestar(page_routes(folder))) as client:
        yield client


@pytest.mark.parametrize("path", ["/graphiql/", "/graphiql/?theme=dark", "/graphiql/index.html"])
def test_the_page_is_asked_for_anew_and_strictly_confined(client: TestClient[Litestar], path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.text == "<!doctype html><title>Heirloom</title>"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_policy_lets_no_other_origin_and_no_inline_script_in() -> None:
    policy = dict(directive.split(" ", 1) for directive in CONTENT_SECURITY_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["worker-src"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} <= {
        "'none'",
        "'self'",
        "'unsafe-inline'",
        "data:",
    }
    assert [name for name, sources in policy.items() if "'unsafe-inline'" in sources] == ["style-src"]


@pytest.mark.parametrize("path", ["/graphiql", "/graphiql?theme=dark"])
def test_without_its_last_slash_it_redirects(client: TestClient[Litestar], path: str) -> None:
    answer = client.get(path, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (308, "/graphiql/")


@pytest.mark.parametrize(("accepted", "sent"), [("gzip, br", "gzip"), ("identity", None)])
def test_a_hashed_asset_is_kept_for_ever(client: TestClient[Litestar], accepted: str, sent: str | None) -> None:
    answer = client.get("/graphiql/assets/index-1a2b.js", headers={"Accept-Encoding": accepted})
    assert (answer.status_code, answer.content) == (200, SCRIPT)
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers.get("content-encoding") == sent
    assert answer.headers["vary"] == "Accept-Encoding"
    # Workers are scripts with a policy of their own: it comes with them.
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_head_answers_without_a_body(client: TestClient[Litestar]) -> None:
    answer = client.head("/graphiql/")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "38")


@pytest.mark.parametrize(
    "path",
    [
        "/graphiql/nothing.js",
        "/graphiql/.built-from",
        "/graphiql/assets",
        "/graphiql/assets/",
        "/graphiql/assets/index-1a2b.js.gz",
        "/graphiql/%2e%2e/secret.js",
        "/graphiql/..%2fsecret.js",
        "/graphiql/assets/%2e%2e/%2e%2e/secret.js",
        "/graphiql/assets/..%5c..%5csecret.js",
        "/graphiql//etc/passwd.js",
        "/graphiql/a%00.js",
    ],
)
def test_nothing_else_is_served(client: TestClient[Litestar], path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert b"outside" not in answer.content


def test_pages_that_were_not_built_say_how_to_build_them(tmp_path: Path) -> None:
    with TestClient(Litestar(page_routes(tmp_path / "graphiql"))) as client:
        answer = client.get("/graphiql/")
        assert answer.status_code == 503
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert "python web/build.py" in answer.text
