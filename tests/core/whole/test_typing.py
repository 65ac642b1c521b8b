"""The public API as type checkers see it; mypy and pyright check this file, and it runs as well."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Never, assert_type

import pytest
import trio
import trio.testing

import csp
from csp import errors

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


async def test_channel() -> None:
    channel = csp.Channel[int](3)
    assert_type(await channel.send(1), None)
    assert_type(channel.send_nowait(2), None)
    assert_type(await channel.receive(), csp.Received[int])
    assert_type(channel.receive_nowait(), csp.Received[int])
    channel.send_nowait(3)
    value, ok = await channel.receive()
    assert_type(value, int)
    assert_type(ok, bool)
    assert_type(channel.case_receive(), csp.ReceiveCase[int])
    assert_type(channel.case_send(1), csp.SendCase[int])
    assert_type(channel.capacity, float)
    assert_type(len(channel), int)
    assert_type(channel.statistics(), csp.ChannelStatistics)
    assert_type(channel.close(OSError()), None)
    assert_type(channel.closed, bool)
    assert_type(channel.cause, BaseException | None)


async def test_iteration() -> None:
    channel = csp.Channel[str](1)
    channel.send_nowait("a")
    channel.close()
    async for value in channel:
        assert_type(value, str)


async def test_ends() -> None:
    channel = csp.Channel[int](1)
    sender: trio.abc.SendChannel[int] = channel.sender
    receiver: trio.abc.ReceiveChannel[int] = channel.receiver
    assert_type(channel.sender, csp.SendEnd[int])
    assert_type(channel.receiver, csp.ReceiveEnd[int])
    await sender.send(1)
    assert_type(await receiver.receive(), int)


async def test_select_with_one_type() -> None:
    channel = csp.Channel[int](2)
    result = await csp.select(channel.case_send(1), None)
    assert_type(result, csp.SelectResult[int])
    assert_type(result.value, int)
    assert_type(result.ok, bool)
    assert_type(result.default, bool)
    assert_type(result.index, int)
    assert_type(result.channel, object)


async def test_select_with_one_type_of_channel_and_a_default() -> None:
    channel = csp.Channel[str](2)
    result = await csp.select(channel.case_receive(), default=True, priority=True)
    assert_type(result, csp.SelectResult[str])


async def test_select_with_different_types() -> None:
    numbers, words = csp.Channel[int](1), csp.Channel[str](1)
    numbers.send_nowait(1)
    result = await csp.select(numbers.case_receive(), words.case_receive(), csp.after("1m").case_receive())
    assert_type(result, csp.SelectResult[int | str | float])
    assert_type(result.value, int | str | float)
    assert result.value == 1


async def test_select_with_six_types_and_a_send() -> None:
    numbers, words, lists = csp.Channel[int](1), csp.Channel[str](1), csp.Channel[list[int]]()
    sets, blobs, sent = csp.Channel[set[int]](), csp.Channel[bytes](), csp.Channel[complex](1)
    result = await csp.select(
        numbers.case_receive(),
        words.case_receive(),
        lists.case_receive(),
        sets.case_receive(),
        blobs.case_receive(),
        sent.case_send(1j),
    )
    assert_type(result, csp.SelectResult[int | str | list[int] | set[int] | bytes | complex])
    assert sent.took(result)
    assert_type(result.value, complex)


async def test_gave_and_took_narrow_the_value() -> None:
    numbers, words, timeout = csp.Channel[int](1), csp.Channel[str](1), csp.after("1m")
    words.send_nowait("a")
    r = await csp.select(numbers.case_receive(), words.case_receive(), timeout.case_receive(), words.case_send("b"))
    if numbers.gave(r):
        assert_type(r, csp.SelectResult[int])
        assert_type(r.value, int)
    elif timeout.gave(r):
        assert_type(r.value, float)
    elif words.took(r):
        assert_type(r, csp.SelectResult[str])
    else:
        assert words.gave(r)
        assert_type(r.value, str)
        assert r.value == "a"


async def test_a_list_of_cases() -> None:
    numbers, words = csp.Channel[int](1), csp.Channel[str](1)
    cases: list[csp.Case[int | str] | None] = [numbers.case_receive(), words.case_send("a"), None]
    assert_type(await csp.select(*cases), csp.SelectResult[int | str])
    receives = [channel.case_receive() for channel in (csp.Channel[int](1), csp.Channel[int](1))]
    assert_type(await csp.select(*receives, default=True), csp.SelectResult[int])


async def test_a_list_of_mixed_cases_is_not_any() -> None:
    numbers, words = csp.Channel[int](1), csp.Channel[str](1)
    mixed = [numbers.case_receive(), words.case_receive()]
    r = await csp.select(*mixed, default=True)
    with pytest.raises(AttributeError):
        _ = r.value.wrong  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    both = [numbers.case_receive(), words.case_send("a")]
    s = await csp.select(*both)
    with pytest.raises(AttributeError):
        _ = s.value.wrong  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def test_receive_value() -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)
    assert_type(await channel.receive_value(), int)


def test_a_channel_is_a_block() -> None:
    with csp.Channel[int]() as channel:
        assert_type(channel, csp.Channel[int])


async def test_overflow() -> None:
    overflow: csp.Overflow = "drop_oldest"
    assert_type(csp.Channel[int](1, overflow=overflow), csp.Channel[int])


async def test_selector() -> None:
    channel = csp.Channel[int](3)
    for number in range(3):
        channel.send_nowait(number)
    with csp.Selector(channel.case_receive()) as selector:
        assert_type(selector, csp.Selector[int])
        assert_type(await selector.select(), csp.SelectResult[int])
        async for result in selector:
            assert_type(result, csp.SelectResult[int])
            break
        assert_type(selector.remove(channel.case_receive()), None)
        assert_type(len(selector), int)


async def test_selector_with_different_types() -> None:
    numbers, words, timeout = csp.Channel[int](1), csp.Channel[str](1), csp.after("1m")
    words.send_nowait("a")
    with csp.Selector(numbers, words.case_receive(), timeout) as selector:
        assert_type(selector, csp.Selector[int | str | float])
        r = await selector.select()
        assert_type(r, csp.SelectResult[int | str | float])
        assert words.gave(r)
        assert_type(r.value, str)
        selector.add(csp.Channel[int]())
        selector.remove(numbers)
    six = csp.Selector(
        numbers, words, timeout, csp.Channel[bytes](), csp.Channel[list[int]](), csp.Channel[complex]().case_receive()
    )
    assert_type(six, csp.Selector[int | str | float | bytes | list[int] | complex])


def test_selector_of_a_list() -> None:
    channels = [csp.Channel[int]() for _ in range(3)]
    assert_type(csp.Selector(*channels), csp.Selector[int])
    assert_type(csp.Selector[int](), csp.Selector[int])
    sources: list[csp.Source[int | str]] = [csp.Channel[int](), csp.Channel[str]()]
    assert_type(csp.Selector(*sources), csp.Selector[int | str])


async def test_composing_gives_blocks_of_sources() -> None:
    numbers, words = csp.Channel[int](), csp.Channel[str]()
    bare: AbstractAsyncContextManager[csp.Source[int], bool | None] = csp.merge(numbers)
    async with bare as source:
        assert_type(source, csp.Source[int])
    async with csp.merge(numbers, words) as merged:
        assert_type(merged, csp.Source[int | str])
    async with csp.merge(
        numbers, words, csp.after("1m"), csp.Channel[bytes](), csp.Channel[list[int]](), csp.Channel[complex]()
    ) as six:
        assert_type(six, csp.Source[int | str | float | bytes | list[int] | complex])
    async with csp.batch(numbers, 10, within="1s") as batches:
        assert_type(batches, csp.Source[list[int]])
    async with csp.throttle(numbers, "1s") as shown:
        assert_type(shown, csp.Source[int])
        assert callable(shown.send)  # type: ignore[attr-defined]  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
    async with csp.debounce(words, "1s") as settled:
        assert_type(settled, csp.Source[str])
    async with csp.pipeline(numbers, half, workers=2) as halves:
        assert_type(halves, csp.Source[float])
    async with csp.broadcast(words) as room:
        assert_type(room, csp.Broadcast[str])
        with room.subscribe(1, overflow="wait") as said:
            assert_type(said, csp.Channel[str])


async def half(number: int) -> float:
    return number / 2


async def test_what_else_there_is_comes_as_blocks_of_sources() -> None:
    async with csp.from_event(trio.Event()) as event:
        assert_type(event, csp.Source[Never])
    async with csp.from_receive_channel(trio.open_memory_channel[int](0)[1]) as numbers:
        assert_type(numbers, csp.Source[int])
    async with csp.from_stream(trio.testing.memory_stream_pair()[0]) as pieces:
        assert_type(pieces, csp.Source[bytes])
    async with csp.PullSource(csp.Channel[int]().receive_value) as pulled:
        assert_type(pulled, csp.PullSource[int])


async def test_timers() -> None:
    after = csp.after(timedelta(0))
    assert_type(await after.receive(), csp.Received[float])
    source: csp.Source[float] = after
    assert_type(source.case_receive(), csp.ReceiveCase[float])
    channel: csp.TimerChannel = csp.tick("1s")
    assert_type(channel.case_receive(), csp.ReceiveCase[float])
    timer = csp.Timer("1s")
    assert_type(timer.channel, csp.TimerChannel)
    assert_type(timer.stop(), bool)
    assert_type(timer.reset("1s"), bool)
    ticker = csp.Ticker("1s")
    assert_type(ticker.stop(), bool)
    assert_type(ticker.reset("1s"), bool)
    assert_type(csp.never().case_receive(), csp.ReceiveCase[Never])
    assert_type(csp.parse_duration("1s"), float)


def test_errors() -> None:
    error = errors.Error("late", kind=errors.TIMEOUT)
    assert_type(error.kind, errors.Kind)
    assert_type(error.retryable, bool | None)
    details = assert_type(error.details, Mapping[str, object])
    assert details == {}
    assert_type(errors.wrap(errors.InvalidError("no"), "text"), errors.InvalidError)
    assert_type(errors.wrap(OSError(), "text"), errors.Error)
    assert_type(errors.is_kind(None, errors.TIMEOUT), bool)


def test_what_is_exported_exists() -> None:
    assert all(hasattr(csp, name) for name in csp.__all__)
    assert all(hasattr(errors, name) for name in errors.__all__)
