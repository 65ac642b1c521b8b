"""What needs a Trio run says so where there is none: in plain code, and under asyncio.

Every public function and class is in one of the lists here, and so is every public method that is async.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
from trio.testing import MemoryReceiveStream, wait_all_tasks_blocked

import csp
from csp import errors, redis, testing, websocket
from tests.test_public_names import CLASSES, ERRORS, FUNCTIONS, PUBLIC

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

URL = "ws://api.example.com/"


def channel_of(*values: int) -> csp.Channel[int]:
    channel = csp.Channel[int](max(1, len(values)))
    for value in values:
        channel.send_nowait(value)
    return channel


class Own(csp.Source[int]):
    """A source that has a value, or none."""

    def __init__(self, ready: bool) -> None:
        super().__init__()
        self._ready = ready

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # a source has it
        return self._ready

    def receive_nowait(self) -> csp.Received[int]:
        return csp.Received(1, True)


def made_in_a_run(make: Callable[[], csp.TimerChannel]) -> csp.TimerChannel:
    async def main() -> csp.TimerChannel:
        return make()

    return trio.run(main)


async def enter(block: Any) -> None:
    async with block:
        raise AssertionError("entered")  # pragma: no cover  # that is what is tested


async def count() -> AsyncGenerator[int]:
    yield 1  # pragma: no cover  # it is not started


async def work(value: object = None) -> int:
    raise AssertionError("called")  # pragma: no cover  # that is what is tested


async def call(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


# Each is a way to use a public name that needs a run.
USES: dict[str, list[Callable[[], Awaitable[object]]]] = {
    "csp.BackgroundNursery.__aenter__": [lambda: enter(csp.BackgroundNursery())],
    "csp.Channel.send": [
        lambda: csp.Channel[int]().send(1),
        lambda: channel_of().send(1),
        lambda: channel_of(1).send(2),
    ],
    "csp.Channel.send_many": [
        lambda: csp.Channel[int]().send_many(deque([1])),
        lambda: channel_of().send_many(deque([1])),
        lambda: channel_of().send_many(deque()),
    ],
    "csp.Channel.receive": [csp.Channel[int]().receive, channel_of(1).receive],
    "csp.Channel.receive_value": [csp.Channel[int]().receive_value, channel_of(1).receive_value],
    "csp.Channel.__anext__": [csp.Channel[int]().__anext__, channel_of(1).__anext__],
    "csp.Channel.receive_many": [lambda: csp.Channel[int]().receive_many(1), lambda: channel_of(1).receive_many(1)],
    "csp.Source.receive": [Own(False).receive, Own(True).receive, csp.never().receive],
    "csp.Source.receive_many": [lambda: Own(False).receive_many(1), lambda: Own(True).receive_many(1)],
    "csp.Source.receive_value": [Own(False).receive_value, Own(True).receive_value],
    "csp.Source.__anext__": [Own(False).__anext__, Own(True).__anext__],
    "csp.PullSource.__aenter__": [lambda: enter(csp.PullSource(work))],
    "csp.SendEnd.send": [lambda: csp.Channel[int]().sender.send(1)],
    "csp.SendEnd.aclose": [csp.Channel[int]().sender.aclose],
    "csp.ReceiveEnd.receive": [csp.Channel[int]().receiver.receive],
    "csp.ReceiveEnd.__anext__": [csp.Channel[int]().receiver.__anext__],
    "csp.ReceiveEnd.aclose": [csp.Channel[int]().receiver.aclose],
    "csp.Selector.select": [csp.Selector(csp.Channel[int]()).select, csp.Selector(channel_of(1)).select],
    "csp.Selector.select_many": [
        lambda: csp.Selector(csp.Channel[int]()).select_many(1),
        lambda: csp.Selector(channel_of(1)).select_many(1),
        lambda: csp.Selector[int]().select_many(1),
    ],
    "csp.Selector.__anext__": [csp.Selector(csp.Channel[int]()).__anext__, csp.Selector[int]().__anext__],
    "csp.TimerChannel.receive": [lambda: made_in_a_run(lambda: csp.after("1h")).receive()],
    "csp.TimerChannel.receive_many": [lambda: made_in_a_run(lambda: csp.tick("1h")).receive_many(1)],
    "csp.TimerChannel.receive_value": [lambda: made_in_a_run(lambda: csp.tick("1h")).receive_value()],
    "csp.TimerChannel.__anext__": [lambda: made_in_a_run(lambda: csp.Timer("1h").channel).__anext__()],
    "csp.Moment": [partial(call, csp.Moment().time)],
    "csp.Ticker": [partial(call, csp.Ticker, "1s")],
    "csp.Timer": [partial(call, csp.Timer, "1s")],
    "csp.after": [partial(call, csp.after, "1s")],
    "csp.tick": [partial(call, csp.tick, "1s")],
    "csp.batch": [lambda: enter(csp.batch(channel_of(1), 2))],
    "csp.broadcast": [lambda: enter(csp.broadcast(channel_of(1)))],
    "csp.debounce": [lambda: enter(csp.debounce(channel_of(1), "1s"))],
    "csp.from_async_iterable": [lambda: enter(csp.from_async_iterable(count()))],
    "csp.from_event": [lambda: enter(csp.from_event(trio.Event()))],
    "csp.from_receive_channel": [lambda: enter(csp.from_receive_channel(trio.open_memory_channel[int](1)[1]))],
    "csp.from_signals": [lambda: enter(csp.from_signals(signal.SIGTERM))],
    "csp.from_stream": [lambda: enter(csp.from_stream(MemoryReceiveStream()))],
    "csp.merge": [lambda: enter(csp.merge(channel_of(1), channel_of(2)))],
    "csp.pipeline": [lambda: enter(csp.pipeline(channel_of(1), work, workers=2))],
    "csp.select": [
        lambda: csp.select(csp.Channel[int]().case_receive()),
        lambda: csp.select(channel_of(1).case_receive(), default=True),
        lambda: csp.select(csp.Channel[int]().case_send(1)),
        lambda: csp.select(made_in_a_run(lambda: csp.after("1h")).case_receive()),
        csp.select,
    ],
    "csp.throttle": [lambda: enter(csp.throttle(channel_of(1), "1s"))],
    "csp.redis.Bus.__aenter__": [lambda: enter(redis.Bus("redis://localhost"))],
    "csp.testing.redis_server": [lambda: enter(testing.redis_server())],
    "csp.testing.websocket_pair": [lambda: enter(testing.websocket_pair())],
    "csp.testing.websocket_server": [lambda: enter(testing.websocket_server(work))],
    "csp.websocket.connect": [lambda: enter(websocket.connect(URL))],
    "csp.websocket.listen": [lambda: enter(websocket.listen(0))],
    "csp.websocket.reconnecting": [lambda: enter(websocket.reconnecting(URL))],
    "csp.websocket.serve": [lambda: websocket.serve(work, 0)],
}

# What does without a run, or is only given to a program that is inside of one.
OTHERS = {
    "csp": "Broadcast Case ChannelStatistics ConnectionState Gap Latest Overflow ReceiveCase Received SelectResult "
    "SendCase never parse_duration schedule_point_due",
    "csp.errors": "Kind is_kind shown wrap",
    "csp.redis": "BYTES JSON Backlog BusStatistics Codec DeadLetter DeadLetters Deliveries Delivery Gap Published "
    "Queue QueueOverflow State Topic Updates",
    "csp.security": "Actor Condition Policy Scope can context",
    "csp.testing": "Handler RedisServer ServerConnection",
    "csp.websocket": "BroadcastResult Client CloseCode CLOSE_CODES COMPRESSION Compression ConnectOptions Connecting "
    "Feed FeedOptions FeedStatistics Gap Headers Hub ListenOptions Listening Message MessageStream Request Response "
    "ServeOptions Server ServerConnection ServerStatistics State Statistics default_retry inherited_sockets",
    "csp.websocket.telemetry": "Instrumentation instrument",
}
# Entering an end waits for nothing; a PullSource gives nothing before its block.
OTHER_METHODS = {
    *("csp.SendEnd.__aenter__", "csp.ReceiveEnd.__aenter__"),
    *("csp.PullSource.receive", "csp.PullSource.receive_many", "csp.PullSource.receive_value"),
    "csp.PullSource.__anext__",
}


def of_list(path: str) -> bool:
    face, _, name = path.rpartition(".")
    return name in OTHERS.get(face, "").split()


def async_methods(path: str, cls: type) -> Iterable[str]:
    for name in dir(cls):
        called = name[:1] != "_" or name in ("__aenter__", "__anext__")
        if called and inspect.iscoroutinefunction(inspect.getattr_static(cls, name)):
            yield f"{path}.{name}"


def test_every_public_name_is_in_one_of_the_lists() -> None:
    wanted = set(FUNCTIONS)
    for path, cls in CLASSES.items():
        if path not in ERRORS and not of_list(path):
            wanted |= set(async_methods(path, cls)) or {path}
    missing = {path for path in wanted if not of_list(path) and path not in OTHER_METHODS}
    assert missing == set(USES)
    assert {path for path in PUBLIC if of_list(path)} == {
        f"{face}.{name}" for face, names in OTHERS.items() for name in names.split()
    }


WAYS = [(path, use) for path, uses in USES.items() for use in uses]
IDS = [path for path, _ in WAYS]


@pytest.mark.parametrize(("path", "use"), WAYS, ids=IDS)
def test_under_asyncio_it_says_that_it_needs_a_run(path: str, use: Callable[[], Awaitable[object]]) -> None:
    async def main() -> None:
        await use()

    with pytest.raises(errors.NoContextError, match=r"inside trio\.run"):
        asyncio.run(main())


@pytest.mark.parametrize(("path", "use"), WAYS, ids=IDS)
def test_in_plain_code_it_says_that_it_needs_a_run(path: str, use: Callable[[], Awaitable[object]]) -> None:
    async def main() -> None:
        await use()

    coroutine = main()
    with pytest.raises(errors.NoContextError, match=r"inside trio\.run") as caught:
        coroutine.send(None)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_send_many_without_a_run_leaves_the_values() -> None:
    values = deque([1, 2])
    with pytest.raises(errors.NoContextError):
        csp.Channel[int]().send_many(values).send(None)
    assert values == deque([1, 2])


async def test_where_there_is_a_run_its_error_comes_out_as_it_is() -> None:
    channel, full = csp.Channel[int](), channel_of(1)
    operations: list[Callable[[], Awaitable[object]]] = [
        channel.receive,
        lambda: full.send(2),
        Own(False).receive,
        lambda: csp.select(Own(False).case_receive()),
        csp.Selector(Own(False)).select,
    ]
    for operation in operations:
        tasks: list[trio.lowlevel.Task] = []
        broken = RuntimeError("broken")
        caught: list[RuntimeError] = []

        async def run() -> None:
            tasks.append(trio.lowlevel.current_task())  # noqa: B023  # it runs in the same round
            try:
                await operation()  # noqa: B023  # as above
            except RuntimeError as error:
                caught.append(error)  # noqa: B023  # as above

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            trio.lowlevel.reschedule(tasks[0], outcome.Error(broken))
        assert caught == [broken]
