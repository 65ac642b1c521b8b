"""An ASGI application on uvicorn or hypercorn: see `_servers.py` for its paths, and for how it starts and ends."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import sys
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Event: TypeAlias = dict[str, Any]

MAX_SIZE = 1 << 26


async def application(scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Any]) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        return
    assert (await receive())["type"] == "websocket.connect"
    _, action, *arguments = scope["path"].split("/")
    if action == "refuse":
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
        await send({"type": "websocket.http.response.start", "status": int(arguments[0]), "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    await send({"type": "websocket.accept", "subprotocol": "second" if "second" in scope["subprotocols"] else None})
    match action:
        case "echo":
            while (event := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
        case "close":
            await send({"type": "websocket.close", "code": int(arguments[0]), "reason": arguments[1]})
        case "told":
            event = await receive()
            print(json.dumps([event["code"], event.get("reason")]), flush=True)
        case _:
            raise AssertionError(action)


def run_uvicorn(listener: socket.socket, implementation: str) -> None:
    uvicorn = importlib.import_module("uvicorn")
    config = uvicorn.Config(application, ws=implementation, ws_max_size=MAX_SIZE, log_level="warning", lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def run_hypercorn(listener: socket.socket) -> None:
    config = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = "WARNING"
    config.websocket_max_message_size = MAX_SIZE
    asyncio.run(importlib.import_module("hypercorn.asyncio").serve(application, config))


def end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    # The server, and what it speaks the protocol with.
    server, library, *options = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    versions = f"{server} {version(server)}, {library} {version(library)}"
    print(json.dumps([listener.getsockname()[1], versions]), flush=True)
    if server == "uvicorn":
        run_uvicorn(listener, *options)
    else:
        run_hypercorn(listener)
