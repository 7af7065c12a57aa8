"""Files changed at random: a few hundred with the other tests, ten thousand in `make fuzz`."""

import os
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from processing import kinds
from processing.limits import MIB
from tests.processing.broken import CORRUPT, TIMEOUT
from tests.processing.endings import LIMITS, READY, endings, peak_bytes
from tests.processing.mutations import mutation
from tests.processing.samples import TYPES, sample

MUTATIONS: Final = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 15 * len(TYPES)
_GROWTH: Final = 100 * MIB  # of ourselves, who make them


async def test_mutations_end(tmp_path: Path) -> None:
    """None hangs, none has us raise what we don't expect, and after each crash there is a child for the next.

    A failure names the number of a mutation, by which tests.processing.mutations.mutation makes it again.
    """
    for type_ in TYPES:
        sample(type_)
    before = _own_peak()
    found: Counter[str] = Counter()
    async with endings(tmp_path) as files:
        for number in range(MUTATIONS):
            each = mutation(number)
            try:
                ending = await files.of(each.data, each.type)
            except Exception as error:
                error.add_note(f"mutation {number}, a {each.type.extension}")
                raise
            assert ending != TIMEOUT, f"mutation {number}, a {each.type.extension}"
            found[ending] += 1
        assert await files.of(sample(kinds.PNG), kinds.PNG) == READY
        child = files.child()
        assert child is not None
        if sys.platform == "linux":
            assert peak_bytes(child) < LIMITS.memory_bytes
    assert found.total() == MUTATIONS
    assert min(found[READY], found[CORRUPT]) > MUTATIONS / 10, found  # neither harmless nor hopeless
    assert _own_peak() - before < _GROWTH


def _own_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
