"""Random servers and random consumers, which answer, wait for pongs, stop and start: no feed hangs or loses order."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError
from csp.websocket import Gap

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/"
CONNECTIONS = 6


class Exchange:
    """A server that numbers its messages, and ends each connection in some way of its own."""

    def __init__(self, chance: random.Random) -> None:
        self.sent: list[list[str]] = []
        self._chance = chance

    async def serve(self, connection: testing.ServerConnection) -> None:
        number = len(self.sent)
        mine: list[str] = []
        self.sent.append(mine)
        connection.answer_pings = self._chance.random() < 0.8
        size = self._chance.choice([1, 1, 5_000, 50_000])
        for index in range(self._chance.choice([0, 3, 40, 200])):
            mine.append(f"{number}.{index}")
            await connection.send(f"{mine[-1]} {'x' * size}")
            if self._chance.random() < 0.1:
                await trio.sleep(self._chance.choice([0.01, 1]))
        how = self._chance.choice(["drop", "close", "wait"])
        if number >= CONNECTIONS - 1:  # that one may be lost, if it does not answer pings
            await connection.close(1000)
        elif how == "close":
            await connection.close(1012)
        else:
            if how == "wait":
                await trio.sleep(5)
            connection.drop()


async def consume(feed: websocket.Feed, chance: random.Random, taken: list[str | Gap]) -> None:
    """Be a consumer of some kind until the feed has ended."""
    kind = chance.choice(["answers", "pings", "stops", "selects", "reads"])
    heartbeat = csp.tick("3s")
    while not (feed.channel().closed and not len(feed.channel())):
        cases = feed.channel().case_receive(), heartbeat.case_receive() if kind == "selects" else None
        r = await csp.select(*cases)
        if heartbeat.gave(r):
            await answer(feed)
        if not feed.channel().gave(r):
            continue
        value = r.value
        taken.append(value if isinstance(value, Gap) else str(value.data).split(" ", maxsplit=1)[0])
        if kind == "answers" and chance.random() < 0.5:
            await answer(feed)
        elif kind == "pings" and chance.random() < 0.2 and feed.client is not None:
            with contextlib.suppress(ConnectionFailedError):
                await (await feed.client.ping()).receive()
        elif kind == "stops" and chance.random() < 0.05:
            await trio.sleep(60)


async def answer(feed: websocket.Feed) -> None:
    with contextlib.suppress(ConnectionFailedError):
        await feed.send("answer")


def check(taken: list[str | Gap], sent: list[list[str]]) -> None:
    """Check that what came is what was sent, but for ends that were lost, and for what gaps count."""
    here, index = 0, 0
    for value in taken:
        if isinstance(value, Gap):
            # Which connection comes next is seen from its messages; those in between are what was dropped.
            here, index = here + 1, 0
            continue
        number, position = map(int, value.split("."))
        if number != here:
            assert index == 0
            assert number > here
            here = number
        assert position == index
        index += 1
    assert here < len(sent)
    missed = sum(value.missed or 0 for value in taken if isinstance(value, Gap))
    came = sum(not isinstance(value, Gap) for value in taken)
    assert came + missed <= sum(map(len, sent))


@pytest.mark.parametrize("seed", range(80))
async def test_no_consumer_hangs_and_nothing_is_reordered(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    exchange = Exchange(chance)
    taken: list[str | Gap] = []
    options: websocket.ConnectOptions = {"channel_capacity": chance.choice([1, 4, 16])}
    if chance.random() < 0.5:
        options["keepalive"] = "10s"
    if chance.random() < 0.5:
        options["read_limit"] = 60_000  # then few large messages fill the feed's channel
    async with testing.websocket_server(exchange.serve), websocket.reconnecting(URL, **options) as feed:
        with trio.fail_after(20_000):
            await consume(feed, chance, taken)
        assert feed.state.name == "closed"
    check(taken, exchange.sent)
    assert taken or not any(exchange.sent)
