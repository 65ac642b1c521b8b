"""Many connections, one after the other, against one server, with its memory measured at intervals.

``python -m tests.websocket.server.coming_and_going`` runs each kind with 20,000 connections, which takes some minutes;
``--connections`` and ``--kind`` change that. Clients and server are in one process, over loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from csp import websocket
from tests.websocket._links import contexts
from tests.websocket._peers import driver_tasks, open_sockets, until
from tests.websocket.server._lobby import LOGGER, TEXT, RawClient, handshake, masked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from csp.websocket import ListenOptions, ServerConnection

AT_ONCE = 20
INTERVALS = 10
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
MIB = 1024 * 1024
TEXT_SENT = "text" * 100


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


async def fail(connection: ServerConnection) -> None:
    await connection.accept()
    await connection.receive()
    raise ValueError("as it should")


async def refuse(connection: ServerConnection) -> None:
    await connection.reject(404, body="no")


async def use(client: RawClient) -> None:
    await client.accepted()
    await client.send(masked(TEXT, TEXT_SENT.encode()))
    assert await client.text() == TEXT_SENT
    await client.close()


async def see_it_fail(client: RawClient) -> None:
    await client.accepted()
    await client.send(masked(TEXT, b"text"))
    assert await client.closed() == (1011, "")


async def be_refused(client: RawClient) -> None:
    assert (await client.ask(handshake())).status == 404


KINDS: dict[str, tuple[Callable[[ServerConnection], Awaitable[object]], Callable[[RawClient], Awaitable[None]]]] = {
    "used": (echo, use),
    "handlers that raise": (fail, see_it_fail),
    "refused": (refuse, be_refused),
    "used, over TLS": (echo, use),
}


def resident_bytes() -> int:
    """Return how much memory this process has, after the collector has run."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def run(kind: str, connections: int) -> None:
    handler, come = KINDS[kind]
    over_tls = kind.endswith("TLS")
    options: ListenOptions = {"ssl_context": contexts()[0] if over_tls else None, "hosts": "*"}
    left = connections

    async def visit(port: int) -> None:
        stream: trio.abc.HalfCloseableStream | trio.SSLStream[trio.SocketStream]
        stream = tcp = await trio.open_tcp_stream("localhost", port)
        if over_tls:
            stream = trio.SSLStream(tcp, contexts()[1], server_hostname="server.test", https_compatible=True)
        await come(RawClient(stream))  # type: ignore[arg-type]  # nothing is half-closed
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.aclose()

    async def be_many(port: int, until_left: int) -> None:
        nonlocal left
        while left > until_left:
            left -= 1
            await visit(port)

    sockets = open_sockets()
    measured: list[int] = []
    begin = time.monotonic()
    async with trio.open_nursery() as nursery:
        server: websocket.Server = await nursery.start(_serve, handler, options)
        assert server.port is not None
        for interval in range(1, INTERVALS + 1):
            async with trio.open_nursery() as clients:
                for _ in range(AT_ONCE):
                    clients.start_soon(be_many, server.port, connections * (INTERVALS - interval) // INTERVALS)
            await until(lambda: not server.connections)
            measured.append(resident_bytes())
        statistics = server.statistics()
        assert statistics.accepted + sum(statistics.rejected.values()) == connections, statistics
        await server.close()
    assert driver_tasks() == []
    assert open_sockets() == sockets
    seconds = time.monotonic() - begin
    shown = " ".join(f"{size / MIB:.1f}" for size in measured)
    print(f"{kind}: {connections:,} connections in {seconds:.0f} s; MiB after each tenth: {shown}", flush=True)


async def _serve(
    handler: Callable[[ServerConnection], Awaitable[object]],
    options: ListenOptions,
    *,
    task_status: trio.TaskStatus[websocket.Server],
) -> None:
    await websocket.serve(handler, 0, task_status=task_status, **options)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.websocket.server.coming_and_going", description=__doc__)
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    given = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        sys.exit("this system does not tell how much memory a process has in /proc")
    logging.getLogger(LOGGER).disabled = True  # it has a traceback for each handler that raises
    for kind in given.kind or KINDS:
        trio.run(run, kind, given.connections)


if __name__ == "__main__":
    main()
