"""A server before its name leads to it: python examples/another_host.py wss://api.example.com/ 203.0.113.9 8443."""

from __future__ import annotations

import os
import signal
import sys

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

from csp import errors, websocket


async def main(url: str, address: str, port: str) -> None:
    """Print what the server there sends. Its certificate has to be for the URL's host, and it gets that as Host."""

    async def dial(_host: str, _port: int) -> trio.SocketStream:
        return await trio.open_tcp_stream(address, int(port))

    # A redirect to another host would come here too.
    async with websocket.connect(url, dial=dial, max_redirects=0) as client:
        print("connected to", client.remote, flush=True)
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
    except errors.Error as error:
        sys.exit(f"another_host: {error}")
