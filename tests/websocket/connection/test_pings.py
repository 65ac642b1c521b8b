"""Pings and pongs: which answers which, and how long it took."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests._steps import steps
from tests.websocket._server import ENDED, received
from trio_csp_websocket.connection.pings import MAX_OUTSTANDING, Pings

if TYPE_CHECKING:
    from trio.testing import MockClock

    import csp


def answered(*answers: csp.Channel[float]) -> list[bool]:
    return [len(answer) == 1 and answer.closed for answer in answers]


async def test_a_pong_gives_the_time_since_its_ping(autojump_clock: MockClock) -> None:
    pings = Pings()
    answer = pings.sent(b"a")
    assert len(pings) == 1
    assert pings.latency is None
    await trio.sleep(1.5)
    pings.answered(b"a")
    assert len(pings) == 0
    assert pings.latency == pytest.approx(1.5)
    assert await answer.receive() == received(pytest.approx(1.5))
    assert await answer.receive() == ENDED


async def test_equal_payloads_are_answered_in_order(autojump_clock: MockClock) -> None:
    pings = Pings()
    answers = [pings.sent(b"x") for _ in range(3)]
    pings.answered(b"x")
    assert answered(*answers) == [True, False, False]
    pings.answered(b"x")
    assert answered(*answers) == [True, True, False]


async def test_a_pong_answers_those_before_its_ping_too(autojump_clock: MockClock) -> None:
    pings = Pings()
    first = pings.sent(b"a")
    await trio.sleep(1)
    second, third = pings.sent(b"b"), pings.sent(b"c")
    await trio.sleep(1)
    pings.answered(b"b")
    assert answered(first, second, third) == [True, True, False]
    assert first.receive_nowait().value == pytest.approx(2)
    # That of the latest ping answered.
    assert pings.latency == pytest.approx(1)


async def test_a_pong_nobody_asked_for_changes_nothing(autojump_clock: MockClock) -> None:
    pings = Pings()
    pings.answered(b"")
    answer = pings.sent(b"a")
    pings.answered(b"b")
    assert answered(answer) == [False]
    assert pings.latency is None
    assert len(pings) == 1


async def test_a_second_pong_for_a_ping_changes_nothing(autojump_clock: MockClock) -> None:
    pings = Pings()
    answer = pings.sent(b"a")
    pings.answered(b"a")
    pings.answered(b"a")
    assert answered(answer) == [True]


async def test_a_ping_that_is_taken_back_is_forgotten(autojump_clock: MockClock) -> None:
    pings = Pings()
    first, second = pings.sent(b"x"), pings.sent(b"x")
    pings.forget(first)
    pings.forget(first)
    assert len(pings) == 1
    pings.answered(b"x")
    assert answered(first, second) == [False, True]


async def test_of_the_pings_that_are_given_up_those_stay_for_which_nobody_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    pings = Pings()
    ignored, awaited, probe = pings.sent(b"x"), pings.sent(b"x"), pings.probe()
    nursery.start_soon(awaited.receive)
    await wait_all_tasks_blocked()
    pings.give_up_awaited()
    assert awaited.closed
    assert len(pings) == 2
    pings.answered(b"x")
    assert answered(ignored, awaited) == [True, False]
    pings.answered(probe)
    assert len(pings) == 0


async def test_there_is_something_to_wait_for_while_a_ping_of_a_users_is_unanswered(autojump_clock: MockClock) -> None:
    pings = Pings()
    pings.probe()
    assert not pings.awaitable
    first, second = pings.sent(b"a"), pings.sent(b"b")
    pings.answered(b"a")
    assert pings.awaitable
    pings.forget(second)
    assert not pings.awaitable
    pings.sent(b"c")
    pings.close()
    assert (pings.awaitable, first.closed) == (False, True)


@pytest.mark.parametrize("payload", [b"", b"no", b"0123"])
async def test_a_pong_that_answers_nothing_costs_the_same_however_many_pings_wait(
    payload: bytes, autojump_clock: MockClock
) -> None:
    pings = Pings()

    def pong_often() -> None:
        for _ in range(100):
            pings.answered(payload)

    before = steps(pong_often)
    for number in range(MAX_OUTSTANDING):
        pings.sent(number.to_bytes(8, "big"))
    assert steps(pong_often) == before
    assert len(pings) == MAX_OUTSTANDING


async def test_what_answering_and_forgetting_costs_grows_with_the_number_of_pings(autojump_clock: MockClock) -> None:
    def in_order(count: int) -> None:
        pings = Pings()
        for number in range(count):
            pings.sent(number.to_bytes(8, "big"))
        for number in range(count):
            pings.answered(number.to_bytes(8, "big"))

    def forgotten(count: int) -> None:
        pings = Pings()
        for answer in [pings.sent(b"x") for _ in range(count)]:
            pings.forget(answer)

    few, many = MAX_OUTSTANDING // 8, MAX_OUTSTANDING
    for work in (in_order, forgotten):
        assert steps(partial(work, many)) < 9 * steps(partial(work, few)), work.__name__


async def test_closing_closes_the_answers_without_a_value(autojump_clock: MockClock) -> None:
    pings = Pings()
    answers = [pings.sent(b"x") for _ in range(3)]
    pings.close()
    pings.close()
    assert len(pings) == 0
    assert [await answer.receive() for answer in answers] == [ENDED] * 3
    pings.answered(b"x")


async def test_an_answer_that_its_owner_has_closed_is_no_failure(autojump_clock: MockClock) -> None:
    pings = Pings()
    first, second = pings.sent(b"a"), pings.sent(b"b")
    first.close()
    pings.answered(b"b")
    assert answered(second) == [True]
    assert len(pings) == 0
