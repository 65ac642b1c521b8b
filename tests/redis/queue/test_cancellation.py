"""Cancelled at every step: whatever an operation of a queue is doing, no value is lost, and none is twice in hand.

Each sweep repeats an operation, each time on a queue of its own, and cancels it before step 1, 2, 3, ... of all tasks,
until it completes first. An ordinary run leaves out some steps of long operations.
``CSP_SWEEP_ORDERS=1 pytest tests/redis/queue/test_cancellation.py`` goes over all of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from tests.redis.queue._workers import a_bus, length, pending, take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from csp import redis
    from tests.redis.conftest import SharedServer

MOST_STEPS = 1000


class Steps(trio.abc.Instrument):
    """Cancels before a step of any task."""

    def __init__(self, at: int, scope: trio.CancelScope) -> None:
        self._left = at
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # the interface has it
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def swept(
    name: str, least: int, work: Callable[[str], Awaitable[None]], *, stride: int = 1
) -> AsyncIterator[str]:
    """Cancel an operation at every step, and give the name of the queue after each; the last time it is not cancelled.

    Args:
        name: what the names of the queues begin with.
        least: how many steps the operation takes at least.
        work: the operation, with the name of a queue.
        stride: in an ordinary run, one of how many steps is cancelled at.
    """
    for at in range(1, MOST_STEPS, 1 if os.environ.get("CSP_SWEEP_ORDERS") else stride):
        with trio.CancelScope() as scope:
            steps = Steps(at, scope)
            trio.lowlevel.add_instrument(steps)
            try:
                await work(f"{name} {at}")
            finally:
                trio.lowlevel.remove_instrument(steps)
        with trio.fail_after(5):
            yield f"{name} {at}"
        if not scope.cancelled_caught:
            assert at >= least, "nothing was swept"
            return
    pytest.fail("it does not end")


async def rest(bus: redis.Bus[bytes], name: str) -> list[tuple[bytes, int]]:
    """Do at once what there is, as another worker; return the values and attempts."""
    done: list[tuple[bytes, int]] = []
    jobs = bus.queue(name)
    async with jobs.work(lease="1h") as deliveries:
        for _ in range(await jobs.depth()):
            (delivery,) = await take(deliveries)
            done.append((delivery.data, delivery.attempt))
            delivery.ack()
    assert await jobs.depth() == 0
    return done


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_send(shared_server: SharedServer, key: str | None) -> None:
    async with a_bus(shared_server) as bus:
        await bus.queue("first").send(b"one")  # the server knows the script then

        async def send(name: str) -> None:
            await bus.queue(name).send(b"one", key=key)

        async for name in swept("send", 3, send):
            jobs = bus.queue(name)
            arrived = await jobs.depth()
            assert arrived in {0, 1}
            await jobs.send(b"one", key=key)
            assert await length(shared_server, f"{{{name}}}") == (1 if key else arrived + 1)
        assert bus.statistics().connections == 1, "a send that is cancelled leaves the connection"


async def test_a_receive(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        received: list[redis.Delivery[bytes]] = []

        async def receive(name: str) -> None:
            async with bus.queue(name).work(lease="1h") as deliveries:
                with trio.CancelScope(shield=True):
                    await deliveries.ready()
                    await bus.queue(name).send(b"one")
                received.append(await deliveries.receive_value())
                received[-1].ack()

        async for name in swept("receive", 10, receive, stride=5):
            values = await rest(bus, name)
            assert values == ([] if received else [(b"one", 1)])
            received.clear()


async def test_a_worker_from_its_beginning_to_its_end(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        acked: list[bytes] = []

        async def work(name: str) -> None:
            async with bus.queue(name).work(lease="1h", capacity=4) as deliveries:
                for _ in range(2):
                    with await deliveries.receive_value() as delivery:
                        await trio.lowlevel.checkpoint()
                        acked.append(delivery.data)
                await deliveries.flush()

        async def prepared(name: str) -> None:
            with trio.CancelScope(shield=True):
                for data in (b"1", b"2", b"3"):
                    await bus.queue(name).send(data)
            await work(name)

        async for name in swept("work", 30, prepared, stride=7):
            values = await rest(bus, name)
            assert sorted([*acked, *[data for data, _ in values]]) == [b"1", b"2", b"3"]
            assert {attempt for _, attempt in values} == {1}
            acked.clear()


async def test_a_flush(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:

        async def flush(name: str) -> None:
            jobs = bus.queue(name)
            async with jobs.work(lease="1h") as deliveries:
                with trio.CancelScope(shield=True):
                    await jobs.send(b"one")
                    (delivery,) = await take(deliveries)
                    delivery.ack()
                await deliveries.flush()

        async for name in swept("flush", 10, flush, stride=2):
            assert await length(shared_server, f"{{{name}}}") == 0


async def test_an_outlet(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        await bus.queue("first").send(b"one")
        accepted: list[bytes] = []

        async def send(name: str) -> None:
            async with bus.queue(name).outlet(capacity=1, key=lambda value: value.decode()) as channel:
                for data in (b"1", b"2", b"3", b"4"):
                    await channel.send(data)
                    accepted.append(data)

        values: list[bytes] = []
        async for name in swept("outlet", 8, send):
            values = [data for data, _ in await rest(bus, name)]
            assert values == [b"1", b"2", b"3", b"4"][: len(values)]
            # What is dropped was still in the channel, or on its way to the server.
            assert len(values) <= 4
            accepted.clear()
        assert len(values) == 4


async def test_a_bus_from_its_beginning_to_its_end(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as other:
        acked: list[bytes] = []

        async def run(name: str) -> None:
            with trio.CancelScope(shield=True):
                await other.queue(name).send(b"one")
            async with a_bus(shared_server) as bus, bus.queue(name).work(lease="1h") as deliveries:
                with await deliveries.receive_value() as delivery:
                    await trio.lowlevel.checkpoint()
                    acked.append(delivery.data)

        async for name in swept("bus", 40, run, stride=5):
            assert await rest(other, name) == ([] if acked else [(b"one", 1)])
            assert await pending(shared_server, f"{{{name}}}") == []
            acked.clear()
