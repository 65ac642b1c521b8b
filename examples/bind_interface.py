"""By a network interface of this machine (Linux): python examples/bind_interface.py wss://api.example.com/ wlan0."""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

from csp import errors, websocket

if sys.platform != "linux":
    sys.exit("bind_interface: this system binds no socket to an interface")


async def dial(interface: str, host: str, port: int) -> trio.SocketStream:
    """Connect by an interface, whatever the routes say, to the first address of the host that answers."""
    failure = OSError("the host has no address")
    for *kind, _, address in await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        made = trio.socket.socket(*kind)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            await made.connect(address)
        except OSError as error:
            made.close()
            failure = error
        except BaseException:  # cancelled: until it is returned, the socket is ours to close
            made.close()
            raise
        else:
            return trio.SocketStream(made)
    raise failure


async def main(url: str, interface: str) -> None:
    """Print what the server sends."""
    async with websocket.connect(url, dial=partial(dial, interface)) as client:
        print("connected from", client.local, flush=True)
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2])
    except errors.Error as error:
        sys.exit(f"bind_interface: {error}")
