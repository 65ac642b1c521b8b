"""The log of frames: what it tells, and that it changes nothing else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair

from csp import testing, websocket
from tests.websocket._peers import CLOSE, PING, PONG, Peer, close_frame, frame, raw_server
from tests.websocket._server import BINARY, accepting
from tests.websocket.server._lobby import handshake, listening, masked
from trio_csp_websocket.transport.base import Transport
from trio_csp_websocket.transport.logged import LoggedTransport, bare, logged
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from trio.testing import MockClock

FRAMES = "csp.websocket.frames"
URL = "wss://api.test/feed"
SECRET = "hunter2"


def lines(caplog: pytest.LogCaptureFixture, who: str = URL) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name == FRAMES]
    assert all(line.isprintable() for line in found)
    return [line.removeprefix(f"{who}: ") for line in found if line.startswith(f"{who}: ")]


async def test_each_frame_of_either_end_is_one_line_without_its_payload(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, FRAMES)

    async def echo(connection: testing.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message.data)

    takeover = websocket.Compression.CONTEXT_TAKEOVER
    async with (
        testing.websocket_server(echo, compression=takeover),
        websocket.connect(URL, compression=takeover) as client,
    ):
        await client.send(SECRET)
        assert (await client.receive_value()).data == SECRET
        await client.send(SECRET.encode() * 10_000)
        await client.receive()
        await (await client.ping(SECRET)).receive_value()
        sizes = [record.__dict__["websocket_length"] for record in caplog.records if record.name == FRAMES]
        await client.close(4000, "two words")
    assert lines(caplog) == [
        "sent text, 7 bytes",
        "received text, 7 bytes",
        f"sent binary, {sizes[4]} bytes, compressed",
        f"received binary, {sizes[4]} bytes, compressed",
        "sent ping, 7 bytes",
        "received pong, 7 bytes",
        "sent close, 11 bytes, code 4000: two words",
        "received close, 11 bytes, code 4000: two words",
    ]
    theirs = lines(caplog, "somebody for /feed")
    assert sorted(line.replace("sent", "received") for line in theirs) == sorted(
        line.replace("sent", "received") for line in lines(caplog)
    )
    assert SECRET not in caplog.text


async def test_what_a_hostile_server_sends_in_the_packet_of_its_answer_is_told_as_it_is(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, FRAMES)
    reason = b"two\nlines\x1b[2J"
    raw = b"\x01\x02ab" + b"\x80\x01c" + b"\x88" + bytes((2 + len(reason),)) + b"\x0f\xa0" + reason

    async def send(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers) + raw)
        connection.drop()

    async with testing.websocket_server(send), websocket.connect(URL) as client:
        assert (await client.receive_value()).data == "abc"
        await client.wait_closed()
    assert lines(caplog)[:3] == [
        "received text, 2 bytes, more to come",
        "received continuation, 1 bytes",
        "received close, 15 bytes, code 4000: two\\u000alines\\u001b[2J",
    ]


async def test_the_fields_of_a_frame(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.DEBUG, FRAMES)
    async with listening() as (server, lobby):
        client = lobby.connect()
        await client.send(handshake("/x?token=SECRET") + masked(3, b"SECRET") + masked(8))
        await (await server.receive_value()).accept()
        await client.answer()
        assert await client.closed() == (1002, "unknown data opcode 3")
    found = [
        {name: value for name, value in vars(record).items() if name.startswith("websocket_")}
        for record in caplog.records
        if record.name == FRAMES
    ]
    frame = {"websocket_event": "frame", "websocket_connection": "somebody for /x", "websocket_fin": True}
    received = {**frame, "websocket_direction": "received", "websocket_compressed": False}
    assert found[0] == {**received, "websocket_opcode": "opcode 3", "websocket_length": 6}
    assert found[1] == {**received, "websocket_opcode": "close", "websocket_length": 0}
    sent = {**received, "websocket_direction": "sent", "websocket_opcode": "close", "websocket_length": 23}
    assert found[2] == {**sent, "websocket_code": 1002, "websocket_reason": "unknown data opcode 3"}
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
async def test_a_log_that_does_not_want_frames_has_nothing_around_the_transport(
    level: int, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(level, FRAMES)

    async def serve(connection: testing.ServerConnection) -> None:
        await connection.accept()
        wrapped.append(isinstance(connection._connection.transport, LoggedTransport))
        await connection.wait_closed()

    wrapped: list[bool] = []
    async with testing.websocket_server(serve), websocket.connect(URL) as client:
        wrapped.append(isinstance(client._connection.transport, LoggedTransport))
    assert wrapped == [level == logging.DEBUG] * 2


async def test_frames_over_a_socket_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, FRAMES)

    async def serve(peer: Peer) -> None:
        await peer.accept()
        assert await peer.expect(BINARY) == bytes(300_000)
        await peer.expect(CLOSE)
        await peer.send(close_frame(1000))

    async with raw_server(serve) as url, websocket.connect(url) as client:
        await client.send(bytes(300_000))
        assert client.statistics().bytes_sent > 300_000
        assert client.remote is not None
        assert client.local is not None
        assert (client.proxy, client.peer_certificate) == (None, None)
    told = lines(caplog, url)
    assert told[0] == "sent binary, 300000 bytes"
    assert "received close, 2 bytes, code 1000" in told


async def test_a_log_that_raises_does_not_harm_the_task_that_sends_pings(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        if vars(record)["websocket_opcode"] == "ping":
            raise LookupError("mine")
        return True

    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.send(frame(PONG, await peer.expect(PING)) + frame(BINARY, b"a"))
        while (received := await peer.read_frame()) is not None and received.opcode == PING:
            pass  # on a slow machine
        assert peer.closes == [1000]
        await peer.send(close_frame(1000))

    caplog.set_level(logging.DEBUG, FRAMES)
    logging.getLogger(FRAMES).addFilter(fail)
    try:
        async with raw_server(serve) as url, websocket.connect(url, keepalive="200ms") as client:
            assert (await client.receive_value()).data == b"a"
    finally:
        logging.getLogger(FRAMES).removeFilter(fail)
    assert "LookupError: mine" in capsys.readouterr().err


async def test_all_that_a_transport_has_is_that_of_the_one_inside(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, FRAMES)
    near, far = memory_stream_pair()
    inner = StreamTransport(near)
    outer = logged(inner, "me")
    assert bare(outer) is bare(inner) is inner
    names = [*vars(inner), "synchronous", "receives_at_once", "peer_certificate"]
    for name in names:
        assert getattr(outer, name) == getattr(inner, name), name

    def told() -> None: ...

    outer.on_pending = told
    assert inner.on_pending is outer.on_pending is told
    outer.unread(b"\x81\x00")
    assert await outer.receive_some(100) == b"\x81\x00"
    assert await outer.receive_now(100) is None
    assert outer.send_now(b"\x81\x00") == 0
    await outer.send_last(b"\x81\x00")
    await outer.send_eof()
    assert await far.receive_some() == b"\x81\x00"
    await outer.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await outer.send_all(b"x")
    assert outer.bytes_received == inner.bytes_received == 2
    assert [line.removeprefix("me: ") for line in lines(caplog, "me")] == [
        "received text, 0 bytes",
        "sent text, 0 bytes",
    ]


def test_every_method_of_a_transport_goes_to_the_one_inside() -> None:
    public: dict[str, Any] = {name: thing for name, thing in vars(Transport).items() if not name.startswith("_")}
    assert {name for name, thing in public.items() if callable(thing) or isinstance(thing, property)} <= set(
        vars(LoggedTransport)
    )
