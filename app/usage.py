"""How many bytes an account keeps."""

from __future__ import annotations

from dataclasses import dataclass

from piccolo.querystring import QueryString

from app.access import Viewer
from app.piccolo_conf import DB

_USAGE = """
    SELECT count(*) FILTER (WHERE kept) AS media_count,
           coalesce(sum(size_bytes) FILTER (WHERE kept), 0)::bigint AS original_bytes,
           coalesce(sum(rendered) FILTER (WHERE kept), 0)::bigint AS variant_bytes,
           coalesce(sum(size_bytes + rendered) FILTER (WHERE NOT kept), 0)::bigint AS trash_bytes,
           (SELECT quota_bytes FROM user_account WHERE id = {}) AS quota_bytes
    FROM (
        SELECT media.size_bytes, media.deleted_at IS NULL AS kept,
               coalesce((SELECT sum(size_bytes) FROM variant WHERE variant.media = media.id), 0) AS rendered
        FROM media WHERE media.owner = {} AND media.status <> 'PENDING'
    ) AS own
"""


@dataclass(frozen=True, slots=True)
class StorageUsage:
    media_count: int
    original_bytes: int
    variant_bytes: int
    trash_bytes: int
    quota_bytes: int | None


async def of(viewer: Viewer) -> StorageUsage:
    """Bytes of the media that the viewer owns; what is in the trash counts there alone."""
    (row,) = await DB.run_querystring(QueryString(_USAGE, viewer.id, viewer.id))
    return StorageUsage(**row)
