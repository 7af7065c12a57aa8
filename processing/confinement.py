"""What is taken away from a process before it sees a file that somebody sent."""

import ctypes
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from processing.landlock import restrict_files
from processing.lifeline import die_with
from processing.limits import MIB, Limits
from processing.seccomp import refuse_calls

_OPEN_FILES: Final = 64  # a child has a dozen
_M_TRIM_THRESHOLD: Final = -1  # glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_PERTURB: Final = -6
_M_ARENA_MAX: Final = -8
_FILLING: Final = 0xA5  # any byte but zero
_KEPT_BYTES: Final = 64 * MIB
_BLOCK_BYTES: Final = 32 * MIB  # the most that glibc takes; Pillow allocates pixels by 16 MiB

_PR_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h
_CAPABILITY_VERSION_3: Final = 0x20080522  # linux/capability.h
# To pass folders of others: the scratch may lie below one, whoever we are. Landlock says where that ends.
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2

# Programs' libraries, and what these look up while they load and run.
_OF_THE_SYSTEM: Final[tuple[str, ...]] = (
    *("/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/fonts", "/etc/localtime"),
    *("/dev/zero", "/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system"),
)


def confine(limits: Limits, scratch: Path, niceness: int, parent: int) -> None:
    """For ever, in this process; before it has other threads, which would stay free.

    What remains: to read libraries, to read and write below `scratch`, and so many bytes and processors as `limits`
    say. On Linux; elsewhere only those limits hold, and on Linux before 5.13 all files of this user stay in reach.
    """
    # Both signals may be sent to all processes (systemd). The parent decides what becomes of work in hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow quotes the file in its warnings
    _reuse_memory()
    os.nice(niceness)
    for which, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        with suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS; nobody may go above an outer limit
            resource.setrlimit(which, (value, value))
    if sys.platform == "linux":
        _give_up_capabilities()
        _offer_oneself()
        restrict_files([*map(Path, _OF_THE_SYSTEM), *_libraries()], [scratch, Path(os.devnull)])
    die_with(parent)
    refuse_calls()  # that one of them


def grant_time(seconds: float) -> None:
    """Let this process use all processors for so long from now; then the kernel ends it, should the parent not."""
    until = int(time.process_time() + seconds * (os.cpu_count() or 1)) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or until < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


@contextmanager
def overwriting_memory() -> Iterator[None]:
    """What is allocated within holds nothing of a file before (pieces from 1 KiB on).

    For decoders that take what they allocate for what they have read. A PNG would take a tenth longer.
    """
    _set_malloc(_M_PERTURB, _FILLING)
    try:
        yield
    finally:
        _set_malloc(_M_PERTURB, 0)


def _libraries() -> tuple[Path, ...]:
    """Where modules are imported from; but of the folder that we lie in ourselves, which may hold more, our package."""
    installed = Path(msgspec.__file__).parents[1]
    return Path(sys.prefix), Path(sys.base_prefix), Path(os.__file__).parent, installed, Path(__file__).parent


def _give_up_capabilities() -> None:
    """What root has over others, but for files; and no program that is started gives anything back."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = ctypes.c_uint32 * 6
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held = kept()
    libc.capget(header, held)
    lower = held[1] & (_DAC_OVERRIDE | _DAC_READ_SEARCH)
    failed = libc.capset(header, kept(lower, lower)) or libc.prctl(
        _PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(number) for number in (1, 0, 0, 0))
    )
    if failed:
        raise OSError(ctypes.get_errno(), "the kernel lets nobody give up capabilities")


def _offer_oneself() -> None:
    """To the kernel when memory runs out: rather than the server, or the database."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _reuse_memory() -> None:
    """Keeps freed pixels for the next picture: faulting the pages in anew takes 4 to 8 % of rendering."""
    _set_malloc(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
    _set_malloc(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    # For each thread that ever was, glibc would keep 64 MiB of the address space, which is bounded.
    _set_malloc(_M_ARENA_MAX, 1)


def _set_malloc(parameter: int, value: int) -> None:
    with suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).mallopt(parameter, value)
