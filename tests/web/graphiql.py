"""GraphiQL's page, as a person uses it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.pages import GRAPHIQL
from tests.browser import CHROMIUM, CTRL, ENTER, Page, open_browser

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

OPERATION = ".graphiql-query-editor .monaco-editor"
VARIABLES = ".graphiql-editor-tool .graphiql-editor:nth-child(1) .monaco-editor"
HEADERS = ".graphiql-editor-tool .graphiql-editor:nth-child(2) .monaco-editor"
RESPONSE = ".graphiql-response .monaco-editor"


class GraphiQL:
    """The page, with mouse and keyboard."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address

    async def open(self) -> None:
        await self.page.open(f"{self.address}/graphiql/")
        await self.shows(OPERATION, "mutation Register")

    async def set_headers(self, **headers: str) -> None:
        await self.page.click("[data-name=headers]")
        await self._fill(HEADERS, json.dumps(headers))

    async def set_variables(self, **variables: Any) -> None:
        await self.page.click("[data-name=variables]")
        await self._fill(VARIABLES, json.dumps(variables))

    async def run(self, operation: str) -> None:
        """An operation with a name of its own: once that is the tab's title, the page has taken note of the text."""
        await self._fill(OPERATION, operation)
        name = re.split(r"\W+", operation)[1]
        await self.page.wait_for(f"document.querySelector('.graphiql-tab').innerText.trim() === '{name}'")
        await self.page.press("Enter", ENTER, modifiers=CTRL)

    async def run_step(self, name: str) -> None:
        """One of the document's operations, from the play button's list; the page then shows it."""
        await self.page.click(".graphiql-execute-button")
        await self.page.wait_for_element("[role=menuitem]")
        items = "[...document.querySelectorAll('[role=menuitem]')]"
        await self.page.evaluate(f"{items}.find(item => item.innerText === '{name}').id = 'step-{name}'")
        await self.page.click(f"#step-{name}")
        await self.shows(OPERATION, f" {name}")

    async def choose_files(self, *files: Path) -> None:
        await self.page.click('[aria-label="Show Files"]')
        await self.page.wait_for_element(".heirloom-files input")
        await self.page.choose_file(".heirloom-files input", *files)

    async def response(self) -> Any:
        """The whole of it, however much of it is in view."""
        return json.loads(await self.page.copied_text(RESPONSE))

    async def _fill(self, selector: str, text: str) -> None:
        await self.page.replace_text(selector, text)
        await self.shows(selector, text)

    async def headers_show(self, text: str) -> None:
        await self.page.click("[data-name=headers]")  # a hidden editor draws one line
        await self.shows(HEADERS, text)

    async def shows(self, selector: str, text: str) -> None:
        """Waits until an editor holds this, spaces and line ends aside."""
        wanted = json.dumps("".join(text.split()))
        await self.page.wait_for(rf"{_text(selector)}.replace(/\s/g, '').includes({wanted})")


def _text(selector: str) -> str:
    return f"(document.querySelector('{selector} .view-lines')?.innerText ?? '')"


@contextlib.asynccontextmanager
async def graphiql_at(address: str) -> AsyncIterator[GraphiQL]:
    """Opened, and looked at afterwards: nothing in the console, and no other origin was asked for anything."""
    assert (GRAPHIQL / "index.html").is_file(), "the pages are not built: run web/build.py"
    async with open_browser() as page:
        opened = GraphiQL(page, address)
        await opened.open()
        yield opened
        own = (f"{address}/", f"{address.replace('http', 'ws')}/", "data:")
        assert [url for url in page.requested if not url.startswith(own)] == []
        assert page.problems == []
