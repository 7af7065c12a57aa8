"""Tokens of an outside issuer: whose they are, which are refused, and how its keys are kept."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import websockets
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.errors import Unauthenticated
from app.issuers import (
    ASKED_AGAIN_SECONDS,
    KEPT_SECONDS,
    LONGEST_SECONDS,
    STALE_SECONDS,
    Issuer,
    KeySet,
    KeysUnavailable,
)
from app.settings import SettingsError, load
from app.wiring import outside_issuer
from tests.app.conftest import Guarded, new_address
from tests.app.identity_provider import AUDIENCE, ISSUER, Key, ec_key, ed_key, provider, rsa_key, token
from tests.client import WATCH, Client, admitted
from tests.server import running

pytestmark = pytest.mark.xdist_group("guarded")

P256_ORDER = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551  # SEC 2, 2.4.2
UNAVAILABLE = "The keys of this token's issuer can't be had at the moment."
VIEWER = "{ viewer { email user { id displayName role } storage { quotaBytes } } }"


def somebody() -> str:
    return f"subject-{secrets.token_hex(8)}"


async def answer(guarded: Guarded, text: str, query: str = VIEWER) -> httpx.Response:
    headers = {"authorization": f"Bearer {text}", "x-forwarded-for": new_address()}
    async with httpx.AsyncClient(base_url=guarded.url, headers=headers, timeout=30) as http:
        return await http.post("/graphql", json={"query": query})


async def viewer(guarded: Guarded, text: str) -> dict[str, Any]:
    found = (await answer(guarded, text)).json()
    assert "errors" not in found, found
    data: dict[str, Any] = found["data"]["viewer"]
    return data


@pytest.fixture
async def rows(guarded: Guarded) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(guarded.environment["HEIRLOOM_DATABASE_URL"])
    yield connection
    await connection.close()


# ---------------------------------------------------------------- whose it is


@pytest.mark.parametrize("which", [0, 1, 2], ids=["RS256", "EdDSA", "ES256"])
async def test_an_account_is_made_on_first_sight(guarded: Guarded, rows: asyncpg.Connection, which: int) -> None:
    subject = somebody()
    email = f"{subject}@example.org"
    first = token(guarded.keys[which], subject, email=email, email_verified=True, name=" Grace\nHopper ")
    found = await viewer(guarded, first)
    assert (found["email"], found["user"]["displayName"], found["user"]["role"]) == (email, "Grace Hopper", "USER")
    again = await viewer(guarded, token(guarded.keys[which], subject, name="Somebody Else", jti="another"))
    assert again == found
    [row] = await rows.fetch("SELECT id, password_hash FROM user_account WHERE issuer = $1 AND subject = $2",
                             ISSUER, subject)  # fmt: skip
    assert (str(row["id"]), row["password_hash"]) == (found["user"]["id"], "")


async def test_seen_many_times_at_once_it_is_one_account(guarded: Guarded, rows: asyncpg.Connection) -> None:
    subject = somebody()
    texts = [token(guarded.keys[0], subject, email=f"{subject}@example.org", email_verified=True)] * 4
    texts += [token(guarded.keys[1], subject, jti=str(number)) for number in range(4)]
    found = await asyncio.gather(*(viewer(guarded, text) for text in texts))
    assert len({each["user"]["id"] for each in found}) == 1
    assert await rows.fetchval("SELECT count(*) FROM user_account WHERE subject = $1", subject) == 1
    sessions = 'SELECT count(*) FROM session WHERE "user" = (SELECT id FROM user_account WHERE subject = $1)'
    assert await rows.fetchval(sessions, subject) == 5


@pytest.mark.parametrize("verified", [True, False, None, "true"])
async def test_an_email_links_to_nobody(guarded: Guarded, verified: Any) -> None:
    async with admitted(guarded, "Ada") as ada:
        found = await viewer(
            guarded, token(guarded.keys[0], somebody(), email=ada.email.upper(), email_verified=verified)
        )
        assert found["user"]["id"] != ada.id
        assert found["email"].endswith("@id.example.org.invalid")
        assert found["user"]["displayName"] == "Member"


async def test_an_email_that_nobody_has_verified_is_not_kept(guarded: Guarded) -> None:
    found = await viewer(guarded, token(guarded.keys[0], somebody(), email="ceo@example.org"))
    assert found["email"].endswith("@id.example.org.invalid")


async def test_such_an_account_has_no_password(guarded: Guarded) -> None:
    subject = somebody()
    email = f"{subject}@example.org"
    await viewer(guarded, token(guarded.keys[0], subject, email=email, email_verified=True))
    async with Client(guarded.url) as nobody:
        nobody.http.headers["x-forwarded-for"] = new_address()
        for password in ("", "correct horse battery staple"):
            payload = await nobody.ask(
                "mutation($input: LoginInput!) { login(input: $input) { accessToken errors { code } } }",
                input={"email": email, "password": password},
            )
            assert payload == {"accessToken": None, "errors": [{"code": "UNAUTHENTICATED"}]}


async def test_it_is_signed_out_like_any_other(guarded: Guarded) -> None:
    subject = somebody()
    text, other = token(guarded.keys[0], subject), token(guarded.keys[0], subject, jti="other")
    await viewer(guarded, text)
    left = await answer(guarded, text, "mutation { logout { errors { code } } }")
    assert left.json() == {"data": {"logout": {"errors": []}}}
    refused = await answer(guarded, text)
    assert (refused.status_code, refused.json()["errors"][0]["message"]) == (401, "This session has ended.")
    await viewer(guarded, other)


async def test_another_signature_of_the_same_opens_no_other_session(guarded: Guarded) -> None:
    text = token(guarded.keys[2], somebody())
    # Of each ECDSA signature (r, s) there is another one that is good: (r, n - s).
    signed, _, signature = text.rpartition(".")
    r_and_s = urlsafe_b64decode(signature + "==")
    other_s = P256_ORDER - int.from_bytes(r_and_s[32:], "big")
    other = urlsafe_b64encode(r_and_s[:32] + other_s.to_bytes(32, "big")).rstrip(b"=").decode()
    assert await viewer(guarded, text) == await viewer(guarded, f"{signed}.{other}")
    await answer(guarded, text, "mutation { logout { errors { code } } }")
    [error] = await refused(guarded, f"{signed}.{other}")
    assert error["message"] == "This session has ended."


async def test_a_subscription_ends_when_its_token_does(guarded: Guarded) -> None:
    text = token(guarded.keys[0], somebody(), exp=int(time.time()) + 4)
    async with Client(guarded.url, text) as client, client.socket() as socket:
        media = (await client.begun(1000))["media"]["id"]
        await socket.start(WATCH, id=media)
        assert (await socket.receive())["payload"]["data"]["mediaProcessing"]["status"] == "PENDING"
        ended = await socket.receive()
        errors = ended["payload"] if ended["type"] == "error" else ended["payload"]["errors"]
        assert [error["extensions"]["code"] for error in errors] == ["UNAUTHENTICATED"]


# ---------------------------------------------------------------- which are refused


BAD_CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://evil.example.org"},
    {"iss": f"{ISSUER}/"},
    {"iss": None},
    {"aud": "somebody-else"},
    {"aud": ["a", "b"]},
    {"aud": None},
    {"exp": None},
    {"sub": None},
    {"sub": ""},
    {"sub": "s" * 256},
    {"sub": "nul\x00"},
    {"sub": "half a character \ud800"},
    {"nbf": 2**32},
    {"exp": "soon"},
    {"exp": float("inf")},
    {"exp": [2**32]},
]


INVALID = [{"message": "This token is not valid.", "extensions": {"code": "UNAUTHENTICATED"}}]


def signed_with(secret: bytes, algorithm: str, kid: str) -> str:
    """By a shared secret, whatever it is: PyJWT itself would refuse to take a public key for one."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "exp": int(time.time()) + 900}
    head = {"alg": algorithm, "typ": "JWT", "kid": kid}
    signed = b".".join(urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (head, claims))
    signature = hmac.digest(secret, signed, "sha256")
    return b".".join((signed, urlsafe_b64encode(signature).rstrip(b"="))).decode()


async def refused(guarded: Guarded, text: str) -> list[dict[str, Any]]:
    answered = await answer(guarded, text)
    assert (answered.status_code, answered.headers["www-authenticate"]) == (401, "Bearer")
    errors: list[dict[str, Any]] = answered.json()["errors"]
    return errors


@pytest.mark.parametrize("claims", BAD_CLAIMS, ids=str)
async def test_what_is_not_for_us_is_refused(
    guarded: Guarded, rows: asyncpg.Connection, claims: dict[str, Any]
) -> None:
    subject = somebody()
    assert await refused(guarded, token(guarded.keys[0], subject, **claims)) == INVALID
    assert await rows.fetchval("SELECT count(*) FROM user_account WHERE subject = $1", subject) == 0


async def test_an_expired_one_is_refused(guarded: Guarded) -> None:
    [error] = await refused(guarded, token(guarded.keys[0], somebody(), exp=int(time.time()) - 60))
    assert error["message"] == "This token has expired."


async def test_one_that_outlives_what_is_kept_of_its_session_is_refused(guarded: Guarded) -> None:
    [error] = await refused(guarded, token(guarded.keys[0], somebody(), exp=int(time.time()) + LONGEST_SECONDS + 60))
    assert error["message"] == "This token is good for too long."


async def test_an_email_that_can_not_be_stored_is_not_kept(guarded: Guarded) -> None:
    found = await viewer(guarded, token(guarded.keys[0], somebody(), email="\ud800@example.org", email_verified=True))
    assert found["email"].endswith("@id.example.org.invalid")


async def test_a_key_that_is_none_spoils_no_other_and_a_weak_one_is_of_no_use() -> None:
    strong, weak = rsa_key("strong"), Key("weak", "RS256", rsa.generate_private_key(65537, 1024))
    none = [
        {"kty": "RSA", "alg": "none", "kid": "a"},
        {"kty": "oct", "k": "AAAA", "kid": "b"},
        {"kty": "new"},
        "c",
        None,
    ]

    async def fetch(_: str) -> bytes:
        return json.dumps({"keys": [*none, weak.published(), strong.published()]}).encode()

    issuer = Issuer(KeySet("https://id.example.org/keys", fetch), issuer=ISSUER, audience=AUDIENCE, quota_bytes=None)
    assert (await issuer.read(token(strong, "somebody"))).subject == "somebody"
    with pytest.raises(Unauthenticated, match="not valid"):
        await issuer.read(token(weak, "somebody"))


async def test_a_public_key_is_no_secret(guarded: Guarded) -> None:
    key = guarded.keys[0]
    public = key.private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), der, b""):
        for algorithm in ("HS256", "HS384", "RS256", "none", "None"):
            assert await refused(guarded, signed_with(secret, algorithm, key.kid)) == INVALID


async def test_a_key_signs_by_its_own_algorithm_alone(guarded: Guarded) -> None:
    first, second, _ = guarded.keys
    assert await refused(guarded, token(first, somebody(), algorithm="PS256")) == INVALID
    assert await refused(guarded, token(first, somebody(), algorithm="RS512")) == INVALID
    # Another's name, and one of the same name that isn't published.
    assert await refused(guarded, token(Key(first.kid, second.algorithm, second.private), somebody())) == INVALID
    assert await refused(guarded, token(rsa_key(first.kid), somebody())) == INVALID
    assert await refused(guarded, token(rsa_key("unknown"), somebody())) == INVALID


async def test_one_that_was_tampered_with_is_refused(guarded: Guarded) -> None:
    head, _, signature = token(guarded.keys[0], somebody()).split(".")
    other = token(guarded.keys[0], somebody()).split(".")[1]
    assert await refused(guarded, f"{head}.{other}.{signature}") == INVALID
    assert await refused(guarded, f"{head}.{other}.") == INVALID


async def test_without_an_issuer_none_is_good(client: Client, guarded: Guarded) -> None:
    """The other server has none."""
    client.http.headers["authorization"] = f"Bearer {token(guarded.keys[0], somebody())}"
    answered = await client.http.post("/graphql", json={"query": VIEWER})
    assert (answered.status_code, answered.json()["errors"]) == (401, INVALID)


async def test_while_the_issuer_is_away_nobody_is_told_that_their_token_is_bad(
    database_dsn: str, tmp_path: Path
) -> None:
    with provider() as issuer:
        issuer.published = None
        given = {"jwks_url": issuer.url, "token_issuer": ISSUER, "token_audience": AUDIENCE}
        with running(tmp_path, database_dsn, worker=False, **given) as server:
            async with Client(server.url, token(ec_key("k"), somebody())) as client, admitted(server, "Ada") as ada:
                for accept in ("application/json", "text/event-stream"):
                    answered = await client.http.post("/graphql", json={"query": VIEWER}, headers={"accept": accept})
                    assert (answered.status_code, answered.headers.get("www-authenticate")) == (503, None)
                    assert 1 <= int(answered.headers["retry-after"]) <= ASKED_AGAIN_SECONDS
                    assert answered.json() == {
                        "errors": [{"message": UNAVAILABLE, "extensions": {"code": "SERVICE_UNAVAILABLE"}}]
                    }
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    async with client.socket():
                        pytest.fail("it was opened")
                assert closed.value.rcvd is not None
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, UNAVAILABLE)
                # Our own need nobody, and what is none is none.
                assert (await ada.ask("{ viewer { email } }"))["email"] == ada.email
                client.http.headers["authorization"] = "Bearer nonsense"
                assert (await client.http.post("/graphql", json={"query": VIEWER})).status_code == 401
                assert issuer.asked == 1


@pytest.mark.parametrize("left_out", ["token_issuer", "token_audience"])
def test_issuer_and_audience_must_be_said(tmp_path: Path, left_out: str) -> None:
    given = {"jwks_url": "https://id.example.org/keys", "token_issuer": ISSUER, "token_audience": AUDIENCE}
    settings = load({}, data_dir=tmp_path, **{**given, left_out: None})
    with pytest.raises(SettingsError, match=r"^HEIRLOOM_TOKEN_ISSUER and HEIRLOOM_TOKEN_AUDIENCE must be set when"):
        outside_issuer(settings)


# ---------------------------------------------------------------- how its keys are kept


class Provider:
    """What is answered for the keys, without a network; an exception is raised."""

    def __init__(self, *keys: Key) -> None:
        self.now = 0.0
        self.answers: bytes | Exception = published(*keys)
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.keys = KeySet("https://id.example.org/keys", self.fetch, clock=lambda: self.now)

    async def fetch(self, url: str) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        await self.answering.wait()
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


def published(*keys: Key, **more: Any) -> bytes:
    return json.dumps({"keys": [{**key.published(), **more} for key in keys]}).encode()


async def test_keys_are_fetched_once() -> None:
    key = ec_key("k")
    provider = Provider(key)
    found = await asyncio.gather(*(provider.keys.key("k") for _ in range(20)))
    assert {each.algorithm_name for each in found} == {"ES256"}
    assert provider.asked == 1
    provider.now += KEPT_SECONDS - 1
    await provider.keys.key("k")
    assert provider.asked == 1
    provider.now += 1
    await provider.keys.key("k")
    assert provider.asked == 2


async def test_a_new_key_is_found_and_one_that_is_gone_is_refused() -> None:
    old, new = ed_key("old"), ed_key("new")
    provider = Provider(old)
    await provider.keys.key("old")
    provider.now += ASKED_AGAIN_SECONDS
    provider.answers = published(new)
    assert (await provider.keys.key("new")).key_id == "new"
    with pytest.raises(Unauthenticated):
        await provider.keys.key("old")


async def test_names_that_are_made_up_ask_for_little() -> None:
    provider = Provider(ed_key("k"))
    for number in range(100):
        with pytest.raises(Unauthenticated):
            await provider.keys.key(f"made-up-{number}")
    assert provider.asked == 1


async def test_while_they_are_asked_for_those_at_hand_are_good() -> None:
    provider = Provider(ed_key("k"))
    await provider.keys.key("k")
    provider.now += KEPT_SECONDS
    provider.answering.clear()
    asking = asyncio.create_task(provider.keys.key("k"))
    await asyncio.sleep(0)
    assert (await provider.keys.key("k")).key_id == "k"
    assert (provider.asked, asking.done()) == (2, False)
    provider.answering.set()
    await asking


@pytest.mark.parametrize(
    "trouble",
    [OSError("away"), TimeoutError(), b"", b"[]", b"null", b"{}", b'{"keys": []}', b'{"keys": [1]}', b"<html>"],
    ids=repr,
)
async def test_an_issuer_that_is_away_locks_nobody_out(trouble: bytes | Exception) -> None:
    provider = Provider(ed_key("k"))
    working, provider.answers = provider.answers, trouble
    with pytest.raises(KeysUnavailable):
        await provider.keys.key("k")
    provider.now += ASKED_AGAIN_SECONDS
    provider.answers = working
    await provider.keys.key("k")
    provider.answers = trouble
    provider.now += KEPT_SECONDS + STALE_SECONDS - 1
    assert (await provider.keys.key("k")).key_id == "k"
    assert provider.asked == 3
    # A key of another name may be its new one.
    with pytest.raises(KeysUnavailable):
        await provider.keys.key("new")
    # But not for ever: whoever keeps us from the issuer must not keep a stolen key good.
    provider.now += 1
    with pytest.raises(KeysUnavailable) as unavailable:
        await provider.keys.key("k")
    assert (unavailable.value.retry_after, provider.keys.known("k"), provider.asked) == (9, None, 3)
    provider.answers = working
    provider.now += 9
    assert (await provider.keys.key("k")).key_id == "k"
    with pytest.raises(Unauthenticated):
        await provider.keys.key("new")


async def test_keys_that_grew_old_unused_are_waited_for() -> None:
    provider = Provider(ed_key("k"))
    await provider.keys.key("k")
    provider.now += KEPT_SECONDS + STALE_SECONDS
    found = await asyncio.gather(*(provider.keys.key("k") for _ in range(5)))
    assert ({each.key_id for each in found}, provider.asked) == ({"k"}, 2)


async def test_keys_for_other_uses_are_left_out() -> None:
    provider = Provider()
    secret = {"kty": "oct", "kid": "secret", "alg": "HS256", "k": "c2VjcmV0"}
    encrypts = {**ec_key("encrypts").published(), "use": "enc"}
    strange = {"kty": "strange", "kid": "strange"}
    good = ec_key("good").published()
    provider.answers = json.dumps({"keys": [secret, encrypts, strange, good]}).encode()
    assert (await provider.keys.key("good")).key_id == "good"
    for kid in ("secret", "encrypts", "strange", None):
        with pytest.raises(Unauthenticated):
            await provider.keys.key(kid)
