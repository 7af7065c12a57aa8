"""Tokens, and who is behind one.

Both are JWTs signed with HS256 (RFC 7519, RFC 7518 3.2). The access token names its session, whose row is asked for at
each operation: a session that has ended is refused before its token expires. The refresh token carries the session's
generation, and is good for exactly that one.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
from piccolo.columns.combination import WhereRaw

from app import calls
from app.access import Viewer
from app.db import row_of
from app.errors import Unauthenticated
from app.issuers import Issuer
from app.piccolo_conf import DB
from app.tables import Session, UserAccount, UserRole

ALGORITHM: Final = "HS256"
ACCESS: Final = "access"
REFRESH: Final = "refresh"
ENDED: Final = "This session has ended."
# Verified ones are remembered, so that the limits and what comes behind them verify a token once between them.
MOST_VERIFIED: Final = 1000


def derived_key(secret_key: str, purpose: str) -> bytes:
    """A key of its own for each use of the one secret (the expand step of RFC 5869, with one block)."""
    return hmac.digest(secret_key.encode(), f"heirloom {purpose}".encode(), hashlib.sha256)


@dataclass(frozen=True, slots=True)
class Access:
    """What an access token says, once it is verified."""

    user: str
    session: uuid.UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes and reads the tokens of one deployment; `issuer` makes others that are good here."""

    secret_key: str
    access_lifetime: timedelta
    issuer: Issuer | None = None
    _verified: OrderedDict[str, Access] = field(init=False, repr=False, default_factory=OrderedDict)

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
        return self._read_often(token).session

    def claimed(self, authorization: str | None) -> str | None:
        """Who sends this header, by the token alone: its session may have ended. Raises Unauthenticated."""
        token = bearer(authorization)
        if token is None or (self.issuer and not is_ours(token)):
            return self.issuer.claimed(token) if self.issuer and token else None
        return self._read_often(token).user

    def _read_often(self, token: str) -> Access:
        access = self._verified.get(token)
        if access is None or access.expires_at <= datetime.now(UTC):
            self._verified.pop(token, None)
            claims = self._read(ACCESS, token)
            until = datetime.fromtimestamp(claims["exp"], UTC)
            access = self._verified[token] = Access(str(claims["sub"]), uuid.UUID(claims["sid"]), until)
            if len(self._verified) > MOST_VERIFIED:
                self._verified.popitem(last=False)
        return access

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


def is_ours(token: str) -> bool:
    """By the algorithm that it names: no outside issuer's may have a shared secret. Raises Unauthenticated."""
    try:
        return jwt.get_unverified_header(token).get("alg") == ALGORITHM
    except jwt.InvalidTokenError as error:
        raise Unauthenticated("This token is not valid.") from error


async def authenticate(tokens: Tokens, authorization: str | None) -> Viewer | None:
    """Who sends this header; None without one. Raises Unauthenticated when it is invalid, expired or signed out."""
    token = bearer(authorization)
    if token is None:
        return None
    viewer = await _viewer_of(tokens, token)
    if viewer is None:
        raise Unauthenticated(ENDED)
    if call := calls.current():
        call.user = viewer.id
    return viewer


async def _viewer_of(tokens: Tokens, token: str) -> Viewer | None:
    if tokens.issuer is None or is_ours(token):
        return await _of_session(tokens.read_access(token))
    outside = await tokens.issuer.read(token)
    viewer = await _of_session(outside.session)
    if viewer is None:
        await tokens.issuer.admit(outside)
        viewer = await _of_session(outside.session)
    if viewer is not None:
        tokens.issuer.remember(outside.subject, viewer.id)
    return viewer


async def _of_session(session: uuid.UUID) -> Viewer | None:
    """Its user, as long as it is alive."""
    found: list[UserAccount] = await DB.read(_OF_SESSION, session, datetime.now(UTC), rows=_USER)
    if not found:
        return None
    account = found[0]
    return Viewer(account.id, _ROLES[account.role], session, account)


async def standing(session: uuid.UUID) -> tuple[datetime, UserRole] | None:
    """When it expires unless it is refreshed, and its user's role by now; None when it has ended."""
    found = (
        await Session.select(Session.expires_at, Session.user.role)
        .where(Session.id == session, alive(datetime.now(UTC)))
        .first()
    )
    return (found["expires_at"], UserRole(found["user.role"])) if found else None


def alive(now: datetime) -> WhereRaw:
    """Where-clause of the sessions that can still be used."""
    return WhereRaw(_ALIVE, now)


_ALIVE: Final = "(session.ended_at IS NULL AND session.expires_at > {})"
# Written out: by Piccolo it takes a third of the time of a small request. All of the account but its password's hash.
_USER: Final = row_of(UserAccount, "id", "email", "display_name", "role", "quota_bytes", "created_at")
_OF_SESSION: Final = (
    f"SELECT {', '.join(f'account.{name}' for name in _USER.places)} "  # noqa: S608
    "FROM session JOIN user_account AS account ON account.id = session.user "
    f"WHERE session.id = $1 AND {_ALIVE.format('$2')}"
)
_ROLES: Final = {role.value: role for role in UserRole}
