"""`from_async_iterable`: one task runs all of it, only when somebody asks, and closes it at the end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator

    from trio.testing import MockClock

ENDED: object = (None, False)


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


async def test_what_an_async_generator_raises_while_it_is_closed_is_a_note_of_what_the_block_has_raised() -> None:
    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            raise OSError("cleaning up")

    async def block() -> None:
        async with csp.from_async_iterable(numbers()) as source:
            await source.receive()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        await block()
    (note,) = caught.value.__notes__
    assert note.startswith("a task of the block raised, too: OSError('cleaning up') (")


async def test_a_source_is_closed_though_cleaning_up_fails() -> None:
    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            raise KeyError("cleaning up")

    source: Any = csp.from_async_iterable(numbers())

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

    source: Any = csp.from_async_iterable(numbers())
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


async def in_a_nursery(*tasks: Callable[[], Awaitable[None]]) -> AsyncGenerator[int]:
    """Give 1, then wait beside tasks."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        yield 1
        await trio.sleep_forever()


async def fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise KeyError("cleaning up")


async def test_a_generator_that_waits_in_a_nursery_ends_quietly_when_the_block_is_left() -> None:
    async with csp.from_async_iterable(in_a_nursery(trio.sleep_forever)) as source:
        assert await source.receive() == (1, True)
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()
        await wait_all_tasks_blocked()
    assert await source.receive() == ENDED
    assert source.cause is None


@pytest.mark.parametrize("cancelled", [False, True])
async def test_of_a_group_that_a_generator_raises_when_it_is_cancelled_the_cause_is_what_is_no_cancellation(
    cancelled: bool,
) -> None:
    generator = in_a_nursery(trio.sleep_forever, fail_when_cancelled, trio.sleep_forever)
    source: Any = csp.from_async_iterable(generator)

    async def block(scope: trio.CancelScope) -> None:
        async with source:
            assert await source.receive() == (1, True)
            with pytest.raises(trio.WouldBlock):
                source.receive_nowait()
            await wait_all_tasks_blocked()
            if cancelled:
                scope.cancel()
                await trio.sleep_forever()

    with trio.CancelScope() as scope, pytest.raises(ExceptionGroup) as caught:
        await block(scope)
    assert caught.value.subgroup(KeyError) is not None
    assert source.receive_nowait() == ENDED
    assert [repr(error) for error in source.cause.exceptions] == ["KeyError('cleaning up')"]


async def test_what_a_generator_raises_when_it_is_cancelled_is_told_to_who_receives_though_the_body_is_shielded() -> (
    None
):
    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            raise KeyError("cleaning up")

    with trio.CancelScope() as scope:
        async with csp.from_async_iterable(numbers()) as source:
            assert await source.receive() == (1, True)
            with trio.CancelScope(shield=True):
                scope.cancel()
                assert await source.receive() == ENDED
                assert repr(source.cause) == "KeyError('cleaning up')"
