"""`heirloom storage check` on a million objects and a million rows, some of which don't agree."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from app import agreement
from app.agreement import Kind
from app.embedded import EmbeddedPostgres
from app.migrate import migrate
from app.postmaster import address
from app.settings import load
from app.wiring import open_services
from storage.base import ObjectStorage, OpenUpload, StoredObject
from tests.bench.memory import Process
from tests.bench.report import Figure, seconds
from tests.graphql_schema.rows import execute
from tests.server import SECRET_KEY

OBJECTS: Final = 1_000_000
MEDIA: Final = 200_000  # and four variants of each
ORPHANS: Final = 1_000
SIZE: Final = 1_000
TARGET_MIB: Final = 32.0
TARGET_SECONDS: Final = 120.0
LONG_AGO: Final = datetime(2024, 1, 1, tzinfo=UTC)
VARIANTS: Final = ("large", "medium", "small", "thumbnail")

ACCOUNT: Final = """
    INSERT INTO user_account (id, email, password_hash, display_name, role, created_at)
    VALUES (gen_random_uuid(), 'ada@example.org', '', 'Ada', 'USER', now())
"""
ROWS: Final = f"""
    INSERT INTO media (id, public_id, owner, kind, status, filename, content_type, size_bytes, sha256, storage_backend,
                       storage_key, tags, sort_order, is_primary, is_public, moderation, source, processing_attempts,
                       created_at, updated_at)
    SELECT gen_random_uuid(), 'MED-' || n, user_account.id, 'IMAGE', 'READY', 'a.jpg', 'image/jpeg', {SIZE},
           lpad(n::text, 64, '0'), 'local', 'image/' || lpad(n::text, 6, '0') || '.jpg', '{{}}', 0, FALSE, FALSE,
           'APPROVED', 'UPLOAD', 1, now(), now()
    FROM user_account, generate_series(0, {MEDIA - 1}) AS n
"""
RENDERED: Final = f"""
    INSERT INTO variant (id, media, name, digest, content_type, width, height, size_bytes, storage_key)
    SELECT gen_random_uuid(), media.id, upper(name), '0123', 'image/webp', 1, 1, {SIZE},
           replace(storage_key, '.jpg', '_' || name || '-0123.webp')
    FROM media, unnest(ARRAY{list(VARIANTS)}) AS name
"""


class Million:
    """A storage that lists what there should be, and orphans among it; a million files would take long to make."""

    name = "local"

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def list(self, _: str) -> AsyncGenerator[StoredObject, None]:
        for number in range(MEDIA):
            stem = f"image/{number:06}"
            yield StoredObject(f"{stem}.jpg", SIZE, "image/jpeg", '"etag"', LONG_AGO)
            for name in VARIANTS:
                yield StoredObject(f"{stem}_{name}-0123.webp", SIZE, "image/webp", '"etag"', LONG_AGO)
            if number % (MEDIA // ORPHANS) == 0:
                yield StoredObject(f"{stem}_vast-0123.webp", SIZE, "image/webp", '"etag"', LONG_AGO)

    async def list_multiparts(self) -> AsyncGenerator[OpenUpload, None]:
        for _ in ():
            yield _


async def measure(folder: Path) -> list[Figure]:
    with EmbeddedPostgres(folder):
        dsn = address(folder)
        settings = load({"HEIRLOOM_DATA_DIR": str(folder), "HEIRLOOM_SECRET_KEY": SECRET_KEY})
        async with open_services(settings, dsn=dsn) as opened:
            await migrate()
            for statement in (ACCOUNT, ROWS, RENDERED, "ANALYZE"):
                await execute(dsn, statement)
            services = replace(opened, storage=cast("ObjectStorage", Million(opened.storage)))
            process = Process(os.getpid())
            before = process.resident()
            began = time.monotonic()
            with process.peak() as peak:
                report = await agreement.check(services, repair=False, now=datetime.now(UTC) + timedelta(days=1))
            taken = time.monotonic() - began
    found = {kind: finding.count for kind, finding in report.findings.items() if finding.count}
    assert (report.objects, report.originals) == (OBJECTS + ORPHANS, MEDIA), report
    assert found == {Kind.ORPHAN: ORPHANS}, found
    return [
        seconds(f"{report.objects:,} objects", [taken], TARGET_SECONDS),
        Figure("growth of RSS: at its peak", [max(peak) - before], "MiB", TARGET_MIB),
    ]
