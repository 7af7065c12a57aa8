"""Tokens, and who is behind one.

Both are JWTs signed with HS256 (RFC 7519, RFC 7518 3.2). The access token names its session, whose row is asked for at
each operation: a session that has ended is refused before its token expires. The refresh token carries the session's
generation, and is good for exactly that one.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt

from app.access import Viewer
from app.errors import Unauthenticated
from app.tables import Session, UserRole

ALGORITHM: Final = "HS256"
ACCESS: Final = "access"
REFRESH: Final = "refresh"
ENDED: Final = "This session has ended."


def derived_key(secret_key: str, purpose: str) -> bytes:
    """A key of its own for each use of the one secret (the expand step of RFC 5869, with one block)."""
    return hmac.digest(secret_key.encode(), f"heirloom {purpose}".encode(), hashlib.sha256)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes and reads the tokens of one deployment."""

    secret_key: str
    access_lifetime: timedelta

    def access(self, user: uuid.UUID, session: uuid.UUID, now: datetime) -> tuple[str, datetime]:
        """A token, and when it expires (whole seconds, as a JWT counts)."""
        expires_at = (now + self.access_lifetime).replace(microsecond=0)
        return self._sign(ACCESS, sub=str(user), sid=str(session), iat=now, exp=expires_at), expires_at

    def refresh(self, session: uuid.UUID, generation: int, expires_at: datetime) -> str:
        return self._sign(REFRESH, sid=str(session), gen=generation, exp=expires_at)

    def read_refresh(self, token: str) -> tuple[uuid.UUID, int]:
        """The session and its generation. Raises Unauthenticated."""
        claims = self._read(REFRESH, token)
        return uuid.UUID(claims["sid"]), int(claims["gen"])

    def read_access(self, token: str) -> uuid.UUID:
        """The session. Raises Unauthenticated."""
        return uuid.UUID(self._read(ACCESS, token)["sid"])

    def _sign(self, purpose: str, **claims: Any) -> str:
        return jwt.encode({"typ": purpose, **claims}, derived_key(self.secret_key, purpose), algorithm=ALGORITHM)

    def _read(self, purpose: str, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                derived_key(self.secret_key, purpose),
                algorithms=[ALGORITHM],
                options={"require": ["exp", "sid", "typ"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("This token has expired.") from error
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("This token is not valid.") from error
        if claims["typ"] != purpose:
            raise Unauthenticated("This token is not valid.")
        return claims


def bearer(authorization: str | None) -> str | None:
    """The token of an Authorization header (RFC 6750, 2.1). Raises Unauthenticated for another scheme."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The authorization must be “Bearer” and a token.")
    return token.strip()


async def authenticate(tokens: Tokens, authorization: str | None) -> Viewer | None:
    """Who sends this header; None without one. Raises Unauthenticated when it is invalid, expired or signed out."""
    token = bearer(authorization)
    if token is None:
        return None
    found = (
        await Session.select(Session.id, Session.user, Session.user.role)
        .where(Session.id == tokens.read_access(token), alive(datetime.now(UTC)))
        .first()
    )
    if found is None:
        raise Unauthenticated(ENDED)
    return Viewer(found["user"], UserRole(found["user.role"]), found["id"])


async def is_alive(session: uuid.UUID) -> bool:
    return await Session.exists().where(Session.id == session, alive(datetime.now(UTC)))


def alive(now: datetime) -> Any:
    """Where-clause of the sessions that can still be used."""
    return Session.ended_at.is_null() & (Session.expires_at > now)
