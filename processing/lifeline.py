"""A child that ends with its parent, however that ends."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have this process get the signal when the thread that started it ends; `parent` is that thread's process id.

    Linux only: elsewhere nothing happens. To be called in the child, after any change of user, which would undo it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
