# ruff: noqa: S608 - the statements are put together from constants of this file
"""What the database knows of stored objects: all their keys, in the order in which a storage lists them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from piccolo.querystring import QueryString

from app.jobs import RENDERING
from app.piccolo_conf import DB

PAGE: Final = 2_000  # rows read at once

# The media of uploads that came to nothing: their rows stay for a while, and claim no bytes. Their sessions ended in
# the transaction that made them so.
_TOMBSTONE: Final = (
    "(media.lost_at IS NOT NULL AND media.failure_code IN ('NOT_UPLOADED', 'UNSUPPORTED', 'CHECKSUM_MISMATCH'))"
)
_ORIGINALS: Final = f"""
    SELECT media.storage_key AS key, 'ORIGINAL' AS source, media.id, media.id AS media, media.size_bytes, media.status,
           media.lost_at IS NOT NULL AS is_lost, {_TOMBSTONE} AS is_tombstone, media.storage_backend AS backend
    FROM media
"""
_VARIANTS: Final = """
    SELECT variant.storage_key AS key, 'VARIANT' AS source, variant.id, variant.media, variant.size_bytes, media.status,
           media.lost_at IS NOT NULL AS is_lost, FALSE AS is_tombstone, media.storage_backend AS backend
    FROM variant JOIN media ON media.id = variant.media
"""
_STAGED: Final = """
    SELECT session.staging_key AS key, 'STAGED' AS source, session.id, session.media, session.size_bytes, 'PENDING',
           FALSE AS is_lost, FALSE AS is_tombstone, media.storage_backend AS backend
    FROM upload_session session JOIN media ON media.id = session.media
    WHERE session.state = 'OPEN' AND session.staging_key IS NOT NULL
"""


def _next(select: str, column: str, *, joined_by: str = "WHERE") -> str:
    """The next page of one of these: each by its own index, whatever the database's collation."""
    # The page's size stands there as a number: for one that it does not know, the planner sorts all there is.
    return f'({select} {joined_by} {column} COLLATE "C" > {{}} ORDER BY {column} COLLATE "C" LIMIT {PAGE})'


_PAGE: Final = f"""
    SELECT * FROM (
        {_next(_ORIGINALS, "media.storage_key")}
        UNION ALL {_next(_VARIANTS, "variant.storage_key")}
        UNION ALL {_next(_STAGED, "session.staging_key", joined_by="AND")}
    ) AS known ORDER BY key COLLATE "C" LIMIT {PAGE}
"""
_AGAIN: Final = f"""
    {_ORIGINALS} WHERE media.id = ANY({{}}) UNION ALL {_VARIANTS} WHERE variant.id = ANY({{}})
"""
# Variants that a worker may just be storing, their rows still to come, belong to media that wait or are in work, or
# READY and to be rendered anew: of these only the queue tells.
_CLAIMED: Final = f"""
    WITH rendering AS (SELECT convert_from(payload, 'UTF8')::jsonb ->> 'media' AS id FROM ({RENDERING}) AS jobs)
    SELECT storage_key AS key FROM media WHERE storage_key = ANY({{}}) AND NOT {_TOMBSTONE}
    UNION ALL
    SELECT storage_key FROM variant WHERE storage_key COLLATE "C" = ANY({{}})
    UNION ALL
    SELECT staging_key FROM upload_session WHERE state = 'OPEN' AND staging_key COLLATE "C" = ANY({{}})
    UNION ALL
    -- Variants that were replaced, and go when there are no URLs to them any more.
    SELECT replaced.key FROM pgqueuer, jsonb_array_elements_text(convert_from(payload, 'UTF8')::jsonb -> 'variants')
        AS replaced (key)
    WHERE entrypoint = 'erase' AND replaced.key = ANY({{}})
    UNION ALL
    SELECT suspect.key FROM unnest({{}}::text[], {{}}::text[]) AS suspect (key, stem), LATERAL (
        SELECT FROM media
        WHERE media.storage_key COLLATE "C" >= suspect.stem || '.'
          AND media.storage_key COLLATE "C" < suspect.stem || '/' -- the character after the dot
          AND (media.status IN ('UPLOADED', 'PROCESSING') OR media.id::text IN (SELECT id FROM rendering))
        LIMIT 1
    ) AS in_work
"""
_OPEN_UPLOADS: Final = """
    SELECT media.storage_key AS key, session.upload_id
    FROM upload_session session JOIN media ON media.id = session.media
    WHERE session.state = 'OPEN' AND media.storage_key = ANY({})
"""


class Source(StrEnum):
    ORIGINAL = "ORIGINAL"
    VARIANT = "VARIANT"
    STAGED = "STAGED"


@dataclass(frozen=True, slots=True)
class Known:
    """A row that names a key. `id` is the row's own, `size` in bytes; the state is that of its media."""

    key: str
    source: Source
    id: uuid.UUID
    media: uuid.UUID
    size: int
    status: str
    is_lost: bool
    is_tombstone: bool
    backend: str


async def stream() -> AsyncGenerator[Known, None]:
    """All of them by the bytes of their keys, in bounded memory. No two rows have one key."""
    after = ""
    while True:
        rows = await _fetch(_PAGE, after, after, after)
        for row in rows:
            yield _known(row)
        if len(rows) < PAGE:
            return
        after = rows[-1]["key"]


async def again(known: Iterable[Known]) -> dict[uuid.UUID, Known]:
    """Those of the rows, by id, that are still there, as they are now."""
    ids: dict[Source, list[uuid.UUID]] = {source: [] for source in Source}
    for each in known:
        ids[each.source].append(each.id)
    rows = await _fetch(_AGAIN, ids[Source.ORIGINAL], ids[Source.VARIANT])
    return {row["id"]: _known(row) for row in rows}


async def claimed(keys: Sequence[str]) -> set[str]:
    """Those of the keys that a row names, or may be about to name."""
    stems = [stem_of(key) for key in keys]
    return {row["key"] for row in await _fetch(_CLAIMED, keys, keys, keys, keys, keys, stems)}


async def open_uploads(keys: Sequence[str]) -> set[tuple[str, str]]:
    """(key, upload id) of the uploads in parts to these keys that may still be completed."""
    return {(row["key"], row["upload_id"]) for row in await _fetch(_OPEN_UPLOADS, keys)}


def stem_of(key: str) -> str | None:
    """What the original's key begins with, before its dot, if `key` is a variant's (see `storage.keys.variant_key`)."""
    stem, mark, suffix = key.rpartition("_")
    return stem if mark and "/" not in suffix else None


async def _fetch(query: str, *values: object) -> list[Any]:
    rows: list[Any] = await DB.run_querystring(QueryString(query, *values))
    return rows


def _known(row: Any) -> Known:
    return Known(
        row["key"],
        Source(row["source"]),
        row["id"],
        row["media"],
        row["size_bytes"],
        row["status"],
        row["is_lost"],
        row["is_tombstone"],
        row["backend"],
    )
