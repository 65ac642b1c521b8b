"""Through an SSH server, without a local port: python examples/ssh_tunnel.py wss://feed.internal/ me@gateway."""

from __future__ import annotations

import os
import signal
import sys
from subprocess import PIPE

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

from csp import errors, websocket


class ProcessStream(trio.abc.Stream):
    """What a process reads and writes, as a stream. Closing it ends the process."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdio is not None and process.stderr is not None  # noqa: PT018  # they are pipes
        self._process, self._stdio, self._stderr = process, process.stdio, process.stderr

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stdio.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stdio.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stdio.receive_some(max_bytes)
        if not data and await self._process.wait() != 0:  # it has failed: its words become the error's
            raise trio.BrokenResourceError((await self._stderr.receive_some()).decode(errors="replace").strip())
        return data

    async def aclose(self) -> None:
        async with self._stderr, self._stdio:
            self._process.kill()
            with trio.CancelScope(shield=True):  # also if cancelled, until it is gone
                await self._process.wait()


async def main(url: str, gateway: str) -> None:
    """Print what the server sends, which ssh reaches from the gateway."""

    async def dial(host: str, port: int) -> trio.abc.Stream:
        command = ["ssh", "-o", "BatchMode=yes", "-W", f"[{host}]:{port}", "--", gateway]
        return ProcessStream(await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, stderr=PIPE))

    async with websocket.connect(url, dial=dial) as client:
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2])
    except errors.Error as error:
        sys.exit(f"ssh_tunnel: {error}")
