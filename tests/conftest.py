"""A server and a worker for each of xdist's workers, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.client import Account, Client, admitted
from tests.server import Apart, Server, running

if TYPE_CHECKING:  # a plugin is imported by pytest itself, before anybody else
    from tests.postgres import NewDatabase

pytest_plugins = ["tests.postgres", "tests.contracts.fixtures"]


@pytest.fixture(scope="session")
def server(database_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API process with a worker of its own, over real HTTP; shared, so every test signs in as somebody new."""
    with running(tmp_path_factory.mktemp("server"), database_dsn) as server:
        yield server


@pytest.fixture(scope="session")
def server_apart(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Apart:
    """A server, as `running` starts it, on a database and in a folder of its own, which have its name."""

    @asynccontextmanager
    async def started(name: str, **settings: Any) -> AsyncIterator[Server]:
        async with new_database(name) as dsn:
            with running(tmp_path_factory.mktemp(name), dsn, **settings) as server:
                yield server

    return started


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """Nobody in particular."""
    async with Client(server.url) as client:
        yield client


@pytest.fixture
async def ada(server: Server) -> AsyncIterator[Account]:
    """Somebody who has just registered."""
    async with admitted(server, "Ada") as account:
        yield account


@pytest.fixture
async def eve(server: Server) -> AsyncIterator[Account]:
    """A stranger to Ada, signed in."""
    async with admitted(server, "Eve") as account:
        yield account


@pytest.fixture
def scratch(server: Server) -> Path:
    """Where uploads are spooled: empty whenever no request runs."""
    return server.data_dir / "scratch"
