"""Processes that die at a named moment: `python -m tests.faults FILE serve`, where FILE names the moment.

What is in the file is looked at each time that a moment is reached, so that one process can be armed and armed again.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from app import faults
from app.cli import main


def deadly(file: Path) -> None:
    """From now on this process kills itself at the moment whose name is in the file."""

    def reach(point: str) -> None:
        if file.read_text() == point:
            file.write_text("")  # once
            os.kill(os.getpid(), signal.SIGKILL)

    faults.reach = reach


if __name__ == "__main__":
    deadly(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
