"""What Piccolo can't say of events: who may hear of them, and named places among them."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T17:20:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "who hears of events, and up to where they have been read"

STATEMENTS = (
    # Who could see what an event tells of, when it happened: see app/audience.py.
    "ALTER TABLE event ADD COLUMN entity_owner uuid, ADD COLUMN is_public boolean NOT NULL DEFAULT false",
    "UPDATE event SET entity_owner = entity.owner FROM entity WHERE entity.id = event.entity",
    # Each of these is read from a cursor on, in commit order.
    "CREATE INDEX event_owner ON event (owner, xid, id) WHERE owner IS NOT NULL",
    "CREATE INDEX event_entity_owner ON event (entity_owner, xid, id) WHERE entity_owner <> owner",
    "CREATE INDEX event_entity ON event (entity, xid, id) WHERE entity IS NOT NULL",
    "CREATE INDEX event_public ON event (xid, id) WHERE is_public",
    # Up to where the events have been deleted, and have been read by those who read all of them.
    "CREATE TABLE event_cursor (name text PRIMARY KEY, xid xid8 NOT NULL, id bigint NOT NULL)",
    "INSERT INTO event_cursor VALUES ('deleted', '0', 0)",
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
