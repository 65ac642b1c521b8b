"""The servers and workers of ``examples/many_machines.py``, which may be killed, and clients that check all."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

import csp
from csp import websocket
from tests.across._workers import ROOT, variables

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

EXAMPLE = ROOT / "examples" / "many_machines.py"


class Machines:
    """Processes of the example's roles.

    Args:
        nursery: where they run.
        url: of the Redis server.
        port: which its servers share.
    """

    def __init__(self, nursery: trio.Nursery, url: str, port: int) -> None:
        self._nursery = nursery
        self._url = url
        self.port = port
        self._running: list[tuple[tuple[str, ...], trio.Process]] = []

    async def start(self, *role: str) -> None:
        """Start ``"serve"``, or ``"work"`` with a name; return when it is ready."""
        more = (str(self.port),) if role == ("serve",) else role[1:]
        command = [sys.executable, str(EXAMPLE), role[0], self._url, *more]
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False, env=variables())
        process: trio.Process = await self._nursery.start(run)
        assert process.stdout is not None
        said = await process.stdout.receive_some()
        assert said.startswith(b"ready"), said
        self._running.append((role, process))

    async def kill(self, number: int) -> tuple[str, ...]:
        """Kill one of them with SIGKILL, and return what it was."""
        role, process = self._running.pop(number % len(self._running))
        assert process.returncode is None, f"{role} has ended by itself"
        process.kill()
        await process.wait()
        return role


@asynccontextmanager
async def machines(url: str) -> AsyncGenerator[Machines]:
    """Have processes for the length of a block."""
    async with AsyncExitStack() as stack:
        own = stack.enter_context(trio.socket.socket())
        own.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
        await own.bind(("127.0.0.1", 0))  # kept for the servers
        nursery = await stack.enter_async_context(csp.BackgroundNursery())
        yield Machines(nursery, url, own.getsockname()[1])


@dataclass
class Client:
    """A client of the example: it sends orders, and gets news of all orders of all clients.

    What it gets is a message or a gap, and never an error or the end.
    """

    ordered: set[str] = field(default_factory=set[str])
    """Its own orders that it has no news of."""
    done: set[str] = field(default_factory=set[str])
    """The orders that it has news of."""
    messages: int = 0
    gaps: int = 0
    _last: str = "0-0"
    _sent: csp.Channel[str] = field(default_factory=lambda: csp.Channel[str](10_000))

    def order(self, names: Iterable[str]) -> None:
        """Send orders, now or as soon as there is a server."""
        for name in names:
            self.ordered.add(name)
            self._sent.send_nowait(name)

    async def run(self, port: int) -> None:
        """Read until it is cancelled."""

        async def subscribe(client: websocket.Client) -> None:
            await client.send(self._last)
            for each in sorted(self.ordered):
                await client.send(each)

        url = f"ws://127.0.0.1:{port}/"
        async with (
            websocket.reconnecting(url, subscribe=subscribe, min_delay="20ms", max_delay="200ms") as feed,
            csp.BackgroundNursery() as nursery,
        ):
            nursery.start_soon(self._send, feed)
            while True:
                value, ok = await feed.receive()
                assert ok, f"the feed has ended: {feed.state.error!r}"
                if isinstance(value, csp.Gap):
                    self.gaps += 1
                    continue
                assert isinstance(value, websocket.Message), value
                self.messages += 1
                news = json.loads(value.data)
                self._last = max(self._last, news["id"], key=_place)
                self.ordered.discard(news["order"])
                self.done.add(news["order"])

    async def _send(self, feed: websocket.Feed) -> None:
        async for name in self._sent:
            # If that fails, it is sent with those that were ordered and not done, on the next connection.
            with suppress(csp.errors.ConnectionFailedError):
                await feed.send(name)


def _place(entry: str) -> tuple[int, ...]:
    return tuple(map(int, entry.split("-")))
