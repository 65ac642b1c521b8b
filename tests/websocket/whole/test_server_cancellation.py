"""A server's operations, cancelled at every step: nothing is left over, and the server serves on or all is closed.

Each sweep repeats an operation and cancels it before step 1, 2, 3, ... of the tasks that are not the clients', until it
completes first; and before it begins. An ordinary run does so at every step over a stream in memory, and at some over
sockets and TLS; ``CSP_SWEEP_ORDERS=3 pytest tests/websocket/whole/test_server_cancellation.py`` at every step of all,
in three orders of the tasks that are runnable at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.websocket._server_sweep import Link, ServerTrial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from csp.websocket import ServerConnection

ORDERS = os.environ.get("CSP_SWEEP_ORDERS")
MUCH = bytes(20_000)
# What was swept: a sweep of nothing shows nothing.
counts: Counter[str] = Counter()
OPERATIONS: list[Callable[[ServerTrial], Awaitable[None]]] = []


def operation(run: Callable[[ServerTrial], Awaitable[None]]) -> Callable[[ServerTrial], Awaitable[None]]:
    OPERATIONS.append(run)
    return run


# Of a connection that is not answered ---------------------------------------------------------------------------------


async def answered(
    trial: ServerTrial, answer: Callable[[ServerConnection], Awaitable[object]], *, listens: bool = True
) -> None:
    """Answer a connection; cancelled or not, it can be used, or answered then, and others are served."""
    async with trial.listen() as server:
        trial.come(listens=listens)
        connection = await server.receive_value()
        await wait_all_tasks_blocked()
        # Who takes nothing is given up in the end.
        with trial.swept(), contextlib.suppress(ConnectionFailedError):
            await answer(connection)
        await trial.check_usable(connection)
        await trial.check_served(server)


@operation
async def accept(trial: ServerTrial) -> None:
    await answered(trial, lambda connection: connection.accept(headers={"X": "x" * 5000}))


@operation
async def accept_to_who_does_not_listen(trial: ServerTrial) -> None:
    await answered(trial, lambda connection: connection.accept(headers={"X": "x" * 20_000}), listens=False)


@operation
async def accept_by_sending(trial: ServerTrial) -> None:
    await answered(trial, lambda connection: connection.send(MUCH))


@operation
async def accept_by_receiving(trial: ServerTrial) -> None:
    await answered(trial, lambda connection: connection.receive())


@operation
async def reject(trial: ServerTrial) -> None:
    await answered(trial, lambda connection: connection.reject(404, body=MUCH), listens=False)


@operation
async def close_unanswered(trial: ServerTrial) -> None:
    await answered(trial, lambda connection: connection.close())


@operation
async def leave_a_block_unanswered(trial: ServerTrial) -> None:
    async def leave(connection: ServerConnection) -> None:
        async with connection:
            await trio.lowlevel.checkpoint()

    await answered(trial, leave)


# Of one that is accepted ----------------------------------------------------------------------------------------------


async def used(
    trial: ServerTrial, use: Callable[[ServerConnection], Awaitable[object]], *, listens: bool = True
) -> None:
    async with trial.listen() as server:
        client = trial.come(listens=listens)
        connection = await server.receive_value()
        await connection.accept()
        await wait_all_tasks_blocked()
        with trial.swept():
            await use(connection)
        client.listen_on()
        await trial.check_usable(connection)
        await trial.check_served(server)


@operation
async def send(trial: ServerTrial) -> None:
    await used(trial, lambda connection: connection.send("hello"))


@operation
async def send_much(trial: ServerTrial) -> None:
    await used(trial, lambda connection: connection.send(MUCH))


@operation
async def receive_twice(trial: ServerTrial) -> None:
    async def receive(connection: ServerConnection) -> None:
        await connection.receive()
        with trio.move_on_after(1):
            await connection.receive()

    await used(trial, receive)


@operation
async def ping(trial: ServerTrial) -> None:
    async def there_and_back(connection: ServerConnection) -> None:
        await (await connection.ping()).receive()

    await used(trial, there_and_back)


@operation
async def close(trial: ServerTrial) -> None:
    await used(trial, lambda connection: connection.close())


@operation
async def close_to_who_does_not_listen(trial: ServerTrial) -> None:
    await used(trial, lambda connection: connection.close(), listens=False)


@operation
async def leave_a_block(trial: ServerTrial) -> None:
    async def leave(connection: ServerConnection) -> None:
        async with connection:
            await connection.send("bye")

    await used(trial, leave)


# Of the server --------------------------------------------------------------------------------------------------------


async def crowded(trial: ServerTrial, server: websocket.Server) -> None:
    """Let two clients come: one is accepted, and one waits."""
    trial.come()
    connection = await server.receive_value()
    await connection.accept()
    trial.come()
    await wait_all_tasks_blocked()


@operation
async def take_a_connection(trial: ServerTrial) -> None:
    async with trial.listen() as server:
        taken: list[ServerConnection] = []
        with trial.swept():
            trial.come()
            taken.append(await server.receive_value())
        await (taken[0] if taken else await server.receive_value()).reject()
        await trial.check_served(server)


@operation
async def close_the_server(trial: ServerTrial) -> None:
    async with trial.listen() as server:
        await crowded(trial, server)
        with trial.swept():
            await server.close(1012)
        assert server.connections == ()


@operation
async def close_the_server_with_grace(trial: ServerTrial) -> None:
    async with trial.listen() as server:
        await crowded(trial, server)
        with trial.swept():
            await server.close(grace="5s")
        assert server.connections == ()


@operation
async def stop_the_server(trial: ServerTrial) -> None:
    async with trial.listen() as server:
        await crowded(trial, server)
        with trial.swept():
            await trio.lowlevel.checkpoint()
            server.stop()
            async for connection in server:
                await connection.accept()


@operation
async def listen_for_a_block(trial: ServerTrial) -> None:
    with trial.swept():
        async with trial.listen() as server:
            await crowded(trial, server)
            await (await server.receive_value()).accept()


@operation
async def listen_in_a_nursery(trial: ServerTrial) -> None:
    with trial.swept():
        async with trio.open_nursery() as nursery:
            server = await websocket.listen(nursery=nursery, **trial.options)
            await crowded(trial, server)
            await server.close()


@operation
async def serve(trial: ServerTrial) -> None:
    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message.data)

    async def watch(server: websocket.Server) -> None:
        trial.come(closes=True)
        trial.come()
        await trio.sleep(1)
        await server.close()

    with trial.swept():
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
                await websocket.serve(handler, task_status=task_status, **trial.options)

            await watch(await nursery.start(run))


# The sweeps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["memory", "socket", "tls"])
@pytest.mark.parametrize("run", OPERATIONS, ids=lambda run: run.__name__)
def test_a_server_outlasts_a_cancellation_at_every_step(
    run: Callable[[ServerTrial], Awaitable[None]], link: Link
) -> None:
    stride = 1 if ORDERS or link == "memory" else 5

    @settings(
        max_examples=int(ORDERS or 1),
        derandomize=not ORDERS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.random_module())
    def once(_seed: object) -> None:
        whole = ServerTrial(link, None)
        whole.run(run)
        # Tasks take turns in another order each time, and so it may take some steps more.
        for at in range(0, whole.steps + 10, stride):
            trial = ServerTrial(link, at)
            trial.run(run)
            assert trial.cancelled or at > 0
            counts["sweeps"] += at == 0
            counts["cancelled before a step"] += trial.cancelled

    once()


@pytest.fixture(scope="module", autouse=True)
def _summary() -> Generator[None]:
    yield
    print("\ncancellation:", ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))  # shown by -s
