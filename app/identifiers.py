"""UUIDs of version 7, and the column that holds them: ids in the order in which they were made."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from typing import Any, Final

from piccolo.columns import UUID
from piccolo.columns.defaults import uuid as stock


class _UUID7Source:
    """UUIDs of version 7 (RFC 9562, 5.7) that ascend within a process, whatever the clock does.

    Method 1 of 6.2: 42 bits of counter behind the milliseconds, begun at random below half of their range, and then
    32 random bits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._counter = 0

    def make(self) -> uuid.UUID:
        with self._lock:
            now = time.time_ns() // 1_000_000
            self._counter += 1
            if now > self._milliseconds or self._counter >> 42:
                self._milliseconds = max(now, self._milliseconds + 1)
                self._counter = secrets.randbits(41)
            milliseconds, counter = self._milliseconds, self._counter
        high, low = counter >> 30, counter & (1 << 30) - 1
        return uuid.UUID(int=milliseconds << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low << 32 | secrets.randbits(32))


uuid7 = _UUID7Source().make


class UUID7Default(stock.UUID7):
    """Stock calls `uuid7` of Python 3.14 and `uuidv7()` of PostgreSQL 18.

    A row that raw SQL inserts without an id gets a random one, out of order and no worse.
    """

    @property
    def postgres(self) -> str:
        return "gen_random_uuid()"

    def python(self) -> uuid.UUID:
        return uuid7()


_DEFAULT: Final = UUID7Default()


class UUID7(UUID):
    """A UUID column whose values, unless given, are of version 7: in the order in which they were made."""

    def __init__(self, default: stock.UUIDArg = _DEFAULT, **kwargs: Any) -> None:
        super().__init__(default=default, **kwargs)

    @property
    def column_type(self) -> str:
        return "UUID"  # stock: the name of the class
