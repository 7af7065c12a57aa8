"""All that uploads leave behind, whoever's they are: to show that nothing was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.server import Server


@dataclass(frozen=True)
class Footprint:
    """Rows by number (of the events, those about media); stored objects and spooled files by their paths."""

    media: int
    events: int
    jobs: int
    sessions: int
    objects: frozenset[str]
    scratch: frozenset[str]


async def footprint(server: Server) -> Footprint:
    """Exact only where no worker runs."""
    (counts,) = await fetch(
        server,
        "SELECT (SELECT count(*) FROM media) AS media, (SELECT count(media) FROM event) AS events,"
        " (SELECT count(*) FROM pgqueuer) AS jobs, (SELECT count(*) FROM upload_session) AS sessions",
    )
    return Footprint(**counts, objects=_below(server, "files"), scratch=_below(server, "scratch"))


async def fetch(server: Server, query: str, *arguments: object) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(server.environment["HEIRLOOM_DATABASE_URL"])
    try:
        return [dict(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


def _below(server: Server, folder: str) -> frozenset[str]:
    root = server.data_dir / folder
    return frozenset(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
