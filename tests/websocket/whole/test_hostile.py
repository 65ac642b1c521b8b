"""Peers that die, stall or flood while a client is at work, over loopback TCP.

What single misdeeds bring, one by one, is in `tests.hostile`. `raw_server` checks after each scenario that no socket
and no task of the client is left.
"""

from __future__ import annotations

import contextlib
import errno
import random
import re
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import errors, websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.hostile._violations import HEADERS
from tests.websocket._peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    acceptance,
    close_frame,
    frame,
    parse_close,
    raw_server,
    until,
)
from tests.websocket._server import drained
from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES
from trio_csp_websocket.network.failures import error_text

if TYPE_CHECKING:
    from collections.abc import Callable


MIB = 1 << 20
# More than the system buffers between two loopback sockets.
LARGE = 24 * MIB
# Seconds. Less than the timeouts the client has by default, and more than a busy machine stalls.
WELL_BEFORE_ANY_TIMEOUT = 8


async def expect_close(peer: Peer, code: int) -> str:
    """The client's next frame is this close, and its end of the stream follows."""
    got, reason = parse_close(await peer.expect(CLOSE))
    assert got == code
    await peer.expect_end()
    return reason


async def frames_until_close(peer: Peer) -> list[Frame]:
    """Read up to the client's close, answer it, and wait for the client's end; the close is the last frame."""
    frames: list[Frame] = []
    while not frames or frames[-1].opcode != CLOSE:
        received = await peer.read_frame()
        assert received is not None
        frames.append(received)
    await peer.send(frame(CLOSE, frames[-1].payload[:2]))
    await peer.end()
    await peer.expect_end()
    return frames


async def answer_close(peer: Peer) -> tuple[int, str]:
    """The same; return what the close says."""
    return parse_close((await frames_until_close(peer))[-1].payload)


# Connecting ---------------------------------------------------------------------------------------------------------


async def test_a_refused_port_fails_at_once_and_may_be_retried() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(
            ConnectionFailedError, match=f":{port}/: {re.escape(error_text(errno.ECONNREFUSED))}$"
        ) as caught:
            async with websocket.connect(f"ws://127.0.0.1:{port}/"):
                pytest.fail("connected")
    assert not isinstance(caught.value, ConnectionTimeoutError)
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_connection_cancelled_while_it_opens_closes_its_socket() -> None:
    reached = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.read_request()
        reached.set()
        await peer.expect_end()

    async with raw_server(server) as url, trio.open_nursery() as nursery:

        async def open_it() -> None:
            async with websocket.connect(url):
                pytest.fail("connected")

        nursery.start_soon(open_it)
        await reached.wait()
        nursery.cancel_scope.cancel()


async def test_informational_answers_before_the_real_one_are_passed_over() -> None:
    async def server(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + peer.answer)
        await answer_close(peer)

    async with raw_server(server) as url, websocket.connect(url):
        pass


def with_line(line: str) -> Callable[[Peer], bytes]:
    return lambda peer: acceptance(peer.request, line)


def without(text: bytes, replacement: bytes = b"") -> Callable[[Peer], bytes]:
    return lambda peer: peer.answer.replace(text, replacement)


UNUSUAL_ANSWERS: dict[str, Callable[[Peer], bytes]] = {
    "header names in lower case": lambda peer: peer.answer.replace(b"Upgrade: ", b"upgrade: "),
    "values in other cases": lambda peer: peer.answer.replace(b": websocket", b": WebSocket"),
    "Connection with more tokens": without(b"Connection: Upgrade", b"Connection: keep-alive, upgrade"),
    "Connection on two lines": with_line("Connection: keep-alive"),
    "an empty extensions header": with_line("Sec-WebSocket-Extensions:"),
    "non-ASCII in another header": with_line("X-Name: \xe9\xff"),
    "a content length": with_line("Content-Length: 0"),
    "no reason phrase": without(b"101 Switching Protocols", b"101"),
    "a head of 40 KB": with_line("X-Large: " + "x" * 40_000),
}


@pytest.mark.parametrize("name", UNUSUAL_ANSWERS)
async def test_an_unusual_but_valid_answer_is_accepted(name: str) -> None:
    async def server(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(UNUSUAL_ANSWERS[name](peer) + frame(TEXT, b"hello"))
        with contextlib.suppress(trio.BrokenResourceError):
            await answer_close(peer)

    async with raw_server(server, limit_seconds=WELL_BEFORE_ANY_TIMEOUT) as url, websocket.connect(url) as client:
        assert (await client.receive()).value.data == "hello"


async def test_a_connection_token_that_is_not_ascii_is_accepted_or_a_failed_connection() -> None:
    async def server(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(peer.answer.replace(b"Connection: Upgrade", b"Connection: Upgrade, \xe9"))
        with contextlib.suppress(AssertionError, trio.BrokenResourceError):
            await answer_close(peer)

    async with raw_server(server) as url:
        with contextlib.suppress(ConnectionFailedError):
            async with websocket.connect(url, dial_timeout="1s"):
                pass


async def test_frames_in_the_packet_of_the_handshakes_answer_are_received() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"one") + frame(PING, b"?") + frame(BINARY, b"two") + close_frame(1000))
        assert await peer.expect(PONG) == b"?"
        await expect_close(peer, 1000)

    async with raw_server(server) as url, websocket.connect(url) as client:
        assert await drained(client) == ["one", b"two"]
        assert client.error is None


async def test_one_byte_per_packet_is_as_good_as_any() -> None:
    async def server(peer: Peer) -> None:
        await peer.read_request()
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        messages = frame(TEXT, "grüße".encode(), fin=False) + frame(PING, b"!") + frame(CONTINUATION, b"x" * 130)
        for byte in peer.answer + messages + close_frame(3000, "done"):
            await peer.send(bytes((byte,)))
        assert await peer.expect(PONG) == b"!"
        await expect_close(peer, 3000)

    async with raw_server(server) as url, websocket.connect(url) as client:
        assert await drained(client) == ["grüße" + "x" * 130]
        assert (client.close_code, client.close_reason) == (3000, "done")


# Dying --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3, 500])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_server_that_dies_in_mid_message_is_reported_after_what_was_complete(reset: bool, cut: int) -> None:
    delivered = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"whole") + frame(BINARY, b"x" * 1000)[:cut])
        await delivered.wait()
        if reset:
            peer.reset()
        else:
            await peer.stream.aclose()

    async with raw_server(server) as url, websocket.connect(url) as client:
        assert (await client.receive()).value.data == "whole"
        delivered.set()
        with pytest.raises(ConnectionFailedError) as caught:
            await client.__anext__()
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
        assert client.close_code == websocket.CLOSE_CODES.ABNORMAL_CLOSURE
        assert client.error is client.channel().cause
        assert client.error is not None
        assert client.error.details == {"code": 1006, "reason": ""}
        with pytest.raises(ConnectionFailedError, match="has ended") as refused:
            await client.send("too late")
        assert (refused.value.kind, refused.value.retryable) == (Kind.INTERNAL, False)
        await client.close()


async def test_what_arrived_before_a_reset_is_delivered() -> None:
    sent = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.send(b"".join(frame(TEXT, b"%d" % number) for number in range(100)))
        sent.set()
        await peer.expect(TEXT)
        peer.reset()

    async with raw_server(server) as url, websocket.connect(url, channel_capacity=1) as client:
        await sent.wait()
        await client.send("die")
        assert await drained(client) == [str(number) for number in range(100)]
        assert errors.is_kind(client.error, Kind.UNAVAILABLE)


async def test_a_send_that_waits_fails_when_the_server_dies() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.read(1000)
        peer.reset()

    async with raw_server(server) as url, websocket.connect(url) as client:
        with pytest.raises(ConnectionFailedError, match="sending failed") as caught:
            await client.send(bytes(LARGE))
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        assert await drained(client) == []
        assert client.close_code == 1006


async def test_a_ping_is_given_up_when_the_server_dies() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(PING)
        peer.reset()

    async with raw_server(server) as url, websocket.connect(url) as client:
        answer = await client.ping()
        assert not (await answer.receive()).ok
        assert await drained(client) == []
        with pytest.raises(ConnectionFailedError, match="ping failed") as caught:
            await client.ping()
        assert caught.value.kind is Kind.INTERNAL


# Closing ------------------------------------------------------------------------------------------------------------


async def test_a_ping_that_crosses_our_close_is_not_answered() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(CLOSE)
        await peer.send(frame(PING, b"crossing") + frame(TEXT, b"late"))
        await wait_all_tasks_blocked()
        await peer.send(frame(PING, b"again") + close_frame(1000))
        await peer.end()
        await peer.expect_end()

    async with raw_server(server) as url, websocket.connect(url) as client:
        await client.close()
        assert (client.close_code, client.error) == (1000, None)


async def test_closes_that_cross_are_one_close() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(close_frame(4001, "mine"))
        assert parse_close(await peer.expect(CLOSE))[0] in (1000, 4001)
        await peer.expect_end()

    for pause in range(8):
        async with raw_server(server) as url, websocket.connect(url) as client:
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            await client.close()
            assert client.close_code == 4001


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
async def test_a_peers_close_is_answered_in_kind_and_the_socket_closed(code: int) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(close_frame(code, "réason"))
        # 1014 among them, which wsproto does not know.
        await expect_close(peer, code)

    async with raw_server(server, limit_seconds=WELL_BEFORE_ANY_TIMEOUT) as url, websocket.connect(url) as client:
        assert await drained(client) == []
        assert (client.close_code, client.close_reason) == (code, "réason")
        assert (client.error is None) == (code in (1000, 1001))
        if client.error is not None:
            assert client.error.kind is Kind.UNAVAILABLE
            assert client.error.retryable == (1011 <= code <= 1014)
            assert client.error.details == {"code": code, "reason": "réason"}


async def test_a_close_without_a_code_is_answered_without_one() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(frame(CLOSE))
        await expect_close(peer, 1005)

    async with raw_server(server) as url, websocket.connect(url) as client:
        assert await drained(client) == []
        assert (client.close_code, client.close_reason, client.error) == (1005, "", None)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
async def test_our_close_goes_out_with_its_code_and_reason(code: int) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        assert await answer_close(peer) == (code, "x" * 121 + "é")

    async with raw_server(server) as url, websocket.connect(url) as client:
        await client.close(code, "x" * 121 + "é")
        assert (client.close_code, client.error) == (code, None)


async def test_closing_right_after_a_receive_that_made_room_closes_cleanly() -> None:
    # The receive hands its place to the reader, which runs only after the close has thrown the rest away.
    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"message") * 10)
        await answer_close(peer)

    async with raw_server(server) as url, websocket.connect(url, channel_capacity=1) as client:
        await wait_all_tasks_blocked()
        assert (await client.receive()).ok
        await client.close()


async def test_the_channel_closes_although_the_block_is_left_before_all_is_delivered() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"message") * 10 + close_frame(4000))
        await expect_close(peer, 4000)

    async with raw_server(server) as url:
        async with websocket.connect(url, channel_capacity=1) as client:
            await until(lambda: client.close_code is not None)
        with trio.fail_after(WELL_BEFORE_ANY_TIMEOUT):
            assert "message" in await drained(client)
        assert client.channel().cause is client.error


async def test_a_close_after_the_peers_releases_the_callers_nursery() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"message") * 10 + close_frame(4000))
        await expect_close(peer, 4000)

    async with raw_server(server) as url:
        with trio.fail_after(WELL_BEFORE_ANY_TIMEOUT):
            async with trio.open_nursery() as nursery:
                client = await websocket.connect(url, channel_capacity=1, nursery=nursery)
                await until(lambda: client.close_code is not None)
                await client.close()
        assert client.channel().closed


async def test_a_close_wakes_whoever_receives_sends_or_waits_for_a_pong() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.left.wait()

    async with raw_server(server) as url, websocket.connect(url, close_timeout="50ms") as client:
        woken: list[str] = []
        answer = await client.ping()
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert not (await client.receive()).ok
                woken.append("receive")

            async def wait_for_pong() -> None:
                assert not (await answer.receive()).ok
                woken.append("ping")

            async def send() -> None:
                with pytest.raises(ConnectionFailedError, match="sending failed"):
                    await client.send(bytes(LARGE))
                woken.append("send")

            async def close() -> None:
                await client.close()
                woken.append("close")

            for task in (receive, wait_for_pong, send, close, close):
                nursery.start_soon(task)
        assert sorted(woken) == ["close", "close", "ping", "receive", "send"]
        with pytest.raises(ConnectionFailedError, match="has ended"):
            await client.send("too late")
        with pytest.raises(ConnectionFailedError, match="has ended"):
            await client.ping()


async def test_a_cancelled_close_closes_the_socket_at_once() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await expect_close(peer, 1000)

    async with raw_server(server) as url, websocket.connect(url, close_timeout=None) as client:
        with trio.move_on_after(0.02) as scope:
            await client.close()
        assert scope.cancelled_caught
        assert client.close_code == 1006


async def test_a_block_cancelled_while_it_closes_ends_at_once() -> None:
    scope = trio.CancelScope()

    async def server(peer: Peer) -> None:
        await peer.accept()
        assert parse_close(await peer.expect(CLOSE)) == (1000, "")
        scope.cancel()
        await peer.expect_end()

    async with raw_server(server) as url:
        with scope:
            async with websocket.connect(url, close_timeout=None):
                pass
        assert scope.cancelled_caught


async def test_a_peers_close_while_it_does_not_read_our_send_ends_within_the_close_timeout() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.read(1000)
        await peer.send(close_frame(1001))
        await peer.expect_gone()

    async with raw_server(server) as url, websocket.connect(url, close_timeout="100ms") as client:
        with pytest.raises(ConnectionFailedError, match="sending failed"):
            await client.send(bytes(LARGE))
        assert (client.close_code, client.error) == (1001, None)


async def test_a_channel_given_up_by_its_user_does_not_stop_the_connection() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.send(frame(TEXT, b"unwanted") * 10_000 + frame(PING, b"alive?"))
        assert await peer.expect(TEXT) == b"still here"
        assert await peer.expect(PONG) == b"alive?"
        await peer.send(close_frame(1000))
        await expect_close(peer, 1000)

    async with raw_server(server) as url, websocket.connect(url, channel_capacity=1) as client:
        assert (await client.receive()).ok
        await wait_all_tasks_blocked(0.02)
        await client.send("still here")
        await client.channel().receiver.aclose()
        await until(lambda: client.close_code == 1000)


# Large and slow -----------------------------------------------------------------------------------------------------


async def test_a_server_that_pings_and_does_not_read_neither_blocks_us_nor_piles_up_pongs() -> None:
    cancelled = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept()
        for number in range(200):
            await peer.send(frame(PING, b"%d" % number) + frame(TEXT, b"%d" % number))
        await cancelled.wait()
        frames = await frames_until_close(peer)
        assert [received.payload for received in frames if received.opcode == TEXT] == [b"after"]
        # The cancelled one had begun, so it is finished.
        assert [received.payload == b"L" * LARGE for received in frames if received.opcode == BINARY] == [True]
        pongs = [received.payload for received in frames if received.opcode == PONG]
        assert len(pongs) < 30
        assert pongs[-1] == b"199"

    async with raw_server(server) as url, websocket.connect(url) as client:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await client.send(b"L" * LARGE)
                pytest.fail("sent what nobody read")

            nursery.start_soon(send)
            for number in range(200):
                assert (await client.receive()).value.data == str(number)
            nursery.cancel_scope.cancel()
        cancelled.set()
        await client.send("after")


async def test_closing_while_a_server_does_not_read_ends_with_the_close_timeout() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.expect_gone()

    async with raw_server(server) as url, websocket.connect(url, close_timeout="100ms") as client:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionFailedError, match="sending failed"):
                    await client.send(bytes(LARGE))

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            await client.close()
        assert (client.close_code, client.error) == (1006, None)


async def test_a_server_that_echoes_before_it_reads_on_is_no_deadlock() -> None:
    count = 24

    async def server(peer: Peer) -> None:
        await peer.accept()
        for number in range(count):
            await peer.send(frame(PING, b"%d" % number))
            while (received := await peer.read_frame()) is not None and received.opcode != BINARY:
                assert received.opcode == PONG
            assert received is not None
            await peer.send(frame(BINARY, received.payload))
        await answer_close(peer)

    messages = [bytes((number,)) * MIB for number in range(count)]

    async def send_all(client: websocket.Client) -> None:
        for message in messages:
            await client.send(message)

    async with (
        raw_server(server) as url,
        websocket.connect(url, channel_capacity=1) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(send_all, client)
        for message in messages:
            assert (await client.receive()).value.data == message


async def test_a_client_that_takes_nothing_makes_the_server_wait() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(1000):
                await peer.send(frame(BINARY, bytes(100_000)))

    async with raw_server(server) as url, websocket.connect(url, channel_capacity=1, close_timeout="100ms") as client:
        await wait_all_tasks_blocked(0.05)
        assert len(client.channel()) == 1
        # One in the channel, what is read ahead, and the beginning of another.
        assert client.statistics().bytes_received < READ_AHEAD_BYTES + 3 * 100_100


async def test_waiting_messages_do_not_keep_a_ping_that_was_read_from_being_answered() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"message") * 10 + frame(PING, b"alive?"))
        assert await peer.expect(PONG) == b"alive?"
        await answer_close(peer)

    async with raw_server(server) as url, websocket.connect(url, channel_capacity=1):
        await wait_all_tasks_blocked(0.05)


async def test_a_flood_of_pings_is_answered_with_few_pongs_and_the_latest() -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.send(b"".join(frame(PING, b"%d" % number) for number in range(20_000)) + frame(TEXT, b"done"))
        frames = await frames_until_close(peer)
        assert [received.opcode for received in frames[:-1]] == [PONG] * (len(frames) - 1)
        assert frames[-2].payload == b"19999"
        assert len(frames) < 1000

    async with raw_server(server) as url, websocket.connect(url) as client:
        assert (await client.receive()).value.data == "done"


@pytest.mark.parametrize("fragments", [1, 3, 1000])
async def test_a_message_of_exactly_the_limit_is_received(fragments: int) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        size = 1000 // fragments
        sizes = [size] * (fragments - 1) + [1000 - size * (fragments - 1)]
        for index, part in enumerate(sizes):
            await peer.send(
                frame(CONTINUATION if index else BINARY, bytes(part), fin=index == fragments - 1) + frame(PONG)
            )
        await answer_close(peer)

    async with raw_server(server) as url, websocket.connect(url, read_limit=1000) as client:
        assert (await client.receive()).value.data == bytes(1000)


# Storms: random, from seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_sends_cancelled_at_random_never_corrupt_or_reorder_the_stream(seed: int) -> None:  # noqa: C901
    rng = random.Random(seed)
    tasks, each = 6, 60
    arrived: list[list[int]] = [[] for _ in range(tasks)]

    async def server(peer: Peer) -> None:
        await peer.accept()
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        while True:
            if rng.random() < 0.3:
                await peer.send(frame(PING, b"!" * rng.randrange(125)))
            received = await peer.read_frame()
            assert received is not None
            if received.opcode == CLOSE:
                break
            if received.opcode == BINARY:
                task, number, size = (int(part) for part in received.payload[:24].split())
                assert received.payload[24:] == bytes((number,)) * size
                arrived[task].append(number)
        await peer.send(close_frame(1000))
        await peer.end()
        await peer.expect_end()

    sent: list[list[int]] = [[] for _ in range(tasks)]
    sizes = (0, 10, 1000, 70_000, 300_000)

    async def send(client: websocket.Client, task: int) -> None:
        for number in range(each):
            size = rng.choice(sizes)
            with trio.CancelScope() as scope:
                if rng.random() < 0.5:
                    scope.deadline = trio.current_time() + rng.random() * rng.choice((0, 0.0005, 0.005))
                await client.send(b"%-24b" % (b"%d %d %d" % (task, number, size)) + bytes((number,)) * size)
                sent[task].append(number)

    async with raw_server(server) as url, websocket.connect(url) as client:
        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(send, client, task)
        assert client.error is None
    for numbers, complete in zip(arrived, sent, strict=True):
        assert numbers == sorted(set(numbers))
        assert set(complete) <= set(numbers)
    # Some cancelled ones went out and some did not, or this has tested nothing.
    assert sum(map(len, sent)) <= sum(map(len, arrived)) < tasks * each


async def misbehave(peer: Peer, rng: random.Random) -> None:  # noqa: C901, PLR0912  # a table of misdeeds
    """Be a server that does a few things at random, and then ends in some way or other."""
    try:
        await peer.read_request()
    except AssertionError:  # the client was cancelled before it could ask
        return
    if rng.random() < 0.1:
        return
    await peer.send(peer.answer[: rng.randrange(len(peer.answer))] if rng.random() < 0.1 else peer.answer)
    for _ in range(rng.randrange(8)):
        match rng.randrange(6):
            case 0:
                await peer.send(frame(TEXT, b"x" * rng.choice((0, 10, 5000))) * rng.randrange(1, 30))
            case 1:
                await peer.send(frame(PING, b"?") * rng.randrange(1, 5))
            case 2:
                await peer.stream.receive_some(rng.choice((1, 1000, 100_000)))
            case 3:
                await trio.sleep(rng.random() * 0.003)
            case 4:
                await peer.send(frame(BINARY, b"y" * 100, fin=False))
                await peer.send(frame(CONTINUATION, b"z" * 100))
            case _:
                await trio.lowlevel.checkpoint()
    match rng.randrange(7):
        case 0:
            peer.reset()
        case 1:
            await peer.end()
        case 2:
            await peer.send(close_frame(rng.choice((1000, 1001, 1011, 4000)), "bye"))
        case 3:
            await peer.send(rng.choice(list(HEADERS.values())).data)
        case 4:
            await peer.send(close_frame(1000) + frame(TEXT, b"after the close"))
            await peer.expect_gone()
        case 5:
            await peer.expect_gone()
        case _:
            pass


async def be_impatient(url: str, rng: random.Random) -> None:  # noqa: C901  # a table of deeds
    """Be a client that does a few things at random, and is cancelled, fails, or leaves; allow only our own errors."""
    with trio.CancelScope() as scope:
        if rng.random() < 0.3:
            scope.deadline = trio.current_time() + rng.random() * 0.01
        try:
            async with websocket.connect(
                url,
                channel_capacity=rng.choice((1, 16)),
                read_limit=rng.choice((100, 4000, 0)),
                close_timeout="50ms",
                dial_timeout=200,
            ) as client:
                for _ in range(rng.randrange(8)):
                    match rng.randrange(6):
                        case 0:
                            with trio.move_on_after(0.02):
                                await client.send(b"m" * rng.choice((0, 10, 300_000)))
                        case 1:
                            with trio.move_on_after(0.02):
                                await client.ping()
                        case 2:
                            with trio.move_on_after(0.002):
                                await client.receive()
                        case 3:
                            with trio.move_on_after(rng.random() * 0.002):
                                await client.send(b"m" * 3_000_000)
                        case 4:
                            with trio.move_on_after(rng.random() * 0.002):
                                await client.close(rng.choice((1000, 4000)))
                        case _:
                            await trio.lowlevel.checkpoint()
                if rng.random() < 0.3:
                    raise LookupError
        except (LookupError, ConnectionFailedError):
            pass
        else:
            assert client.close_code is not None
            with trio.fail_after(WELL_BEFORE_ANY_TIMEOUT):
                await drained(client)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_both_sides_do_at_random_ends_and_leaves_nothing(seed: int) -> None:
    rng = random.Random(seed)
    seeds = (rng.randrange(1 << 30) for _ in range(1 << 30))

    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await misbehave(peer, random.Random(next(seeds)))

    async with raw_server(server) as url, trio.open_nursery() as nursery:

        async def clients() -> None:
            for _ in range(4):
                await be_impatient(url, random.Random(next(seeds)))

        for _ in range(10):
            nursery.start_soon(clients)


async def test_a_cancelled_block_says_goodbye_although_a_ping_is_just_being_answered() -> None:
    seen: list[int] = []
    ping = csp.Channel[None](1)

    async def server(peer: Peer) -> None:
        await peer.accept()
        await ping.receive()
        await peer.send(frame(PING))
        frames = await peer.read_frames()
        seen.append(frames[-1].opcode if frames else -1)

    async with raw_server(server) as url:
        for _ in range(30):
            with trio.CancelScope() as scope:
                async with websocket.connect(url) as client:
                    before = client.statistics().bytes_received
                    ping.send_nowait(None)
                    while client.statistics().bytes_received == before:
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        await until(lambda: len(seen) == 30)
    assert seen == [CLOSE] * 30


async def test_messages_of_several_tasks_go_out_in_the_order_of_the_calls() -> None:
    order: list[bytes] = []

    async def server(peer: Peer) -> None:
        await peer.accept()
        received = await frames_until_close(peer)
        order.extend(one.payload for one in received[:-1])

    called: list[bytes] = []
    async with raw_server(server) as url, websocket.connect(url) as client, trio.open_nursery() as nursery:

        async def send(task: int) -> None:
            for number in range(100):
                called.append(message := b"%d %d" % (task, number))
                await client.send(message)

        for task in range(3):
            nursery.start_soon(send, task)
    assert order == called


async def test_a_ping_is_answered_ahead_of_what_the_message_around_it_brings() -> None:
    opcodes: list[list[int]] = []

    async def server(peer: Peer) -> None:
        await peer.accept()
        for _ in range(20):
            await peer.send(frame(TEXT, b"a", fin=False) + frame(PING) + frame(CONTINUATION, b"b"))
            received = [await peer.read_frame(), await peer.read_frame()]
            opcodes.append([each.opcode for each in received if each is not None])
        await peer.send(close_frame(1000))
        await peer.expect(CLOSE)

    async with raw_server(server) as url, websocket.connect(url) as client:
        async for message in client:
            await client.send(message.data)
    assert opcodes == [[PONG, TEXT]] * 20
