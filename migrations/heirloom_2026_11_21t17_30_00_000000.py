"""Accounts of an outside issuer, by its name and theirs."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.piccolo_conf import DB

ID = "2026-11-21T17:30:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "accounts of an outside issuer"

STATEMENTS = (
    # `iss` and `sub` of the tokens that an outside issuer makes for it: see app/issuers.py.
    "ALTER TABLE user_account ADD COLUMN issuer text, ADD COLUMN subject varchar(255)",
    "ALTER TABLE user_account ADD CONSTRAINT user_account_issuer CHECK ((issuer IS NULL) = (subject IS NULL))",
    "CREATE UNIQUE INDEX user_account_outside ON user_account (issuer, subject) WHERE issuer IS NOT NULL",
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
