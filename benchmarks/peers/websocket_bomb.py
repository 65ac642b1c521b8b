"""Takes the server's bomb: a frame of 1 MiB that inflates to 1 GiB. A process of its own, so that its memory is.

    python -m benchmarks.peers.websocket_bomb URL

Prints by how many MiB its resident memory has at most exceeded that of the idle connection. Linux only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from csp import websocket

_PROCESS = Path("/proc/self")
_LIMIT_BYTES = 1024 * 1024


def _peak_mib() -> float:
    """Return the highest resident memory since the last reset."""
    lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _reset_peak() -> None:
    (_PROCESS / "clear_refs").write_text("5", encoding="ascii")


async def main(url: str) -> None:
    """Connect, take the bomb, and print what it took."""
    compression = websocket.COMPRESSION.CONTEXT_TAKEOVER
    async with websocket.connect(url, compression=compression, read_limit=_LIMIT_BYTES) as client:
        _reset_peak()
        idle = _peak_mib()
        await client.send("go")
        received = await client.receive()
        if received.ok or client.close_code != websocket.CLOSE_CODES.MESSAGE_TOO_BIG:
            sys.exit(f"the bomb was not refused: {client!r}")
    print(_peak_mib() - idle)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
