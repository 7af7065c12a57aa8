"""CPU for documents made to cost much: parsed, bounded, validated, refused. The dearest of them."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from statistics import median

from tests.bench.report import Figure, milliseconds
from tests.graphql_schema.attacks import ATTACKS, prepared

RUNS = 5
SHOWN = 5
LIMIT_MS = 50.0


async def measure(_: Path) -> list[Figure]:
    gc.collect()
    gc.freeze()  # as the server does when it starts: else a collection looks at all the modules of the tests
    taken = {name: [_cpu(document) for _ in range(RUNS)] for name, (document, _) in ATTACKS.items()}
    dearest = sorted(taken, key=lambda name: -median(taken[name]))[:SHOWN]
    return [milliseconds(name, taken[name], LIMIT_MS) for name in dearest]


def _cpu(document: str) -> float:
    began = time.process_time()
    prepared(document)
    return time.process_time() - began
