"""What `throttle` and `debounce` share: the end, the cause, closing, arguments."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError

ENDED: object = (None, False)


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
async def test_the_cause_is_passed_on(made: Any) -> None:
    error = KeyError("why")
    source = csp.Channel[int]()
    async with made(source, "1s") as values:
        source.close(error)
        assert await values.receive() == ENDED
        assert values.cause is error


@pytest.mark.parametrize(("made", "given"), [(csp.throttle, 2), (csp.debounce, 2)])
async def test_what_is_due_at_the_end_of_the_block_can_be_received(
    autojump_clock: MockClock, made: Any, given: int
) -> None:
    source = csp.Channel[int]()
    async with made(source, "1s") as values:
        await source.send(1)
        await source.send(2)
        await wait_all_tasks_blocked()
    assert await values.receive() == (given, True)
    assert await values.receive() == ENDED


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
async def test_closed_by_who_receives_it_stops(autojump_clock: MockClock, made: Any) -> None:
    source = csp.Channel[int](1)
    async with made(source, "1s") as values:
        values.close()
        await source.send(1)
        await trio.sleep(2)
        await source.send(2)
        await trio.sleep(2)
        assert len(source) == 1


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
async def test_what_was_given_is_not_given_again_when_the_source_closes(autojump_clock: MockClock, made: Any) -> None:
    source = csp.Channel[int](1)
    async with made(source, "1s") as values:
        source.send_nowait(1)
        assert await values.receive() == (1, True)
        await trio.sleep(5)
        source.close()
        assert await values.receive() == ENDED


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
@pytest.mark.parametrize(
    ("source", "duration", "error", "text"),
    [
        (3, "1s", InvalidTypeError, "source must be a csp.Source"),
        (csp.Channel[int](), "-1s", InvalidError, "duration must be above 0, not '-1s'"),
        (csp.Channel[int](), 1, InvalidTypeError, "duration must be a string with a unit"),
    ],
)
def test_bad_arguments_are_refused_by_the_call(
    made: Any, source: Any, duration: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        made(source, duration)
