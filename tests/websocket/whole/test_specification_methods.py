"""The specification's constants and methods; `_specification` says how to read it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from csp import websocket
from csp.errors import Kind
from tests.websocket._peers import LIMIT_SECONDS, LibraryServer, connected
from tests.websocket.whole._specification import is_over, raises

# Constants ------------------------------------------------------------------------------------------------------------


def test_constants_message_types() -> None:
    assert (websocket.TEXT, websocket.BINARY) == (1, 2)
    assert (websocket.TYPE_TEXT, websocket.TYPE_BINARY) == ("text", "binary")
    assert (websocket.TYPE_PING, websocket.TYPE_PONG, websocket.TYPE_CLOSE) == ("ping", "pong", "close")


@pytest.mark.parametrize(("name", "number"), [("DISABLED", 0), ("CONTEXT_TAKEOVER", 1), ("NO_CONTEXT", 2)])
def test_constants_compression_modes(name: str, number: int) -> None:
    assert getattr(websocket.COMPRESSION, name) == number
    assert len(websocket.COMPRESSION) == 3


CLOSE_CODES = {
    "NORMAL": 1000,
    "GOING_AWAY": 1001,
    "PROTOCOL_ERROR": 1002,
    "UNSUPPORTED_DATA": 1003,
    "NO_STATUS": 1005,
    "ABNORMAL_CLOSURE": 1006,
    "INVALID_PAYLOAD": 1007,
    "POLICY_VIOLATION": 1008,
    "MESSAGE_TOO_BIG": 1009,
    "MANDATORY_EXTENSION": 1010,
    "INTERNAL_ERROR": 1011,
    "SERVICE_RESTART": 1012,
    "TRY_AGAIN_LATER": 1013,
    "BAD_GATEWAY": 1014,
    "TLS_HANDSHAKE": 1015,
}

NEVER_SENT = ("NO_STATUS", "ABNORMAL_CLOSURE", "TLS_HANDSHAKE")


@pytest.mark.parametrize("name", CLOSE_CODES)
async def test_constants_close_codes_are_the_numbers_that_reach_the_server(server: LibraryServer, name: str) -> None:
    code = getattr(websocket.CLOSE_CODES, name)
    assert code == CLOSE_CODES[name]
    assert len(websocket.CLOSE_CODES) == len(CLOSE_CODES)
    async with connected(server.url("/told")) as client:
        if name in NEVER_SENT:
            # They say how a connection ended where no close frame did: RFC 6455, section 7.4.1.
            await raises(Kind.INVALID, False, ValueError, client.close(code))
        else:
            await client.close(code)
    assert await server.reported() == (1000 if name in NEVER_SENT else CLOSE_CODES[name], "")


# Methods --------------------------------------------------------------------------------------------------------------


async def test_connect_as_a_block_closes_at_its_end(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        assert client.url == either.url("/told")
        assert client.close_code is None
    assert await either.reported() == (1000, "")
    assert client.close_code == 1000


async def test_connect_awaited_runs_in_a_nursery_until_it_is_closed(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            client = await websocket.connect(either.url("/told"), nursery=nursery)
            await client.close()
            assert not nursery.cancel_scope.cancel_called
    assert await either.reported() == (1000, "")


@pytest.mark.parametrize(
    ("data", "type", "received"),
    [
        ("Grüße, 世界", None, ("text", "Grüße, 世界")),
        (b"\x00\xff", None, ("binary", b"\x00\xff")),
        (bytearray(b"\x00\xff"), None, ("binary", b"\x00\xff")),
        (memoryview(b"\x00\xff"), None, ("binary", b"\x00\xff")),
        ("text", websocket.TEXT, ("text", "text")),
        ("text", 1, ("text", "text")),
        (b"\x00\xff", websocket.BINARY, ("binary", b"\x00\xff")),
        (b"\x00\xff", 2, ("binary", b"\x00\xff")),
        ("as bytes: é", 2, ("binary", "as bytes: é".encode())),
        ("as text: é".encode(), 1, ("text", "as text: é")),
    ],
)
async def test_send(either: LibraryServer, data: Any, type: int | None, received: tuple[str, str | bytes]) -> None:  # noqa: A002
    async with connected(either.url("/echo")) as client:
        await client.send(data, type)
        assert (await client.receive()).value == received


async def test_ping_gives_the_round_trip_time_and_the_server_gets_a_ping(aiohttp_server: LibraryServer) -> None:
    async with connected(aiohttp_server.url("/echo")) as client:
        assert client.latency is None
        seconds, ok = await (await client.ping()).receive()
        assert ok
        assert seconds == client.latency
        assert 0 <= seconds < LIMIT_SECONDS
        answer = await client.ping("with a payload")
        assert (await answer.receive()).ok
        assert answer.closed
    async with connected(aiohttp_server.url("/mute")) as client:
        await client.ping()
        await client.ping("with a payload")
        await client.ping(b"\x00" * 125)
        assert len(await aiohttp_server.reported()) <= 125
        assert await aiohttp_server.reported() == b"with a payload"
        assert await aiohttp_server.reported() == b"\x00" * 125
    assert await aiohttp_server.reported() == (1000, "")


async def test_ping_gives_a_channel_that_closes_with_the_connection(aiohttp_server: LibraryServer) -> None:
    async with connected(aiohttp_server.url("/mute")) as client:
        answer = await client.ping(b"unanswered")
        await client.close()
        assert await is_over(answer)
    assert await aiohttp_server.reported() == b"unanswered"
    assert await aiohttp_server.reported() == (1000, "")


async def test_channel_is_always_the_same_and_gives_messages_in_order(either: LibraryServer) -> None:
    async with connected(either.url("/count/3")) as client:
        messages = client.channel()
        assert messages is client.channel()
        assert [tuple((await messages.receive()).value) for _ in range(3)] == [("text", str(n)) for n in range(3)]
        assert await is_over(messages)
        assert messages.closed
        assert client.channel() is messages


async def test_receive_is_short_for_receiving_from_the_channel(either: LibraryServer) -> None:
    async with connected(either.url("/count/2")) as client:
        assert await client.receive() == (websocket.Message("text", "0"), True)
        assert await client.channel().receive() == (websocket.Message("text", "1"), True)
        assert await is_over(client)


async def test_receive_gives_messages_of_a_type_and_data(either: LibraryServer) -> None:
    async with connected(either.url("/echo")) as client:
        for data, type_ in (("text", websocket.TYPE_TEXT), (b"bytes", websocket.TYPE_BINARY)):
            await client.send(data)
            message = (await client.receive()).value
            assert isinstance(message, websocket.Message)
            assert (message.type, message.data) == (type_, data)


async def test_close_without_arguments_is_1000(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        await client.close()
        assert (client.close_code, client.error) == (1000, None)
    assert await either.reported() == (1000, "")


async def test_close_with_a_code(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        await client.close(websocket.CLOSE_CODES.GOING_AWAY)
    assert await either.reported() == (1001, "")


async def test_close_with_code_and_reason(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        await client.close(websocket.CLOSE_CODES.INTERNAL_ERROR, "Processing failed")
        # Again does nothing.
        await client.close(websocket.CLOSE_CODES.NORMAL, "too late")
    assert await either.reported() == (1011, "Processing failed")


async def test_statistics_count_both_ways(either: LibraryServer) -> None:
    async with connected(either.url("/echo")) as client:
        await client.send("12345")
        await client.receive()
        statistics = client.statistics()
    assert (statistics.messages_sent, statistics.messages_received) == (1, 1)
    assert (statistics.payload_bytes_sent, statistics.payload_bytes_received) == (5, 5)
    assert min(statistics.bytes_sent, statistics.bytes_received) > 5
