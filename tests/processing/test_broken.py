"""Whatever comes, a file ends READY or with the right code, and the next one is processed."""

import sys
from collections.abc import AsyncIterator, Iterable

import pytest

from processing import kinds
from processing.kinds import FileType
from processing.limits import MIB
from tests.processing.broken import CRASHED, HOSTILE, TIMEOUT, Broken, spoiled
from tests.processing.endings import READY, Endings, endings, peak_bytes
from tests.processing.pictures import label
from tests.processing.samples import TYPES, sample

pytestmark = pytest.mark.xdist_group("broken")  # one sandbox, rather than one for each of xdist's workers

# An idle child with all libraries has 150 MiB, so much does an animation of a hundred frames take besides.
MOST_MEMORY = 700 * MIB


@pytest.fixture(scope="module")
async def files(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endings]:
    async with endings(tmp_path_factory.mktemp("scratch")) as those:
        yield those


async def assert_endings(files: Endings, corpus: Iterable[Broken]) -> None:
    """Of each; and of a good one after each, which is the same child's work unless that had to end."""
    surprises = {}
    before = files.child()
    for broken in corpus:
        ending = await files.of(broken.data, broken.type)
        if ending not in broken.outcomes:
            surprises[broken.name] = ending
        assert await files.of(sample(kinds.PNG), kinds.PNG) == READY
        after = files.child()
        assert after is not None, broken.name
        assert (before == after) == (ending not in (CRASHED, TIMEOUT)), broken.name
        if sys.platform == "linux":
            assert peak_bytes(after) < MOST_MEMORY, broken.name
        before = after
    assert surprises == {}


@pytest.mark.parametrize("type_", TYPES, ids=label)
async def test_samples_are_ready(files: Endings, type_: FileType) -> None:
    assert await files.of(sample(type_), type_) == READY


@pytest.mark.parametrize("type_", TYPES, ids=label)
async def test_cut_altered_and_mistaken(files: Endings, type_: FileType) -> None:
    await assert_endings(files, spoiled(type_))


@pytest.mark.parametrize("way", HOSTILE)
async def test_made_to_hurt(files: Endings, way: str) -> None:
    await assert_endings(files, HOSTILE[way]())
