"""`heirloom`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from app.settings import Settings, SettingsError, load


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 2 with a sentence on standard error for what the user can mend."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    for noisy in ("pgqueuer", "uvicorn", "botocore", "aiobotocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        command: Callable[[argparse.Namespace], None] = options.command
        command(options)
    except _told() as error:
        print(f"heirloom: {error}", file=sys.stderr)  # noqa: T201 - the command line speaks to people
        return 2
    return 0


def _told() -> tuple[type[Exception], ...]:
    """Failures whose message tells a person what to do."""
    from app.errors import HeirloomError  # noqa: PLC0415
    from app.migrate import MigrationError  # noqa: PLC0415
    from app.postgres_programs import EmbeddedPostgresError  # noqa: PLC0415 - see _serve
    from storage.base import StorageError  # noqa: PLC0415

    return SettingsError, EmbeddedPostgresError, MigrationError, HeirloomError, StorageError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="heirloom", description="A GraphQL server for the media of families.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve the API, with database and worker where none are configured")
    serve.add_argument("--no-worker", action="store_true", help="leave processing to workers of their own")
    serve.set_defaults(command=_serve)

    worker = commands.add_parser("worker", help="process what is uploaded")
    worker.set_defaults(command=_worker)

    migrate = commands.add_parser("migrate", help="bring the database up to date")
    migrate.set_defaults(command=_migrate)

    admin = commands.add_parser("create-admin", help="make an account that may do everything")
    admin.add_argument("email")
    admin.add_argument("--name", default="Administrator", help="display name")
    admin.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    admin.set_defaults(command=_create_admin)

    export = commands.add_parser("export-schema", help="print the GraphQL schema, or write it to a file")
    export.add_argument("file", nargs="?", type=Path)
    export.set_defaults(command=_export_schema)
    return parser


# Each command imports what it needs when it runs: `worker` never loads the web framework, `--help` nothing.


def _serve(options: argparse.Namespace) -> None:
    from app.serve import database, serve  # noqa: PLC0415

    settings = load()
    with database(settings) as dsn:
        with_worker = settings.laptop and not options.no_worker
        _run(serve(settings, dsn, with_worker=with_worker))


def _worker(_: argparse.Namespace) -> None:
    from app.worker import run  # noqa: PLC0415

    settings = load()
    _run(run(settings, _running_database(settings)))


def _migrate(_: argparse.Namespace) -> None:
    _with_database(_migrated)


async def _migrated(_: Settings, dsn: str) -> None:
    from app.migrate import migrate  # noqa: PLC0415
    from app.wiring import open_database  # noqa: PLC0415

    async with open_database(dsn, connections=2):
        await migrate()


def _create_admin(options: argparse.Namespace) -> None:
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else getpass.getpass("Password: ")

    async def create(settings: Settings, dsn: str) -> None:
        from app import accounts  # noqa: PLC0415
        from app.migrate import migrate  # noqa: PLC0415
        from app.tables import UserRole  # noqa: PLC0415
        from app.wiring import open_services  # noqa: PLC0415

        async with open_services(settings, dsn=dsn) as services:
            await migrate()
            await accounts.create(
                services, email=options.email, password=password, display_name=options.name, role=UserRole.ADMIN
            )

    _with_database(create)


def _export_schema(options: argparse.Namespace) -> None:
    from graphql_schema.schema import schema  # noqa: PLC0415

    text = schema.as_str() + "\n"
    if options.file:
        options.file.write_text(text)
    else:
        sys.stdout.write(text)


def _with_database(work: Callable[[Settings, str], Coroutine[Any, Any, None]]) -> None:
    """On the database that is running, or on the embedded one, started for as long as it takes."""
    from app.postgres_programs import EmbeddedPostgresError  # noqa: PLC0415
    from app.serve import database  # noqa: PLC0415

    settings = load()
    try:
        running = _running_database(settings)
    except EmbeddedPostgresError:
        with database(settings) as dsn:
            _run(work(settings, dsn))
    else:
        _run(work(settings, running))


def _running_database(settings: Settings) -> str:
    """The address of a database that somebody else runs. Raises EmbeddedPostgresError."""
    from app.postmaster import address  # noqa: PLC0415

    return settings.database_url or address(settings.data_dir)


def _run(work: Coroutine[Any, Any, None]) -> None:
    import uvloop  # noqa: PLC0415 - see above

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


if __name__ == "__main__":
    sys.exit(main())
