"""When each stage of processing began, as the table of events has it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

import asyncpg

from app.postmaster import address
from tests.bench.report import Figure, milliseconds
from tests.server import Server

# An event bears the time at which its transaction began.
MARKS = ("UPLOADED", "FETCHING", "ANALYZING", "RENDERING", "STORING", "READY")
STEPS = (
    ("body's end to row (UPLOADED)", None, "UPLOADED"),
    ("row to pick-up (FETCHING)", "UPLOADED", "FETCHING"),
    ("fetching", "FETCHING", "ANALYZING"),
    ("analyzing", "ANALYZING", "RENDERING"),
    ("rendering", "RENDERING", "STORING"),
    ("storing", "STORING", "READY"),
    ("READY to its subscriber", "READY", None),
)

Marks = dict[str, float]


async def marks(server: Server, media: Iterable[str]) -> list[Marks]:
    """For each media the times of MARKS, as time.time() has them."""
    connection = await asyncpg.connect(address(server.data_dir))
    try:
        rows = await connection.fetch(
            "SELECT media, kind, data ->> 'stage' AS stage, extract(epoch FROM occurred_at)::float8 AS at"
            " FROM event WHERE media = ANY($1) ORDER BY xid, id",
            [uuid.UUID(one) for one in media],
        )
    finally:
        await connection.close()
    found: dict[uuid.UUID, Marks] = {}
    for row in rows:
        mark = row["kind"] if row["kind"] in MARKS else row["stage"]
        found.setdefault(row["media"], {})[mark] = row["at"]
    return list(found.values())


def breakdown(runs: Sequence[tuple[float, Marks, float]]) -> list[Figure]:
    """For each step its time in milliseconds; a run is its body's end, its marks, and when its subscriber knew."""
    figures = []
    for name, begin, end in STEPS:
        taken = [(told[end] if end else seen) - (told[begin] if begin else ended) for ended, told, seen in runs]
        figures.append(milliseconds(f"  {name}", taken))
    return figures
