"""The specification's options, in the order of their table; `_specification` says how to read it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import websocket
from csp.errors import ConnectionTimeoutError, Kind
from tests.websocket._peers import LIMIT_SECONDS, LibraryServer, WebsocketsServer, connected, until
from tests.websocket.whole._specification import MIB, enter, headers_seen, raises, server_context

if TYPE_CHECKING:
    import ssl

    import trustme


async def test_option_headers_are_seen_by_the_server(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), headers={"Authorization": "Bearer t0ken", "X-Room": "7"}) as client:
        seen = await headers_seen(client)
    assert (seen["authorization"], seen["x-room"]) == ("Bearer t0ken", "7")


async def test_option_protocols_are_offered_and_the_servers_choice_is_known(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), protocols=["first", "second"]) as client:
        assert (await headers_seen(client))["sec-websocket-protocol"].replace(" ", "") == "first,second"
        assert client.subprotocol == "second"
        assert client.response_headers["Sec-WebSocket-Protocol"] == "second"


@pytest.mark.parametrize("limit", [150, "150ms", timedelta(milliseconds=150)], ids=["number", "string", "timedelta"])
async def test_option_dial_timeout_ends_a_handshake_without_an_answer(
    server: LibraryServer, limit: websocket.Timeout
) -> None:
    error = await raises(
        Kind.INTERNAL, True, TimeoutError, enter(websocket.connect(server.url("/stall"), dial_timeout=limit))
    )
    assert isinstance(error, ConnectionTimeoutError)
    assert "within 0.15 s" in error.message


@pytest.mark.parametrize("path", ["/told", "/pings"])
async def test_option_read_timeout_ends_the_wait_for_a_message_also_under_pings(
    server: LibraryServer, path: str
) -> None:
    async with connected(server.url(path), read_timeout="200ms") as client:
        assert not (await client.receive()).ok
        assert client.close_code == 1011
    assert await server.reported() == (1011, "no message within 0.2 s")


async def test_option_write_timeout_ends_a_send_that_the_server_does_not_read(server: LibraryServer) -> None:
    async with connected(server.url("/deaf"), write_timeout="200ms") as client:
        await client.receive()
        error = await raises(Kind.TIMEOUT, True, TimeoutError, client.send(bytes(64 * MIB)))
        assert "0.2 s" in error.message
        # Half a frame is on the wire: nothing more can be.
        assert client.close_code == 1006


async def test_option_compression_disabled_offers_none(server: LibraryServer) -> None:
    ways: list[websocket.ConnectOptions] = [{}, {"compression": websocket.COMPRESSION.DISABLED}, {"compression": 0}]
    for options in ways:
        async with connected(server.url("/headers?deflate"), **options) as client:
            assert "sec-websocket-extensions" not in await headers_seen(client)
            assert "Sec-WebSocket-Extensions" not in client.response_headers


@pytest.mark.parametrize("mode", [websocket.COMPRESSION.CONTEXT_TAKEOVER, 1], ids=["constant", "number"])
async def test_option_compression_context_takeover_compresses_across_messages(
    server: LibraryServer, mode: websocket.Compression
) -> None:
    async with connected(server.url("/headers?deflate"), compression=mode) as client:
        assert "no_context_takeover" not in (await headers_seen(client))["sec-websocket-extensions"]
        assert client.response_headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
    for first, *again in await compressed_sizes(server, mode):
        assert max(again) < first / 10


@pytest.mark.parametrize("mode", [websocket.COMPRESSION.NO_CONTEXT, 2], ids=["constant", "number"])
async def test_option_compression_no_context_compresses_each_message_alone(
    server: LibraryServer, mode: websocket.Compression
) -> None:
    async with connected(server.url("/headers?deflate"), compression=mode) as client:
        offered = (await headers_seen(client))["sec-websocket-extensions"]
        assert "client_no_context_takeover" in offered
        assert "server_no_context_takeover" in offered
    sent, received = await compressed_sizes(server, mode)
    assert len(set(sent)) == len(set(received)) == 1
    assert max(*sent, *received) < 2000


async def compressed_sizes(server: LibraryServer, mode: websocket.Compression) -> tuple[list[int], list[int]]:
    """Send a message of 2000 bytes four times to an echo; return what each cost on the wire, both ways."""
    message = " ".join(f"{number * 7919:x}" for number in range(1000))[:2000]
    sent: list[int] = []
    received: list[int] = []
    async with connected(server.url("/echo?deflate"), compression=mode) as client:
        for _ in range(4):
            before = client.statistics()
            await client.send(message)
            assert (await client.receive()).value == ("text", message)
            after = client.statistics()
            sent.append(after.bytes_sent - before.bytes_sent)
            received.append(after.bytes_received - before.bytes_received)
    return sent, received


@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({"compression": websocket.COMPRESSION.CONTEXT_TAKEOVER}, 128),
        ({"compression": websocket.COMPRESSION.NO_CONTEXT}, 512),
        ({"compression": websocket.COMPRESSION.CONTEXT_TAKEOVER, "compression_threshold": 20}, 20),
        ({"compression": websocket.COMPRESSION.NO_CONTEXT, "compression_threshold": 1}, 1),
        ({"compression": websocket.COMPRESSION.NO_CONTEXT, "compression_threshold": 100_000}, 100_000),
    ],
    ids=["default", "default without context", "20", "1", "100000"],
)
async def test_option_compression_threshold_is_the_size_from_which_the_server_gets_it_compressed(
    server: LibraryServer, options: websocket.ConnectOptions, threshold: int
) -> None:
    async with connected(server.url("/frames?deflate"), **options) as client:
        for size, expected in ((threshold - 1, False), (threshold, True), (threshold + 1, True)):
            await client.send(bytes(size))
            compressed, _ = (await client.receive()).value.json()
            assert compressed is expected


async def test_option_compression_threshold_may_be_0_and_100_mib(server: LibraryServer) -> None:
    for threshold, expected in ((0, True), (100 * MIB, False)):
        async with connected(
            server.url("/frames?deflate"),
            compression=websocket.COMPRESSION.CONTEXT_TAKEOVER,
            compression_threshold=threshold,
        ) as client:
            for message in ("", "1", bytes(1000)):
                await client.send(message)
                compressed, _ = (await client.receive()).value.json()
                assert compressed is expected


async def test_option_read_limit_is_the_largest_message_accepted(server: LibraryServer) -> None:
    async with connected(server.url("/send/2/1000"), read_limit=1000) as client:
        assert [len((await client.receive()).value.data) for _ in range(2)] == [1000, 1000]
    assert [await server.reported() for _ in range(2)] == ["sent", (1000, "")]
    async with connected(server.url("/send/1/1001"), read_limit=1000) as client:
        assert not (await client.receive()).ok
        assert client.close_code == websocket.CLOSE_CODES.MESSAGE_TOO_BIG
    assert await server.reported() == "sent"
    code, reason = await server.reported()
    assert (code, reason) == (1009, client.close_reason)


async def test_option_read_limit_0_is_the_default_of_16_mib(server: LibraryServer) -> None:
    async with connected(server.url(f"/send/1/{16 * MIB}"), read_limit=0) as client:
        assert len((await client.receive()).value.data) == 16 * MIB
    assert [await server.reported() for _ in range(2)] == ["sent", (1000, "")]
    async with connected(server.url(f"/send/1/{16 * MIB + 1}"), read_limit=0) as client:
        assert not (await client.receive()).ok
    assert await server.reported() == "sent"
    assert (await server.reported())[0] == 1009


async def test_option_channel_capacity_is_what_is_buffered_before_the_server_has_to_wait(server: LibraryServer) -> None:
    count = 512
    async with connected(server.url(f"/send/{count}/{MIB // 8}"), channel_capacity=3) as client:
        messages = client.channel()
        assert messages.capacity == 3
        await until(lambda: len(messages) == 3)
        await wait_all_tasks_blocked()
        # 64 MiB, more than fits into the system's buffers: the server waits.
        assert server.unread_reports() == []
        assert client.statistics().messages_received < count
        for _ in range(count):
            assert (await messages.receive()).ok
        assert await server.reported() == "sent"
    assert await server.reported() == (1000, "")


async def test_option_ssl_context_says_whom_to_trust(tls_server: LibraryServer, trusting: ssl.SSLContext) -> None:
    async with connected(tls_server.url("/echo"), ssl_context=trusting) as client:
        await client.send("over TLS")
        assert (await client.receive()).value.data == "over TLS"


async def test_option_ssl_context_by_default_trusts_the_systems_authorities_only(tls_server: LibraryServer) -> None:
    error = await raises(
        Kind.INTERNAL,
        True,
        ConnectionError,
        enter(websocket.connect(tls_server.url("/echo"))),
    )
    assert "not trusted" in error.message


async def test_option_server_hostname_is_the_name_in_the_certificate_and_in_sni(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_context(authority, "feed.example.com")
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with WebsocketsServer(context).running() as server:
        url = server.url("/echo")
        async with connected(url, ssl_context=trusting, server_hostname="feed.example.com") as client:
            assert client.url == url
        await raises(Kind.INTERNAL, True, ConnectionError, enter(websocket.connect(url, ssl_context=trusting)))
    assert names == ["feed.example.com", None]


async def test_option_origin_is_seen_by_the_server(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), origin="https://example.com") as client:
        assert (await headers_seen(client))["origin"] == "https://example.com"
    async with connected(either.url("/headers")) as client:
        assert "origin" not in await headers_seen(client)


async def test_option_user_agent_is_seen_by_the_server(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), user_agent="prices/1.0") as client:
        assert (await headers_seen(client))["user-agent"] == "prices/1.0"
    async with connected(either.url("/headers")) as client:
        assert (await headers_seen(client))["user-agent"] == f"trio-csp/{csp.__version__}"
    async with connected(either.url("/headers"), user_agent=None) as client:
        assert "user-agent" not in await headers_seen(client)


async def test_option_keepalive_pings_a_silent_server_and_then_gives_it_up(aiohttp_server: LibraryServer) -> None:
    async with connected(aiohttp_server.url("/mute"), keepalive="100ms") as client:
        assert not (await client.receive()).ok
        assert client.close_code == 1011
    ping = await aiohttp_server.reported()
    assert isinstance(ping, bytes)
    code, reason = await aiohttp_server.reported()
    assert (code, reason) == (1011, client.close_reason)


async def test_option_close_timeout_ends_the_wait_for_a_server_that_does_not_answer(server: LibraryServer) -> None:
    async with connected(server.url("/deaf"), close_timeout="150ms") as client:
        await client.receive()
        with trio.fail_after(8):  # the default is 10
            await client.close()
        assert (client.close_code, client.error) == (1006, None)


async def test_option_nursery_runs_the_connection(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            client = await websocket.connect(either.url("/echo"), nursery=nursery)
            assert len(nursery.child_tasks) == 1
            await client.close()
