"""Media written straight into the table: lists longer than a test could upload, states that it can't wait for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from app.identifiers import uuid7
from tests.server import Server

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


def dsn_of(server: Server) -> str:
    return server.environment["HEIRLOOM_DATABASE_URL"]


async def execute(dsn: str, statement: str, *arguments: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def insert_media(dsn: str, owner: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A READY picture without bytes for each of the dicts, which hold the columns that matter; their ids, in order."""
    media = [_media(owner, row) for row in rows]
    connection = await asyncpg.connect(dsn)
    try:
        for columns in media:
            places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
            statement = f"INSERT INTO media ({', '.join(columns)}) VALUES ({places})"
            await connection.execute(statement, *columns.values())
        # As whoever writes them tells it: the lists of these places are other ones now.
        await connection.execute(
            "INSERT INTO event (kind, entity, occurred_at) SELECT 'CHANGED', unnest($1::uuid[]), now()",
            [*{columns["entity"] for columns in media if columns.get("entity")}],
        )
    finally:
        await connection.close()
    return [str(columns["id"]) for columns in media]


def _media(owner: str, row: dict[str, Any]) -> dict[str, Any]:
    token = secrets.token_hex(6).upper()
    return {
        "id": uuid7(),
        "public_id": f"MED-{token}",
        "owner": UUID(owner),
        "kind": "IMAGE",
        "status": "READY",
        "filename": f"{token}.jpg",
        "content_type": "image/jpeg",
        "size_bytes": 1000,
        "sha256": secrets.token_hex(32),
        "storage_backend": "local",
        "storage_key": f"tests/{token}/original.jpg",
        "tags": [],
        "sort_order": 0,
        "is_primary": False,
        "is_public": False,
        "moderation": "APPROVED",
        "source": "UPLOAD",
        "processing_attempts": 0,
        "created_at": EPOCH,
        "updated_at": EPOCH,
        **row,
    }
