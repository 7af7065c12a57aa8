"""Argon2id (RFC 9106), off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import BadInput, RateLimited

T = TypeVar("T")

SHORTEST: Final = 10  # characters
LONGEST: Final = 200
# Each hash takes 64 MiB and a core: what signs in at once waits in line, and can't take the machine with it.
AT_ONCE: Final = 2
BUSY_SECONDS: Final = 2
WAITING: Final = 20  # who comes behind these waits for a second, and had better come again
# RFC 9106, 4: the second recommended option.
TIME_COST, MEMORY_KIB, LANES = 3, 64 * 1024, 4
# A hash with these parameters that no password has: checked in the place of one that isn't there.
DECOY: Final = f"$argon2id$v=19$m={MEMORY_KIB},t={TIME_COST},p={LANES}${'A' * 22}${'A' * 43}"


class Passwords:
    """Both raise RateLimited where too many wait already."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(TIME_COST, MEMORY_KIB, LANES)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Raises BadInput for a password that is too short or too long."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise BadInput(f"A password has {SHORTEST} to {LONGEST} characters.", "password")
        return await self._in_turn(lambda: self._hasher.hash(_bytes(password)))

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the hash's. Takes the same time where there is no hash, so that nothing is told."""
        if len(password) > LONGEST:
            return False
        return await self._in_turn(lambda: self._matches(password_hash or DECOY, _bytes(password)))

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise RateLimited(BUSY_SECONDS, "Too many sign in at this moment.")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        # Who asked may be gone before it is done; the turn is over when the thread is.
        running = asyncio.ensure_future(asyncio.to_thread(work))
        running.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(running)

    def _matches(self, password_hash: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


def _bytes(password: str) -> bytes:
    # A lone surrogate arrives through JSON escapes and has no UTF-8: it is a character like any other here.
    return password.encode("utf-8", "surrogatepass")
