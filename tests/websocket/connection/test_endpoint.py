"""What an application calls on its end of a connection: send, ping, close, receive, and what it can ask."""

from __future__ import annotations

import array
import contextlib
import enum
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

import csp
from csp import errors
from csp.errors import ConnectionFailedError, InvalidError, InvalidTypeError, Kind
from csp.websocket import BINARY, CLOSE_CODES, TEXT, Message, Statistics
from tests.websocket._server import (
    CLOSE,
    ENDED,
    PING,
    PONG,
    Frame,
    Server,
    close,
    connecting,
    frame,
    received,
    text,
)
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from trio.testing import MockClock
    from typing_extensions import Buffer

    from csp.websocket import Client
    from trio_csp_websocket.transport.base import Transport


class NotWritable(enum.Enum):
    """Something that is no text and no bytes."""

    VALUE = "value"


def pings(server: Server) -> list[bytes]:
    return [frame.payload for frame in server.frames if frame.opcode == PING]


def answer_pings(server: Server, *payloads: bytes) -> None:
    server.send(*(frame(PONG, payload) for payload in payloads))


async def ended(server: Server, *last: bytes) -> None:
    """End the connection from the server's side, and wait until the client knows."""
    server.send(*last, b"")
    server.end()
    await wait_all_tasks_blocked()


# Sending --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        ("gr\u00fcn", Frame(TEXT, "gr\u00fcn".encode())),
        ("", Frame(TEXT, b"")),
        ("\x00", Frame(TEXT, b"\x00")),
        (b"\xff\x00", Frame(BINARY, b"\xff\x00")),
        (b"", Frame(BINARY, b"")),
        (bytearray(b"abc"), Frame(BINARY, b"abc")),
        (memoryview(b"abcdef")[1:3], Frame(BINARY, b"bc")),
        (memoryview(b""), Frame(BINARY, b"")),
        (array.array("B", [1, 2]), Frame(BINARY, b"\x01\x02")),
        (memoryview(array.array("H", [1, 2])), Frame(BINARY, array.array("H", [1, 2]).tobytes())),
        (array.array("i", [7]), Frame(BINARY, array.array("i", [7]).tobytes())),
    ],
)
async def test_a_str_goes_as_text_and_bytes_go_as_binary(data: Any, sent: Frame, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await client.send(data)
        assert server.frames == [sent]


@pytest.mark.parametrize(
    ("data", "type_", "sent"),
    [
        ("gr\u00fcn", BINARY, Frame(BINARY, "gr\u00fcn".encode())),
        ("a", TEXT, Frame(TEXT, b"a")),
        (b"a", BINARY, Frame(BINARY, b"a")),
        ("gr\u00fcn".encode(), TEXT, Frame(TEXT, "gr\u00fcn".encode())),
        (bytearray(b"a"), TEXT, Frame(TEXT, b"a")),
        (memoryview(b"a"), TEXT, Frame(TEXT, b"a")),
        (b"", 1, Frame(TEXT, b"")),
        ("", 2, Frame(BINARY, b"")),
    ],
)
async def test_the_type_may_be_given(data: Any, type_: int, sent: Frame, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await client.send(data, type_)
        await client.send(data, type=type_)
        assert server.frames == [sent, sent]


@pytest.mark.parametrize("type_", [0, 3, -1, 8, True, "text", 1.0, 2.0, b"1", [1]])
async def test_another_type_is_invalid_and_sends_nothing(type_: Any, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with pytest.raises(InvalidError, match="type must be TEXT") as caught:
            await client.send("a", type_)
        assert repr(type_) in str(caught.value)
        assert not server.frames


@pytest.mark.parametrize("data", [1, None, ["a"], NotWritable.VALUE, {"a": 1}, object()])
@pytest.mark.parametrize("type_", [None, TEXT, BINARY])
async def test_data_of_another_type_is_invalid(data: Any, type_: int | None, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with pytest.raises(InvalidTypeError, match="data must be a str or bytes-like, not ") as caught:
            await client.send(data, type_)
        assert type(data).__name__ in str(caught.value)
        assert not server.frames


@pytest.mark.parametrize("data", [b"\xff", bytearray(b"\xe2\x82"), memoryview(b"\xed\xa0\x80")])
async def test_bytes_that_are_not_utf_8_are_invalid_as_text(data: Any, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with pytest.raises(InvalidError, match="data must be UTF-8"):
            await client.send(data, TEXT)
        assert not server.frames


@pytest.mark.parametrize("type_", [None, TEXT, BINARY])
async def test_a_lone_surrogate_is_invalid(type_: int | None, autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        with pytest.raises(InvalidError, match="cannot be encoded"):
            await client.send("\ud800", type_)


async def test_a_view_with_gaps_is_sent_or_refused_with_a_reason(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        try:
            await client.send(memoryview(b"abcd")[::2])
        except InvalidError as error:
            refusal = str(error)
        else:
            refusal = ""
        assert "contiguous" in refusal or server.frames == [Frame(BINARY, b"ac")]


async def test_messages_of_many_tasks_go_out_whole_in_the_order_of_their_calls(autojump_clock: MockClock) -> None:
    server = Server()
    called: list[bytes] = []

    async def send(client: Client, number: int) -> None:
        called.append(b"%d" % number * 1000)
        await client.send(called[-1])

    async with connecting(server) as client:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(send, client, number)
        assert server.payloads == called
        assert len(called) == 100


async def test_a_send_waits_while_the_peer_does_not_read(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.stop_reading()
        with trio.move_on_after(60) as scope:
            await client.send("a")
        assert scope.cancelled_caught
        server.read_on()
        await client.send("b")
        assert server.payloads == [b"a", b"b"]


async def test_sends_and_receives_do_not_wait_for_each_other(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(client.send, "a")
        await wait_all_tasks_blocked()
        server.send(text("b"), frame(PING, b"p"), text("c"))
        assert (await client.receive()).value.data == "b"
        assert (await client.receive()).value.data == "c"
        server.read_on()
        await wait_all_tasks_blocked()
        assert server.payloads == [b"a", b"p"]


async def test_a_large_send_to_a_peer_that_echoes_without_a_buffer_ends(autojump_clock: MockClock) -> None:
    client_stream, server_stream = lockstep_stream_pair()

    async def dial() -> Transport:
        return StreamTransport(client_stream)

    async def echo() -> None:
        """Send a ping for every piece that is read, and read on only when the ping was taken."""
        server = Server()
        while (data := await server_stream.receive_some(1000)) and not server.closes:
            await server.stream.send_all(data)
            if server.request is not None and server.bytes_sent:
                await server_stream.send_all(await server.stream.receive_some())
                server.bytes_sent = 0
            elif server.request is not None:
                await server_stream.send_all(frame(PING, b"p"))
        await server_stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        async with connecting(Server(), reach=dial) as client:
            with trio.fail_after(5):
                await client.send(bytes(100_000))
        nursery.cancel_scope.cancel()
    await server_stream.aclose()


@pytest.mark.parametrize("last", [close(1000), close(1011), b""])
async def test_sending_after_the_end_is_an_error_that_says_so(last: bytes, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await ended(server, last)
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send("a")
        assert caught.value.kind is Kind.INTERNAL
        assert caught.value.retryable is False
        assert caught.value.__cause__ is client.error or client.error is None
        assert f"code {client.close_code}" in str(caught.value)


async def test_sending_after_our_own_close_is_an_error(autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        await client.close()
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send("a")
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
    with pytest.raises(ConnectionFailedError):
        await client.send("a")


async def test_sending_while_the_connection_is_being_closed_is_an_error(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send("a")
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        with pytest.raises(ConnectionFailedError):
            await client.ping()


async def test_a_send_on_a_connection_that_breaks_is_an_error_with_the_reason(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.broken = True
        with pytest.raises(ConnectionFailedError, match="the server is gone") as caught:
            await client.send("a")
        assert caught.value.kind is Kind.INTERNAL
        assert caught.value.retryable is False
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


async def test_sends_that_wait_get_an_error_when_the_connection_ends(autojump_clock: MockClock) -> None:
    server = Server()
    caught: list[ConnectionFailedError] = []

    async def send(client: Client) -> None:
        with pytest.raises(ConnectionFailedError) as error:
            await client.send("a")
        caught.append(error.value)

    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        for _ in range(3):
            nursery.start_soon(send, client)
        await wait_all_tasks_blocked()
        server.reset()
        await wait_all_tasks_blocked()
        assert [(error.kind, error.retryable) for error in caught] == [(Kind.INTERNAL, False)] * 3


async def test_a_send_cancelled_while_another_is_ahead_sends_nothing(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(client.send, "a")
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await client.send("b")
        nursery.start_soon(client.send, "c")
        await wait_all_tasks_blocked()
        server.read_on()
        await wait_all_tasks_blocked()
        assert server.payloads == [b"a", b"c"]
        assert client.statistics().messages_sent == 2


# Pinging --------------------------------------------------------------------------------------------------------------


async def test_a_ping_gives_the_round_trip_time_in_seconds(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        assert client.latency is None
        answer = await client.ping()
        await trio.sleep(0.25)
        answer_pings(server, *pings(server))
        assert await answer.receive() == received(pytest.approx(0.25))
        assert await answer.receive() == ENDED
        assert client.latency == pytest.approx(0.25)


async def test_a_ping_returns_once_it_is_sent(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        start = trio.current_time()
        answer = await client.ping(b"x")
        assert trio.current_time() == start
        assert server.frames == [Frame(PING, b"x")]
        assert not answer.closed


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        (b"", b""),
        ("gr\u00fcn", "gr\u00fcn".encode()),
        (b"\xff" * 125, b"\xff" * 125),
        (bytearray(b"a"), b"a"),
        (memoryview(array.array("H", [1])), array.array("H", [1]).tobytes()),
    ],
)
async def test_a_ping_carries_its_payload(payload: Any, sent: bytes, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await client.ping(payload)
        assert server.frames == [Frame(PING, sent)]


async def test_pings_without_a_payload_differ(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        for _ in range(3):
            await client.ping()
        assert len(set(pings(server))) == 3


@pytest.mark.parametrize("payload", [b"x" * 126, "\u20ac" * 42])
async def test_a_payload_of_more_than_125_bytes_is_invalid(payload: Any, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with pytest.raises(InvalidError, match="payload must be at most 125 bytes, not 126"):
            await client.ping(payload)
        assert not server.frames


@pytest.mark.parametrize("payload", [1, ["a"], 1.5])
async def test_a_payload_of_another_type_is_invalid(payload: Any, autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        with pytest.raises(InvalidTypeError, match="payload must be a str or bytes-like"):
            await client.ping(payload)


async def test_equal_payloads_are_answered_in_order(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        first = await client.ping(b"x")
        await trio.sleep(1)
        second = await client.ping(b"x")
        await trio.sleep(1)
        answer_pings(server, b"x")
        assert await first.receive() == received(pytest.approx(2))
        assert not len(second)
        answer_pings(server, b"x")
        assert await second.receive() == received(pytest.approx(1))


async def test_a_pong_answers_the_pings_before_it_too(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        answers = [await client.ping(payload) for payload in (b"a", b"b", b"c")]
        await trio.sleep(1)
        answer_pings(server, b"b")
        await wait_all_tasks_blocked()
        assert [len(answer) for answer in answers] == [1, 1, 0]
        assert [answer.closed for answer in answers] == [True, True, False]


async def test_a_pong_nobody_asked_for_is_ignored(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        answer_pings(server, b"", b"x")
        answer = await client.ping(b"y")
        answer_pings(server, b"x", b"Y")
        await wait_all_tasks_blocked()
        assert not len(answer)
        assert client.latency is None


@pytest.mark.parametrize("last", [close(1000), close(1011), b"", frame(3)])
async def test_the_answers_channel_closes_when_the_connection_does(last: bytes, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        answers = [await client.ping() for _ in range(3)]
        await ended(server, last)
        assert [(len(answer), answer.closed) for answer in answers] == [(0, True)] * 3
        assert await answers[0].receive() == ENDED


async def test_a_pong_in_the_block_with_the_close_counts(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        answer = await client.ping(b"x")
        await ended(server, frame(PONG, b"x"), close(1000))
        assert (await answer.receive()).ok


async def test_a_pong_while_we_close_counts(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        answer = await client.ping(b"x")
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        await ended(server, frame(PONG, b"x"), close(1000))
        assert (await answer.receive()).ok


async def test_1024_pings_may_be_unanswered_and_no_more(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        for _ in range(1024):
            await client.ping()
        with pytest.raises(ConnectionFailedError, match="1024 pings are unanswered") as caught:
            await client.ping()
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)
        assert len(pings(server)) == 1024
        answer_pings(server, pings(server)[0])
        await wait_all_tasks_blocked()
        await client.ping()


async def test_a_ping_cancelled_before_it_was_sent_leaves_nothing(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(client.send, "a")
        await wait_all_tasks_blocked()
        for _ in range(2000):
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.ping()
            assert scope.cancelled_caught
        with trio.move_on_after(1):
            await client.ping(b"x")
        server.read_on()
        assert len(client._connection.pings) == 0
        await client.ping(b"y")
        assert pings(server) == [b"y"]


async def test_a_ping_after_the_end_is_an_error(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await ended(server, close(1011))
        with pytest.raises(ConnectionFailedError) as caught:
            await client.ping()
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        assert caught.value.__cause__ is client.error
        assert len(client._connection.pings) == 0


async def test_a_ping_that_fails_is_retryable(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.broken = True
        with pytest.raises(ConnectionFailedError, match="ping failed") as caught:
            await client.ping()
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)


# Closing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
async def test_close_sends_its_code_and_reason(code: int, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await client.close(code, "gr\u00fcn")
        assert server.frames == [Frame(CLOSE, code.to_bytes(2, "big") + "gr\u00fcn".encode())]
        assert client.error is None


async def test_close_is_1000_by_default_and_takes_an_enum(autojump_clock: MockClock) -> None:
    for code in (None, CLOSE_CODES.GOING_AWAY):
        server = Server()
        async with connecting(server) as client:
            await (client.close() if code is None else client.close(code))
        assert server.closes == [1000 if code is None else 1001]


@pytest.mark.parametrize(
    "code", [-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65536, 70000, CLOSE_CODES.NO_STATUS]
)
async def test_another_code_is_invalid_and_the_connection_lives_on(code: int, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with pytest.raises(InvalidError, match="code must be 1000 to 1003, 1007 to 1014 or 3000 to 4999") as caught:
            await client.close(code)
        assert str(caught.value).endswith(f"not {int(code)}")
        await client.send("a")
    assert server.payloads == [b"a", b"\x03\xe8"]


@pytest.mark.parametrize("code", ["1000", 1000.0, None, True])
async def test_a_code_of_another_type_is_invalid(code: Any, autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        with pytest.raises(InvalidTypeError, match="code must be an int"):
            await client.close(code)


async def test_a_reason_may_have_123_bytes_and_no_more(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        for reason in ("x" * 124, "\u20ac" * 41 + "x"):
            with pytest.raises(InvalidError, match="reason must be at most 123 bytes of UTF-8, not 124"):
                await client.close(1000, reason)
        with pytest.raises(InvalidError, match="reason cannot be encoded"):
            await client.close(1000, "\ud800")
        assert not server.frames
        await client.close(1000, "\u20ac" * 41)
    assert server.frames == [Frame(CLOSE, b"\x03\xe8" + "\u20ac".encode() * 41)]


@pytest.mark.parametrize("reason", ["\r", "\n", "\0", "a\r\nb", "\nSet-Cookie: x", "bye\0", "\u00fc\n", "\n" * 200])
async def test_a_reason_with_line_breaks_or_nul_is_invalid_and_sends_nothing(
    reason: str, autojump_clock: MockClock
) -> None:
    # It ends up in the peer's log.
    server = Server()
    async with connecting(server) as client:
        with pytest.raises(InvalidError) as caught:
            await client.close(1000, reason)
        assert str(caught.value) == f"reason must not contain line breaks or NUL, as {reason!r} does"
        assert (caught.value.kind, caught.value.retryable) == (Kind.INVALID, False)
        assert (client.close_code, server.frames) == (None, [])
        await client.close(1000, "a\tb \u2028")
    assert server.payloads[-1][2:].decode() == "a\tb \u2028"


@pytest.mark.parametrize("reason", [b"bytes", None, 1])
async def test_a_reason_of_another_type_is_invalid(reason: Any, autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        with pytest.raises(InvalidTypeError, match="reason must be a str"):
            await client.close(1000, reason)


async def test_arguments_are_checked_after_the_end_too(autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        await client.close()
        with pytest.raises(InvalidError):
            await client.close(1005)


# State ----------------------------------------------------------------------------------------------------------------


async def test_an_open_client_has_no_close_code_reason_or_error(autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        assert (client.close_code, client.close_reason, client.error) == (None, None, None)
        assert client.channel() is client.channel()
        assert not client.channel().closed
        assert client.channel().capacity == 16


async def test_repr_tells_state_and_url(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        assert repr(client) == "<csp.websocket.Client open, ws://server.test/feed>"
        await ended(server, close(1011))
        assert repr(client) == "<csp.websocket.Client ended with 1011, ws://server.test/feed>"


async def test_statistics_count_messages_and_bytes(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        handshake = client.statistics()
        assert handshake == Statistics(0, 0, server.bytes_received, server.bytes_sent, 0, 0)
        await client.send("gr\u00fcn")
        await client.send(bytes(1000))
        await client.ping(b"x")
        server.send(text("ab"), frame(PING, b"p"), frame(BINARY, bytes(5), fin=False), frame(0, b"c"))
        await wait_all_tasks_blocked()
        counts = client.statistics()
        assert (counts.messages_sent, counts.payload_bytes_sent) == (2, 1005)
        assert (counts.messages_received, counts.payload_bytes_received) == (2, 8)
        assert counts.bytes_sent == server.bytes_received
        assert counts.bytes_received == server.bytes_sent


# Receiving ------------------------------------------------------------------------------------------------------------


async def test_receive_that_is_cancelled_loses_nothing(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with trio.move_on_after(1):
            await client.receive()
        server.send(text("a"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.receive()
        assert await client.receive() == received(Message("text", "a"))


async def test_iterating_gives_the_messages_and_ends_with_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"), frame(BINARY, b"b"), close(1000))
        server.end()
        assert [message async for message in client] == [Message("text", "a"), Message("binary", b"b")]
        assert [message async for message in client] == []


async def test_iterating_ends_with_a_fresh_error_each_time(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await ended(server, close(1011, "no"))
        caught: list[ConnectionFailedError] = []
        for _ in range(2):
            with pytest.raises(ConnectionFailedError) as error:
                await anext(client)
            caught.append(error.value)
        assert caught[0] is not caught[1]
        assert [error.__cause__ for error in caught] == [client.error, client.error]
        assert errors.is_kind(caught[0], Kind.UNAVAILABLE)


async def test_iterating_ends_quietly_after_our_own_close(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"))
        data: list[str | bytes] = []
        async for message in client:
            data.append(message.data)
            await client.close()
        assert data == ["a"]


async def test_a_select_over_the_channel_and_a_timer(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        timeout = csp.after("1s")
        result = await csp.select(client.channel().case_receive(), timeout.case_receive())
        assert result.channel is timeout
        server.send(text("a"))
        selected = await csp.select(client.channel().case_receive(), csp.after("1s").case_receive())
        assert selected.channel is client.channel()
        assert selected.value == Message("text", "a")
        await ended(server)
        last = await csp.select(client.channel().case_receive(), csp.after("1s").case_receive())
        assert (last.channel, last.ok) == (client.channel(), False)


async def test_a_selector_over_several_clients(autojump_clock: MockClock) -> None:
    servers = [Server() for _ in range(3)]
    async with connecting(servers[0]) as a, connecting(servers[1]) as b, connecting(servers[2]) as c:
        clients = [a, b, c]
        data: dict[int, list[object]] = {0: [], 1: [], 2: []}
        with csp.Selector(*(client.channel().case_receive() for client in clients)) as selector:
            for number, server in enumerate(servers):
                server.send(*(text(f"{number}.{count}") for count in range(20)), close(1000))
                server.end()
            async for result in selector:
                data[result.index].append(result.value.data if result.ok else "end")
        assert data == {number: [*(f"{number}.{count}" for count in range(20)), "end"] for number in range(3)}


async def test_a_select_may_wait_for_a_message_and_for_a_pong(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        answer = await client.ping(b"x")
        answer_pings(server, b"x")
        result = await csp.select(client.channel().case_receive(), answer.case_receive())
        assert result.channel is answer


@pytest.mark.parametrize("deed", ["send", "ping", "ping too often"])
async def test_a_loop_that_ignores_errors_does_not_starve_the_others(autojump_clock: MockClock, deed: str) -> None:
    server = Server()
    async with connecting(server) as client:
        if deed == "ping too often":
            for _ in range(1024):
                await client.ping()
        else:
            await client.close()
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await trio.lowlevel.checkpoint()
                ticks += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            for _ in range(320):
                with contextlib.suppress(ConnectionFailedError):
                    await (client.send("data") if deed == "send" else client.ping())
            nursery.cancel_scope.cancel()
        assert ticks >= 5


# Many in one go -------------------------------------------------------------------------------------------------------


async def test_many_messages_are_sent_in_order_each_of_its_type(autojump_clock: MockClock) -> None:
    server = Server()
    messages: list[str | Buffer] = [
        "a",
        b"b",
        bytearray(b"c"),
        memoryview(b"d"),
        array.array("B", b"e"),
        "\u00fc" * 100,
        "x" * 100_000,
    ]
    async with connecting(server) as client:
        await client.send_many(messages)
        await client.send_many(message for message in ("f", b"g"))
        await client.send_many({"h": 1}, BINARY)
        await client.send_many((b"i",), TEXT)
        await wait_all_tasks_blocked()
        assert server.frames == [
            *(Frame(TEXT, b"a"), Frame(BINARY, b"b"), Frame(BINARY, b"c"), Frame(BINARY, b"d"), Frame(BINARY, b"e")),
            *(Frame(TEXT, ("\u00fc" * 100).encode()), Frame(TEXT, b"x" * 100_000)),
            *(Frame(TEXT, b"f"), Frame(BINARY, b"g"), Frame(BINARY, b"h"), Frame(TEXT, b"i")),
        ]
        assert client.statistics().messages_sent == 11
    assert len(messages) == 7


async def test_no_messages_are_a_checkpoint(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with trio.testing.assert_checkpoints():
            await client.send_many([])
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.send_many(())
        assert scope.cancelled_caught
        assert server.frames == []


@pytest.mark.parametrize(
    ("messages", "type_", "error", "message"),
    [
        ("abc", None, InvalidTypeError, "messages must be an iterable of messages, not str; send takes one"),
        (b"abc", None, InvalidTypeError, "messages must be an iterable of messages, not bytes; send takes one"),
        (
            memoryview(b""),
            None,
            InvalidTypeError,
            "messages must be an iterable of messages, not memoryview; send takes one",
        ),
        (5, None, InvalidTypeError, "messages must be an iterable of messages, not int"),
        (None, None, InvalidTypeError, "messages must be an iterable of messages, not NoneType"),
        (["a", 5], None, InvalidTypeError, "each message must be a str or bytes-like, not int"),
        (["a", "\ud800"], None, InvalidError, "each message cannot be encoded as UTF-8: "),
        (["a", b"\xff"], TEXT, InvalidError, "each message must be UTF-8 to go as text: "),
        ([], 3, InvalidError, "type must be "),
    ],
)
async def test_many_messages_of_which_one_cannot_be_sent_are_not_sent(
    messages: Any, type_: Any, error: type[Exception], message: str, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server) as client:
        with pytest.raises(error) as caught:
            await client.send_many(messages, type_)
        assert str(caught.value).startswith(message)
        await wait_all_tasks_blocked()
        assert server.frames == []
        assert client.statistics().messages_sent == 0
        await client.send("after")
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(TEXT, b"after")]


async def test_what_an_iterable_raises_is_raised_and_nothing_sent(autojump_clock: MockClock) -> None:
    def messages() -> Iterator[str]:
        yield "a"
        raise OSError("no more")

    async def pieces() -> AsyncGenerator[str]:
        yield "a"  # pragma: no cover  # it is not started

    server = Server()
    async with connecting(server) as client:
        with pytest.raises(OSError, match="no more"):
            await client.send_many(messages())
        with pytest.raises(InvalidTypeError, match="not async_generator"):
            await client.send_many(pieces())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert server.frames == []


async def test_many_messages_on_a_connection_that_has_ended_fail_as_one_does(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await ended(server, close(1000))
        with pytest.raises(
            ConnectionFailedError, match=r"sending failed: the connection has ended \(code 1000\)"
        ) as caught:
            await client.send_many(["a", "b"])
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        assert await client.receive_many(10) == []


async def test_many_messages_are_received_in_one_go(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=2) as client:
        server.send(*(text(str(number)) for number in range(10)))
        await wait_all_tasks_blocked()
        first = await client.receive_many(4)
        rest = await client.receive_many(100)
        assert [message.data for message in first + rest] == [str(number) for number in range(10)]
        assert len(first) == 4
        await ended(server, close(1000))
        assert await client.receive_many(1) == []


async def test_iterating_over_a_client_ends_and_fails_as_its_channel_does(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await ended(server, text("a"), text("b"), close(1000))
        assert [message.data async for message in client] == ["a", "b"]
        assert [message async for message in client] == []
    server = Server()
    async with connecting(server) as client:
        await ended(server, text("a"))
        assert (await anext(aiter(client))).data == "a"
        with pytest.raises(ConnectionFailedError) as caught:
            await anext(aiter(client))
        assert caught.value is not client.error
        assert str(caught.value) == str(client.error)
        with pytest.raises(ConnectionFailedError):
            await anext(client)
