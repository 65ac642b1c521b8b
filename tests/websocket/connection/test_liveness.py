"""How long a connection waits for its peer: read timeout, keepalive, and write timeout, on a clock that jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._server import (
    BINARY,
    CLOSE,
    CONTINUATION,
    ENDED,
    PING,
    PONG,
    TEXT,
    Frame,
    Server,
    close,
    connecting,
    frame,
    text,
)
from trio_csp_websocket.connection.pings import MAX_OUTSTANDING
from trio_csp_websocket.transport.socket import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    import csp
    from csp.websocket import Client
    from trio_csp_websocket.transport.base import Transport

# More than is written in one piece.
LARGE = bytes(600 * 1024)


class PongingServer(Server):
    """Answers pings, and does nothing else of its own."""

    def take_in(self) -> None:
        known = len(self.frames)
        super().take_in()
        for one in self.frames[known:]:
            if one.opcode == PING and not self.closed:
                self.send(frame(PONG, one.payload))


def opcodes(server: Server) -> list[int]:
    return [one.opcode for one in server.frames]


def pings(server: Server) -> int:
    return opcodes(server).count(PING)


def take_one_piece(server: Server) -> None:
    """Let a server that does not read take what is being written to it, and nothing of what follows."""
    server.read_on()
    server.stop_reading()


async def drained(client: Client) -> list[str | bytes]:
    received: list[str | bytes] = []
    while (message := await client.receive()).ok:
        received.append(message.value.data)
    return received


async def iterated(client: Client) -> tuple[list[str | bytes], ConnectionFailedError | None]:
    """Iterate to the end; return the data, and the error that the end is."""
    received: list[str | bytes] = []
    try:
        async for message in client:
            received.append(message.data)  # noqa: PERF401  # what came before the error counts
    except ConnectionFailedError as error:
        return received, error
    return received, None


async def ended(client: Client) -> float:
    """Wait until the connection has ended, for whatever reason; return the time."""
    with trio.fail_after(10_000):
        await client._connection.finished.wait()
    return trio.current_time()


def check_stalled(client: Client, server: Server, reason: str) -> None:
    """Check all that a connection tells whose peer let us wait for too long."""
    error = client.error
    assert type(error) is ConnectionTimeoutError
    assert isinstance(error, TimeoutError)
    assert isinstance(error, ConnectionError)
    assert (error.kind, error.retryable) == (Kind.TIMEOUT, True)
    assert error.details == {"code": 1011, "reason": reason}
    assert str(error) == f"the connection timed out: the peer has sent {reason}"
    assert (client.close_code, client.close_reason) == (1011, reason)
    assert client.channel().cause is error
    assert server.frames[-1] == Frame(CLOSE, (1011).to_bytes(2, "big") + reason.encode())
    assert server.closed


def check_closed(client: Client) -> None:
    assert (client.close_code, client.error) == (1000, None)


# Read timeout ---------------------------------------------------------------------------------------------------------


async def test_a_read_timeout_fails_the_connection_at_its_time_and_tells_the_peer(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        await trio.sleep(4.999)
        assert client.close_code is None
        assert server.frames == []
        assert await client.receive() == ENDED
        assert trio.current_time() == pytest.approx(5)
        await ended(client)
        assert trio.current_time() == pytest.approx(5)
        check_stalled(client, server, "no message within 5 s")
        start = trio.current_time()
    assert trio.current_time() == start


async def test_a_peer_that_does_not_answer_the_close_of_a_read_timeout_is_left_after_the_close_timeout(
    autojump_clock: MockClock,
) -> None:
    server = Server(answers_close=False)
    async with connecting(server, read_timeout="5s", close_timeout="3s") as client:
        assert await client.receive() == ENDED
        assert trio.current_time() == pytest.approx(5)
        assert await ended(client) == pytest.approx(8)
        check_stalled(client, server, "no message within 5 s")


async def test_without_a_read_timeout_or_keepalive_silence_is_fine(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await trio.sleep(80_000)
        assert (client.close_code, server.frames) == (None, [])


async def test_what_came_before_a_read_timeout_is_delivered_and_iterating_then_raises(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        server.send(text("a"), text("b"))
        await trio.sleep(1)
        server.send(text("c"))
        await ended(client)
        received, error = await iterated(client)
        assert received == ["a", "b", "c"]
        assert type(error) is ConnectionTimeoutError
        assert error is not client.error
        assert error.__cause__ is client.error
        assert error.kind is Kind.TIMEOUT
        assert await client.receive() == ENDED


async def test_every_whole_message_gets_the_time_anew(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        for number in range(5):
            await trio.sleep(4.9)
            server.send(frame(BINARY, b"%d" % number))
        assert await drained(client) == [b"0", b"1", b"2", b"3", b"4"]
        assert trio.current_time() == pytest.approx(5 * 4.9 + 5)


@pytest.mark.parametrize(
    "parts",
    [
        [frame(PING, b"a")] * 4,
        [frame(PONG, b"a")] * 4,
        [frame(TEXT, b"a", fin=False), *[frame(CONTINUATION, b"a", fin=False)] * 3],
        [b"\x82", b"\x7e", b"\x10", b"\x00"],
        [frame(BINARY, bytes(100_000))[:20_000], bytes(20_000), bytes(20_000), bytes(20_000)],
        [frame(TEXT, b"a", fin=False), frame(PING), frame(CONTINUATION, b"", fin=False), b"\x80"],
    ],
    ids=["pings", "pongs", "fragments", "bytes of a header", "parts of a payload", "all of them"],
)
async def test_anything_less_than_a_message_does_not_extend_the_read_timeout(
    parts: list[bytes], autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        for part in parts:
            await trio.sleep(1)
            server.send(part)
        assert await client.receive() == ENDED
        assert trio.current_time() == pytest.approx(5)
        await ended(client)
        check_stalled(client, server, "no message within 5 s")


@pytest.mark.parametrize("then", [b"", frame(TEXT, b"next", fin=False), b"\x81"])
async def test_the_last_part_of_a_message_gives_the_next_one_its_time(then: bytes, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        for part in (
            frame(TEXT, b"a", fin=False),
            frame(CONTINUATION, b"b", fin=False),
            frame(CONTINUATION, b"c") + then,
        ):
            await trio.sleep(1.5)
            server.send(part)
        assert await drained(client) == ["abc"]
        assert trio.current_time() == pytest.approx(4.5 + 5)


async def test_a_control_frame_behind_a_message_takes_nothing_from_the_next_ones_time(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        await trio.sleep(3)
        server.send(text("a"))
        await trio.sleep(1)
        server.send(frame(PING))
        await trio.sleep(1)
        server.send(frame(PING))
        assert await drained(client) == ["a"]
        assert trio.current_time() == pytest.approx(8)


async def test_time_in_which_the_channel_keeps_us_from_reading_does_not_count(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s", channel_capacity=1) as client:
        await trio.sleep(2)
        server.send(text("a"), text("b"), text("c"))
        await trio.sleep(100)
        assert client.close_code is None
        # What lies in the stream meanwhile is not read.
        server.send(frame(TEXT, b"d", fin=False))
        await trio.sleep(100)
        for expected in "abc":
            assert (await client.receive()).value.data == expected
        start = trio.current_time()
        await trio.sleep(3)
        server.send(frame(CONTINUATION, b"e", fin=False))
        assert await client.receive() == ENDED
        assert trio.current_time() == pytest.approx(start + 5)
        await ended(client)
        check_stalled(client, server, "no message within 5 s")


async def test_a_message_that_lay_in_the_stream_while_the_channel_was_full_is_in_time(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s", channel_capacity=1) as client:
        server.send(text("a"), text("b"))
        await trio.sleep(4)
        server.send(text("c"))
        await trio.sleep(100)
        for expected in "abc":
            assert (await client.receive()).value.data == expected
        assert client.close_code is None


async def test_a_channel_that_is_full_of_all_there_is_keeps_nobody_from_reading(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s", channel_capacity=1) as client:
        server.send(text("a"))
        await trio.sleep(6)
        # We did read, and nothing came.
        assert client.close_code == 1011
        assert await drained(client) == ["a"]


async def test_a_consumer_that_is_slow_gets_everything_after_a_read_timeout(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s", channel_capacity=3) as client:
        server.send(text("a"), text("b"), text("c"))
        await trio.sleep(100)
        assert client.close_code == 1011
        assert await drained(client) == ["a", "b", "c"]
        check_stalled(client, server, "no message within 5 s")


async def test_our_close_puts_the_read_timeout_out_of_force(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, read_timeout="5s", close_timeout="20s") as client:
        await trio.sleep(3)
        await client.close()
        # The reader was waiting already when we closed; the close timeout is what counts now.
        assert trio.current_time() == pytest.approx(23)
        assert (client.close_code, client.error) == (1006, None)
        assert server.closes == [1000]


async def test_a_peer_that_answers_our_close_after_the_read_timeout_has_answered(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, read_timeout="5s", close_timeout="20s") as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.close)
            await trio.sleep(15)
            server.send(text("ignored"), close(1001, "bye"))
            server.end()
        assert (client.close_code, client.close_reason, client.error) == (1001, "bye", None)
        assert trio.current_time() == pytest.approx(15)


@pytest.mark.parametrize("option", ["read_timeout", "keepalive"])
async def test_a_message_that_is_there_before_the_deadline_is_noticed_is_in_time(
    option: str, autojump_clock: MockClock
) -> None:
    # Our own process may be what was away.
    server = Server()
    options: dict[str, str] = {option: "5s"}
    async with connecting(server, **options) as client:  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
        server.send(text("just so"))
        autojump_clock.jump(10)
        assert (await client.receive()).value.data == "just so"
        await trio.sleep(4.9)
        assert client.close_code is None


async def test_a_program_that_was_late_gives_the_peer_as_long_to_send_the_rest(autojump_clock: MockClock) -> None:
    # What the peer could not send while nobody read, it sends when we do.
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        message = text("in three parts")
        server.send(message[:5])
        await wait_all_tasks_blocked()
        server.send(message[5:9])
        autojump_clock.jump(8)
        await wait_all_tasks_blocked()
        assert client.close_code is None
        await trio.sleep(2)
        server.send(message[9:12])
        await wait_all_tasks_blocked()
        server.send(message[12:])
        assert (await client.receive()).value.data == "in three parts"


async def test_a_program_that_was_late_waits_no_longer_than_that(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        autojump_clock.jump(8)
        assert await client.receive() == ENDED
        assert trio.current_time() == pytest.approx(11)
        assert client.close_reason == "no message within 5 s"


async def test_a_peers_close_in_the_last_moment_counts(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s", keepalive="2.5s") as client:
        await wait_all_tasks_blocked()
        server.send(close(1000))
        server.end()
        autojump_clock.jump(10)
        await ended(client)
        assert (client.close_code, client.error) == (1000, None)


async def test_an_awaited_connection_that_timed_out_leaves_its_nursery(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, read_timeout="5s", nursery=nursery)
    assert trio.current_time() == pytest.approx(5)
    check_stalled(client, server, "no message within 5 s")


# Keepalive ------------------------------------------------------------------------------------------------------------


async def test_a_ping_goes_out_after_the_interval_and_after_another_the_peer_is_given_up(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:
        await trio.sleep(9.999)
        assert server.frames == []
        await trio.sleep(0.002)
        assert opcodes(server) == [PING]
        await trio.sleep(9.997)
        assert client.close_code is None
        assert await client.receive() == ENDED
        assert trio.current_time() == pytest.approx(20)
        await ended(client)
        assert opcodes(server) == [PING, CLOSE]
        check_stalled(client, server, "nothing for 10 s after a ping")
        assert client.latency is None


@pytest.mark.parametrize(
    "sign",
    [b"\x81", frame(PING), frame(PONG, b"unasked"), text("a"), frame(TEXT, b"", fin=False), frame(BINARY, b"ab")[:3]],
)
@pytest.mark.parametrize("after", [1, 9.999, 10.001, 19.999])
async def test_any_byte_is_a_sign_of_life(sign: bytes, after: float, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:
        await trio.sleep(after)
        server.send(sign)
        await trio.sleep(9.9)
        before = 0 if after < 10 else 1
        assert pings(server) == before
        await trio.sleep(0.2)
        assert pings(server) == before + 1
        assert client.close_code is None
        assert await ended(client) == pytest.approx(after + 20)
        assert client.close_code == 1011
        assert client.close_reason == "nothing for 10 s after a ping"


async def test_a_peer_that_answers_is_pinged_after_every_interval_of_silence(autojump_clock: MockClock) -> None:
    server = PongingServer()
    async with connecting(server, keepalive="10s") as client:
        await trio.sleep(1005)
        assert pings(server) == 100
        assert client.close_code is None
        assert len(set(server.payloads)) == 100
        assert len(client._connection.pings) == 0


async def test_a_peer_that_sends_all_the_time_is_never_pinged(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:
        for _ in range(20):
            server.send(frame(PONG))
            await trio.sleep(9)
        assert server.frames == []
        assert client.close_code is None


async def test_the_answer_to_a_keepalive_ping_updates_the_latency(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:
        for latency in (3, 0.25):
            await trio.sleep(10)
            await wait_all_tasks_blocked()
            payload = server.payloads[-1]
            await trio.sleep(latency)
            server.send(frame(PONG, payload))
            await wait_all_tasks_blocked()
            assert client.latency == pytest.approx(latency)


async def test_a_full_channel_neither_pings_nor_blames(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s", channel_capacity=1) as client:
        server.send(text("a"), text("b"))
        await trio.sleep(1000)
        assert (client.close_code, server.frames) == (None, [])
        await client.receive()
        await client.receive()
        await trio.sleep(10.1)
        assert opcodes(server) == [PING]
        assert await ended(client) == pytest.approx(1020)


async def test_a_channel_that_fills_up_after_the_ping_blames_nobody(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s", channel_capacity=1) as client:
        await trio.sleep(15)
        server.send(text("a"), text("b"))
        # Not read any more, and it may be the pong.
        await trio.sleep(1)
        server.send(frame(PONG, server.payloads[0]))
        await trio.sleep(1000)
        assert (client.close_code, pings(server)) == (None, 1)
        await client.receive()
        await client.receive()
        await trio.sleep(9.9)
        assert (client.close_code, pings(server)) == (None, 1)


async def test_a_peer_that_takes_what_we_send_is_not_blamed_while_the_ping_waits(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, LARGE * 2)
            for _ in range(4):
                await trio.sleep(9)
                take_one_piece(server)
                assert client.close_code is None
            await trio.sleep(9)
            assert (client.close_code, server.frames) == (None, [])
            server.read_on()
        await wait_all_tasks_blocked()
        # The ping has waited until now, and only one of them.
        assert opcodes(server) == [BINARY, PING]
        server.send(frame(PONG, server.payloads[1]))
        await trio.sleep(9)
        assert client.close_code is None
        await ended(client)
        check_stalled(client, server, "nothing for 10 s after a ping")


async def test_a_peer_that_takes_nothing_is_blamed_although_the_ping_is_not_out(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s", close_timeout="1s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionFailedError, match="the connection has ended") as caught:
                    await client.send(LARGE)
                assert caught.value.__cause__ is client.error

            nursery.start_soon(send)
            assert await client.receive() == ENDED
            assert trio.current_time() == pytest.approx(20)
        assert trio.current_time() == pytest.approx(21)
        assert server.frames == []
        assert client.close_code == 1011
        assert client.error is not None
        assert client.error.kind is Kind.TIMEOUT


async def test_a_peer_that_stops_taking_what_we_send_is_blamed_an_interval_later(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, keepalive="10s", close_timeout="1s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionFailedError):
                    await client.send(LARGE)

            nursery.start_soon(send)
            await trio.sleep(15)
            take_one_piece(server)
            await trio.sleep(14.9)
            assert client.close_code is None
            assert await client.receive() == ENDED
            assert trio.current_time() == pytest.approx(30)
            assert client.close_reason == "nothing for 10 s after a ping"


async def test_keepalive_pings_nobody_once_we_have_closed(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, keepalive="10s", close_timeout="60s") as client:
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.close)
            await trio.sleep(59)
            # At most what was waited for already is waited out; then the close timeout alone counts.
            assert len(client._connection.pings) <= 1
        assert trio.current_time() == pytest.approx(65)
        assert opcodes(server) == [CLOSE]
        assert server.closes == [1000]
        assert (client.close_code, client.error) == (1006, None)


async def test_of_both_options_the_first_to_expire_decides(autojump_clock: MockClock) -> None:
    for read_timeout, keepalive, after, reason in (
        ("5s", "10s", 5, "no message within 5 s"),
        ("15s", "10s", 15, "no message within 15 s"),
        ("30s", "10s", 20, "nothing for 10 s after a ping"),
        ("10s", "10s", 10, "no message within 10 s"),
        ("20s", "10s", 20, "no message within 20 s"),
    ):
        server, start = Server(), trio.current_time()
        async with connecting(server, read_timeout=read_timeout, keepalive=keepalive) as client:
            assert await ended(client) == pytest.approx(start + after)
            check_stalled(client, server, reason)
            # No ping that nobody could answer in time.
            assert pings(server) == (1 if after > 10 else 0)


async def test_answers_to_keepalive_do_not_extend_the_read_timeout(autojump_clock: MockClock) -> None:
    server = PongingServer()
    async with connecting(server, read_timeout="35s", keepalive="10s") as client:
        assert await ended(client) == pytest.approx(35)
        assert pings(server) == 3
        check_stalled(client, server, "no message within 35 s")


async def test_messages_end_the_silence_and_pings_go_on_between_them(autojump_clock: MockClock) -> None:
    server = PongingServer()
    async with connecting(server, read_timeout="35s", keepalive="10s") as client:
        for number in range(3):
            await trio.sleep(32)
            server.send(text(str(number)))
        assert await drained(client) == ["0", "1", "2"]
        assert trio.current_time() == pytest.approx(96 + 35)
        assert pings(server) == 12


async def test_pings_that_are_never_answered_do_not_pile_up(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="1s") as client:
        for _ in range(MAX_OUTSTANDING + 10):
            await trio.sleep(1.5)
            server.send(frame(PONG, b"of somebody else"))
        assert pings(server) == MAX_OUTSTANDING + 10
        assert len(client._connection.pings) == MAX_OUTSTANDING
        with pytest.raises(ConnectionFailedError, match="1024 pings are unanswered"):
            await client.ping()
        # One answer is an answer to those before it.
        server.send(frame(PONG, server.payloads[MAX_OUTSTANDING - 1]))
        await wait_all_tasks_blocked()
        await client.ping()
        assert len(client._connection.pings) == 1


async def test_an_answer_to_a_keepalive_ping_is_not_taken_for_one_to_a_later_ping(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:
        await trio.sleep(11)
        answer = await client.ping(b"mine")
        assert server.payloads[-1] == b"mine"
        server.send(frame(PONG, server.payloads[0]))
        await wait_all_tasks_blocked()
        assert len(answer) == 0
        await trio.sleep(1)
        server.send(frame(PONG, b"mine"))
        assert (await answer.receive()).value == pytest.approx(1)


# Write timeout: not begun ---------------------------------------------------------------------------------------------


async def stuck(server: Server) -> None:
    """Let the writer be busy with a pong that the peer does not take; nobody waits for that."""
    server.stop_reading()
    server.send(frame(PING, b"stuck"))
    await wait_all_tasks_blocked()


async def test_a_send_that_cannot_begin_in_time_sends_nothing_and_the_connection_lives(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.send("never")
        assert trio.current_time() == pytest.approx(2)
        assert str(caught.value) == "sending failed: not begun within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert isinstance(caught.value, TimeoutError)
        assert client.close_code is None
        assert client.error is None
        assert not server.closed
        assert client.statistics().messages_sent == 0
        server.read_on()
        await client.send("after")
        server.send(text("hello"))
        assert (await client.receive()).value.data == "hello"
    assert server.frames[:2] == [Frame(PONG, b"stuck"), Frame(TEXT, b"after")]
    assert opcodes(server) == [PONG, TEXT, CLOSE]
    check_closed(client)


async def test_of_sends_that_wait_those_in_time_go_out_in_their_order(autojump_clock: MockClock) -> None:
    server = Server()
    outcomes: dict[int, str] = {}

    async def send(number: int) -> None:
        try:
            await client.send(str(number))
            outcomes[number] = "sent"
        except ConnectionTimeoutError:
            outcomes[number] = "timed out"

    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(send, number)
                await trio.sleep(0.5)
            await trio.sleep(0.2)
            server.read_on()
    # At 4.2 s, those that came before 2.2 s were given up.
    assert outcomes == {number: "timed out" if number < 5 else "sent" for number in range(8)}
    assert server.payloads[:-1] == [b"stuck", b"5", b"6", b"7"]


async def test_a_ping_that_cannot_begin_in_time_is_taken_back(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.ping(b"never")
        assert str(caught.value) == "ping failed: not begun within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert client.close_code is None
        assert len(client._connection.pings) == 0
        server.read_on()
        answer = await client.ping(b"later")
        server.send(frame(PONG, b"later"))
        assert (await answer.receive()).ok
    assert server.payloads[:-1] == [b"stuck", b"later"]


async def test_a_send_that_is_cancelled_before_its_timeout_is_cancelled(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        with trio.move_on_after(1) as scope:
            await client.send("never")
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert client.close_code is None
        server.read_on()
    assert opcodes(server) == [PONG, CLOSE]


async def test_a_send_behind_one_whose_task_is_gone_does_not_begin(autojump_clock: MockClock) -> None:
    # Nobody waits any more for what is being written, so nobody's time for it runs out.
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        with trio.move_on_after(1):
            await client.send("written nevertheless")
        with pytest.raises(ConnectionTimeoutError, match="not begun within 2 s"):
            await client.send("never")
        assert client.close_code is None
        server.read_on()
        await client.send("after")
    assert server.payloads[:-1] == [b"written nevertheless", b"after"]


# Write timeout: begun -------------------------------------------------------------------------------------------------


def check_broken(client: Client, server: Server) -> None:
    """Check all that a connection tells that broke because a send could not be written in time."""
    error = client.error
    assert type(error) is ConnectionTimeoutError
    assert (error.kind, error.retryable) == (Kind.TIMEOUT, True)
    assert error.details == {"code": 1006, "reason": ""}
    assert str(error) == "the connection timed out: a frame was not written within 2 s (write_timeout)"
    assert (client.close_code, client.close_reason) == (1006, "")
    assert server.closed
    assert server.closes == []


async def test_a_send_that_is_not_written_in_time_ends_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.send(LARGE)
        assert trio.current_time() == pytest.approx(2)
        assert str(caught.value) == "sending failed: not written within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert caught.value.__cause__ is client.error
        check_broken(client, server)
        assert await client.receive() == ENDED
        assert client.channel().cause is client.error
        with pytest.raises(ConnectionFailedError, match="has ended") as used_after:
            await client.send("more")
        assert not isinstance(used_after.value, ConnectionTimeoutError)
        assert (used_after.value.kind, used_after.value.retryable) == (Kind.INTERNAL, False)
    # Leaving was quick and quiet.
    assert trio.current_time() == pytest.approx(2)
    check_broken(client, server)


async def test_time_is_for_a_whole_send_whatever_its_progress(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError, match="not written within 2 s"):
                    await client.send(LARGE)
                assert trio.current_time() == pytest.approx(2)

            nursery.start_soon(send)
            await trio.sleep(1.5)
            take_one_piece(server)
        check_broken(client, server)
        assert server.unparsed  # half a frame, behind which nothing went out


async def test_everybody_who_waits_is_told_when_a_send_ends_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    told: dict[str, ConnectionFailedError] = {}

    async def expect_error(name: str, deed: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(ConnectionFailedError) as caught:
            await deed()
        assert trio.current_time() == pytest.approx(2)
        told[name] = caught.value

    async with connecting(server, write_timeout="2s") as client:
        answer = await client.ping()
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_error, "begun", lambda: client.send(LARGE))
            await trio.sleep(1)
            nursery.start_soon(expect_error, "send", lambda: client.send("waits"))
            nursery.start_soon(expect_error, "ping", client.ping)
            nursery.start_soon(expect_error, "iterating", client.__anext__)
            assert not (await answer.receive()).ok
            assert trio.current_time() == pytest.approx(2)
        for name, error in told.items():
            assert error.__cause__ is client.error, name
        assert told["begun"].kind is Kind.TIMEOUT
        assert told["iterating"].kind is Kind.TIMEOUT
        for name, retryable in (("send", False), ("ping", True)):
            assert not isinstance(told[name], ConnectionTimeoutError)
            assert (told[name].kind, told[name].retryable) == (Kind.INTERNAL, retryable)
            assert str(told[name]).endswith("the connection broke: a frame was not written within 2 s (write_timeout)")
        assert len(client._connection.pings) == 0
        check_broken(client, server)


@pytest.mark.parametrize("capacity", [1, 2, 10])
@pytest.mark.parametrize("way", ["receive", "iterate"])
async def test_what_was_received_before_a_write_timeout_is_delivered_however_slow_the_consumer(
    capacity: int, way: str, autojump_clock: MockClock
) -> None:
    server = Server()
    received: list[str | bytes] = []
    async with connecting(server, write_timeout="2s", channel_capacity=capacity) as client:
        # More than the channel takes: the reader is parked with the rest.
        server.send(*[text(str(number)) for number in range(10)])
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("stuck")
        check_broken(client, server)
        assert not client.channel().closed or capacity == 10
        for _ in range(5):
            await trio.sleep(100)
            received.append((await client.receive()).value.data)
        if way == "receive":
            received += await drained(client)
        else:
            rest, error = await iterated(client)
            received += rest
            assert type(error) is ConnectionTimeoutError
        assert client.channel().cause is client.error
    assert received == [str(number) for number in range(10)]


async def test_an_awaited_connection_waits_for_its_consumer_after_a_write_timeout(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, write_timeout="2s", channel_capacity=1, nursery=nursery)
        server.send(*[text(str(number)) for number in range(5)])
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("stuck")
        assert len(nursery.child_tasks) == 1
        assert await drained(client) == ["0", "1", "2", "3", "4"]
    assert trio.current_time() == pytest.approx(2)
    check_broken(client, server)


async def test_leaving_the_block_discards_what_a_slow_consumer_has_not_taken(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", channel_capacity=1) as client:
        server.send(*[text(str(number)) for number in range(5)])
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("stuck")
    assert trio.current_time() == pytest.approx(2)
    assert await drained(client) == ["0"]
    assert client.channel().cause is client.error


async def test_the_error_of_a_send_may_leave_the_block_and_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    server, client, came_out = Server(), None, None
    try:
        async with connecting(server, write_timeout="2s") as client:
            server.stop_reading()
            await client.send(LARGE)
    except ConnectionTimeoutError as error:
        came_out = error
    assert client is not None
    assert came_out is not None
    assert came_out.__cause__ is client.error
    assert trio.current_time() == pytest.approx(2)
    check_broken(client, server)


async def test_a_ping_that_is_not_written_in_time_ends_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.ping()
        assert str(caught.value) == "ping failed: not written within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert caught.value.__cause__ is client.error
        assert len(client._connection.pings) == 0
        check_broken(client, server)


async def test_a_write_timeout_while_we_close_is_an_error_of_the_send_alone(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", close_timeout="60s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError, match="not written within 2 s") as caught:
                    await client.send(LARGE)
                assert caught.value.kind is Kind.TIMEOUT
                assert caught.value.__cause__ is not None

            nursery.start_soon(send)
            await trio.sleep(1)
            await client.close()
            # The close frame could not go out behind it, so there is nothing to wait for.
            assert trio.current_time() == pytest.approx(2)
        assert (client.close_code, client.close_reason, client.error) == (1006, "", None)
        assert client.channel().cause is None
        assert server.closed
        assert server.closes == []
        assert await client.receive() == ENDED


async def test_a_send_that_cannot_begin_while_we_close_leaves_the_close_alone(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", close_timeout="60s") as client:
        await stuck(server)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError, match="not begun within 2 s"):
                    await client.send("never")

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            nursery.start_soon(client.close)
            await trio.sleep(3)
            assert client.close_code is None
            server.read_on()
        assert trio.current_time() == pytest.approx(3)
    assert opcodes(server) == [PONG, CLOSE]
    check_closed(client)


async def test_a_write_timeout_behind_the_peers_close_changes_nothing_about_it(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", close_timeout="60s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError) as caught:
                    await client.send(LARGE)
                assert caught.value.__cause__ is client.error

            nursery.start_soon(send)
            await trio.sleep(1)
            server.send(close(1008, "enough"))
            assert await client.receive() == ENDED
        assert (client.close_code, client.close_reason) == (1008, "enough")
        assert client.error is not None
        assert client.error.kind is Kind.UNAVAILABLE
        assert await ended(client) == pytest.approx(2)


async def test_a_send_that_is_written_when_its_time_runs_out_is_sent_or_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    # Trio decides which of the two tasks runs first; in either order everybody is told the same.
    outcomes: set[str] = set()
    for _ in range(40):
        server = Server()
        async with connecting(server, write_timeout="2s") as client:
            server.stop_reading()
            async with trio.open_nursery() as nursery:
                failures: list[ConnectionTimeoutError] = []

                async def send(client: Client = client, failures: list[ConnectionTimeoutError] = failures) -> None:
                    try:
                        await client.send("just so")
                    except ConnectionTimeoutError as error:
                        failures.append(error)

                nursery.start_soon(send)
                await wait_all_tasks_blocked()
                server.read_on()
                autojump_clock.jump(2)
            if failures:
                assert failures[0].__cause__ is client.error
                check_broken(client, server)
            else:
                assert server.payloads == [b"just so"]
                await client.send("more")
        outcomes.add("timed out" if failures else "sent")
        assert client.close_code == (1006 if failures else 1000)
    assert outcomes == {"timed out", "sent"}


async def test_a_large_send_over_a_socket_that_is_not_taken_in_time_closes_the_socket(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = trio.socket.socketpair()
    peer = trio.SocketStream(theirs)
    server = Server()

    async def answer() -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await peer.receive_some()
        await server.stream.send_all(request)
        await peer.send_all(await server.stream.receive_some() + text("a") + text("b") + text("c"))

    async def dial() -> Transport:
        return SocketTransport(trio.SocketStream(ours))

    async with peer, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with connecting(server, dial=dial, write_timeout="2s", channel_capacity=1) as client:
            await wait_all_tasks_blocked()
            # More than the system's buffers hold, so that its beginning is on the wire at once.
            with pytest.raises(ConnectionTimeoutError, match="not written within 2 s") as caught:
                await client.send(bytes(16 * 1024 * 1024))
            assert caught.value.__cause__ is client.error
            assert trio.current_time() == pytest.approx(2)
            assert ours.fileno() == -1
            assert await drained(client) == ["a", "b", "c"]
            assert client.close_code == 1006
            size = 0
            while block := await peer.receive_some(1 << 20):
                size += len(block)
            assert 0 < size < 16 * 1024 * 1024
        assert trio.current_time() == pytest.approx(2)


async def test_sends_that_go_out_at_once_need_no_time(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="1ns") as client:
        for number in range(100):
            await client.send(str(number))
        assert client.close_code is None
    assert server.payloads[:-1] == [str(number).encode() for number in range(100)]


async def test_both_directions_have_their_own_time(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="10s", write_timeout="2s", keepalive="4s") as client:
        for _ in range(3):
            await trio.sleep(1.5)
            await client.send("out")
        # What we send is no message of the peer's.
        assert await client.receive() == ENDED
        assert client.close_reason == "nothing for 4 s after a ping"


async def test_the_interval_for_an_answer_begins_when_the_ping_can_go_out(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, bytes(600 * 1024))
            await trio.sleep(19.9)
            server.read_on()
        await wait_all_tasks_blocked()
        assert [one.opcode for one in server.frames] == [BINARY, PING]
        await trio.sleep(1)  # a round trip; at 20 s the peer was blamed, 0.1 s after its ping
        server.send(frame(PONG, server.payloads[1]))
        await wait_all_tasks_blocked()
        assert client.close_code is None


async def test_a_ping_that_waits_is_not_overtaken_by_one_of_keepalive(autojump_clock: MockClock) -> None:
    server = Server()
    answers: list[csp.Channel[float]] = []
    async with connecting(server, keepalive="10s") as client:

        async def ping() -> None:
            answers.append(await client.ping(b"mine"))

        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, bytes(1000))
            await wait_all_tasks_blocked()
            nursery.start_soon(ping)
            await trio.sleep(11)
            server.read_on()
        # A pong to one of keepalive would seem to answer the one that waited, as well.
        assert [one.payload for one in server.frames if one.opcode == PING] == [b"mine"]
        await trio.sleep(18)  # it could go out at 11 s only, so that at 20 s nobody is blamed
        assert client.close_code is None
        await trio.sleep(2)
        assert client.close_code == 1011
