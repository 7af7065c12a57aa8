"""The README's client for direct uploads, run as a reader runs it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.client import Account, Json
from tests.pictures import photograph

PROJECT = Path(__file__).parents[2]
MIB = 1024 * 1024
WAV = b"RIFF\x00\x00\x90\x00WAVEfmt "
BEGIN = """
    mutation($input: CreateUploadSessionInput!) {
        createUploadSession(input: $input) { session { id parts(numbers: [1]) { url } } errors { message } }
    }
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    [source] = re.findall(r'```python\n("""python upload\.py.*?)```', (PROJECT / "README.md").read_text(), re.DOTALL)
    (path := tmp_path / "upload.py").write_text(source)
    return path


async def run(script: Path, account: Account, file: Path) -> str:
    """What it prints: the media's id."""
    arguments = [f"{account.url}/graphql", account.token or "", str(file)]
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), *arguments, stdout=-1)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode().strip()


async def only_media(account: Account) -> Json:
    [media] = (await account.ask("{ library { nodes { id url contentType } } }"))["nodes"]
    answer = await account.http.get(media.pop("url"), headers={"authorization": ""})
    return {**media, "content": answer.content}


async def test_it_uploads_a_photograph(script: Path, ada: Account, tmp_path: Path) -> None:
    content = photograph(64, 48)
    (tmp_path / "ada.jpg").write_bytes(content)
    media_id = await run(script, ada, tmp_path / "ada.jpg")
    assert await only_media(ada) == {"id": media_id, "contentType": "image/jpeg", "content": content}


async def test_it_goes_on_where_it_was_cut_off(script: Path, ada: Account, tmp_path: Path) -> None:
    """What arrived first has other bytes than the file, and keeps them: it is not sent again."""
    path = tmp_path / "ada.wav"
    path.write_bytes(WAV + b"a" * 8 * MIB)
    claim = {"filename": path.name, "contentType": "audio/wav", "sizeBytes": path.stat().st_size}
    begun = await ada.ask(BEGIN, input={**claim, "idempotencyKey": f"{path.name} {path.stat().st_mtime_ns}"})
    [part] = begun["session"]["parts"]
    arrived = (WAV + b"b" * 8 * MIB)[: 8 * MIB]
    assert (await ada.http.put(part["url"], content=arrived, headers={"authorization": ""})).status_code == 200

    media_id = await run(script, ada, path)

    content = arrived + path.read_bytes()[8 * MIB :]
    assert await only_media(ada) == {"id": media_id, "contentType": "audio/wav", "content": content}
    assert await run(script, ada, path) == media_id
