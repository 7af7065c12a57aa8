"""Node and packages from npm for tests, by the means that build the pages of the product."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]


def toolchain() -> Any:
    """web/toolchain.py, which is in no package."""
    specification = importlib.util.spec_from_file_location("toolchain", PROJECT / "web" / "toolchain.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def installed(packages: Path, scratch: Path) -> tuple[str, dict[str, str]]:
    """Node's executable and its environment, with what the lock in `packages` names put there."""
    tools = toolchain()
    node = tools.find_node()
    environment: dict[str, str] = tools.environment_for(node, scratch)
    with tools.only_one_at_a_time(packages):
        tools.install(packages, node, environment)
    return node.executable, environment
