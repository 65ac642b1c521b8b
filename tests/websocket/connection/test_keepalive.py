"""Keepalive: when a silent peer is pinged, and when it is given up, on a clock that jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, Kind
from tests.websocket._server import BINARY, CLOSE, ENDED, PING, PONG, TEXT, Server, connecting, drained, frame, text
from tests.websocket.connection._timeouts import (
    LARGE,
    PongingServer,
    check_stalled,
    ended,
    opcodes,
    pings,
    take_one_piece,
)
from trio_csp_websocket.connection.pings import MAX_OUTSTANDING

if TYPE_CHECKING:
    from trio.testing import MockClock

    import csp


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


@pytest.mark.parametrize("waiting", [1, 10], ids=["read ahead", "beyond that"])
async def test_a_full_channel_pings_and_does_not_blame(waiting: int, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s", channel_capacity=1) as client:
        for _ in range(1 + waiting):
            server.send(frame(BINARY, bytes(60_000)))
            await wait_all_tasks_blocked()
        await trio.sleep(1001)
        assert (client.close_code, opcodes(server)) == (None, [PING] * 100)
        for _ in range(1 + waiting):
            await client.receive()
        began, pinged = trio.current_time(), pings(server)
        await trio.sleep(10.1)
        assert pings(server) == pinged + 1
        assert await ended(client) == pytest.approx(began + 20, abs=10)


async def test_while_messages_wait_a_ping_of_the_users_that_is_queued_will_do(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s", channel_capacity=1) as client, trio.open_nursery() as nursery:
        server.send(text("a"), text("b"))
        await wait_all_tasks_blocked()
        server.stop_reading()
        nursery.start_soon(client.send, LARGE)
        await wait_all_tasks_blocked()
        nursery.start_soon(client.ping)
        await trio.sleep(35)
        assert client.close_code is None
        server.read_on()
        await wait_all_tasks_blocked()
        assert pings(server) == 1


async def test_pings_whose_pongs_cannot_be_read_are_not_measured(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="1s", channel_capacity=1) as client:
        server.send(*[text("m")] * 5000)
        await trio.sleep(2000)
        for payload in list(server.payloads):
            server.send(frame(PONG, payload))
        await client.ping()
        for _ in range(5000):
            await client.receive()
        await trio.sleep(0.1)
        assert client.latency is None


async def test_a_channel_that_fills_up_after_the_ping_blames_nobody(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, keepalive="10s", channel_capacity=1) as client:
        await trio.sleep(15)
        server.send(text("a"), text("b"))
        await trio.sleep(1)
        server.send(frame(PONG, server.payloads[0]))
        await trio.sleep(1000)
        assert client.close_code is None
        assert client.latency == 6
        await client.receive()
        await client.receive()
        await trio.sleep(9.9)
        assert client.close_code is None


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
        assert len(client._connection.pings) == 1
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


async def test_a_connection_that_breaks_as_it_is_given_up_is_lost(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    async with connecting(server, keepalive="10s") as client:

        async def break_down(max_bytes: int) -> bytes | None:
            raise trio.BrokenResourceError("it broke just now")

        monkeypatch.setattr(client._connection.transport, "receive_now", break_down)
        await client.wait_closed()
        assert trio.current_time() == pytest.approx(20)
        assert client.close_code == 1006
        assert str(client.error) == "the connection was lost: it broke just now"
