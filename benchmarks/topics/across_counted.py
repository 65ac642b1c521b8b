"""Queues and topics whose operations can be counted: what csp.redis does with answers of a server that is not there.

Its connections are replaced by scripts of answers, which come at once, and no clock runs meanwhile: what there is to
read when the driver reads is the same each time. What coredis does is not in it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import trio
from trio.testing import wait_all_tasks_blocked

from csp import redis
from trio_csp_redis.connection.line import Line
from trio_csp_redis.queue.scripts import CLAIM, SETTLE
from trio_csp_redis.topic.scripts import POSITION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from benchmarks.meters.measure import Meter

CAPACITY = 64
_NAME = "counted"
_URL = "redis://127.0.0.1/0"
_VALUE = b"x" * 100
_EPOCH = b"1-0"
_SETTLED_FIELDS = 4

_Entries = list[tuple[bytes, list[bytes]]]


class _Server:
    """What every connection is to.

    Args:
        entries: what is read from the only stream.
    """

    usable = True
    run_id = b"counted"
    client_id = 1

    def __init__(self, entries: _Entries) -> None:
        self._entries = entries
        self._given = 0
        self._unblocked = trio.Event()

    def give_up_if_late(self) -> None:
        """Do nothing: no answer is late here."""

    async def call(self, command: bytes, *arguments: bytes | str | int, doing: str, seconds: float = 0.0) -> object:
        """Answer XREAD and XREADGROUP; where nothing is left, at CLIENT UNBLOCK."""
        if command == b"CLIENT":
            self._unblocked.set()
            await wait_all_tasks_blocked()
            return 1
        assert command in (b"XREAD", b"XREADGROUP"), (command, doing, seconds)
        if self._given == len(self._entries):
            await self._unblocked.wait()
            return None
        await trio.lowlevel.checkpoint()
        count = arguments[arguments.index(b"COUNT") + 1]
        key = arguments[arguments.index(b"STREAMS") + 1]
        assert isinstance(count, int)
        answer = self._entries[self._given : self._given + count]
        self._given += len(answer)
        return {key: answer}

    async def run(self, script: object, _keys: object, arguments: Sequence[bytes | int], _doing: str) -> object:
        """Answer a script as a server does that has everything, and nothing of other workers."""
        await trio.lowlevel.checkpoint()
        if script is SETTLE:
            return [1] * ((len(arguments) - 2) // _SETTLED_FIELDS)
        if script is POSITION:
            return b"0-0", _EPOCH, 0, None, 0
        nothing: list[object] = []
        return (nothing, 0, 0) if script is CLAIM else 0


@contextmanager
def _server(entries: _Entries) -> Generator[None]:
    """Have every connection be to a server that is not there."""
    server = _Server(entries)

    async def run(_line: object, serve: Callable[[object], Awaitable[None]]) -> None:
        await serve(server)

    with mock.patch.object(Line, "run", run):
        yield


async def receive(count: int, meter: Meter) -> None:
    """Receive values of a topic: decode them, and hand them out."""
    entries: _Entries = [
        (b"1-%d" % number, [b"e", _EPOCH, b"n", b"%d" % number, b"d", _VALUE]) for number in range(1, count + 1)
    ]
    with _server(entries):
        async with redis.Bus(_URL) as bus, bus.topic(_NAME).subscribe(capacity=CAPACITY, since="start") as updates:
            with meter:
                for _ in range(count):
                    await updates.receive()


async def work(count: int, meter: Meter) -> None:
    """Do values of a queue: decode them, hand them out, and ack them in batches."""
    entries: _Entries = [(b"1-%d" % number, [b"d", _VALUE]) for number in range(1, count + 1)]
    with _server(entries):
        async with redis.Bus(_URL) as bus, bus.queue(_NAME).work(capacity=CAPACITY) as deliveries:
            with meter:
                for _ in range(count):
                    with await deliveries.receive_value():
                        pass
                await deliveries.flush()
