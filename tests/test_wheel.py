"""The package as it is installed: built, put into an environment of its own, and run far from these sources."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.client import Client, register
from tests.pictures import photograph
from tests.server import environment, free_port, is_ready, spawned, wait_for, wait_until_ready

# Built and installed once, by whichever of xdist's workers gets these tests.
pytestmark = pytest.mark.xdist_group("wheel")

PROJECT = Path(__file__).parents[1]
PACKAGES = ("app", "graphql_schema", "storage", "processing", "migrations")
PAGES = "app/static/graphiql"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*command: str | Path, folder: Path, **settings: object) -> str:
    """Standard output of a command that ends well; its data are in `data` below the folder."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder / "data", **settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by what is installed already: no network is needed."""
    assert (PROJECT / PAGES / "index.html").is_file(), "the pages are not built: run web/build.py"
    folder = tmp_path_factory.mktemp("dist")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    run(*PIP, "wheel", *options, str(PROJECT), folder=folder)
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def heirloom(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script, in an environment that has the dependencies of this one."""
    folder = tmp_path_factory.mktemp("installed") / "a path with spaces"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    [site_packages] = folder.glob("lib/python3.*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, folder=folder)
    return folder / "bin" / "heirloom"


def is_alive(process: psutil.Process) -> bool:
    """Zombies stay where a container's first process takes no notice of them."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_holds_the_packages_with_the_built_pages_and_nothing_else(wheel: Path) -> None:
    assert re.fullmatch(r"heirloom-[\d.]+-py3-none-any\.whl", wheel.name)
    metadata = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith(f"{metadata}/")}
        entry_points = archive.read(f"{metadata}/entry_points.txt").decode()
    assert entry_points.split("\n") == ["[console_scripts]", "heirloom = app.cli:main", ""]
    pages = {name for name in held if name.startswith(f"{PAGES}/")}
    assert f"{PAGES}/index.html" in pages
    assert {Path(name).suffix for name in pages} <= {".html", ".js", ".css", ".svg", ".ttf", ".gz", ""}
    assert held - pages == {
        path.relative_to(PROJECT).as_posix()
        for package in PACKAGES
        for path in (PROJECT / package).rglob("*")
        if path.is_file() and not {"__pycache__", "static"} & set(path.parts)
    }


def test_its_command_needs_no_database_to_speak(heirloom: Path, tmp_path: Path) -> None:
    told = run(heirloom, "--help", folder=tmp_path)
    commands = ("serve", "worker", "migrate", "create-admin", "export-schema")
    assert [word for word in re.findall(r"^    ([a-z-]+)", told, re.MULTILINE) if word in commands] == list(commands)
    schema = run(heirloom, "export-schema", folder=tmp_path)
    assert schema == (PROJECT / "graphql_schema" / "schema.graphql").read_text()
    assert list(tmp_path.iterdir()) == []


async def test_it_migrates_and_serves_from_an_empty_folder(heirloom: Path, tmp_path: Path) -> None:
    run(heirloom, "migrate", folder=tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = environment(tmp_path / "data", port=port)
    log = tmp_path / "serve.log"
    with spawned([str(heirloom), "serve"], env, log, cwd=tmp_path) as process:
        wait_until_ready(url, process, log)
        below = psutil.Process(process.pid).children(recursive=True)
        async with Client(url) as nobody:
            page = await nobody.http.get("/graphiql/")
        assert (page.status_code, "<title>Heirloom</title>" in page.text) == (200, True)
        async with register(url, "Ada") as ada:
            media = await ada.settled((await ada.uploaded(photograph()))["id"])
        assert (media["status"], len(media["variants"])) == ("READY", 4)

        below += psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0, log.read_text()
    wait_for(lambda: not any(is_alive(child) for child in below))
    assert not is_ready(url)
