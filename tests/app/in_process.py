"""Operations called in the test's own process, on a database of its own, without the edge before them."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app import event_cursors, uploads
from app.access import Viewer
from app.events import SETTLED
from app.identifiers import uuid7
from app.migrate import migrate
from app.piccolo_conf import DB
from app.tables import Media, UserRole
from app.uploads import Words
from app.wiring import Services
from tests.pictures import photograph
from tests.postgres import create_database

LIMIT = 30.0  # seconds; what is waited for takes hundredths of one, or a poll


@dataclass
class Picture:
    """A file as the edge spools it."""

    path: Path
    filename: str
    size: int
    sha256: str
    head: bytes
    too_large: bool = False


async def migrated(server_dsn: str, name: str) -> str:
    """The DSN of a new database with our tables."""
    dsn = await create_database(server_dsn, name)
    await DB.start(dsn)
    await migrate()
    await DB.close()
    return dsn


async def somebody(*, role: UserRole = UserRole.USER, lasts: timedelta = timedelta(days=1)) -> Viewer:
    """Signed in, by a session that lasts so long."""
    user, session = uuid7(), uuid7()
    await DB._run_in_pool(
        "INSERT INTO user_account (id, email, password_hash, display_name, role, created_at)"
        " VALUES ($1, $2, '', 'Somebody', $3, now())",
        [user, f"{secrets.token_hex(8)}@example.org", role.value],
    )
    await DB._run_in_pool(
        'INSERT INTO session (id, "user", generation, created_at, expires_at) VALUES ($1, $2, 0, now(), $3)',
        [session, user, datetime.now(UTC) + lasts],
    )
    return Viewer(user, role, session)


async def upload(services: Services, viewer: Viewer, *, is_public: bool = False, **place: Any) -> Media:
    """A picture that nobody has yet."""
    content = photograph(8, 8) + secrets.token_bytes(8)
    path = services.scratch / secrets.token_hex(8)
    path.write_bytes(content)
    picture = Picture(path, "photo.jpg", len(content), hashlib.sha256(content).hexdigest(), content)
    receipt = await uploads.receive(services, viewer, picture, words=Words(is_public=is_public), **place)
    assert receipt.duplicate_of is None
    return receipt.media


async def until(condition: Callable[[], Any]) -> None:
    """Until it gives, or its awaitable does, what is true."""
    async with asyncio.timeout(LIMIT):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.005)


async def settled() -> None:
    """Until all events that were written may be told: transactions of other tests' databases are waited for, too."""

    async def nothing_waits() -> bool:
        return not await DB._run_in_pool(f"SELECT FROM event WHERE NOT {SETTLED} LIMIT 1")

    await until(nothing_waits)


async def delete_expired(retention: timedelta, present: datetime) -> None:
    """Of events that are settled: others stay."""
    await settled()
    await event_cursors.delete_expired(retention, present)
