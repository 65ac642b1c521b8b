"""Clients of other makers, and this project's own server for them.

A client's program prints a line of JSON with null, as it has no port, and its version. Then it reads what it is told, a
line of JSON each:

- ``url``, ``protocols``, ``compress`` ("context" or "none"; nothing for no offer), for TLS ``authority`` and
  ``certificate``, which are files; ``connections`` is how many to open, 1 by default
- ``action``, with an ``argument``: "echo"; "fragments", to send these texts as one message; "ping", with this payload;
  "send", a text of so many bytes; "count", so many numbers; "close", with a code and a reason; "deaf", to read
  nothing

It prints ``["refused", STATUS, X-WHY, BODY]`` or ``["open", SUBPROTOCOL]``, and behind a ping of its own ``["pong"]``.
Whatever the action, it then sends back what it gets until it prints ``["closed", CODE, REASON]``. At the end of its
standard input it ends at once, without a word to the server.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from csp import websocket
from tests.websocket._peers import LIMIT_SECONDS, driver_tasks, open_sockets

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Unpack

    from tests.peers._servers import Server


def tell(program: Server, url: str, action: str, argument: object = None, **more: object) -> None:
    """Tell a client's program what to do."""
    assert program.process.stdin is not None
    task = {"url": url, "action": action, "argument": argument, **more}
    program.process.stdin.write(json.dumps(task) + "\n")
    program.process.stdin.flush()


@asynccontextmanager
async def listening(**options: Unpack[websocket.ListenOptions]) -> AsyncGenerator[websocket.Server]:
    """Listen on a free port of 127.0.0.1; nothing of the connections may be left behind."""
    sockets = open_sockets()
    with trio.fail_after(2 * LIMIT_SECONDS):
        options["host"] = "127.0.0.1"
        async with websocket.listen(0, **options) as server:
            yield server
    assert driver_tasks() == []
    assert open_sockets() == sockets
