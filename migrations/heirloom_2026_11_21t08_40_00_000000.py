"""What Piccolo can't say. Raw steps run before the table changes of their own file, so these have a file to themselves."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

from app.piccolo_conf import DB

ID = "2026-11-21T08:40:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "indexes, commit order, and the queue"

STATEMENTS = (
    # One account for an e-mail, however it is written.
    "CREATE UNIQUE INDEX user_account_email ON user_account (lower(email))",
    'CREATE INDEX session_of_user ON session ("user")',
    # Events in the order in which their transactions committed: see app/events.py.
    "ALTER TABLE event ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()",
    "CREATE INDEX event_order ON event (xid, id)",
    "CREATE INDEX event_media ON event (media, xid, id) WHERE media IS NOT NULL",
    "CREATE INDEX event_session ON event (session, xid, id) WHERE session IS NOT NULL",
    # Lists of entities, newest first.
    "CREATE INDEX entity_owner ON entity (owner, kind, created_at DESC, id DESC)",
    "CREATE INDEX entity_parent ON entity (parent) WHERE parent IS NOT NULL",
    # Lists of media, each in its order: of an owner, of an entity, of all that is public.
    "CREATE INDEX media_owner ON media (owner, created_at DESC, id DESC) WHERE deleted_at IS NULL",
    "CREATE INDEX media_owner_taken ON media (owner, coalesce(taken_at, '-infinity'::timestamptz) DESC, id DESC) "
    "WHERE deleted_at IS NULL",
    "CREATE INDEX media_owner_taken_oldest ON media (owner, coalesce(taken_at, 'infinity'::timestamptz), id) "
    "WHERE deleted_at IS NULL",
    "CREATE INDEX media_owner_trash ON media (owner, created_at DESC, id DESC) WHERE deleted_at IS NOT NULL",
    "CREATE INDEX media_entity ON media (entity, created_at DESC, id DESC)",
    "CREATE INDEX media_gallery ON media (entity, slot, sort_order, created_at, id) WHERE deleted_at IS NULL",
    "CREATE INDEX media_public ON media (created_at DESC, id DESC) "
    "WHERE is_public AND moderation = 'APPROVED' AND deleted_at IS NULL",
    "CREATE INDEX media_tags ON media USING gin (tags)",
    # What there can be only one of.
    "CREATE UNIQUE INDEX media_bytes_once ON media (owner, sha256) "
    "WHERE slot IS NULL OR slot NOT IN ('avatar', 'cover')",
    "CREATE UNIQUE INDEX media_idempotency ON media (owner, idempotency_key) WHERE idempotency_key IS NOT NULL",
    "CREATE UNIQUE INDEX media_single ON media (entity, slot) WHERE slot IN ('avatar', 'cover') AND deleted_at IS NULL",
    "CREATE UNIQUE INDEX media_primary ON media (entity, slot) WHERE is_primary",
)


async def install() -> None:
    transaction = DB.usable_transaction()
    assert transaction is not None, "migrations run in one transaction"
    for statement in STATEMENTS:
        await transaction.connection.execute(statement)
    await Queries(AsyncpgDriver(transaction.connection)).install()


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="heirloom", description=DESCRIPTION)
    manager.add_raw(install)
    return manager
