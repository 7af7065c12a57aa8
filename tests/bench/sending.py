"""Uploads as a client makes them who doesn't hold the files in memory, and who looks at the clock."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.material import MIB
from tests.client import Account, Json

RESULTS = "id errors { code }"
UPLOAD = "mutation($input: UploadMediaInput!) { uploadMedia(input: $input) { media { id } errors { code } } }"
UPLOAD_BATCH = (
    f"mutation($input: UploadMediaBatchInput!) {{ uploadMediaBatch(input: $input) {{ results {{ {RESULTS} }} }} }}"
)


@dataclass(frozen=True)
class Sent:
    """What an upload made, and by time.time() when its body had been sent and its answer was there."""

    media: list[str]
    body_ended: float
    answered: float


async def send_one(account: Account, path: Path) -> Sent:
    answer, ended, answered = await _send(account, UPLOAD, {"input": {"file": None}}, {"input.file": path})
    payload = answer["data"]["uploadMedia"]
    assert payload["errors"] == [], payload
    return Sent([payload["media"]["id"]], ended, answered)


async def send_batch(account: Account, paths: Sequence[Path], **fields: Any) -> Sent:
    variables = {"input": {"files": [None] * len(paths), **fields}}
    places = {f"input.files.{index}": path for index, path in enumerate(paths)}
    answer, ended, answered = await _send(account, UPLOAD_BATCH, variables, places)
    results = answer["data"]["uploadMediaBatch"]["results"]
    assert all(result["errors"] == [] for result in results), results
    return Sent([result["id"] for result in results], ended, answered)


async def _send(account: Account, query: str, variables: Json, files: dict[str, Path]) -> tuple[Json, float, float]:
    boundary = secrets.token_hex(16)
    places = {str(index): [f"variables.{path}"] for index, path in enumerate(files)}
    operations = json.dumps({"query": query, "variables": variables})
    parts: list[tuple[str, bytes | Path]] = [
        ('name="operations"', operations.encode()),
        ('name="map"', json.dumps(places).encode()),
        *((f'name="{index}"; filename="{path.name}"', path) for index, path in enumerate(files.values())),
    ]
    pieces: list[bytes | Path] = []
    for description, content in parts:
        pieces += [f"--{boundary}\r\nContent-Disposition: form-data; {description}\r\n\r\n".encode(), content, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    length = sum(piece.stat().st_size if isinstance(piece, Path) else len(piece) for piece in pieces)
    ended = 0.0

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            with piece.open("rb") as file:
                while chunk := file.read(MIB):
                    yield chunk
        # Asked for more only once the last piece has left this process.
        nonlocal ended
        ended = time.time()

    response = await account.http.post(
        "/graphql",
        content=body(),
        headers={
            "content-type": f"multipart/form-data; boundary={boundary}",
            "content-length": str(length),
            "apollo-require-preflight": "true",
        },
    )
    answered = time.time()
    assert response.status_code == 200, response.text
    return response.json(), ended, answered
