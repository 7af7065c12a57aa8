"""GraphQL over HTTP, by the audits of npm's `graphql-http`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.client import WAIT_SECONDS
from tests.node import PROJECT, installed
from tests.server import Server

CLIENTS = PROJECT / "tests" / "web" / "clients"
AUDITS = 61

pytestmark = pytest.mark.xdist_group("clients")


async def test_every_audit_is_passed(server: Server, tmp_path: Path) -> None:
    node, environment = await asyncio.to_thread(installed, CLIENTS, tmp_path)
    process = await asyncio.create_subprocess_exec(
        node, str(CLIENTS / "audits.js"), f"{server.url}/graphql", env=environment, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WAIT_SECONDS):
        printed, _ = await process.communicate()
    results = [json.loads(line) for line in printed.splitlines()]
    assert [result for result in results if result["status"] != "ok"] == []
    assert (len({result["id"] for result in results}), process.returncode) == (AUDITS, 0)
