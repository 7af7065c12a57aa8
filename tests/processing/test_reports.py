"""What the parent believes of a child, and what not."""

import asyncio
import collections
import io
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from processing.failures import FailureCode, ProcessingFailed
from processing.limits import Limits
from processing.reports import LINE_BYTES, NoReport, Receiver, Reporter
from processing.variants import Facts, Looks, Progress, Rendered, VariantName, variant_path
from tests.processing.sandboxes import PATIENCE, Strangers, strangers_in

DIGEST = "0123456789ab"
OUTPUT_BYTES = 1000
FACTS = Facts(
    width=4000,
    height=3000,
    duration=12.5,
    page_count=3,
    taken_at=datetime(2024, 2, 29, 23, 59, 58, 120000, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    latitude=-90.0,
    longitude=180.0,
    tags={"Make": "Ünïcödé 📷", "deep": [{"a": [1, 2.5, None, True]}], "large": 2**63},
    looks=Looks("0123456789abcdef", "3OcRJYB4d3h/iIeHeEh3eIhw+j2w", "#00ff7f"),
)


@pytest.fixture(scope="module")
async def stranger(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Strangers]:
    async with strangers_in(tmp_path_factory.mktemp("scratch"), Limits(seconds=PATIENCE)) as one:
        yield one


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path, OUTPUT_BYTES)


def line(tag: str, **values: object) -> bytes:

    return json.dumps({"type": tag, **values}).encode() + b"\n"


def variant(**values: object) -> bytes:
    said = {"name": "SMALL", "digest": DIGEST, "content_type": "image/webp", "width": 4, "height": 3}
    return line("variant", **said | values)


def facts(**values: object) -> bytes:
    names = ("width", "height", "duration", "page_count", "taken_at", "latitude", "longitude", "looks")
    return line("facts", **dict.fromkeys(names) | {"tags": {}} | values)


def looks(**values: str) -> dict[str, str]:
    return {"perceptual_hash": "0" * 16, "thumbhash": "AAAA", "dominant_color": "#000000"} | values


# ---------------------------------------------------------------- what is meant


@pytest.mark.parametrize("said", [FACTS, Facts(), Facts(taken_at=datetime(1999, 1, 1, tzinfo=UTC))])
def test_facts_arrive_as_they_were(receiver: Receiver, tmp_path: Path, said: Facts) -> None:
    sink = io.BytesIO()
    Reporter(sink, tmp_path).end(said)
    assert receiver.receive(sink.getvalue()) == said
    assert sink.getvalue().count(b"\n") == 1


def test_failures_arrive_as_they_were(receiver: Receiver, tmp_path: Path) -> None:
    sink = io.BytesIO()
    reporter = Reporter(sink, tmp_path)
    reporter.end(ProcessingFailed(FailureCode.CORRUPT, "Broken."))
    reporter.end(OSError(28, "No space left on device"))
    reporter.end(RuntimeError("x" * 20_000 + "the end"))
    corrupt, full, bug = map(receiver.receive, sink.getvalue().splitlines(keepends=True))
    assert isinstance(corrupt, ProcessingFailed)
    assert (corrupt.code, corrupt.message) == (FailureCode.CORRUPT, "Broken.")
    assert isinstance(full, OSError)
    assert full.errno == 28
    assert isinstance(bug, RuntimeError)
    assert str(bug).endswith("the end")


@pytest.mark.parametrize(
    ("name", "content_type", "file_name"),
    [
        (VariantName.SMALL, "image/webp", f"small-{DIGEST}.webp"),
        (VariantName.STREAM, "video/mp4", f"stream-{DIGEST}.mp4"),
    ],
)
def test_a_variant_is_found(
    receiver: Receiver, tmp_path: Path, name: VariantName, content_type: str, file_name: str
) -> None:
    path = variant_path(tmp_path, name, DIGEST, content_type)
    assert path == tmp_path / file_name
    path.write_bytes(b"four")
    sink = io.BytesIO()
    Reporter(sink, tmp_path).tell(Rendered(name, DIGEST, path, content_type, 4, 3, 4))
    assert receiver.receive(sink.getvalue()) == Rendered(name, DIGEST, path, content_type, 4, 3, 4)


def test_progress_rises(receiver: Receiver) -> None:
    told = [receiver.receive(line("progress", fraction=each)) for each in (0, 0, 0.0001, 0.5, 0.4, 0.5, 1, 1)]
    assert told == [Progress(0), None, None, Progress(0.5), None, None, Progress(1), None]


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\x80\x04N.\n",  # a pickle
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        line("ready"),
        line("progress", fraction=1)[:-1],  # cut off
        line("progress"),
        line("progress", fraction=-0.1),
        line("progress", fraction=1.1),
        line("progress", fraction="1"),
        b'{"type":"progress","fraction":NaN}\n',
        b'{"type":"progress","fraction":1e999}\n',
        line("progress", fraction=1, more=1),
        line("no such", fraction=1),
        line("failure", code="NO_SUCH", message=""),
        line("failure", code="CORRUPT", message="x" * 1001),
        line("failure", code="CORRUPT", message="a\0"),
        line("failure", code="STORAGE", message=""),
        line("failure", code="NOT_UPLOADED", message=""),
        line("failure", code="CHECKSUM_MISMATCH", message=""),
        line("failure", code="TIMEOUT", message=""),
        line("trouble", words="x" * 10_001),
        line("trouble", words="", number=2**70),
        facts(width=0),
        facts(width=-1),
        facts(height=2**31),
        facts(width=1.5),
        facts(width="1"),
        facts(duration=-1),
        facts(duration=1e10),
        facts(page_count=2**31),
        facts(taken_at="yesterday"),
        facts(taken_at="2024-02-29T23:59:58"),
        facts(taken_at="0001-01-01T00:00:00+05:45"),
        facts(latitude=90.1),
        facts(longitude=-180.1),
        facts(tags=[]),
        facts(tags={"a": "\0"}),
        facts(tags={"a": [{"\0": 1}]}),
        facts(tags={"a": "x" * 128 * 1024}),
        facts(tags={"a": [[[[[[[[1]]]]]]]]}),
        facts().replace(b'"tags": {}', b'"tags": {"a": ' + b"[" * 900 + b"]" * 900 + b"}"),
        b'{"type":"facts"}\n',
        facts().replace(b'"tags": {}', b'"tags": {"a": "\\ud800"}'),
        facts().replace(b'"tags": {}', b'"tags": {"a": NaN}'),
        facts(looks=looks(perceptual_hash="0" * 15)),
        facts(looks=looks(perceptual_hash="G" * 16)),
        facts(looks=looks(thumbhash="A" * 61)),
        facts(looks=looks(thumbhash="<script>")),
        facts(looks=looks(dominant_color="red")),
    ],
)
def test_nonsense(receiver: Receiver, said: bytes) -> None:
    with pytest.raises(NoReport):
        receiver.receive(said)


@pytest.mark.parametrize(
    "said",
    [
        {"name": "HUGE"},
        {"digest": "../../../etc"},
        {"digest": "0123456789AB"},
        {"digest": DIGEST + "\n"},
        {"content_type": "text/html"},
        {"width": 0},
        {"height": 2**31},
        {"path": "/etc/passwd"},
        {"digest": "ffffffffffff"},  # whose file is not there
        {"content_type": "video/mp4"},
    ],
)
def test_variants_that_are_none(receiver: Receiver, tmp_path: Path, said: dict[str, object]) -> None:
    variant_path(tmp_path, VariantName.SMALL, DIGEST, "image/webp").write_bytes(b"four")
    with pytest.raises(NoReport):
        receiver.receive(variant(**said))
    assert isinstance(receiver.receive(variant()), Rendered)
    with pytest.raises(NoReport):
        receiver.receive(variant())  # twice


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "empty", "large"])
def test_files_that_are_none(receiver: Receiver, tmp_path: Path, kind: str) -> None:
    path = variant_path(tmp_path, VariantName.SMALL, DIGEST, "image/webp")
    match kind:
        case "link":
            path.symlink_to(__file__)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "empty":
            path.touch()
        case "large":
            path.write_bytes(bytes(OUTPUT_BYTES + 1))
    with pytest.raises(NoReport):
        receiver.receive(variant())


def test_there_is_an_end_to_listening(receiver: Receiver) -> None:
    said = line("progress", fraction=0)
    for _ in range(2000):
        receiver.receive(said)
    with pytest.raises(NoReport):
        collections.deque(map(receiver.receive, [said] * 100), maxlen=0)


def test_a_child_says_no_more_than_is_heard(tmp_path: Path) -> None:
    sink = io.BytesIO()
    reporter = Reporter(sink, tmp_path)
    for step in range(100_000):
        reporter.tell(Progress(step / 100_000))
    assert 900 < sink.getvalue().count(b"\n") <= 1001


@pytest.mark.parametrize(
    ("deed", "arguments"),
    [
        ("scribble", ["no JSON"]),
        ("scribble", ['{"type":"progress","fraction":0}', '{"type":"progress","fraction":7}']),
        ("scribble", [variant().decode().strip()]),
        ("scribble", ["x" * (LINE_BYTES + 1)]),
        ("babble", ['{"type":"progress","fraction":0}']),
        ("babble", []),
        ("be_unstorable", []),
    ],
)
async def test_a_child_that_writes_nonsense_is_ended(stranger: Strangers, deed: str, arguments: list[str]) -> None:
    child = await stranger.ask("pid")
    async with asyncio.timeout(PATIENCE / 2):
        assert await stranger.failure(deed, *arguments) is FailureCode.CRASHED
    assert await stranger.ask("pid") != child


async def test_a_child_may_end_its_work_with_what_it_likes_to_say(stranger: Strangers) -> None:
    with pytest.raises(ProcessingFailed) as caught:
        await stranger.ask("scribble", '{"type":"failure","code":"UNSUPPORTED","message":"No."}')
    assert (caught.value.code, caught.value.message) == (FailureCode.UNSUPPORTED, "No.")
