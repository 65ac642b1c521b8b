"""Connections that come back: random programs of a server that flaps, against a model."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from csp.errors import ConnectionFailedError, Error, Kind
from csp.websocket import Feed, Gap, Message
from tests.websocket._server import Server, close, details, text
from tests.websocket.client._feed import URL, Site, down, first_message, refusing, saying

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio.testing import MockClock


class Step(NamedTuple):
    """One attempt of a random program, and what it means."""

    server: Server | Exception
    messages: list[str] | None
    """None if it is never open."""
    code: int
    """How it ends."""


def random_program(chance: random.Random, codes: list[int]) -> list[Step]:
    """Return a program in which connections are closed with these codes, or in other ways after which it comes back."""
    steps: list[Step] = []
    for number in range(chance.randrange(1, 8)):
        messages = [f"{number}.{index}" for index in range(chance.choice([0, 1, 3, 40]))]
        said = [text("yes"), *map(text, messages)]
        kind = chance.randrange(7)
        if kind == 0:
            steps.append(Step(down(), None, 0))
        elif kind == 1:
            steps.append(Step(refusing("503 Busy", "Retry-After: 3"), None, 0))
        elif kind == 2:
            steps.append(Step(saying(close(chance.choice([1001, 1011]))), None, 0))
        elif kind == 3:
            steps.append(Step(saying(*said, text("cut off")[:-3]), messages, 1006))
        else:
            code = chance.choice(codes)
            steps.append(Step(saying(*said, close(code)), messages, code))
    return steps


class Connection(NamedTuple):
    """What was received of one connection, and what became of it."""

    messages: list[str]
    code: int
    attempts: int
    """How many attempts it took."""


def expected(steps: list[Step]) -> list[Connection]:
    """Return the connections of a program."""
    connections: list[Connection] = []
    attempts = 0
    for step in steps:
        attempts += 1
        if step.messages is not None:
            connections.append(Connection(step.messages, step.code, attempts))
            attempts = 0
    return connections


def check(taken: list[str | Gap], connections: list[Connection], *, slow: bool) -> None:
    """Check what came out: all messages of a connection or none, and gaps that count those of which none came."""
    here = 0
    left = deque(taken)
    assert [left.popleft() for _ in connections[0].messages] == connections[0].messages
    while left:
        gap = left.popleft()
        assert isinstance(gap, Gap)
        if not left and gap.missed is not None:  # no connection came after those that were dropped
            assert slow
            assert gap.missed == sum(len(connection.messages) for connection in connections[here + 1 :])
            return
        there, attempts = here + 1, connections[here + 1].attempts
        while attempts < gap.attempts:
            there += 1
            attempts += connections[there].attempts
        assert slow or there == here + 1
        dropped = sum(len(connection.messages) for connection in connections[here + 1 : there])
        assert (gap.attempts, gap.missed) == (attempts, dropped or None)
        assert gap.code == connections[here].code
        assert (None if gap.error is None else details(gap.error)["code"]) == (
            None if gap.code in (1000, 1001) else connections[here].code
        )
        here = there
        assert [left.popleft() for _ in connections[here].messages] == connections[here].messages
    assert here == len(connections) - 1 or slow


@pytest.mark.parametrize("seed", range(200))
async def test_a_random_program_gives_what_the_model_says(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    last = chance.choice([1000, 1008, 401])
    steps = random_program(chance, [1001, 1012])
    if last == 401:
        steps.append(Step(refusing("401 Unauthorized"), None, 401))
    else:
        steps.append(Step(saying(text("yes"), text("last"), close(last)), ["last"], last))
    site = Site(*(step.server for step in steps))
    out: list[str | Gap] = []
    # With a small limit, one message fills the feed's channel.
    read_limit = chance.choice([0, 30])
    async with site.feed(first_message, channel_capacity=chance.choice([1, 2, 16]), read_limit=read_limit) as feed:
        pause = chance.choice([0, 0.01, 2])
        while (received := await feed.receive()).ok:
            value = received.value
            out.append(str(value.data) if isinstance(value, Message) else value)
            if chance.random() < 0.3:
                await trio.sleep(pause)
        cause = feed.channel().cause
    if connections := expected(steps):
        check(out, connections, slow=pause > 0)
    else:
        assert not out
    assert len(site.dialled_at) == len(steps)
    if last == 1000:
        assert cause is None
    else:
        assert isinstance(cause, ConnectionFailedError)
        assert details(cause)["status" if last == 401 else "code"] == last


class Functions:
    """What a user gives to a feed, for a random program; notes what is asked.

    Args:
        chance: decides how long it takes to get a URL, and whether there is none yet.
        site: what the feed connects to.
        steps: the program.
    """

    def __init__(self, chance: random.Random, site: Site, steps: list[Step]) -> None:
        self.asked: list[str] = []
        self.codes: list[object] = []
        """What `retry` was asked about."""
        self.failures = [0] * len(steps)
        """How often there was no URL, before each step."""
        self._chance = chance
        self._site = site
        self._last = steps[-1].code

    async def url(self) -> str:
        self.asked.append("url")
        if self._chance.random() < 0.5:
            await trio.sleep(self._chance.choice([0.0, 1.0]))
        if self._chance.random() < 0.2:
            self.failures[len(self._site.dialled_at)] += 1
            raise Error("not yet", kind=Kind.UNAVAILABLE, retryable=True, details={"code": "url"})
        return URL

    def headers(self) -> dict[str, str]:
        self.asked.append("headers")
        return {}

    def retry(self, error: Error) -> bool:
        self.codes.append(error.details.get("status", error.details.get("code")))
        return self.codes[-1] != self._last


@pytest.mark.parametrize("seed", range(200))
async def test_a_random_program_with_functions_gives_what_the_model_says(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    last = chance.choice([4004, 403])
    steps = random_program(chance, [1000, 1001, 1008, 4000])
    if last == 403:
        steps.append(Step(refusing("403 Forbidden"), None, 403))
    else:
        steps.append(Step(saying(text("yes"), text("last"), close(last)), ["last"], last))
    site = Site(*(step.server for step in steps))
    functions = Functions(chance, site, steps)
    out: list[str | Gap] = []
    async with site.feed(
        first_message,
        url=functions.url,
        headers=functions.headers,
        retry=functions.retry,
        channel_capacity=chance.choice([1, 2, 16]),
        read_limit=chance.choice([0, 30]),
    ) as feed:
        pause = chance.choice([0, 0.01, 2])
        async for value in until_the_end(feed):
            out.append(value)
            if chance.random() < 0.3:
                await trio.sleep(pause)
        cause = feed.channel().cause
    # An attempt that found no URL is one more of those of the connection that follows.
    attempts: list[Step] = []
    for failures, step in zip(functions.failures, steps, strict=True):
        attempts += [*[Step(down(), None, 0)] * failures, step]
    if connections := expected(attempts):
        check(out, connections, slow=pause > 0)
    else:
        assert not out
    assert isinstance(cause, ConnectionFailedError)
    assert details(cause)["status" if last == 403 else "code"] == last
    assert len(site.dialled_at) == functions.asked.count("headers") == len(steps)
    assert len(functions.codes) == functions.asked.count("url") == len(attempts)  # once each
    opened = [step.code for step in steps if step.messages is not None]
    assert [code for code, step in zip(functions.codes, attempts, strict=True) if step.messages is not None] == opened


async def until_the_end(feed: Feed) -> AsyncGenerator[str | Gap]:
    while (received := await feed.receive()).ok:
        value = received.value
        yield str(value.data) if isinstance(value, Message) else value
