"""From what was parsed to the channel: order, room, waiting for room, discarding, and the end behind everything."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp.errors import UNAVAILABLE, ConnectionFailedError
from csp.websocket import Message
from tests.websocket._server import ENDED
from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES, READ_AHEAD_MESSAGES, Delivery
from trio_csp_websocket.connection.ending import Ending
from trio_csp_websocket.connection.settings import parse_settings
from trio_csp_websocket.protocol.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

ENDING = Ending(1000, "bye", None)
LARGE_BYTES = READ_AHEAD_BYTES


def failed(message: str) -> Ending:
    return Ending(1006, "", ConnectionFailedError(message, kind=UNAVAILABLE))


class Line:
    """A delivery, and the decoder's part: messages are parsed, and what there is no room for is kept."""

    def __init__(self, nursery: trio.Nursery, capacity: int, count: int = 0, *, read_limit: int = 0) -> None:
        self.decoder = Decoder(0)
        self.parsed = self.decoder.messages
        settings = parse_settings({"channel_capacity": capacity, "read_limit": read_limit})
        self.delivery = Delivery(self.decoder, settings, nursery)
        self.parse(range(count))

    def parse(self, numbers: Sequence[int], size: int = 1) -> None:
        self.parse_messages([str(number) for number in numbers], size)

    def parse_messages(self, texts: Sequence[str], size: int = 1) -> None:
        self.parsed.extend(Message("text", text) for text in texts)
        self.decoder.messages_received += len(texts)
        self.delivery.deliver_now()
        if self.parsed:
            self.delivery.keep_rest(size)

    def parse_large(self, count: int) -> None:
        """Let messages arrive that are so large that their bytes are counted."""
        self.parsed.extend(Message("binary", bytes(LARGE_BYTES)) for _ in range(count))
        self.decoder.messages_received += count
        self.delivery.measure()
        self.delivery.deliver_now()


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


async def test_the_channel_has_the_capacity_asked_for(nursery: trio.Nursery) -> None:
    delivery = Line(nursery, 7).delivery
    assert (delivery.channel.capacity, delivery.channel.closed, delivery.unread) == (7, False, 0)


@pytest.mark.parametrize(("count", "capacity"), [(0, 2), (1, 2), (2, 2)])
async def test_what_there_is_room_for_is_delivered_at_once_and_needs_no_task(
    count: int, capacity: int, nursery: trio.Nursery
) -> None:
    line = Line(nursery, capacity, count)
    assert not line.delivery.blocked
    assert not nursery.child_tasks
    assert taken(line.delivery) == "0123456789"[:count]


async def test_the_rest_is_delivered_in_order_as_there_is_room(nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 5)
    line.parse(range(5, 8))
    assert line.delivery.blocked
    assert line.delivery.unread == 8
    data = ""
    for left in range(7, -1, -1):
        data += str((await line.delivery.channel.receive()).value.data)
        await wait_all_tasks_blocked()
        assert line.delivery.unread == left
    assert data == "01234567"
    assert not line.delivery.blocked


async def test_what_comes_while_others_wait_waits_behind_them(nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 3)
    assert taken(line.delivery) == "01"  # there is room now, and the task has not run yet
    line.parse([3])
    await wait_all_tasks_blocked()
    assert taken(line.delivery) == "23"


async def test_one_task_delivers_again_and_again(nursery: trio.Nursery) -> None:
    line = Line(nursery, 1)
    for number in range(0, 9, 3):
        line.parse(range(number, number + 3))
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        assert [str((await line.delivery.channel.receive()).value.data) for _ in range(3)] == [
            str(number + index) for index in range(3)
        ]
        await wait_all_tasks_blocked()
    line.delivery.end(ENDING)
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_a_task_that_waits_to_receive_gets_the_first_and_leaves_the_room(nursery: trio.Nursery) -> None:
    line = Line(nursery, 2)
    got: list[csp.Received[Message]] = []

    async def receive() -> None:
        got.append(await line.delivery.channel.receive())

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    line.parse(range(3))
    assert not line.delivery.blocked
    await wait_all_tasks_blocked()
    assert got[0].value.data == "0"
    assert taken(line.delivery) == "12"


# How much waits -------------------------------------------------------------------------------------------------------


async def test_it_is_full_by_bytes_until_enough_was_received(nursery: trio.Nursery) -> None:
    line = Line(nursery, 1)
    line.parse(range(3), READ_AHEAD_BYTES - 1)
    assert not line.delivery.full
    line.parse(range(3, 6), 1)
    assert line.delivery.full
    nursery.start_soon(line.delivery.progress)
    for _ in range(3):
        await line.delivery.channel.receive()
        await wait_all_tasks_blocked()
    assert not line.delivery.full
    assert len(nursery.child_tasks) == 1  # the one in `progress` has returned


async def test_it_is_full_by_messages(nursery: trio.Nursery) -> None:
    line = Line(nursery, 1)
    line.parse(range(READ_AHEAD_MESSAGES))
    assert not line.delivery.full
    line.parse([0])
    assert line.delivery.full


async def test_the_time_in_which_messages_wait_is_counted(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    line = Line(nursery, 1)
    assert line.delivery.blocked_seconds(trio.current_time()) == 0
    for seconds in (3, 6):
        line.parse(range(2))
        await trio.sleep(3)
        assert line.delivery.blocked_seconds(trio.current_time()) == seconds
        for _ in range(2):
            await line.delivery.channel.receive()
        await trio.sleep(10)
        assert line.delivery.blocked_seconds(trio.current_time()) == seconds
    line.parse(range(2))
    await trio.sleep(1)
    line.delivery.stop()
    assert line.delivery.blocked_seconds(trio.current_time() + 5) == 7


# The end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [ENDING, failed("why")])
async def test_the_end_comes_behind_what_waits(ending: Ending, nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 5)
    line.delivery.end(ending)
    await wait_all_tasks_blocked()
    assert not line.delivery.channel.closed
    assert not line.delivery.finished.is_set()
    assert await drained(line.delivery) == "01234"
    assert line.delivery.channel.cause is ending.error
    assert line.delivery.finished.is_set()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_an_end_without_messages_is_at_once(nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 1)
    line.delivery.end(ENDING)
    assert line.delivery.channel.closed
    assert line.delivery.finished.is_set()
    assert await drained(line.delivery) == "0"
    with pytest.raises(csp.EndOfChannelError) as caught:
        await line.delivery.channel.receive_value()
    assert caught.value.details == {"code": 1000, "reason": "bye"}


async def test_a_second_end_changes_nothing(nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 5)
    first = failed("first")
    line.delivery.end(first)
    for _ in range(2):
        line.delivery.end(failed("second"))
        await wait_all_tasks_blocked()
    assert await drained(line.delivery) == "01234"
    assert line.delivery.channel.cause is first.error


async def test_a_task_that_was_cancelled_leaves_the_closing_to_the_stop() -> None:
    async with trio.open_nursery() as nursery:
        line = Line(nursery, 2, 5)
        line.delivery.end(ENDING)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not line.delivery.channel.closed
    line.delivery.stop()
    assert line.delivery.channel.closed
    assert line.delivery.finished.is_set()


async def test_it_is_full_by_bytes_in_the_channel_until_they_were_received(nursery: trio.Nursery) -> None:
    line = Line(nursery, 4, read_limit=LARGE_BYTES)
    line.parse_large(1)
    assert not line.delivery.full
    line.parse_large(1)
    assert line.delivery.full
    rested = trio.Event()

    async def rest() -> None:
        await line.delivery.progress()
        rested.set()

    nursery.start_soon(rest)
    await wait_all_tasks_blocked()
    assert not rested.is_set()
    line.delivery.channel.receive_nowait()
    await wait_all_tasks_blocked()
    assert rested.is_set()
    assert not line.delivery.full


async def test_a_rest_may_be_cancelled(nursery: trio.Nursery) -> None:
    line = Line(nursery, 4, read_limit=LARGE_BYTES)
    line.parse_large(2)
    with trio.CancelScope() as scope:
        scope.cancel()
        await line.delivery.progress()
    assert scope.cancelled_caught
    assert line.delivery.full
    for _ in range(2):
        line.delivery.channel.receive_nowait()
    assert not line.delivery.full


@pytest.mark.parametrize("closed", [False, True], ids=["stopped", "closed"])
async def test_it_is_not_full_where_nothing_is_delivered_any_more(closed: bool, nursery: trio.Nursery) -> None:
    line = Line(nursery, 4, read_limit=LARGE_BYTES)
    line.parse_large(2)
    assert line.delivery.full
    if closed:
        line.delivery.channel.close()
    else:
        line.delivery.stop()
    assert not line.delivery.full


# Discarding -----------------------------------------------------------------------------------------------------------


async def test_stopping_discards_what_waits_and_what_comes(nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 5)
    await wait_all_tasks_blocked()
    line.delivery.stop()
    assert line.delivery.stopped
    assert not line.delivery.blocked
    assert not line.delivery.full
    line.parse([5])
    assert not line.parsed
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    # The one that was in its hands is discarded too, although there would be room for it now.
    assert taken(line.delivery) == "01"
    with pytest.raises(trio.WouldBlock):
        line.delivery.channel.receive_nowait()
    line.delivery.end(ENDING)
    assert await line.delivery.channel.receive() == ENDED


@pytest.mark.parametrize("ends_first", [False, True])
async def test_stopping_closes_the_channel_if_the_connection_has_ended(ends_first: bool, nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 5)
    await wait_all_tasks_blocked()
    for step in (line.delivery.stop, lambda: line.delivery.end(ENDING))[:: -1 if ends_first else 1]:
        step()
    line.delivery.stop()
    assert line.delivery.channel.closed
    assert line.delivery.finished.is_set()
    assert await drained(line.delivery) == "01"
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_stopping_as_the_last_message_is_taken_is_no_failure(nursery: trio.Nursery) -> None:
    line = Line(nursery, 1, 2)
    await wait_all_tasks_blocked()
    assert (await line.delivery.channel.receive()).ok  # makes room for the last, and wakes the task
    line.delivery.stop()
    await wait_all_tasks_blocked()
    assert taken(line.delivery) == "1"
    assert not nursery.child_tasks


async def test_a_consumer_that_closes_the_channel_wants_no_more(nursery: trio.Nursery) -> None:
    line = Line(nursery, 2, 5)
    await wait_all_tasks_blocked()
    nursery.start_soon(line.delivery.progress)
    await wait_all_tasks_blocked()
    line.delivery.channel.close()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert line.delivery.stopped
    assert not line.delivery.blocked
    line.parse([5])
    assert not line.parsed
    assert await drained(line.delivery) == "01"
    assert not line.delivery.finished.is_set()
    line.delivery.end(ENDING)
    assert line.delivery.finished.is_set()


async def test_a_closed_channel_that_the_reader_notices_first_ends_the_task(nursery: trio.Nursery) -> None:
    line = Line(nursery, 1, 2)
    await wait_all_tasks_blocked()
    assert (await line.delivery.channel.receive()).ok  # wakes the task
    line.delivery.channel.close()
    line.parse([2])  # before the task comes to run
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert not line.delivery.blocked
    assert taken(line.delivery) == "1"


async def test_a_channel_that_a_finalizer_closes_halfway_through_wants_no_more(nursery: trio.Nursery) -> None:
    class Waiting(deque[Message]):
        def popleft(self) -> Message:
            if len(self) == 3:
                delivery.channel.close()  # as a finalizer may, when the garbage collector runs here
            return super().popleft()

    waiting = Waiting(Message("text", str(number)) for number in range(5))
    decoder = Decoder(0)
    decoder.messages = waiting
    delivery = Delivery(decoder, parse_settings({"channel_capacity": 10}), nursery)
    delivery.deliver_now()
    assert not waiting
    assert delivery.stopped
    assert taken(delivery) == "01"
