"""All that is made of a file in one go, of a film the STREAM too: what children do for these tests."""

from pathlib import Path

from processing import pipeline
from processing.kinds import FileType, MediaKind
from processing.limits import Limits
from processing.variants import Facts, Tell


def produce(source: Path, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """As pipeline.produce, and pipeline.stream if that found that there are moving pictures."""
    facts = pipeline.produce(source, type, into, limits, tell)
    if type.kind is MediaKind.VIDEO and facts.width is not None:
        pipeline.stream(source, type, into, limits, tell)
    return facts
