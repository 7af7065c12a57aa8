"""One call of the process: a request or a socket, as the edge knows it and as the log tells of it."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

# What a proxy or a client may call a request by: nothing that could spoil a line of a log.
SANE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{8,128}")
ID_BYTES: Final = 16
# A name is the client's choice, and may be as long as its document.
NAME_CHARACTERS: Final = 100
MOST_NAMES: Final = 10
IPV6_NETWORK: Final = 64  # bits: a customer has that many at least to choose the rest of
IPV6_SITE: Final = 48  # bits: and at most so many (RFC 6177), which makes 65,536 networks


@dataclass(slots=True)
class Call:
    """`network` is what its address is counted by. `user` is known once somebody is authenticated."""

    id: str
    address: str
    user: uuid.UUID | None = None
    operations: list[str] = field(default_factory=list)

    @property
    def network(self) -> str:
        return network_of(self.address)

    @property
    def site(self) -> str:
        return network_of(self.address, IPV6_SITE)

    def runs(self, operation: str | None) -> None:
        if operation and len(self.operations) < MOST_NAMES:
            self.operations.append(operation[:NAME_CHARACTERS])


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def current() -> Call | None:
    """The call at hand; None in a worker, and on the command line."""
    return _current.get()


def begin(call: Call) -> None:
    """From now on it is that of this task, and of those that it starts."""
    _current.set(call)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's own `X-Request-Id` where it is sane, else a new one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and SANE_ID.fullmatch(text := given[0].decode("latin-1")):
        return text
    return os.urandom(ID_BYTES).hex()  # a quarter of the time of a UUID


@lru_cache(maxsize=4096)
def network_of(address: str, bits: int = IPV6_NETWORK) -> str:
    """An IPv4 address, or so many bits of an IPv6 one; what is neither (a unix socket's peer) as it is."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    host_bits = 128 - bits
    return f"{IPv6Address(int(parsed) >> host_bits << host_bits)}/{bits}"
