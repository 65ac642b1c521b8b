"""From what was parsed to the channel: order, room, discarding, and the end behind everything."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import UNAVAILABLE, ConnectionFailedError
from csp.websocket import Message
from tests.websocket._server import ENDED
from trio_csp_websocket.connection.delivery import Delivery
from trio_csp_websocket.connection.ending import Ending

if TYPE_CHECKING:
    from trio.testing import MockClock

ENDING = Ending(1000, "bye", None)


def made(count: int, capacity: int) -> tuple[Delivery, deque[Message]]:
    """Return a delivery for which messages wait, and where they wait."""
    waiting = deque(Message("text", str(number)) for number in range(count))
    return Delivery(waiting, capacity), waiting


def failure(message: str) -> ConnectionFailedError:
    return ConnectionFailedError(message, kind=UNAVAILABLE)


def taken(delivery: Delivery) -> str:
    """Take what is in the channel now."""
    data = ""
    with contextlib.suppress(trio.WouldBlock):
        while (received := delivery.channel.receive_nowait()).ok:
            data += str(received.value.data)
    return data


async def drained(delivery: Delivery) -> str:
    data = ""
    while (received := await delivery.channel.receive()).ok:
        data += str(received.value.data)
    return data


def test_the_channel_has_the_capacity_asked_for() -> None:
    delivery, _ = made(0, 7)
    assert (delivery.channel.capacity, delivery.channel.closed) == (7, False)


@pytest.mark.parametrize(("count", "capacity", "rest"), [(0, 2, 0), (1, 2, 0), (2, 2, 0), (5, 2, 3)])
async def test_what_there_is_room_for_is_delivered_at_once_in_order(count: int, capacity: int, rest: int) -> None:
    delivery, waiting = made(count, capacity)
    delivery.deliver_now()
    assert len(waiting) == rest
    assert taken(delivery) == "01234"[: count - rest]


async def test_a_waiting_receiver_makes_room(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    delivery, waiting = made(3, 1)
    got: list[str | bytes] = []

    async def receive() -> None:
        got.append((await delivery.channel.receive()).value.data)

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    delivery.deliver_now()
    await wait_all_tasks_blocked()
    assert (got, taken(delivery), len(waiting)) == (["0"], "1", 1)


async def test_delivering_waits_for_the_consumer_and_keeps_the_order(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    delivery, waiting = made(6, 2)
    nursery.start_soon(delivery.deliver)
    for number in range(6):
        await wait_all_tasks_blocked()
        assert (await delivery.channel.receive()).value.data == str(number)
    await wait_all_tasks_blocked()
    assert not waiting
    assert not delivery.channel.closed
    assert not delivery.finished.is_set()


async def test_with_nothing_waiting_delivering_is_done(autojump_clock: MockClock) -> None:
    delivery, _ = made(0, 1)
    with trio.fail_after(1):
        await delivery.deliver()
    assert not delivery.channel.closed


async def test_what_comes_while_delivering_waits_goes_behind(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    delivery, waiting = made(3, 1)
    nursery.start_soon(delivery.deliver)
    await wait_all_tasks_blocked()
    waiting.append(Message("text", "3"))
    delivery.deliver_now()
    delivery.end(ENDING, nursery)
    assert await drained(delivery) == "0123"


# The end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [None, failure("why")])
async def test_an_end_with_nothing_waiting_closes_the_channel_at_once(
    cause: ConnectionFailedError | None, nursery: trio.Nursery
) -> None:
    delivery, _ = made(2, 2)
    delivery.deliver_now()
    delivery.end(ENDING._replace(error=cause), nursery)
    assert delivery.channel.closed
    assert delivery.channel.cause is cause
    assert delivery.finished.is_set()
    assert not nursery.child_tasks
    assert await drained(delivery) == "01"


@pytest.mark.parametrize("cause", [None, failure("why")])
async def test_an_end_closes_the_channel_behind_what_waits(
    cause: ConnectionFailedError | None, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    delivery, _ = made(5, 2)
    delivery.deliver_now()
    delivery.end(ENDING._replace(error=cause), nursery)
    await trio.sleep(1000)
    assert not delivery.channel.closed
    assert not delivery.finished.is_set()
    assert await drained(delivery) == "01234"
    assert delivery.channel.cause is cause
    assert delivery.finished.is_set()


@pytest.mark.parametrize("cause", [None, failure("why")])
async def test_an_end_while_delivering_leaves_the_closing_to_that(
    cause: ConnectionFailedError | None, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    delivery, _ = made(5, 2)
    nursery.start_soon(delivery.deliver)
    await wait_all_tasks_blocked()
    delivery.end(ENDING._replace(error=cause), nursery)
    assert len(nursery.child_tasks) == 1
    assert not delivery.channel.closed
    assert await drained(delivery) == "01234"
    assert delivery.channel.cause is cause
    assert delivery.finished.is_set()


async def test_a_second_end_changes_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    first = failure("first")
    delivery, _ = made(5, 2)
    delivery.end(ENDING._replace(error=first), nursery)
    for _ in range(2):
        delivery.end(ENDING._replace(error=failure("second")), nursery)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
    assert await drained(delivery) == "01234"
    assert delivery.channel.cause is first


async def test_an_end_after_a_delivering_that_was_cancelled_closes_the_channel(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    delivery, waiting = made(5, 2)
    with trio.move_on_after(1):
        await delivery.deliver()
    waiting.clear()
    delivery.end(ENDING, nursery)
    assert delivery.channel.closed
    assert await drained(delivery) == "01"


# Discarding -----------------------------------------------------------------------------------------------------------


async def test_stopping_discards_what_waits_and_what_comes(autojump_clock: MockClock) -> None:
    delivery, waiting = made(5, 2)
    delivery.deliver_now()
    assert not delivery.stopped
    delivery.stop()
    assert delivery.stopped
    assert not waiting
    waiting.append(Message("text", "later"))
    assert taken(delivery) == "01"
    delivery.deliver_now()
    assert not waiting
    with pytest.raises(trio.WouldBlock):
        delivery.channel.receive_nowait()
    assert not delivery.channel.closed


async def test_nothing_is_delivered_once_it_is_unwanted_although_there_is_room(autojump_clock: MockClock) -> None:
    # Where both are possible Go's select would toss a coin.
    for _ in range(30):
        delivery, waiting = made(0, 2)
        delivery.stop()
        waiting.append(Message("text", "later"))
        await delivery.deliver()
        assert taken(delivery) == ""
        assert not waiting


async def test_stopping_wakes_whoever_waits_for_the_consumer(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    delivery, waiting = made(5, 2)
    nursery.start_soon(delivery.deliver)
    await wait_all_tasks_blocked()
    delivery.stop()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert not waiting
    # The one that was in its hands is discarded too, although there would be room for it now.
    assert taken(delivery) == "01"
    assert not delivery.channel.closed
    delivery.end(ENDING, nursery)
    assert await delivery.channel.receive() == ENDED


async def test_stopping_after_the_end_closes_the_channel_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    cause = failure("why")
    delivery, _ = made(5, 2)
    delivery.deliver_now()
    delivery.end(ENDING._replace(error=cause), nursery)
    await wait_all_tasks_blocked()
    delivery.stop()
    assert delivery.channel.closed
    assert delivery.channel.cause is cause
    assert delivery.finished.is_set()
    assert await drained(delivery) == "01"
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_stopping_again_changes_nothing(nursery: trio.Nursery) -> None:
    delivery, _ = made(5, 2)
    delivery.stop()
    delivery.stop()
    delivery.end(ENDING, nursery)
    delivery.stop()
    assert delivery.channel.closed


async def test_a_consumer_that_closes_the_channel_wants_no_more(nursery: trio.Nursery) -> None:
    delivery, waiting = made(5, 2)
    delivery.deliver_now()
    delivery.channel.close()
    delivery.deliver_now()
    assert not waiting
    waiting.append(Message("text", "later"))
    delivery.deliver_now()
    assert not waiting
    assert await drained(delivery) == "01"
    assert not delivery.finished.is_set()
    delivery.end(ENDING, nursery)
    assert delivery.finished.is_set()


def test_a_channel_that_a_finalizer_closes_halfway_through_wants_no_more() -> None:
    class Waiting(deque[Message]):
        def popleft(self) -> Message:
            if len(self) == 3:
                delivery.channel.close()  # as a finalizer may, when the garbage collector runs here
            return super().popleft()

    waiting = Waiting(Message("text", str(number)) for number in range(5))
    delivery = Delivery(waiting, 10)
    delivery.deliver_now()
    assert not waiting
    assert delivery.stopped
    assert taken(delivery) == "01"


async def test_a_consumer_that_closes_the_channel_wakes_whoever_waits_for_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    delivery, waiting = made(5, 2)
    nursery.start_soon(delivery.deliver)
    await wait_all_tasks_blocked()
    delivery.channel.close()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert not waiting


async def test_a_channel_that_is_closed_before_delivering_wants_nothing(autojump_clock: MockClock) -> None:
    delivery, waiting = made(5, 2)
    delivery.channel.close()
    with trio.fail_after(1):
        await delivery.deliver()
    assert not waiting
    assert await drained(delivery) == ""
