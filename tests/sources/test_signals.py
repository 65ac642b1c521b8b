"""`from_signals`: received inside the block, and raised again at its end if nobody took them."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp


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


async def test_a_signal_that_nobody_received_is_raised_again_though_the_block_was_cancelled() -> None:
    raised: list[int] = []
    signals: Any = csp.from_signals(signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, lambda number, _frame: raised.append(number))
    try:
        with trio.CancelScope() as scope:
            async with signals:
                await csp.select(signals.case_receive(), default=True)
                signal.raise_signal(signal.SIGTERM)
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised == [signal.SIGTERM]
    assert await signals.receive() == (None, False)
    assert isinstance(signals.cause, csp.errors.ChannelBrokenError)
