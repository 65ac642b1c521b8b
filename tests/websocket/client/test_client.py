"""A client: what it knows of its handshake and its options, and the README's example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import websocket
from csp.websocket import BINARY, TEXT, Headers, Message
from tests.websocket._server import (
    CLOSE,
    ENDED,
    PING,
    Server,
    accepting,
    close,
    connecting,
    frame,
    text,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_the_url_is_normalised_and_shows_no_credentials(autojump_clock: MockClock) -> None:
    async with connecting(Server(), "WS://user:secret@SERVER.test:80/a/../b?c") as client:
        assert client.url == "ws://server.test/b?c"
        assert "secret" not in repr(client)


async def test_the_subprotocol_is_the_servers_choice(autojump_clock: MockClock) -> None:
    server = Server(lambda request: accepting(request, "Sec-WebSocket-Protocol: v1"))
    async with connecting(server, protocols=["v2", "v1"]) as client:
        assert client.subprotocol == "v1"
    async with connecting(Server(), protocols=["v2", "v1"]) as client:
        assert client.subprotocol is None


async def test_response_headers_are_those_of_the_answer(autojump_clock: MockClock) -> None:
    server = Server(lambda request: accepting(request, "X-Node: 7", "Set-Cookie: a", "Set-Cookie: b"))
    async with connecting(server) as client:
        assert client.response_headers["x-NODE"] == "7"
        assert client.response_headers.get_all("set-cookie") == ["a", "b"]
        assert client.response_headers.get("missing") is None
        assert isinstance(client.response_headers, Headers)
        assert "X-Node" in list(client.response_headers)  # as the server wrote it


async def test_the_capacity_of_the_channel_is_the_option(autojump_clock: MockClock) -> None:
    async with connecting(Server(), channel_capacity=3) as client:
        assert client.channel().capacity == 3


async def test_the_read_limit_is_the_option(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=10) as client:
        server.send(frame(BINARY, bytes(10)), frame(BINARY, bytes(11))[:2])
        await wait_all_tasks_blocked()
        assert client.close_code == 1009
        assert (await client.receive()).ok
        assert await client.receive() == ENDED


# The example of the README --------------------------------------------------------------------------------------------


async def test_the_example_works_as_it_is_written(autojump_clock: MockClock) -> None:
    processed: list[object] = []
    data = b"\x00\x01"

    def process(value: object) -> None:
        processed.append(value)

    server = Server(lambda request: accepting(request, "Sec-WebSocket-Protocol: graphql-ws"))

    async def serve() -> None:
        for number in range(3):
            server.send(text(json.dumps({"number": number})))
            await trio.sleep(15)
        server.send(close(1000))
        server.end()

    async with (
        trio.open_nursery() as nursery,
        connecting(
            server, "ws://api.example.com/ws", headers={"X-Key": "k"}, protocols=["graphql-ws"], dial_timeout="10s"
        ) as client,
    ):
        nursery.start_soon(serve)
        await client.send("Hello, Server!")
        await client.send(data, websocket.BINARY)
        messages = client.channel()
        heartbeat = csp.after("30s")
        while True:
            r = await csp.select(messages.case_receive(), heartbeat.case_receive())
            if r.channel is heartbeat:
                await client.ping()
                heartbeat = csp.after("30s")
            elif not r.ok:
                break
            else:
                assert isinstance(r.value, Message)
                process(json.loads(r.value.data))
        await client.close(websocket.CLOSE_CODES.NORMAL, "Session ended")
    assert processed == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert [frame.opcode for frame in server.frames] == [TEXT, BINARY, PING, CLOSE]
    assert client.subprotocol == "graphql-ws"


def test_the_face_exports_what_the_specification_names() -> None:
    assert (websocket.TEXT, websocket.BINARY) == (1, 2)
    for name in websocket.__all__:
        assert hasattr(websocket, name)
