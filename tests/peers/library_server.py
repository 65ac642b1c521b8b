"""The servers of `websockets` and `aiohttp` that the other tests run in threads, each in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tests.websocket._peers import AiohttpServer, WebsocketsServer

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response


class TellingWebsocketsServer(WebsocketsServer):
    """Prints its reports, and takes paths percent-encoded, as the server of aiohttp does."""

    def report(self, what: object) -> None:
        print(json.dumps(what), flush=True)

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        request.path = unquote(request.path)
        return await super()._process_request(connection, request)


class TellingAiohttpServer(AiohttpServer):
    """Prints its reports."""

    def report(self, what: object) -> None:
        print(json.dumps(what), flush=True)


if __name__ == "__main__":
    kind = {"websockets": TellingWebsocketsServer, "aiohttp": TellingAiohttpServer}[sys.argv[1]]
    with kind().running() as server:
        print(json.dumps([server.port, f"{kind.name} {version(kind.name)}"]), flush=True)
        sys.stdin.read()
        os._exit(0)
