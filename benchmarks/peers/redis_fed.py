"""A WebSocket server that is fed from a topic, a process of its own: ``python -m benchmarks.peers.redis_fed PORT``.

PORT is that of the Redis server. It prints its own port when it is ready, broadcasts each value to all of its
connections, and ends when its standard input does.
"""

from __future__ import annotations

import sys

import trio

import csp
from csp import redis, websocket


async def main(port: str) -> None:
    """Serve until the standard input ends."""
    hub = websocket.Hub()
    async with (
        csp.BackgroundNursery() as nursery,
        redis.Bus(f"redis://127.0.0.1:{port}") as bus,
        bus.topic("fed").subscribe() as updates,
        websocket.listen(0, host="127.0.0.1", compression=websocket.COMPRESSION.DISABLED) as server,
    ):
        await updates.ready()
        await bus.queue("fed").depth()  # the other connection is open as well
        nursery.start_soon(_feed, server, updates, hub)
        print(server.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def _feed(server: websocket.Server, updates: redis.Updates[bytes], hub: websocket.Hub) -> None:
    connecting = server.channel()
    with csp.Selector(connecting, updates) as selector:
        while True:
            r = await selector.select()
            if updates.gave(r):
                assert isinstance(r.value, redis.Published), r.value
                hub.broadcast(r.value.data)
            elif connecting.gave(r):
                await r.value.accept()
                hub.add(r.value)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
