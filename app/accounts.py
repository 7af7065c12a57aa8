"""Register, sign in, stay signed in, sign out. A session is a row; its tokens are good while it is alive."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from asyncpg import UniqueViolationError
from piccolo.columns.combination import WhereRaw

from app import events, text
from app.access import Viewer, visible_users
from app.auth import alive
from app.db import fetch, hydrate
from app.errors import BadInput, Conflict, NotFound, Unauthenticated
from app.piccolo_conf import DB
from app.rate_limits import Limit, site
from app.tables import EventKind, Session, UserAccount, UserRole
from app.wiring import Services

KNOWN_TO_OTHERS: Final = ("id", "display_name", "role", "created_at")


@dataclass(frozen=True, slots=True)
class SignIn:
    user: UserAccount
    access_token: str
    expires_at: datetime
    refresh_token: str


async def create(
    services: Services, *, email: str, password: str, display_name: str, role: UserRole = UserRole.USER
) -> UserAccount:
    """A new account. Raises BadInput, or Conflict when the e-mail is taken (in any case of letters)."""
    user = UserAccount(
        email=_email(email),
        display_name=text.line(display_name, "display_name"),
        password_hash=await services.passwords.hash(password),
        role=role.value,
        quota_bytes=services.settings.quota_bytes or None,
        created_at=datetime.now(UTC),
    )
    try:
        await UserAccount.insert(user)
    except UniqueViolationError as error:
        raise Conflict("There is an account with this e-mail.", "email") from error
    return user


async def register(services: Services, *, email: str, password: str, display_name: str) -> SignIn:
    """A new account, signed in. Raises BadInput, Conflict or RateLimited."""
    await services.limits.spend(Limit.HASH, site())
    await services.limits.spend(Limit.SIGN_IN, site())
    user = await create(services, email=email, password=password, display_name=display_name)
    return await _sign_in(services, user)


async def login(services: Services, *, email: str, password: str) -> SignIn:
    """Raises Unauthenticated, which doesn't tell whether the e-mail or the password was wrong, or RateLimited."""
    email = email.strip()
    if not text.is_email(email):
        raise _stranger()
    place = site()
    await services.limits.spend(Limit.HASH, place)
    # These are spent before the password is looked at, so that tries at once are counted too; success gives them back.
    await services.limits.spend(Limit.SIGN_IN, place)
    found = await UserAccount.select().where(_has_email(email)).first()
    user = hydrate(UserAccount, found) if found else None
    # An account that isn't there is counted like one that is, or the refusal would tell.
    account = f"id {user.id}" if user else f"email {email.casefold()}"
    await services.limits.spend(Limit.ACCOUNT, account)
    if not await services.passwords.matches(user.password_hash if user else None, password) or user is None:
        raise _stranger()
    await services.limits.give_back(Limit.SIGN_IN, place)
    await services.limits.give_back(Limit.ACCOUNT, account)
    return await _sign_in(services, user)


async def refresh(services: Services, *, refresh_token: str) -> SignIn:
    """The next pair of tokens. Raises Unauthenticated; a token that was used before ends its session with that."""
    session_id, generation = services.tokens.read_refresh(refresh_token)
    now = datetime.now(UTC)
    rows = (
        await Session.update(
            {Session.generation: generation + 1, Session.expires_at: now + services.settings.session_lifetime}
        )
        .where(Session.id == session_id, Session.generation == generation, alive(now))
        .returning(*Session.all_columns())
    )
    if not rows:
        # Signed by us and of no use: used before, by the client or by a thief. Whichever it was, both are out.
        await end_session(session_id)
        raise Unauthenticated(
            "This refresh token is used up, and its session has ended. Sign in again.", "refresh_token"
        )
    session = hydrate(Session, rows[0])
    user = await UserAccount.select().where(UserAccount.id == session.user).first()
    assert user is not None, "a session goes with its user"
    return _signed_in(services, hydrate(UserAccount, user), session, now)


async def load(ids: Sequence[uuid.UUID]) -> list[UserAccount]:
    """What others may know of users: no more is read."""
    return await fetch(UserAccount, WhereRaw("user_account.id = ANY({})", ids), columns=KNOWN_TO_OTHERS)


async def find(viewer: Viewer | None, user_id: uuid.UUID) -> UserAccount | None:
    row = await UserAccount.select().where(UserAccount.id == user_id, visible_users(viewer)).first()
    return hydrate(UserAccount, row) if row else None


async def limit(email: str, quota_bytes: int | None) -> None:
    """What the account may keep from now on; None is without a limit. Raises NotFound."""
    limited = (
        await UserAccount.update({UserAccount.quota_bytes: quota_bytes})
        .where(_has_email(email))
        .returning(UserAccount.id)
    )
    if not limited:
        raise NotFound("No account has this e-mail.")


async def logout(viewer: Viewer) -> None:
    """Its tokens stop working at once, on open sockets too."""
    await end_session(viewer.session_id)


async def end_session(session_id: uuid.UUID) -> None:
    now = datetime.now(UTC)
    async with DB.transaction() as transaction:
        ended = (
            await Session.update({Session.ended_at: now})
            .where(Session.id == session_id, alive(now))
            .returning(Session.id)
        )
        if ended:
            await events.record(transaction, EventKind.SESSION_ENDED, session=session_id)


async def _sign_in(services: Services, user: UserAccount) -> SignIn:
    now = datetime.now(UTC)
    session = Session(user=user.id, created_at=now, expires_at=now + services.settings.session_lifetime)
    await Session.insert(session)
    return _signed_in(services, user, session, now)


def _signed_in(services: Services, user: UserAccount, session: Session, now: datetime) -> SignIn:
    access_token, expires_at = services.tokens.access(user.id, session.id, now)
    refresh_token = services.tokens.refresh(session.id, session.generation, session.expires_at)
    return SignIn(user, access_token, expires_at, refresh_token)


def _stranger() -> Unauthenticated:
    return Unauthenticated("No account has this e-mail and password.")


def _has_email(email: str) -> WhereRaw:
    return WhereRaw("lower(email) = lower({})", email)


def _email(raw: str) -> str:
    email = raw.strip()
    if not text.is_email(email):
        raise BadInput("This is no e-mail address.", "email")
    return email
