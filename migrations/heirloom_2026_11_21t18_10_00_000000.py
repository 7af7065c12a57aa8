"""Events for cached reads alone."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T18:10:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "events for cached reads"

STATEMENTS = (
    # Piccolo sees no difference between two checks of one name.
    "ALTER TABLE event DROP CONSTRAINT event_kind, ADD CONSTRAINT event_kind CHECK (kind IN "
    "('UPLOADED', 'PROCESSING', 'READY', 'FAILED', 'UPDATED', 'TRASHED', 'RESTORED', 'PURGED', 'SESSION_ENDED', "
    "'CHANGED'))",
)


async def change() -> None:
    transaction = DB.usable_transaction()
    assert transaction is not None, "migrations run in one transaction"
    for statement in STATEMENTS:
        await transaction.connection.execute(statement)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="heirloom", description=DESCRIPTION)
    manager.add_raw(change)
    return manager
