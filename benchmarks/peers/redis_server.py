"""A Redis or Valkey server, a process of its own: ``python -m benchmarks.peers.redis_server``.

It prints its URL and its version as JSON, and runs until its standard input ends. It persists nothing.
"""

from __future__ import annotations

import json
import sys

import trio

from csp import testing


async def main() -> None:
    """Serve until the standard input ends."""
    async with testing.redis_server() as server:
        print(json.dumps({"url": server.url, "version": server.version}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    trio.run(main)
