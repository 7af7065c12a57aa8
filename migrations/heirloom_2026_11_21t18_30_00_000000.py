"""What Piccolo can't say of lists: what others brought to one's own, and indexes for what lists are narrowed to."""

from itertools import product

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T18:30:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "hosts of media, and indexes of lists that are narrowed"

HOST = (
    # Who owns the entity that a media is at, where that is not its own owner: an index can't have what is in two tables.
    # The database itself keeps it, as it knows of every writer, an earlier version and the foreign key among them.
    "ALTER TABLE media ADD COLUMN host uuid",
    "UPDATE media SET host = entity.owner FROM entity WHERE entity.id = media.entity AND entity.owner <> media.owner",
    """CREATE FUNCTION media_host() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.host := (SELECT owner FROM entity WHERE id = NEW.entity AND owner <> NEW.owner);
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER media_host BEFORE INSERT OR UPDATE OF entity, owner, host ON media "
    "FOR EACH ROW EXECUTE FUNCTION media_host()",
    """CREATE FUNCTION entity_host() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE media SET host = NEW.owner WHERE entity = NEW.id;
        RETURN NULL;
    END $$""",
    "CREATE TRIGGER entity_host AFTER UPDATE OF owner ON entity "
    "FOR EACH ROW WHEN (NEW.owner <> OLD.owner) EXECUTE FUNCTION entity_host()",
)

# As app/media.py says the orders, and app/access.py the ways.
NEWEST = "created_at DESC, id DESC"
HOSTED = "host IS NOT NULL AND deleted_at IS NULL"
ORDERS = {
    "newest": NEWEST,
    "taken": "coalesce(taken_at, '-infinity'::timestamptz) DESC, id DESC",
    "taken_oldest": "coalesce(taken_at, 'infinity'::timestamptz), id",
    "gallery": "sort_order, created_at, id",
}
# Administrators alone ask for all, and say this, which is always so: where others could use the indexes of all, the
# planner would look among everybody's newest for those of one account or entity, whose newest may be of years ago.
ALL = "size_bytes >= 0"
INDEXES_OF_ALL = {"newest": "newest", "taken": "taken", "taken_oldest": "taken_oldest", "all_gallery": "gallery"}
WAYS = {
    "owner": ("owner, ", "deleted_at IS NULL"),
    "host": ("host, ", HOSTED),
    "entity": ("entity, ", "entity IS NOT NULL AND deleted_at IS NULL"),
    "public": ("", "is_public AND moderation = 'APPROVED' AND deleted_at IS NULL"),
}
# Few of many may be of a kind, not (yet) ready, or without words: to find these takes an index that has no others.
NARROWED = {
    "kind": ("kind, ", "deleted_at IS NULL"),
    "unready": ("", "status <> 'READY'"),
    "without_words": ("", "alt_text IS NULL"),
    "with_words": ("", "alt_text IS NOT NULL"),
}

STATEMENTS = (
    *HOST,
    # Of the expressions of an index that has not all rows the planner knows nothing, and guesses that next to no media
    # were taken in a year.
    "CREATE STATISTICS media_taken ON (coalesce(taken_at, '-infinity'::timestamptz)) FROM media",
    "CREATE STATISTICS media_taken_oldest ON (coalesce(taken_at, 'infinity'::timestamptz)) FROM media",
    *(f"DROP INDEX media_{name}" for name in INDEXES_OF_ALL),
    *(
        f"CREATE INDEX media_{name} ON media ({ORDERS[order]}) WHERE deleted_at IS NULL AND {ALL}"
        for name, order in INDEXES_OF_ALL.items()
    ),
    *(f"CREATE INDEX media_host_{name} ON media (host, {keys}) WHERE {HOSTED}" for name, keys in ORDERS.items()),
    f"CREATE INDEX media_host_trash ON media (host, {NEWEST}) WHERE host IS NOT NULL AND deleted_at IS NOT NULL",
    *(
        f"CREATE INDEX media_{way}_{name} ON media ({whose}{what}{NEWEST}) WHERE {rule} AND {narrower}"
        for (way, (whose, rule)), (name, (what, narrower)) in product(WAYS.items(), NARROWED.items())
    ),
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
