"""Fan-in: 1,000 WebSocket connections in one Selector, whose cost a message does not grow with their number.

The servers are in memory (`csp.testing`), where no limit of the system on open files is in the way. To connect to a
server of yours instead: python examples/fan_in.py ws://localhost:8765
"""

from __future__ import annotations

import os
import signal
import sys

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio

import csp
from csp import testing, websocket

CONNECTIONS = 1000
MESSAGES = 10


async def serve(connection: testing.ServerConnection) -> None:
    """Send some numbers."""
    for number in range(MESSAGES):
        await connection.send(str(number))


async def fan_in(url: str) -> None:
    """Receive from all connections at once until each has ended."""
    async with csp.BackgroundNursery() as connections:
        clients = [await websocket.connect(url, nursery=connections) for _ in range(CONNECTIONS)]
        print(f"{len(clients)} connections are open", flush=True)
        received = 0
        with csp.Selector(*(client.channel() for client in clients)) as selector:
            async for r in selector:
                received += r.ok
        lost = sum(client.error is not None for client in clients)
        print(f"{received} messages received, {lost} connections lost")


async def main(url: str | None) -> None:
    """Fan in from a server, or from one that is started for the purpose."""
    if url is not None:
        await fan_in(url)
    else:
        async with testing.websocket_server(serve):
            await fan_in("ws://memory/")


if __name__ == "__main__":
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on, Ctrl-C leaves the blocks
        trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
    except csp.errors.Error as error:
        sys.exit(f"fan_in: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
