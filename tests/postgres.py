"""One embedded PostgreSQL for a test run, whatever the number of xdist's workers, and a database for each of them.

A pytest plugin: `pytest_plugins = ["tests.postgres"]` in tests/conftest.py. The process that started pytest owns the
server; workers are told where it listens. It starts with the first worker, or with the first test that asks for it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from app.embedded import EmbeddedPostgres

# What a crash loses is thrown away anyhow.
CARELESS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200"}

NewDatabase: TypeAlias = Callable[[str], AbstractAsyncContextManager[str]]

_server = pytest.StashKey[EmbeddedPostgres]()
_folder = pytest.StashKey[Path]()
_dsn = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's hook: runs in the process that started pytest, once a worker."""
    node.workerinput["postgres_dsn"] = _start_once(node.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _server in config.stash:
        config.stash[_server].stop()
    if _folder in config.stash:
        shutil.rmtree(config.stash[_folder], ignore_errors=True)


def _start_once(config: pytest.Config) -> str:
    if _dsn not in config.stash:
        config.stash[_folder] = Path(tempfile.mkdtemp(prefix="heirloom-tests-"))
        config.stash[_server] = EmbeddedPostgres(config.stash[_folder], settings=CARELESS)
        config.stash[_dsn] = config.stash[_server].start()
    return config.stash[_dsn]


@pytest.fixture(scope="session")
def server_dsn(pytestconfig: pytest.Config) -> str:
    """The server's maintenance database: for `create_database`, and nothing else."""
    told: dict[str, str] | None = getattr(pytestconfig, "workerinput", None)
    return told["postgres_dsn"] if told is not None else _start_once(pytestconfig)


@pytest.fixture(scope="session")
def new_database(server_dsn: str, worker_name: str) -> NewDatabase:
    """The DSN of an empty database of that name, this worker's own, for as long as the block."""

    @asynccontextmanager
    async def made(name: str) -> AsyncIterator[str]:
        database = f"{name}_{worker_name}"
        dsn = await create_database(server_dsn, database)
        try:
            yield dsn
        finally:
            await drop_database(server_dsn, database)

    return made


@pytest.fixture(scope="session")
async def database_dsn(new_database: NewDatabase) -> AsyncIterator[str]:
    """One that many tests share."""
    async with new_database("test") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def worker_name(pytestconfig: pytest.Config) -> str:
    """`gw0` and so on under xdist, `main` without."""
    told: dict[str, str] = getattr(pytestconfig, "workerinput", {})
    return told.get("workerid", "main")


async def create_database(server_dsn: str, name: str, *, template: str = "template1") -> str:
    """Make an empty database (or a copy of `template`, to which nobody may be connected) and return its DSN."""
    await _execute(server_dsn, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return f"{server_dsn.rpartition('/')[0]}/{name}"


async def drop_database(server_dsn: str, name: str) -> None:
    """Remove a database, and cut off who is still connected to it."""
    await _execute(server_dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
