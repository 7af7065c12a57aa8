"""What review would have to look for again and again, and what import-linter can't see."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = ("app", "graphql_schema", "storage", "processing", "migrations")
LOCKS_OF_NODE = (
    "web/package-lock.json",
    "tests/web/uppy/package-lock.json",
    "tests/web/clients/package-lock.json",
    "tests/bench/sharp/package-lock.json",
    "tests/bench/yoga/package-lock.json",
    "tests/bench/postgraphile/package-lock.json",
)
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-web.lock", *LOCKS_OF_NODE)

READERS_OF_THE_ENVIRONMENT = {
    "app/settings.py",  # the one that reads HEIRLOOM_*; S3's credentials are botocore's to find
    "app/__init__.py",  # tells Piccolo where its engine is
    "app/embedded.py",  # takes PG* and LC_* away from PostgreSQL
}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}

# Those of `app` that may know Litestar, Strawberry or the schema. All others are in the contract that forbids it.
EDGE = {
    "app.access_log", "app.cli", "app.edge", "app.file_uploads", "app.files", "app.health", "app.main",
    "app.metrics_route", "app.pages", "app.security_headers", "app.serve", "app.traced_requests",
}  # fmt: skip

# A row's lock must not last as long as a network, a decoder or a password's hash; and Piccolo's transaction is its
# task's alone, so that nothing may run beside it.
SLOW = {"storage", "sandbox", "passwords"}
CONCURRENT = {"gather", "TaskGroup", "create_task", "to_thread"}

# Joined here, so that this file is none of what it finds.
REGISTRIES = [".".join(name) for name in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))]
MACHINE_PATHS = [f"/{folder}/" for folder in ("work", "root")]
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
KEYS = [
    re.compile("-----BEGIN [A-Z ]*PRIVATE KEY"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{16,}\.eyJ"),  # a JSON Web Token
    re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\b[0-9a-fA-F]{40,}\b"),
    re.compile(r"(?<![\w/+])(?=[\w/+]*[a-z])(?=[\w/+]*[A-Z])(?=[\w/+]*\d)[A-Za-z0-9/+]{40,}={0,2}"),
]


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


@functools.cache
def files() -> dict[str, str]:
    """What is in version control, by path; text only."""
    # -c: a clone that belongs to somebody else is read as well.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    try:
        listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.decode()
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("these sources are not under version control")
    found: dict[str, str] = {}
    for name in listed.split("\0"):
        path = PROJECT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found[name] = content.decode()
    assert "pyproject.toml" in found
    return found


def lines_with(pattern: re.Pattern[str], *, besides: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:160]}"
        for name, text in files().items()
        if name not in besides
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def in_transactions(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that stand within `async with ….transaction():`, and not in the block's own head."""
    for block in ast.walk(tree):
        if isinstance(block, ast.AsyncWith) and any(is_transaction(item.context_expr) for item in block.items):
            for statement in block.body:
                yield from (node for node in ast.walk(statement) if isinstance(node, ast.Call))


def is_transaction(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and ast.unparse(expression.func).endswith(".transaction")


def is_out_of_place(call: ast.Call) -> bool:
    """By the names in `services.storage.put`, and the like; what it passes on is looked at on its own."""
    *owners, name = re.findall(r"\w+", ast.unparse(call.func))
    return not SLOW.isdisjoint(owners) or name in CONCURRENT


def modules(package: str) -> set[str]:
    found = (PROJECT / package).glob("*.py")
    return {f"{package}.{path.stem}" for path in found if path.stem != "__init__"}


def test_every_module_has_its_layer_and_its_side_of_the_edge() -> None:
    layers, edge, _ = tomllib.loads(files()["pyproject.toml"])["tool"]["importlinter"]["contracts"]
    named = re.findall(r"app\.\w+", " ".join(layers["layers"]))
    assert sorted(named) == sorted(modules("app"))
    forbidden = [name for name in edge["source_modules"] if name.startswith("app.")]
    assert sorted([*forbidden, *EDGE]) == sorted(modules("app"))


def test_the_map_of_the_folders_names_every_module() -> None:
    told = files()["README.md"].split("## A map of the folders")[1].split("```")[1]
    folders = dict(re.findall(r"^(\w+)/(.*?)(?=^\w+/|\Z)", told, re.DOTALL | re.MULTILINE))
    for package in ("app", "graphql_schema"):
        words = re.findall(r"^  ((?:\w+ )*\w+)(?:  |\n)", folders[package], re.MULTILINE)
        assert sorted(f"{package}.{name}" for line in words for name in line.split()) == sorted(modules(package))


def test_only_settings_read_the_environment() -> None:
    readers = {
        relative(path)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT
    }
    importers = {
        relative(path)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and node.module == "os"
        and any(f"os.{alias.name}" in ENVIRONMENT for alias in node.names)
    }
    assert readers | importers == READERS_OF_THE_ENVIRONMENT


def test_a_transaction_waits_for_nothing_but_the_database() -> None:
    calls = {relative(path): list(in_transactions(ast.parse(path.read_text()))) for path in sources()}
    assert any(calls.values()), "the check must see the transactions that are there"
    assert [
        f"{name}:{call.lineno}: {ast.unparse(call)}"
        for name, found in calls.items()
        for call in found
        if is_out_of_place(call)
    ] == []


def test_that_check_finds_what_it_is_for() -> None:
    tree = ast.parse("""
async def operation(services, sandbox, storage):
    await services.storage.head("before")
    async with DB.transaction() as transaction, other(storage.open("key")):
        await transaction.connection.execute("…")
        for key in keys:
            await services.storage.delete([key])
        async with aclosing(storage.open(key)):
            pass
        await asyncio.gather(sandbox.analyze(path))
    await storage.put("after")
""")
    assert [ast.unparse(call.func) for call in in_transactions(tree) if is_out_of_place(call)] == [
        "services.storage.delete",
        "storage.open",
        "asyncio.gather",
        "sandbox.analyze",
    ]


@pytest.mark.parametrize("name", [*REGISTRIES, *MACHINE_PATHS])
def test_no_registry_and_no_path_of_a_machine_is_named(name: str) -> None:
    assert lines_with(re.compile(re.escape(name), re.IGNORECASE)) == []


def test_locks_have_hashes_and_no_address() -> None:
    for name in LOCKS[:3]:
        text = files()[name]
        assert "://" not in text
        packages = re.findall(r"^[a-z0-9].*?==", text, re.MULTILINE)
        assert 0 < len(packages) == len(re.findall(r"^[a-z0-9].*?\\\n\s+--hash=sha256:", text, re.MULTILINE))
    for name in LOCKS_OF_NODE:
        packages_of_node = files()[name]
        assert '"resolved"' not in packages_of_node
        assert packages_of_node.count('"integrity": "sha512-') == packages_of_node.count('"node_modules/') > 0


@pytest.mark.parametrize("key", KEYS, ids=["private", "token", "aws", "hexadecimal", "base64"])
def test_no_secret_is_kept(key: re.Pattern[str]) -> None:
    assert lines_with(key, besides=LOCKS) == []


def test_nothing_is_left_for_later() -> None:
    assert lines_with(UNFINISHED, besides=LOCKS) == []
