"""How blocks end, all that give values: whoever receives outside of one knows whether all the values came."""

from __future__ import annotations

import gc
import signal
import weakref
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import MockClock, memory_stream_one_way_pair, wait_all_tasks_blocked

import csp
from csp.errors import ChannelBrokenError, NoContextError
from tests.combinators._filled import filled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType

ENDED: object = (None, False)


@dataclass
class Made:
    """A block that was not entered yet, and what ends its source: quietly, or with a cause if there is one."""

    block: Any
    end: Callable[..., None]


def of_channel(make: Callable[[csp.Channel[int]], Any]) -> Callable[[], Made]:
    def made() -> Made:
        channel = csp.Channel[int](1)
        return Made(make(channel), channel.close)

    return made


async def work(value: int) -> int:
    return value  # pragma: no cover  # no value comes


async def one_by_one(source: csp.Source[int]) -> AsyncGenerator[int]:
    async for value in source:
        yield value  # pragma: no cover  # no value comes


async def in_a_nursery(source: csp.Source[int]) -> AsyncGenerator[int]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        async for value in source:
            yield value  # pragma: no cover  # no value comes
        nursery.cancel_scope.cancel()


def of_memory_channel() -> Made:
    sender, receiver = trio.open_memory_channel[int](1)
    return Made(csp.from_receive_channel(receiver), sender.close)


def of_event() -> Made:
    event = trio.Event()
    return Made(csp.from_event(event), event.set)


def of_stream() -> Made:
    sending, receiving = memory_stream_one_way_pair()
    return Made(csp.from_stream(receiving), sending.close)


def of_signals() -> Made:
    return Made(csp.from_signals(signal.SIGTERM), lambda: None)


# Those whose source can end with a cause.
WITH_CAUSE: dict[str, Callable[[], Made]] = {
    "merge": of_channel(csp.merge),
    "batch": of_channel(lambda source: csp.batch(source, 2)),
    "throttle": of_channel(lambda source: csp.throttle(source, "1s")),
    "debounce": of_channel(lambda source: csp.debounce(source, "1s")),
    "pipeline": of_channel(lambda source: csp.pipeline(source, work, workers=2)),
    "pipeline, unordered": of_channel(lambda source: csp.pipeline(source, work, workers=2, ordered=False)),
    "broadcast": of_channel(csp.broadcast),
    "broadcast, with replay": of_channel(lambda source: csp.broadcast(source, replay=2)),
    "PullSource": of_channel(lambda source: csp.PullSource(source.__anext__)),
    "from_async_iterable": of_channel(lambda source: csp.from_async_iterable(one_by_one(source))),
    "from_receive_channel": of_channel(lambda source: csp.from_receive_channel(source.receiver)),
}
WITH_END: dict[str, Callable[[], Made]] = {
    **WITH_CAUSE,
    "from_async_iterable, with a nursery": of_channel(lambda source: csp.from_async_iterable(in_a_nursery(source))),
    "from_receive_channel, of a memory channel": of_memory_channel,
    "from_event": of_event,
    "from_stream": of_stream,
}
BLOCKS: dict[str, Callable[[], Made]] = {**WITH_END, "from_signals": of_signals}


def opened(given: Any) -> csp.Source[Any]:
    """Return what a block gives values through."""
    return cast("csp.Source[Any]", given.subscribe(5, overflow="wait") if hasattr(given, "subscribe") else given)


async def by_receive(source: csp.Source[Any]) -> None:
    assert await source.receive() == ENDED


async def by_for(source: csp.Source[Any]) -> None:
    try:
        values = [value async for value in source]
    except ChannelBrokenError:
        assert source.cause is not None
    else:
        assert (values, source.cause) == ([], None)


async def by_receive_value(source: csp.Source[Any]) -> None:
    with pytest.raises(csp.errors.Error) as caught:
        await source.receive_value()
    assert isinstance(caught.value, csp.errors.EndOfChannelError) == (source.cause is None)


async def by_select(source: csp.Source[Any]) -> None:
    r = await csp.select(source.case_receive(), csp.never().case_receive())
    assert (r.channel, r.ok) == (source, False)


async def by_selector(source: csp.Source[Any]) -> None:
    with csp.Selector(source.case_receive()) as selector:
        assert [r.ok async for r in selector] == [False]


async def by_polling(source: csp.Source[Any]) -> None:
    while True:
        r = await csp.select(source.case_receive(), default=True)
        if not r.default:
            break
        await trio.sleep(0.25)
    assert (r.channel, r.ok) == (source, False)


WAYS = [by_receive, by_for, by_receive_value, by_select, by_selector, by_polling]


class Watched:
    """A block, and a task outside of it that receives what it gives.

    Args:
        name: which block.
        nursery: where the task runs.
        receive: how it receives until the end; None for a task that comes when the block has ended.
    """

    def __init__(self, name: str, nursery: trio.Nursery, receive: Callable[[csp.Source[Any]], Awaitable[None]] | None):
        made = BLOCKS[name]()
        self.end = made.end
        self.name = f"csp.{name.split(',', maxsplit=1)[0]}"
        self.finished = trio.Event()
        self._block = made.block
        self._nursery = nursery
        self._receive = receive

    async def __aenter__(self) -> csp.Source[Any]:
        given = await self._block.__aenter__()
        self.source = opened(given)
        if self._receive is not None:
            self._nursery.start_soon(self._consume, self._receive)
            await wait_all_tasks_blocked()
        return self.source

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        caught: bool | None = await self._block.__aexit__(exc_type, exc, traceback)
        return caught

    async def _consume(self, receive: Callable[[csp.Source[Any]], Awaitable[None]]) -> None:
        await receive(self.source)
        self.finished.set()

    async def cause(self) -> BaseException | None:
        """Return the cause, once the task has seen the end; whoever comes later sees it too."""
        if self._receive is not None:
            await self.finished.wait()
        for later in WAYS:
            await later(self.source)
        assert self.source.closed
        return self.source.cause

    async def assert_cancelled(self) -> None:
        cause = await self.cause()
        assert isinstance(cause, ChannelBrokenError)
        assert str(cause) == f"the values ended too early: the block of {self.name} was cancelled"
        assert cause.__cause__ is None
        assert cause.details == {"block": self.name}

    async def assert_failed(self, text: str) -> BaseException | None:
        """Return what the cause was raised from."""
        cause = await self.cause()
        assert isinstance(cause, ChannelBrokenError)
        assert str(cause) == f"the values ended too early: the block of {self.name} failed: {text}"
        return cause.__cause__


blocks = pytest.mark.parametrize("name", BLOCKS)
ways = pytest.mark.parametrize("receive", [*WAYS, None])
some_ways = pytest.mark.parametrize("receive", [by_receive, by_selector, None])


@blocks
@ways
async def test_a_block_that_is_left_ends_quietly(autojump_clock: MockClock, name: str, receive: Any) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)
        async with watched as source:
            await wait_all_tasks_blocked()
            assert not source.closed
        assert await watched.cause() is None


@blocks
@ways
async def test_a_block_that_fails_breaks_what_it_gives(autojump_clock: MockClock, name: str, receive: Any) -> None:
    error = KeyError("mine")
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)
        with pytest.raises(KeyError) as caught:
            async with watched:
                raise error
        assert caught.value is error
        assert await watched.assert_failed("KeyError('mine')") is error
        with pytest.raises(ChannelBrokenError, match="ended too early"):
            await anext(watched.source)


@blocks
@ways
async def test_a_block_that_is_cancelled_breaks_what_it_gives(
    autojump_clock: MockClock, name: str, receive: Any
) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)
        with trio.CancelScope() as scope:
            async with watched:
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await watched.assert_cancelled()


@blocks
@some_ways
async def test_a_block_whose_deadline_passes_breaks_what_it_gives(
    autojump_clock: MockClock, name: str, receive: Any
) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)
        with trio.move_on_after(100):
            async with watched:
                await trio.sleep_forever()
        await watched.assert_cancelled()


@blocks
@some_ways
async def test_a_block_that_ends_without_a_checkpoint_in_a_cancelled_scope_was_cancelled(
    autojump_clock: MockClock, name: str, receive: Any
) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)
        with trio.CancelScope() as scope:
            async with watched:
                scope.cancel()
        await watched.assert_cancelled()


@blocks
async def test_a_block_that_ends_after_its_deadline_was_cancelled(mock_clock: MockClock, name: str) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, None)
        with trio.move_on_after(1):
            async with watched:
                mock_clock.jump(2)  # a body that did not let Trio run
        mock_clock.autojump_threshold = 0
        await watched.assert_cancelled()


@blocks
@some_ways
async def test_whoever_receives_from_a_cancelled_block_is_told_though_its_body_is_shielded(
    name: str, receive: Any
) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)
        with trio.CancelScope() as scope:
            async with watched:
                with trio.CancelScope(shield=True):
                    scope.cancel()
                    await watched.assert_cancelled()
        await watched.assert_cancelled()


@blocks
async def test_a_shielded_body_that_ends_when_its_block_was_cancelled_does_not_end_it_quietly(name: str) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, None)
        with trio.CancelScope() as scope:
            async with watched:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
        assert watched.source.closed
        nursery.start_soon(by_receive, watched.source)
    assert isinstance(watched.source.cause, ChannelBrokenError)


@blocks
@pytest.mark.parametrize("receive", [by_receive, None])
async def test_a_shielded_body_that_fails_in_a_cancelled_block_breaks_what_it_gives(name: str, receive: Any) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)

        async def block(scope: trio.CancelScope) -> None:
            async with watched:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
                raise KeyError("mine")

        with trio.CancelScope() as scope, pytest.raises(KeyError, match="mine"):
            await block(scope)
        assert isinstance(await watched.cause(), ChannelBrokenError)


@blocks
@pytest.mark.parametrize("receive", [by_receive, None])
async def test_a_cancellation_beside_a_failure_is_not_told(name: str, receive: Any) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("cleaning up")

    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)

        async def block(scope: trio.CancelScope) -> None:
            async with watched, trio.open_nursery() as inner:
                inner.start_soon(fail_when_cancelled)
                inner.start_soon(trio.sleep_forever)
                await wait_all_tasks_blocked()
                scope.cancel()

        with trio.CancelScope() as scope, pytest.raises(ExceptionGroup) as caught:
            await block(scope)
        assert caught.value.subgroup(KeyError) is not None
        # Its task may have been told of the cancellation first.
        cause = await watched.cause()
        assert isinstance(cause, ChannelBrokenError)
        assert "Cancelled" not in repr(cause.__cause__)


@blocks
@pytest.mark.parametrize("receive", [by_receive, None])
async def test_a_block_in_an_async_generator_that_is_closed_breaks_what_it_gives(name: str, receive: Any) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)

        async def generator() -> AsyncGenerator[csp.Source[Any]]:
            async with watched as source:
                yield source

        generated = generator()
        assert await anext(generated) is watched.source
        await generated.aclose()
        await watched.assert_failed("GeneratorExit()")


@blocks
async def test_a_block_is_entered_once(name: str) -> None:
    made = BLOCKS[name]()
    text = f"^this {name.split(',', maxsplit=1)[0]} was used before; make another one$"
    async with made.block:
        with pytest.raises(NoContextError, match=text):
            await made.block.__aenter__()
    with pytest.raises(NoContextError, match=text):
        await made.block.__aenter__()


@pytest.mark.parametrize("name", WITH_END)
@pytest.mark.parametrize("left", ["", "fails", "is cancelled"])
@pytest.mark.parametrize("receive", [by_receive, by_selector])
async def test_an_end_that_came_before_stays(name: str, left: str, receive: Any) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, receive)
        with trio.CancelScope() as scope:
            try:
                async with watched:
                    watched.end()
                    await watched.finished.wait()
                    if left == "fails":
                        raise KeyError("mine")
                    if left == "is cancelled":
                        scope.cancel()
                        await trio.sleep_forever()
            except KeyError:
                assert left == "fails"
        assert await watched.cause() is None


@pytest.mark.parametrize("name", WITH_CAUSE)
async def test_a_cause_that_came_before_stays(name: str) -> None:
    error = KeyError("the source's")
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, by_receive)

        async def block() -> None:
            async with watched:
                watched.end(error)
                await watched.finished.wait()
                raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await block()
        cause = await watched.cause()
    assert cause is not None
    # Through an iteration or Trio's interface, it comes as what that raises.
    assert error in (cause, cause.__cause__)


@pytest.mark.parametrize("name", WITH_END)
async def test_an_end_that_comes_after_does_not_stay(name: str) -> None:
    async with trio.open_nursery() as nursery:
        watched = Watched(name, nursery, by_receive)
        with trio.CancelScope() as scope:
            async with watched:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await watched.finished.wait()
                    watched.end()
                    await watched.assert_cancelled()
        await watched.assert_cancelled()


HOLDING: dict[str, tuple[Callable[[csp.Source[int]], Any], object]] = {
    "merge": (csp.merge, 1),
    "batch": (lambda source: csp.batch(source, 3), [1, 2]),
    "throttle": (lambda source: csp.throttle(source, "1s"), 2),
    "debounce": (lambda source: csp.debounce(source, "1s"), 2),
    "PullSource": (lambda source: csp.PullSource(source.receive_value), 1),
}


@pytest.mark.parametrize("name", HOLDING)
@pytest.mark.parametrize("failing", [False, True])
async def test_what_a_block_holds_comes_before_its_end(name: str, failing: bool) -> None:
    make, held = HOLDING[name]
    entered: list[csp.Source[Any]] = []

    async def block() -> None:
        async with make(filled(1, 2, closed=False)) as source:
            entered.append(source)
            await csp.select(source.case_receive(), default=True)
            await wait_all_tasks_blocked()
            if failing:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") if failing else nullcontext():
        await block()
    [source] = entered
    assert await source.receive() == (held, True)
    assert await source.receive() == ENDED
    assert (source.cause is not None) == failing


class Raising(csp.Source[int]):
    """Raises when it is received from, once it was told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        self._ready = False

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # it has no clock
        return self._ready

    def receive_nowait(self) -> csp.Received[int]:
        raise self._error

    def fail(self) -> None:
        self._ready = True
        self.wake()


@pytest.mark.parametrize("error", [KeyError("the source's"), csp.errors.ChannelClosedError("the source's")])
@pytest.mark.parametrize("name", ["throttle", "debounce", "broadcast"])
async def test_what_a_source_raises_is_the_cause_and_comes_out_of_the_block(name: str, error: Exception) -> None:
    raising = Raising(error)
    make: Any = {
        "throttle": lambda: csp.throttle(raising, "1s"),
        "debounce": lambda: csp.debounce(raising, "1s"),
        "broadcast": lambda: csp.broadcast(raising),
    }[name]
    channel: Any = None

    async def block() -> None:
        nonlocal channel
        async with make() as given:
            channel = opened(given)
            await wait_all_tasks_blocked()
            raising.wake()  # nothing has come yet
            raising.fail()
            await trio.sleep_forever()

    with pytest.raises(type(error)) as caught:
        await block()
    assert caught.value is error
    assert channel.receive_nowait() == ENDED
    assert channel.cause is error


@blocks
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_block_that_has_ended_is_no_reference_cycle(name: str, cancelled: bool) -> None:
    held: list[weakref.ref[csp.Source[Any]]] = []

    async def hold() -> None:
        with trio.CancelScope() as scope:
            async with BLOCKS[name]().block as given:
                source = opened(given)
                held.append(weakref.ref(source))
                await csp.select(source.case_receive(), default=True)
                await wait_all_tasks_blocked()
                if cancelled:
                    scope.cancel()
                    await trio.sleep_forever()

    gc.disable()
    try:
        await hold()
        assert held[0]() is None
    finally:
        gc.enable()


def test_repr_names_the_function() -> None:
    assert repr(csp.throttle(csp.Channel[int](), "1s")).startswith("<block of csp.throttle at 0x")
