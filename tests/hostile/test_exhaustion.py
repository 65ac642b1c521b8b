"""Servers that run out of descriptors, or whose connections nobody takes."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from csp import websocket
from tests.hostile._attack import MAX_SECONDS
from tests.hostile._field import Records
from tests.hostile._foe import Foe, head, sent
from tests.websocket._peers import CLOSE, driver_tasks, open_sockets, until

if TYPE_CHECKING:
    from collections.abc import Generator

    from csp.websocket import ServerConnection

GOODBYE = sent(CLOSE, b"\x03\xe8")


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


@contextlib.contextmanager
def descriptors(more: int) -> Generator[None]:
    """Let this process open only so many descriptors more than it has."""
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell which descriptors are open")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    free = (number for number in range(max(used) + more + 2) if number not in used)
    last = [next(free) for _ in range(more)][-1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_descriptors_run_out_and_come_back() -> None:
    sockets = open_sockets()
    with trio.fail_after(MAX_SECONDS), Records() as records:
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
                await websocket.serve(echo, 0, host="127.0.0.1", task_status=task_status)

            server: websocket.Server = await nursery.start(serve)
            async with websocket.connect(server.url) as bystander:
                assert server.port is not None
                # The system takes them in before the server does.
                clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
                with descriptors(5):
                    for client in clients:
                        client.sendall(head())
                    for _ in range(10):
                        await bystander.send("still there?")
                        await bystander.receive_value()
                        await trio.sleep(0.05)
                    assert server.statistics().accepted < 30
                    # Some leave, others get their descriptors, and there are none again.
                    for client in clients[:3]:
                        client.close()
                    before = server.statistics().accepted
                    await until(lambda: server.statistics().accepted >= before + 2)
                    await trio.sleep(0.3)
                await until(lambda: server.statistics().accepted >= 30)
                for client in clients[3:]:
                    client.close()
                await until(lambda: server.statistics().open == 1)
                await bystander.send("still there?")
                await bystander.receive_value()
            await server.close()
    warned = [record.getMessage() for record in records if record.levelno > logging.INFO]
    assert warned == ["accepting connections rests until it is possible again: there are no more file descriptors"]
    assert open_sockets() == sockets
    assert driver_tasks() == []


async def test_what_nobody_takes_is_bounded_and_told_in_time() -> None:
    sockets = open_sockets()
    waiting, under_way, callers = 2, 5, 40
    with trio.fail_after(MAX_SECONDS):
        async with websocket.listen(
            0, host="127.0.0.1", max_waiting=waiting, max_handshakes=under_way, handshake_timeout="300ms"
        ) as server:
            assert server.port is not None
            foes: list[Foe] = []
            for _ in range(callers):
                foe = Foe(await trio.open_tcp_stream("127.0.0.1", server.port))
                await foe.send(head() + GOODBYE)
                foes.append(foe)
            # What waits for room in the channel, and those whose requests were under way when accepting was to rest.
            most = waiting + 2 * under_way
            await until(lambda: server.statistics().waiting >= waiting + under_way)
            assert server.statistics().waiting <= most
            assert open_sockets() - sockets <= 2 + callers + most
            said = [await foe.hear_out() for foe in foes]
            assert {one.status for one in said} <= {503}
            assert all(one.clean for one in said)
            assert server.statistics().waiting == 0
            # Those that were turned away are still in the channel; whoever comes next is served behind them.
            async with trio.open_nursery() as nursery:

                async def greet() -> None:
                    async with websocket.connect(server.url) as client:
                        await client.send("hello")
                        assert (await client.receive_value()).data == "hello"
                    nursery.cancel_scope.cancel()

                nursery.start_soon(greet)
                async for connection in server:
                    if connection.close_code is None:
                        nursery.start_soon(echo, connection)
    assert open_sockets() == sockets
    assert driver_tasks() == []
