"""What passes through trio-websocket: the two handshakes, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.websocket._server import PING, Server, close, connecting, frame, text
from trio_csp_websocket.client.handshakes import Handshakes
from trio_csp_websocket.client.options import parse_options
from trio_csp_websocket.protocol.frames import CLOSE
from trio_csp_websocket.protocol.url import parse_url
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio
    from trio.testing import MockClock


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """Return what passes: whether trio-websocket sends or receives it, and the bytes."""
    seen: list[tuple[str, bytes]] = []
    send_all, receive_some = Handshakes.send_all, Handshakes.receive_some

    async def spying_send(self: Handshakes, data: bytes) -> None:
        seen.append(("sends", bytes(data)))
        await send_all(self, data)

    async def spying_receive(self: Handshakes, max_bytes: int | None = None) -> bytes:
        data = await receive_some(self, max_bytes)
        seen.append(("receives", data))
        return data

    monkeypatch.setattr(Handshakes, "send_all", spying_send)
    monkeypatch.setattr(Handshakes, "receive_some", spying_receive)
    return seen


def shown(passed: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """Return what has passed as a reader would name it."""
    names: list[Callable[[bytes], str | None]] = [
        lambda data: "end" if not data else None,
        lambda data: "request" if data.startswith(b"GET ") else None,
        lambda data: "answer" if data.startswith(b"HTTP/1.1 101 ") else None,
        lambda data: "close frame" if data[0] == 0x80 | CLOSE else None,
    ]
    return [(how, next((name for get in names if (name := get(data))), repr(data))) for how, data in passed]


OPENING = [("sends", "request"), ("receives", "answer")]


async def busy(server: Server) -> None:
    """Let messages, pings and pongs pass, of which trio-websocket sees nothing."""
    server.send(text("a"), frame(PING, b"1"), text("b"))
    await wait_all_tasks_blocked()
    server.send(frame(PING, b"2"))
    await wait_all_tasks_blocked()
    assert server.payloads[-2:] == [b"1", b"2"]


async def test_a_close_of_ours_passes_and_its_answer(
    passed: list[tuple[str, bytes]], autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server) as client:
        await busy(server)
        await client.send("c")
        await client.ping()
    assert shown(passed) == [*OPENING, ("sends", "close frame"), ("receives", "close frame"), ("receives", "end")]


@pytest.mark.parametrize("code", [None, 1000, 1001, 1011, 1014, 4999])
async def test_a_close_of_the_server_passes_and_its_answer(
    code: int | None, passed: list[tuple[str, bytes]], autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        await busy(server)
        server.send(close(code))
        server.end()
        await client._connection.finished.wait()
    assert shown(passed) == [*OPENING, ("receives", "close frame"), ("sends", "close frame"), ("receives", "end")]
    assert server.closes == [code]


async def test_a_verdict_passes_as_if_the_server_had_sent_it(
    passed: list[tuple[str, bytes]], autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(frame(0x3))
        server.end()
        await client._connection.finished.wait()
    assert shown(passed) == [*OPENING, ("receives", "close frame"), ("sends", "close frame"), ("receives", "end")]
    assert server.closes == [1002]


async def test_a_connection_that_is_lost_passes_as_the_end(
    passed: list[tuple[str, bytes]], autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server) as client:
        server.reset()
        await client._connection.finished.wait()
    assert shown(passed) == [*OPENING, ("receives", "end")]


async def test_the_stream_always_says_that_it_can_be_written(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()
    server.stop_reading()
    handshakes = Handshakes(StreamTransport(server.stream), parse_options({}), nursery)
    await handshakes.wait_send_all_might_not_block()
    await handshakes.aclose()
    assert server.closed


class _EndsAtOnce(StreamTransport):
    """Behind the answer to the handshake it is at its end, and tells so without a visit to the scheduler."""

    async def receive_some(self, max_bytes: int) -> bytes:
        return b"" if self.bytes_received else await super().receive_some(max_bytes)

    async def aclose(self) -> None:
        pass


async def test_a_connection_that_ends_before_it_is_handed_over_is_no_reference_cycle(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    handshakes = Handshakes(_EndsAtOnce(Server().stream), parse_options({}), nursery)
    connection, _, _ = await handshakes.open(parse_url("ws://server.test"), [])
    assert connection.finished.is_set()
    assert connection.send_close is None


async def test_aborting_what_was_accepted_closes_the_stream(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    handshakes = Handshakes(StreamTransport(server.stream), parse_options({}), nursery)
    connection, _, _ = await handshakes.open(parse_url("ws://server.test"), [])
    await handshakes.abort()
    assert connection.finished.is_set()
    assert server.closed
    assert server.frames == []
