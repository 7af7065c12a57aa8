"""What a completion may name, for every storage: servers of S3 differ in what they look after."""

from collections.abc import Iterable, Sequence

from storage.base import MAX_PARTS, MIN_PART_BYTES, InvalidParts, StoredPart


def check_parts(parts: Sequence[StoredPart], arrived: Iterable[StoredPart]) -> None:
    """Raises InvalidParts unless `parts` are of those that have arrived, ascending, and all but the last large enough.

    Their sizes are taken from what has arrived.
    """
    if not 0 < len(parts) <= MAX_PARTS:
        raise InvalidParts(f"an upload has 1 to {MAX_PARTS} parts, not {len(parts)}")
    stored = {part.number: part for part in arrived}
    former = 0
    for place, part in enumerate(parts, 1):
        if part.number <= former:
            raise InvalidParts(f"part {part.number} comes after part {former}")
        former = part.number
        found = stored.get(part.number)
        if found is None or found.etag != part.etag:
            raise InvalidParts(f"part {part.number} has not arrived, or not with the ETag {part.etag}")
        if found.size < MIN_PART_BYTES and place < len(parts):
            raise InvalidParts(
                f"part {part.number} has {found.size} bytes: only the last may be under {MIN_PART_BYTES}"
            )
