"""What a decoder might do that was taken over: a "file" names a deed, which a child of the sandbox then does."""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from processing.confinement import overwriting_memory
from processing.failures import FailureCode, ProcessingFailed
from processing.kinds import FileType
from processing.limits import MIB, Limits
from processing.variants import JSON, Facts, Progress, Rendered, Tell, VariantName, variant_path

DIGEST: Final = "0123456789ab"


def produce(source: Path, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    deed, *arguments = source.read_text().splitlines()
    return Facts(tags={"answer": DEEDS[deed](into, tell, *arguments)})


# ---------------------------------------------------------------- harmless


def pid(into: Path, tell: Tell) -> JSON:
    return os.getpid()


def sleep(into: Path, tell: Tell, seconds: str) -> JSON:
    time.sleep(float(seconds))
    return None


def announce_and_wait(into: Path, tell: Tell, started: str, goes_on: str) -> JSON:
    Path(started).write_text(str(os.getpid()))
    while not Path(goes_on).exists():
        time.sleep(0.005)
    return os.getpid()


def announce_progress_and_wait(into: Path, tell: Tell, goes_on: str) -> JSON:
    tell(Progress(0))
    return announce_and_wait(into, tell, str(into / "started"), goes_on)


def advance(into: Path, tell: Tell, times: str, pause: str) -> JSON:
    for step in range(int(times)):
        tell(Progress(step / int(times)))
        time.sleep(float(pause))
    return None


def make(into: Path, tell: Tell, *names: str) -> JSON:
    """Variants of eleven bytes each, and a fraction of progress for each."""
    for done, name in enumerate(map(VariantName, names), 1):
        path = variant_path(into, name, DIGEST, "image/webp")
        path.write_bytes(b"the variant")
        tell(Rendered(name, DIGEST, path, "image/webp", 2, 1, 999))
        tell(Progress(done / len(names)))
    return None


def make_and_die(into: Path, tell: Tell, *names: str) -> JSON:
    make(into, tell, *names)
    return die(into, tell, "SIGKILL")


def make_elsewhere(into: Path, tell: Tell) -> JSON:
    tell(Rendered(VariantName.SMALL, DIGEST, into / "small.webp", "image/webp", 2, 1, 1))
    return None


def confinement(into: Path, tell: Tell) -> JSON:
    return {
        "address space": list(resource.getrlimit(resource.RLIMIT_AS)),
        "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
        "ignored": [signal.getsignal(each) is signal.SIG_IGN for each in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ.items() - {("LC_CTYPE", "C.UTF-8")}),  # which Python sets itself
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "seconds of processors": resource.getrlimit(resource.RLIMIT_CPU)[0],
        "temporary files": tempfile.gettempdir(),
        "own group": os.getpgrp() == os.getpid(),
    }


def standing_when_memory_runs_out(into: Path, tell: Tell) -> JSON:
    return int(Path("/proc/self/oom_score_adj").read_text())


def look_at_memory(into: Path, tell: Tell, size: str) -> JSON:
    """How much of what was in memory is there still when it is given out again, to those who want it overwritten."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
    bytes_ = ctypes.c_size_t(int(size))
    first = [libc.malloc(bytes_) for _ in range(20)]
    for block in first:
        libc.memset(ctypes.c_void_p(block), ord("s"), bytes_)
    for block in first:
        libc.free(ctypes.c_void_p(block))
    with overwriting_memory():
        again = [libc.malloc(bytes_) for _ in range(20)]
    # Not all of it, nor in the same pieces: the interpreter takes some, and what is free is joined.
    assert any(abs(new - old) < int(size) for new in again for old in first)
    return sum(ctypes.string_at(block, int(size)).count(b"s" * 8) for block in again)


def use_threads(into: Path, tell: Tell) -> JSON:
    ran: list[int] = []
    thread = threading.Thread(target=lambda: ran.append(threading.get_native_id()))
    thread.start()
    thread.join()
    return ran != [os.getpid()] and len(ran)


def allocate(into: Path, tell: Tell, mebibytes: str) -> JSON:
    return len(bytearray(int(mebibytes) * MIB))


def write(into: Path, tell: Tell, mebibytes: str) -> JSON:
    with (into / "large").open("wb") as file:
        file.truncate(int(mebibytes) * MIB)
    return None


# ---------------------------------------------------------------- ends


def die(into: Path, tell: Tell, name: str) -> JSON:
    signal.raise_signal(signal.Signals[name])
    return "lives"


def leave(into: Path, tell: Tell) -> JSON:
    os._exit(0)


def fail(into: Path, tell: Tell) -> JSON:
    raise ProcessingFailed(FailureCode.UNSUPPORTED, "Not this one.")


def misbehave(into: Path, tell: Tell) -> JSON:
    raise LookupError("a decoder's bug \udcff")


def be_untellable(into: Path, tell: Tell) -> JSON:
    return "\udcff"


def be_unstorable(into: Path, tell: Tell) -> JSON:
    return ["\0"]


# ---------------------------------------------------------------- trespasses


def scribble(into: Path, tell: Tell, *lines: str) -> JSON:
    """Writes to the parent what a decoder may not."""
    for line in lines:
        os.write(_report_pipe(), line.encode() + b"\n")
    time.sleep(60)
    return None


def babble(into: Path, tell: Tell, line: str = "") -> JSON:
    """The same without end; or one line without end."""
    pipe = _report_pipe()
    while True:
        os.write(pipe, line.encode() + b"\n" if line else b" " * 4096)


def _report_pipe() -> int:
    for descriptor in range(64):
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_WRONLY:
                return descriptor
        except OSError:
            continue
    raise LookupError("no pipe")


def read(into: Path, tell: Tell, path: str) -> JSON:
    with Path(path).open("rb") as file:
        return len(file.read(1))


def open_to_write(into: Path, tell: Tell, path: str) -> JSON:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    return "open"


def call(into: Path, tell: Tell, *numbers: str) -> JSON:
    return _said(lambda into, parent: _call(*map(int, numbers)), into, 0)


def trespass(into: Path, tell: Tell, parent: str) -> JSON:
    """By each name, what the kernel says to it."""
    return {name: _said(attempt, into, int(parent)) for name, attempt in TRESPASSES.items()}


def _said(attempt: Callable[[Path, int], object], into: Path, parent: int) -> str:
    try:
        attempt(into, parent)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def _call(number: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*(ctypes.c_long(each) for each in (number, *arguments, 0, 0))) < 0:
        raise OSError(ctypes.get_errno(), "")


def _connect(into: Path, parent: int) -> None:
    with socket.create_connection(("127.0.0.1", 9)):
        pass


def _of_libc(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc[name](*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")


# A fork that succeeds would run these tests twice; its child leaves at once.
def _fork(into: Path, parent: int) -> None:
    if os.fork() == 0:
        os._exit(0)


TRESPASSES: Final[dict[str, Callable[[Path, int], object]]] = {
    "socket": lambda into, parent: socket.socket(),
    "unix socket": lambda into, parent: socket.socket(socket.AF_UNIX),
    "pair of sockets": lambda into, parent: socket.socketpair(),
    "connection": _connect,
    "program": lambda into, parent: subprocess.run(["/bin/true"], check=True),
    "exec": lambda into, parent: os.execv("/bin/true", ["true"]),
    "fork": _fork,
    "signal": lambda into, parent: os.kill(parent, 0),
    "signal to all": lambda into, parent: os.kill(-1, 0),
    "others' limits": lambda into, parent: resource.prlimit(parent, resource.RLIMIT_CPU),
    "others' niceness": lambda into, parent: os.setpriority(os.PRIO_PROCESS, parent, 19),
    "symbolic link": lambda into, parent: (into / "link").symlink_to("/etc/passwd"),
    "hard link": lambda into, parent: (into / "link").hardlink_to("/etc/passwd"),
    "pipe with a name": lambda into, parent: os.mkfifo(into / "fifo"),
    "a file cut by name": lambda into, parent: os.truncate(into, 0),
    "times": lambda into, parent: os.utime(into, (0, 0)),
    "attributes": lambda into, parent: os.setxattr(into, "user.a", b""),
    "attributes taken away": lambda into, parent: os.removexattr(into, "user.a"),
    "watching others": lambda into, parent: _of_libc("inotify_init1", 0),
    "signals of a pipe": lambda into, parent: fcntl.fcntl(_report_pipe(), 8, parent),  # F_SETOWN
    "signals of a pipe, others": lambda into, parent: fcntl.fcntl(_report_pipe(), 10, signal.SIGKILL),  # F_SETSIG
    "signals of a pipe, all": lambda into, parent: fcntl.fcntl(_report_pipe(), 15, bytes(8)),  # F_SETOWN_EX
    "life after the parent": lambda into, parent: _of_libc("prctl", 1, 0, 0, 0, 0),  # PR_SET_PDEATHSIG
    "rights": lambda into, parent: into.chmod(0o777),
    "memory file": lambda into, parent: os.memfd_create("m"),
    "io_uring": lambda into, parent: _call(425, 1),
    "pidfd": lambda into, parent: _call(434, parent),
    "namespace": lambda into, parent: _of_libc("unshare", 0x10000000),  # CLONE_NEWUSER
    "another user": lambda into, parent: os.setuid(os.getuid() + 1),
}


DEEDS: Final[dict[str, Callable[..., JSON]]] = {
    deed.__name__: deed
    for deed in (
        *(pid, sleep, announce_and_wait, announce_progress_and_wait, advance, make, make_and_die, make_elsewhere),
        *(confinement, standing_when_memory_runs_out, look_at_memory, use_threads, allocate, write),
        *(die, leave, fail, misbehave, be_untellable, be_unstorable),
        *(scribble, babble, read, open_to_write, call, trespass),
    )
}
