"""What a select gives: which case was performed, asked of the channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import csp

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_send_and_a_receive_on_one_channel_are_told_apart() -> None:
    channel = csp.Channel[int](1)
    cases = channel.case_send(1), channel.case_receive()
    sent, received = await csp.select(*cases), await csp.select(*cases)
    assert (sent.channel, sent.value, sent.index) == (channel, 1, 0)
    assert (received.channel, received.value, received.index) == (channel, 1, 1)
    assert (sent.sent, received.sent) == (True, False)
    assert channel.took(sent)
    assert not channel.gave(sent)
    assert channel.gave(received)
    assert not channel.took(received)


async def test_only_the_channel_of_the_case_gave_or_took() -> None:
    channel, other = csp.Channel[int](1), csp.Channel[int](1)
    sent = await csp.select(channel.case_send(1))
    received = await csp.select(channel.case_receive())
    assert not other.took(sent)
    assert not other.gave(sent)
    assert not other.took(received)
    assert not other.gave(received)


async def test_the_end_of_a_channel_is_nothing_it_gave() -> None:
    channel = csp.Channel[int]()
    channel.close()
    r = await csp.select(channel.case_receive())
    assert r.channel is channel
    assert not r.ok
    assert not channel.gave(r)
    assert not channel.took(r)


async def test_the_default_is_nothing_anybody_gave() -> None:
    channel = csp.Channel[int]()
    r = await csp.select(channel.case_receive(), default=True)
    assert r.default
    assert not r.sent
    assert not channel.gave(r)
    assert not channel.took(r)


async def test_none_is_a_value_that_was_given() -> None:
    channel = csp.Channel[None](1)
    assert channel.took(await csp.select(channel.case_send(None)))
    assert channel.gave(await csp.select(channel.case_receive()))


async def test_timers_and_selectors_say_it_too(autojump_clock: MockClock) -> None:
    timeout, channel = csp.after("1s"), csp.Channel[int](1)
    r = await csp.select(timeout.case_receive(), channel.case_receive())
    assert timeout.gave(r)
    assert not channel.gave(r)
    channel.send_nowait(1)
    with csp.Selector(channel) as selector:
        result = await selector.select()
    assert channel.gave(result)
    assert not channel.took(result)


async def test_sent_is_the_last_field() -> None:
    channel = csp.Channel[int](1)
    assert await csp.select(channel.case_send(1)) == (channel, 1, True, False, 0, True)
    assert csp.SelectResult._fields == ("channel", "value", "ok", "default", "index", "sent")
