"""A child that is not root: PostgreSQL refuses to be."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from processing.lifeline import die_with

# <linux/prctl.h>, <linux/capability.h>
PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETPCAP = 1 << 1, 1 << 2, 1 << 8
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Account(NamedTuple):
    """Whom the server runs as when we are root."""

    uid: int
    gid: int


def become(account: Account | None, death_signal: signal.Signals, owner: int, program: Path, data_dir: Path) -> None:
    """Runs in the forked child, before it turns into a program of PostgreSQL."""
    if account is not None:
        _leave_root(account, program, data_dir)
    die_with(owner, death_signal)  # after setuid, which would undo it


def _leave_root(account: Account, program: Path, data_dir: Path) -> None:
    """Become an ordinary user, who can still pass folders of root's, should the programs or the data lie below one.

    Opening those folders to everyone instead would outlive us. So one capability is kept over setuid and exec (an
    ambient one, see capabilities(7)): to read and pass everything, or if we don't have that (Docker), or if root's
    umask took the programs' x bit, to override permissions altogether. PostgreSQL then can do no more than we can.

    But others of that user must not come by it: who can write into the cluster decides what the server loads and runs.
    So together with the capability goes a data folder that only its owner passes. (The process itself is out of their
    reach, see ptrace(2): it has a capability that they lack.)
    """
    for_everyone = program.stat().st_mode & 0o005 == 0o005
    if sys.platform == "linux":
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    # access(2) asks for the real user, and leaves capabilities aside unless that is root.
    os.setregid(account.gid, -1)
    os.setreuid(account.uid, -1)
    needs_capability = sys.platform == "linux" and not (
        os.access(program, os.R_OK | os.X_OK) and os.access(data_dir, os.X_OK)
    )
    if needs_capability:
        data_dir.chmod(0o700)
    os.setgid(account.gid)
    os.setuid(account.uid)
    if not needs_capability:
        return
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if for_everyone else (CAP_DAC_OVERRIDE,):
        # PostgreSQL asks access(2) about its programs, which heeds capabilities only with this bit set.
        if _set_capabilities(permitted=capability | CAP_SETPCAP, inheritable=capability):
            _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
        # Permitted must be no more than ambient will be: else exec counts as a gain of privilege, which clears
        # PR_SET_PDEATHSIG and makes the loader deaf to the wheel's $ORIGIN.
        if _set_capabilities(permitted=capability, inheritable=capability):
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability.bit_length() - 1)
            return


def _set_capabilities(*, permitted: int, inheritable: int) -> bool:
    """Have these, effective as far as permitted, and no others for ever. False when that would be a gain."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    return bool(_libc.capset(header, (ctypes.c_uint32 * 6)(permitted, permitted, inheritable)) == 0)


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(ctypes.c_int(option), *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
