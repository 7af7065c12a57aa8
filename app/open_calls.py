"""How much that stays open one caller may have: sockets, answers that are streams, and operations over sockets.

A rate says how often somebody may come; these never go, and each holds memory. They are counted in each process, by the
user, or by the address as long as nobody is signed in: a socket's token comes after its handshake, so a socket is its
address's first and its user's then. Many users behind one address are not in each other's way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from app import calls
from app.errors import RateLimited
from app.rate_limits import caller

RETRY_SECONDS: Final = 10.0  # nobody knows when something will be closed
# A page that follows a hundred uploads has an operation for each, over its one socket.
OPERATIONS_A_CONNECTION: Final = 10


class OpenCalls:
    """Those of a process: so many `connections` of a caller, and ten times as many operations over them."""

    def __init__(self, connections: int) -> None:
        self._connections = _Places(connections, "connections")
        self._operations = _Places(connections * OPERATIONS_A_CONNECTION, "operations")

    @contextmanager
    def call(self) -> Iterator[Place]:
        """For the call at hand, whatever it turns out to be; what it took is free again when the block is over."""
        place = Place(self._connections)
        token = _current.set((place, self._operations))
        try:
            yield place
        finally:
            _current.reset(token)
            place.leave()


class _Places:
    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self.what = what
        self.taken: Counter[str] = Counter()


@dataclass(slots=True)
class Place:
    """One of them, or none yet."""

    _places: _Places
    _who: str | None = None

    def take(self, who: str) -> None:
        """It is theirs from now on, and nobody's before. Raises RateLimited."""
        if who == self._who:
            return
        if self._places.taken[who] >= self._places.most:
            raise RateLimited(RETRY_SECONDS, f"Too many open {self._places.what}. Close some first.")
        self.leave()
        self._places.taken[who] += 1
        self._who = who

    def leave(self) -> None:
        if self._who is None:
            return
        self._places.taken[self._who] -= 1
        if not self._places.taken[self._who]:
            del self._places.taken[self._who]
        self._who = None


_current: ContextVar[tuple[Place, _Places]] = ContextVar("place")


def stays_open() -> None:
    """The call at hand is a socket or a stream of whoever is known by now. Raises RateLimited."""
    if found := _current.get(None):
        found[0].take(_holder())


@contextmanager
def operation() -> Iterator[None]:
    """One of those over a socket. Raises RateLimited."""
    found = _current.get(None)
    if found is None:
        yield
        return
    place = Place(found[1])
    try:
        place.take(_holder())
        yield
    finally:
        place.leave()


def _holder() -> str:
    call = calls.current()
    return caller(call.user if call else None)
