"""`merge`: all the values, when somebody asks; the first cause ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp.errors import InvalidTypeError
from tests.combinators._filled import filled

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

ENDED: object = (None, False)


async def test_merge_gives_all_values_those_of_one_source_in_order() -> None:
    odd, even = filled(1, 3, 5), filled(2, 4, 6)
    async with csp.merge(odd, even) as merged:
        values = [value async for value in merged]
        assert (merged.closed, merged.cause) == (True, None)
    assert sorted(values) == [1, 2, 3, 4, 5, 6]
    assert [value for value in values if value % 2] == [1, 3, 5]


async def test_merge_takes_a_value_only_when_somebody_asks() -> None:
    source = filled(1, 2, 3)
    async with csp.merge(source) as merged:
        await wait_all_tasks_blocked()
        assert len(source) == 3
        assert await merged.receive() == (1, True)
        await wait_all_tasks_blocked()
        assert len(source) == 2
    assert source.receive_nowait() == (2, True)


async def test_merge_ends_with_the_first_cause_and_leaves_the_others_what_they_have() -> None:
    error = KeyError("why")
    good = csp.Channel[int](5)
    bad = csp.Channel[int](5)
    async with csp.merge(good, bad) as merged, trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await merged.receive() == ENDED

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        bad.close(error)
    assert merged.cause is error
    good.send_nowait(1)
    assert good.receive_nowait() == (1, True)


async def test_merge_of_nothing_is_at_its_end() -> None:
    nothing: AbstractAsyncContextManager[csp.Source[int], bool | None] = csp.merge()
    async with nothing as merged:
        assert await merged.receive() == ENDED


async def test_merge_takes_timers_and_other_merges(autojump_clock: MockClock) -> None:
    async with csp.merge(csp.after("2s"), csp.after("1s")) as first, csp.merge(first, csp.after("3s")) as merged:
        start = trio.current_time()
        assert [round(time - start) async for time in merged] == [1, 2, 3]


async def test_leaving_a_merge_unregisters_it() -> None:
    source = csp.Channel[int]()
    async with csp.merge(source) as merged:
        await csp.select(merged.case_receive(), default=True)
        await wait_all_tasks_blocked()
        assert source.statistics().selectors == 1
    assert source.statistics().selectors == 0


class Client:
    """Something with a method ``channel``, as a WebSocket client has."""

    def channel(self) -> csp.Channel[int]:
        return csp.Channel[int]()

    def __repr__(self) -> str:
        return "<client>"


async def generator() -> Any:
    yield 1  # pragma: no cover  # never run


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((csp.Channel[int](), 3), "argument 1 of merge must be a csp.Source, such as a channel or a timer, not 3$"),
        ((Client(),), "not <client>; write client.channel"),
        ((generator(),), "csp.from_async_iterable makes one"),
        (([csp.Channel[int]()],), "give the sources as arguments of their own"),
        ((csp.throttle(csp.Channel[int](), "1s"),), "enter it first: async with"),
    ],
)
def test_merge_refuses_what_is_no_source(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(InvalidTypeError, match=text):
        csp.merge(*arguments)
