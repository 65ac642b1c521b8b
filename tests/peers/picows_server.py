"""A server of picows: see `_servers.py` for its paths, and for how it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import http
import importlib
import json
import os
import sys
import threading
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

# Any, as it is installed for this program alone.
picows: Any = importlib.import_module("picows.websockets")


async def handle(connection: Any) -> None:
    _, action, *arguments = unquote(connection.request.path.partition("?")[0]).split("/")
    match action:
        case "echo":
            with contextlib.suppress(picows.ConnectionClosed):
                async for message in connection:
                    await connection.send(message)
        case "close":
            await connection.close(int(arguments[0]), arguments[1])
        case "told":
            await connection.wait_closed()
            print(json.dumps([connection.close_code, connection.close_reason or ""]), flush=True)
        case _:
            raise AssertionError(action)


def refuse(connection: Any, request: Any) -> Any:
    if not request.path.startswith("/refuse/"):
        return None
    return connection.respond(http.HTTPStatus(int(request.path.removeprefix("/refuse/"))), "no")


async def serve() -> None:
    async with picows.serve(
        handle, "127.0.0.1", 0, process_request=refuse, subprotocols=["second"], max_size=1 << 26
    ) as server:
        port = server.sockets[0].getsockname()[1]
        print(json.dumps([port, f"picows {version('picows')}"]), flush=True)
        await asyncio.Event().wait()


def end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    asyncio.run(serve())
