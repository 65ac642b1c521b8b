"""A browser's pages, driven by the Chrome DevTools Protocol over this library's own client.

A command is a JSON object with an id; its answer has the same id. A page is a session of its own on the same
connection. https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import itertools
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import csp
from csp import errors, websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_READ_LIMIT = 64 * 1024 * 1024


class Browser:
    """A connection to a browser, whose pages have cookies and storage of their own."""

    def __init__(self, client: websocket.Client) -> None:
        self._client = client
        self._ids = itertools.count(1)
        self._answers: dict[int, csp.Channel[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._context: str | None = None

    async def listen(self) -> None:
        """Hand out answers and events until the connection ends; then no command is answered."""
        while (r := await self._client.receive()).ok:
            told = r.value.json()
            if "id" in told:
                self._answers.pop(told["id"]).send_nowait(told)
            elif (page := self._pages.get(told.get("sessionId", ""))) is not None:
                page.note(told["method"], told["params"])
        for answer in self._answers.values():
            answer.close()

    async def command(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = csp.Channel[dict[str, Any]](1)
        target = {} if session is None else {"sessionId": session}
        await self._client.send(json.dumps({"id": number, "method": method, "params": parameters, **target}))
        told = await answer.receive_value()
        assert "error" not in told, (method, told)
        result: dict[str, Any] = told["result"]
        return result

    async def begin(self) -> None:
        self._context = (await self.command("Target.createBrowserContext"))["browserContextId"]

    async def end(self) -> None:
        """Close the pages, and forget their cookies."""
        with suppress(errors.ConnectionFailedError, errors.EndOfChannelError):  # the browser may have been killed
            await self.command("Target.disposeBrowserContext", browserContextId=self._context)

    async def open(self, url: str) -> Page:
        """Open a page in a tab, and wait until it has loaded."""
        made = await self.command("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self.command("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, made["targetId"], attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await page.command(f"{domain}.enable")
        await page.command("Page.setLifecycleEventsEnabled", enabled=True)
        await page.load(url)
        return page


class Page:
    """A page in a tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session
        self._loads = csp.Channel[str](100, overflow="drop_oldest")
        self.complaints: list[str] = []
        """Exceptions that no script caught, and what the browser itself says in the console."""

    def note(self, event: str, parameters: dict[str, Any]) -> None:
        match event:
            case "Page.lifecycleEvent" if parameters["name"] == "load":
                self._loads.send_nowait(parameters["loaderId"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case _:
                pass

    async def command(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        return await self._browser.command(method, self._session, **parameters)

    async def load(self, url: str) -> None:
        navigated = await self.command("Page.navigate", url=url)
        assert "errorText" not in navigated, navigated
        # What was there before may be told of late.
        while await self._loads.receive_value() != navigated["loaderId"]:
            pass

    async def run(self, script: str) -> Any:
        """Run the body of an async function in the page, and return what it returns, as JSON can hold it."""
        answer = await self.command(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def close(self) -> None:
        await self._browser.command("Target.closeTarget", targetId=self._target)


@asynccontextmanager
async def browsing(url: str) -> AsyncGenerator[Browser]:
    """Drive the browser whose DevTools are at this URL; the pages are closed at the end."""
    async with (
        websocket.connect(url, read_limit=_READ_LIMIT) as client,
        csp.BackgroundNursery() as background,
    ):
        browser = Browser(client)
        background.start_soon(browser.listen)
        await browser.begin()
        yield browser
        await browser.end()
