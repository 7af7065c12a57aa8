"""Migrations as processes run them: at once, in vain, and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from piccolo.columns import Text
from piccolo.table import Table

from app import piccolo_app
from migrations import __path__ as migrations_folder
from tests.migrations_are_current import missing
from tests.postgres import create_database, drop_database
from tests.server import SECRET_KEY, command, environment

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
OF_PICCOLO = ["entity", "event", "event_cursor", "media", "migration", "person", "profile", "session", "upload_session"]
OF_PICCOLO += ["user_account", "variant"]


def files() -> list[Path]:
    return sorted(Path(migrations_folder[0]).glob("heirloom_*.py"))


@pytest.fixture
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    """An empty database."""
    name = f"migrate_{worker_name}"
    yield await create_database(server_dsn, name)
    await drop_database(server_dsn, name)


async def migrate(dsn: str, folder: Path) -> tuple[int | None, str]:
    """Exit status and standard error of `heirloom migrate`."""
    process = await asyncio.create_subprocess_exec(
        *command("migrate"),
        env=environment(folder, database_url=dsn, secret_key=SECRET_KEY),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert said == b""
    return process.returncode, complained.decode()


async def ask(dsn: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return [value for (value,) in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_two_at_once_make_one_schema_and_a_third_changes_nothing(dsn: str, tmp_path: Path) -> None:
    assert await asyncio.gather(*(migrate(dsn, tmp_path) for _ in range(2))) == [(0, ""), (0, "")]
    tables = await ask(dsn, TABLES)
    assert [table for table in tables if not table.startswith("pgqueuer")] == OF_PICCOLO
    assert "pgqueuer" in tables
    assert await ask(dsn, "SELECT count(*) FROM migration") == [len(files())]
    ran = await ask(dsn, "SELECT ran_on FROM migration ORDER BY name")
    assert await migrate(dsn, tmp_path) == (0, "")
    assert await ask(dsn, "SELECT ran_on FROM migration ORDER BY name") == ran
    assert await ask(dsn, TABLES) == tables


async def test_one_that_fails_leaves_the_database_as_it_was(dsn: str, tmp_path: Path) -> None:
    # In the way of an index of the second migration: by then the first has made all tables.
    await ask(dsn, "CREATE TABLE event_order ()")
    assert await migrate(dsn, tmp_path) == (
        2,
        "heirloom: The database can't be brought up to date, and is as it was: "
        'relation "event_order" already exists\n',
    )
    assert await ask(dsn, TABLES) == ["event_order"]
    assert await ask(dsn, "SELECT typname FROM pg_type WHERE typname LIKE 'pgqueuer%'") == []
    await ask(dsn, "DROP TABLE event_order")
    assert await migrate(dsn, tmp_path) == (0, "")


async def test_the_migrations_are_current() -> None:
    assert await missing() == []


async def test_a_table_without_migration_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Album(Table):
        name = Text()

    before = files()
    tables = [*piccolo_app.APP_CONFIG.table_classes, Album]
    monkeypatch.setattr(piccolo_app.APP_CONFIG, "table_classes", tables)
    added_table, added_column = await missing()
    assert added_table.startswith("manager.add_table(class_name='Album', tablename='album'")
    assert added_column.startswith("manager.add_column(table_class_name='Album', tablename='album', column_name='name'")
    assert files() == before
