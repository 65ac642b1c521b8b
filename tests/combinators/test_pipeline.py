"""`pipeline`: several values in work at once, the order of results, the end and its cause."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError

ENDED: object = (None, False)


def numbers(*values: int, cause: BaseException | None = None) -> csp.Channel[int]:
    channel = csp.Channel[int](len(values))
    for value in values:
        channel.send_nowait(value)
    channel.close(cause)
    return channel


async def sleep_for(seconds: int) -> int:
    await trio.sleep(seconds)
    return seconds


async def test_ordered_results_come_in_the_order_of_the_values(autojump_clock: MockClock) -> None:
    async with csp.pipeline(numbers(5, 1, 3, 2, 4), sleep_for, workers=3) as results:
        assert [result async for result in results] == [5, 1, 3, 2, 4]


async def test_unordered_results_come_as_they_are_ready(autojump_clock: MockClock) -> None:
    async with csp.pipeline(numbers(5, 1, 3), sleep_for, workers=3, ordered=False) as results:
        assert [result async for result in results] == [1, 3, 5]


@pytest.mark.parametrize("ordered", [False, True])
async def test_no_more_values_are_in_work_or_wait_as_results_than_there_are_workers(
    autojump_clock: MockClock, ordered: bool
) -> None:
    running = most = started = 0

    async def work(value: int) -> int:
        nonlocal running, most, started
        running += 1
        started += 1
        most = max(most, running)
        await trio.sleep(1 + value % 3)
        running -= 1
        return value

    source = numbers(*range(50))
    async with csp.pipeline(source, work, workers=4, ordered=ordered) as results:
        await trio.sleep(100)
        assert (started, len(source)) == (4, 46)
        received = [result async for result in results]
    assert most == 4
    assert sorted(received) == list(range(50))
    assert not ordered or received == list(range(50))


@pytest.mark.parametrize("ordered", [False, True])
async def test_closing_and_cause_are_passed_on_behind_the_results(ordered: bool) -> None:
    error = KeyError("why")
    async with csp.pipeline(numbers(0, 0, cause=error), sleep_for, workers=3, ordered=ordered) as results:
        assert [await results.receive() for _ in range(3)] == [(0, True), (0, True), ENDED]
        assert results.cause is error


async def test_an_exception_is_the_cause_and_cancels_the_others(autojump_clock: MockClock) -> None:
    error = KeyError("broken")
    cancelled: list[int] = []

    async def work(value: int) -> int:
        try:
            await trio.sleep(value)
        except trio.Cancelled:
            cancelled.append(value)
            raise
        raise error

    source = csp.Channel[int](10)
    for value in (5, 1, 7, 9):
        source.send_nowait(value)
    async with csp.pipeline(source, work, workers=3, ordered=False) as results:
        assert await results.receive() == ENDED
        assert results.cause is error
        assert trio.current_time() == 1
        await wait_all_tasks_blocked()
        assert sorted(cancelled) == [5, 7]
        assert len(source) == 1


async def test_ordered_results_before_an_exception_are_given_first(autojump_clock: MockClock) -> None:
    error = KeyError("broken")

    async def work(value: int) -> int:
        await trio.sleep(value)
        if value == 1:
            raise error
        return value

    async with csp.pipeline(numbers(5, 1, 3), work, workers=3) as results:
        assert [await results.receive() for _ in range(2)] == [(5, True), ENDED]
        assert results.cause is error


async def test_the_block_may_be_left_at_any_time() -> None:
    async with csp.pipeline(numbers(*range(10)), sleep_for, workers=2) as results:
        assert await results.receive() == (0, True)
    assert await results.receive() == ENDED


async def test_the_blocks_exception_comes_out_as_it_is() -> None:
    async def block() -> None:
        async with csp.pipeline(numbers(1, 2), sleep_for, workers=2):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()


async def test_closed_by_who_receives_it_stops(autojump_clock: MockClock) -> None:
    source = csp.Channel[int](100)
    for value in range(100):
        source.send_nowait(value % 2)
    async with csp.pipeline(source, sleep_for, workers=2) as results:
        assert isinstance(results, csp.Channel)
        await results.receive()
        results.close()
        await trio.sleep(100)
        assert len(source) > 90


async def test_ordered_results_keep_the_order_of_values_that_come_at_once() -> None:
    async def work(value: int) -> int:
        return value

    for _ in range(20):
        source = csp.Channel[int](4)
        async with csp.pipeline(source, work, workers=4) as results:
            await wait_all_tasks_blocked()
            for value in range(4):
                source.send_nowait(value)
            assert [(await results.receive()).value for _ in range(4)] == [0, 1, 2, 3]


async def test_closed_by_who_receives_it_cancels_the_work(autojump_clock: MockClock) -> None:
    cancelled: list[int] = []

    async def work(value: int) -> int:
        try:
            await trio.sleep(value)
        except trio.Cancelled:
            cancelled.append(value)
            raise
        return value

    source = csp.Channel[int](2)
    source.send_nowait(1)
    source.send_nowait(100)
    async with csp.pipeline(source, work, workers=2, ordered=False) as results:
        assert isinstance(results, csp.Channel)
        await wait_all_tasks_blocked()
        results.close()
        await trio.sleep(2)
        assert cancelled == [100]


async def test_results_that_wait_are_given_before_the_exception_of_another() -> None:
    error = KeyError("broken")

    async def work(value: int) -> int:
        await wait_all_tasks_blocked()
        if value == 2:
            await wait_all_tasks_blocked()
            raise error
        return value

    async with csp.pipeline(numbers(1, 2, 3), work, workers=3, ordered=False) as results:
        await wait_all_tasks_blocked(0.01)
        received = [await results.receive() for _ in range(3)]
        assert sorted(value for value, ok in received if ok) == [1, 3]
        assert received[2] == ENDED
        assert results.cause is error


async def test_keyboard_interrupt_in_the_work_comes_out_as_it_is() -> None:
    async def work(_value: int) -> int:
        raise KeyboardInterrupt

    async def block() -> None:
        async with csp.pipeline(numbers(1), work, workers=3) as results:
            await results.receive()

    with pytest.raises(KeyboardInterrupt):
        await block()


async def test_the_first_of_two_exceptions_is_the_cause() -> None:
    errors = [KeyError("first"), KeyError("second")]

    async def work(value: int) -> int:
        raise errors[value]

    async with csp.pipeline(numbers(0, 1), work, workers=2) as results:
        assert await results.receive() == ENDED
        assert results.cause is errors[0]


async def timed(results: csp.Source[int]) -> list[tuple[float, int]]:
    """Receive to the end; return each result with its time."""
    received: list[tuple[float, int]] = []
    while (r := await results.receive()).ok:
        received.append((round(trio.current_time(), 1), r.value))
    return received


async def test_after_an_exception_ordered_results_of_earlier_values_come_and_nothing_is_begun(
    autojump_clock: MockClock,
) -> None:
    error = KeyError("broken")
    begun: list[int] = []

    async def work(value: int) -> int:
        begun.append(value)
        if value == 3:
            raise error
        await trio.sleep({1: 1, 2: 60}[value])
        return value

    source = numbers(1, 2, 3, 4, 5)
    async with csp.pipeline(source, work, workers=3) as results:
        assert await timed(results) == [(1, 1), (60, 2)]
        assert results.cause is error
        assert sorted(begun) == [1, 2, 3]
        assert len(source) == 2


async def test_after_an_exception_nothing_is_taken_by_a_worker_whose_result_is_received(
    autojump_clock: MockClock,
) -> None:
    error = KeyError("broken")

    async def work(value: int) -> int:
        if value == 2:
            await trio.sleep(1)
            raise error
        return value

    source = numbers(1, 2, 3, 4)
    async with csp.pipeline(source, work, workers=2) as results:
        await trio.sleep(2)  # now the result of 1 waits, and 2 has failed
        assert await timed(results) == [(2, 1)]
        assert len(source) == 2


@pytest.mark.parametrize("ordered", [False, True])
async def test_after_an_exception_a_worker_that_waits_for_a_value_takes_none(ordered: bool) -> None:
    async def work(value: int) -> int:
        raise KeyError(value)

    source = csp.Channel[int](2)
    async with csp.pipeline(source, work, workers=3, ordered=ordered) as results:
        await wait_all_tasks_blocked()
        source.send_nowait(1)
        assert await results.receive() == ENDED
        assert repr(results.cause) == "KeyError(1)"
        source.send_nowait(2)
        await wait_all_tasks_blocked()
        assert len(source) == 1


async def test_a_value_that_comes_together_with_the_exception_of_a_call_ends_no_differently() -> None:
    error = KeyError("broken")
    fail = trio.Event()

    async def work(value: int) -> int:
        if value == 1:
            await fail.wait()
            raise error
        await trio.sleep_forever()
        raise AssertionError

    for _ in range(10):  # either of the two workers may run first
        source = csp.Channel[int](1)
        async with csp.pipeline(source, work, workers=2, ordered=False) as results:
            await source.send(1)
            await wait_all_tasks_blocked()
            fail.set()
            source.send_nowait(2)
            assert await results.receive() == ENDED
            assert results.cause is error


@pytest.mark.parametrize("ordered", [False, True])
async def test_other_calls_are_cancelled_at_once_and_what_they_raise_then_is_in_the_notes(
    autojump_clock: MockClock, ordered: bool
) -> None:
    error = KeyError("broken")

    async def work(value: int) -> int:
        if value == 1:
            await trio.sleep(1)
            raise error
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up")

    async with csp.pipeline(numbers(1, 2), work, workers=3, ordered=ordered) as results:
        assert await results.receive() == ENDED
        assert trio.current_time() == 1
        assert results.cause is error
        assert [note.rpartition(" (")[0] for note in error.__notes__] == [
            "another call of the pipeline raised, too: ValueError('cleaning up')"
        ]


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_group_that_a_cancelled_call_raises_is_in_the_notes_without_the_cancellation(ordered: bool) -> None:
    error = KeyError("broken")

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up")

    async def work(value: int) -> int:
        if value == 1:
            await wait_all_tasks_blocked()
            raise error
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            await trio.sleep_forever()
        raise AssertionError

    async with csp.pipeline(numbers(1, 2), work, workers=3, ordered=ordered) as results:
        assert await results.receive() == ENDED
        assert results.cause is error
        [note] = error.__notes__
        assert "ValueError('cleaning up')" in note
        assert "Cancelled" not in note


@pytest.mark.parametrize(("ordered", "cause", "note"), [(True, 1, 2), (False, 2, 1)])
async def test_of_several_exceptions_the_cause_is_that_whose_result_would_have_come_first(
    autojump_clock: MockClock, ordered: bool, cause: int, note: int
) -> None:
    async def work(value: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(10 - value)
        raise KeyError(value)

    async with csp.pipeline(numbers(1, 2), work, workers=2, ordered=ordered) as results:
        assert await results.receive() == ENDED
        assert trio.current_time() == 9
        assert repr(results.cause) == f"KeyError({cause})"
        assert results.cause is not None
        assert [one.rpartition(" (")[0] for one in results.cause.__notes__] == [
            f"another call of the pipeline raised, too: KeyError({note})"
        ]


@pytest.mark.parametrize(("ordered", "given"), [(True, []), (False, [(1, 2)])])
async def test_a_call_that_ends_in_spite_of_its_cancellation_gives_its_result_if_its_turn_has_come(
    autojump_clock: MockClock, ordered: bool, given: list[tuple[float, int]]
) -> None:
    error = KeyError("broken")

    async def work(value: int) -> int:
        if value == 1:
            await wait_all_tasks_blocked()
            raise error
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        return value

    async with csp.pipeline(numbers(1, 2), work, workers=2, ordered=ordered) as results:
        assert await timed(results) == given
        assert results.cause is error


class FalsyError(Exception):
    """An exception that a truth test takes for none."""

    def __len__(self) -> int:
        return 0


async def test_an_exception_that_is_false_is_the_cause() -> None:
    async def work(_value: int) -> int:
        raise FalsyError

    async with csp.pipeline(numbers(1), work, workers=2) as results:
        assert await results.receive() == ENDED
        assert isinstance(results.cause, FalsyError)


class Breaking(csp.Source[int]):
    """Gives 1 and 2, then raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._values = [1, 2]
        self._error = error

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # it has no clock
        return True

    def receive_nowait(self) -> csp.Received[int]:
        if not self._values:
            raise self._error
        return csp.Received(self._values.pop(0), True)


@pytest.mark.parametrize(("ordered", "given"), [(True, [(5, 1), (5, 2)]), (False, [(2, 2), (5, 1)])])
async def test_what_the_source_raises_comes_behind_the_results_of_all_values(
    autojump_clock: MockClock, ordered: bool, given: list[tuple[float, int]]
) -> None:
    error = KeyError("the source's")

    async def work(value: int) -> int:
        await trio.sleep({1: 5, 2: 2}[value])
        return value

    async with csp.pipeline(Breaking(error), work, workers=4, ordered=ordered) as results:
        assert await timed(results) == given
        assert results.cause is error


@pytest.mark.parametrize(("ordered", "cause"), [(True, "KeyError(1)"), (False, "ValueError()")])
async def test_an_exception_of_a_call_when_the_source_has_raised(
    autojump_clock: MockClock, ordered: bool, cause: str
) -> None:
    async def work(value: int) -> int:
        await trio.sleep(value)
        if value == 1:
            raise KeyError(value)
        return value  # pragma: no cover  # it is cancelled

    async with csp.pipeline(Breaking(ValueError()), work, workers=4, ordered=ordered) as results:
        assert await results.receive() == ENDED
        assert trio.current_time() == 1
        assert repr(results.cause) == cause


async def fail_when_cancelled(value: int) -> int:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError(f"cleaning up {value}")


async def test_what_calls_raise_when_the_block_is_left_comes_out_of_it() -> None:
    entered: list[csp.Source[int]] = []

    async def block() -> None:
        async with csp.pipeline(numbers(1), fail_when_cancelled, workers=2) as results:
            entered.append(results)
            await wait_all_tasks_blocked()

    with pytest.raises(ValueError, match="cleaning up 1") as caught:
        await block()
    [results] = entered
    assert await results.receive() == ENDED
    assert results.cause is caught.value


async def test_an_exception_whose_turn_has_not_come_when_the_block_is_left_is_the_cause(
    autojump_clock: MockClock,
) -> None:
    async def work(value: int) -> int:
        await trio.sleep(60 - value)
        raise KeyError(value)

    async with csp.pipeline(numbers(1, 50, 51), work, workers=3) as results:
        await trio.sleep(20)
        assert not results.closed
    assert await results.receive() == ENDED
    assert repr(results.cause) == "KeyError(50)"
    assert results.cause is not None
    assert [note.rpartition(" (")[0] for note in results.cause.__notes__] == [
        "another call of the pipeline raised, too: KeyError(51)"
    ]


async def test_a_cause_of_the_source_that_was_seen_when_the_block_is_left_stays(autojump_clock: MockClock) -> None:
    error = KeyError("why")
    async with csp.pipeline(numbers(5, cause=error), sleep_for, workers=3) as results:
        await trio.sleep(1)
        assert not results.closed
    assert await results.receive() == ENDED
    assert results.cause is error


async def test_a_block_that_fails_while_an_exception_of_a_call_waits_says_that_it_failed(
    autojump_clock: MockClock,
) -> None:
    entered: list[csp.Source[int]] = []

    async def work(value: int) -> int:
        await trio.sleep(60 - value)
        raise KeyError(value)

    async def block() -> None:
        async with csp.pipeline(numbers(1, 50), work, workers=3) as results:
            entered.append(results)
            await trio.sleep(20)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await block()
    assert "the block of csp.pipeline failed: ValueError('mine')" in str(entered[0].cause)


async def test_what_calls_raise_when_the_block_is_cancelled_comes_out_of_it() -> None:
    async def block(scope: trio.CancelScope) -> None:
        async with csp.pipeline(numbers(1, 2), fail_when_cancelled, workers=2):
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()

    with trio.CancelScope() as scope, pytest.raises(ExceptionGroup) as caught:
        await block(scope)
    assert sorted(str(error) for error in caught.value.exceptions) == ["cleaning up 1", "cleaning up 2"]


async def test_what_calls_raise_when_the_receiver_closes_the_results_comes_out_of_the_block() -> None:
    async def work(value: int) -> int:
        return value if value == 0 else await fail_when_cancelled(value)

    async def block() -> None:
        async with csp.pipeline(numbers(0, 1, 2), work, workers=2) as results:
            await wait_all_tasks_blocked()
            assert isinstance(results, csp.Channel)
            results.close()
            await trio.sleep_forever()

    with pytest.raises(ValueError, match="cleaning up 1"):
        await block()


async def test_when_the_receiver_has_closed_the_results_no_value_is_begun() -> None:
    begun: list[int] = []

    async def work(value: int) -> int:
        begun.append(value)
        return value

    source = csp.Channel[int](1)
    async with csp.pipeline(source, work, workers=2) as results:
        await source.send(1)
        await wait_all_tasks_blocked()
        assert isinstance(results, csp.Channel)
        results.close()
        source.send_nowait(2)  # to the other worker, which waits for it
        await wait_all_tasks_blocked()
        assert begun == [1]


async def test_keyboard_interrupt_in_the_work_ends_the_results_at_once(autojump_clock: MockClock) -> None:
    async def work(value: int) -> int:
        await trio.sleep(value)
        raise KeyboardInterrupt

    async def receive(results: csp.Source[int]) -> None:
        assert await results.receive() == ENDED
        assert isinstance(results.cause, KeyboardInterrupt)

    async def block() -> None:
        async with csp.pipeline(numbers(9, 1), work, workers=3) as results:
            nursery.start_soon(receive, results)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyboardInterrupt):
            await block()
        assert trio.current_time() == 1


@pytest.mark.parametrize(
    ("source", "work", "workers", "error", "text"),
    [
        (3, sleep_for, 1, InvalidTypeError, "source must be a csp.Source"),
        (csp.Channel[int](), 3, 1, InvalidTypeError, "work must be an async function, not 3"),
        (csp.Channel[int](), sleep_for, 0, InvalidError, "workers must be at least 1, not 0"),
    ],
)
def test_bad_arguments_are_refused_by_the_call(
    source: Any, work: Any, workers: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        csp.pipeline(source, work, workers=workers)
