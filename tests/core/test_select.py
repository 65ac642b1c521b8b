"""Select: which case is performed, when, and that it is exactly one. What waits is also in ``test_waiting.py``."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import errors
from csp._core import select

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from csp import Channel, SelectResult


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Make the random choices the same in every run."""
    state = select._rng.getstate()
    select._rng.seed(20_240)
    yield
    select._rng.setstate(state)


def holding(*values: int, capacity: int = 10_000) -> Channel[int]:
    channel = csp.Channel[int](capacity)
    for value in values:
        channel.send_nowait(value)
    return channel


# One case of several --------------------------------------------------------------------------------------------------


async def test_the_result_tells_channel_value_and_position() -> None:
    empty, ready = csp.Channel[int](), holding(7)
    result = await csp.select(empty.case_receive(), ready.case_receive())
    assert result.channel is ready
    assert (result.value, result.ok, result.default, result.index, result.sent) == (7, True, False, 1, False)


async def test_the_result_is_immutable() -> None:
    result = await csp.select(holding(1).case_receive())
    with pytest.raises(AttributeError):
        result.value = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_send_case_returns_its_own_value() -> None:
    channel = csp.Channel[int](1)
    result = await csp.select(channel.case_send(7))
    assert result == (channel, 7, True, False, 0, True)
    assert channel.receive_nowait() == (7, True)


async def test_only_the_chosen_case_is_performed() -> None:
    left, right, room = holding(1), holding(2), csp.Channel[int](1)
    result = await csp.select(left.case_receive(), right.case_receive(), room.case_send(3))
    assert len(left) + len(right) + (1 - len(room)) == 2
    assert (len(left) == 0, len(right) == 0, len(room) == 1)[result.index]


async def test_only_the_woken_case_is_performed() -> None:
    left, right, out = csp.Channel[int](1), csp.Channel[int](1), csp.Channel[int]()
    results: list[SelectResult[int]] = []

    async def select() -> None:
        results.append(await csp.select(left.case_receive(), right.case_receive(), out.case_send(3)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        right.send_nowait(2)
        left.send_nowait(1)
        with pytest.raises(trio.WouldBlock):
            out.receive_nowait()
    assert results == [(right, 2, True, False, 1, False)]
    assert left.receive_nowait() == (1, True)


async def test_a_closed_channel_is_ready_without_a_value() -> None:
    channel = csp.Channel[Any]()
    channel.close()
    assert await csp.select(channel.case_receive()) == (channel, None, False, False, 0, False)


async def test_a_chosen_send_on_a_closed_channel_is_an_error() -> None:
    channel = csp.Channel[int](1)
    cause = OSError("broken")
    channel.close(cause)
    with pytest.raises(csp.ChannelClosedError) as caught:
        await csp.select(channel.case_send(1), default=True)
    assert caught.value.__cause__ is cause


async def test_a_send_on_a_closed_channel_that_is_not_chosen_is_no_error() -> None:
    closed = csp.Channel[int]()
    closed.close()
    result = await csp.select(holding(1).case_receive(), closed.case_send(1), priority=True)
    assert result.index == 0


async def test_a_close_wakes_a_select_with_several_sends() -> None:
    first, second = csp.Channel[int](), csp.Channel[int]()

    async def select() -> None:
        with pytest.raises(csp.ChannelClosedError) as caught:
            await csp.select(first.case_send(1), second.case_send(2))
        assert caught.value.__cause__ is cause

    cause = OSError("broken")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        second.close(cause)
    assert first.statistics().tasks_waiting_send == 0


# Default, none, nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", [False, True])
async def test_default_when_nothing_is_ready(priority: bool) -> None:
    empty, full = csp.Channel[Any](), holding(1, capacity=1)
    result = await csp.select(empty.case_receive(), full.case_send(2), None, default=True, priority=priority)
    assert result == (None, None, True, True, -1, False)
    assert empty.statistics().tasks_waiting_receive == 0
    assert full.statistics().tasks_waiting_send == 0


async def test_default_is_not_taken_when_something_is_ready() -> None:
    result = await csp.select(csp.Channel[int]().case_receive(), holding(1).case_receive(), default=True)
    assert not result.default
    assert result.index == 1


async def test_default_without_cases() -> None:
    assert (await csp.select(default=True)).default


async def test_default_in_a_cancelled_scope_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await csp.select(default=True)
    assert scope.cancelled_caught


async def test_none_is_never_ready() -> None:
    for _ in range(50):
        assert (await csp.select(None, holding(1).case_receive(), None)).index == 1


@pytest.mark.parametrize("cases", [(), (None,), (None, None, None)])
async def test_without_a_case_it_waits_until_cancelled(
    cases: tuple[None, ...], autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(1000) as scope:
        await csp.select(*cases)
    assert scope.cancelled_caught
    assert trio.current_time() == 1000


@pytest.mark.parametrize("case", [3, "x", object(), ReferenceError])
async def test_anything_else_is_a_type_error_that_names_the_position(case: Any) -> None:
    channel = holding(1)
    with pytest.raises(errors.InvalidTypeError, match="argument 1 of select must be a case or None"):
        await csp.select(channel.case_receive(), case)
    assert len(channel) == 1


async def test_a_channel_instead_of_a_case_is_told_what_to_write() -> None:
    channel: Any = holding(1)
    with pytest.raises(TypeError, match=r"argument 0 of select .*; write channel\.case_receive\(\)"):
        await csp.select(channel, default=True)
    assert len(channel) == 1


# The choice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [2, 3, 8])
async def test_ready_receives_are_chosen_uniformly(ways: int) -> None:
    channels = [holding(*range(2000)) for _ in range(ways)]
    chosen = Counter(
        [(await csp.select(*(channel.case_receive() for channel in channels))).index for _ in range(300 * ways)]
    )
    assert all(200 < chosen[index] < 400 for index in range(ways)), chosen


async def test_the_choice_is_uniform_with_few_ready_among_many() -> None:
    idle = csp.Channel[int]()
    ready = {3, 4, 11}
    cases = [(holding(*range(2000)) if index in ready else idle).case_receive() for index in range(12)]
    chosen = Counter([(await csp.select(*cases)).index for _ in range(900)])
    assert chosen.keys() == ready
    assert all(200 < count < 400 for count in chosen.values()), chosen


async def test_sends_and_receives_are_chosen_uniformly() -> None:
    source, sink = holding(*range(2000)), csp.Channel[int](2000)
    chosen = Counter([(await csp.select(source.case_receive(), None, sink.case_send(1))).index for _ in range(600)])
    assert chosen.keys() == {0, 2}
    assert 200 < chosen[0] < 400


async def test_one_channel_in_two_ready_cases_counts_twice() -> None:
    channel, other = holding(*range(2000)), holding(*range(2000))
    cases = [channel.case_receive(), channel.case_receive(), other.case_receive()]
    chosen = Counter([(await csp.select(*cases)).index for _ in range(900)])
    assert all(200 < chosen[index] < 400 for index in range(3)), chosen


@pytest.mark.parametrize("how", ["receive", "send", "close"])
async def test_parked_cases_on_one_channel_are_chosen_uniformly(how: str) -> None:
    chosen: Counter[int] = Counter()

    async def select(channel: Channel[int]) -> None:
        if how == "receive":
            chosen[(await csp.select(*[channel.case_receive()] * 3)).index] += 1
        elif how == "send":
            result = await csp.select(*(channel.case_send(value) for value in range(3)))
            assert result.value == result.index
            chosen[result.index] += 1
        else:
            try:
                result = await csp.select(channel.case_receive(), channel.case_send(1), channel.case_receive())
            except csp.ChannelClosedError:
                chosen[1] += 1
            else:
                assert not result.ok
                chosen[result.index] += 1

    for _ in range(300):
        channel = csp.Channel[int]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(select, channel)
            await wait_all_tasks_blocked()
            if how == "receive":
                channel.send_nowait(1)
            elif how == "send":
                channel.receive_nowait()
            else:
                channel.close()
    assert all(60 < chosen[index] < 140 for index in range(3)), chosen


async def test_priority_takes_the_first_that_is_ready() -> None:
    first, second, third = csp.Channel[int](1), csp.Channel[int](), holding(*range(100))
    second.close()
    for _ in range(50):
        result = await csp.select(
            first.case_receive(), None, second.case_receive(), third.case_receive(), priority=True
        )
        assert result.index == 2
    first.send_nowait(1)
    result = await csp.select(first.case_receive(), None, second.case_receive(), priority=True)
    assert result.index == 0


async def test_priority_holds_for_sends() -> None:
    sink, source = csp.Channel[int](50), holding(*range(100))
    for _ in range(50):
        assert (await csp.select(sink.case_send(1), source.case_receive(), priority=True)).index == 0
    assert (await csp.select(sink.case_send(1), source.case_receive(), priority=True)).index == 1


# The same channel, several times, both ways ---------------------------------------------------------------------------


async def test_a_select_never_serves_itself() -> None:
    channel = csp.Channel[int]()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: csp.select(channel.case_send(1), channel.case_receive()))
            await wait_all_tasks_blocked()
            statistics = channel.statistics()
            assert (statistics.tasks_waiting_send, statistics.tasks_waiting_receive) == (1, 1)
            scope.cancel()
    statistics = channel.statistics()
    assert (statistics.tasks_waiting_send, statistics.tasks_waiting_receive) == (0, 0)


async def test_two_selects_that_send_and_receive_serve_each_other() -> None:
    channel = csp.Channel[int]()
    results: dict[int, SelectResult[int]] = {}

    async def select(value: int) -> None:
        results[value] = await csp.select(channel.case_send(value), channel.case_receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select, 1)
        nursery.start_soon(select, 2)
    assert sorted(result.index for result in results.values()) == [0, 1]
    assert results[1].value == results[2].value
    statistics = channel.statistics()
    assert (statistics.tasks_waiting_send, statistics.tasks_waiting_receive) == (0, 0)


@pytest.mark.parametrize("how", ["receive", "send", "close"])
async def test_a_select_in_both_queues_leaves_both_when_served(how: str) -> None:
    channel = csp.Channel[int]()

    async def select() -> None:
        try:
            await csp.select(channel.case_send(1), channel.case_receive())
        except csp.ChannelClosedError:
            assert how == "close"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        if how == "receive":
            assert channel.receive_nowait() == (1, True)
        elif how == "send":
            channel.send_nowait(2)
        else:
            channel.close()
        statistics = channel.statistics()
        assert (statistics.tasks_waiting_send, statistics.tasks_waiting_receive) == (0, 0)


async def test_a_select_against_a_select() -> None:
    channel, idle = csp.Channel[int](), csp.Channel[int]()
    received: list[int] = []

    async def produce() -> None:
        for value in range(20):
            await csp.select(idle.case_receive(), channel.case_send(value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for _ in range(20):
            result = await csp.select(idle.case_receive(), channel.case_receive())
            received.append(result.value)
    assert received == list(range(20))


async def test_a_second_waiter_is_served_when_a_select_is_served_elsewhere() -> None:
    shared, other = csp.Channel[int](), csp.Channel[int]()
    received: list[int] = []

    async def select() -> None:
        received.append((await csp.select(shared.case_receive(), other.case_receive())).value)

    async def receive() -> None:
        received.append((await shared.receive()).value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        other.send_nowait(1)
        shared.send_nowait(2)
    assert sorted(received) == [1, 2]


async def test_a_select_sends_to_a_parked_selector() -> None:
    channel = csp.Channel[int]()
    results: list[SelectResult[int]] = []

    async def run() -> None:
        with csp.Selector(channel.case_receive()) as selector:
            results.append(await selector.select())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        assert not (await csp.select(channel.case_send(5), default=True)).default
    assert results == [(channel, 5, True, False, 0, False)]


async def test_a_parked_send_case_makes_the_channel_ready_for_a_selector() -> None:
    channel = csp.Channel[int]()
    with csp.Selector(channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: csp.select(channel.case_send(5), csp.never().case_receive()))
            await wait_all_tasks_blocked()
            assert await selector.select() == (channel, 5, True, False, 0, False)


async def test_a_thousand_selects_leave_nothing_behind_on_a_quiet_channel() -> None:
    quiet, busy = csp.Channel[int](), csp.Channel[int]()

    async def produce() -> None:
        for value in range(100):
            await wait_all_tasks_blocked()
            busy.send_nowait(value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for value in range(100):
            assert (await csp.select(quiet.case_receive(), busy.case_receive())).value == value
            assert quiet.statistics().tasks_waiting_receive == 0


async def test_a_cancelled_select_keeps_no_value_alive() -> None:
    class Value:
        pass

    channel = csp.Channel[Value]()
    value = Value()
    reference = weakref.ref(value)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(csp.select, channel.case_send(value))
        del value
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    del nursery
    gc.collect()
    assert reference() is None


async def test_a_select_that_could_serve_itself_takes_the_timer_that_is_due(autojump_clock: MockClock) -> None:
    channel = csp.Channel[int]()
    timeout = csp.after("1s")
    r = await csp.select(channel.case_send(1), channel.case_receive(), timeout.case_receive())
    assert (r.channel, r.value) == (timeout, 1.0)
    statistics = channel.statistics()
    assert (statistics.tasks_waiting_send, statistics.tasks_waiting_receive) == (0, 0)


async def test_a_parked_select_of_both_directions_tells_which_it_was(nursery: trio.Nursery) -> None:
    channel = csp.Channel[str]()
    results: list[Any] = []

    async def select() -> None:
        results.append(await csp.select(channel.case_send("sent"), channel.case_receive()))

    for _ in range(20):
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        channel.send_nowait("received")
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        channel.receive_nowait()
    await wait_all_tasks_blocked()
    assert {(result.index, result.value) for result in results} == {(1, "received"), (0, "sent")}


async def test_with_priority_nobody_behind_the_first_that_is_ready_is_asked() -> None:
    class Asked(csp.Source[int]):
        asked = 0

        def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002
            self.asked += 1
            return False

        def receive_nowait(self) -> csp.Received[int]:
            raise trio.WouldBlock

    source, channel = Asked(), csp.Channel[int](1)
    channel.send_nowait(1)
    await csp.select(channel.case_receive(), source.case_receive(), priority=True)
    assert source.asked == 0


async def test_a_source_that_raises_when_it_is_received_from_starves_nobody() -> None:
    class Broken(csp.Source[int]):
        def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002
            return True

        def receive_nowait(self) -> csp.Received[int]:
            raise OSError("broken")

    source = Broken()
    steps = 0

    async def count() -> None:
        nonlocal steps
        while True:
            steps += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for _ in range(20 * csp.OPERATIONS_PER_SCHEDULE_POINT):
            with pytest.raises(OSError, match="broken"):
                await csp.select(source.case_receive())
        nursery.cancel_scope.cancel()
    assert steps >= 18
