"""Trials: one run of an operation of the client, with which something interferes before the n-th step of its tasks.

A *step* is what a task does between two visits of the scheduler. Counted are those of all tasks but the server's: the
operation's own, the driver's, trio-websocket's. So what happens before steps 0, 1, 2, ... happens at every await there
is, in one order of the tasks that are runnable at a time; Hypothesis seeds that order.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp import websocket
from csp.errors import ConnectionFailedError
from csp.websocket import COMPRESSION
from tests.websocket._links import (
    SERVER_TASK,
    AnsweringServer,
    Closing,
    Link,
    SmallBuffers,
    Way,
    carry,
    carry_each,
    contexts,
    listen,
)
from tests.websocket._peers import driver_tasks, open_sockets
from tests.websocket._proxies import contexts as contexts_of_proxies
from tests.websocket._server import (
    BINARY,
    CLOSE,
    COMPRESSED,
    PING,
    PONG,
    TEXT,
    URL,
    Server,
    accepting,
    connecting,
    frame,
)
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
    from email.message import Message as Headers

    from csp.websocket import Client
    from tests.websocket._proxies import Proxy
    from trio_csp_websocket.client.connect import Connecting
    from trio_csp_websocket.client.options import ConnectOptions
    from trio_csp_websocket.transport.base import Transport

LIMIT_SECONDS = 1000.0
"""Nothing takes longer; what does hangs."""


# Interfering ----------------------------------------------------------------------------------------------------------


class Steps(trio.abc.Instrument):
    """Counts steps, and does something before some of them.

    Args:
        deeds: what to do, by the number of steps before it.
    """

    def __init__(self, deeds: Mapping[int, Callable[[], None]]) -> None:
        self.count = 0
        self._deeds = deeds

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not task.name.startswith(SERVER_TASK):
            self.count += 1
            if self.count in self._deeds:
                self._deeds[self.count]()


class Trial:
    """One run of an operation over a link.

    Args:
        link: what the client runs over.
        takeover: whether messages are compressed, with context takeover.
        way: how the client gets there.
        proxy: what the client connects through, if anything; not in memory.
        at: before which steps to interfere.
        deed: how; by default the operation is cancelled.
        deadline: cancel it after so many seconds instead.
    """

    def __init__(
        self,
        link: Link,
        *,
        takeover: bool = False,
        way: Way = "tcp",
        proxy: Proxy | None = None,
        at: tuple[int, ...] = (),
        deed: Callable[[AnsweringServer], None] | None = None,
        deadline: float = math.inf,
    ) -> None:
        self.link: Link = link
        self.at = at
        self.scopes = [trio.CancelScope(), trio.CancelScope()]
        """What is cancelled: the first scope before the first of the steps, and so on."""
        self.hostile = deed is not None
        """Whether the server interferes."""
        self.interfered = False
        """Whether anybody has."""
        self.steps = 0
        """How many steps the operation took."""
        self.seconds = 0.0
        """How long it took."""
        self.codes = {1000, 1001, 1011}
        """What the client's close frame may say."""
        self.told: list[str] = []
        """What the server sent."""
        self.received: list[str] = []
        self.receives_in_order = True
        """Whether one task at a time receives."""
        self.finished: list[str | bytes] = []
        """The messages that are sent, as far as the client says."""
        self.unwanted: list[str | bytes] = []
        """Those that were cancelled before they began."""
        self._sent: list[str | bytes] = []
        self._deed = deed
        self._deadline = deadline
        self._takeover = takeover
        self._way: Way = way
        self._proxy = proxy
        self._must_end = False
        self._compressor = zlib.compressobj(wbits=-15)
        self._counter: Steps | None = None
        self._begun = self._interfered_at = 0.0
        self._server: AnsweringServer | None = None
        # What redirects to it.
        self._first: Server | None = None
        self._path = ""
        self._client: Client | None = None
        self._nursery: trio.Nursery | None = None
        self._listener: trio.SocketListener | None = None
        self._sockets = SmallBuffers()

    def __str__(self) -> str:
        when = f"at step {self.at}" if self.at else f"after {self._deadline} s"
        through = "" if self._proxy is None else f" through {self._proxy}"
        return f"{self.kind} {when}, over {self.link} by {self._way}{through}{', compressed' if self._takeover else ''}"

    @property
    def kind(self) -> str:
        """How the operation is interfered with."""
        if self._deed is not None:
            return self._deed.__name__
        return "cancelled by a deadline" if self._deadline < math.inf else "cancelled"

    def run(self, operation: Callable[[Trial], Awaitable[None]]) -> Self:
        """Run it on a clock of its own, and check what it left."""
        trio.run(self._run, operation, clock=MockClock(autojump_threshold=0))
        return self

    async def _run(self, operation: Callable[[Trial], Awaitable[None]]) -> None:
        sockets = 0 if self.link == "memory" else open_sockets()
        living = trio.lowlevel.current_statistics().tasks_living
        async with contextlib.AsyncExitStack() as stack:
            if self.link != "memory":
                directory = stack.enter_context(tempfile.TemporaryDirectory())
                self._path = str(Path(directory, "socket"))
                self._listener = await stack.enter_async_context(await listen(self._path))
                trio.socket.set_custom_socket_factory(self._sockets)
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            try:
                with trio.fail_after(LIMIT_SECONDS):
                    await operation(self)
            except ConnectionFailedError:
                if not self.hostile:
                    raise
            if self._server is not None:
                self._server.read_on()
                await self.settle()
                self._check(self._server)
            assert driver_tasks() == []
            self._nursery.cancel_scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == living
        assert self.link == "memory" or open_sockets() == sockets

    # What an operation is made of ------------------------------------------------------------------------------------

    def connecting(
        self,
        answer: bytes | Callable[[Headers[str, str]], bytes] | None = None,
        *,
        closing: Closing = "at once",
        pongs: bool = True,
        nursery: trio.Nursery | None = None,
        **options: Unpack[ConnectOptions],
    ) -> Connecting:
        """Return what `connect` does, for a server of its own."""
        assert self._nursery is not None
        if self._takeover:
            options["compression"] = COMPRESSION.CONTEXT_TAKEOVER
        if answer is None:
            answer = functools.partial(_accepting, takeover=self._takeover)
        self._server = AnsweringServer(answer, closing=closing, pongs=pongs, nursery=self._nursery)
        if self._way == "redirect":
            self._first = Server(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n")
        options.update(self._way_options())
        if self._listener is None:
            if self._way == "dial":
                return websocket.connect(URL, nursery=nursery, **options)
            return connecting(self._server, nursery=nursery, reach=self._reach, **options)
        if self._first is not None:
            servers = (self._first, self._server)
            self._nursery.start_soon(carry_each, self.link, self._listener, servers, name=f"{SERVER_TASK} the links")
        else:
            self._nursery.start_soon(
                carry, self.link, self._listener, self._server, self._proxy, name=f"{SERVER_TASK} the link"
            )
        url = f"{'wss' if self.link == 'tls' else 'ws'}://server.test/feed"
        return websocket.connect(url, nursery=nursery, **options)

    def _way_options(self) -> ConnectOptions:
        """Return the options that say how the server is reached."""
        options: ConnectOptions = {}
        if self._way == "dial":
            options["dial"] = self._dial
        elif self._way == "unix socket":
            options["unix_socket"] = self._path
        if self.link == "tls":
            options["ssl_context"] = contexts()[1]
        if self._proxy is not None:
            options["proxy"] = self._proxy.url(credentials="user:pass", host="proxy.test")
            if self._proxy.protocol == "https":
                options["proxy_ssl_context"] = contexts_of_proxies()[1]
        return options

    async def _reach(self) -> Transport:
        """Return a stream in memory to the server, or first to that which redirects to it."""
        server: Server = self.server
        if self._first is not None and self._first.request is None:
            server = self._first
        return StreamTransport(server.stream)

    async def _dial(self, _host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self._listener is None:
            return self.server.stream
        return await trio.open_unix_socket(self._path)

    @property
    def server(self) -> AnsweringServer:
        assert self._server is not None
        return self._server

    @property
    def client(self) -> Client:
        """The client, which the operation has to set."""
        assert self._client is not None
        return self._client

    @client.setter
    def client(self, client: Client) -> None:
        self._client = client

    def begin(self) -> None:
        """Begin to count steps."""
        self._begun = trio.current_time()
        self.scopes[0].deadline = self._begun + self._deadline
        deeds = {step: functools.partial(self._interfere, which) for which, step in enumerate(self.at)}
        self._counter = Steps(deeds)
        trio.lowlevel.add_instrument(self._counter)
        if 0 in deeds:
            deeds[0]()

    def _interfere(self, which: int) -> None:
        self.interfered = True
        self._interfered_at = trio.current_time()
        if self._deed is None:
            self.scopes[which].cancel()
        elif self._server is not None:
            self._deed(self._server)
            self._must_end = True

    def finish(self) -> None:
        """End counting; check that what was cancelled took no more time."""
        if self._counter is None:
            return
        trio.lowlevel.remove_instrument(self._counter)
        self.steps = self._counter.count
        self.seconds = trio.current_time() - self._begun
        if self.interfered and not self.hostile and len(self.at) == 1:
            assert trio.current_time() == self._interfered_at, "time passed after it was cancelled"
        if self._deadline < math.inf:
            self.interfered = self.scopes[0].cancelled_caught
            assert not self.interfered or self.seconds == self._deadline, "time passed after its deadline"

    @contextlib.contextmanager
    def swept(self, *, begins: bool = True) -> Generator[None]:
        """Interfere with what is in this block."""
        if begins:
            self.begin()
        try:
            with self.scopes[0]:
                try:
                    yield
                except ConnectionFailedError:
                    if not self.hostile:
                        raise
        finally:
            self.finish()
        if begins and not self.hostile and self.at == (0,):
            assert self.scopes[0].cancelled_caught, "it swallowed its cancellation"

    def in_task(self, operation: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run something of the server's in a task of its own, until the end of the trial."""
        assert self._nursery is not None
        self._nursery.start_soon(operation, *args, name=f"{SERVER_TASK} in a task")

    @property
    def much(self) -> bytes:
        """What does not fit into the link at once, where that is limited, compressed or not."""
        return MUCH[:2000] if self.link == "memory" else MUCH

    async def send(self, data: str | bytes) -> None:
        """Send a message, and remember when it was asked for and that it was sent."""
        self._sent.append(data)
        if trio.current_effective_deadline() == -math.inf:
            self.unwanted.append(data)
        try:
            await self.client.send(data)
        except ConnectionFailedError:
            if not self.hostile:
                raise
        else:
            self.finished.append(data)

    def tell(self, count: int) -> None:
        """Let the server send so many messages."""
        for _ in range(count):
            told = f"the server's message number {len(self.told)}"
            self.told.append(told)
            payload, reserved = told.encode(), 0
            if self._takeover:
                payload = self._compressor.compress(payload) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
                payload, reserved = payload.removesuffix(b"\x00\x00\xff\xff"), COMPRESSED
            self.server.say(frame(TEXT, payload, reserved=reserved))

    async def take(self, way: str = "receive") -> bool:
        """Receive a message in one of four ways; tell whether there was one."""
        channel = self.client.channel()
        match way:
            case "receive":
                received = await channel.receive()
            case "select":
                selected = await csp.select(csp.never().case_receive(), channel.case_receive())
                received = csp.Received(selected.value, selected.ok)
            case "iterate":
                received = csp.Received(await anext(self.client), True)
            case _:
                with csp.Selector(channel.case_receive()) as selector:
                    selected = await selector.select()
                    received = csp.Received(selected.value, selected.ok)
        if received.ok:
            self.received.append(str(received.value.data))
        return received.ok

    # What must be true afterwards ------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until the server has taken in what it gets."""
        await wait_all_tasks_blocked()

    async def check_usable(self) -> None:
        """Check that the connection works both ways; if the server has interfered, that it has ended instead."""
        if self._must_end:
            await self.check_end()
        else:
            await self._check_usable()

    async def check_either(self) -> None:
        """Check that the connection either works, or has ended."""
        await self.settle()
        if self._must_end or self.client.close_code is not None:
            await self.check_end()
        else:
            await self._check_usable()

    async def check_end(self) -> None:
        """Check that the connection ends by itself, behind what there is to receive."""
        while await self.take():
            pass
        await self.client._connection.finished.wait()
        await self.check_closed()

    async def _check_usable(self) -> None:
        assert (self.client.close_code, self.client.error) == (None, None)
        assert not self.server.closed
        self.tell(2)
        while len(self.received) < len(self.told):
            assert await self.take()
        for number in range(2):
            await self.send(f"still there? {WORDS} {number}")
        answer = await self.client.ping()
        if self.server.pongs:
            assert (await answer.receive()).ok

    async def check_closed(self) -> None:
        """Check that the connection has ended, all of it."""
        assert self.transport_closed
        assert self.client.close_code is not None
        assert len(self.client._connection.pings) == 0
        while await self.take():
            pass
        with pytest.raises(ConnectionFailedError, match="has ended"):
            await self.client.send("anybody?")
        await self.client.close()

    @property
    def transport_closed(self) -> bool:
        """Whether the stream or the socket is closed at this moment."""
        if self.link == "memory":
            return self.server.closed
        transport = self.client._connection.transport
        if isinstance(transport, SocketTransport):
            # It has taken the system's socket out of Trio's.
            return transport._socket.fileno() == -1
        return all(made.fileno() == -1 for made in self._sockets.made)

    def _check(self, server: AnsweringServer) -> None:
        """Check what the server saw, and that nothing is open."""
        if self.link == "memory":
            # Cancelled before it began to dial, there was nothing to close.
            assert server.closed or not server.request
            assert self._first is None or self._first.closed or not self._first.request
        messages = list(self._messages(server))
        assert is_part(messages, self._sent), "a message was changed, sent twice, or out of order"
        if not server.broken:
            lost = [message for message in self.finished if message not in messages]
            assert not lost, "a message that was sent did not arrive"
        assert not [message for message in self.unwanted if message in messages], "it was cancelled before it began"
        received = self.received if self.receives_in_order else sorted(self.received)
        assert received == self.told[: len(received)], "a message was lost or received twice"
        assert set(server.closes) <= (self.codes | {1000, 1002, 1011} if self.hostile else self.codes)
        if server.unparsed and not server.broken:
            # Cut off in the middle of a message that nobody was told is sent.
            assert not server.closes
            assert len(self._sent) > len(self.finished)

    def _messages(self, server: Server) -> Iterable[str | bytes]:
        """Yield the messages the server got, which must be in frames that are right."""
        inflater = zlib.decompressobj(-15)
        for sent in server.frames:
            assert sent.fin
            if sent.opcode in (PING, PONG, CLOSE):
                assert len(sent.payload) <= 125
                assert not sent.compressed
                if sent.opcode == CLOSE:
                    assert len(sent.payload) >= 2
                    sent.payload[2:].decode()
                continue
            payload = sent.payload
            if sent.compressed:
                payload = inflater.decompress(payload + b"\x00\x00\xff\xff")
            assert sent.opcode in (TEXT, BINARY)
            yield payload.decode() if sent.opcode == TEXT else payload


WORDS = "Sent again and again, so that a message that is compressed refers to those before it, and only to those. " * 5
MUCH = random.Random(0).randbytes(24_000)


def is_part(part: Iterable[object], whole: Iterable[object]) -> bool:
    """Tell whether all of a part is in the whole, in this order, each at its own place."""
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


def _accepting(request: Headers[str, str], *, takeover: bool) -> bytes:
    return accepting(request, "Sec-WebSocket-Extensions: permessage-deflate") if takeover else accepting(request)
