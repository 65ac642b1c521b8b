"""Tests of `Channel.send_from_thread`, with real threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp.errors import ChannelClosedError, NoContextError

if TYPE_CHECKING:
    from collections.abc import Callable


async def thread_waits(channel: csp.Channel[int]) -> None:
    """Return when a thread waits in a send; nothing but the channel can tell."""
    while not channel.statistics().tasks_waiting_send:  # noqa: ASYNC110
        await trio.sleep(0.001)


async def test_a_thread_waits_for_room() -> None:
    channel = csp.Channel[int](2)
    sent: list[int] = []

    def work() -> None:
        for value in range(10):
            channel.send_from_thread(value)
            sent.append(value)
        channel.send_from_thread(-1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, work)
        await thread_waits(channel)
        assert (sent, len(channel)) == ([0, 1], 2)
        assert [(await channel.receive()).value for _ in range(11)] == [*range(10), -1]


async def test_closing_the_channel_ends_the_threads_wait() -> None:
    channel = csp.Channel[int]()
    error = KeyError("why")

    def work() -> None:
        with pytest.raises(ChannelClosedError) as caught:
            channel.send_from_thread(1)
        assert caught.value.__cause__ is error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, work)
        await thread_waits(channel)
        channel.close(error)


async def test_cancelling_the_threads_call_ends_its_wait_and_sends_nothing() -> None:
    channel = csp.Channel[int]()
    ended: list[type[BaseException]] = []

    def work() -> None:
        try:
            channel.send_from_thread(1)
        except BaseException as error:
            ended.append(type(error))
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, work)
        await thread_waits(channel)
        nursery.cancel_scope.cancel()
    assert ended == [trio.Cancelled]
    assert channel.statistics().tasks_waiting_send == 0


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_foreign_thread_gives_the_token_and_may_outlive_the_run() -> None:
    channel = csp.Channel[int]()
    over = threading.Event()
    ended: list[object] = []

    def work(token: trio.lowlevel.TrioToken) -> None:
        channel.send_from_thread(1, trio_token=token)
        for wait in (False, True):
            if wait:
                assert over.wait(10)
            try:
                channel.send_from_thread(2, trio_token=token)
            except trio.RunFinishedError as error:
                ended.append(str(error))

    async def main() -> threading.Thread:
        token = trio.lowlevel.current_trio_token()
        thread = in_thread(lambda: work(token))
        assert await channel.receive() == (1, True)
        await thread_waits(channel)
        return thread

    thread = trio.run(main)
    over.set()
    thread.join(10)
    assert len(ended) == 2
    assert ended[0] == "the Trio run ended before the value was sent"
    assert channel.statistics().tasks_waiting_send == 0


async def test_called_where_it_would_block_trio_or_without_a_run_it_says_so() -> None:
    channel = csp.Channel[int](1)
    for token in (None, trio.lowlevel.current_trio_token()):
        with pytest.raises(NoContextError, match=r"here, `await channel\.send\(value\)`"):
            channel.send_from_thread(1, trio_token=token)
    said: list[str] = []

    def work() -> None:
        try:
            channel.send_from_thread(1)
        except RuntimeError as error:
            said.append(str(error))

    await trio.to_thread.run_sync(in_thread(work).join)
    assert "trio_token" in said[0]
    assert len(channel) == 0
    await wait_all_tasks_blocked()
