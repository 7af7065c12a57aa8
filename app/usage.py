"""How many bytes an account keeps, and whether more fit in."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import Final

from piccolo.querystring import QueryString

from app.access import Viewer
from app.db import HeirloomTransaction
from app.errors import QuotaExceeded
from app.piccolo_conf import DB
from app.slots import MIB

# An original that has only been promised, or is known to be gone, takes no room.
_USAGE: Final = """
    SELECT count(*) FILTER (WHERE kept AND is_there) AS media_count,
           coalesce(sum(size_bytes) FILTER (WHERE kept AND is_there), 0)::bigint AS original_bytes,
           coalesce(sum(rendered) FILTER (WHERE kept), 0)::bigint AS variant_bytes,
           (coalesce(sum(size_bytes) FILTER (WHERE NOT kept AND is_there), 0)
               + coalesce(sum(rendered) FILTER (WHERE NOT kept), 0))::bigint AS trash_bytes,
           (SELECT quota_bytes FROM user_account WHERE id = {}) AS quota_bytes
    FROM (
        SELECT media.size_bytes, media.deleted_at IS NULL AS kept,
               media.status <> 'PENDING' AND media.lost_at IS NULL AS is_there,
               coalesce((SELECT sum(size_bytes) FROM variant WHERE variant.media = media.id), 0) AS rendered
        FROM media WHERE media.owner = {}
    ) AS own
"""
# No row, and nothing locked, where there is no limit.
_LOCK_LIMITED: Final = "SELECT id FROM user_account WHERE id = $1 AND quota_bytes IS NOT NULL FOR NO KEY UPDATE"
_LEFT: Final = """
    SELECT quota_bytes
         - (SELECT coalesce(sum(size_bytes), 0) FROM media
            WHERE media.owner = user_account.id AND status <> 'PENDING' AND lost_at IS NULL)
         - (SELECT coalesce(sum(variant.size_bytes), 0) FROM variant JOIN media ON media.id = variant.media
            WHERE media.owner = user_account.id)
         - (SELECT coalesce(sum(size_bytes), 0) FROM upload_session session
            WHERE session.owner = user_account.id AND session.state = 'OPEN') AS bytes_left
    FROM user_account WHERE id = {} AND quota_bytes IS NOT NULL
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


async def reserve(transaction: HeirloomTransaction, owner_id: uuid.UUID, size_bytes: int) -> None:
    """Hold room for so many bytes more until the transaction ends, which is to write the row that takes it.

    To be called after any entity is locked, and before sessions and media are. Counts all bytes that are stored, in the
    trash or not, and those that open sessions have promised. Raises QuotaExceeded.
    """
    if await transaction.connection.fetchval(_LOCK_LIMITED, owner_id) is not None:
        # A statement of its own: it sees what those wrote for whom the lock has waited.
        await would_fit(owner_id, size_bytes)


async def would_fit(owner_id: uuid.UUID, size_bytes: int) -> None:
    """A look that holds nothing, before any byte is stored. Raises QuotaExceeded."""
    for row in await DB.run_querystring(QueryString(_LEFT, owner_id)):
        if size_bytes > row["bytes_left"]:
            left = math.floor(max(row["bytes_left"], 0) / MIB * 10) / 10
            raise QuotaExceeded(f"Your account has {left:g} MiB left, and this takes more.", "size_bytes")
