"""Messages of a server on a Unix socket: python examples/unix_socket.py ws://localhost/prices /run/feed.sock."""

from __future__ import annotations

import os
import signal
import sys

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

from csp import errors, websocket


async def main(url: str, path: str) -> None:
    """Print what the server sends. It gets the URL's host and path; the host is not looked up."""
    async with websocket.connect(url, unix_socket=path) as client:
        print("connected by", client.remote, flush=True)
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2])
    except errors.Error as error:
        sys.exit(f"unix_socket: {error}")
