"""The multipart parser alone: what it delivers, what it refuses, and that it leaves nothing behind."""

import asyncio
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from graphql_schema.errors import MalformedRequest, RequestError, RequestTooLarge, SpoolFailed
from graphql_schema.multipart import Parsed, UploadLimits, parse
from graphql_schema.spool import HEAD_BYTES, UploadedFile

LIMITS = UploadLimits(file_bytes=3_000_000, field_bytes=20_000, files=3, total_bytes=10_000_000)
ONE = {"query": "q", "variables": {"file": None}}
ONE_MAP = {"0": ["variables.file"]}


def part(name: str, content: Any, *, filename: str | None = None, extra: str = "") -> bytes:
    """One part; content that is not bytes becomes JSON."""
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = "" if filename is None else f'; filename="{filename}"'
    header = f'Content-Disposition: form-data; name="{name}"{named}\r\n{extra}'
    return b"--B\r\n" + header.encode() + b"\r\n" + payload + b"\r\n"


def body(operations: Any, files_map: Any, *files: bytes) -> bytes:
    return part("operations", operations) + part("map", files_map) + b"".join(files) + b"--B--\r\n"


async def chunks(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(content: bytes, scratch: Path, *, size: int = 65_536, keep: bool = True, **other: Any) -> Parsed:
    return await parse(
        chunks(content, size), "multipart/form-data; boundary=B", limits=LIMITS, scratch=scratch, keep=keep, **other
    )


def left_in(scratch: Path) -> list[str]:
    return [path.name for path in scratch.iterdir()]


@pytest.mark.parametrize("chunk", [1, 7, 65_536])
async def test_a_file_stands_in_its_place_whatever_the_chunks(tmp_path: Path, chunk: int) -> None:
    content = os.urandom(9_000) + b"\r\n--A\r\n\r\n--"
    sent = body(ONE, ONE_MAP, part("0", content, filename="a.jpg", extra="Content-Type: Image/JPEG; q=1\r\n"))

    async with await read(sent, tmp_path, size=chunk) as parsed:
        file = parsed.operations["variables"]["file"]
        assert isinstance(file, UploadedFile)
        assert (file.filename, file.claimed_type, file.size) == ("a.jpg", "image/jpeg", len(content))
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.head == content[:HEAD_BYTES]
        assert not file.too_large
        assert file.path.read_bytes() == content
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        assert left_in(tmp_path) == [file.path.name]

    assert left_in(tmp_path) == []


async def test_a_file_of_several_writes_is_whole(tmp_path: Path) -> None:
    content = os.urandom(2_900_000)
    async with await read(body(ONE, ONE_MAP, part("0", content, filename="a")), tmp_path) as parsed:
        assert parsed.files[0].path.read_bytes() == content
        assert parsed.files[0].sha256 == hashlib.sha256(content).hexdigest()


async def test_one_file_at_two_places_is_one_object(tmp_path: Path) -> None:
    operations = [{"variables": {"a": None}}, {"variables": {"list": [{"b": None}, None]}}]
    paths = {"x": ["0.variables.a", "1.variables.list.0.b"], "y": ["1.variables.list.1"]}
    sent = body(operations, paths, part("y", b"why", filename="y"), part("x", b"ex", filename="x"))

    async with await read(sent, tmp_path) as parsed:
        first, second = parsed.operations
        assert first["variables"]["a"] is second["variables"]["list"][0]["b"]
        assert first["variables"]["a"].path.read_bytes() == b"ex"
        assert second["variables"]["list"][1].path.read_bytes() == b"why"
        assert [file.filename for file in parsed.files] == ["y", "x"]


async def test_no_file_at_all_is_legal(tmp_path: Path) -> None:
    async with await read(body({"query": "q"}, {}), tmp_path) as parsed:
        assert parsed.operations == {"query": "q"}
        assert parsed.files == []


async def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    async with await read(body(ONE, ONE_MAP, part("0", b"", filename="")), tmp_path) as parsed:
        file = parsed.files[0]
        assert (file.filename, file.claimed_type, file.size) == ("unnamed", None, 0)
        assert file.sha256 == hashlib.sha256(b"").hexdigest()
        assert file.path.read_bytes() == b""


async def test_a_file_above_its_limit_leaves_the_others_be(tmp_path: Path) -> None:
    operations = {"variables": {"files": [None, None]}}
    paths = {"0": ["variables.files.0"], "1": ["variables.files.1"]}
    large = part("0", bytes(LIMITS.file_bytes + 1), filename="large")
    sent = body(operations, paths, large, part("1", b"small", filename="small"))

    async with await read(sent, tmp_path) as parsed:
        dropped, kept = parsed.files
        assert (dropped.too_large, dropped.size, dropped.sha256, dropped.head) == (
            True,
            LIMITS.file_bytes + 1,
            "",
            b"",
        )
        assert (kept.too_large, kept.path.read_bytes()) == (False, b"small")
        assert left_in(tmp_path) == [kept.path.name]


async def test_a_file_exactly_at_its_limit_is_taken(tmp_path: Path) -> None:
    sent = body(ONE, ONE_MAP, part("0", bytes(LIMITS.file_bytes), filename="a"))
    async with await read(sent, tmp_path) as parsed:
        assert not parsed.files[0].too_large


async def test_files_that_are_not_kept_are_counted_only(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"  # a write into it would fail
    async with await read(body(ONE, ONE_MAP, part("0", b"x" * 10_000, filename="a")), nowhere, keep=False) as parsed:
        file = parsed.files[0]
        assert (file.size, file.sha256, file.head, file.path.exists()) == (10_000, "", b"", False)


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("../../etc/passwd", "passwd"),
        ("a\x00\x1b\x7f\u202egpj.exe", "agpj.exe"),
        (
            "\u0645\u0627\u0645\u0627\u200c\u0628\u0632\u0631\u06af.jpg",
            "\u0645\u0627\u0645\u0627\u200c\u0628\u0632\u0631\u06af.jpg",
        ),
        ("n" * 300, "n" * 255),
        ("..", "unnamed"),
        ("  ", "unnamed"),
        ("photos/", "unnamed"),
    ],
)
async def test_names_are_cleaned(tmp_path: Path, claimed: str, kept: str) -> None:
    async with await read(body(ONE, ONE_MAP, part("0", b"x", filename=claimed)), tmp_path) as parsed:
        assert parsed.files[0].filename == kept


OTHER = part("0", b"x" * 100, filename="a")
DEEP = b"[" * 5_000 + b"]" * 5_000
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "no multipart": b'{"query": "q"}',
    "no part": b"--B--\r\n",
    "no operations": part("map", ONE_MAP) + OTHER + b"--B--\r\n",
    "operations alone": part("operations", ONE) + b"--B--\r\n",
    "no map": part("operations", ONE) + OTHER + b"--B--\r\n",
    "map before operations": part("map", ONE_MAP) + part("operations", ONE) + OTHER + b"--B--\r\n",
    "operations twice": body(ONE, ONE_MAP, part("operations", ONE), OTHER),
    "map twice": body(ONE, ONE_MAP, part("map", ONE_MAP), OTHER),
    "operations no JSON": body(b"{", ONE_MAP, OTHER),
    "operations NaN": body(b'{"variables": {"file": null, "n": NaN}}', ONE_MAP, OTHER),
    "operations not UTF-8": body(b'{"query": "\xff"}', ONE_MAP, OTHER),
    "operations a half surrogate": body(b'{"query": "\\ud800"}', ONE_MAP, OTHER),
    "operations too deep": body(DEEP, ONE_MAP, OTHER),
    "operations null": body(b"null", ONE_MAP, OTHER),
    "operations a string": body("variables", ONE_MAP, OTHER),
    "map no JSON": body(ONE, b"", OTHER),
    "map null": body(ONE, b"null", OTHER),
    "map an array": body(ONE, [["variables.file"]], OTHER),
    "map of a string": body(ONE, {"0": "variables.file"}, OTHER),
    "map of nothing": body(ONE, {"0": []}, OTHER),
    "map of null": body(ONE, {"0": None}, OTHER),
    "map of numbers": body(ONE, {"0": [1]}, OTHER),
    "map too deep": body(ONE, DEEP, OTHER),
    "path empty": body(ONE, {"0": [""]}, OTHER),
    "path to the variables": body({"variables": None}, {"0": ["variables"]}, OTHER),
    "path to the query": body({"query": None}, {"0": ["query"]}, OTHER),
    "path into the extensions": body({"extensions": {"a": None}}, {"0": ["extensions.a"]}, OTHER),
    "path into null": body(ONE, {"0": ["variables.file.x"]}, OTHER),
    "path into no variables": body({"variables": None}, ONE_MAP, OTHER),
    "path into a string": body({"variables": {"a": "b"}}, {"0": ["variables.a.b"]}, OTHER),
    "path to a value": body({"variables": {"file": 1}}, ONE_MAP, OTHER),
    "path to nothing": body(ONE, {"0": ["variables.other"]}, OTHER),
    "path out of range": body({"variables": {"a": [None]}}, {"0": ["variables.a.1"]}, OTHER),
    "path from the end": body({"variables": {"a": [None]}}, {"0": ["variables.a.-1"]}, OTHER),
    "path with an endless index": body({"variables": {"a": [None]}}, {"0": ["variables.a." + "9" * 9_000]}, OTHER),
    "path with a foreign digit": body({"variables": {"a": [None]}}, {"0": ["variables.a.\u0660"]}, OTHER),
    "path with a name for an index": body({"variables": {"a": [None]}}, {"0": ["variables.a.length"]}, OTHER),
    "path to a prototype": body(ONE, {"0": ["variables.__proto__.x"]}, OTHER),
    "path to a class": body(ONE, {"0": ["variables.__class__"]}, OTHER),
    "path into a batch item that is none": body([1], {"0": ["0.variables.file"]}, OTHER),
    "path past the batch": body([ONE], {"0": ["1.variables.file"]}, OTHER),
    "batch path without its index": body([ONE], ONE_MAP, OTHER),
    "one path for two files": body(ONE, {"0": ["variables.file"], "1": ["variables.file"]}, OTHER),
    "one path twice": body(ONE, {"0": ["variables.file", "variables.file"]}, OTHER),
    "too many files": body(ONE, {str(number): [f"variables.{number}"] for number in range(4)}, OTHER),
    "file not sent": body(ONE, ONE_MAP),
    "file not in map": body(ONE, {}, OTHER),
    "file twice": body(ONE, ONE_MAP, OTHER, OTHER),
    "cut off in the file": body(ONE, ONE_MAP, part("0", b"x" * 2_000_000, filename="a"))[:1_900_000],
    "cut off after a file": body(ONE, ONE_MAP, OTHER).removesuffix(b"--B--\r\n"),
    "cut off in a header": body(ONE, ONE_MAP, OTHER)[: -len(OTHER)],
    "header too large": body(ONE, ONE_MAP, part("0", b"x", filename="n" * 9_000)),
    "header without end": part("operations", ONE) + b"--B\r\n" + b"x" * 9_000,
    "too many headers": body(ONE, ONE_MAP, part("0", b"x", filename="a", extra="X-A: b\r\n" * 9)),
    "header not UTF-8": body(ONE, ONE_MAP, OTHER.replace(b'"a"', b'"\xff"')),
    "part without a disposition": body(ONE, ONE_MAP, b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n"),
    "part without a name": body(ONE, ONE_MAP, b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n"),
    "another boundary": body(ONE, ONE_MAP, OTHER).replace(b"--B", b"--C"),
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("keep", [True, False])
async def test_malformed_bodies_are_refused_and_leave_nothing(tmp_path: Path, sent: bytes, keep: bool) -> None:
    with pytest.raises(MalformedRequest) as refused:
        await read(sent, tmp_path, keep=keep)
    assert refused.value.status == 400
    assert str(refused.value).endswith(".")
    assert len(str(refused.value)) < 250  # what was sent is quoted in part only
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "B" * 71,
        'multipart/form-data; boundary="\u00e9"',
    ],
)
async def test_a_bad_boundary_is_refused_before_anything_is_read(tmp_path: Path, content_type: str) -> None:
    async def unread() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    with pytest.raises(MalformedRequest):
        await parse(unread(), content_type, limits=LIMITS, scratch=tmp_path, keep=True)


@pytest.mark.parametrize(
    "sent",
    [
        body({**ONE, "query": "q" * LIMITS.field_bytes}, ONE_MAP, OTHER),
        body(ONE, {"0": ["x" * LIMITS.field_bytes]}, OTHER),
        body(ONE, ONE_MAP, OTHER) + bytes(LIMITS.total_bytes),
        body(ONE, ONE_MAP, part("0", bytes(LIMITS.total_bytes), filename="a")),
        bytes(LIMITS.total_bytes + 1),
    ],
    ids=["operations", "map", "after the end", "file", "before the start"],
)
async def test_too_large_bodies_are_refused(tmp_path: Path, sent: bytes) -> None:
    with pytest.raises(RequestTooLarge) as refused:
        await read(sent, tmp_path)
    assert refused.value.status == 413
    assert left_in(tmp_path) == []


async def test_an_announced_length_is_believed_when_it_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(RequestTooLarge):
        await read(b"", tmp_path, content_length=LIMITS.total_bytes + 1)


async def test_a_scratch_folder_that_is_not_there_is_the_servers_fault(tmp_path: Path) -> None:
    with pytest.raises(SpoolFailed) as failed:
        await read(body(ONE, ONE_MAP, OTHER), tmp_path / "nowhere")
    assert isinstance(failed.value, RequestError)
    assert failed.value.status == 503
    assert str(tmp_path) not in str(failed.value)


async def test_a_stream_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        async for chunk in chunks(body(ONE, ONE_MAP, part("0", bytes(2_500_000), filename="a"))[:2_000_000]):
            yield chunk
        assert left_in(tmp_path) != []
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await parse(failing(), "multipart/form-data; boundary=B", limits=LIMITS, scratch=tmp_path, keep=True)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("after", [1_000, 1_100_000, 1_200_000, 2_200_000])
async def test_a_cancelled_request_leaves_nothing(tmp_path: Path, after: int) -> None:
    stalled = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for chunk in chunks(body(ONE, ONE_MAP, part("0", bytes(2_500_000), filename="a"))[:after]):
            yield chunk
        stalled.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(
        parse(stalling(), "multipart/form-data; boundary=B", limits=LIMITS, scratch=tmp_path, keep=True)
    )
    await stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(tmp_path) == []


async def test_a_request_cancelled_while_a_thread_writes_leaves_nothing(tmp_path: Path) -> None:
    """The thread goes on after the task is gone: at every await of a request of 2.5 MB there is a cancellation."""
    sent = body(ONE, ONE_MAP, part("0", bytes(2_500_000), filename="a"))
    finished = False
    steps = 0
    while not finished:
        task = asyncio.create_task(read(sent, tmp_path))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).close()
        assert left_in(tmp_path) == []
        steps = steps * 2 + 1
