"""What Piccolo can't say of direct uploads: indexes, and closed sets of values that have grown."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T13:30:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "indexes of direct uploads, trash and the storage's check"

STATEMENTS = (
    # Piccolo sees no difference between two checks of one name.
    "ALTER TABLE event DROP CONSTRAINT event_kind, ADD CONSTRAINT event_kind CHECK (kind IN "
    "('UPLOADED', 'PROCESSING', 'READY', 'FAILED', 'UPDATED', 'TRASHED', 'RESTORED', 'PURGED', 'SESSION_ENDED'))",
    "ALTER TABLE media DROP CONSTRAINT media_failure_code, ADD CONSTRAINT media_failure_code CHECK (failure_code IN "
    "('CORRUPT', 'UNSUPPORTED', 'CHECKSUM_MISMATCH', 'NOT_UPLOADED', 'TOO_MANY_PIXELS', 'TIMEOUT', 'CRASHED', "
    "'STORAGE'))",
    # Bytes that are gone may come again; those that came twice before their hash was known stay twice.
    "DROP INDEX media_bytes_once",
    "CREATE UNIQUE INDEX media_bytes_once ON media (owner, sha256) "
    "WHERE (slot IS NULL OR slot NOT IN ('avatar', 'cover')) AND lost_at IS NULL AND NOT is_copy",
    "CREATE INDEX media_bytes ON media (owner, sha256)",
    # An upload that has only been promised takes no place.
    "DROP INDEX media_single",
    "CREATE UNIQUE INDEX media_single ON media (entity, slot) WHERE slot IN ('avatar', 'cover') "
    "AND deleted_at IS NULL AND status <> 'PENDING' AND lost_at IS NULL",
    # What a worker looks for from time to time.
    "CREATE INDEX media_trash ON media (deleted_at) WHERE deleted_at IS NOT NULL",
    "CREATE INDEX upload_session_open ON upload_session (expires_at) WHERE state = 'OPEN'",
    "CREATE INDEX upload_session_ended_at ON upload_session (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX upload_session_owner ON upload_session (owner, created_at, id) WHERE state = 'OPEN'",
    # All keys in the order in which a storage lists them, whatever the database's collation.
    'CREATE INDEX media_storage_key_bytes ON media (storage_key COLLATE "C")',
    'CREATE INDEX variant_storage_key_bytes ON variant (storage_key COLLATE "C")',
    'CREATE INDEX upload_session_staging_key_bytes ON upload_session (staging_key COLLATE "C") '
    "WHERE staging_key IS NOT NULL AND state = 'OPEN'",
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
