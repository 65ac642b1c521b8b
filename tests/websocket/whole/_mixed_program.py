"""A random program that mixes everything: a server, its hub, its clients, and what is checked when all is over."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from csp import websocket
from csp.errors import ConnectionFailedError
from csp.websocket import Compression
from tests.websocket._entrance import Entrance
from tests.websocket._links import SMALL_BUFFER_BYTES, contexts
from tests.websocket._peers import driver_tasks
from tests.websocket.whole._mixed_ends import SIZES, End, OwnError, Room
from tests.websocket.whole._mixed_notes import FIN, Ledger, outcome_of

if TYPE_CHECKING:
    from collections import Counter

    from csp.websocket import Client, ConnectOptions, ListenOptions, ServerConnection

Link: TypeAlias = Literal["memory", "lockstep", "socket", "tls"]
SERVER_CODE = 1012
# Of a connection that ended otherwise than by a close frame that one end sent by its own decision.
LOST_OR_FAILED = [1006, 1009]


class Pair(NamedTuple):
    """What is noted of one connection."""

    down: Ledger
    up: Ledger
    ends: dict[str, End]
    over: trio.Event
    """Set when the handler has returned."""


class Program:
    """One random program.

    Args:
        seed: decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        links: list[Link] = ["memory", "lockstep", "memory", "lockstep", "memory", "lockstep", "socket", "tls"]
        self.link: Link = self.chance.choice(links)
        self.mood = self.chance.choice(["calm", "attentive", "any", "any"])
        self.end = self.chance.choice(["after", "after", "after", "close", "grace", "stop", "cancel"])
        if self.mood == "calm":
            self.end = "after"
        self.keepalive = self.chance.choice([None, "1s", "20s"])
        self.rooms = {side: Room(self.chance.choice([100, 100_000, 1 << 20])) for side in ("server", "client")}
        self.pairs: dict[str, Pair] = {}
        self.entrance = Entrance()
        self.server: websocket.Server

    def _options(self) -> ConnectOptions:
        choice = self.chance.choice
        calm = self.mood == "calm"
        return {
            "compression": choice([*Compression]),
            "compression_threshold": choice([0, 100]),
            "channel_capacity": choice([1, 2, 16]),
            "keepalive": self.keepalive if calm else choice([None, "1s", "20s"]),
            "read_timeout": None if calm else choice([None, None, "5s", "60s"]),
            "write_timeout": None if calm else choice([None, "2s", "30s"]),
            "read_limit": 4 << 20 if calm else choice([0, 4 << 20, 4 << 20, 60_000]),
            "close_timeout": choice(["1s", "10s"]),
        }

    # The way there ----------------------------------------------------------------------------------------------------

    async def _dial(self, _host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.entrance.closed:
            raise OSError("nobody listens")
        near: trio.abc.Stream
        far: trio.abc.Stream
        if self.link == "memory":
            near, far = memory_stream_pair()
        elif self.link == "lockstep":
            near, far = lockstep_stream_pair()
        else:
            pair = socket.socketpair()
            for one in pair:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
            near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in pair)
        self.entrance.put(far)
        return near

    async def run(self) -> None:
        """Run it, and check all that can be while it runs."""
        with trio.fail_after(1_000_000):
            async with trio.open_nursery() as serving:
                self.server = await serving.start(self._serve)
                async with trio.open_nursery() as telling:
                    telling.start_soon(self._tell)
                    async with trio.open_nursery() as clients:
                        for number in range(self.chance.randint(1, 3)):
                            clients.start_soon(self._be_a_client, f"{number}", random.Random(self.chance.random()))
                        if self.end != "after":
                            await self._finish()
                    telling.cancel_scope.cancel()
                if self.end == "after":
                    if self.mood == "calm":
                        for pair in self.pairs.values():
                            await pair.over.wait()
                    await self.server.close()
        assert driver_tasks() == []

    async def _tell(self) -> None:
        """Broadcast now and then."""
        for _ in range(self.chance.choice([0, 5, 40])):
            await trio.sleep(self.chance.choice([0, 0, 0, 0, 0.01, 1, 20]))
            self.rooms["server"].broadcast(self.chance.choice(SIZES))

    async def _finish(self) -> None:
        await trio.sleep(self.chance.choice([0, 0.1, 1, 5, 30]))
        match self.end:
            case "close":
                await self.server.close(SERVER_CODE)
            case "grace":
                await self.server.close(SERVER_CODE, grace=self.chance.choice(["1s", "10s"]))
            case "stop":
                self.server.stop()
            case _:
                self._scope.cancel()

    # The ends ---------------------------------------------------------------------------------------------------------

    async def _serve(self, *, task_status: trio.TaskStatus[websocket.Server]) -> None:
        options: ListenOptions = {**self._options(), "sockets": [self.entrance], "hosts": "*"}  # type: ignore[typeddict-item]
        if self.link == "tls":
            options["ssl_context"] = contexts()[0]
        with trio.CancelScope() as self._scope:
            await websocket.serve(self._handle, task_status=task_status, **options)

    async def _handle(self, connection: ServerConnection) -> None:
        await connection.accept(compression=self.chance.choice([None, *Compression]))
        pair = self.pairs[connection.path[1:]]
        end = self._end("server", connection, pair.down, pair.up, random.Random(self.chance.random()))
        pair.ends["server"] = end
        end.codes |= {1000, 1001, 1011, SERVER_CODE}
        try:
            await _live(end)
        finally:
            pair.over.set()

    async def _be_a_client(self, name: str, chance: random.Random) -> None:
        pair = self.pairs[name] = Pair(Ledger(), Ledger(), {}, trio.Event())
        await trio.sleep(chance.choice([0, 0, 0.1, 3]))
        secure = self.link == "tls"
        options: ConnectOptions = {**self._options(), "dial": self._dial, "proxy": None, "dial_timeout": "30s"}
        if secure:
            options["ssl_context"] = contexts()[1]
        with contextlib.suppress(ConnectionFailedError, OwnError), trio.CancelScope() as scope:
            async with websocket.connect(f"{'wss' if secure else 'ws'}://server.test/{name}", **options) as client:
                end = pair.ends["client"] = self._end("client", client, pair.up, pair.down, chance)
                end.codes |= {1000, 1001, 1011}
                await _live(end)
                if chance.random() < 0.1 and self.mood != "calm":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

    def _end(
        self, side: str, endpoint: Client | ServerConnection, ours: Ledger, theirs: Ledger, chance: random.Random
    ) -> End:
        calm, attentive = self.mood == "calm", self.mood != "any"
        end = End(endpoint, ours, theirs, self.rooms[side], chance, calm=calm, attentive=attentive)
        end.may_shield = self.end != "cancel"
        return end

    # Afterwards -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what was noted, after the end."""
        assert list(self.server.connections) == []
        statistics = self.server.statistics()
        assert (statistics.open, statistics.waiting) == (0, 0)
        missing = {"server": 0, "client": 0}
        for pair in self.pairs.values():
            if len(pair.ends) == 2:
                server, client = pair.ends["server"], pair.ends["client"]
                missing["server"] += self._check_end(client, server)
                missing["client"] += self._check_end(server, client)
        for side, room in self.rooms.items():
            assert len(room.hub) == 0
            if self.mood == "calm":
                assert missing[side] <= room.dropped

    def count(self, counts: Counter[str]) -> None:
        """Add up what was done."""
        for pair in self.pairs.values():
            for ledger in (pair.up, pair.down):
                counts.update(ledger.fates.values())
                counts["received whole"] += len(ledger.received)
                counts["left early"] += len(ledger.left)
            counts.update(f"{end.endpoint.close_code}" for end in pair.ends.values())

    def _check_end(self, ours: End, theirs: End) -> int:
        """Check what one end has received from the other, and how it ended; return how many a hub has dropped."""
        outcome, other = outcome_of(ours.endpoint), outcome_of(theirs.endpoint)
        if self.mood == "calm":
            assert FIN in ours.theirs.received or FIN in ours.theirs.left
            # An end whose reader is slow may answer the other's close too late.
            assert outcome.code in ours.codes | theirs.codes or (outcome.closing and outcome.code == 1006), outcome
        final = outcome.statistics
        assert (final.messages_waiting_send, final.bytes_waiting_send) == (0, 0), (
            ours.endpoint,
            theirs.endpoint,
            final,
        )
        assert final.messages_received <= other.statistics.messages_sent
        saw_close = not outcome.closing and not outcome.stalled and outcome.code not in LOST_OR_FAILED
        if saw_close:
            refused = 1011 if other.stalled else 1009 if other.code == 1009 else None
            assert outcome.code in (*theirs.codes, refused), f"{outcome.code} came, but {theirs.codes} were sent"
            # Of a frame that was given up in the middle nobody knows how much was taken.
            given_up = theirs.cut or self.link == "lockstep"
            assert given_up or final.bytes_received == other.statistics.bytes_sent, (final, other)
            if not theirs.cut:
                assert final.messages_received == other.statistics.messages_sent
                assert final.payload_bytes_received == other.statistics.payload_bytes_sent
        return ours.theirs.check(complete=saw_close and ours.drained and not (ours.stopped or theirs.cut))


async def _live(end: End) -> None:
    """Raise what the program raises by itself, also if its tasks were cancelled meanwhile."""
    failed = False
    try:
        await end.live()
    except* OwnError:
        failed = True
    if failed:
        raise OwnError
