"""The database brought up to date: schema and bookkeeping in one transaction, one process at a time."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Final

import asyncpg
from piccolo.apps.migrations.commands.forwards import ForwardsMigrationManager
from piccolo.apps.migrations.tables import Migration

from app.piccolo_app import APP_NAME
from app.piccolo_conf import DB

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 3600.0  # for another process that is at it
# Any number, the same for all processes: whoever comes second waits, and finds the work done.
LOCK: Final = 0x4865_6972_6C6F_6F6D  # "Heirloom"


class MigrationError(Exception):
    """The database could not be brought up to date, and is as it was."""


async def migrate() -> None:
    """Run the migrations that haven't run yet. Needs an open engine. Raises MigrationError."""
    said = io.StringIO()
    try:
        async with DB.transaction() as transaction:
            # The pool's own limits are for requests; here the tables may be large.
            await transaction.connection.execute("SET LOCAL lock_timeout = 0")
            await transaction.connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK, timeout=PATIENCE_SECONDS)
            # Piccolo tells what it does by printing.
            with contextlib.redirect_stdout(said):
                result = await ForwardsMigrationManager(app_name=APP_NAME).run()
            if not result.success:
                raise MigrationError(f"The database can't be brought up to date: {result.message}")
    except asyncpg.PostgresError as error:
        raise MigrationError(f"The database can't be brought up to date, and is as it was: {error}") from error
    logger.debug("%s", said.getvalue())


async def require_current() -> None:
    """Raises MigrationError unless all migrations have run: for what only looks, and is to change nothing."""
    manager = ForwardsMigrationManager(app_name=APP_NAME)
    folder = manager.get_app_config(APP_NAME).resolved_migrations_folder_path
    ran = await Migration.get_migrations_which_ran(APP_NAME) if await Migration.table_exists() else []
    if set(manager.get_migration_modules(folder)) - set(ran):
        raise MigrationError("The database is not up to date: run `heirloom migrate` first.")
