"""Real servers of many makers, and what every one of them is asked.

Those that are not installed are skipped; ``python -m tests.peers`` brings all of them, and shows what each could.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import trio

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.peers._servers import OTHERS, PEERS, Peer, Server
from tests.websocket._peers import LIMIT_SECONDS, connected, driver_tasks, open_sockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

MIB = 1 << 20
CODES = [1000, 1001, 1008, 1011, 3000, 4999]
REASONS = ["because", "Grüße, 世界"]

# What the client tells after its own close, where a peer does not answer with the code it was given.
ANSWERED_WITH = {"aiohttp": 1000, "websocat": 1006}


@pytest.fixture(scope="module", params=[peer for peer in PEERS if peer.missing() is None], ids=str)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    peer: Peer = request.param
    with peer.running() as server:
        yield server


@pytest.fixture
async def server(running: Server) -> AsyncIterator[Server]:
    """A server; nothing of a test's connections to it may be left."""
    sockets = open_sockets()
    yield running
    assert driver_tasks() == []
    assert open_sockets() == sockets


def visit(
    server: Server, path: str, **options: Unpack[websocket.ConnectOptions]
) -> AbstractAsyncContextManager[websocket.Client]:
    if server.tls is not None:
        options["ssl_context"] = server.tls
    return connected(server.url(path), **options)


@pytest.fixture
def compressing(running: Server) -> None:
    skip_if_it_cannot(running, "compress")


@pytest.fixture
def telling(running: Server) -> None:
    skip_if_it_cannot(running, "tell")


def skip_if_it_cannot(server: Server, what: str) -> None:
    if what in server.peer.cannot:
        pytest.skip(server.peer.cannot[what])


@pytest.mark.parametrize("peer", [*PEERS, *OTHERS], ids=str)
def test_it_is_installed(peer: Peer) -> None:
    missing = peer.missing()
    if missing is not None:
        pytest.skip(missing)


async def test_it_runs(server: Server, record_property: Callable[[str, object], None]) -> None:
    record_property("version", server.version)
    async with visit(server, "/echo") as client:
        assert client.response_headers["upgrade"].lower() == "websocket"
        assert client.subprotocol is None
        assert "sec-websocket-extensions" not in client.response_headers


# Messages -------------------------------------------------------------------------------------------------------------

MESSAGES: dict[str, str | bytes] = {
    "text": "Hello, Server!",
    "not ASCII": "Grüße, 世界 🌍\0\x7f\n",
    "empty text": "",
    "binary": bytes(range(256)),
    "empty binary": b"",
    "1 MiB of text": "0123456789abcdé" * (1 << 16),
    "1 MiB of bytes": bytes(range(256)) * (1 << 12),
}


async def echoed(client: websocket.Client, message: str | bytes) -> None:
    """Send a message, and check that it comes back as it went."""
    await client.send(message)
    received, ok = await client.receive()
    assert ok, client.error
    # Not in the assertion itself: to explain how megabytes differ takes minutes.
    same = received == ("text" if isinstance(message, str) else "binary", message)
    assert same


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_message_comes_back_as_it_went(server: Server, name: str) -> None:
    async with visit(server, "/echo") as client:
        await echoed(client, MESSAGES[name])
        await echoed(client, "and on")


async def test_two_thousand_round_trips(server: Server) -> None:
    async with visit(server, "/echo") as client:
        for number in range(2000):
            await client.send(str(number))
            assert (await client.receive()).value.data == str(number)
        statistics = client.statistics()
    assert statistics.messages_sent == statistics.messages_received == 2000


@pytest.mark.usefixtures("compressing")
@pytest.mark.parametrize("mode", ["CONTEXT_TAKEOVER", "NO_CONTEXT"])
async def test_messages_are_compressed_both_ways(server: Server, mode: str) -> None:
    async with visit(server, "/echo?deflate", compression=websocket.COMPRESSION[mode]) as client:
        agreed = client.response_headers["sec-websocket-extensions"]
        assert agreed.startswith("permessage-deflate")
        for message in MESSAGES.values():
            await echoed(client, message)
        # Of these 2000 bytes the first half says all, and with context the whole was said before.
        line = random.Random(0).randbytes(500).hex() * 2
        first = await cost(client, line)
        again = await cost(client, line)
        assert max(first) < 1300
        afresh = (
            mode == "NO_CONTEXT" or "client_no_context_takeover" in agreed,
            "server_no_context_takeover" in agreed,
        )
        assert (again[0] > 300, again[1] > 300) == afresh
        await echoed(client, random.Random(1).randbytes(MIB))
        assert max(await cost(client, MESSAGES["1 MiB of text"])) < MIB / 10
        assert max(await cost(client, MESSAGES["1 MiB of bytes"])) < MIB / 10


async def cost(client: websocket.Client, message: str | bytes) -> tuple[int, int]:
    """Return the bytes on the wire for a message there and back."""
    before = client.statistics()
    await echoed(client, message)
    after = client.statistics()
    return after.bytes_sent - before.bytes_sent, after.bytes_received - before.bytes_received


async def test_pings_are_answered(server: Server) -> None:
    async with visit(server, "/echo") as client:
        for answer in [await client.ping(), await client.ping("payload"), await client.ping(bytes(125))]:
            seconds, ok = await answer.receive()
            assert ok
            assert 0 <= seconds < LIMIT_SECONDS


# Opening and closing --------------------------------------------------------------------------------------------------


async def test_a_subprotocol_is_agreed_on(server: Server) -> None:
    # websocat looks at the first alone.
    offered = ["second", "first"] if server.peer.name == "websocat" else ["first", "second"]
    async with visit(server, "/echo", protocols=offered) as client:
        assert client.subprotocol == "second"
        await echoed(client, "in the second protocol")


async def test_one_that_knows_none_of_the_required_subprotocols_is_told(server: Server) -> None:
    skip_if_it_cannot(server, "choose none")
    with pytest.raises(ConnectionFailedError) as caught:
        async with visit(server, "/echo", protocols=["third", "fourth"], require_subprotocol=True):
            pytest.fail("connected")
    said = "the server chose none of the subprotocols that were offered: third, fourth"
    assert str(caught.value) == f"cannot connect to {server.url('/echo')}: {said}"
    assert not caught.value.retryable


@pytest.mark.parametrize("status", [403, 404])
async def test_a_refusal_is_told_with_status_and_body(server: Server, status: int) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        async with visit(server, f"/refuse/{status}"):
            pytest.fail("connected")
    error = caught.value
    assert (error.kind, error.retryable) == (Kind.INTERNAL, False)
    assert not isinstance(error, ConnectionTimeoutError)
    # websocat refuses in its own way.
    expected = (400, b"") if server.peer.name == "websocat" else (status, b"no")
    assert (error.details["status"], error.details["body"]) == expected


@pytest.mark.parametrize("code", CODES)
async def test_its_close_is_told_with_code_and_reason(server: Server, code: int) -> None:
    for reason in REASONS:
        async with visit(server, f"/close/{code}/{quote(reason)}") as client:
            assert not (await client.receive()).ok
            assert (client.close_code, client.close_reason) == (code, reason)
            if code in (1000, 1001):
                assert client.error is None
            else:
                assert client.error is not None
                assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, code == 1011)


@pytest.mark.parametrize("code", CODES)
async def test_our_close_is_answered(server: Server, code: int) -> None:
    for reason in ["", *REASONS]:
        async with visit(server, "/echo") as client:
            await client.close(code, reason)
            assert client.close_code == ANSWERED_WITH.get(server.peer.name, code)
            assert client.error is None


@pytest.mark.usefixtures("telling")
@pytest.mark.parametrize("code", CODES)
async def test_it_is_told_our_close_with_code_and_reason(server: Server, code: int) -> None:
    for reason in ["", *REASONS]:
        async with visit(server, "/told") as client:
            await client.close(code, reason)
        assert await server.reported() == [code, reason]


@pytest.mark.usefixtures("telling")
async def test_leaving_the_block_closes_with_1000(server: Server) -> None:
    async with visit(server, "/told"):
        pass
    assert await server.reported() == [1000, ""]


@pytest.mark.usefixtures("telling")
async def test_an_exception_in_the_block_closes_with_1011(server: Server) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with visit(server, "/told"):
            raise KeyError("mine")
    assert await server.reported() == [1011, ""]


@pytest.mark.usefixtures("telling")
async def test_a_cancelled_block_closes_with_1001(server: Server) -> None:
    with trio.CancelScope() as scope:
        async with visit(server, "/told") as client:
            scope.cancel()
            await client.receive()
    assert scope.cancelled_caught
    assert await server.reported() == [1001, ""]


async def test_its_death_in_the_middle_is_told(server: Server) -> None:
    with server.peer.running() as mortal:
        async with visit(mortal, "/echo") as client, trio.open_nursery() as nursery:

            async def send() -> None:
                while True:
                    await client.send(bytes(10_000))

            async def send_to_the_end() -> None:
                with pytest.raises(ConnectionFailedError, match="sending failed"):
                    await send()

            nursery.start_soon(send_to_the_end)
            for _ in range(100):
                assert (await client.receive()).ok
            mortal.die()
            while (await client.receive()).ok:
                pass
        assert client.close_code == 1006
        assert client.error is not None
        assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, True)
