"""Connections that come back: random programs of a server that flaps, against a model."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from csp.errors import ConnectionFailedError
from csp.websocket import Message
from tests.websocket._server import Server, close, details, text
from tests.websocket.client._feed import Site, down, first_message, refusing, saying

if TYPE_CHECKING:
    from trio.testing import MockClock


class Step(NamedTuple):
    """One attempt of a random program, and what it means."""

    server: Server | Exception
    messages: list[str] | None
    """None if it is never open."""
    code: int
    """How it ends."""


def random_program(chance: random.Random) -> list[Step]:
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
            code = chance.choice([1001, 1012])
            steps.append(Step(saying(*said, close(code)), messages, code))
    return steps


def expected(steps: list[Step]) -> list[object]:
    """Return what must come out: the messages, and (code, attempts) for each gap; 1001 is no error."""
    out: list[object] = []
    ended: int | None = None
    attempts = 0
    for step in steps:
        attempts += 1
        if step.messages is None:
            continue
        if ended is not None:
            out.append((None if ended == 1001 else ended, attempts))
        out += step.messages
        ended, attempts = step.code, 0
    return out


@pytest.mark.parametrize("seed", range(200))
async def test_a_random_program_gives_what_the_model_says(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    last = chance.choice([1000, 1008, 401])
    steps = random_program(chance)
    if last == 401:
        steps.append(Step(refusing("401 Unauthorized"), None, 401))
    else:
        steps.append(Step(saying(text("yes"), text("last"), close(last)), ["last"], last))
    site = Site(*(step.server for step in steps))
    out: list[object] = []
    async with site.feed(first_message, channel_capacity=chance.choice([1, 2, 16])) as feed:
        pause = chance.choice([0, 0.01, 2])
        while (received := await feed.receive()).ok:
            value = received.value
            if isinstance(value, Message):
                out.append(value.data)
            else:
                out.append((None if value.error is None else details(value.error)["code"], value.attempts))
            if chance.random() < 0.3:
                await trio.sleep(pause)
        cause = feed.channel().cause
    assert out == expected(steps)
    assert len(site.dialled_at) == len(steps)
    if last == 1000:
        assert cause is None
    else:
        assert isinstance(cause, ConnectionFailedError)
        assert details(cause)["status" if last == 401 else "code"] == last
