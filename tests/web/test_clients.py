"""The clients that applications have, from npm and in Node, against the running server.

Each does what `clients/walk.js` says, and tells of each step what it makes of the answer.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.test_progress import WELL, worker_paused
from tests.client import PASSWORD, WAIT_SECONDS, Account
from tests.node import PROJECT, installed
from tests.pictures import photograph
from tests.server import Server

CLIENTS = PROJECT / "tests" / "web" / "clients"
UPLOADED = {"upload": {"filename": "ada.jpg", "status": "UPLOADED"}}
# What a refused token is: over HTTP the status or the error in the body, on a socket the code that closes it.
REFUSED: dict[str, Any] = {
    "apollo": ["UNAUTHENTICATED"],
    "urql": ["UNAUTHENTICATED"],
    "graphql-ws": 4403,
    "graphql-sse": 401,
}

pytestmark = pytest.mark.xdist_group("clients")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    return installed(CLIENTS, tmp_path_factory.mktemp("node"))


async def steps_of(process: asyncio.subprocess.Process, *, until: str | None = None) -> list[Any]:
    """What it tells, until this step or its end."""
    assert process.stdout is not None
    told: list[Any] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while until is None or not told or until not in told[-1]:
            line = await process.stdout.readline()
            if not line:
                return told
            told.append(json.loads(line))
    return told


def updates() -> list[Any]:
    told = [{key: value for key, value in update.items() if key != "failure"} for update in WELL]
    return [{"update": update} for update in told]


@pytest.mark.parametrize("client", REFUSED)
async def test_a_client_does_all_that_it_is_for(
    server: Server, ada: Account, tmp_path: Path, node: tuple[str, dict[str, str]], client: str
) -> None:
    (file := tmp_path / "ada.jpg").write_bytes(photograph(640, 480))
    uploads = client in {"apollo", "urql"}
    async with worker_paused(server):  # so that it sees each stage
        given = str(file) if uploads else (await ada.uploaded(file))["id"]
        arguments = (str(CLIENTS / f"{client}.js"), f"{server.url}/graphql", ada.email, PASSWORD, given)
        process = await asyncio.create_subprocess_exec(node[0], *arguments, env=node[1], stdout=asyncio.subprocess.PIPE)
        steps = await steps_of(process, until="update")
    steps += await steps_of(process)
    assert await process.wait() == 0
    [media] = (await ada.ask("{ library { nodes { id status variants { name } } } }"))["nodes"]
    assert media["status"] == "READY"
    assert steps == [
        {"wrong password": {"accessToken": None, "user": None, "errors": [{"code": "UNAUTHENTICATED"}]}},
        {"login": {"user": {"displayName": "Ada"}, "errors": []}},
        *([UPLOADED] if uploads else []),
        *updates(),
        {"library": [[True, media]]},
        {"mistake": [None, ["GRAPHQL_VALIDATION_FAILED"]]},
        {"unknown": [None, ["NOT_FOUND"]]},
        {"logout": {"errors": []}},
        {"ended": REFUSED[client]},
    ]
