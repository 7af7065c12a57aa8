"""A file in, facts and variants out: what a child process does with one file."""

from pathlib import Path

from processing import kinds
from processing.kinds import FileType, MediaKind
from processing.limits import Limits
from processing.variants import Facts, Tell

# Each kind's libraries are loaded when the first such file comes: all together they take 300 MB of address space.


def produce(source: Path, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """Analyses the file at `source` and makes the variants of its kind in the folder `into`; of a film all but STREAM.

    Tells `Progress(0)` once the file is analysed, each variant as it is made, and progress where it takes long. Raises
    ProcessingFailed: UNSUPPORTED, CORRUPT, TOO_MANY_PIXELS; OSError when the machine fails rather than the file.
    """
    with source.open("rb") as file:
        if type in kinds.RAW_TYPES:
            from processing import raws  # noqa: PLC0415

            return raws.produce(file, type, into, limits, tell)
        if type.kind is MediaKind.IMAGE:
            from processing import images  # noqa: PLC0415

            return images.produce(file, type, into, limits, tell)
        if type.kind is MediaKind.VIDEO:
            from processing import films  # noqa: PLC0415

            return films.produce(file, type, into, limits, tell)
        if type.kind is MediaKind.AUDIO:
            from processing import recordings  # noqa: PLC0415

            return recordings.produce(file, type, into, limits, tell)
        from processing import documents  # noqa: PLC0415

        return documents.produce(file, type, into, limits, tell)


def stream(source: Path, type: FileType, into: Path, limits: Limits, tell: Tell) -> Facts:  # noqa: A002
    """As films.stream, of the film at `source`."""
    from processing import films  # noqa: PLC0415

    with source.open("rb") as file:
        return films.stream(file, type, into, limits, tell)
