"""`heirloom`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from app import logs
from app.settings import Settings, SettingsError, load

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0; 1 when fault was found; 2 with a sentence on standard error for what the user can mend."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int | None] = options.command
        return command(options) or 0
    except _told() as error:
        print(f"heirloom: {error}", file=sys.stderr)  # noqa: T201 - the command line speaks to people
        return 2


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
    serve.add_argument("--workers", type=_workers, metavar="N", help="API processes; HEIRLOOM_WORKERS unless given")
    serve.set_defaults(command=_serve)

    api = commands.add_parser("api")  # without help it is in no list: `serve` alone starts it
    api.add_argument("--metrics", type=Path, required=True)
    api.set_defaults(command=_api)

    worker = commands.add_parser("worker", help="process what is uploaded")
    worker.add_argument("--metrics", type=Path, help=argparse.SUPPRESS)  # by whoever counts for it
    worker.set_defaults(command=_worker)

    migrate = commands.add_parser("migrate", help="bring the database up to date")
    migrate.set_defaults(command=_migrate)

    admin = commands.add_parser("create-admin", help="make an account that may do everything")
    admin.add_argument("email")
    admin.add_argument("--name", default="Administrator", help="display name")
    admin.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    admin.set_defaults(command=_create_admin)

    quota = commands.add_parser("quota", help="limit what an account may keep")
    quota.add_argument("email")
    quota.add_argument("bytes", type=_bytes, metavar="BYTES|none", help="trash and variants included")
    quota.set_defaults(command=_quota)

    rerender = commands.add_parser("rerender", help="make variants anew whose specs have changed, in the background")
    rerender.add_argument("--no-wait", action="store_true", help="don't watch until the workers are done")
    rerender.set_defaults(command=_rerender)

    _add_storage(commands.add_parser("storage", help="set the storage up, or compare it with the database"))

    documents = commands.add_parser("check-documents", help="tell which trusted documents this server would refuse")
    documents.set_defaults(command=_check_documents)

    export = commands.add_parser("export-schema", help="print the GraphQL schema, or write it to a file")
    export.add_argument("file", nargs="?", type=Path)
    export.set_defaults(command=_export_schema)
    return parser


def _add_storage(storage: argparse.ArgumentParser) -> None:
    commands = storage.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make what the storage needs, where that is allowed")
    init.set_defaults(command=_storage_init)

    check = commands.add_parser("check", help="tell how the storage and the database disagree")
    check.add_argument("--repair", action="store_true", help="and mend what can be")
    check.add_argument("--force", action="store_true", help="with --repair, also what seems too much to be true")
    check.add_argument("--dry-run", action="store_true", help="change nothing, even with --repair")
    check.add_argument("--grace", type=_seconds, metavar="SECONDS", help="that an object may be without a row")
    check.add_argument("--json", action="store_true", help="for programs")
    check.set_defaults(command=_storage_check)


def _bytes(raw: str) -> int | None:
    return None if raw == "none" else _whole(raw, 2**53 - 1)


def _seconds(raw: str) -> timedelta:
    return timedelta(seconds=_whole(raw, 31_536_000))


def _workers(raw: str) -> int:
    return _whole(raw, 128, least=1)


def _whole(raw: str, most: int, least: int = 0) -> int:
    if not (raw.isascii() and raw.isdigit() and len(raw) < 20 and least <= int(raw) <= most):
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
    return int(raw)


def _settings() -> Settings:
    """From the environment, with the log as they say."""
    settings = load()
    logs.set_up(settings.log_level, settings.log_format)
    return settings


# Each command imports what it needs when it runs: `worker` never loads the web framework, `--help` nothing.


def _serve(options: argparse.Namespace) -> int | None:
    from app.embedded import database  # noqa: PLC0415
    from app.scratch import own_scratch  # noqa: PLC0415

    settings = _settings()
    settings = replace(settings, workers=options.workers or settings.workers)
    with_worker = settings.laptop and not options.no_worker
    with database(settings) as dsn, own_scratch(settings.metrics_dir) as counted:
        if settings.workers == 1:
            from app.serve import serve  # noqa: PLC0415

            return _run(serve(settings, dsn, counted, with_worker=with_worker))
        from app.cluster import serve_together  # noqa: PLC0415

        return _run(serve_together(settings, dsn, counted, with_worker=with_worker))


def _api(options: argparse.Namespace) -> None:
    from app.serve import serve_beside  # noqa: PLC0415

    settings = _settings()
    _run(serve_beside(settings, _running_database(settings), options.metrics))


def _worker(options: argparse.Namespace) -> None:
    from app.worker import run  # noqa: PLC0415

    settings = _settings()
    _run(run(settings, _running_database(settings), options.metrics))


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


def _quota(options: argparse.Namespace) -> None:
    async def limit(_: Settings, dsn: str) -> None:
        from app import accounts  # noqa: PLC0415
        from app.migrate import migrate  # noqa: PLC0415
        from app.wiring import open_database  # noqa: PLC0415

        async with open_database(dsn, connections=2):
            await migrate()
            await accounts.limit(options.email, options.bytes)

    _with_database(limit)


def _rerender(options: argparse.Namespace) -> int:
    from app.renewal_cli import rerender  # noqa: PLC0415

    settings = _settings()
    return _run(rerender(settings, _running_database(settings), wait=not options.no_wait))


def _storage_init(_: argparse.Namespace) -> int:
    from app.storage_cli import init  # noqa: PLC0415

    return _run(init(_settings()))


def _storage_check(options: argparse.Namespace) -> int:
    async def check(settings: Settings, dsn: str) -> int:
        from app.storage_cli import check  # noqa: PLC0415

        if options.grace is not None:
            settings = replace(settings, orphan_grace=options.grace)
        return await check(
            settings,
            dsn,
            repair=options.repair,
            force=options.force,
            dry_run=options.dry_run,
            as_json=options.json,
        )

    return _with_database(check)


def _check_documents(_: argparse.Namespace) -> int:
    from graphql_schema.documents import refused  # noqa: PLC0415
    from graphql_schema.limits import Limits  # noqa: PLC0415
    from graphql_schema.schema import schema  # noqa: PLC0415
    from graphql_schema.trusted import load as load_trusted  # noqa: PLC0415

    settings = load()
    documents = load_trusted(settings.trusted_documents, only=settings.trusted_only == "on")
    limits = Limits(settings.max_depth, settings.max_aliases)
    found = [f"{name}: {reason}\n" for name, reason in refused(schema.documents, documents, limits)]
    sys.stdout.write("".join(found) or f"Documents: {len(documents.by_id)}, all fine.\n")
    return 1 if found else 0


def _export_schema(options: argparse.Namespace) -> None:
    from graphql_schema.schema import schema  # noqa: PLC0415

    text = schema.as_str() + "\n"
    if options.file:
        options.file.write_text(text)
    else:
        sys.stdout.write(text)


def _with_database(work: Callable[[Settings, str], Coroutine[Any, Any, T]]) -> T:
    """On the database that is running, or on the embedded one, started for as long as it takes."""
    from app.embedded import database  # noqa: PLC0415
    from app.postgres_programs import EmbeddedPostgresError  # noqa: PLC0415

    settings = _settings()
    try:
        running = _running_database(settings)
    except EmbeddedPostgresError:
        with database(settings) as dsn:
            return _run(work(settings, dsn))
    return _run(work(settings, running))


def _running_database(settings: Settings) -> str:
    """The address of a database that somebody else runs. Raises EmbeddedPostgresError."""
    from app.postmaster import address  # noqa: PLC0415

    return settings.database_url or address(settings.data_dir)


def _run(work: Coroutine[Any, Any, T]) -> T:
    import uvloop  # noqa: PLC0415 - see above

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


if __name__ == "__main__":
    sys.exit(main())
