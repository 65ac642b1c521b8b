"""Through an SSH server, without a local port: python examples/ssh_tunnel.py wss://feed.internal/ me@gateway."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from subprocess import PIPE

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

from csp import errors, websocket


class Output(trio.abc.ReceiveStream):
    """What a process writes. Closing it ends the process."""

    def __init__(self, process: trio.Process, stdout: trio.abc.ReceiveStream) -> None:
        self._process = process
        self._stdout = stdout

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stdout.receive_some(max_bytes)

    async def aclose(self) -> None:
        async with self._stdout:
            self._process.kill()
            with trio.CancelScope(shield=True):  # also where this is cancelled
                await self._process.wait()


async def dial(gateway: str, host: str, port: int) -> trio.abc.Stream:
    """Have ssh connect from a gateway. It says what fails on standard error, and asks nobody for a password."""
    command = ["ssh", "-o", "BatchMode=yes", "-W", f"[{host}]:{port}", "--", gateway]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    return trio.StapledStream(process.stdin, Output(process, process.stdout))


async def main(url: str, gateway: str) -> None:
    """Print what the server sends."""
    async with websocket.connect(url, dial=partial(dial, gateway)) as client:
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2])
    except errors.Error as error:
        sys.exit(f"ssh_tunnel: {error}")
