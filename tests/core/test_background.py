"""`BackgroundNursery`: tasks that end with a block, and what comes out of it."""

from __future__ import annotations

import contextlib
import gc
import math
import weakref

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp


async def fail(error: BaseException) -> None:
    raise error


async def test_tasks_are_cancelled_at_the_end_of_the_block() -> None:
    cancelled = False

    async def wait() -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled = True
            raise

    async with csp.BackgroundNursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
    assert cancelled


async def block(*tasks_errors: BaseException, error: BaseException | None = None) -> None:
    """Run a block beside tasks that fail; it fails too, or waits."""
    async with csp.BackgroundNursery() as nursery:
        for task_error in tasks_errors:
            nursery.start_soon(fail, task_error)
        if error is not None:
            raise error
        await trio.sleep_forever()


async def test_the_blocks_exception_comes_out_as_it_is() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        await block(error=error)
    assert caught.value is error
    assert error.__context__ is None


async def test_a_tasks_exception_cancels_the_block_and_comes_out_as_it_is() -> None:
    error = KeyError("the task's")
    error.__cause__ = ValueError("why")
    with pytest.raises(KeyError) as caught:
        await block(error)
    assert caught.value is error
    assert isinstance(error.__cause__, ValueError)


async def test_exceptions_of_several_tasks_come_out_as_a_group() -> None:
    errors = {KeyError(), ValueError()}
    with pytest.raises(ExceptionGroup) as caught:
        await block(*errors)
    assert set(caught.value.exceptions) == errors


async def test_what_a_task_raises_after_the_block_failed_is_a_note() -> None:
    first = KeyError("the block's")
    with pytest.raises(KeyError) as caught:
        await block(ValueError("the task's"), OSError("another's"), error=first)
    assert caught.value is first
    notes = sorted(first.__notes__)
    assert notes[0].startswith('a task of the block raised, too: OSError("another\'s") (')
    assert notes[1].startswith('a task of the block raised, too: ValueError("the task\'s") (')
    assert all(f"{__file__}:" in note for note in notes)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
async def test_what_a_task_raises_to_end_the_program_is_no_note(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        await block(error, error=KeyError("the block's"))
    assert caught.value is error
    assert isinstance(error.__context__, KeyError)


async def test_what_the_block_raises_because_a_task_failed_is_the_context_of_that() -> None:
    async def block_that_cleans_up_badly() -> None:
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(fail, ValueError("the task's"))
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("the block's")

    with pytest.raises(ValueError, match="task") as caught:
        await block_that_cleans_up_badly()
    seen: list[BaseException] = [caught.value]
    while (before := seen[-1].__context__) is not None:
        seen.append(before)
    assert any(isinstance(error, KeyError) for error in seen)


# Not of one that fails: of that, Trio's own frames are a cycle.
@pytest.mark.parametrize("failing", [0, 2])
async def test_what_was_cancelled_or_has_failed_is_no_reference_cycle(failing: int) -> None:
    class Kept:
        pass

    async def hold() -> weakref.ref[Kept]:
        kept = Kept()
        reference = weakref.ref(kept)

        async def fail_with_it(kept: Kept) -> None:
            raise KeyError(repr(kept))

        with trio.move_on_after(0 if not failing else math.inf), contextlib.suppress(KeyError, ExceptionGroup):
            async with csp.BackgroundNursery() as nursery:
                for _ in range(failing):
                    nursery.start_soon(fail_with_it, kept)
                await trio.sleep_forever()
        return reference

    gc.disable()
    try:
        assert (await hold())() is None
    finally:
        gc.enable()


# pytest-trio does not notice a Cancelled that leaks, so this one runs Trio itself.
def test_a_cancellation_of_the_nursery_ends_with_the_block() -> None:
    async def main() -> str:
        async with csp.BackgroundNursery() as nursery:
            nursery.cancel_scope.cancel()
            await trio.sleep_forever()
        return "went on"

    assert trio.run(main) == "went on"


def test_a_cancellation_of_the_nursery_ends_with_the_block_also_where_it_comes_in_a_group() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("on the way out")

    async def main() -> None:
        async with csp.BackgroundNursery() as nursery, trio.open_nursery() as inner:
            inner.start_soon(fail_when_cancelled)
            inner.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    with pytest.raises(ExceptionGroup) as caught:  # a group with Cancelled in it is a BaseExceptionGroup only
        trio.run(main)
    assert caught.value.subgroup(KeyError) is not None


async def test_a_cancellation_from_outside_goes_on() -> None:
    with trio.CancelScope() as scope:
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_traceback_does_not_show_that_the_block_was_cancelled() -> None:
    with pytest.raises(ValueError, match="task") as caught:
        await block(ValueError("the task's"))
    assert caught.value.__suppress_context__
