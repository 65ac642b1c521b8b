"""Runs the code of a page as a reader would: each Python block of it, in order, with the names of those before.

What a block needs and a reader does not stands in comments above it, which the site does not show:

    <!-- before: CODE -->       is run first; ``await serve(handler, url)`` there starts a WebSocket server in memory,
                                ``patch`` is a `pytest.MonkeyPatch` for the rest of the page, and ``network`` is a
                                network with proxies, or the ports of this machine: `Network`
    <!-- prints -->             above the text block that follows: what the block printed
    <!-- not run: REASON -->    the block is only compiled
    <!-- real clock: REASON --> anywhere on a page: its clock does not jump; ``await start(block)`` in what is run
                                before enters an async context manager for the rest of the page, and returns what it
                                gives, and ``await redis_server()`` starts a server that is at ``redis://localhost:6379``
                                for the rest of the page; pages with it are left out where there is no Redis or Valkey
                                server

Blocks may use ``await``, ``async with`` and ``async for`` outside of functions. One that calls ``trio.run`` is a
program of its own, and has the same servers. Tests that a block defines are run after it, if they need no fixture but a
clock. The clock jumps ahead when all tasks wait, so that an hour takes milliseconds, unless the page says otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import math
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest
import trio
from trio.testing import MockClock

import csp
from csp import errors, testing, websocket
from csp.websocket import telemetry
from tests.docs._network import Network
from trio_csp_redis.connection import settings
from trio_csp_redis.protocol.url import parse_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio_csp_redis.protocol.url import Target

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# PyCF_ALLOW_TOP_LEVEL_AWAIT
_TOP_LEVEL_AWAIT = 0x2000
_LONGEST_SECONDS = 100_000
_HOME_OF_REDIS = ("localhost", 6379)

_PART = re.compile(
    r"<!-- (?P<kind>before:|not run:|prints)(?P<text>.*?)-->|^```(?P<language>[^\n`]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A Python block of a page."""

    line: int
    code: str
    before: str = ""
    not_run: str = ""
    prints: str | None = None


def blocks(text: str) -> list[Block]:
    """Return the Python blocks of a page."""
    found: list[Block] = []
    before = not_run = ""
    prints = False
    for part in _PART.finditer(text):
        kind = part["kind"]
        if kind == "before:":
            before += inspect.cleandoc(part["text"]).rstrip() + "\n"
        elif kind == "not run:":
            not_run = part["text"].strip()
            assert not_run, "the reason is missing"
        elif kind == "prints":
            prints = True
        elif part["language"] == "python":
            line = text[: part.start()].count("\n") + 2
            found.append(Block(line, part["code"], before, not_run))
            before = not_run = ""
        elif prints:
            found[-1] = found[-1]._replace(prints=part["code"])
            prints = False
    assert not before, "setting up for no block"
    assert not not_run, "a reason for no block"
    assert not prints, "nothing says what is printed"
    return found


def needs_real_clock(path: Path) -> bool:
    return "<!-- real clock: " in path.read_text(encoding="utf-8")


def _is_program(block: Block) -> bool:
    return "trio.run(" in block.code


class Page:
    """Runs the blocks of one page."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clock_jumps = not needs_real_clock(path)
        self._patch = pytest.MonkeyPatch()
        self._folder = tempfile.TemporaryDirectory()
        self._network = Network(self._patch, Path(self._folder.name))
        self._servers = contextlib.AsyncExitStack()
        self._names: dict[str, object] = {
            "__name__": "__main__",
            "csp": csp,
            "errors": errors,
            "network": self._network,
            "patch": self._patch,
            "redis_server": self.redis_server,
            "testing": testing,
            "trio": trio,
            "websocket": websocket,
            "serve": self.serve,
            "start": self._servers.enter_async_context,
        }
        self._servers.callback(self._folder.cleanup)
        self._servers.callback(self._patch.undo)
        self._servers.callback(self._uninstrument)
        self._handlers: list[tuple[testing.Handler, str]] = []

    def _uninstrument(self) -> None:
        """Undo what a page leaves to the end of its process."""
        for value in self._names.values():
            if isinstance(value, telemetry.Instrumentation):
                value.uninstrument()

    async def serve(self, handler: testing.Handler, url: str = "wss://api.example.com/") -> None:
        """Serve a URL for the rest of the page."""
        self._handlers.append((handler, url))
        await self._servers.enter_async_context(testing.websocket_server(handler, url))

    async def redis_server(self) -> testing.RedisServer:
        """Start a Redis server for the rest of the page: it is where ``redis://localhost:6379`` leads."""
        server = await self._servers.enter_async_context(testing.redis_server(append_only="always"))

        def parsed(url: object) -> Target:
            target = parse_url(url)
            if (target.host, target.port) != _HOME_OF_REDIS:
                return target
            return dataclasses.replace(target, host=server.host, port=server.port)

        self._patch.setattr(settings, "parse_url", parsed)
        return server

    async def run(self) -> None:
        """Run all blocks."""
        # One scope around all blocks, because a server that one of them starts outlives it.
        with trio.fail_after(math.inf) as scope:
            async with self._servers:
                await self.serve(answering)
                for block in blocks(self._path.read_text(encoding="utf-8")):
                    # A program has a limit of its own: while its thread runs, the clock here jumps ahead.
                    limit = math.inf if _is_program(block) else _LONGEST_SECONDS
                    scope.deadline = trio.current_time() + limit
                    await self._run_block(block)

    async def _run_block(self, block: Block) -> None:
        code = self._compiled(block.code, block.line)
        if block.not_run:
            return
        await self._run_code(self._compiled(block.before, block.line))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if _is_program(block):
                await trio.to_thread.run_sync(self._run_program, block)
            else:
                await self._run_code(code)
        if block.prints is not None:
            assert printed.getvalue() == block.prints, f"line {block.line} printed\n{printed.getvalue()}"
        for name in re.findall(r"^async def (test_\w+)\((?:autojump_clock)?\)", block.code, re.MULTILINE):
            test = cast("Callable[..., Awaitable[None]]", self._names[name])
            await test(*inspect.signature(test).parameters)  # the clock jumps ahead without the fixture

    def _compiled(self, code: str, line: int) -> object:
        return compile("\n" * (line - 1) + code, self._path, "exec", flags=_TOP_LEVEL_AWAIT, dont_inherit=True)

    async def _run_code(self, code: object) -> None:
        result = eval(cast("str", code), self._names)
        if inspect.isawaitable(result):
            await result

    def _run_program(self, block: Block) -> None:
        """Run a program, in a thread of its own, with the servers of the page."""

        async def served(function: Callable[..., Awaitable[object]], arguments: tuple[object, ...]) -> object:
            async with contextlib.AsyncExitStack() as servers:
                for handler, url in self._handlers:
                    await servers.enter_async_context(testing.websocket_server(handler, url))
                with trio.fail_after(_LONGEST_SECONDS):
                    return await function(*arguments)

        def run(function: Callable[..., Awaitable[object]], *arguments: object) -> object:
            clock = MockClock(autojump_threshold=self._network.jump_seconds) if self._clock_jumps else None
            return real_run(served, function, arguments, clock=clock)

        real_run = trio.run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio, "run", run)
            code = compile("\n" * (block.line - 1) + block.code, self._path, "exec", dont_inherit=True)
            exec(code, {"__name__": "__main__"})


async def answering(connection: testing.ServerConnection) -> None:
    """Serve ``wss://api.example.com/``: ``/prices`` sends three and closes; the rest answers what it is asked.

    JSON with an id is answered with that id, and other messages with themselves.
    """
    if connection.path.startswith("/prices"):
        for price in ("101.5", "102", "101"):
            await trio.sleep(1)
            await connection.send(price)
        await connection.close(1000)
        return
    async for message in connection:
        try:
            question = message.json()
            answer: str | bytes = json.dumps({"id": question["id"], "result": question.get("params")})
        except (errors.InvalidError, TypeError, KeyError):
            answer = message.data
        await connection.send(answer)


def links(text: str) -> Iterator[str]:
    """Yield what a page links to."""
    without_code = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"\]\(([^)\s]+)\)", without_code)
