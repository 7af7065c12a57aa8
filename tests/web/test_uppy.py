"""Uppy's uploader for S3, from npm, in a browser: a page of another origin uploads straight into each storage."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import pytest

from tests.browser import CHROMIUM, Page, open_browser, until
from tests.client import Account, admitted
from tests.contracts.servers import aws_variables
from tests.node import installed, toolchain
from tests.pictures import photograph
from tests.postgres import create_database, drop_database
from tests.server import Server, running

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.xdist_group("uppy"),
]

PROJECT = Path(__file__).parents[2]
UPPY = PROJECT / "tests" / "web" / "uppy"
MIB = 1024 * 1024
# A WAV's beginning, and bytes that differ everywhere: two parts of 8 MiB, and one of 4 MiB.
RECORDING = b"RIFF\x00\x00\x40\x01WAVEfmt " + b"".join(number.to_bytes(4, "big") for number in range(5 * MIB - 4))
PARTS = 3
# In which the whole recording would be there several times, were it not paused.
QUIET_SECONDS = 1.0
# What went past GraphQL: that is asked by fetch, and what is read from a data URL goes nowhere.
SENT = "performance.getEntriesByType('resource').filter(each => each.initiatorType === 'xmlhttprequest').length"


def bundle(folder: Path) -> None:
    """Uppy and the page, by the Vite that builds the pages of the product."""
    installed(PROJECT / "web", folder)
    node, environment = installed(UPPY, folder)
    vite = [node, str(PROJECT / "web" / "node_modules" / "vite" / "bin" / "vite.js"), "build"]
    toolchain().run([*vite, "--logLevel=warn", f"--outDir={folder}", "--emptyOutDir"], UPPY, environment)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The files of a folder, on an origin of their own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bundle(folder := tmp_path_factory.mktemp("uppy"))
    with served(folder) as origin:
        yield origin


@pytest.fixture(scope="module", params=["local", "radosgw"])
async def server(
    request: pytest.FixtureRequest,
    origin: str,
    server_dsn: str,
    worker_name: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Server]:
    """That lets pages of this origin in; without a worker, since nothing is to be processed."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    dsn = await create_database(server_dsn, f"uppy_{name}_{worker_name}")
    with ExitStack() as stack:
        storage = {}
        if name == "radosgw":
            endpoint_url = request.getfixturevalue("radosgw_server").endpoint_url
            storage = {"storage": "s3", "s3_bucket": f"uppy-{uuid4()}", "s3_endpoint_url": endpoint_url}
            stack.enter_context(aws_variables())
        yield stack.enter_context(running(folder, dsn, worker=False, allowed_origins=origin, **storage))
    await drop_database(server_dsn, f"uppy_{name}_{worker_name}")


@pytest.fixture
async def ada(server: Server) -> AsyncIterator[Account]:
    async with admitted(server, "Ada") as account:
        yield account


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Page]:
    async with open_browser() as page:
        yield page


class Uploads:
    """The page with Uppy, signed in as somebody."""

    def __init__(self, page: Page, origin: str, account: Account) -> None:
        self.page = page
        self._account = account
        where = urlencode({"api": f"{account.url}/graphql", "token": account.token})
        self._address = f"{origin}/?{account.id}#{where}"

    async def open(self) -> None:
        """As it is after a reload: of what was under way, nothing but the browser's storage is left."""
        await self.page.open("about:blank")
        await self.page.wait_for("location.href === 'about:blank'")
        await self.page.open(self._address)
        await self.page.wait_for("window.uppy !== undefined")

    async def begin(self, file: Path, *, pause_after: int = 0) -> None:
        await self.page.choose_file("input", file)
        await self.page.evaluate(f"upload({pause_after})")

    async def paused(self) -> None:
        await self.page.wait_for("uppy.getFiles()[0].isPaused")

    async def resume(self) -> None:
        await self.page.evaluate("uppy.resumeAll()")

    async def cancel(self) -> None:
        await self.page.evaluate("uppy.cancelAll()")

    async def error(self) -> str | None:
        """What Uppy shows at the end, in the place of the upload being complete."""
        await self.page.wait_for("uppy.getFiles()[0].progress.complete || uppy.getFiles()[0].error")
        error: str | None = await self.page.evaluate("uppy.getFiles()[0].error")
        return error

    async def finish(self) -> str:
        """The id of the media; and no upload is remembered any more."""
        assert await self.error() is None
        assert await self.page.evaluate("localStorage.length") == 0
        media_id: str = await self.page.evaluate("uppy.getFiles()[0].meta.mediaId")
        return media_id

    async def sent(self) -> int:
        """How many requests carried bytes since the page was opened."""
        count: int = await self.page.evaluate(SENT)
        return count

    async def arrived(self) -> list[int]:
        """The parts that the storage has, of all uploads that are open."""
        viewer = await self._account.ask("{ viewer { uploadSessions { uploadedParts { partNumber } } } }")
        return [part["partNumber"] for session in viewer["uploadSessions"] for part in session["uploadedParts"]]


@pytest.fixture
async def uploads(browser: Page, origin: str, ada: Account) -> AsyncIterator[Uploads]:
    uploads = Uploads(browser, origin, ada)
    await uploads.open()
    await browser.evaluate("localStorage.clear()")
    browser.problems.clear()
    yield uploads
    assert browser.problems == []


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    (path := tmp_path / "recording.wav").write_bytes(RECORDING)
    return path


async def assert_uploaded(ada: Account, media_id: str, content_type: str, content: bytes) -> None:
    """The one media of a library, with exactly these bytes; and nothing is left open."""
    media = "id status contentType sizeBytes url"
    data = await ada.ask(f"{{ library {{ nodes {{ {media} }} }} viewer {{ uploadSessions {{ id }} }} }}")
    [stored] = data["library"]["nodes"]
    async with httpx.AsyncClient() as anybody:
        answer = await anybody.get(stored.pop("url"))
    assert answer.content == content
    assert stored == {"id": media_id, "status": "UPLOADED", "contentType": content_type, "sizeBytes": len(content)}
    assert data["viewer"]["uploadSessions"] == []


async def test_a_photograph_goes_in_one_put(uploads: Uploads, ada: Account, tmp_path: Path) -> None:
    content = photograph(1600, 1200)
    (tmp_path / "ada.jpg").write_bytes(content)
    await uploads.begin(tmp_path / "ada.jpg")
    media_id = await uploads.finish()
    assert await uploads.sent() == 1
    await assert_uploaded(ada, media_id, "image/jpeg", content)


async def test_a_recording_goes_in_parts_and_may_be_paused(uploads: Uploads, ada: Account, recording: Path) -> None:
    await uploads.begin(recording, pause_after=1)
    await uploads.paused()
    await asyncio.sleep(QUIET_SECONDS)
    assert (await uploads.sent(), await uploads.arrived()) == (1, [1])
    await uploads.resume()
    media_id = await uploads.finish()
    assert await uploads.sent() == PARTS
    await assert_uploaded(ada, media_id, "audio/wav", RECORDING)


async def test_a_new_page_goes_on_with_what_was_cut_off(uploads: Uploads, ada: Account, recording: Path) -> None:
    await uploads.begin(recording, pause_after=2)
    await uploads.paused()
    await uploads.open()
    assert (await uploads.sent(), await uploads.arrived()) == (0, [1, 2])
    await uploads.begin(recording)
    media_id = await uploads.finish()
    assert await uploads.sent() == PARTS - 2
    await assert_uploaded(ada, media_id, "audio/wav", RECORDING)


async def test_a_cancelled_upload_is_aborted_and_may_begin_anew(
    uploads: Uploads, ada: Account, recording: Path
) -> None:
    await uploads.begin(recording, pause_after=1)
    await uploads.paused()
    await uploads.cancel()

    async def is_aborted() -> bool:
        return bool(await ada.ask("{ viewer { uploadSessions { id } } }") == {"uploadSessions": []})

    await until(is_aborted)
    assert await ada.ask("{ library { totalCount } }") == {"totalCount": 0}
    await uploads.begin(recording)
    media_id = await uploads.finish()
    assert await uploads.sent() == 1 + PARTS
    await assert_uploaded(ada, media_id, "audio/wav", RECORDING)


async def test_what_is_refused_at_the_end_is_an_error_of_its_file(
    uploads: Uploads, ada: Account, tmp_path: Path
) -> None:
    (tmp_path / "page.jpg").write_text("<!doctype html><script>alert(1)</script>")
    await uploads.begin(tmp_path / "page.jpg")
    error = "These bytes are no picture, film, recording or document that is known here."
    assert await uploads.error() == error
    assert await ada.ask("{ library { totalCount } }") == {"totalCount": 0}
    [problem] = uploads.page.problems
    assert error in problem
    uploads.page.problems.clear()
