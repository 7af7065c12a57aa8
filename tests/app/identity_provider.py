"""An outside issuer of tokens: its keys over HTTP, and what it signs with them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://id.example.org/realms/families"
AUDIENCE = "heirloom"


@dataclass
class Key:
    kid: str
    algorithm: str
    private: Any

    def published(self) -> dict[str, Any]:
        public = self.private.public_key()
        kinds: dict[str, Callable[..., Any]] = {
            "RS256": RSAAlgorithm.to_jwk,
            "ES256": ECAlgorithm.to_jwk,
            "EdDSA": OKPAlgorithm.to_jwk,
        }
        jwk: dict[str, Any] = kinds[self.algorithm](public, as_dict=True)
        return {**jwk, "kid": self.kid, "alg": self.algorithm, "use": "sig"}


def rsa_key(kid: str) -> Key:
    return Key(kid, "RS256", rsa.generate_private_key(65537, 2048))


def ec_key(kid: str) -> Key:
    return Key(kid, "ES256", ec.generate_private_key(ec.SECP256R1()))


def ed_key(kid: str) -> Key:
    return Key(kid, "EdDSA", ed25519.Ed25519PrivateKey.generate())


@dataclass
class IdentityProvider:
    """`published` is what it answers for its keys; None is a 500."""

    url: str = ""
    published: list[dict[str, Any]] | None = field(default_factory=list)
    asked: int = 0

    def document(self) -> bytes | None:
        self.asked += 1
        return None if self.published is None else json.dumps({"keys": self.published}).encode()


def token(key: Key, subject: str, *, algorithm: str | None = None, **claims: Any) -> str:
    """As the issuer makes it, good for a quarter of an hour, save for `claims`; None leaves one out."""
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 900, **claims}
    said = {name: value for name, value in usual.items() if value is not None}
    return jwt.encode(said, key.private, algorithm=algorithm or key.algorithm, headers={"kid": key.kid})


@contextmanager
def provider() -> Iterator[IdentityProvider]:
    known = IdentityProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = known.document()
            self.send_response(500 if document is None else 200)
            self.end_headers()
            self.wfile.write(document or b"")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
