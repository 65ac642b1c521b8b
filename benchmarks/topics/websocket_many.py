"""Many WebSocket connections of which one task receives: through a Selector, or with a task for each."""

from __future__ import annotations

import os
from itertools import count as numbers
from typing import TYPE_CHECKING

import trio
import trio_websocket

import csp
from benchmarks.meters.rig import address, raise_file_limit
from benchmarks.topics.channels import CAPACITY
from csp import websocket

if TYPE_CHECKING:
    from benchmarks.meters.measure import Meter

CONNECTIONS = 500

# Each process that the server serves has gates of its own.
_GATES = numbers(os.getpid() * 1000)


async def selector(count: int, meter: Meter) -> None:
    """Receive from one Selector over the channels of many connections."""
    raise_file_limit()
    gate, each = next(_GATES), -(-count // CONNECTIONS)
    async with trio.open_nursery() as nursery:
        url = address(f"/gated/32/{each}/{gate}").url
        clients = [await websocket.connect(url, nursery=nursery) for _ in range(CONNECTIONS)]
        opener = await websocket.connect(address(f"/gate/{gate}").url, nursery=nursery)
        with csp.Selector(*(client.channel().case_receive() for client in clients)) as selector:
            for _ in range(CONNECTIONS):
                await selector.select()
            with meter:
                await opener.send("go")
                for _ in range(each * CONNECTIONS):
                    await selector.select()
        nursery.cancel_scope.cancel()


async def clones(count: int, meter: Meter) -> None:
    """Receive from one memory channel, into which a task for each of many connections sends."""
    raise_file_limit()
    gate, each = next(_GATES), -(-count // CONNECTIONS)
    sender, receiver = trio.open_memory_channel[object](CAPACITY)

    async def forward(connection: trio_websocket.WebSocketConnection, sender: trio.MemorySendChannel[object]) -> None:
        with sender:
            while True:
                await sender.send(await connection.get_message())

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            connection = await trio_websocket.connect_websocket_url(nursery, address(f"/gated/32/{each}/{gate}").url)
            nursery.start_soon(forward, connection, sender.clone())
        opener = await trio_websocket.connect_websocket_url(nursery, address(f"/gate/{gate}").url)
        with sender, receiver:
            for _ in range(CONNECTIONS):
                await receiver.receive()
            with meter:
                await opener.send_message("go")
                for _ in range(each * CONNECTIONS):
                    await receiver.receive()
        nursery.cancel_scope.cancel()
