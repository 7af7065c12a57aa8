"""The worked example in a browser against the real server: from a new account to a photograph in all its sizes."""

from __future__ import annotations

import io
import json
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.browser import Page, open_browser, until
from tests.client import PASSWORD
from tests.pictures import photograph
from tests.server import Server
from tests.web.graphiql import RESPONSE, VARIABLES, GraphiQL, graphiql_at, needs_chromium

pytestmark = needs_chromium

STAGES = [
    ("UPLOADED", "QUEUED", 0),
    ("PROCESSING", "FETCHING", 5),
    ("PROCESSING", "ANALYZING", 10),
    ("PROCESSING", "RENDERING", 20),
    ("PROCESSING", "STORING", 85),
    ("READY", "DONE", 100),
]
VARIANTS = [("THUMBNAIL", 150, 150), ("SMALL", 400, 300), ("MEDIUM", 800, 600), ("LARGE", 1600, 1200)]


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Without its worker: else a photograph is READY before a browser has opened its socket."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def sign_up(graphiql: GraphiQL) -> None:
    """As somebody new, since the server is shared."""
    email = f"ida-{secrets.token_hex(6)}@example.org"
    await graphiql.set_variables(email=email, password=PASSWORD, person="", file="file:1", media="")
    await graphiql.run_step("Register")
    await graphiql.shows(RESPONSE, '"displayName": "Ada"}, "errors": []')
    token = (await graphiql.response())["data"]["register"]["accessToken"]
    await graphiql.headers_show(f'{{"Authorization": "Bearer {token}"}}')
    await graphiql.page.click("[data-name=variables]")


async def run_mutation(graphiql: GraphiQL, step: str, noun: str) -> Any:
    """What its payload has under the noun, whose id the page then fills in for the next step."""
    await graphiql.run_step(step)
    await graphiql.shows(RESPONSE, f'"{noun}": {{')
    [payload] = (await graphiql.response())["data"].values()
    assert payload["errors"] == []
    await graphiql.shows(VARIABLES, f'"{noun}": "{payload[noun]["id"]}"')
    return payload[noun]


async def watch_from_the_beginning(graphiql: GraphiQL, worker: subprocess.Popen[bytes]) -> list[tuple[str, str, int]]:
    """Uploads, and returns status, stage and percent of all that the subscription says until it ends by itself."""
    with paused(worker):
        media = await run_mutation(graphiql, "UploadPhotograph", "media")
        assert (media["status"], media["filename"]) == ("UPLOADED", "IMG_1912.jpg")
        await graphiql.run_step("WatchProcessing")
        await graphiql.shows(RESPONSE, '"stage": "QUEUED"')
    await graphiql.shows(RESPONSE, '"status": "READY", "stage": "DONE", "percent": 100, "failure": null')

    async def is_over() -> bool:
        return bool(json.loads(graphiql.page.frames[-1])["type"] == "complete")

    await until(is_over)
    _acknowledged, *updates, _completed = map(json.loads, graphiql.page.frames)
    told = [update["payload"]["data"]["mediaProcessing"] for update in updates]
    return [(update["status"], update["stage"], update["percent"]) for update in told]


async def shown_size(page: Page, url: str) -> tuple[int, int]:
    """Of a picture that the browser has opened as a page."""
    await page.open(url)
    await page.wait_for(f"location.href === {json.dumps(url)} && document.images[0]?.complete")
    width, height = await page.evaluate("[document.images[0].naturalWidth, document.images[0].naturalHeight]")
    return width, height


async def test_the_worked_example_leads_to_a_photograph_in_all_its_sizes(server: Server, tmp_path: Path) -> None:
    original = photograph(4000, 3000)
    (tmp_path / "IMG_1912.jpg").write_bytes(original)
    assert server.worker is not None
    async with graphiql_at(server.url) as graphiql:
        await sign_up(graphiql)
        person = await run_mutation(graphiql, "CreatePerson", "person")
        assert (person["name"], person["birthDate"]) == ("Great-aunt Ida", "1912~")
        await graphiql.choose_files(tmp_path / "IMG_1912.jpg")
        assert await watch_from_the_beginning(graphiql, server.worker) == STAGES
        await graphiql.run_step("Library")
        await graphiql.shows(RESPONSE, '"totalCount": 1')
        [media] = (await graphiql.response())["data"]["library"]["nodes"]

    assert media["entity"] == {"name": "Great-aunt Ida"}
    assert [(variant["name"], variant["width"], variant["height"]) for variant in media["variants"]] == VARIANTS
    urls = [variant["url"] for variant in media["variants"]]
    sizes = [(width, height) for _, width, height in VARIANTS]
    async with open_browser() as page:  # another one, which never signed in
        assert await shown_size(page, media["url"]) == (4000, 3000)
        assert [await shown_size(page, url) for url in urls] == sizes
        assert page.problems == []
    async with httpx.AsyncClient() as http:
        assert (await http.get(media["url"])).content == original
        answers = [await http.get(url) for url in urls]
    assert [(answer.status_code, answer.headers["content-type"]) for answer in answers] == [(200, "image/webp")] * 4
    images = [Image.open(io.BytesIO(answer.content)) for answer in answers]
    assert [(image.format, image.convert("RGB").size) for image in images] == [("WEBP", size) for size in sizes]
