"""A real Chromium, headless, driven over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect

T = TypeVar("T")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",  # it needs rights that a container seldom gives
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    "--window-size=1400,900",
]
# Seconds: for a page on two busy cores; what is there at once is found at once.
PATIENCE = 20.0
CTRL = 2
ENTER = 13


async def until(condition: Callable[[], Awaitable[T]]) -> T:
    """What the condition gives, once it is true. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not (value := await condition()):  # noqa: ASYNC110 (another process sets no event of ours)
            await asyncio.sleep(0.03)
    return value


class Page:
    """One browser tab. `problems` collects what the console calls an error, violated policies among them.

    `requested` has the URLs asked for, sockets' too; `frames` the text that came over sockets.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.problems: list[str] = []
        self.requested: list[str] = []
        self.frames: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] == "error":
                self.problems.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requested.append(params["url"])
            case "Network.webSocketFrameReceived":
                self.frames.append(params["response"]["payloadData"])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in message, message
        return message["result"]  # type: ignore[no-any-return]  # JSON

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, expression: str) -> Any:
        """Its value, once it is true."""
        return await until(lambda: self.evaluate(expression))

    async def wait_for_element(self, selector: str) -> None:
        await self.wait_for(f"document.querySelector({json.dumps(selector)}) !== null")

    async def open(self, url: str) -> None:
        await self.send("Page.navigate", url=url)

    async def click(self, selector: str) -> None:
        """In the middle of the first element that matches, with the mouse."""
        centre = await self.wait_for(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)})?.getBoundingClientRect();"
            " return box?.width && [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        at = {"x": centre[0], "y": centre[1], "button": "left", "clickCount": 1}
        await self.send("Input.dispatchMouseEvent", type="mousePressed", **at)
        await self.send("Input.dispatchMouseEvent", type="mouseReleased", **at)

    async def press(self, key: str, code: int, *, modifiers: int = 0, command: str = "") -> None:
        """A key with its virtual code. `command` names what an editing shortcut does: headless, it does nothing."""
        stroke = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.send("Input.dispatchKeyEvent", type="rawKeyDown", commands=[command] if command else [], **stroke)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **stroke)

    async def replace_text(self, selector: str, text: str) -> None:
        """All of a code editor's text. Pasted, since an editor that sees it typed adds closing brackets of its own."""
        area = f"document.querySelector({json.dumps(selector)} + ' textarea')"
        await self.wait_for(f"{area} && ({area}.focus(), document.activeElement === {area})")
        await self.evaluate(f"navigator.clipboard.writeText({json.dumps(text)})")
        await self.press("a", ord("A"), modifiers=CTRL)
        await self.press("v", ord("V"), modifiers=CTRL, command="paste")

    async def copied_text(self, selector: str) -> str:
        """All of a code editor's text, copied: what is out of view is not in the document."""
        await self.click(selector)
        await self.press("a", ord("A"), modifiers=CTRL)
        await self.press("c", ord("C"), modifiers=CTRL, command="copy")
        await self.send("Browser.grantPermissions", permissions=["clipboardReadWrite"])
        text: str = await self.evaluate("navigator.clipboard.readText()")
        return text

    async def choose_file(self, selector: str, *files: Path) -> None:
        found = await self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        await self.send("DOM.setFileInputFiles", files=[str(f) for f in files], objectId=found["result"]["objectId"])

    async def screenshot(self) -> bytes:
        """A PNG of what is in view."""
        return base64.b64decode((await self.send("Page.captureScreenshot", format="png"))["data"])


async def _debugging_address(profile: Path) -> str:
    """The first page's socket. Chromium writes its port as the first line of this file, once it listens."""
    port_file = profile / "DevToolsActivePort"

    async def port() -> str:
        return port_file.read_text().partition("\n")[0] if port_file.exists() else ""

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{await until(port)}", trust_env=False) as client:

        async def pages() -> list[dict[str, str]]:
            return [target for target in (await client.get("/json/list")).json() if target["type"] == "page"]

        return (await until(pages))[0]["webSocketDebuggerUrl"]


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Page]:
    """A page in a browser of its own, with a new profile, gone afterwards."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        flags = [*QUIET, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = await asyncio.create_subprocess_exec(CHROMIUM, *flags, stdout=DEVNULL, stderr=DEVNULL)
        try:
            async with connect(await _debugging_address(Path(profile)), max_size=None, proxy=None) as socket:
                page = Page(socket)
                listener = asyncio.create_task(page.listen())
                await page.send("Emulation.setFocusEmulationEnabled", enabled=True)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.send(f"{domain}.enable")
                try:
                    yield page
                finally:
                    listener.cancel()
        finally:
            process.kill()
            await process.wait()
