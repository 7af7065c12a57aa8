"""Access tokens of an outside issuer: signed by keys that it publishes as a JWK set (RFC 7517).

A token is its own session: a row made when it is first seen, which ends with it, or before by `logout`. Its account is
made then too, by issuer and subject (OpenID Connect Core, 2: nothing else of it is certain, and never reassigned). An
e-mail links no accounts: whoever controls one at an issuer would have that account here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import orjson

from app import text
from app.errors import BadInput, Unauthenticated
from app.identifiers import uuid7
from app.piccolo_conf import DB
from app.tables import UserRole

logger = logging.getLogger(__name__)

# Pinned, and none with a shared secret: a public key could pass for one.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
REQUIRED: Final = ["exp", "iss", "aud", "sub"]
LEEWAY_SECONDS: Final = 10  # that the issuer's clock may differ
SUBJECT_CHARACTERS: Final = 255  # OpenID Connect Core, 2
KEPT_SECONDS: Final = 600.0  # after which keys are asked for anew; a key that was taken back is good for so long
# That keys are good while the issuer is away: an afternoon of it must not lock everybody out, and whoever keeps us from
# reaching it must not keep a stolen key good for ever.
STALE_SECONDS: Final = 86_400.0
# A key of a name that isn't known may be new. A stranger can make such names up, so they aren't asked for more often.
ASKED_AGAIN_SECONDS: Final = 10.0
FETCH_SECONDS: Final = 5.0
MOST_BYTES: Final = 256 * 1024  # of a JWK set
LONGEST_SECONDS: Final = 30 * 86_400  # that a token may still be good for; sessions that have ended are kept as long
MOST_ACCOUNTS: Final = 10_000  # that are known by their subject at a time
NAMELESS: Final = "Member"

Fetch = Callable[[str], Awaitable[bytes]]


class KeysUnavailable(Exception):
    """The issuer doesn't answer, so that nobody can tell whether the token is good. `retry_after` is in seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__("The keys of this token's issuer can't be had at the moment.")
        self.retry_after = max(1, math.ceil(seconds))


@dataclass(frozen=True, slots=True)
class OutsideToken:
    """What a verified token says. `session` is derived from the token's own text."""

    session: uuid.UUID
    issuer: str
    subject: str
    expires_at: datetime
    email: str | None
    name: str


class KeySet:
    """The issuer's keys by their `kid`, fetched when they are first needed."""

    def __init__(self, url: str, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._asked_at = float("-inf")
        self._fresh_until = float("-inf")
        self._away = False
        self._turn = asyncio.Lock()

    async def key(self, kid: str | None) -> jwt.PyJWK:
        """Raises Unauthenticated for a key that the issuer doesn't have, and KeysUnavailable."""
        # Who needs the answer waits for the one that asks; the others take what is at hand.
        if self._is_due(kid) and not (self.known(kid) and self._turn.locked()):
            async with self._turn:
                if self._is_due(kid):
                    await self._refresh()
        if (key := self.known(kid)) is not None:
            return key
        if self._away:
            raise KeysUnavailable(self._asked_at + ASKED_AGAIN_SECONDS - self._clock())
        raise Unauthenticated("This token is not valid.")

    def known(self, kid: str | None) -> jwt.PyJWK | None:
        """One that is at hand, and not too old."""
        return self._keys.get(kid) if self._clock() < self._fresh_until + STALE_SECONDS else None

    def _is_due(self, kid: str | None) -> bool:
        now = self._clock()
        wanted = now >= self._fresh_until or kid not in self._keys
        return wanted and now >= self._asked_at + ASKED_AGAIN_SECONDS

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._keys = _keys(await self._fetch(self._url))
            self._fresh_until = self._clock() + KEPT_SECONDS
            self._away = False
        except (OSError, TimeoutError, ValueError) as error:
            self._away = True  # those at hand stay
            logger.warning("The keys of the tokens' issuer could not be fetched: %r", error)
        finally:
            self._asked_at = self._clock()


def _keys(body: bytes) -> dict[str | None, jwt.PyJWK]:
    """Those that sign by an algorithm of ours. Raises ValueError."""
    found = orjson.loads(body)
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError("not a JWK set")  # noqa: TRY004 - of what came, not of what we passed
    keys = [key for each in found["keys"] if (key := _key(each)) and key.algorithm_name in ALGORITHMS]
    if not keys:
        raise ValueError("no key of use")
    return {key.key_id: key for key in keys if key.public_key_use in {None, "sig"}}


def _key(found: Any) -> jwt.PyJWK | None:
    """None for one of a kind that isn't known, which spoils none of the others (RFC 7517, 5)."""
    try:
        return jwt.PyJWK.from_dict(found)
    except (jwt.PyJWTError, NotImplementedError, AttributeError, TypeError, ValueError):
        return None


class Issuer:
    """One whose access tokens are as good as our own."""

    def __init__(self, keys: KeySet, *, issuer: str, audience: str, quota_bytes: int | None) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._quota_bytes = quota_bytes
        self._accounts: OrderedDict[str, str] = OrderedDict()

    async def read(self, token: str) -> OutsideToken:
        """Raises Unauthenticated, and KeysUnavailable."""
        return self._outside(token, self._verified(token, await self._keys.key(_kid(token))))

    def claimed(self, token: str) -> str | None:
        """Who it says it is, by keys that are at hand; None where they aren't. Raises Unauthenticated."""
        key = self._keys.known(_kid(token))
        if key is None:
            return None
        subject = self._verified(token, key)["sub"]
        return self._accounts.get(subject) or f"{self._issuer} {subject}"

    def remember(self, subject: str, account: uuid.UUID) -> None:
        """Whose tokens these are, so that whoever comes with one is counted as what they are here."""
        self._accounts[subject] = str(account)
        self._accounts.move_to_end(subject)
        if len(self._accounts) > MOST_ACCOUNTS:
            self._accounts.popitem(last=False)

    def _verified(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                # The key's own, and never what the token asks for.
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": REQUIRED, "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("This token has expired.") from error
        except (jwt.PyJWTError, OverflowError, TypeError, ValueError) as error:  # of claims that are no such numbers
            raise Unauthenticated("This token is not valid.") from error
        if int(claims["exp"]) > time.time() + LONGEST_SECONDS:
            # What becomes of its session would be forgotten before it ends.
            raise Unauthenticated("This token is good for too long.")
        if not 0 < len(claims["sub"]) <= SUBJECT_CHARACTERS or not text.storable(claims["sub"]):
            raise Unauthenticated("This token is not valid.")
        return claims

    def _outside(self, token: str, claims: dict[str, Any]) -> OutsideToken:
        # What is signed, without the signature: of some algorithms there are several good ones for the same.
        digest = hashlib.sha256(token.rpartition(".")[0].encode()).digest()
        return OutsideToken(
            session=uuid.UUID(bytes=digest[:16], version=5),
            issuer=self._issuer,
            subject=claims["sub"],
            expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC),
            email=_verified_email(claims),
            name=_name(claims),
        )

    async def admit(self, token: OutsideToken) -> None:
        """Its account and its session, where they aren't there yet. A session that has ended stays so."""
        made_up = f"{uuid7().hex}@{urlsplit(token.issuer).hostname or 'issuer'}.invalid"  # RFC 2606: nobody's
        async with DB.transaction() as transaction:
            # The e-mail may be somebody's already: it stays theirs, and this is another account.
            for email in (token.email or made_up, made_up):
                await transaction.connection.execute(
                    _NEW_ACCOUNT, uuid7(), email, token.name, UserRole.USER.value, self._quota_bytes,
                    token.issuer, token.subject,
                )  # fmt: skip
            await transaction.connection.execute(
                _NEW_SESSION, token.session, token.expires_at, token.issuer, token.subject
            )


_NEW_ACCOUNT: Final = """
    INSERT INTO user_account (id, email, password_hash, display_name, role, quota_bytes, issuer, subject, created_at)
    VALUES ($1, $2, '', $3, $4, $5, $6, $7, now()) ON CONFLICT DO NOTHING
"""
_NEW_SESSION: Final = """
    INSERT INTO session (id, "user", generation, created_at, expires_at)
    SELECT $1, id, 0, now(), $2 FROM user_account WHERE issuer = $3 AND subject = $4 ON CONFLICT (id) DO NOTHING
"""


async def fetched(url: str) -> bytes:
    """What is there, up to MOST_BYTES. Raises OSError, TimeoutError or ValueError."""
    import aiohttp  # noqa: PLC0415 - takes 0.2 s, and most have no outside issuer

    try:
        async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise ValueError("too large")
            return bytes(body)
    except aiohttp.ClientError as error:
        raise OSError(repr(error)) from error


def _kid(token: str) -> str | None:
    """Raises Unauthenticated."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except jwt.InvalidTokenError as error:
        raise Unauthenticated("This token is not valid.") from error
    return kid if isinstance(kid, str) else None


def _verified_email(claims: dict[str, Any]) -> str | None:
    email = claims.get("email")
    known = claims.get("email_verified") is True and isinstance(email, str) and text.is_email(email)
    return email if known else None


def _name(claims: dict[str, Any]) -> str:
    for name in (claims.get("name"), claims.get("preferred_username")):
        with suppress(BadInput):
            if isinstance(name, str):
                return text.line(name, "name")
    return NAMELESS
