"""How many bytes wait: counted message by message, and forgotten as they are taken."""

from __future__ import annotations

import math
from collections import deque
from sys import getsizeof

import trio

import csp
from csp.websocket import Message
from trio_csp_websocket.connection.backlog import Backlog, call_when_drained

LARGE = Message("binary", bytes(500))
SIZE = getsizeof(LARGE.data)


def test_messages_count_until_they_are_taken() -> None:
    backlog = Backlog(2 * SIZE, 1)
    assert (backlog.too_large, backlog.first) == (False, 0)
    backlog.add((LARGE,), 1)
    assert (backlog.too_large, backlog.first) == (False, 1)
    backlog.add((LARGE,), 2)
    assert (backlog.too_large, backlog.first) == (True, 1)
    backlog.forget(0)
    assert (backlog.too_large, backlog.first) == (True, 1)
    backlog.forget(1)
    assert (backlog.too_large, backlog.first) == (False, 2)
    backlog.forget(2)
    assert (backlog.too_large, backlog.first) == (False, 0)


def test_small_ones_count_together_until_the_last_of_them_is_taken() -> None:
    backlog = Backlog(1000 * SIZE, 1)
    for number in range(1, 4):
        backlog.add((LARGE,), number)
    assert backlog.first == 3


async def test_what_waits_for_room_is_called_once_or_called_off() -> None:
    channel = csp.Channel[int](math.inf)
    await channel.send_many(deque([1, 2, 3]))
    calls: list[str] = []
    call_when_drained(channel, 1, lambda: calls.append("called"))
    call_when_drained(channel, 1, lambda: calls.append("called off"))()
    for _ in range(3):
        channel.receive_nowait()
    await trio.lowlevel.checkpoint()
    assert calls == ["called"]
