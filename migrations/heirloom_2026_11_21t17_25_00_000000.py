"""What Piccolo can't say of lists: an index for each order in which media is read, of an owner, an entity, or all."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T17:25:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "indexes of lists, in each of their orders"

# As app/media.py says the orders. Newest and oldest are one index, read from either end.
NEWEST = "created_at DESC, id DESC"
TAKEN = "coalesce(taken_at, '-infinity'::timestamptz) DESC, id DESC"
TAKEN_OLDEST = "coalesce(taken_at, 'infinity'::timestamptz), id"
GALLERY = "sort_order, created_at, id"
PUBLIC = "is_public AND moderation = 'APPROVED' AND deleted_at IS NULL"

STATEMENTS = (
    # Of one owner: the others are there.
    f"CREATE INDEX media_owner_gallery ON media (owner, {GALLERY}) WHERE deleted_at IS NULL",
    # Of one entity, whatever the slot.
    f"CREATE INDEX media_entity_taken ON media (entity, {TAKEN}) WHERE deleted_at IS NULL",
    f"CREATE INDEX media_entity_taken_oldest ON media (entity, {TAKEN_OLDEST}) WHERE deleted_at IS NULL",
    f"CREATE INDEX media_entity_gallery ON media (entity, {GALLERY}) WHERE deleted_at IS NULL",
    # Public: the newest are there.
    f"CREATE INDEX media_public_taken ON media ({TAKEN}) WHERE {PUBLIC}",
    f"CREATE INDEX media_public_taken_oldest ON media ({TAKEN_OLDEST}) WHERE {PUBLIC}",
    f"CREATE INDEX media_public_gallery ON media ({GALLERY}) WHERE {PUBLIC}",
    # All, for administrators.
    f"CREATE INDEX media_newest ON media ({NEWEST}) WHERE deleted_at IS NULL",
    f"CREATE INDEX media_taken ON media ({TAKEN}) WHERE deleted_at IS NULL",
    f"CREATE INDEX media_taken_oldest ON media ({TAKEN_OLDEST}) WHERE deleted_at IS NULL",
    f"CREATE INDEX media_all_gallery ON media ({GALLERY}) WHERE deleted_at IS NULL",
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
