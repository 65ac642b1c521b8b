"""Channels: buffer, order, overflow, closing, causes, counts. What waits is in ``test_waiting.py``."""

from __future__ import annotations

import contextlib
import gc
import math
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import errors
from csp._core.channel import _not_open
from csp._core.select import SelectWaiter
from csp._core.sending import SendWaiter
from csp._core.source import ReceiveWaiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import MethodType


# Making one -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 1, 10_000, math.inf])
def test_capacity_is_what_was_asked_for(capacity: float) -> None:
    assert csp.Channel[int](capacity).capacity == capacity


def test_a_channel_is_unbuffered_by_default() -> None:
    assert csp.Channel[int]().capacity == 0


@pytest.mark.parametrize("capacity", [1.0, 0.5, math.nan, -math.inf, True, "1", None])
def test_a_capacity_that_is_no_whole_number_is_a_type_error(capacity: Any) -> None:
    with pytest.raises(errors.InvalidTypeError, match=r"capacity must be an int of at least 0 or math\.inf"):
        csp.Channel[int](capacity)


def test_a_negative_capacity_is_invalid() -> None:
    with pytest.raises(errors.InvalidError, match="capacity must be at least 0, not -1") as caught:
        csp.Channel[int](-1)
    assert caught.value.kind is errors.INVALID


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "close"])
def test_an_unbuffered_channel_cannot_overflow(overflow: Any) -> None:
    with pytest.raises(errors.InvalidError, match="needs a capacity of at least 1"):
        csp.Channel[int](0, overflow=overflow)


@pytest.mark.parametrize("overflow", ["drop", "", 1, None])
def test_an_unknown_overflow_is_invalid(overflow: Any) -> None:
    with pytest.raises(errors.InvalidError, match="overflow must be"):
        csp.Channel[int](1, overflow=overflow)


def test_a_channel_is_true_even_when_empty() -> None:
    channel = csp.Channel[int](1)
    assert len(channel) == 0
    assert bool(channel) is True


def test_channels_compare_by_identity() -> None:
    one, other = csp.Channel[int](), csp.Channel[int]()
    assert one != other
    assert len({one, other, one}) == 2


def test_a_channel_can_be_made_and_used_outside_of_a_run() -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)
    assert channel.receive_nowait() == (1, True)
    channel.close()


def test_repr_shows_the_state() -> None:
    channel = csp.Channel[int](3)
    channel.send_nowait(1)
    assert "open, 1 of 3 buffered" in repr(channel)
    channel.close()
    assert "closed, 1 of 3 buffered" in repr(channel)
    assert repr(channel) in repr(channel.case_receive())
    assert repr(channel) in repr(channel.case_send(1))


# Values ---------------------------------------------------------------------------------------------------------------


def test_values_come_in_the_order_they_were_sent() -> None:
    channel = csp.Channel[int](math.inf)
    for value in range(100):
        channel.send_nowait(value)
    assert [channel.receive_nowait().value for _ in range(100)] == list(range(100))


@pytest.mark.parametrize("capacity", [0, 1])
async def test_none_is_a_value(capacity: int) -> None:
    channel = csp.Channel[None](capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send, None)
        assert await channel.receive() == (None, True)


async def test_a_result_has_names() -> None:
    channel = csp.Channel[int](1)
    await channel.send(1)
    received = await channel.receive()
    assert received.value == 1
    assert received.ok


@pytest.mark.parametrize("capacity", [0, 2])
def test_send_nowait_blocks_rather_than_exceed_the_capacity(capacity: int) -> None:
    channel = csp.Channel[int](capacity)
    for value in range(capacity):
        channel.send_nowait(value)
    with pytest.raises(trio.WouldBlock):
        channel.send_nowait(9)
    assert len(channel) == capacity


def test_receive_nowait_blocks_when_there_is_nothing() -> None:
    with pytest.raises(trio.WouldBlock):
        csp.Channel[int](1).receive_nowait()


async def test_a_freed_place_goes_to_a_waiting_sender_before_a_new_one() -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send, 2)
        await wait_all_tasks_blocked()
        assert channel.receive_nowait() == (1, True)
        with pytest.raises(trio.WouldBlock):
            channel.send_nowait(3)
        assert channel.receive_nowait() == (2, True)


async def test_ready_operations_do_not_visit_the_scheduler() -> None:
    channel = csp.Channel[int](1)
    ran: list[bool] = []

    async def other() -> None:
        ran.append(True)

    async with trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        # Whatever was counted before, the next visit is far off.
        while not csp.schedule_point_due():
            pass
        nursery.start_soon(other)
        await channel.send(1)
        await channel.receive()
        assert ran == []


async def test_a_value_received_is_not_kept_alive() -> None:
    class Value:
        pass

    channel = csp.Channel[Value](1)
    await channel.send(Value())
    value = weakref.ref((await channel.receive()).value)
    gc.collect()
    assert value() is None


# Overflow -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [3, 4]), ("drop_newest", [0, 1])])
async def test_overflow_drops_instead_of_waiting(overflow: Any, kept: list[int]) -> None:
    channel = csp.Channel[int](2, overflow=overflow)
    for value in range(4):
        await channel.send(value)
    channel.send_nowait(4)
    assert channel.statistics().dropped == 3
    assert len(channel) == 2
    channel.close()
    assert [value async for value in channel] == kept


@pytest.mark.parametrize("way", ["send", "send_nowait", "send_many", "select"])
async def test_a_full_channel_that_closes_fails_the_send_and_keeps_what_it_has(way: str) -> None:
    channel = csp.Channel[int](2, overflow="close")
    await channel.send(1)
    channel.send_nowait(2)
    values = deque([3])

    async def send() -> None:
        if way == "send":
            await channel.send(3)
        elif way == "send_nowait":
            channel.send_nowait(3)
        elif way == "send_many":
            await channel.send_many(values)
        else:
            await csp.select(channel.case_send(3))

    with pytest.raises(csp.ChannelClosedError) as caught:
        await send()
    assert values == deque([3])
    assert caught.value.__cause__ is channel.cause
    assert errors.is_kind(channel.cause, errors.CANCELED)
    assert channel.statistics() == csp.ChannelStatistics(2, 2, 0, 0, 0, 0, True)
    assert [await channel.receive() for _ in range(3)] == [(1, True), (2, True), (None, False)]
    with pytest.raises(errors.Error, match="its receiver did not keep up, and its buffer of 2 is full"):
        await anext(channel)


def test_waiting_is_what_channels_do_if_nothing_else_is_said() -> None:
    for channel in (csp.Channel[int](1), csp.Channel[int](1, overflow="wait")):
        channel.send_nowait(1)
        with pytest.raises(trio.WouldBlock):
            channel.send_nowait(2)
    with pytest.raises(trio.WouldBlock):
        csp.Channel[int](overflow="wait").send_nowait(1)


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", 2), ("drop_newest", 1)])
async def test_select_sends_to_a_full_channel_that_drops(overflow: Any, kept: int) -> None:
    channel = csp.Channel[int](1, overflow=overflow)
    channel.send_nowait(1)
    result = await csp.select(channel.case_send(2), default=True)
    assert not result.default
    assert channel.receive_nowait() == (kept, True)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_overflow_hands_over_to_a_waiting_receiver(overflow: Any) -> None:
    channel = csp.Channel[int](1, overflow=overflow)
    received: list[int] = []

    async def receive() -> None:
        received.append((await channel.receive()).value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        channel.send_nowait(1)
        channel.send_nowait(2)
    assert received == [1]
    assert channel.receive_nowait() == (2, True)
    assert channel.statistics().dropped == 0


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_a_closed_channel_that_drops_is_an_error_all_the_same(overflow: Any) -> None:
    channel = csp.Channel[int](1, overflow=overflow)
    channel.close()
    with pytest.raises(csp.ChannelClosedError):
        channel.send_nowait(1)
    assert channel.statistics().dropped == 0


def test_the_finalizer_of_a_dropped_value_may_close_the_channel() -> None:
    class Closing:
        def __del__(self) -> None:
            channel.close()

    channel = csp.Channel[Any](2, overflow="drop_oldest")
    for value in (Closing(), "b", "c"):
        channel.send_nowait(value)
    assert channel.closed
    assert [channel.receive_nowait() for _ in range(3)] == [("b", True), ("c", True), (None, False)]


def test_drop_oldest_tells_a_selector_once_only() -> None:
    async def main() -> list[int]:
        channel = csp.Channel[int](1, overflow="drop_oldest")
        with csp.Selector(channel.case_receive()) as selector:
            channel.send_nowait(1)
            channel.send_nowait(2)
            channel.close()
            return [result.value async for result in selector if result.ok]

    assert trio.run(main) == [2]


# Closing --------------------------------------------------------------------------------------------------------------


def test_a_new_channel_is_open() -> None:
    channel = csp.Channel[int]()
    assert not channel.closed
    assert channel.cause is None


def test_buffered_values_outlive_a_close() -> None:
    channel = csp.Channel[Any](2)
    channel.send_nowait(1)
    channel.close()
    assert channel.closed
    assert len(channel) == 1
    assert channel.receive_nowait() == (1, True)
    assert channel.receive_nowait() == (None, False)
    assert channel.receive_nowait() == (None, False)


def test_closing_again_does_nothing_and_the_first_cause_stays() -> None:
    channel = csp.Channel[int]()
    cause = OSError("first")
    channel.close(cause)
    channel.close(OSError("second"))
    channel.close()
    assert channel.cause is cause


def test_a_close_without_cause_cannot_get_one_later() -> None:
    channel = csp.Channel[int]()
    channel.close()
    channel.close(OSError("late"))
    assert channel.cause is None


@pytest.mark.parametrize("cause", ["broken", OSError, 0])
def test_a_cause_that_is_no_exception_is_a_type_error_and_closes_nothing(cause: Any) -> None:
    channel = csp.Channel[int]()
    with pytest.raises(errors.InvalidTypeError, match="cause must be an exception or None"):
        channel.close(cause)
    assert not channel.closed


@pytest.mark.parametrize("cause", [None, OSError("broken")])
async def test_a_send_on_a_closed_channel_is_unavailable_because_of_the_cause(cause: OSError | None) -> None:
    channel = csp.Channel[int](1)
    channel.close(cause)
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: channel.send(1),
        lambda: csp.select(channel.case_send(1)),
    ]
    for attempt in attempts:
        with pytest.raises(csp.ChannelClosedError) as caught:
            await attempt()
        assert caught.value.kind is errors.UNAVAILABLE
        assert caught.value.retryable is False
        assert caught.value.__cause__ is cause
        assert isinstance(caught.value, trio.ClosedResourceError)
    with pytest.raises(csp.ChannelClosedError) as caught:
        channel.send_nowait(1)
    assert caught.value.__cause__ is cause


async def test_waiting_senders_get_fresh_errors_from_the_cause() -> None:
    channel = csp.Channel[int]()
    cause = OSError("broken")
    caught: list[csp.ChannelClosedError] = []

    async def send() -> None:
        try:
            await channel.send(1)
        except csp.ChannelClosedError as error:
            caught.append(error)

    async def select() -> None:
        try:
            await csp.select(channel.case_send(1))
        except csp.ChannelClosedError as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        channel.close(cause)
    assert [error.__cause__ for error in caught] == [cause, cause]
    assert caught[0] is not caught[1]


# Iterating ------------------------------------------------------------------------------------------------------------


async def test_iteration_ends_when_closed_and_drained() -> None:
    channel = csp.Channel[int](3)
    for value in range(3):
        channel.send_nowait(value)
    channel.close()
    assert [value async for value in channel] == [0, 1, 2]


async def test_iteration_after_a_close_with_one_of_our_errors_raises_its_like() -> None:
    class Broken(errors.Error):
        def __init__(self, code: int) -> None:
            super().__init__(f"code {code}", kind=errors.TIMEOUT, retryable=True, details={"code": code})

    channel = csp.Channel[int](1)
    cause = Broken(3)
    channel.send_nowait(1)
    channel.close(cause)
    values: list[int] = []
    with pytest.raises(Broken) as caught:
        values.extend([value async for value in channel])  # the loop raises
    error = caught.value
    assert error is not cause
    assert error.__cause__ is cause
    assert (error.message, error.kind, error.retryable, error.details) == ("code 3", errors.TIMEOUT, True, {"code": 3})


@pytest.mark.parametrize("receive", [anext, csp.Channel[int].receive_value], ids=["iteration", "receive_value"])
async def test_a_foreign_cause_breaks_the_channel_for_its_receivers(receive: Any) -> None:
    channel = csp.Channel[int](1)
    cause = OSError("broken")
    channel.send_nowait(1)
    channel.close(cause)
    assert await receive(channel) == 1
    with pytest.raises(csp.ChannelBrokenError, match=r"OSError\('broken'\)") as caught:
        await receive(channel)
    assert caught.value.__cause__ is cause
    assert isinstance(caught.value, trio.BrokenResourceError)
    # `except trio.ClosedResourceError: pass`, which is for "I closed it", must not swallow it.
    assert not isinstance(caught.value, trio.ClosedResourceError)
    assert (caught.value.kind, caught.value.retryable) == (errors.UNAVAILABLE, False)


async def test_sending_to_a_broken_channel_is_closed_as_ever() -> None:
    channel = csp.Channel[int](1)
    channel.close(cause := OSError("broken"))
    with pytest.raises(csp.ChannelClosedError) as caught:
        await channel.send(1)
    assert caught.value.__cause__ is cause
    assert not isinstance(caught.value, trio.BrokenResourceError)


async def test_receive_value_gives_the_value_and_may_wait_for_it(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int | None](1)
    channel.send_nowait(None)
    assert await channel.receive_value() is None  # a value like any other
    got: list[int | None] = []

    async def wait() -> None:
        got.append(await channel.receive_value())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    channel.send_nowait(7)
    await wait_all_tasks_blocked()
    assert got == [7]


async def test_receive_value_at_a_quiet_end_is_the_end_of_the_channel() -> None:
    channel = csp.Channel[int](1)
    channel.close()
    with pytest.raises(csp.EndOfChannelError, match=r"there are no more values: the channel is closed$") as caught:
        await channel.receive_value()
    assert isinstance(caught.value, trio.EndOfChannel)
    assert (caught.value.kind, caught.value.retryable, caught.value.details) == (errors.UNAVAILABLE, False, {})


async def test_an_end_may_have_details() -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)
    channel.close(details={"code": 1000, "reason": "bye"})
    channel.close(details={"code": 1001})  # the first stays
    assert channel.cause is None
    assert [value async for value in channel] == [1]
    for _ in range(2):
        with pytest.raises(csp.EndOfChannelError, match=r"\(code 1000, reason 'bye'\)$") as caught:
            await channel.receive_value()
        assert caught.value.details == {"code": 1000, "reason": "bye"}
        with pytest.raises(csp.EndOfChannelError, match="bye"):
            await channel.receiver.receive()


async def test_receive_value_raises_a_cause_of_ours_anew() -> None:
    channel = csp.Channel[int]()
    cause = errors.ConnectionFailedError("gone", kind=errors.UNAVAILABLE, retryable=True, details={"code": 4001})
    channel.close(cause, details={"not": "told"})
    with pytest.raises(errors.ConnectionFailedError, match=r"^gone$") as caught:
        await channel.receive_value()
    assert caught.value is not cause
    assert caught.value.__cause__ is cause
    assert (caught.value.retryable, caught.value.details) == (True, {"code": 4001})


async def test_the_end_of_another_source_is_no_quiet_end_of_this_one() -> None:
    ended = csp.Channel[int]()
    ended.close(details={"code": 1000})
    channel = csp.Channel[int]()
    with pytest.raises(csp.EndOfChannelError) as relayed, channel:
        await channel.send(await ended.receive_value())
    for receive in (channel.receive_value, lambda: anext(channel)):
        with pytest.raises(csp.ChannelBrokenError, match="EndOfChannelError") as caught:
            await receive()
        assert caught.value.__cause__ is relayed.value


async def test_what_came_through_another_channel_has_its_first_cause() -> None:
    first, second, third = csp.Channel[int](), csp.Channel[int](), csp.Channel[int]()
    first.close(cause := OSError("broken"))
    for source, target in ((first, second), (second, third)):
        with pytest.raises(csp.ChannelBrokenError), target:
            await source.receive_value()
    with pytest.raises(csp.ChannelBrokenError, match=r"OSError\('broken'\)$") as caught:
        await third.receive_value()
    assert caught.value.__cause__ is cause


async def test_through_trios_interface_an_error_of_ours_comes_back_as_itself() -> None:
    channel = csp.Channel[int]()
    channel.close(cause := errors.Error("late", kind=errors.TIMEOUT))
    with pytest.raises(csp.ChannelBrokenError) as caught:
        await channel.receiver.receive()
    assert caught.value.__cause__ is cause
    async with csp.from_receive_channel(channel.receiver) as source:
        with pytest.raises(errors.Error, match=r"^late$"):
            await source.receive_value()


class UnspeakableError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("repr broken")


@pytest.mark.parametrize("cause", [ValueError("x" * 1_000_000), UnspeakableError()], ids=["huge", "unspeakable"])
async def test_a_cause_that_cannot_be_shown_is_still_the_cause(cause: Exception) -> None:
    channel = csp.Channel[int]()
    channel.close(cause)
    with pytest.raises(csp.ChannelBrokenError) as caught:
        await channel.receive_value()
    assert caught.value.__cause__ is cause
    assert len(str(caught.value)) < 1000
    assert type(cause).__name__ in str(caught.value)


async def test_details_are_a_copy() -> None:
    channel = csp.Channel[int]()
    details = {"code": 1000}
    channel.close(details=details)
    details["code"] = 1
    with pytest.raises(csp.EndOfChannelError) as caught:
        await channel.receive_value()
    assert caught.value.details == {"code": 1000}


def test_a_finalizer_that_closes_a_channel_while_it_is_opened_closes_it_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = csp.Channel[int](100)
    open_memory_channel = trio.open_memory_channel[int]

    class OpenAndCollect:
        def __class_getitem__(cls, _type: object) -> Any:
            channel.close()  # as a finalizer may, when the garbage collector runs here
            return open_memory_channel

    monkeypatch.setattr(trio, "open_memory_channel", OpenAndCollect)
    for value in (1, 2):
        with pytest.raises(csp.ChannelClosedError):
            channel.send_nowait(value)
    assert not channel.receive_nowait().ok


@pytest.mark.parametrize("values", [1, 2, 3])
def test_a_finalizer_that_sends_to_a_channel_while_it_is_opened_loses_nothing(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = csp.Channel[int](3)
    sent: list[int] = []
    open_memory_channel = trio.open_memory_channel[int]

    class OpenAndCollect:
        def __class_getitem__(cls, _type: object) -> Any:
            monkeypatch.undo()
            for value in range(values):
                channel.send_nowait(value)  # as a finalizer may, when the garbage collector runs here
                sent.append(value)
            return open_memory_channel

    monkeypatch.setattr(trio, "open_memory_channel", OpenAndCollect)
    with contextlib.suppress(trio.WouldBlock):
        channel.send_nowait(9)
        sent.append(9)
    assert len(channel) == len(sent) == min(values + 1, 3)
    assert [channel.receive_nowait().value for _ in sent] == sent
    assert len(channel) == 0
    channel.send_nowait(10)
    assert channel.receive_nowait() == (10, True)


async def test_a_cancelled_receive_value_loses_nothing(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](1)
    with trio.CancelScope() as scope:
        nursery.start_soon(channel.receive_value)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        scope.cancel()
        await trio.lowlevel.checkpoint()
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()
    channel.send_nowait(1)
    assert channel.receive_nowait() == (1, True)


@pytest.mark.parametrize("details", [5, "code", [("code", 1)]])
def test_details_that_are_no_mapping_are_refused(details: Any) -> None:
    channel = csp.Channel[int]()
    with pytest.raises(errors.InvalidTypeError, match="details must be a mapping or None"):
        channel.close(details=details)
    assert not channel.closed


# As a block ----------------------------------------------------------------------------------------------------------


async def test_a_block_closes_its_channel_behind_what_was_sent() -> None:
    with csp.Channel[int](2) as channel:
        await channel.send(1)
        assert not channel.closed
    assert channel.closed
    assert channel.cause is None
    assert [value async for value in channel] == [1]


async def test_the_failure_of_a_producer_that_somebody_catches_reaches_the_consumer(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    failure = OSError("disk full")

    async def produce() -> None:
        try:
            with channel:
                await channel.send(1)
                raise failure
        except OSError:
            pass  # logged

    nursery.start_soon(produce)
    got: list[int] = []
    with pytest.raises(csp.ChannelBrokenError) as caught:
        got.extend([value async for value in channel])  # the loop raises
    assert caught.value.__cause__ is failure
    assert channel.cause is failure


async def test_a_cancelled_block_does_not_pass_for_a_complete_one() -> None:
    channel = csp.Channel[int](1)
    with trio.CancelScope() as scope, channel:
        await channel.send(1)
        scope.cancel()
        await channel.send(2)
    assert scope.cancelled_caught
    assert isinstance(channel.cause, trio.Cancelled)
    assert await channel.receive() == (1, True)
    with pytest.raises(csp.ChannelBrokenError):
        await anext(channel)


async def test_a_block_leaves_a_channel_that_was_closed_before_as_it_is() -> None:
    channel = csp.Channel[int]()
    cause = OSError("first")
    with channel:
        channel.close(cause)
    assert channel.cause is cause


async def test_each_iteration_raises_a_fresh_error() -> None:
    channel = csp.Channel[int]()
    channel.close(errors.Error("late", kind=errors.TIMEOUT))
    caught: list[errors.Error] = []
    for _ in range(2):
        try:
            await anext(channel)
        except errors.Error as error:
            caught.append(error)
    assert len(caught) == 2
    assert caught[0] is not caught[1]


async def test_values_come_before_the_cause() -> None:
    channel = csp.Channel[Any](1)
    channel.send_nowait(1)
    channel.close(OSError("broken"))
    assert await anext(channel) == 1
    assert await channel.receive() == (None, False)


async def test_a_waiting_iteration_raises_the_cause() -> None:
    channel = csp.Channel[int]()
    cause = errors.Error("late", kind=errors.TIMEOUT)

    async def iterate() -> None:
        with pytest.raises(errors.Error, match="late") as caught:
            await anext(channel)
        assert caught.value.__cause__ is cause

    async with trio.open_nursery() as nursery:
        nursery.start_soon(iterate)
        await wait_all_tasks_blocked()
        channel.close(cause)


# Cases and counts -----------------------------------------------------------------------------------------------------


def test_receive_cases_are_equal_when_their_channels_are_the_same() -> None:
    one, other = csp.Channel[int](), csp.Channel[int]()
    assert one.case_receive() == one.case_receive()
    assert hash(one.case_receive()) == hash(one.case_receive())
    assert one.case_receive() != other.case_receive()
    assert one.case_receive() != one
    assert one.case_receive().channel is one


async def test_statistics_count_everything() -> None:
    channel = csp.Channel[int](2)
    assert channel.statistics() == csp.ChannelStatistics(0, 2, 0, 0, 0, 0, False)

    async def wait(operation: Callable[[], Any]) -> None:
        with trio.CancelScope():
            await operation()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait, channel.receive)
        nursery.start_soon(wait, lambda: csp.select(channel.case_receive()))
        await wait_all_tasks_blocked()
        assert channel.statistics().tasks_waiting_receive == 4
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        channel.send_nowait(1)
        channel.send_nowait(2)
        nursery.start_soon(channel.send, 3)
        nursery.start_soon(lambda: csp.select(channel.case_send(4)))
        await wait_all_tasks_blocked()
        with csp.Selector(channel.case_receive()):
            statistics = channel.statistics()
        assert (statistics.buffered, statistics.tasks_waiting_send, statistics.selectors) == (2, 2, 1)
        nursery.cancel_scope.cancel()
    channel.close()
    assert channel.statistics() == csp.ChannelStatistics(2, 2, 0, 0, 0, 0, True)


async def test_a_hundred_waiters_can_leave_in_any_order() -> None:
    channel = csp.Channel[int]()
    scopes = [trio.CancelScope() for _ in range(100)]

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            await channel.receive()

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(wait, scope)
        await wait_all_tasks_blocked()
        for left, scope in enumerate(scopes[::2] + scopes[1::2], start=1):
            scope.cancel()
            assert channel.statistics().tasks_waiting_receive == 100 - left


async def test_no_memory_channel_is_opened_before_a_value_is_buffered() -> None:
    channel = csp.Channel[int](3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.receive)
        await wait_all_tasks_blocked()
        await channel.send(1)
    assert channel._put is _not_open
    await channel.send(2)
    sender = cast("trio.MemorySendChannel[int]", cast("MethodType", channel._put).__self__)
    assert sender.statistics().max_buffer_size == 3


async def test_long_details_are_cut_in_the_text_of_an_end() -> None:
    ch = csp.Channel[int](1)
    ch.close(details={"reason": "\x1b\ufe0f" + "x" * 1000})
    with pytest.raises(csp.EndOfChannelError) as caught:
        await ch.receive_value()
    shown = r"(reason '\x1b\ufe0f" + "x" * 189 + "... (812 more characters))"
    assert str(caught.value).endswith(shown)
    assert caught.value.details == {"reason": "\x1b\ufe0f" + "x" * 1000}


# For drivers: when values were taken ----------------------------------------------------------------------------------


def draining(channel: csp.Channel[int], number: int) -> tuple[list[int], Callable[[], None]]:
    """Note how many are buffered, the value being taken among them, when the function is called."""
    calls: list[int] = []
    return calls, channel._call_when_drained(number, lambda: calls.append(len(channel)))


@pytest.mark.parametrize("number", [0, 1, 2, 4])
async def test_a_function_is_called_once_when_few_enough_values_stay(number: int) -> None:
    channel = csp.Channel[int](10)
    for value in range(5):
        channel.send_nowait(value)
    calls, _ = draining(channel, number)
    for value in range(4 - number):
        assert await channel.receive() == (value, True)
        assert calls == []
    for value in range(4 - number, 5):
        assert channel.receive_nowait() == (value, True)
        assert len(calls) == 1
    channel.send_nowait(5)
    assert (await csp.select(channel.case_receive())).value == 5
    channel.close()
    assert len(calls) == 1


async def test_a_value_that_a_waiting_sender_replaces_does_not_count(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](2)
    for value in range(2):
        channel.send_nowait(value)
    nursery.start_soon(channel.send, 2)
    await wait_all_tasks_blocked()
    calls, _ = draining(channel, 1)
    assert await channel.receive() == (0, True)
    assert calls == []
    assert await channel.receive() == (1, True)
    assert len(calls) == 1


@pytest.mark.parametrize("end", ["sender", "receiver"])
async def test_it_is_called_when_the_channel_is_closed(end: str) -> None:
    channel = csp.Channel[int](10)
    for value in range(5):
        channel.send_nowait(value)
    calls, _ = draining(channel, 0)
    await (channel.sender if end == "sender" else channel.receiver).aclose()
    assert len(calls) == 1


async def test_it_can_be_called_off() -> None:
    channel = csp.Channel[int](10)
    for value in range(3):
        channel.send_nowait(value)
    calls, call_off = draining(channel, 1)
    assert await channel.receive() == (0, True)
    call_off()
    assert [await channel.receive(), await channel.receive()] == [(1, True), (2, True)]
    channel.close()
    assert calls == []


# Finalizers, at moments that must be made here ------------------------------------------------------------------------


def before_each_check(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    """Do something once, where an operation that is ready asks whether it is cancelled."""
    check = trio.lowlevel.checkpoint_if_cancelled
    calls = [call]

    async def checkpoint_if_cancelled() -> None:
        while calls:
            calls.pop()()
        await check()

    monkeypatch.setattr("csp._core.channel.checkpoint_if_cancelled", checkpoint_if_cancelled)


@pytest.mark.parametrize("buffered", [0, 1])
async def test_a_send_waits_if_a_finalizer_fills_the_buffer_just_before(
    buffered: int, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    channel = csp.Channel[int](2)
    for value in range(buffered):
        channel.send_nowait(value)

    def fill() -> None:
        for value in range(buffered, 2):
            channel.send_nowait(value)

    before_each_check(monkeypatch, fill)
    nursery.start_soon(channel.send, 2)
    await wait_all_tasks_blocked()
    assert (len(channel), channel.statistics().tasks_waiting_send) == (2, 1)
    assert [(await channel.receive()).value for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("buffered", [False, True])
async def test_a_receive_waits_if_a_finalizer_takes_the_value_just_before(
    buffered: bool, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    channel = csp.Channel[int](int(buffered))
    received: list[int] = []

    async def receive() -> None:
        received.append((await channel.receive()).value)

    nursery.start_soon(channel.send, 1)
    await wait_all_tasks_blocked()
    before_each_check(monkeypatch, channel.receive_nowait)
    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    assert received == []
    await channel.send(2)
    await wait_all_tasks_blocked()
    assert received == [2]


def test_a_finalizer_that_sends_while_the_last_receiver_just_leaves_buffers_the_value() -> None:
    channel = csp.Channel[int](1)
    channel._receivers = OrderedDict()
    channel.send_nowait(1)
    assert channel.receive_nowait() == (1, True)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("operation", ["send", "receive"])
async def test_a_channel_that_is_closed_just_before_a_task_waits_tells_it(
    operation: str, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = csp.Channel[int]()
    ends: list[object] = []

    class ClosingSendWaiter(SendWaiter):
        def __init__(self, channel: Any, value: object) -> None:
            super().__init__(channel, value)
            channel.close()

    class ClosingReceiveWaiter(ReceiveWaiter):
        def __init__(self, source: Any) -> None:
            super().__init__(source)
            source.close()

    async def run() -> None:
        try:
            if operation == "send":
                await channel.send(1)
            ends.append(await channel.receive())
        except csp.ChannelClosedError:
            ends.append((None, False))

    async with trio.open_nursery() as nursery:
        for _ in range(others):
            nursery.start_soon(run)
        await wait_all_tasks_blocked()
        monkeypatch.setattr("csp._core.channel.SendWaiter", ClosingSendWaiter)
        monkeypatch.setattr("csp._core.channel.ReceiveWaiter", ClosingReceiveWaiter)
        nursery.start_soon(run)
    assert ends == [(None, False)] * (others + 1)
    assert (channel.statistics().tasks_waiting_receive, channel.statistics().tasks_waiting_send) == (0, 0)


async def test_a_channel_that_is_closed_just_before_a_select_waits_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = csp.Channel[int]()

    class ClosingWaiter(SelectWaiter):
        def __init__(self, cases: Any, priority: bool) -> None:
            super().__init__(cases, priority)
            channel.close()

    monkeypatch.setattr("csp._core.select.SelectWaiter", ClosingWaiter)
    result = await csp.select(csp.Channel[int]().case_receive(), channel.case_receive())
    assert (result.channel, result.ok) == (channel, False)


async def test_a_selector_that_is_made_just_before_a_send_waits_is_told(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    channel = csp.Channel[int]()
    selectors: list[csp.Selector[int]] = []

    class SelectingWaiter(SendWaiter):
        def __init__(self, channel: Any, value: object) -> None:
            super().__init__(channel, value)
            selectors.append(csp.Selector(channel))

    monkeypatch.setattr("csp._core.channel.SendWaiter", SelectingWaiter)
    nursery.start_soon(channel.send, 1)
    await wait_all_tasks_blocked()
    assert (await selectors[0].select()).value == 1


async def test_a_value_that_a_finalizer_takes_as_the_task_is_woken_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class InterruptedWaiter(ReceiveWaiter):
        def __init__(self, source: csp.Source[Any]) -> None:
            super().__init__(source)
            monkeypatch.undo()
            channel.send_nowait(1)

        def take(self) -> None:
            taken.append(channel.receive_nowait().value)
            super().take()

    channel, taken = csp.Channel[int](1), list[int]()
    monkeypatch.setattr("csp._core.channel.ReceiveWaiter", InterruptedWaiter)
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            taken.append((await channel.receive()).value)

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert taken == [1]
        channel.send_nowait(2)
    assert taken == [1, 2]
