"""Tests of ``csp._sources.adapters``."""

from __future__ import annotations

import math
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator

    from trio.testing import MockClock

ENDED: object = (None, False)


# Receive channels -----------------------------------------------------------------------------------------------------


async def test_a_memory_channels_values_come_in_order_and_end() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:

        async def send() -> None:
            async with sender:
                for value in range(100):
                    await sender.send(value)

        nursery.start_soon(send)
        assert [value async for value in source] == list(range(100))
        assert source.cause is None
    with pytest.raises(trio.EndOfChannel):
        receiver.receive_nowait()


async def test_what_a_memory_channel_buffers_is_ready_at_once_and_stays_there_until_it_is_received() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    for value in range(3):
        sender.send_nowait(value)
    async with csp.from_receive_channel(receiver) as source:
        r = await csp.select(source.case_receive(), default=True)
        assert (r.channel, r.value) == (source, 0)
        other = csp.Channel[str](1)
        other.send_nowait("first")
        assert (await csp.select(other.case_receive(), source.case_receive(), priority=True)).value == "first"
        await wait_all_tasks_blocked()
        assert receiver.statistics().current_buffer_used == 2
        assert source.receive_nowait() == (1, True)
    assert receiver.receive_nowait() == 2


async def test_a_memory_channels_sender_that_waits_is_ready() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, 1)
        await wait_all_tasks_blocked()
        assert source.receive_nowait() == (1, True)


async def test_a_memory_channel_that_was_closed_unnoticed_is_ready() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source:
        sender.close()
        first, second = (csp.Selector(source.case_receive()) for _ in range(2))
        assert source.receive_nowait() == ENDED
        assert (await first.select()).ok is False
        assert (await second.select()).ok is False
        assert (source.closed, source.cause) == (True, None)


async def test_a_memory_channel_closed_at_this_end_is_the_cause() -> None:
    sender, receiver = trio.open_memory_channel[int](1)
    clone = receiver.clone()
    async with csp.from_receive_channel(receiver) as source, csp.from_receive_channel(clone) as another:
        clone.close()
        assert await another.receive() == ENDED
        assert isinstance(another.cause, trio.ClosedResourceError)
        receiver.close()
        sender.close()
        assert source.receive_nowait() == ENDED
        assert isinstance(source.cause, trio.ClosedResourceError)


async def test_while_the_task_waits_in_the_memory_channel_nobody_overtakes_it() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    async with csp.from_receive_channel(receiver) as source:
        assert (await csp.select(source.case_receive(), default=True)).default
        await wait_all_tasks_blocked()
        for value in range(3):
            sender.send_nowait(value)
        # The task has the first value but has not run yet.
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()
        assert [(await source.receive()).value for _ in range(3)] == [0, 1, 2]


async def test_several_receivers_of_a_memory_channel_are_served_at_once_and_told_of_its_end() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    received: dict[int, object] = {}

    async def receive(number: int) -> None:
        received[number] = await source.receive()

    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(receive, number)
            await wait_all_tasks_blocked()
        sender.send_nowait(1)
        sender.send_nowait(2)
        sender.close()
    assert received == {0: (1, True), 1: (2, True), 2: ENDED, 3: ENDED}


async def test_selectors_share_a_memory_channel() -> None:
    sender, receiver = trio.open_memory_channel[int](math.inf)
    received: list[int] = []
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:

        async def collect() -> None:
            with csp.Selector(source.case_receive()) as selector:
                received.extend([r.value async for r in selector if r.ok])

        for _ in range(3):
            nursery.start_soon(collect)
        for value in range(200):
            sender.send_nowait(value)
            if value % 7 == 0:
                await wait_all_tasks_blocked()
        sender.close()
    assert sorted(received) == list(range(200))


async def test_any_receive_channel_will_do_ours_too() -> None:
    channel = csp.Channel[int](10)
    error = KeyError("why")
    channel.send_nowait(1)
    channel.close(error)
    async with csp.from_receive_channel(channel.receiver) as source:
        assert await source.receive() == (1, True)
        assert await source.receive() == ENDED
    assert isinstance(source.cause, trio.BrokenResourceError)
    assert source.cause.__cause__ is error


async def test_a_select_that_polls_sees_a_memory_channels_sender_that_waits() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, 1)
        await wait_all_tasks_blocked()
        assert (await csp.select(source.case_receive(), default=True)).value == 1


async def test_a_selector_goes_on_after_another_receiver_has_emptied_the_memory_channel() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    clone = receiver.clone()
    sender.send_nowait(1)
    async with csp.from_receive_channel(receiver) as source:
        with csp.Selector(source.case_receive()) as selector, trio.fail_after(5):
            assert clone.receive_nowait() == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, 2)
                assert (await selector.select()).value == 2


async def test_a_memory_channel_that_ends_while_it_is_looked_at_is_at_its_end() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source:
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()
        sender.close()
        await wait_all_tasks_blocked()
        assert source.receive_nowait() == ENDED


# Async iterables ------------------------------------------------------------------------------------------------------


async def test_an_async_generator_runs_only_when_somebody_asks() -> None:
    reached = 0

    async def numbers() -> AsyncGenerator[int]:
        nonlocal reached
        for number in range(3):
            reached = number
            yield number

    async with csp.from_async_iterable(numbers()) as source:
        assert await source.receive() == (0, True)
        await wait_all_tasks_blocked()
        assert reached == 0
        assert [value async for value in source] == [1, 2]


async def test_an_async_generator_that_raises_is_the_cause_behind_what_it_gave() -> None:
    error = KeyError("broken")

    async def numbers() -> AsyncGenerator[int]:
        yield 1
        raise error

    async with csp.from_async_iterable(numbers()) as source:
        assert await source.receive() == (1, True)
        assert await source.receive() == ENDED
        assert source.cause is error


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_async_generator_is_closed_at_the_end_of_the_block(cancelled: bool) -> None:
    events: list[str] = []

    async def numbers() -> AsyncGenerator[int]:
        task = trio.lowlevel.current_task()
        try:
            yield 1
        finally:
            assert trio.lowlevel.current_task() is task
            events.append("closing")
            await trio.lowlevel.checkpoint()
            events.append("cleaned up")

    with trio.CancelScope() as scope:
        async with csp.from_async_iterable(numbers()) as source:
            assert await source.receive() == (1, True)
            if cancelled:
                scope.cancel()
        events.append("left")
    assert events == (["closing"] if cancelled else ["closing", "cleaned up", "left"])


async def test_an_async_generator_that_is_at_work_is_cancelled_and_may_clean_up() -> None:
    events: list[str] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            await trio.sleep_forever()
            yield 1
        except trio.Cancelled:
            events.append("cancelled")
            raise

    async with csp.from_async_iterable(numbers()) as source:
        await csp.select(source.case_receive(), default=True)
        await wait_all_tasks_blocked()
    assert events == ["cancelled"]
    assert await source.receive() == ENDED


async def test_what_an_async_generator_raises_while_it_is_closed_comes_out_of_the_block() -> None:
    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            raise KeyError("cleaning up")

    async def block() -> None:
        async with csp.from_async_iterable(numbers()) as source:
            await source.receive()

    with pytest.raises(KeyError, match="cleaning up"):
        await block()


class Countdown:
    """An async iterable that is no generator."""

    def __init__(self, start: int) -> None:
        self.left = start

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        await trio.lowlevel.checkpoint()
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left


async def test_any_async_iterable_will_do() -> None:
    async with csp.from_async_iterable(Countdown(3)) as source:
        assert [value async for value in source] == [2, 1, 0]


async def test_a_source_is_closed_though_cleaning_up_fails() -> None:
    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            raise KeyError("cleaning up")

    source = csp.from_async_iterable(numbers())

    async def block() -> None:
        async with source:
            await source.receive()

    with pytest.raises(KeyError, match="cleaning up"):
        await block()
    assert source.receive_nowait() == ENDED


@contextmanager
def deadline_around() -> Generator[None]:
    with trio.move_on_after(1):
        yield


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_async_generator_may_have_blocks_around_its_yield(autojump_clock: MockClock, cancelled: bool) -> None:
    async def numbers() -> AsyncGenerator[int]:
        async with trio.open_nursery() as nursery, csp.BackgroundNursery() as background:
            nursery.start_soon(trio.sleep_forever)
            background.start_soon(trio.sleep_forever)
            with trio.CancelScope():
                yield 1
                yield 2

    source = csp.from_async_iterable(numbers())
    with trio.CancelScope() as scope:
        async with source:
            assert await source.receive() == (1, True)
            if cancelled:
                scope.cancel()
    assert await source.receive() == ENDED
    await trio.sleep(1)


async def test_a_deadline_inside_an_async_generator_is_for_the_generator(autojump_clock: MockClock) -> None:
    async def numbers() -> AsyncGenerator[int]:
        with deadline_around():
            yield 1
            await trio.sleep_forever()
        yield 2

    async with csp.from_async_iterable(numbers()) as source:
        assert await source.receive() == (1, True)
        await trio.sleep(5)
        assert await source.receive() == (2, True)
        assert await source.receive() == ENDED


async def test_an_async_generator_that_was_asked_and_has_not_begun_is_closed_and_not_cancelled() -> None:
    cleaned_up = False

    async def numbers() -> AsyncGenerator[int]:
        nonlocal cleaned_up
        try:
            yield 1
        finally:
            await trio.lowlevel.checkpoint()
            cleaned_up = True

    async with csp.from_async_iterable(numbers()) as source:
        await source.receive()
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()
    assert cleaned_up


async def test_a_group_raised_while_an_async_generator_is_closed_comes_out_without_what_closed_it() -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("cleaning up")

    async def numbers() -> AsyncGenerator[int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield 1

    async def block() -> None:
        async with csp.from_async_iterable(numbers()) as source:
            await source.receive()

    with pytest.raises(ExceptionGroup) as caught:
        await block()
    assert caught.value.subgroup(KeyError) is not None


async def test_the_end_of_a_channel_that_an_async_generator_lets_out_is_its_error() -> None:
    async def numbers() -> AsyncGenerator[int]:
        sender, receiver = trio.open_memory_channel[int](0)
        sender.close()
        yield await receiver.receive()

    async with csp.from_async_iterable(numbers()) as source:
        assert await source.receive() == ENDED
    assert isinstance(source.cause, trio.EndOfChannel)


# Streams --------------------------------------------------------------------------------------------------------------


async def test_a_streams_bytes_come_in_pieces_and_end() -> None:
    ours, theirs = memory_stream_pair()
    async with csp.from_stream(ours, max_bytes=4) as source:
        await theirs.send_all(b"abcdefghij")
        await theirs.send_eof()
        assert [piece async for piece in source] == [b"abcd", b"efgh", b"ij"]
        assert source.cause is None
    await ours.send_all(b"still open")


async def test_a_stream_is_read_only_when_somebody_asks() -> None:
    ours, theirs = memory_stream_pair()
    async with csp.from_stream(ours) as source:
        await theirs.send_all(b"first")
        assert await source.receive() == (b"first", True)
        await theirs.send_all(b"second")
        await wait_all_tasks_blocked()
    assert bytes(await ours.receive_some()) == b"second"


async def test_a_stream_that_breaks_is_the_cause() -> None:
    ours, _theirs = memory_stream_pair()
    async with csp.from_stream(ours) as source:
        await ours.aclose()
        assert await source.receive() == ENDED
    assert isinstance(source.cause, trio.ClosedResourceError)


async def test_a_streams_pieces_are_bytes() -> None:
    ours, theirs = memory_stream_pair()
    async with csp.from_stream(ours) as source:
        await theirs.send_all(b"abc")
        assert type((await source.receive()).value) is bytes


# Events ---------------------------------------------------------------------------------------------------------------


async def test_an_event_closes_its_source() -> None:
    event = trio.Event()
    async with csp.from_event(event) as stop:
        assert (await csp.select(stop.case_receive(), default=True)).default
        with pytest.raises(trio.WouldBlock):
            stop.receive_nowait()
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                r = await csp.select(stop.case_receive(), csp.Channel[int]().case_receive())
                assert (r.channel, r.ok) == (stop, False)

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            event.set()
        assert await stop.receive() == ENDED
        assert stop.closed


async def test_an_event_that_is_set_is_ready_at_once_and_stays_so() -> None:
    event = trio.Event()
    async with csp.from_event(event) as stop:
        event.set()
        for _ in range(2):
            assert (await csp.select(stop.case_receive(), default=True)).ok is False
        with csp.Selector(stop.case_receive(), csp.Channel[int]().case_receive()) as selector:
            assert (await selector.select()).ok is False
            assert len(selector) == 1


async def test_who_waits_for_an_event_is_told_though_another_saw_it_first() -> None:
    event = trio.Event()
    async with csp.from_event(event) as stop, trio.open_nursery() as nursery:
        nursery.start_soon(stop.receive)
        await wait_all_tasks_blocked()
        event.set()
        assert stop.receive_nowait() == ENDED


# Signals --------------------------------------------------------------------------------------------------------------


async def test_a_signal_is_received_and_does_nothing_else() -> None:
    async with csp.from_signals(signal.SIGINT, signal.SIGTERM) as signals:
        signal.raise_signal(signal.SIGTERM)
        r = await csp.select(signals.case_receive(), csp.never().case_receive())
        assert r.value == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert await signals.receive() == (signal.SIGINT, True)


@pytest.mark.parametrize("fetched", [False, True])
def test_a_signal_that_nobody_received_is_raised_again_at_the_end(fetched: bool) -> None:
    left = False

    async def main() -> None:
        nonlocal left
        async with csp.from_signals(signal.SIGINT) as signals:
            if fetched:
                await csp.select(signals.case_receive(), default=True)
            signal.raise_signal(signal.SIGINT)
            await wait_all_tasks_blocked()
            assert not signals.closed
        left = True
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert left


async def test_signals_need_pythons_main_thread_and_leave_nothing_behind() -> None:
    def in_another_thread() -> None:
        async def enter() -> None:
            async with csp.from_signals(signal.SIGTERM):
                raise AssertionError

        trio.run(enter)

    with pytest.raises(RuntimeError, match="main thread"):
        await trio.to_thread.run_sync(in_another_thread)


async def test_entered_twice_signals_keep_their_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    source = csp.from_signals(signal.SIGTERM)
    async with source:
        with pytest.raises(csp.errors.NoContextError):
            await source.__aenter__()
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "argument", "text"),
    [
        (csp.from_receive_channel, 3, "channel must be a trio.abc.ReceiveChannel, not 3"),
        (csp.from_receive_channel, csp.Channel[int](), "which is a source already"),
        (csp.from_async_iterable, [1], r"iterable must be async iterable, not \[1\]"),
        (csp.from_stream, None, "stream must be a trio.abc.ReceiveStream, not None"),
        (csp.from_event, "set", "event must be a trio.Event, not 'set'"),
    ],
)
def test_something_else_is_refused(make: Any, argument: object, text: str) -> None:
    with pytest.raises(InvalidTypeError, match=text):
        make(argument)


def test_options_out_of_range_are_refused() -> None:
    ours, _ = memory_stream_pair()
    with pytest.raises(InvalidError, match="max_bytes must be at least 1, not 0"):
        csp.from_stream(ours, 0)
    with pytest.raises(InvalidTypeError, match="max_bytes must be a whole number, not True"):
        csp.from_stream(ours, True)
    with pytest.raises(InvalidTypeError, match="at least one signal"):
        csp.from_signals()
    with pytest.raises(InvalidTypeError, match=r"a signal must be a number such as signal\.SIGTERM, not 'SIGTERM'"):
        csp.from_signals("SIGTERM")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for number in (9999, signal.SIGKILL):
        with pytest.raises(InvalidError, match=f"there is no signal {int(number)} that can be received here"):
            csp.from_signals(number)
