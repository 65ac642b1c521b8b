"""Members of a hub that end at any step, and random programs of a hub: what becomes of one costs nobody else a message.

An ordinary run has every step over streams in lockstep, and some over sockets and TLS, and 60 programs, always the
same. ``CSP_SWEEP_ORDERS=3 pytest tests/websocket/whole/test_hub_members.py`` has every step of all, in three orders of
the tasks that are runnable at a time; ``CSP_PROGRAMS=5000`` as many programs, other ones each time.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import register_random
from trio._core import _run as trio_run
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from csp import websocket
from csp._core import select
from csp.errors import ConnectionFailedError
from csp.websocket import Gap, Hub
from tests.websocket._peers import driver_tasks, open_sockets
from tests.websocket._server_sweep import CLIENT, Steps
from tests.websocket.server._crowd import Crowd, Link, Member, crowded
from tests.websocket.server._lobby import CLOSE, Lobby, close_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from csp.websocket import HubOverflow, ServerConnection

ORDERS = os.environ.get("CSP_SWEEP_ORDERS")
LONG_RUN = os.environ.get("CSP_PROGRAMS")
STRIDES: dict[Link, int] = {"lockstep": 1, "socket": 1 if ORDERS else 7, "tls": 1 if ORDERS else 11}
# What was done: a sweep of nothing shows nothing.
counts: Counter[str] = Counter()

# As hypothesis is loaded, the order in which Trio runs tasks depends on its seed only.
register_random(select._rng)


def seed(number: int) -> None:
    trio_run._r.seed(number)
    select._rng.seed(number)


# A member that ends at any step ---------------------------------------------------------------------------------------


class Fate:
    """A hub of three members, with one of whom something happens before a step.

    Args:
        link: what the clients come over.
        deed: what happens.
        at: before which step; None for never.
    """

    def __init__(self, link: Link, deed: Callable[[Fate], None], at: int | None) -> None:
        self.link: Link = link
        self.happened = False
        self.steps = 0
        self.hub = Hub(capacity=1000)
        self.handling = trio.CancelScope()
        self.reading = trio.CancelScope()
        self.victim: Member
        self.nursery: trio.Nursery
        self._deed = deed
        self._at = at

    async def run(self) -> None:
        living = trio.lowlevel.current_statistics().tasks_living
        async with crowded(self.link, close_timeout="3s", write_timeout="20s") as crowd:
            await self._broadcast(crowd)
        assert driver_tasks() == []
        assert trio.lowlevel.current_statistics().tasks_living == living

    async def _broadcast(self, crowd: Crowd) -> None:
        first, self.victim, last = members = [await crowd.come() for _ in range(3)]
        got: list[list[str]] = [[], [], []]
        told: list[str] = []
        told_first: list[str] = []
        for member in members:
            self.hub.add(member.connection)
        async with trio.open_nursery() as self.nursery:
            for member, texts in zip(members, got, strict=True):
                scope = self.reading if member is self.victim else trio.CancelScope()
                self.nursery.start_soon(_read, member, texts, scope, name=f"{CLIENT} reads")
            self.nursery.start_soon(self._handle, self.victim.connection)
            steps = Steps(self._at, self._happen)
            trio.lowlevel.add_instrument(steps)
            try:
                # Some are half written to a socket at first.
                for number, size in enumerate([5, 3000, 5, 20_000, 5, 5]):
                    told.append(f"{number} {'x' * size}.")
                    told_first += [told[-1], f"sent {number}."]
                    self.hub.broadcast(told[-1])
                    await first.connection.send(told_first[-1])
                await wait_all_tasks_blocked()
            finally:
                trio.lowlevel.remove_instrument(steps)
                self.steps = steps.count
            told.append("last.")
            told_first.append("last.")
            self.hub.broadcast("last.")
            await wait_all_tasks_blocked()
            assert (got[0], got[2]) == (told_first, told)
            assert got[1] == (told[: len(got[1])] if self.happened else told)
            # Whoever takes nothing is lost by then.
            await trio.sleep(60)
            assert first.connection in self.hub
            assert last.connection in self.hub
            self.nursery.cancel_scope.cancel()

    def _happen(self) -> None:
        self.happened = True
        self._deed(self)

    async def _handle(self, connection: ServerConnection) -> None:
        with self.handling, contextlib.suppress(ConnectionFailedError):
            async with connection:
                async for message in connection:
                    await connection.send(message.data)

    def must_have_ended(self) -> None:
        assert self.victim.connection not in self.hub
        assert self.victim.connection.close_code is not None


async def _read(member: Member, texts: list[str], scope: trio.CancelScope) -> None:
    """Be a client: read until the close frame, and leave then."""
    with scope, contextlib.suppress(AssertionError, trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            head, payload = await member.client.frame()
            if head == 0x80 | CLOSE:
                await member.client.leave()
                return
            if not payload.endswith(b"."):
                return  # it was cut off in the middle
            texts.append(payload.decode())


def handler_is_cancelled(fate: Fate) -> None:
    fate.handling.cancel()


def handler_closes(fate: Fate) -> None:
    fate.nursery.start_soon(fate.victim.connection.close, 4000, "enough")


def client_closes(fate: Fate) -> None:
    async def close() -> None:
        with contextlib.suppress(trio.ClosedResourceError):  # it has left by then
            await fate.victim.client.send(close_frame(1000))

    fate.nursery.start_soon(close, name=f"{CLIENT} closes")


def client_leaves(fate: Fate) -> None:
    fate.nursery.start_soon(fate.victim.client.leave, name=f"{CLIENT} leaves")


def client_stops_reading(fate: Fate) -> None:
    fate.reading.cancel()


def client_is_too_slow(fate: Fate) -> None:
    fate.hub.add(fate.victim.connection, capacity=1)
    fate.reading.cancel()


def handler_leaves_the_hub(fate: Fate) -> None:
    fate.hub.discard(fate.victim.connection)


DEEDS = [
    handler_is_cancelled,
    handler_closes,
    client_closes,
    client_leaves,
    client_stops_reading,
    client_is_too_slow,
    handler_leaves_the_hub,
]
ENDS = DEEDS[:4]


@pytest.mark.parametrize("link", STRIDES)
@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_whatever_becomes_of_a_member_at_any_step_the_others_get_all(deed: Callable[[Fate], None], link: Link) -> None:
    for order in range(int(ORDERS or 1)):
        at = 1
        while True:
            seed(order)
            sockets = open_sockets()
            fate = Fate(link, deed, at)
            trio.run(fate.run, clock=MockClock(autojump_threshold=0))
            assert open_sockets() == sockets
            if not fate.happened:
                break
            if deed in ENDS:
                fate.must_have_ended()
            counts["members whose fate was decided before a step"] += 1
            at += STRIDES[link]
        assert at > STRIDES[link]


# Random programs ------------------------------------------------------------------------------------------------------


class Program:
    """A server with a hub, and feeds that come, stop reading, are closed as too slow, come back, and leave.

    A message has its number and enough besides to fill what a client reads ahead. What the server adds to the hub, it
    notes with the number of the next message; so a model knows which messages each connection must get: all from then
    on, up to some one, but those that were dropped.

    Args:
        chance: what decides.
    """

    MESSAGES = 60

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.next = 0
        self.total: Counter[str] = Counter()
        self.lobby = Lobby()
        self.policy: HubOverflow = chance.choice(["close", "close", "drop_oldest", "drop_newest"])
        self.hub = Hub(
            overflow=self.policy,
            capacity=chance.choice([1, 2, 5, 64]),
            capacity_bytes=chance.choice([50_000, 100_000, 1 << 20]),
        )
        self.joined: dict[str, list[int]] = {}
        """By the name of a client, the numbers of the first messages of its connections."""
        self.talk: dict[str, list[str]] = {}
        """What was sent to a client by its handler."""
        self.ended = False

    async def dial(self, _host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        near, far = lockstep_stream_pair()
        self.lobby.bring(far)
        return near

    async def run(self) -> None:
        async with trio.open_nursery() as serving:
            server = await serving.start(self._serve)
            async with trio.open_nursery() as clients:
                for number in range(self.chance.randint(2, 6)):
                    clients.start_soon(self._be_a_client, f"{number}", random.Random(self.chance.random()))
                await self._broadcast()
            await server.close()
        assert driver_tasks() == []

    async def _serve(self, *, task_status: trio.TaskStatus[websocket.Server]) -> None:
        await websocket.serve(
            self._handle,
            sockets=[self.lobby],
            keepalive=None,
            write_timeout=self.chance.choice([None, "30s"]),
            close_timeout="2s",
            compression=self.chance.choice([*websocket.Compression]),
            hosts="*",
            handler_errors="raise",
            task_status=task_status,
        )

    async def _handle(self, connection: ServerConnection) -> None:
        """Add a connection to the hub, and talk to its client besides."""
        await connection.accept()
        name = connection.path[1:]
        chance = random.Random(f"{name} {self.next} {len(self.joined.get(name, ()))}")
        self.joined.setdefault(name, []).append(self.next)
        self.hub.add(connection)
        talk = self.talk.setdefault(name, [])
        while connection.close_code is None and not connection.closing:
            if self.ended:
                await connection.wait_closed()
                return
            with trio.move_on_after(chance.uniform(0, 3)):
                match chance.choice(["send", "ping", "receive", "close", "rejoin"]):
                    case "send":
                        text = f"talk {len(talk)}"
                        talk.append(text)
                        await connection.send(text)
                    case "ping":
                        await (await connection.ping()).receive()
                    case "close" if chance.random() < 0.1:
                        await connection.close(1012)
                    case "rejoin":
                        # Nothing is broadcast in between.
                        self.hub.discard(connection)
                        self.hub.add(connection)
                    case _:
                        await connection.receive()
            await trio.sleep(chance.uniform(0.01, 1))

    async def _broadcast(self) -> None:
        for number in range(self.MESSAGES):
            await trio.sleep(self.chance.choice([0, 0, 0, 0.01, 0.5, 3]))
            members = len(self.hub)
            self.next = number + 1
            outcome = self.hub.broadcast(f"{number} {'x' * self.chance.choice([1, 1000, 60_000])}")
            # Of many only the message itself can be lost, or one or more of those that wait.
            assert outcome.written == 0
            assert outcome.queued + outcome.closed + (outcome.dropped if self.policy == "drop_newest" else 0) <= members
            assert not (outcome.dropped and self.policy == "close")
            assert not (outcome.closed and self.policy != "close")
            self.total.update(outcome._asdict())
        self.ended = True

    async def _be_a_client(self, name: str, chance: random.Random) -> None:
        """Receive from a feed, now and then not; at the end, see that all has come that had to."""
        segments: list[list[int]] = [[]]
        talk: list[str] = []
        gaps: list[Gap] = []
        async with websocket.reconnecting(
            f"ws://server.test/{name}",
            dial=self.dial,
            channel_capacity=chance.choice([1, 16]),
            compression=chance.choice([*websocket.Compression]),
            proxy=None,
            min_delay="100ms",
            max_delay="1s",
        ) as feed:
            quiet = False
            while not (self.ended and quiet):
                with trio.move_on_after(20) as scope:
                    received = await feed.receive_value()
                    if isinstance(received, Gap):
                        gaps.append(received)
                        segments.append([])
                    elif str(received.data).startswith("talk"):
                        talk.append(str(received.data))
                    else:
                        segments[-1].append(int(str(received.data).split()[0]))
                quiet = scope.cancelled_caught
                if chance.random() < 0.1 and not self.ended:
                    await trio.sleep(chance.choice([1, 10, 50]))
                if chance.random() < 0.01:
                    await feed.reconnect()
        self.check(name, segments, talk, gaps)

    def check(self, name: str, segments: list[list[int]], talk: list[str], gaps: list[Gap]) -> None:
        """Compare what a client got with the model."""
        joined = [*self.joined[name], self.MESSAGES]
        numbers = [number for segment in segments for number in segment]
        assert numbers == sorted(set(numbers)), "out of order, or twice"
        rest = iter(self.talk[name])
        assert all(text in rest for text in talk), "what was sent to it came out of order, or twice"
        for segment in segments:
            if segment:
                # All on one connection, and from its beginning.
                begins = max(first for first in joined if first <= segment[0])
                assert segment[-1] < min(first for first in joined if first > begins) or begins == self.MESSAGES
                if self.policy == "close":
                    assert segment == list(range(begins, segment[-1] + 1)), "a message is missing"
        if self.policy == "close" and joined[-2] < self.MESSAGES:
            assert numbers[-1] == self.MESSAGES - 1, "the last ones are missing"
        self.total["gaps after 1013"] += sum(gap.code == 1013 for gap in gaps)
        self.total["gaps"] += len(gaps)


PARTS = 6
PROGRAMS = int(LONG_RUN or 60) // PARTS
FIRST = time.time_ns() // 1000 if LONG_RUN else 0


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_members_do_the_others_get_what_a_model_says(part: int) -> None:
    for number in range(FIRST + part * PROGRAMS, FIRST + (part + 1) * PROGRAMS):
        seed(number)
        program = Program(random.Random(number))
        try:
            trio.run(program.run, clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(f"of the program with the seed {number}")
            raise
        counts.update(program.total)


def test_the_programs_have_shown_something() -> None:
    for number in range(12):
        seed(number)
        program = Program(random.Random(number))
        trio.run(program.run, clock=MockClock(autojump_threshold=0))
        counts.update(program.total)
    for what in ("queued", "dropped", "closed", "gaps after 1013"):
        assert counts[what] > 0, what


@pytest.fixture(scope="module", autouse=True)
def _summary() -> Generator[None]:
    yield
    print("\nhub:", ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))  # shown by -s
