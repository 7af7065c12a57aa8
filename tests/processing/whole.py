"""A file's processing as a whole, which of films is in two steps."""

from dataclasses import replace
from pathlib import Path

from processing import pipeline
from processing.kinds import FileType, MediaKind
from processing.limits import Limits
from processing.variants import Facts, Tell


def produce(source: Path, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    facts = pipeline.produce(source, type, into, limits, tell)
    if type.kind is not MediaKind.VIDEO or facts.width is None:
        return facts
    return replace(facts, duration=pipeline.stream(source, type, into, limits, tell).duration)
