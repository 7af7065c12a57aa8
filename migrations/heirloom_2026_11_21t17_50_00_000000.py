"""What Piccolo can't say of the queue: how many media of an owner wait is asked at each upload."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T17:50:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "index of media that waits"


async def change() -> None:
    transaction = DB.usable_transaction()
    assert transaction is not None, "migrations run in one transaction"
    await transaction.connection.execute(
        "CREATE INDEX media_waiting ON media (owner) WHERE status IN ('UPLOADED', 'PROCESSING')"
    )


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="heirloom", description=DESCRIPTION)
    manager.add_raw(change)
    return manager
