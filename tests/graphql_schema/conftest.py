"""A server on which what an upload leaves behind can be counted, because nothing takes it away."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.client import Account, admitted
from tests.server import Apart, Server

MIB = 1024 * 1024
# Just above the 20 MiB of an avatar, so that each limit can be passed alone.
FILE_LIMIT = 21 * MIB
REQUEST_LIMIT = 24 * MIB
FILES_LIMIT = 3
UPLOAD_LIMIT = 1024 * MIB


@pytest.fixture(scope="session")
async def unattended(server_apart: Apart) -> AsyncIterator[Server]:
    """An API process without a worker, with small limits and a database of its own."""
    limits = {"max_file_bytes": FILE_LIMIT, "max_request_bytes": REQUEST_LIMIT, "max_files": FILES_LIMIT}
    limits["max_upload_bytes"] = UPLOAD_LIMIT
    async with server_apart("unattended", worker=False, **limits) as server:
        yield server


@pytest.fixture
async def ida(unattended: Server) -> AsyncIterator[Account]:
    """Somebody who has just registered there."""
    async with admitted(unattended, "Ida") as account:
        yield account


@pytest.fixture(scope="session")
async def amy(unattended: Server) -> AsyncIterator[Account]:
    """Somebody for tests that don't mind what she has from others: to register takes longer than to be refused."""
    async with admitted(unattended, "Amy") as account:
        yield account


@pytest.fixture
async def bob(unattended: Server) -> AsyncIterator[Account]:
    """A stranger to Ida."""
    async with admitted(unattended, "Bob") as account:
        yield account
