"""`PullSource`: a value is fetched only when somebody asks, and none is lost."""

from __future__ import annotations

import gc
import signal
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import csp
from csp.errors import ChannelBrokenError, InvalidTypeError, NoContextError
from tests._interrupting import interrupted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

ENDED: object = (None, False)


class Numbers:
    """Gives 1, 2, 3, ... up to a last one; counts the calls, and may have to be let go on."""

    def __init__(self, last: int = 1000, *, waits: bool = False) -> None:
        self.last = last
        self.calls = 0
        self.given = 0
        self.cancelled = 0
        self._waits = waits
        self._go = csp.Channel[None](1000)

    async def __call__(self) -> int:
        self.calls += 1
        try:
            if self._waits:
                await self._go.receive()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.given == self.last:
            raise trio.EndOfChannel
        self.given += 1
        return self.given

    def go_on(self) -> None:
        self._go.send_nowait(None)


async def test_gives_the_values_and_ends() -> None:
    async with csp.PullSource(Numbers(3)) as source:
        assert [value async for value in source] == [1, 2, 3]
        assert await source.receive() == ENDED
        assert source.closed
        assert source.cause is None


async def test_nothing_is_fetched_before_somebody_asks() -> None:
    numbers = Numbers()
    async with csp.PullSource(numbers) as source:
        await wait_all_tasks_blocked()
        assert numbers.calls == 0
        assert await source.receive() == (1, True)
        await wait_all_tasks_blocked()
        assert numbers.calls == 1


async def test_what_comes_after_a_select_went_another_way_is_held() -> None:
    numbers = Numbers(waits=True)
    other = csp.Channel[str](1)
    async with csp.PullSource(numbers) as source:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(csp.select, source.case_receive(), other.case_receive())
            await wait_all_tasks_blocked()
            await other.send("this way")
        numbers.go_on()
        await wait_all_tasks_blocked()
        assert numbers.calls == 1
        r = await csp.select(source.case_receive())
        assert (r.channel, r.value) == (source, 1)


async def test_a_cancelled_receive_leaves_the_value() -> None:
    numbers = Numbers(waits=True)
    async with csp.PullSource(numbers) as source:
        with trio.move_on_after(0):
            await source.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.receive)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        numbers.go_on()
        assert await source.receive() == (1, True)
        assert (numbers.calls, numbers.cancelled) == (1, 0)


async def test_several_receivers_get_a_value_each_in_order() -> None:
    numbers = Numbers(waits=True)
    received: list[tuple[str, int]] = []

    async def receive(name: str) -> None:
        received.append((name, (await source.receive()).value))

    async with csp.PullSource(numbers) as source, trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(receive, name)
            await wait_all_tasks_blocked()
        for count in (1, 2, 3):
            numbers.go_on()
            await wait_all_tasks_blocked()
            assert len(received) == count
    assert received == [("a", 1), ("b", 2), ("c", 3)]
    assert numbers.calls == 3


async def test_a_selector_has_one_value_fetched_ahead() -> None:
    numbers = Numbers()
    async with csp.PullSource(numbers) as source:
        with csp.Selector(source.case_receive()) as selector:
            await wait_all_tasks_blocked()
            assert numbers.calls == 1
            for expected in (1, 2, 3):
                assert (await selector.select()).value == expected
            await wait_all_tasks_blocked()
            assert numbers.calls == 4
        assert await source.receive() == (4, True)
        await wait_all_tasks_blocked()
        assert numbers.calls == 4


async def test_a_selector_iterates_to_the_end() -> None:
    async with csp.PullSource(Numbers(3)) as source:
        with csp.Selector(source.case_receive()) as selector:
            assert [(r.value, r.ok) async for r in selector] == [(1, True), (2, True), (3, True), (None, False)]


async def test_a_select_that_polls_asks() -> None:
    numbers = Numbers()
    async with csp.PullSource(numbers) as source:
        assert (await csp.select(source.case_receive(), default=True)).default
        await wait_all_tasks_blocked()
        assert numbers.calls == 1
        assert (await csp.select(source.case_receive(), default=True)).value == 1
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()


async def test_an_exception_is_the_cause() -> None:
    error = KeyError("broken")

    async def fail() -> int:
        raise error

    async with csp.PullSource(fail) as source:
        assert await source.receive() == ENDED
        assert source.cause is error
        with pytest.raises(ChannelBrokenError) as caught:
            await anext(source)
        assert caught.value.__cause__ is error


async def test_the_end_may_have_a_cause() -> None:
    error = KeyError("why")

    async def end() -> int:
        raise trio.EndOfChannel from error

    async with csp.PullSource(end) as source:
        assert await source.receive() == ENDED
    assert source.cause is error


async def test_all_who_wait_are_told_of_the_end() -> None:
    numbers = Numbers(0, waits=True)
    ended = 0

    async def receive(wait: Callable[[], Awaitable[object]]) -> None:
        nonlocal ended
        await wait()
        ended += 1

    async with csp.PullSource(numbers) as source, trio.open_nursery() as nursery:
        selector = csp.Selector(source.case_receive())
        waits: list[Callable[[], Awaitable[object]]] = [
            source.receive,
            lambda: csp.select(source.case_receive()),
            selector.select,
        ]
        for wait in waits:
            nursery.start_soon(receive, wait)
        await wait_all_tasks_blocked()
        numbers.go_on()
    assert ended == 3


async def test_at_the_end_of_the_block_a_call_is_cancelled_and_the_source_closed() -> None:
    numbers = Numbers(waits=True)
    async with trio.open_nursery() as nursery, csp.PullSource(numbers) as source:
        nursery.start_soon(source.receive)
        await wait_all_tasks_blocked()
    assert numbers.cancelled == 1
    assert await source.receive() == ENDED
    assert source.cause is None


async def test_a_value_held_at_the_end_of_the_block_can_be_received() -> None:
    async with csp.PullSource(Numbers()) as source:
        await csp.select(source.case_receive(), default=True)
        await wait_all_tasks_blocked()
    assert source.closed
    assert await source.receive() == (1, True)
    assert await source.receive() == ENDED


async def test_values_unfinished_at_the_end_of_the_block_can_be_received() -> None:
    async with csp.PullSource(Numbers(waits=True), unfinished=lambda: [7, 8]) as source:
        await csp.select(source.case_receive(), default=True)
        await wait_all_tasks_blocked()
    assert [value async for value in source] == [7, 8]


async def test_the_blocks_exception_comes_out_as_it_is() -> None:
    async def block() -> None:
        async with csp.PullSource(Numbers(waits=True)) as source:
            await csp.select(source.case_receive(), default=True)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()


async def test_cancelling_the_block_cancels_the_call() -> None:
    numbers = Numbers(waits=True)
    async with trio.open_nursery() as nursery:

        async def block() -> None:
            async with csp.PullSource(numbers) as source:
                await source.receive()

        nursery.start_soon(block)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert numbers.cancelled == 1


async def test_a_cancelled_block_that_ends_normally_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with csp.PullSource(Numbers()):
            scope.cancel()
    assert scope.cancelled_caught


async def test_an_exception_leaves_a_cancelled_block_as_it_is() -> None:
    async def block() -> None:
        with trio.CancelScope() as scope:
            async with csp.PullSource(Numbers()):
                scope.cancel()
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()


async def test_keyboard_interrupt_in_the_function_comes_out_of_the_block() -> None:
    async def interrupted() -> int:
        raise KeyboardInterrupt

    async def block() -> None:
        async with source:
            assert await source.receive() == ENDED
            assert isinstance(source.cause, KeyboardInterrupt)
            await trio.sleep_forever()

    source = csp.PullSource(interrupted)
    with pytest.raises(KeyboardInterrupt):
        await block()


@pytest.mark.parametrize("waits", [False, True])
async def test_for_a_selector_that_was_forgotten_nothing_is_fetched(waits: bool) -> None:
    numbers = Numbers(waits=True)
    async with csp.PullSource(numbers) as source, trio.open_nursery() as nursery:
        selector = csp.Selector(source.case_receive())
        await wait_all_tasks_blocked()
        if waits:
            nursery.start_soon(source.receive)
            await wait_all_tasks_blocked()
        del selector
        gc.collect()
        numbers.go_on()
        if not waits:
            await wait_all_tasks_blocked()
            assert await source.receive() == (1, True)
        await wait_all_tasks_blocked()
        assert numbers.calls == 1


async def test_who_receives_while_the_block_ends_is_told_the_end() -> None:
    ending = trio.Event()

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            await ending.wait()

    async with trio.open_nursery() as nursery:

        async def block() -> None:
            async with source:
                assert await source.receive() == (1, True)

        async def receive() -> None:
            assert await source.receive() == ENDED

        source: Any = csp.from_async_iterable(numbers())
        nursery.start_soon(block)
        await wait_all_tasks_blocked()
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        ending.set()


async def test_a_selector_gets_what_is_held_while_the_block_ends() -> None:
    numbers = Numbers(waits=True)
    async with csp.PullSource(numbers) as source:
        selector = csp.Selector(source.case_receive())
        numbers.go_on()
        await wait_all_tasks_blocked()
    assert [(r.value, r.ok) async for r in selector] == [(1, True), (None, False)]


async def test_a_value_that_comes_while_the_block_ends_is_kept_and_others_are_told_the_end() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    received: list[object] = []

    async def receive() -> None:
        received.append(await source.receive())

    async with trio.open_nursery() as nursery, csp.from_receive_channel(receiver) as source:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        sender.send_nowait(1)
    assert sorted(received, key=str) == [(1, True), ENDED]


async def test_values_unfinished_when_the_function_fails_come_before_the_end() -> None:
    error = KeyError("broken")

    async def fail() -> int:
        raise error

    async with csp.PullSource(fail, unfinished=lambda: [7]) as source:
        assert await source.receive() == (7, True)
        assert await source.receive() == ENDED
        assert source.cause is error


async def test_stop_async_iteration_is_the_end_too() -> None:
    async def numbers() -> AsyncGenerator[int]:
        yield 1

    async with csp.PullSource(numbers().__anext__) as source:
        assert [value async for value in source] == [1]
        assert source.cause is None


async def test_receive_nowait_asks() -> None:
    async with csp.PullSource(Numbers()) as source:
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()
        await wait_all_tasks_blocked()
        assert source.receive_nowait() == (1, True)


async def test_before_its_block_it_tells_what_to_write() -> None:
    source = csp.PullSource(Numbers())
    for use in (source.receive, source.receive_nowait, source.case_receive, lambda: csp.merge(source)):
        with pytest.raises(NoContextError, match="PullSource gives nothing before its block: write `async with"):
            await use()  # type: ignore[misc]  # all of them raise when they are called or awaited


async def test_a_block_is_entered_once() -> None:
    source = csp.PullSource(Numbers())
    async with source:
        with pytest.raises(NoContextError, match="used before"):
            await source.__aenter__()


def test_something_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match="pull must be an async function, not 3"):
        csp.PullSource(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_repr_shows_the_state() -> None:
    source = csp.PullSource(Numbers(waits=True))
    assert repr(source).startswith("<csp.PullSource idle, 0 held, at 0x")
    async with source:
        await csp.select(source.case_receive(), default=True)
        assert repr(source).startswith("<csp.PullSource fetching, 0 held")
    assert repr(source).startswith("<csp.PullSource closed, 0 held")


async def test_what_a_call_returns_is_refused() -> None:
    numbers = Numbers()
    with pytest.raises(InvalidTypeError, match=r"not what __call__\(\) returns; do not call it"):
        csp.PullSource(numbers())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("fails", ["pull", "the end", "the block"])
async def test_if_the_unfinished_values_cannot_be_had_that_is_the_cause_and_comes_out_of_the_block(fails: str) -> None:
    error = ValueError("unfinished")

    async def pull() -> int:
        if fails == "the block":
            await trio.sleep_forever()
        raise KeyError if fails == "pull" else trio.EndOfChannel

    def unfinished() -> list[int]:
        raise error

    async def receive() -> None:
        assert await source.receive() == ENDED

    source = csp.PullSource(pull, unfinished=unfinished)

    async def block() -> None:
        async with source:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="unfinished"):
            await block()
    assert source.cause is error


async def test_a_group_of_cancellations_only_is_no_cause() -> None:
    async def pull() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
        raise AssertionError

    async with csp.PullSource(pull) as source:
        await csp.select(source.case_receive(), default=True)
        await wait_all_tasks_blocked()
    assert await source.receive() == ENDED
    assert source.cause is None


async def numbers() -> AsyncGenerator[int]:
    yield 1  # pragma: no cover  # never run


SOURCES: dict[str, Callable[[], Any]] = {
    "PullSource": lambda: csp.PullSource(Numbers()),
    "from_async_iterable": lambda: csp.from_async_iterable(numbers()),
    "from_event": lambda: csp.from_event(trio.Event()),
    "from_receive_channel": lambda: csp.from_receive_channel(trio.open_memory_channel[int](0)[1]),
    "from_receive_channel of any other": lambda: csp.from_receive_channel(csp.Channel[int]().receiver),
    "from_signals": lambda: csp.from_signals(signal.SIGTERM),
    "from_stream": lambda: csp.from_stream(memory_stream_pair()[0]),
    "merge": lambda: csp.merge(csp.Channel[int]()),
    "batch": lambda: csp.batch(csp.Channel[int](), 1),
}


@pytest.mark.parametrize("made", SOURCES)
async def test_a_source_is_called_by_the_function_that_makes_it(made: str) -> None:
    source = SOURCES[made]()
    name = made.split(maxsplit=1)[0]
    assert repr(source).startswith(f"<csp.{name} idle, 0 held, at 0x")
    with pytest.raises(NoContextError, match=f"^{name} gives nothing before its block: write `async with ...` first$"):
        source.case_receive()
    async with source:
        pass
    with pytest.raises(NoContextError, match=f"^this {name} was used before; make another one$"):
        await source.__aenter__()


async def test_a_value_that_a_finalizer_asks_for_at_any_moment_is_fetched(autojump_clock: MockClock) -> None:
    for at in count():
        numbers = Numbers()
        asked: list[int] = []
        async with csp.PullSource(numbers) as source:

            def ask(source: csp.Source[int] = source, asked: list[int] = asked) -> None:
                with suppress(trio.WouldBlock):
                    asked.append(source.receive_nowait().value)

            with interrupted(at, ask) as interrupting:
                await wait_all_tasks_blocked()
                asked.append((await source.receive()).value)
                await wait_all_tasks_blocked()
            with trio.fail_after(1):
                await source.receive()
        assert asked in ([1], [1, 2], [2, 1]), at
        if not interrupting.done:
            break
