"""A server as a deployment on the open network has it: limits on, behind a proxy, by https, with an outside issuer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import orjson
import pytest

from tests.app.identity_provider import AUDIENCE, ISSUER, IdentityProvider, Key, ec_key, ed_key, provider, rsa_key
from tests.server import Server, running, wait_for

ORIGIN = "https://family.example.org"
# Small, so that a test meets each of them; and slow, so that nothing comes back while it runs.
REQUESTS, FILES, UPLOADS, SIGN_INS = 30, 15, 4, 2  # a sign-in counts as five requests
SLOWLY = 36_000
_addresses = count(1)


@dataclass(frozen=True)
class Guarded:
    server: Server
    issuer: IdentityProvider
    keys: list[Key]

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def environment(self) -> dict[str, str]:
        return self.server.environment

    def lines(self) -> list[dict[str, Any]]:
        """The log, each line of which is a JSON object."""
        text = (self.server.data_dir.parent / "serve.log").read_bytes()
        return [orjson.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]

    def told(self, request_id: str) -> dict[str, Any]:
        """The one line about a request, which is written when its answer has gone."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines() if line.get("request_id") == request_id and "method" in line]

        wait_for(lambda: bool(found()))
        [line] = found()
        return line


@pytest.fixture(scope="session")
def guarded(database_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with provider() as issuer:
        keys = [rsa_key("first"), ed_key("second"), ec_key("third")]
        issuer.published = [key.published() for key in keys]
        settings = {
            "public_url": "https://api.example.org",
            "allowed_origins": ORIGIN,
            "trusted_proxies": "127.0.0.1",
            "rate_limits": "on",
            "request_rate": f"{REQUESTS}/{SLOWLY}",
            "file_rate": f"{FILES}/{SLOWLY}",
            "upload_rate": f"{UPLOADS}/{SLOWLY}",
            "sign_in_rate": f"{SIGN_INS}/{SLOWLY}",
            "jwks_url": issuer.url,
            "token_issuer": ISSUER,
            "token_audience": AUDIENCE,
        }
        with running(tmp_path_factory.mktemp("guarded"), database_dsn, worker=False, **settings) as server:
            yield Guarded(server, issuer, keys)


def new_address() -> str:
    """Nobody's so far: each is counted by its own."""
    number = next(_addresses)
    return f"198.18.{number >> 8}.{number & 255}"


@pytest.fixture
async def caller(guarded: Guarded) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody at an address of their own."""
    headers = {"x-forwarded-for": new_address()}
    async with httpx.AsyncClient(base_url=guarded.url, headers=headers, timeout=30) as caller:
        yield caller
