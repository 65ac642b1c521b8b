"""Random servers and random consumers, which answer, wait for pongs, stop and start: no feed hangs or loses order."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError, Error, Kind
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


KINDS = ["answers", "pings", "stops", "selects", "reads"]


async def consume(feed: websocket.Feed, chance: random.Random, taken: list[str | Gap], kind: str) -> None:
    """Be a consumer of some kind until the feed has ended."""
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
        elif kind == "reconnects" and chance.random() < 0.02:
            await reconnect(feed)


async def reconnect(feed: websocket.Feed) -> None:
    with contextlib.suppress(ConnectionFailedError):
        await feed.reconnect()


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


@pytest.mark.parametrize("seed", range(40))
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
            await consume(feed, chance, taken, chance.choice(KINDS))
        assert feed.state.name == "closed"
    check(taken, exchange.sent)
    assert taken or not any(exchange.sent)


class Restless:
    """A task that reconnects at random moments, and functions that are asked for URL, headers and whether to retry."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.urls = self.headers_asked = self.calls = 0
        self.endings: list[Error] = []

    async def url(self) -> str:
        self.urls += 1
        await trio.sleep(self._chance.choice([0, 0, 0.01, 1]))
        if self._chance.random() < 0.1:
            raise Error("no URL yet", kind=Kind.UNAVAILABLE, retryable=True)
        return URL

    def headers(self) -> dict[str, str]:
        self.headers_asked += 1
        return {}

    def retry(self, error: Error) -> bool:
        assert not any(error is earlier for earlier in self.endings)
        self.endings.append(error)
        return error.details.get("code") != 1000

    async def run(self, feed: websocket.Feed) -> None:
        while True:
            await trio.sleep(self._chance.choice([0.001, 0.3, 1, 20]))
            async with trio.open_nursery() as nursery:
                for _ in range(self._chance.choice([1, 1, 3])):
                    self.calls += 1
                    nursery.start_soon(reconnect, feed)


@pytest.mark.parametrize("seed", range(40))
async def test_reconnecting_at_any_moment_reorders_nothing_either(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    exchange = Exchange(chance)
    restless = Restless(chance)
    taken: list[str | Gap] = []
    options: dict[str, Any] = {"channel_capacity": chance.choice([1, 4, 16]), "min_delay": "500ms"}
    if chance.random() < 0.5:
        options["read_limit"] = 60_000  # then few large messages fill the feed's channel
    async with (
        testing.websocket_server(exchange.serve),
        websocket.reconnecting(
            restless.url, headers=restless.headers, retry=restless.retry, keepalive="10s", **options
        ) as feed,
        trio.open_nursery() as nursery,
    ):
        if chance.random() < 0.7:
            nursery.start_soon(restless.run, feed)
        with trio.fail_after(20_000):
            await consume(feed, chance, taken, chance.choice([*KINDS, "reconnects"]))
        assert feed.state.name == "closed"
        nursery.cancel_scope.cancel()
    check(taken, exchange.sent)
    assert restless.headers_asked <= restless.urls
    assert restless.endings[-1].details["code"] == 1000
    assert feed.channel().cause is None
