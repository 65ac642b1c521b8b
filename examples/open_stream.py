"""Over a socket that is open already, given by its number: python examples/open_stream.py ws://localhost/ 3."""

from __future__ import annotations

import os
import signal
import socket
import sys

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

from csp import errors, websocket


async def main(url: str, descriptor: str) -> None:
    """Print what the server at the other end sends."""
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=int(descriptor))))]

    async def dial(_host: str, _port: int) -> trio.SocketStream:
        if not streams:
            raise OSError("the connection has been used")
        await trio.lowlevel.checkpoint()
        return streams.pop()

    async with websocket.connect(url, dial=dial) as client:
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2])
    except errors.Error as error:
        sys.exit(f"open_stream: {error}")
