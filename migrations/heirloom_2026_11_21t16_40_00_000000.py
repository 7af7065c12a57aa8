"""What Piccolo can't say of look-alikes: the index in which they are found."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T16:40:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "index of look-alikes"

STATEMENTS = (
    # The four quarters of a perceptual hash, of 16 bits each, with which one it is above them: see app/similar.py.
    # Null of a picture of one colour (all of these have one hash, black ones another), which looks like nothing else.
    "CREATE FUNCTION look_keys(hash varchar) RETURNS integer[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN "
    "CASE WHEN hash NOT IN ('0000000000000000', '8000000000000000') THEN ARRAY["
    + ", ".join(
        f"('x' || substr(hash, {4 * quarter + 1}, 4))::bit(16)::integer + {quarter << 16}" for quarter in range(4)
    )
    + "] END",
    # Without a list of pending entries, which each search would have to read through.
    "CREATE INDEX media_looks ON media USING gin (look_keys(perceptual_hash)) WITH (fastupdate = off)",
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
