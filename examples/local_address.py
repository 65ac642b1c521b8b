"""From one of this machine's addresses: python examples/local_address.py wss://api.example.com/ 192.0.2.7."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

from csp import errors, websocket


async def main(url: str, address: str) -> None:
    """Print what the server sends to that address."""
    dial = partial(trio.open_tcp_stream, local_address=address)
    async with websocket.connect(url, dial=dial) as client:
        print("connected from", client.local, flush=True)
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2])
    except errors.Error as error:
        sys.exit(f"local_address: {error}")
