"""The specification's examples, each as a small program of its own; `_specification` says how to read it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trio
from websockets.asyncio.server import broadcast

import csp
from csp import errors, security, websocket
from tests.websocket._peers import LIMIT_SECONDS, AiohttpServer, LibraryServer, WebsocketsServer
from tests.websocket.whole._specification import MIB, headers_seen, is_over

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    from aiohttp import web
    from websockets.asyncio.server import ServerConnection


async def test_example_basic_connection(tls_server: LibraryServer, trusting: ssl.SSLContext) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        # The page needs no ssl_context: its server's certificate is one that everybody trusts.
        async with websocket.connect(tls_server.url("/echo"), ssl_context=trusting) as client:
            await client.send("Hello, Server!")
            message, ok = await client.receive()
    assert ok
    assert message.data == "Hello, Server!"


async def test_example_connection_with_options(tls_server: LibraryServer, trusting: ssl.SSLContext) -> None:
    token = "t0ken"
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(
            tls_server.url("/headers?deflate"),
            headers={"Authorization": "Bearer " + token},
            protocols=["graphql-ws", "second"],
            dial_timeout="10s",
            read_timeout="30s",
            write_timeout=5000,
            compression=websocket.COMPRESSION.CONTEXT_TAKEOVER,
            compression_threshold=256,
            read_limit=MIB,
            channel_capacity=100,
            ssl_context=trusting,
            server_hostname="127.0.0.1",
            origin="https://example.com",
            user_agent="specification/1.0",
            keepalive="30s",
            close_timeout="5s",
        ) as client:
            seen = await headers_seen(client)
            assert client.subprotocol == "second"
            assert "permessage-deflate" in client.response_headers["Sec-WebSocket-Extensions"]
    assert seen["authorization"] == "Bearer t0ken"
    assert (seen["origin"], seen["user-agent"]) == ("https://example.com", "specification/1.0")


async def test_example_sending_text_json_and_binary(either: LibraryServer) -> None:
    binary_data = bytes(range(256))
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/echo")) as client:
            await client.send("Hello, Server!")
            await client.send(json.dumps({"type": "subscribe", "channel": "orders"}))
            await client.send(binary_data, websocket.BINARY)
            echoes = [(await client.receive()).value for _ in range(3)]
    assert echoes == [
        ("text", "Hello, Server!"),
        ("text", '{"type": "subscribe", "channel": "orders"}'),
        ("binary", binary_data),
    ]


async def test_example_ping(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/echo")) as client:
            answer = await client.ping()
            seconds, ok = await answer.receive()
    assert ok
    assert seconds == client.latency


async def test_example_basic_receive(either: LibraryServer, capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/count/1")) as client:
            ch = client.channel()
            msg, ok = await ch.receive()
            if ok:
                print("Type:", msg.type)  # "text" or "binary"
                print("Data:", msg.data)
            assert await is_over(ch)
    assert capsys.readouterr().out == "Type: text\nData: 0\n"


async def test_example_message_loop(either: LibraryServer) -> None:
    handled: list[int] = []
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/count/5")) as client:
            async for msg in client:
                if msg.type == "text":
                    data = json.loads(msg.data)
                    handled.append(data)
            # Connection closed, and as it should be: otherwise the loop had raised client.error.
            assert client.error is None
    assert handled == [0, 1, 2, 3, 4]


async def test_example_message_loop_as_on_the_page(either: LibraryServer) -> None:
    handled: list[int] = []
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/count/5")) as client:
            ch = client.channel()
            while True:
                msg, ok = await ch.receive()
                if not ok:
                    break  # Connection closed
                if msg.type == "text":
                    handled.append(json.loads(msg.data))
    assert handled == [0, 1, 2, 3, 4]


class StreamServer(AiohttpServer):
    """Sends something at each message and at each ping, answers the ping, and closes after the third.

    ``/prices`` sends prices of the symbols that were subscribed to, anything else the number of messages and pings.
    """

    async def _serve(self, action: str, connection: web.WebSocketResponse, request: web.Request) -> None:
        assert request.path.removeprefix("/") == action
        symbols: list[str] = []
        messages = pings = 0
        while pings < 3:
            message = await connection.receive()
            if message.type is aiohttp.WSMsgType.PING:
                pings += 1
                await connection.pong(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT and action == "prices":
                order = json.loads(message.data)
                assert order["action"] == "subscribe"
                symbols = order["symbols"]
            messages += message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
            if action == "prices":
                for number, symbol in enumerate(symbols):
                    await connection.send_str(json.dumps({"symbol": symbol, "value": 100 * number + pings}))
            else:
                await connection.send_str(json.dumps({"messages": messages, "pings": pings}))
        await connection.close()


@pytest.fixture(scope="module")
def stream_server() -> Iterator[LibraryServer]:
    with StreamServer().running() as running:
        yield running


async def test_example_select_over_messages_and_a_timer(stream_server: LibraryServer) -> None:
    processed: list[dict[str, int]] = []
    process = processed.append
    data = bytes(10)
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(
            stream_server.url("/stream?deflate"),
            headers={"Authorization": "Bearer t0ken"},
            protocols=["graphql-ws"],
            dial_timeout="10s",
            read_timeout="30s",
            compression=websocket.COMPRESSION.CONTEXT_TAKEOVER,
        ) as client:
            await client.send("Hello, Server!")
            await client.send(data, websocket.BINARY)
            messages = client.channel()
            heartbeat = csp.after("10ms")
            pings = 0
            while True:
                r = await csp.select(messages.case_receive(), heartbeat.case_receive())
                if r.channel is heartbeat:
                    await client.ping()
                    pings += 1
                    # The server closes after the third: a fourth might find the connection ended.
                    heartbeat = csp.after("10ms" if pings < 3 else "30s")
                elif isinstance(r.value, websocket.Message):
                    process(json.loads(r.value.data))
                else:
                    assert not r.ok
                    break
            await client.close(websocket.CLOSE_CODES.NORMAL, "Session ended")
    assert processed[-1] == {"messages": 2, "pings": 3}
    assert len(processed) == 5
    assert client.error is None


async def test_example_closing_connection_without_arguments(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/told")) as client:
            await client.close()
    assert await either.reported() == (1000, "")


async def test_example_closing_connection_with_code_and_reason(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/told")) as client:
            await client.close(websocket.CLOSE_CODES.NORMAL, "Session ended")
    assert await either.reported() == (1000, "Session ended")


async def test_example_closing_connection_after_an_error(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/told")) as client:
            await client.close(websocket.CLOSE_CODES.INTERNAL_ERROR, "Processing failed")
    assert await either.reported() == (1011, "Processing failed")


class ChatServer(WebsocketsServer):
    """A chat: whoever joins a room is told who is there, what the others say, and who leaves."""

    def __init__(self) -> None:
        super().__init__()
        self._members: dict[ServerConnection, tuple[str, str]] = {}

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.headers["Authorization"] == "Bearer t0ken"
        joining = json.loads(await connection.recv())
        room, name = joining["room"], joining["name"]
        self._members[connection] = room, name
        self._tell(room, {"type": "joined", "name": name})
        async for message in connection:
            self._tell(room, {**json.loads(message), "name": name}, but=connection)
        del self._members[connection]
        self._tell(room, {"type": "left", "name": name})

    def _tell(self, room: str, what: dict[str, str], but: ServerConnection | None = None) -> None:
        members = [member for member, (its_room, _) in self._members.items() if its_room == room and member is not but]
        broadcast(members, json.dumps(what))


async def connect_chat(
    url: str, room: str, name: str, on_message: Callable[[websocket.Client, dict[str, str]], Awaitable[None]]
) -> None:
    """Join a room, and call ``on_message`` with all that is said there."""
    async with websocket.connect(url, headers={"Authorization": "Bearer t0ken"}) as client:
        await client.send(json.dumps({"type": "join", "room": room, "name": name}))
        async for message in client:
            await on_message(client, json.loads(message.data))


async def test_example_chat() -> None:
    heard: dict[str, list[tuple[str, ...]]] = {"alice": [], "bob": [], "eve": []}

    async def say(client: websocket.Client, text: str) -> None:
        await client.send(json.dumps({"type": "said", "text": text}))

    async def alice(client: websocket.Client, data: dict[str, str]) -> None:
        heard["alice"].append(tuple(data.values()))
        match data:
            case {"type": "joined", "name": "alice"}:
                nursery.start_soon(connect_chat, url, "kitchen", "bob", bob)
            case {"type": "joined", "name": "bob"}:
                await say(client, "Hello, Bob!")
            case {"type": "left"}:
                await client.close()
            case _:
                pass

    async def bob(client: websocket.Client, data: dict[str, str]) -> None:
        heard["bob"].append(tuple(data.values()))
        if data["type"] == "said":
            await say(client, "Hello and good-bye!")
            await client.close()

    async def eve(client: websocket.Client, data: dict[str, str]) -> None:
        # In another room, so that she hears of herself only.
        heard["eve"].append(tuple(data.values()))
        in_garden.set()
        await leave_garden.wait()
        await client.close()

    with ChatServer().running() as server, trio.fail_after(LIMIT_SECONDS):
        url = server.url("/chat")
        in_garden, leave_garden = trio.Event(), trio.Event()
        async with trio.open_nursery() as eves_nursery:
            eves_nursery.start_soon(connect_chat, url, "garden", "eve", eve)
            await in_garden.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect_chat, url, "kitchen", "alice", alice)
            leave_garden.set()
    assert heard == {
        "alice": [
            ("joined", "alice"),
            ("joined", "bob"),
            ("said", "Hello and good-bye!", "bob"),
            ("left", "bob"),
        ],
        "bob": [("joined", "bob"), ("said", "Hello, Bob!", "alice")],
        "eve": [("joined", "eve")],
    }


async def test_example_price_stream_with_keep_alive(stream_server: LibraryServer) -> None:
    prices: dict[str, int] = {}
    pings = 0
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(stream_server.url("/prices")) as client:
            await client.send(json.dumps({"action": "subscribe", "symbols": ["BTC-USD", "ETH-USD"]}))
            ch = client.channel()
            heartbeat = csp.after("10ms")
            while True:
                r = await csp.select(ch.case_receive(), heartbeat.case_receive())
                if r.channel is heartbeat:
                    await client.ping()
                    pings += 1
                    heartbeat = csp.after("10ms")
                elif isinstance(r.value, websocket.Message):
                    price = json.loads(r.value.data)
                    prices[price["symbol"]] = price["value"]
                else:
                    break  # Connection closed
            await client.close()
    assert prices == {"BTC-USD": 3, "ETH-USD": 103}
    assert pings >= 3
    assert client.error is None


async def test_example_error_handling_by_kind_and_retryable(server: LibraryServer) -> None:
    async def connect(url: str) -> str:
        try:
            async with websocket.connect(url) as client:
                await client.send("hello")
                return str((await client.receive()).value.data)
        except errors.Error as error:
            if errors.is_kind(error, errors.PERMISSION_DENIED):
                return f"Access denied: {error.message}"
            if error.retryable:
                return f"Temporary error: {error.message}"
            return f"Error: {error.message}"

    forbidden = security.Policy("websocket.connect.url", server.url("/told"), effect="deny")
    scope = security.Scope([forbidden])
    with trio.fail_after(LIMIT_SECONDS), security.context(scope=scope, strict=False):
        assert await connect(server.url("/echo")) == "hello"
        assert (await connect(server.url("/told"))).startswith("Access denied: ")
        assert (await connect(server.url("/refuse/503"))).startswith("Temporary error: ")
        assert (await connect(server.url("/refuse/404"))).startswith("Error: ")
