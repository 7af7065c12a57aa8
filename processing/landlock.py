"""Files out of reach: below given folders alone may a process open anything (Landlock, landlock(7))."""

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# The same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1

# linux/landlock.h: LANDLOCK_ACCESS_FS_*
_WRITE_FILE, _READ_FILE, _READ_FOLDER, _REMOVE_FOLDER, _REMOVE_FILE = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
_MAKE_FOLDER, _MAKE_FILE, _TRUNCATE = 1 << 7, 1 << 8, 1 << 14
_READ: Final = _READ_FILE | _READ_FOLDER
_CHANGE: Final = _WRITE_FILE | _TRUNCATE | _MAKE_FILE | _MAKE_FOLDER | _REMOVE_FILE | _REMOVE_FOLDER
_ON_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE  # rules on what is no folder may grant these
# What the first version knows, and what each later one added.
_KNOWN: Final = (1 << 13) - 1
_ADDED: Final = {2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
_TCP: Final = 0b11  # to bind and to connect: since version 4
_SCOPES: Final = 0b11  # abstract sockets of others, and signals to them: since version 6


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr"""

    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    """struct landlock_path_beneath_attr"""

    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("folder", ctypes.c_int32))


def restrict_files(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """From now on this thread, and those it starts, open nothing but what lies below these, as it lies there now.

    Files that are open stay so. Needs PR_SET_NO_NEW_PRIVS. False where the kernel can't (Linux before 5.13, or told
    not to): then nothing happens. Raises OSError.
    """
    version = landlock_version()
    if version < 1:
        return False
    handled = _KNOWN | sum(right for since, right in _ADDED.items() if since <= version)
    attributes = _Ruleset(handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = _checked(_call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0))
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        for path in writable:
            _allow(ruleset, path, (_READ | _CHANGE) & handled)
        _checked(_call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def landlock_version() -> int:
    """What this kernel can do; below 1: nothing."""
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION) if sys.platform == "linux" else 0


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there: then there is nothing to allow
        return
    try:
        rule = _Beneath(access if path.is_dir() else access & _ON_FILES, folder)
        _checked(_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(folder)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock refuses")
    return result
