"""The command line, as people and service managers meet it."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from app.embedded import EmbeddedPostgres
from app.postmaster import address
from graphql_schema.schema import schema
from tests.client import Account, Client
from tests.contracts.rclone import rclone
from tests.contracts.servers import aws_variables
from tests.postgres import create_database, drop_database
from tests.server import SECRET_KEY, Server, command, environment

LIMIT = 60.0  # seconds; a machine that runs the whole suite is busy
PASSWORD = "a password of some length"
LOGIN = "mutation($input: LoginInput!) { login(input: $input) { user { displayName role } errors { code } } }"
# The libraries that take long to load, and those that only one of the processes needs.
HEAVY = {
    "asyncpg",
    "litestar",
    "strawberry",
    "piccolo",
    "PIL",
    "uvicorn",
    "uvloop",
    "aiobotocore",
    "pgqueuer",
}


def heirloom(*arguments: str, env: dict[str, str], standard_input: str = "") -> tuple[int, str, str]:
    """Exit status, standard output and error."""
    ended = subprocess.run(
        command(*arguments),
        env=env,
        input=standard_input,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that PostgreSQL can reach, which doesn't run as root."""
    made = Path(tempfile.mkdtemp(prefix="heirloom-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
async def dsn(server_dsn: str, worker_name: str) -> AsyncIterator[str]:
    """An empty database."""
    name = f"cli_{worker_name}"
    yield await create_database(server_dsn, name)
    await drop_database(server_dsn, name)


async def accounts(dsn: str) -> list[tuple[str, str, str]]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT email, display_name, role FROM user_account ORDER BY email")
        return [tuple(row) for row in rows]
    finally:
        await connection.close()


# ---------------------------------------------------------------- help


def test_help_names_the_commands_and_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from app.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(' '.join(sorted(name for name in sys.modules if '.' not in name)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    told, loaded = ended.stdout.rstrip("\n").rsplit("\n", 1)
    assert told.startswith("usage: heirloom [-h] COMMAND ...")
    for name in ("serve", "worker", "migrate", "create-admin", "quota", "storage", "export-schema"):
        assert re.search(rf"^ +{name}\b", told, re.MULTILINE)
    assert HEAVY & set(loaded.split()) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["create-admin"],
        ["serve", "--fast"],
        ["serve", "--workers", "0"],
        ["serve", "--workers", "129"],
        ["quota", "ada@example.org"],
        ["quota", "ada@example.org", "-1"],
        ["quota", "ada@example.org", "1e9"],
        ["quota", "ada@example.org", str(2**53)],
        ["storage"],
        ["storage", "check", "--grace", "soon"],
    ],
)
def test_what_is_not_a_command_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    status, said, complained = heirloom(*arguments, env=environment(tmp_path))
    assert (status, said) == (2, "")
    assert complained.startswith("usage: heirloom")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the schema


def test_the_schema_is_printed_and_written_alike(tmp_path: Path) -> None:
    file = tmp_path / "schema.graphql"
    env = environment(tmp_path / "data")
    assert heirloom("export-schema", str(file), env=env) == (0, "", "")
    assert heirloom("export-schema", env=env) == (0, file.read_text(), "")
    assert file.read_text() == schema.as_str() + "\n"
    assert not (tmp_path / "data").exists()


# ---------------------------------------------------------------- accounts and the database


async def test_an_admin_is_made_beside_a_running_server(server: Server, client: Client) -> None:
    env = server.environment
    arguments = ("create-admin", "root@example.org", "--name", "Root", "--password-stdin")
    assert heirloom(*arguments, env=env, standard_input=f"{PASSWORD}\n") == (0, "", "")
    signed_in = await client.ask(LOGIN, input={"email": "ROOT@example.org", "password": PASSWORD})
    assert signed_in == {"user": {"displayName": "Root", "role": "ADMIN"}, "errors": []}
    # Twice is once, and told.
    status, said, complained = heirloom(*arguments, env=env, standard_input="another password\n")
    assert (status, said, complained) == (2, "", "heirloom: There is an account with this e-mail.\n")
    signed_in = await client.ask(LOGIN, input={"email": "root@example.org", "password": PASSWORD})
    assert signed_in["errors"] == []


@pytest.mark.parametrize(
    ("email", "password", "sentence"),
    [
        ("admin@example.org", "too short", "A password has 10 to 200 characters."),
        ("admin@example.org", "", "A password has 10 to 200 characters."),
        ("nobody", PASSWORD, "This is no e-mail address."),
    ],
)
async def test_an_admin_that_can_not_be_is_told(
    dsn: str, tmp_path: Path, email: str, password: str, sentence: str
) -> None:
    env = environment(tmp_path, database_url=dsn, secret_key=SECRET_KEY)
    ended = heirloom("create-admin", email, "--password-stdin", env=env, standard_input=f"{password}\n")
    assert ended == (2, "", f"heirloom: {sentence}\n")
    assert await accounts(dsn) == []


async def test_the_embedded_database_is_started_for_as_long_as_it_takes(folder: Path) -> None:
    data = folder / "data"
    env = environment(data)
    assert heirloom("migrate", env=env) == (0, "", "")
    ended = heirloom("create-admin", "root@example.org", "--password-stdin", env=env, standard_input=PASSWORD)
    assert ended == (0, "", "")
    assert not (data / "postgres" / "postmaster.pid").exists()
    with EmbeddedPostgres(data):
        # And now that it runs, it is used.
        assert heirloom("migrate", env=env) == (0, "", "")
        assert await accounts(address(data)) == [("root@example.org", "Administrator", "ADMIN")]


def test_a_worker_without_a_server_is_told(tmp_path: Path) -> None:
    assert heirloom("worker", env=environment(tmp_path)) == (
        2,
        "",
        f"heirloom: no PostgreSQL answers for {tmp_path}: start `heirloom serve` on it, or set HEIRLOOM_DATABASE_URL\n",
    )


@pytest.mark.parametrize("subcommand", ["serve", "worker", "migrate"])
async def test_a_database_that_is_not_there_is_told(server_dsn: str, tmp_path: Path, subcommand: str) -> None:
    missing = f"{server_dsn.rpartition('/')[0]}/nowhere"
    env = environment(tmp_path, database_url=missing, secret_key=SECRET_KEY)
    status, said, complained = heirloom(subcommand, env=env)
    assert (status, said) == (2, "")
    assert complained == (
        'heirloom: HEIRLOOM_DATABASE_URL: the database can\'t be used: database "nowhere" does not exist\n'
    )


def test_a_database_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    env = environment(tmp_path, database_url=f"postgresql://u:p@127.0.0.1:{port}/h", secret_key=SECRET_KEY)
    status, said, complained = heirloom("migrate", env=env)
    assert (status, said) == (2, "")
    assert complained.startswith("heirloom: HEIRLOOM_DATABASE_URL: the database can't be used: ")
    assert complained.count("\n") == 1


async def test_a_quota_is_set_and_lifted_beside_a_running_server(server: Server, ada: Account) -> None:
    env = server.environment
    quota = "{ viewer { storage { quotaBytes } } }"
    assert await ada.ask(quota) == {"storage": {"quotaBytes": None}}
    for given, kept in (("1048576", 1048576), ("0", 0), (str(2**53 - 1), 2**53 - 1), ("none", None)):
        assert heirloom("quota", ada.email.upper(), given, env=env) == (0, "", "")
        assert await ada.ask(quota) == {"storage": {"quotaBytes": kept}}
    ended = heirloom("quota", "nobody@example.org", "1", env=env)
    assert ended == (2, "", "heirloom: No account has this e-mail.\n")


# ---------------------------------------------------------------- the storage


def test_the_storage_is_set_up_without_a_database(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    status, said, complained = heirloom("storage", "init", env=env)
    assert (status, complained) == (0, "")
    assert said.count("there already") + said.count("done") == len(said.splitlines()) > 0
    assert (tmp_path / "data" / "files" / ".incoming").is_dir()
    assert not (tmp_path / "data" / "postgres").exists()
    again = "".join(f"{line.rpartition(': ')[0]}: there already\n" for line in said.splitlines())
    assert heirloom("storage", "init", env=env) == (0, again, "")


def test_what_the_storage_refuses_at_its_setting_up_is_told(tmp_path: Path) -> None:
    with aws_variables(), rclone(tmp_path) as s3:
        settings = {"storage": "s3", "s3_bucket": "heirloom", "s3_endpoint_url": s3.endpoint_url}
        env = environment(tmp_path / "data", secret_key=SECRET_KEY, **settings)
        first, again = (heirloom("storage", "init", env=env) for _ in range(2))
    refused = ["uploads from web pages", "unfinished uploads in parts", "what is left in incoming/"]
    for (status, said, complained), bucket in ((first, "done"), (again, "there already")):
        assert (status, complained) == (1, "")
        lines = said.splitlines()
        assert lines[0] == f"bucket: {bucket}"
        assert [line.partition(": refused: ")[0] for line in lines[1:]] == refused
        assert all(line.partition(": refused: ")[2] for line in lines[1:])


async def test_the_storage_is_checked_without_a_server(folder: Path) -> None:
    env = environment(folder / "data")
    outdated = "heirloom: The database is not up to date: run `heirloom migrate` first.\n"
    assert heirloom("storage", "check", "--repair", "--force", env=env) == (2, "", outdated)
    assert heirloom("migrate", env=env) == (0, "", "")
    empty = "0 objects, and 0 originals that should be among them.\nAll agrees.\n"
    assert heirloom("storage", "check", env=env) == (0, empty, "")
    assert not (folder / "data" / "postgres" / "postmaster.pid").exists()
    stray = folder / "data" / "files" / "stray.jpg"
    stray.write_bytes(b"bytes")
    told = "1 objects, and 0 originals that should be among them.\nobjects without a row{}\n    stray.jpg\n{}\n"
    young = told.format(" that are too young to judge: 1 (no fault)", "All agrees.")
    assert heirloom("storage", "check", "--repair", env=env) == (0, young, "")
    zero = ("--grace", "0")
    assert heirloom("storage", "check", *zero, env=env) == (1, told.format(": 1", "Wrong: 1."), "")
    dry = ("--repair", "--dry-run")
    assert heirloom("storage", "check", *dry, *zero, env=env) == (
        1,
        told.format(": 1, would be deleted", "Wrong: 1."),
        "",
    )
    assert stray.exists()
    mended = told.format(": 1, 1 deleted", "All was mended.")
    assert heirloom("storage", "check", "--repair", *zero, env=env) == (0, mended, "")
    assert not stray.exists()
    assert heirloom("storage", "check", *zero, env=env) == (0, empty, "")


# ---------------------------------------------------------------- serving


def of_folder(folder: Path) -> list[int]:
    """Processes that have it in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = [*process.cmdline(), *process.environ().values()]
            if any(str(folder) in word for word in told):
                found.append(process.pid)
    return found


def test_a_port_that_is_taken_is_told_and_nothing_stays(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said, complained = heirloom("serve", env=environment(folder / "data", port=port))
    assert (status, said) == (2, "")
    assert complained.splitlines()[-1] == (
        "heirloom: HEIRLOOM_HOST and HEIRLOOM_PORT: Address already in use "
        f"(while attempting to bind on address ('127.0.0.1', {port}))."
    )
    assert "Traceback" not in complained
    assert of_folder(folder) == []
    assert not (folder / "data" / "postgres" / "postmaster.pid").exists()
