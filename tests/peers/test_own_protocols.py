"""Real servers that speak a protocol of their own over WebSocket, and a proxy that cuts silent connections off."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from csp import websocket
from csp.errors import ConnectionFailedError, Kind
from tests.peers._servers import HASTY_HAPROXY, MOSQUITTO, NATS, PROSODY, SOCKETIO, Peer, Server
from tests.websocket._peers import connected, driver_tasks, open_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextmanager
def run(peer: Peer) -> Generator[Server]:
    """Run a server, or skip the test; nothing of the test's connections may be left."""
    missing = peer.missing()
    if missing is not None:
        pytest.skip(missing)
    with peer.running() as server:
        sockets = open_sockets()
        yield server
        assert driver_tasks() == []
        assert open_sockets() == sockets


async def text(client: websocket.Client) -> str:
    message = await anext(client)
    assert isinstance(message.data, str)
    return message.data


# NATS -----------------------------------------------------------------------------------------------------------------


async def nats_line(client: websocket.Client) -> bytes:
    message = await anext(client)
    assert isinstance(message.data, bytes)
    return message.data


@pytest.mark.parametrize("peer", [NATS], ids=str)
async def test_nats_publishes_what_was_subscribed_to(
    peer: Peer, record_property: Callable[[str, object], None]
) -> None:
    with run(peer) as server:
        record_property("version", server.version)
        async with connected(server.url("/")) as client:
            assert (await nats_line(client)).startswith(b"INFO {")
            await client.send(b'CONNECT {"verbose": false}\r\nSUB prices 1\r\nPING\r\n')
            assert await nats_line(client) == b"PONG\r\n"
            await client.send(b"PUB prices 5\r\n\x00\xff\r\n!\r\n")
            received = b""
            while not received.endswith(b"!\r\n"):
                received += await nats_line(client)
            assert received == b"MSG prices 1 5\r\n\x00\xff\r\n!\r\n"
        assert (client.close_code, client.error) == (1000, None)


@pytest.mark.parametrize("peer", [NATS], ids=str)
async def test_nats_closes_a_stale_connection_with_a_code_it_must_not_send(peer: Peer) -> None:
    with run(peer) as server:
        async with connected(server.url("/")) as client:
            assert (await nats_line(client)).startswith(b"INFO {")
            await client.send(b'CONNECT {"verbose": false}\r\n')
            received = b""
            while (item := await client.receive()).ok:
                assert isinstance(item.value.data, bytes)
                received += item.value.data
            # Its PING was never answered.
            assert received == b"PING\r\n-ERR 'Stale Connection'\r\n"
            # 1006, which no close frame may have.
            assert client.close_code == 1002
            assert isinstance(client.error, ConnectionFailedError)
            assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, True)
            assert client.error.details["code"] == 1006


@pytest.mark.parametrize("peer", [NATS], ids=str)
async def test_a_feed_of_a_stale_connection_to_nats_does_not_hang(peer: Peer) -> None:
    with run(peer) as server, trio.fail_after(15):
        async with websocket.reconnecting(server.url("/"), min_delay="10ms", max_attempts=3) as feed:
            infos = stale = 0
            while infos < 2 and (item := await feed.receive()).ok:
                if isinstance(item.value, websocket.Gap):
                    continue
                assert isinstance(item.value.data, bytes)
                infos += item.value.data.startswith(b"INFO")
                stale += b"Stale Connection" in item.value.data
            assert (infos, stale) == (2, 1)


# A proxy that cuts off ------------------------------------------------------------------------------------------------

SIZE, NUMBER = 64 * 1024, 40
"""More than is read ahead of a full channel: 40 messages of 64 KiB."""
SILENCE_SECONDS = 6


@pytest.mark.parametrize("peer", [HASTY_HAPROXY], ids=str)
async def test_keepalive_keeps_a_proxy_from_cutting_off_a_full_channel(peer: Peer) -> None:
    with run(peer) as server:
        async with connected(server.url(f"/send/{NUMBER}/{SIZE}"), channel_capacity=1, keepalive="500ms") as client:
            await trio.sleep(SILENCE_SECONDS)
            for _ in range(NUMBER):
                assert len((await anext(client)).data) == SIZE
            assert (await (await client.ping()).receive()).ok
        assert (client.close_code, client.error) == (1000, None)


@pytest.mark.parametrize("peer", [HASTY_HAPROXY], ids=str)
async def test_without_keepalive_a_proxy_cuts_a_silent_connection_off(peer: Peer) -> None:
    with run(peer) as server:
        async with connected(server.url(f"/send/{NUMBER}/{SIZE}"), channel_capacity=1) as client:
            await trio.sleep(SILENCE_SECONDS)
            while (await client.receive()).ok:
                pass
            assert client.close_code == 1006
            assert client.error is not None
            assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, True)


# Socket.IO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [SOCKETIO], ids=str)
async def test_socketio_shakes_hands_answers_events_and_pings(
    peer: Peer, record_property: Callable[[str, object], None]
) -> None:
    with run(peer) as server:
        record_property("version", server.version)
        async with connected(server.url("/socket.io/?EIO=4&transport=websocket")) as client:
            opened = await text(client)
            assert opened[0] == "0"
            assert json.loads(opened[1:])["pingInterval"] == 1000
            await client.send("40")
            joined = await text(client)
            assert joined.startswith("40{")
            pings = 0

            async def event() -> str | bytes:
                nonlocal pings
                while (message := await anext(client)).data == "2":
                    pings += 1
                    await client.send("3")
                return message.data

            await client.send('421["greet","Grüße",{"a":[1,null]}]')
            answers = [await event(), await event()]
            assert answers == [r'42["greeted","Gr\u00fc\u00dfe",{"a":[1,null]}]', '431["done"]']
            # An attachment goes in a binary message of its own.
            await client.send('451-["greet",{"_placeholder":true,"num":0}]')
            await client.send(b"\x00\xff")
            assert await event() == '451-["greeted",{"_placeholder":true,"num":0}]'
            assert await event() == b"\x00\xff"
            # Beyond the interval and the timeout together.
            while pings < 3:
                assert await text(client) == "2"
                pings += 1
                await client.send("3")
            await client.send('42["greet","still here"]')
            assert await event() == '42["greeted","still here"]'
        assert (client.close_code, client.error) == (1000, None)


@pytest.mark.parametrize("peer", [SOCKETIO], ids=str)
async def test_socketio_closes_when_its_pings_are_not_answered(peer: Peer) -> None:
    with run(peer) as server:
        async with connected(server.url("/socket.io/?EIO=4&transport=websocket")) as client:
            await text(client)
            received = [message.data async for message in client]
            assert set(received) == {"2"}
            assert (client.close_code, client.error) == (1000, None)


# XMPP -----------------------------------------------------------------------------------------------------------------

FRAMING = "urn:ietf:params:xml:ns:xmpp-framing"


@pytest.mark.parametrize("peer", [PROSODY], ids=str)
async def test_prosody_opens_a_stream_and_closes_it(peer: Peer, record_property: Callable[[str, object], None]) -> None:
    with run(peer) as server:
        record_property("version", server.version)
        async with connected(server.url("/xmpp-websocket"), protocols=["xmpp"]) as client:
            assert client.subprotocol == "xmpp"
            await client.send(f'<open xmlns="{FRAMING}" to="localhost" version="1.0"/>')
            assert (await text(client)).startswith("<open ")
            assert "ANONYMOUS" in await text(client)
            await client.send(f'<close xmlns="{FRAMING}"/>')
            assert (await text(client)).startswith("<close ")
            assert not (await client.receive()).ok
            assert (client.close_code, client.close_reason, client.error) == (1000, "Stream closed", None)


@pytest.mark.parametrize("peer", [PROSODY], ids=str)
async def test_prosody_refuses_who_does_not_offer_its_subprotocol(peer: Peer) -> None:
    with run(peer) as server:
        with pytest.raises(ConnectionFailedError) as caught:
            async with connected(server.url("/xmpp-websocket")):
                pytest.fail("connected")
        assert caught.value.details["status"] == 501


# MQTT -----------------------------------------------------------------------------------------------------------------

CONNECT = bytes.fromhex("10 11 0004 4d515454 04 02 003c 0005 7072696365")
"""Of level 4, with a clean session, a keep alive of 60 s, and ``price`` for a name (MQTT 3.1.1, section 3.1)."""
CONNACK = bytes.fromhex("20 02 00 00")
"""Accepted, without a session from before (MQTT 3.1.1, section 3.2)."""
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"


@pytest.mark.parametrize("required", [False, True], ids=["offered", "required"])
@pytest.mark.parametrize("peer", [MOSQUITTO], ids=str)
async def test_mosquitto_agrees_on_mqtt_and_speaks_it(
    peer: Peer, required: bool, record_property: Callable[[str, object], None]
) -> None:
    with run(peer) as server:
        record_property("version", server.version)
        offered = ["chat", "mqtt"]
        async with connected(server.url("/mqtt"), protocols=offered, require_subprotocol=required) as client:
            assert client.subprotocol == "mqtt"
            await client.send(CONNECT)
            assert (await anext(client)).data == CONNACK
            await client.send(PINGREQ)
            assert (await anext(client)).data == PINGRESP
        assert (client.close_code, client.error) == (1000, None)


@pytest.mark.parametrize("peer", [MOSQUITTO], ids=str)
async def test_mosquitto_accepts_who_offers_no_subprotocol_and_says_nothing(peer: Peer) -> None:
    with run(peer) as server:
        async with connected(server.url("/mqtt")) as client:
            assert client.subprotocol is None
            await client.send(CONNECT)
            # It has read that, as the pong tells, and has no answer to it.
            assert (await (await client.ping()).receive()).ok
            await client.aclose()
            assert [message async for message in client] == []
        assert (client.close_code, client.error) == (1000, None)


@pytest.mark.parametrize("required", [False, True], ids=["offered", "required"])
@pytest.mark.parametrize("peer", [MOSQUITTO], ids=str)
async def test_mosquitto_hangs_up_on_who_offers_what_it_does_not_know(peer: Peer, required: bool) -> None:
    with run(peer) as server:
        with pytest.raises(ConnectionFailedError) as caught:
            async with connected(server.url("/mqtt"), protocols=["chat"], require_subprotocol=required):
                pytest.fail("connected")
        assert str(caught.value).endswith(
            "the server closed the connection without an answer to the WebSocket handshake; "
            "is it a wss: server, or does it know none of the subprotocols that were offered?"
        )
        assert caught.value.retryable
