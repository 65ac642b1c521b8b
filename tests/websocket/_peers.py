"""Servers for the loopback tests: raw TCP ones inside the test's own run, and those of three libraries outside it.

A raw server sends any bytes at any pace, and checks at its end that the client has left no socket and no task behind.
The servers of `websockets` and `aiohttp` run in threads, that of npm's `ws` in a process of node.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http
import json
import queue
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, cast
from urllib.parse import parse_qs

import aiohttp
import pytest
import trio
from aiohttp import web
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.typing import ExtensionParameter, Subprotocol

from csp import websocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence

    from websockets.extensions import Extension
    from websockets.frames import Frame as LibraryFrame

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LIMIT_SECONDS = 15.0
"""No exchange with a raw server takes longer; one that hangs fails instead."""

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


# What a client may leave behind -------------------------------------------------------------------------------------


def open_sockets() -> int:
    """Count the sockets of this process; always 0 where the system does not show them."""
    count = 0
    directory = Path("/proc/self/fd")
    for entry in directory.iterdir() if directory.is_dir() else ():
        # The descriptor of the listing itself is gone by now.
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def driver_tasks() -> list[str]:
    """Return the names of the driver's tasks in this run."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found: list[str] = []
    tasks = [root]
    while tasks:
        task = tasks.pop()
        if task.name.startswith(("trio_csp_websocket", "trio_websocket", "csp.")):
            found.append(task.name)
        for nursery in task.child_nurseries:
            tasks.extend(nursery.child_tasks)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds; something outside this run's clock brings it about, so look now and then."""
    while not condition():  # noqa: ASYNC110  # nothing here could set an event
        await trio.sleep(0.001)


@asynccontextmanager
async def connected(url: str, **options: Unpack[websocket.ConnectOptions]) -> AsyncGenerator[websocket.Client]:
    """Connect, with a limit to what the block may take."""
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(url, **options) as client:
            yield client


# Raw servers --------------------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A frame as it came from the client, unmasked."""

    opcode: int
    payload: bytes
    head: int


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = False) -> bytes:
    """Return a frame as a server sends it, or as it must not."""
    head = (0x80 if fin else 0) | reserved | opcode
    mask = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        start = struct.pack("!BB", head, mask | length)
    elif length < 1 << 16:
        start = struct.pack("!BBH", head, mask | 126, length)
    else:
        start = struct.pack("!BBQ", head, mask | 127, length)
    return start + (bytes(4) if masked else b"") + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def parse_close(payload: bytes) -> tuple[int, str]:
    return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")


def unmasked(payload: bytes, key: bytes) -> bytes:
    """Apply a mask; written unlike the driver's."""
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(payload), "big")


class Peer:
    """A raw server's end of one connection."""

    def __init__(self, stream: trio.abc.Stream, left: trio.Event) -> None:
        self.stream = stream
        self.left = left
        """Set at the end of the block of `raw_server`: the client must be gone."""
        self.request = b""
        self.answer = b""
        self.closes: list[int] = []
        """The codes of the client's close frames, as far as they are read."""
        self._unread = b""

    async def read_request(self) -> None:
        while b"\r\n\r\n" not in self.request:
            block = await self.stream.receive_some()
            assert block, "the client went away in the middle of its request"
            self.request += block
        self.answer = acceptance(self.request)

    async def accept(self, then: bytes = b"") -> None:
        """Carry out the handshake; ``then`` goes out in the same packet as the answer."""
        await self.read_request()
        await self.stream.send_all(self.answer + then)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read(self, count: int) -> bytes:
        """Return this many bytes, or fewer if the client's end comes first."""
        parts = [self._unread]
        missing = count - len(self._unread)
        while missing > 0:
            block = await self.stream.receive_some(min(missing, 1 << 20))
            if not block:
                break
            parts.append(bytes(block))
            missing -= len(block)
        self._unread = b""
        data = b"".join(parts)
        self._unread = data[count:]
        return data[:count]

    async def read_frame(self) -> Frame | None:
        """Return the next frame; None at the end of the stream, which must not lie inside a frame."""
        start = await self.read(2)
        if not start:
            return None
        head, length = start
        assert length & 0x80, "a client's frame must be masked"
        length &= 0x7F
        if length > 125:
            length = int.from_bytes(await self.read(2 if length == 126 else 8), "big")
        key = await self.read(4)
        payload = await self.read(length)
        assert len(key) == 4, "the stream ends in the middle of a frame"
        assert len(payload) == length, "the stream ends in the middle of a frame"
        received = Frame(head & 0x0F, unmasked(payload, key), head)
        if received.opcode == CLOSE:
            self.closes.append(parse_close(received.payload)[0])
        return received

    async def read_frames(self) -> list[Frame]:
        """Return all frames up to the end of the stream."""
        frames: list[Frame] = []
        while (received := await self.read_frame()) is not None:
            frames.append(received)
        return frames

    async def expect(self, opcode: int) -> bytes:
        """Return the payload of the next frame, which must be of this kind."""
        received = await self.read_frame()
        assert received is not None, "the client's end came instead of a frame"
        assert received.head == 0x80 | opcode, received
        return received.payload

    async def expect_end(self) -> None:
        """Wait for the client's end: nothing more comes, and no reset."""
        rest = await self.read(1)
        assert rest == b"", rest

    async def expect_gone(self) -> None:
        """Wait for the end of the block, after which the client's socket must be closed, in whatever way."""
        await self.left.wait()
        with contextlib.suppress(trio.BrokenResourceError):
            while await self.stream.receive_some():
                pass

    async def end(self) -> None:
        """Half-close: nothing more comes from here."""
        assert isinstance(self.stream, trio.SocketStream)
        await self.stream.send_eof()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = cast("trio.SSLStream[trio.SocketStream]", stream).transport_stream
        assert isinstance(stream, trio.SocketStream)
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()


def acceptance(request: bytes, *extra: str) -> bytes:
    """Return the answer that accepts a request."""
    key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)\r\n", request)
    assert key is not None, request
    accept = base64.b64encode(hashlib.sha1(key[1] + _ACCEPT_GUID, usedforsecurity=False).digest()).decode()
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *extra,
    )
    return "\r\n".join((*lines, "", "")).encode("latin-1")


@asynccontextmanager
async def raw_server(
    handler: Callable[[Peer], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    https_compatible: bool = True,
    limit_seconds: float = LIMIT_SECONDS,
) -> AsyncGenerator[str]:
    """Serve on a free port; the block gets the URL. At its end every connection must be over and nothing be left."""
    sockets = open_sockets()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port: int = listener.socket.getsockname()[1]
    left = trio.Event()

    async def serve_one(stream: trio.SocketStream) -> None:
        secure = (
            stream if tls is None else trio.SSLStream(stream, tls, server_side=True, https_compatible=https_compatible)
        )
        async with stream:
            await handler(Peer(secure, left))

    with trio.fail_after(limit_seconds):
        async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, serve_one, [listener], handler_nursery=handlers))
            yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}/"
            left.set()
            nursery.cancel_scope.cancel()
    assert driver_tasks() == []
    assert open_sockets() == sockets


# Libraries' servers -------------------------------------------------------------------------------------------------


class LibraryServer:
    """A WebSocket server of another library, in a thread of its own. What it does depends on the path:

    ``/echo`` echoes; ``/close/CODE/REASON`` closes; ``/told`` reports how the client closed; ``/headers`` sends the
    request's headers; ``/ping`` pings five times and reports; ``/pinging`` pings at each message and sends the size of
    all so far; ``/count/N`` sends N numbers and closes; ``/refuse/STATUS`` refuses.

    With ``?deflate`` it accepts permessage-deflate, if that is offered.

    Args:
        tls: for a server of ``wss:`` URLs.
    """

    name = ""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.requests: list[str] = []
        """The paths that were asked for."""
        self._tls = tls
        self._held: list[asyncio.Event] = []
        self._reports: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name=self.name)

    @contextmanager
    def running(self) -> Generator[LibraryServer]:
        self._thread.start()
        assert self._started.wait(10)
        try:
            yield self
        finally:
            assert self._loop is not None
            assert self._stop is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
            assert not self._thread.is_alive()

    def url(self, path: str, credentials: str = "") -> str:
        return f"{'ws' if self._tls is None else 'wss'}://{credentials}127.0.0.1:{self.port}{path}"

    def report(self, what: object) -> None:
        self._reports.put(what)

    async def reported(self) -> Any:
        """Wait for the server's next report."""
        return await trio.to_thread.run_sync(lambda: self._reports.get(timeout=10))

    def unread_reports(self) -> list[object]:
        """Return the reports for which nobody has waited yet."""
        unread: list[object] = []
        with contextlib.suppress(queue.Empty):
            while True:
                unread.append(self._reports.get_nowait())
        return unread

    def release(self) -> None:
        """Let every connection go on that is held."""
        assert self._loop is not None
        held, self._held = self._held, []
        for event in held:
            self._loop.call_soon_threadsafe(event.set)

    async def hold(self) -> None:
        """Wait until the test calls `release`."""
        event = asyncio.Event()
        self._held.append(event)
        await event.wait()

    def started(self, sockets: Sequence[Any], stop: asyncio.Event) -> None:
        self.port = sockets[0].getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._started.set()

    async def _main(self) -> None:
        raise NotImplementedError


class WebsocketsServer(LibraryServer):
    """More paths:

    ``/send/COUNT/SIZE`` sends COUNT messages of SIZE zeros, and reports ``"sent"`` and then how the client closed;
    ``/raw/HEX`` sends these bytes, whatever they are, and reports how the client closed; ``/pings`` pings without end,
    and reports the same; ``/drop`` closes the socket without a close frame; ``/deaf`` says so and then does not read
    anything until it is released, when it breaks the connection; ``/stall`` does not answer the handshake until then;
    ``/forge`` answers it with a wrong accept key; ``/frames`` sends at each message whether it came compressed, and
    its size on the wire; ``/fragments`` echoes in five fragments, with a ping before each.

    ``?deflate`` takes the parameters of the extension along: ``?deflate&server_max_window_bits=10``.
    """

    name = "websockets"

    async def _main(self) -> None:
        stop = asyncio.Event()
        async with serve(
            self._handle,
            "127.0.0.1",
            0,
            ssl=self._tls,
            process_request=self._process_request,
            process_response=self._process_response,
            select_subprotocol=self._choose,
            compression=None,
            max_size=1 << 26,
            ping_interval=None,
            close_timeout=5,
        ) as server:
            self._note(server, stop)
            await stop.wait()

    def _note(self, server: Server, stop: asyncio.Event) -> None:
        self.started(list(server.sockets), stop)

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request.path)
        query = parse_qs(request.path.partition("?")[2], keep_blank_values=True)
        if "deflate" in query:
            connection.protocol.available_extensions = [
                NotingDeflateFactory(
                    server_no_context_takeover="server_no_context_takeover" in query,
                    client_no_context_takeover="client_no_context_takeover" in query,
                    server_max_window_bits=_bits(query, "server_max_window_bits"),
                    client_max_window_bits=_bits(query, "client_max_window_bits"),
                )
            ]
        if request.path == "/stall":
            await self.hold()
        if not request.path.startswith("/refuse/"):
            return None
        status = http.HTTPStatus(int(request.path.removeprefix("/refuse/")))
        headers = Headers({"Content-Type": "text/plain", "X-Why": "because", "Content-Length": "2", "Location": "/"})
        return Response(status.value, status.phrase, headers, b"no")

    def _process_response(self, _connection: ServerConnection, request: Request, response: Response) -> None:
        if request.path == "/forge":
            del response.headers["Sec-WebSocket-Accept"]
            response.headers["Sec-WebSocket-Accept"] = base64.b64encode(bytes(20)).decode()

    def _choose(self, _connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return Subprotocol("second") if "second" in offered else None

    async def _handle(self, connection: ServerConnection) -> None:  # noqa: C901, PLR0912, PLR0915  # one case a path
        assert connection.request is not None
        _, action, *arguments = connection.request.path.partition("?")[0].split("/")
        with contextlib.suppress(ConnectionClosed):
            match action:
                case "echo":
                    async for message in connection:
                        await connection.send(message)
                case "close":
                    await connection.close(int(arguments[0]), arguments[1])
                case "told":
                    await self._tell_close(connection)
                case "headers":
                    await connection.send(json.dumps([*connection.request.headers.raw_items()]))
                    await connection.wait_closed()
                case "ping":
                    for number in range(5):
                        waiter = await connection.ping(f"ping {number}")
                        await asyncio.wait_for(waiter, 5)
                    self.report("5 pongs")
                case "pinging":
                    size = 0
                    async for message in connection:
                        size += len(message)
                        pong = await connection.ping()
                        await connection.send(str(size))
                        if not message:
                            await pong
                            self.report("ponged")
                case "count":
                    for number in range(int(arguments[0])):
                        await connection.send(str(number))
                case "send":
                    for _ in range(int(arguments[0])):
                        await connection.send(bytes(int(arguments[1])))
                    self.report("sent")
                    await self._tell_close(connection)
                case "raw":
                    connection.transport.write(bytes.fromhex(arguments[0]))
                    await self._tell_close(connection)
                case "pings":
                    with contextlib.suppress(ConnectionClosed):
                        while True:
                            await (await connection.ping())
                    await self._tell_close(connection)
                case "drop":
                    connection.transport.close()
                case "deaf":
                    connection.transport.pause_reading()
                    await connection.send("deaf")
                    await self.hold()
                    connection.transport.abort()
                case "frames":
                    async for _ in connection:
                        (extension,) = connection.protocol.extensions
                        assert isinstance(extension, NotingDeflate)
                        await connection.send(json.dumps(extension.noted.pop()))
                case "fragments":
                    async for message in connection:
                        await connection.send(self._fragments(connection, message))
                case _:
                    raise AssertionError(action)

    async def _tell_close(self, connection: ServerConnection) -> None:
        await connection.wait_closed()
        self.report((connection.close_code, connection.close_reason))

    async def _fragments(self, connection: ServerConnection, message: str | bytes) -> AsyncIterator[str | bytes]:
        size = -(-len(message) // 5)
        for start in range(0, len(message), size):
            await connection.ping()
            yield message[start : start + size]


class NotingDeflate(PerMessageDeflate):
    """Notes of each data frame it is given whether it is compressed, and the size of its payload on the wire."""

    def __init__(self, remote_afresh: bool, local_afresh: bool, remote_bits: int, local_bits: int) -> None:
        super().__init__(remote_afresh, local_afresh, remote_bits, local_bits)
        self.noted: list[tuple[bool, int]] = []

    def decode(self, frame: LibraryFrame, *, max_size: int | None = None) -> LibraryFrame:
        if frame.opcode < CLOSE:
            self.noted.append((frame.rsv1, len(frame.data)))
        return super().decode(frame, max_size=max_size)


class NotingDeflateFactory(ServerPerMessageDeflateFactory):
    """Agrees on permessage-deflate as the library does."""

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        agreed, deflate = super().process_request_params(params, accepted_extensions)
        return agreed, NotingDeflate(
            deflate.remote_no_context_takeover,
            deflate.local_no_context_takeover,
            deflate.remote_max_window_bits,
            deflate.local_max_window_bits,
        )


def _bits(query: dict[str, list[str]], name: str) -> int | None:
    return int(query[name][0]) if name in query else None


class AiohttpServer(LibraryServer):
    """One more path: ``/mute`` answers no ping, and reports each with its payload, and then how the client closed."""

    name = "aiohttp"

    async def _main(self) -> None:
        stop = asyncio.Event()
        application = web.Application()
        application.router.add_get("/{action}", self._handle)
        application.router.add_get("/{action}/{first}", self._handle)
        application.router.add_get("/{action}/{first}/{second}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.started(server.sockets, stop)
        await stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        action = request.match_info["action"]
        if action == "refuse":
            return web.Response(
                status=int(request.match_info["first"]), text="no", headers={"X-Why": "because", "Location": "/"}
            )
        connection = web.WebSocketResponse(
            protocols=["second"],
            compress="deflate" in request.query,
            max_msg_size=1 << 26,
            autoping=False,
            timeout=5,
        )
        await connection.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            await self._serve(action, connection, request)
        return connection

    async def _serve(  # noqa: C901, PLR0912  # one case a path
        self, action: str, connection: web.WebSocketResponse, request: web.Request
    ) -> None:
        match action:
            case "echo":
                async for message in connection:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await connection.send_str(message.data)
                    elif message.type is aiohttp.WSMsgType.BINARY:
                        await connection.send_bytes(message.data)
                    elif message.type is aiohttp.WSMsgType.PING:
                        await connection.pong(message.data)
            case "close":
                code, reason = request.match_info["first"], request.match_info["second"]
                await connection.close(code=int(code), message=reason.encode())
            case "told":
                message = await connection.receive()
                self.report((message.data, message.extra))
            case "headers":
                await connection.send_str(json.dumps([*request.headers.items()]))
                await connection.receive()
            case "ping":
                for number in range(5):
                    payload = f"ping {number}".encode()
                    await connection.ping(payload)
                    message = await connection.receive(5)
                    assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, payload)
                self.report("5 pongs")
            case "pinging":
                size = 0
                ponged = False
                async for message in connection:
                    if message.type is aiohttp.WSMsgType.PONG and not ponged:
                        ponged = True
                        self.report("ponged")
                    elif message.type is aiohttp.WSMsgType.BINARY:
                        size += len(message.data)
                        await connection.ping(b"still there?")
                        await connection.send_str(str(size))
            case "count":
                for number in range(int(request.match_info["first"])):
                    await connection.send_str(str(number))
                await connection.close()
            case "mute":
                while (message := await connection.receive()).type is not aiohttp.WSMsgType.CLOSE:
                    self.report(bytes(message.data))
                self.report((message.data, message.extra))
            case _:
                raise AssertionError(action)


class NodeServer:
    """The server of npm's ``ws``, in a process of node: see ``ws_server.cjs`` for its paths."""

    name = "ws"

    def __init__(self) -> None:
        self._port = 0

    @contextmanager
    def running(self) -> Generator[NodeServer]:
        """Run the server; skip the test if there is no node, or no ``ws``."""
        node = shutil.which("node")
        if node is None:
            pytest.skip("npm ws is not installed: npm install ws")
        command = [node, str(Path(__file__).with_name("ws_server.cjs"))]
        # The process ends with its standard input, whatever becomes of this one; leaving the block closes both ends.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                first_line = process.stdout.readline()
                if first_line == "no ws\n":
                    pytest.skip("npm ws is not installed: npm install ws")
                assert first_line, "ws_server.cjs has failed"
                self._port = int(first_line)
                self._output = process.stdout
                yield self
            finally:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self._port}{path}"

    async def reported(self) -> Any:
        """Wait for the server's next report."""
        return json.loads(await trio.to_thread.run_sync(self._output.readline))
