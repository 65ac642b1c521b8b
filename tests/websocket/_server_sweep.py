"""Trials of a server: one run of an operation of its application, cancelled before the n-th step of the server's tasks.

Counted are the steps of all tasks but the clients': see `_sweep`.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.hostile._foe import Said, head, sent
from tests.websocket._entrance import Entrance
from tests.websocket._links import SMALL_BUFFER_BYTES, contexts
from tests.websocket._peers import CLOSE, PING, PONG, TEXT, driver_tasks, open_sockets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from csp.websocket import Listening, ServerConnection

Link: TypeAlias = Literal["memory", "socket", "tls"]
CLIENT = "client:"
"""How the names of the clients' tasks begin."""
LIMIT_SECONDS = 1000.0


class Steps(trio.abc.Instrument):
    """Counts steps, and does something before one of them."""

    def __init__(self, at: int | None, deed: Callable[[], None]) -> None:
        self.count = 0
        self._at = at
        self._deed = deed

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not task.name.startswith(CLIENT):
            self.count += 1
            if self.count == self._at:
                self._deed()


class Client:
    """A client that behaves: it answers pings and the close, and keeps what it hears."""

    def __init__(self, stream: trio.abc.Stream, *, closes: bool = False, listens: bool = True) -> None:
        self.over = trio.Event()
        self.stream = stream
        self.said = Said(b"", clean=False)
        self._closes = closes
        self._may_listen = trio.Event()
        if listens:
            self.listen_on()

    def listen_on(self) -> None:
        """Begin to listen to what the server says, if it did not so far."""
        self._may_listen.set()

    async def run(self) -> None:
        """Send a request, a message, and perhaps a close; listen until the stream ends."""
        heard = bytearray()
        clean = True
        try:
            handshake = getattr(self.stream, "do_handshake", None)  # of TLS
            if handshake is not None:
                await handshake()
            closing = sent(CLOSE, b"\x03\xe8") if self._closes else b""
            await self.stream.send_all(head("Sec-WebSocket-Protocol: a") + sent(TEXT, b"hello") + closing)
            await self._may_listen.wait()
            answered = 0
            while block := await self.stream.receive_some():
                heard += block
                frames = Said(bytes(heard), clean=True).frames
                for opcode, payload in frames[answered:]:
                    answered += 1
                    if opcode == PING:
                        await self.stream.send_all(sent(PONG, payload))
                    elif opcode == CLOSE and not self._closes:
                        await self.stream.send_all(sent(CLOSE, payload))
        except trio.BrokenResourceError:
            clean = False
        finally:
            self.said = Said(bytes(heard), clean=clean)
            await trio.aclose_forcefully(self.stream)
            self.over.set()


class ServerTrial:
    """One run of an operation.

    Args:
        link: what the clients come over.
        at: before which step it is cancelled; 0 for before it begins, None for never.
    """

    def __init__(self, link: Link, at: int | None) -> None:
        self.link: Link = link
        self.at = at
        self.scope = trio.CancelScope()
        self.steps = 0
        self.cancelled = False
        self.clients: list[Client] = []
        self.entrance = Entrance()
        self._cancelled_at = 0.0
        self._nursery: trio.Nursery | None = None

    def run(self, operation: Callable[[ServerTrial], Awaitable[None]]) -> None:
        """Run it on a clock of its own, and check what it left."""
        trio.run(self._run, operation, clock=MockClock(autojump_threshold=0))

    async def _run(self, operation: Callable[[ServerTrial], Awaitable[None]]) -> None:
        sockets = 0 if self.link == "memory" else open_sockets()
        living = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(LIMIT_SECONDS):
            async with trio.open_nursery() as self._nursery:
                await operation(self)
                assert driver_tasks() == []
                for client in self.clients:
                    client.listen_on()
                    await client.over.wait()
        for client in self.clients:
            # Whole frames, one answer, and nothing behind the close.
            assert client.said.status in (None, 101, 403, 404, 500, 503), client.said
            assert client.said.code in (None, 1000, 1001, 1011, 1012), client.said
        assert trio.lowlevel.current_statistics().tasks_living == living
        assert self.link == "memory" or open_sockets() == sockets

    @property
    def options(self) -> dict[str, Any]:
        """How the server listens."""
        tls = {"ssl_context": contexts()[0]} if self.link == "tls" else {}
        return {"sockets": [self.entrance], "protocols": ["a"], **tls}

    def listen(self) -> Listening:
        return websocket.listen(**self.options)

    def come(self, *, closes: bool = False, listens: bool = True) -> Client:
        """Let a client come."""
        ours: trio.abc.Stream
        if self.link == "memory":
            ours, theirs = memory_stream_pair()
            self.entrance.put(theirs)
        else:
            pair = socket.socketpair()
            for one in pair:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
            near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in pair)
            self.entrance.put(far)
            ours = near
        if self.link == "tls":
            ours = trio.SSLStream(ours, contexts()[1], server_hostname="server.test")
        client = Client(ours, closes=closes, listens=listens)
        self.clients.append(client)
        assert self._nursery is not None
        self._nursery.start_soon(client.run, name=f"{CLIENT} {len(self.clients)}")
        return client

    @contextlib.contextmanager
    def swept(self) -> Generator[None]:
        """Cancel what is in this block, and see that it takes no time then."""
        steps = Steps(self.at, self._cancel)
        trio.lowlevel.add_instrument(steps)
        if self.at == 0:
            self._cancel()
        try:
            with self.scope:
                yield
        finally:
            trio.lowlevel.remove_instrument(steps)
            self.steps = steps.count
        if self.cancelled:
            assert trio.current_time() == self._cancelled_at, "time passed after it was cancelled"

    def _cancel(self) -> None:
        self.cancelled = True
        self._cancelled_at = trio.current_time()
        self.scope.cancel()

    async def check_served(self, server: websocket.Server) -> None:
        """Check that the server serves on: somebody else comes, is heard and answered, and leaves."""
        client = self.come(closes=True)
        connection = await server.receive_value()
        await connection.accept()
        assert (await connection.receive_value()).data == "hello"
        await connection.wait_closed()
        await client.over.wait()
        assert (client.said.status, client.said.code, client.said.clean) == (101, 1000, True), client.said

    async def check_usable(self, connection: ServerConnection) -> None:
        """Check that a connection works both ways, accepted or not so far; or has ended."""
        for client in self.clients:
            client.listen_on()
        await wait_all_tasks_blocked()
        try:
            await connection.send("still there?")
            await (await connection.ping()).receive_value()
        except ConnectionFailedError:
            assert connection.close_code is not None
        await connection.close()
        assert connection.close_code is not None
        await connection.wait_closed()
