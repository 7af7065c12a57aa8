"""Argon2id (RFC 9106), off the event loop."""

from __future__ import annotations

import asyncio
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import BadInput

SHORTEST: Final = 10  # characters
LONGEST: Final = 200
# Each hash takes 64 MiB and a core: what signs in at once waits in line, and can't take the machine with it.
AT_ONCE: Final = 2
# RFC 9106, 4: the second recommended option.
TIME_COST, MEMORY_KIB, LANES = 3, 64 * 1024, 4
# A hash with these parameters that no password has: checked in the place of one that isn't there.
DECOY: Final = f"$argon2id$v=19$m={MEMORY_KIB},t={TIME_COST},p={LANES}${'A' * 22}${'A' * 43}"


class Passwords:
    def __init__(self) -> None:
        self._hasher = PasswordHasher(TIME_COST, MEMORY_KIB, LANES)
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def hash(self, password: str) -> str:
        """Raises BadInput for a password that is too short or too long."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise BadInput(f"A password has {SHORTEST} to {LONGEST} characters.", "password")
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, _bytes(password))

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the hash's. Takes the same time where there is no hash, so that nothing is told."""
        if len(password) > LONGEST:
            return False
        async with self._turn:
            return await asyncio.to_thread(self._matches, password_hash or DECOY, _bytes(password))

    def _matches(self, password_hash: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


def _bytes(password: str) -> bytes:
    # A lone surrogate arrives through JSON escapes and has no UTF-8: it is a character like any other here.
    return password.encode("utf-8", "surrogatepass")
