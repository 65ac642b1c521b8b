"""A random program: a server that listens, the clients that come to it, and what is checked when all is over."""

from __future__ import annotations

import contextlib
import gc
import random
import weakref
from collections import Counter
from typing import Any, Literal

import trio
from trio.testing import lockstep_stream_pair

import csp
from csp import websocket
from csp.errors import ConnectionFailedError, NoContextError
from csp.websocket import Compression, Response, ServerConnection
from tests.websocket._entrance import Entrance
from tests.websocket._links import contexts
from tests.websocket._peers import driver_tasks
from tests.websocket.server._ends import MIB, End, Notes, OwnError, check, note_end
from tests.websocket.server._guests import GUESTS, Bystander, Guest, Raw

BYSTANDER = "/bystander"
SERVER_CODE = 1013


class Door(Entrance):
    """A listener in memory. Through some of its streams a send returns only when all of it was received."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.accepted = 0

    async def accept(self) -> trio.abc.Stream:
        stream = await super().accept()
        self.accepted += 1
        return stream

    async def dial(self, _host: str, _port: int) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise OSError("nobody listens")
        if self._chance.random() < 0.5:
            return self.connect()
        ours, theirs = lockstep_stream_pair()
        self.put(theirs)
        return ours


class Program:
    """One random program."""

    def __init__(self, seed: int, link: Literal["memory", "sockets"]) -> None:
        self.link = link
        self.chance = random.Random(seed)
        self.way = self.chance.choice(["serve", "tasks", "selector"])
        self.end = self.chance.choice(["leave", "fail", "cancel", "close", "grace", "stop"])
        self.early = self.chance.random() < 0.4
        # Whether what a handler raises ends the server.
        self.raises = self.way == "serve" and self.chance.random() < 0.2
        self.pages = self.chance.random() < 0.5
        self.over_tls = link == "sockets" and self.chance.random() < 0.3
        self.guests: list[Guest] = []
        # The notes of the server's ends, by the paths of the connections.
        self.notes: dict[str, Notes] = {}
        self.alive: weakref.WeakSet[ServerConnection] = weakref.WeakSet()
        self.lines: Counter[str] = Counter()
        self.server: websocket.Server

    def options(self) -> websocket.ListenOptions:
        choice = self.chance.choice
        return {
            "compression": choice([*Compression]),
            "max_window_bits": choice([9, 12, 15]),
            "handshake_timeout": choice(["1s", "10s"]),
            "max_connections": choice([None, None, 1, 3]),
            "max_handshakes": choice([1, 2, 100]),
            "max_waiting": choice([1, 2, 16]),
            "read_limit": choice([0, 60_000, 4 * MIB]),
            "channel_capacity": choice([1, 2, 16]),
            "read_timeout": choice([None, None, "5s"]),
            "keepalive": choice([None, "1s", "20s"]),
            "write_timeout": choice([None, "2s", "30s"]),
            "close_timeout": choice(["1s", "10s"]),
            "http": self.page if self.pages else None,
        }

    def place(self) -> websocket.ListenOptions:
        if self.link == "memory":
            self.door = Door(self.chance)
            return {"sockets": [self.door]}
        return {"hosts": "*", "ssl_context": contexts()[0] if self.over_tls else None}

    async def page(self, _request: websocket.Request) -> Response | None:
        await trio.sleep(self.chance.choice([0, 3, 30]))
        if self.chance.random() < 0.2:
            raise OwnError
        return self.chance.choice([None, Response(200, "hello"), Response(404, bytes(900_000))])

    # The clients ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        with trio.fail_after(100_000):
            async with trio.open_nursery() as self.keepers, trio.open_nursery() as nursery:
                self.server = await nursery.start(self.serve)
                async with trio.open_nursery() as clients:
                    for number in range(self.chance.randint(1, 6)):
                        clients.start_soon(self.visit, self.chance.choice(GUESTS), f"/{number}")
                    if self.early:
                        clients.start_soon(self.finish)
                if not (self.early or self.raises):
                    await self.visit(Bystander, BYSTANDER)
                if not self.early:
                    await self.finish()
            self.keepers.cancel_scope.cancel()
        assert driver_tasks() == []

    async def visit(self, kind: type[Guest], path: str) -> None:
        chance = random.Random(self.chance.random())
        guest = kind(f"{self.url}{path}", self.dial, chance, Notes())
        guest.over_tls = self.over_tls
        self.guests.append(guest)
        if kind is not Bystander:
            await trio.sleep(chance.choice([0, 0, 0.1, 3]))
        await guest.run()

    @property
    def url(self) -> str:
        return "wss://server.test" if self.over_tls else "ws://localhost"

    async def dial(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        if self.link == "memory":
            return await self.door.dial(host, port)
        assert self.server.port is not None
        return await trio.open_tcp_stream("localhost", self.server.port)

    # The server -------------------------------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus[websocket.Server]) -> None:
        options = self.options() | self.place()
        port = None if self.link == "memory" else 0
        with trio.CancelScope() as self.scope:
            try:
                if self.way == "serve":
                    await websocket.serve(
                        self.handle,
                        port,
                        handler_errors="raise" if self.raises else "log",
                        task_status=task_status,
                        **options,
                    )
                else:
                    async with websocket.listen(port, **options) as server:
                        task_status.started(server)
                        await self.be_the_block(server)
            except* OwnError:
                pass

    async def be_the_block(self, server: websocket.Server) -> None:
        self.leaving = trio.Event()
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(self.take_each if self.way == "tasks" else self.select, server, nursery)
            await self.leaving.wait()
        if self.end == "fail":
            raise OwnError

    async def take_each(self, server: websocket.Server, nursery: trio.Nursery) -> None:
        async for connection in server:
            nursery.start_soon(self.handle_in_a_block, connection)

    async def handle_in_a_block(self, connection: ServerConnection) -> None:
        with contextlib.suppress(OwnError):
            async with connection:
                await self.handle(connection)

    def meet(self, connection: ServerConnection) -> End:
        """Take note of a connection that has arrived."""
        assert repr(connection).startswith("<csp.websocket.ServerConnection unanswered") or connection.error
        notes = self.notes.setdefault(connection.path, Notes())
        notes.codes |= {1000, 1001, 1011, SERVER_CODE}
        self.alive.add(connection)
        self.keepers.start_soon(note_end, connection, notes)
        return End(connection, notes, random.Random(self.chance.random()))

    async def handle(self, connection: ServerConnection) -> None:
        """Be the handler of a connection, from its arrival on."""
        if connection.path == BYSTANDER:
            async for message in connection:
                await connection.send(message.data)
            return
        end = self.meet(connection)
        await end.answer()
        await end.act(end.chance.choice([0, 1, 5, 15]))
        match end.chance.randrange(6):
            case 0:
                await end.raise_own()
            case 1:
                pass
            case _:
                await end.leave()

    async def select(self, server: websocket.Server, _nursery: trio.Nursery) -> None:
        """Be the one loop that does everything, and waits wherever a user's loop may."""
        ends: dict[object, End] = {}
        with csp.Selector(server.channel()) as selector:
            async for r in selector:
                if isinstance(r.value, ServerConnection):
                    await self.let_in(r.value, selector, ends)
                elif r.channel in ends:
                    await self.go_on(ends, r)

    async def let_in(self, connection: ServerConnection, selector: Any, ends: dict[object, End]) -> None:
        end = self.meet(connection)
        with contextlib.suppress(OwnError, ConnectionFailedError):
            if connection.path == BYSTANDER:
                await connection.accept()
            else:
                await end.answer()
            with contextlib.suppress(NoContextError):
                selector.add(connection.channel())
                ends[connection.channel()] = end

    async def go_on(self, ends: dict[object, End], r: csp.SelectResult[Any]) -> None:
        end = ends[r.channel]
        if end.endpoint.url.endswith(BYSTANDER):
            if r.ok:
                with contextlib.suppress(ConnectionFailedError):  # it may have waited for too long
                    await end.endpoint.send(r.value.data)
            return
        end.note(r.value if r.ok else None)
        if end.chance.random() < 0.5:
            operation = end.chance.choice([end.send, end.ping, end.pause, end.several, end.close])
            await end.attempt(operation)
        if not r.ok:
            del ends[r.channel]

    # The end ----------------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Bring the server to its end: in the middle of everything, or when all clients have left."""
        if self.early:
            await trio.sleep(self.chance.choice([0, 0.1, 1, 5, 30]))
        for notes in self.notes.values():
            notes.stopped |= not notes.drained
        match self.end:
            case "cancel":
                self.scope.cancel()
            case "close":
                await self.server.close(SERVER_CODE)
            case "grace":
                await self.server.close(SERVER_CODE, grace=self.chance.choice(["1s", "10s"]))
            case "stop":
                self.server.stop()
                if self.way != "serve":
                    await trio.sleep(self.chance.choice([0, 1, 30]))
            case _:
                if self.way == "serve":
                    self.scope.cancel()
        if self.way != "serve":
            self.leaving.set()

    def check(self) -> None:
        """Check what was noted, after the end."""
        statistics = self.server.statistics()
        assert (statistics.open, statistics.waiting) == (0, 0)
        assert list(self.server.connections) == []
        seen = Counter(guest.status for guest in self.guests if guest.status is not None)
        assert seen[101] <= statistics.accepted
        refused = sum(statistics.rejected.values())
        cancelled = self.end == "cancel" or (self.way == "serve" and self.end in ("leave", "fail"))
        if self.link == "memory" and not cancelled:
            # Each stream has one line in the log, and is counted once, or nobody was there to be answered. One may have
            # been on its way from the listener as the server stopped, and pages are cut off then.
            assert self.lines.pop("the", 0) == statistics.accepted, "each connection has one more line at its end"
            assert sum(self.lines.values()) <= self.door.accepted
            assert sum(self.lines.values()) >= self.door.accepted - 1 or self.pages
            assert self.lines["accepted"] == statistics.accepted
            assert self.lines["refused"] <= refused <= self.lines["refused"] + self.lines["did"]
        for guest in self.guests:
            notes = self.notes.get("/" + guest.url.rpartition("/")[2])
            if notes is not None and not isinstance(guest, Bystander):
                check(notes, guest.notes, raw=isinstance(guest, Raw))
                check(guest.notes, notes)
        self.lines.clear()
        gc.collect()
        assert not list(self.alive), "the connections are kept alive by the server"
