"""The read timeout: how long a connection waits for a message, on a clock that jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionTimeoutError, Kind
from tests.websocket._server import (
    BINARY,
    CONTINUATION,
    ENDED,
    PING,
    PONG,
    TEXT,
    Server,
    close,
    connecting,
    drained,
    frame,
    text,
)
from tests.websocket.connection._flooding import Flooding
from tests.websocket.connection._timeouts import check_stalled, ended, iterated

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport


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


async def test_pings_without_end_do_not_extend_the_read_timeout(mock_clock: MockClock) -> None:
    server = Server()
    pings = frame(PING) * 10

    async def dial() -> Transport:
        return Flooding(server.stream, mock_clock, pings, pings)

    async with connecting(server, reach=dial, read_timeout="5s", close_timeout="1s") as client:
        server.send(pings)
        assert await client.receive() == ENDED
        assert client.close_code == 1011
        assert 5 <= trio.current_time() < 6


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
