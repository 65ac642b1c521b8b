"""A peer that closes, ends the stream, breaks it, or breaks the protocol, and what we answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, Kind
from tests.websocket._server import (
    CONTINUATION,
    ENDED,
    PING,
    PONG,
    TEXT,
    Frame,
    Server,
    close,
    connecting,
    details,
    drained,
    frame,
    text,
)
from tests.websocket.connection._flooding import Flooding

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport


# By the peer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_peer_that_finishes_ends_the_channel_quietly(code: int | None, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"), close(code, "" if code is None else "done"))
        server.end()
        assert [message.data async for message in client] == ["a"]
        assert client.close_code == (1005 if code is None else code)
        assert client.close_reason == ("" if code is None else "done")
        assert client.error is None
        assert client.channel().cause is None
        await wait_all_tasks_blocked()
        assert server.closed


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (1002, False),
        (1003, False),
        (1007, False),
        (1008, False),
        (1009, False),
        (1010, False),
        (1011, True),
        (1012, True),
        (1013, True),
        (1014, True),
        (3000, False),
        (4999, False),
    ],
)
async def test_a_peer_that_closes_with_an_error_code_ends_the_channel_with_it(
    code: int, retryable: bool, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"), close(code, "gr\u00fcn"))
        server.end()
        assert (await anext(client)).data == "a"
        with pytest.raises(ConnectionFailedError) as caught:
            await anext(client)
        assert (client.close_code, client.close_reason) == (code, "gr\u00fcn")
        error = client.error
        assert error is not None
        assert error is client.channel().cause
        assert caught.value.__cause__ is error
        assert error.kind is Kind.UNAVAILABLE
        assert error.retryable is retryable
        assert details(error) == {"code": code, "reason": "gr\u00fcn"}
        assert str(code) in str(error)
        assert await client.receive() == ENDED


@pytest.mark.parametrize(
    "code", [None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]
)
async def test_a_peers_close_is_answered_with_its_code_and_the_stream_closed(
    code: int | None, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(close(code))
        server.end()
        await wait_all_tasks_blocked()
        assert server.closes in ([code], [1000 if code is None else code])
        assert server.half_closed
        assert server.closed
        assert client.close_code == (code or 1005)


async def test_a_peer_that_closes_and_keeps_the_stream_open_is_waited_for_no_longer_than_the_close_timeout(
    autojump_clock: MockClock,
) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with connecting(server, close_timeout="4s") as client:
        server.send(close(1000))
        assert await client.receive() == ENDED
        assert trio.current_time() == start
        await wait_all_tasks_blocked()
        assert server.half_closed
        assert not server.closed
        await trio.sleep(4.1)
        assert server.closed


async def test_a_stream_that_ends_without_a_close_is_1006(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"), text("cut")[:3])
        server.end()
        assert await drained(client) == ["a"]
        assert (client.close_code, client.close_reason) == (1006, "")
        assert client.error is not None
        assert client.error is client.channel().cause
        assert client.error.kind is Kind.UNAVAILABLE
        assert client.error.retryable is True
        assert details(client.error) == {"code": 1006, "reason": ""}
        assert "without a close frame" in str(client.error)
        await wait_all_tasks_blocked()
        assert server.closed


async def test_a_stream_that_breaks_is_1006(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"))
        server.reset()
        assert await drained(client) == ["a"]
        assert client.close_code == 1006
        assert client.error is not None
        assert client.error.retryable is True
        assert "connection reset" in str(client.error)
        await wait_all_tasks_blocked()
        assert server.closed


async def test_the_pings_and_data_of_one_block_with_the_close_count(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(text("a"), frame(PING, b"p"), text("b"), close(1000))
        server.end()
        assert await drained(client) == ["a", "b"]
        await wait_all_tasks_blocked()
        assert server.frames[0] == Frame(PONG, b"p")
        assert server.closes == [1000]


async def test_data_after_the_peers_close_is_ignored(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(close(1000), text("a"), frame(3))
        server.send(text("b"))
        server.end()
        assert await drained(client) == []
        assert client.close_code == 1000
        assert client.error is None


# Our verdict ----------------------------------------------------------------------------------------------------------

VIOLATIONS = [
    pytest.param(frame(TEXT, b"\xff"), 1007, id="not UTF-8"),
    pytest.param(frame(TEXT, b"", reserved=0x40), 1002, id="reserved bit"),
    pytest.param(frame(TEXT, b"", mask=b"abcd"), 1002, id="masked"),
    pytest.param(frame(3), 1002, id="unknown opcode"),
    pytest.param(frame(CONTINUATION), 1002, id="continuation of nothing"),
    pytest.param(frame(PING, fin=False), 1002, id="fragmented ping"),
    pytest.param(frame(PING, bytes(126)), 1002, id="large ping"),
    pytest.param(frame(0x8, b"\x03"), 1002, id="close with one byte"),
    pytest.param(frame(0x8, b"\x03\xe8\xff"), 1007, id="close with a bad reason"),
    pytest.param(b"\x82\x7f" + (1 << 62).to_bytes(8, "big"), 1009, id="too large"),
]


@pytest.mark.parametrize(("data", "code"), VIOLATIONS)
async def test_a_violation_reaches_the_peer_as_a_close_frame_and_is_the_error(
    data: bytes, code: int, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(text("a"), data, text("b"))
        assert await drained(client) == ["a"]
        await wait_all_tasks_blocked()
        assert server.closes == [code]
        await trio.sleep(0.1)
        assert server.half_closed
        assert client.close_code == code
        assert client.close_reason
        error = client.error
        assert error is not None
        assert error is client.channel().cause
        assert error.kind is Kind.INTERNAL
        assert error.retryable is False
        assert details(error) == {"code": code, "reason": client.close_reason}
        server.end()
        await wait_all_tasks_blocked()
        assert server.closed
    assert server.closes == [code]


async def test_a_violator_that_is_still_sending_is_heard_out_before_our_end(autojump_clock: MockClock) -> None:
    # Many servers take our end for the connection's before they read the close frame.
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(frame(3))
        assert await drained(client) == []
        for _ in range(100):
            server.send(bytes(1000))
            await trio.sleep(0.04)
            assert server.closes == [1002]
            assert not server.half_closed
        await trio.sleep(0.1)
        assert server.half_closed
        assert not server.closed
        server.end()
        await wait_all_tasks_blocked()
        assert server.closed


async def test_a_violator_that_ends_is_not_listened_to_any_longer(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(frame(3))
        server.end()
        start = trio.current_time()
        assert await drained(client) == []
        await wait_all_tasks_blocked()
        assert server.closed
        assert trio.current_time() == start


async def test_after_a_violation_the_peer_is_drained_so_that_the_close_frame_arrives(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(frame(3))
        await wait_all_tasks_blocked()
        server.send(bytes(1 << 20))
        await wait_all_tasks_blocked()
        assert not server.closed
        assert client.statistics().bytes_received > 1 << 20
        await trio.sleep(11)
        assert server.closed


async def test_a_violation_while_we_close_is_no_error(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(frame(3))
        server.end()
        await wait_all_tasks_blocked()
        assert client.error is None
        assert client.close_code == 1002
    assert server.closes == [1000]


async def test_a_long_reason_of_ours_fits_the_close_frame(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, read_limit=1):
        server.send(b"\x82\x7f" + (1 << 62).to_bytes(8, "big"))
        await wait_all_tasks_blocked()
        assert len(server.frames[0].payload) <= 125


async def test_a_server_that_sends_without_end_after_a_verdict_is_left_after_the_close_timeout(
    mock_clock: MockClock,
) -> None:
    server = Server()
    violation = frame(3)

    async def dial() -> Transport:
        return Flooding(server.stream, mock_clock, violation, bytes(100))

    # Nobody closes it but itself.
    async with trio.open_nursery() as nursery:
        client = await connecting(server, reach=dial, nursery=nursery, close_timeout="3s")
        server.send(violation)
    assert client.close_code == 1002
    assert server.closed
    assert 3 <= trio.current_time() < 4


async def test_nothing_is_sent_once_the_peers_close_is_read_and_not_answered_yet(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        # The answer takes the reading task's next turn, which is after this send.
        client._connection.feed(close(1000))
        with pytest.raises(ConnectionFailedError, match="has ended \\(code 1000\\)"):
            await client.send("too late")
        server.end()
    assert server.frames == []


async def test_a_peer_that_breaks_the_stream_after_its_close_is_not_waited_for(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with connecting(server) as client:
        server.send(close(1000))
        await wait_all_tasks_blocked()
        server.reset()
        await client._connection.finished.wait()
    assert trio.current_time() == start
    assert (client.close_code, client.error, server.closes) == (1000, None, [1000])
