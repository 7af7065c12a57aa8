"""System calls that no decoder needs, refused by the kernel: the network, other programs, other processes."""

import ctypes
import errno
import os
import struct
import sys
from typing import Final

# By the architecture's name in uname(2): its AUDIT_ARCH_* (linux/audit.h), and its column in the tables below.
_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Numbers on x86_64 and aarch64, which lacks some of the old ones.
_REFUSED: Final = {
    # The network, and sockets of any kind.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    # Other programs, and children of the child's own, which would outlive it.
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    # Names that lead elsewhere, and rights: the parent reads what it finds in the folder.
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "truncate": (76, 45),
    "open_by_handle_at": (304, 265),
    # What others do with their files.
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    # Memory that counts as nobody's address space, and lasts.
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # What has let people out of confinement before.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
}
# Only where the first argument is the child's own process id, or 0, which means the same (its group is its own).
_OF_ITSELF_ONLY: Final = {
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
}
# What takes many orders, and which of them are refused.
_ORDERS: Final = {
    # fcntl (linux/fcntl.h): signals to whoever is named, when something comes: F_SETOWN, F_SETSIG, F_SETOWN_EX.
    (72, 25): (1, (8, 10, 15)),
    # prctl (linux/prctl.h): to outlive the parent: PR_SET_PDEATHSIG.
    (157, 167): (0, (1,)),
}
_CLONE: Final = (56, 220)
_CLONE_THREAD: Final = 0x10000

# Calls since Linux 5.1 have the same numbers everywhere: pidfds, io_uring, new ways to mount, clone3, whose arguments
# a filter can't see. Libraries take ENOSYS for an older kernel, and do without. x86_64's x32 calls are numbered above.
_FIRST_OF_THE_NEW: Final = 424

# linux/bpf_common.h, linux/seccomp.h, linux/prctl.h
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, (16, 24)  # offsets in struct seccomp_data; of arguments their lower half
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls() -> None:
    """From now on, in this thread and those it starts. Needs PR_SET_NO_NEW_PRIVS; raises OSError.

    On Linux on x86_64 and aarch64: elsewhere nothing happens.
    """
    architecture = _ARCHITECTURES.get(os.uname().machine)
    if sys.platform != "linux" or architecture is None:
        return
    code = _filter(*architecture)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")


def _filter(architecture: int, column: int) -> bytes:
    """Classic BPF (seccomp(2)): each jump skips as many instructions as it names, if true and if not."""
    refused, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_IF_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),  # 32-bit calls, which have other numbers
        _instruction(_LOAD, _NUMBER),
        _instruction(_IF_AT_LEAST, _FIRST_OF_THE_NEW, 0, 1),
        _instruction(_RETURN, unknown),
        _instruction(_IF_EQUAL, _CLONE[column], 0, 4),
        _instruction(_LOAD, _ARGUMENTS[0]),
        _instruction(_IF_ANY_BIT, _CLONE_THREAD, 1, 0),
        _instruction(_RETURN, refused),
        _instruction(_RETURN, _ALLOW),
    ]
    for numbers in _OF_ITSELF_ONLY.values():
        code += [
            _instruction(_IF_EQUAL, numbers[column], 0, 5),
            _instruction(_LOAD, _ARGUMENTS[0]),
            _instruction(_IF_EQUAL, 0, 2, 0),
            _instruction(_IF_EQUAL, os.getpid(), 1, 0),
            _instruction(_RETURN, refused),
            _instruction(_RETURN, _ALLOW),
        ]
    for numbers, (argument, orders) in _ORDERS.items():
        code += [
            _instruction(_IF_EQUAL, numbers[column], 0, 2 + 2 * len(orders)),
            _instruction(_LOAD, _ARGUMENTS[argument]),
        ]
        for order in orders:
            code += [_instruction(_IF_EQUAL, order, 0, 1), _instruction(_RETURN, refused)]
        code.append(_instruction(_RETURN, _ALLOW))
    for number in (numbers[column] for numbers in _REFUSED.values()):
        if number is not None:
            code += [_instruction(_IF_EQUAL, number, 0, 1), _instruction(_RETURN, refused)]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter"""
    return struct.pack("=HBBI", code, if_true, if_false, operand)
