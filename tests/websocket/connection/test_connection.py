"""Opening, delivering, ending: the whole client against a server in memory. What an application calls is in
``test_client.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_websocket
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

import csp
from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind, NoContextError, is_kind
from csp.websocket import Message
from tests.websocket._server import (
    BINARY,
    CONTINUATION,
    ENDED,
    PING,
    PONG,
    TEXT,
    URL,
    Frame,
    Server,
    accepting,
    close,
    connecting,
    details,
    drained,
    frame,
    text,
)
from trio_csp_websocket.connection.ending import lost
from trio_csp_websocket.connection.writer import MAX_WAITING_PONGS
from trio_csp_websocket.protocol.encoder import MaskingEncoder
from trio_csp_websocket.protocol.frames import CLOSE
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message as Headers

    from trio.testing import MockClock

    from csp.websocket import Client
    from trio_csp_websocket.transport.base import Transport


async def refused(server: Server, **options: Any) -> ConnectionFailedError:
    """Connect in vain; return the error, with the stream closed and no exception group around it."""
    with pytest.raises(ConnectionFailedError) as caught:
        async with connecting(server, **options):
            pytest.fail("it was opened")
    assert server.closed
    return caught.value


# Opening: the request -------------------------------------------------------------------------------------------------


async def test_the_request_is_that_of_the_rfc(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, "ws://server.test/a/b?c=d%20e&f"):
        pass
    assert server.request_line == "GET /a/b?c=d%20e&f HTTP/1.1"
    assert server.request is not None
    assert server.request["Host"] == "server.test"
    assert server.request["Upgrade"] == "websocket"
    assert server.request["Connection"] == "Upgrade"
    assert server.request["Sec-WebSocket-Version"] == "13"
    assert len(server.request["Sec-WebSocket-Key"]) == 24
    assert "Sec-WebSocket-Protocol" not in server.request
    assert "Sec-WebSocket-Extensions" not in server.request


async def test_every_request_has_a_key_of_its_own(autojump_clock: MockClock) -> None:
    keys: set[str] = set()
    for _ in range(3):
        server = Server()
        async with connecting(server):
            assert server.request is not None
            keys.add(server.request["Sec-WebSocket-Key"])
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://server.test:80/", "server.test"),
        ("ws://server.test:8080/", "server.test:8080"),
        ("ws://[::1]/", "[::1]"),
        ("ws://[2001:DB8::1]:8080/", "[2001:db8::1]:8080"),
        ("ws://127.0.0.1:9/", "127.0.0.1:9"),
        ("ws://b\u00fccher.test:81/", "xn--bcher-kva.test:81"),
    ],
)
async def test_the_host_header_is_that_of_the_url(url: str, host: str, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, url):
        assert server.request is not None
        assert server.request["Host"] == host


async def test_a_path_beyond_ascii_is_percent_encoded(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, "ws://server.test/\u00fc?\u00fc"):
        assert server.request_line == "GET /%C3%BC?%C3%BC HTTP/1.1"


async def test_headers_and_subprotocols_are_sent(autojump_clock: MockClock) -> None:
    server = Server()
    options: dict[str, Any] = {"headers": [("X-A", "1"), ("X-A", "2"), ("Cookie", "c=d")], "protocols": ["v2", "v1"]}
    async with connecting(server, **options):
        assert server.request is not None
        assert server.request.get_all("X-A") == ["1", "2"]
        assert server.request["Cookie"] == "c=d"
        assert server.request["Sec-WebSocket-Protocol"] == "v2, v1"


async def test_credentials_of_the_url_are_sent_as_basic_authorization(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, "ws://user:pa%20ss@server.test/"):
        assert server.request is not None
        assert server.request.get_all("Authorization") == ["Basic dXNlcjpwYSBzcw=="]


async def test_an_authorization_header_overrides_the_credentials_of_the_url(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, "ws://user:pass@server.test/", headers={"AUTHORIZATION": "Bearer t"}):
        assert server.request is not None
        assert server.request.get_all("Authorization") == ["Bearer t"]


# Opening: the answer --------------------------------------------------------------------------------------------------


async def test_what_comes_with_the_answer_is_delivered(autojump_clock: MockClock) -> None:
    server = Server(lambda request: accepting(request) + text("a") + frame(PING, b"p") + text("b") + text("c")[:2])
    async with connecting(server) as client:
        server.send(text("c")[2:])
        assert [(await client.receive()).value.data for _ in range(3)] == ["a", "b", "c"]
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]


async def test_a_close_that_comes_with_the_answer_ends_the_connection_after_it_was_opened(
    autojump_clock: MockClock,
) -> None:
    server = Server(lambda request: accepting(request) + text("a") + close(1011, "no"))
    async with connecting(server) as client:
        server.end()
        assert await drained(client) == ["a"]
        assert client.close_code == 1011


async def test_a_violation_that_comes_with_the_answer_ends_the_connection_after_it_was_opened(
    autojump_clock: MockClock,
) -> None:
    server = Server(lambda request: accepting(request) + frame(3))
    async with connecting(server) as client:
        assert await drained(client) == []
        assert client.close_code == 1002
    assert server.closes == [1002]


async def test_the_answer_may_come_in_single_bytes(autojump_clock: MockClock) -> None:
    server = Server(lambda _request: b"H")

    async def answer(client_key: Headers[str, str]) -> None:
        for byte in accepting(client_key)[1:]:
            await wait_all_tasks_blocked()
            server.send(bytes([byte]))

    async with trio.open_nursery() as nursery:

        async def connect() -> None:
            async with connecting(server) as client:
                server.send(text("a"))
                assert (await client.receive()).value.data == "a"

        nursery.start_soon(connect)
        await wait_all_tasks_blocked()
        assert server.request is not None
        nursery.start_soon(answer, server.request)


async def test_a_refusal_comes_with_status_headers_and_body(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    error = await refused(Server(b"HTTP/1.1 403 Forbidden\r\nX-Why: so\r\nContent-Length: 2\r\n\r\nno"))
    assert error.kind is Kind.INTERNAL
    assert error.retryable is False
    assert details(error)["status"] == 403
    assert details(error)["body"] == b"no"
    assert "403 Forbidden" in str(error)
    assert trio.current_time() == start


async def test_a_refusals_body_is_waited_for_no_longer_than_a_second(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    error = await refused(Server(b"HTTP/1.1 503 Busy\r\n\r\nstart"))
    assert trio.current_time() - start == pytest.approx(1)
    assert details(error)["body"] == b"start"
    assert error.retryable is True


async def test_a_refusals_body_may_come_later(autojump_clock: MockClock) -> None:
    server = Server(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nst")
    async with trio.open_nursery() as nursery:

        async def send_the_rest() -> None:
            await trio.sleep(0.5)
            server.send(b"art, end")

        nursery.start_soon(send_the_rest)
        assert details(await refused(server))["body"] == b"start, en"


async def test_a_reset_after_a_refusal_does_not_hide_it(autojump_clock: MockClock) -> None:
    def refuse_and_reset(_request: object) -> bytes:
        server.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nst")
        server.reset()
        return b""

    server = Server(refuse_and_reset)
    error = await refused(server)
    assert details(error)["status"] == 404
    assert details(error)["body"] == b"st"
    assert error.retryable is False


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 101 Swit", b"SSH-2.0-OpenSSH\r\n\r\n"], ids=["nothing", "cut off", "garbage"]
)
async def test_a_bad_answer_is_an_error_at_once(answer: bytes, autojump_clock: MockClock) -> None:
    def answer_and_end(_request: object) -> bytes:
        server.send(answer)
        server.end()
        return b""

    server = Server(answer_and_end)
    start = trio.current_time()
    error = await refused(server)
    assert not isinstance(error, ConnectionTimeoutError)
    assert error.kind is Kind.INTERNAL
    assert error.retryable is True
    assert trio.current_time() == start


async def test_a_reset_during_the_handshake_is_an_error_at_once(autojump_clock: MockClock) -> None:
    def reset(_request: object) -> bytes:
        server.reset()
        return b""

    server = Server(reset)
    start = trio.current_time()
    error = await refused(server)
    assert "the connection broke during the handshake" in str(error)
    assert error.retryable is True
    assert trio.current_time() == start


async def test_a_connection_that_breaks_at_the_request_is_an_error_at_once(autojump_clock: MockClock) -> None:
    server = Server()
    server.reset()
    start = trio.current_time()
    error = await refused(server)
    assert not isinstance(error, ConnectionTimeoutError)
    assert trio.current_time() == start


@pytest.mark.parametrize(
    "line", ["Sec-WebSocket-Extensions:", "Sec-WebSocket-Extensions: ,", "Sec-WebSocket-Protocol:"]
)
async def test_an_empty_list_in_an_acceptance_is_answered_at_once(line: str, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    server = Server(lambda request: accepting(request, line))
    status: object = None
    try:
        async with connecting(server) as client:
            server.send(text("a"))
            assert (await client.receive()).value.data == "a"
    except ConnectionFailedError as error:
        status = details(error)["status"]
    assert status in (None, 101)
    assert trio.current_time() == start
    assert server.closed


# Opening: time and cancellation ---------------------------------------------------------------------------------------


async def test_a_silent_server_is_given_up_after_the_dial_timeout(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    error = await refused(Server(b""), dial_timeout="5s")
    assert isinstance(error, ConnectionTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.kind is Kind.INTERNAL
    assert error.retryable is True
    assert str(error) == f"no connection to {URL} within 5 s: the server did not answer the handshake"
    assert details(error) == {"url": URL}
    assert trio.current_time() - start == pytest.approx(5)


async def test_a_server_that_is_not_reached_is_given_up_after_the_dial_timeout(autojump_clock: MockClock) -> None:
    with pytest.raises(ConnectionTimeoutError) as caught:
        async with connecting(Server(), dial=trio.sleep_forever, dial_timeout="5s"):
            pytest.fail("it was opened")
    assert str(caught.value) == f"no connection to {URL} within 5 s: the server was not reached"


async def test_a_refusal_that_is_known_when_the_dial_timeout_expires_is_what_is_told(autojump_clock: MockClock) -> None:
    server = Server(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nno!")
    error = await refused(server, dial_timeout="500ms")
    assert not isinstance(error, ConnectionTimeoutError)
    assert str(error) == f"cannot connect to {URL}: the server refused the connection with status 403 Forbidden"
    assert error.retryable is False
    assert details(error) | {"headers": None} == {"url": URL, "status": 403, "headers": None, "body": b"no!"}


async def test_dialing_counts_towards_the_dial_timeout(autojump_clock: MockClock) -> None:
    async def dial() -> Transport:
        await trio.sleep(3)
        return StreamTransport(server.stream)

    server = Server(b"")
    start = trio.current_time()
    await refused(server, dial=dial, dial_timeout="5s")
    assert trio.current_time() - start == pytest.approx(5)


async def test_without_a_dial_timeout_a_silent_server_is_waited_for(autojump_clock: MockClock) -> None:
    server = Server(b"")
    with trio.move_on_after(1000) as scope:
        async with connecting(server, dial_timeout=None):
            pytest.fail("it was opened")
    assert scope.cancelled_caught
    assert server.closed


@pytest.mark.parametrize("error", [OSError("no"), ValueError("no")])
async def test_an_error_of_dialing_comes_out_bare(error: Exception, autojump_clock: MockClock) -> None:
    async def dial() -> Transport:
        raise error

    with pytest.raises(type(error)) as caught:
        async with connecting(Server(), dial=dial):
            pytest.fail("it was opened")
    assert caught.value is error


async def test_an_error_of_dialing_of_our_own_is_told_with_the_url_and_keeps_its_cause(
    autojump_clock: MockClock,
) -> None:
    cause = OSError("cause")

    async def dial() -> Transport:
        raise ConnectionFailedError("no way", kind=Kind.INTERNAL, retryable=True) from cause

    with pytest.raises(ConnectionFailedError) as caught:
        async with connecting(Server(), dial=dial):
            pytest.fail("it was opened")
    assert str(caught.value) == f"cannot connect to {URL}: no way"
    assert caught.value.retryable is True
    assert caught.value.__cause__ is cause
    assert caught.value.__suppress_context__
    assert details(caught.value) == {"url": URL}


async def test_cancelled_while_connecting_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(b"")
    start = trio.current_time()
    with trio.move_on_after(1) as scope:
        async with connecting(server):
            pytest.fail("it was opened")
    assert scope.cancelled_caught
    assert server.closed
    assert trio.current_time() - start == pytest.approx(1)


async def test_an_option_in_milliseconds_is_in_milliseconds(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    await refused(Server(b""), dial_timeout=2500)
    assert trio.current_time() - start == pytest.approx(2.5)


# Opening: where it works ----------------------------------------------------------------------------------------------


async def test_awaited_without_a_nursery_says_what_to_write(autojump_clock: MockClock) -> None:
    with pytest.raises(NoContextError) as caught:
        await connecting(Server())
    assert caught.value.kind is Kind.INTERNAL
    assert caught.value.retryable is False
    assert "async with websocket.connect(url) as client" in str(caught.value)
    assert "await websocket.connect(url, nursery=nursery)" in str(caught.value)


def test_entered_outside_trio_is_an_error() -> None:
    async def enter() -> None:
        async with websocket.connect(URL):
            pytest.fail("it was opened")

    with pytest.raises(NoContextError) as caught:
        asyncio.run(enter())
    assert caught.value.kind is Kind.INTERNAL
    assert caught.value.retryable is False


def test_awaited_outside_trio_is_an_error() -> None:
    async def wait() -> None:
        await websocket.connect(URL)

    with pytest.raises(NoContextError):
        asyncio.run(wait())


def test_awaited_outside_trio_with_a_nursery_is_an_error() -> None:
    nurseries: list[trio.Nursery] = []

    async def keep() -> None:
        async with trio.open_nursery() as nursery:
            nurseries.append(nursery)

    trio.run(keep)

    async def wait() -> None:
        await websocket.connect(URL, nursery=nurseries[0])

    with pytest.raises(NoContextError):
        asyncio.run(wait())


async def test_entering_twice_is_an_error(autojump_clock: MockClock) -> None:
    once = connecting(Server())
    async with once:
        with pytest.raises(NoContextError, match="call connect again"):
            async with once:
                pytest.fail("it was opened")
    with pytest.raises(NoContextError):
        await once.__aenter__()


async def test_trio_websocket_opens_and_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    calls: list[object] = []
    wrap, aclose = trio_websocket.wrap_client_stream, trio_websocket.WebSocketConnection.aclose

    async def spying_wrap(*args: Any, **kwargs: Any) -> trio_websocket.WebSocketConnection:
        calls.append("open")
        return await wrap(*args, **kwargs)

    async def spying_aclose(self: Any, code: int = 1000, reason: str | None = None) -> None:
        calls.append(("close", code, reason))
        await aclose(self, code, reason)

    monkeypatch.setattr(trio_websocket, "wrap_client_stream", spying_wrap)
    monkeypatch.setattr(trio_websocket.WebSocketConnection, "aclose", spying_aclose)
    server = Server()
    async with connecting(server) as client:
        assert calls == ["open"]
        await client.close(3000, "bye")
    assert calls == ["open", ("close", 3000, "bye")]
    assert server.frames == [Frame(0x8, (3000).to_bytes(2, "big") + b"bye")]


# Leaving --------------------------------------------------------------------------------------------------------------


async def test_leaving_closes_with_1000(autojump_clock: MockClock) -> None:
    server = Server()
    start = trio.current_time()
    async with connecting(server) as client:
        pass
    assert server.closes == [1000]
    assert server.half_closed
    assert server.closed
    assert client.close_code == 1000
    assert client.error is None
    assert client.channel().closed
    assert trio.current_time() == start


@pytest.mark.parametrize("error", [ValueError("mine"), trio.TooSlowError("mine"), OSError("mine")])
async def test_an_exception_comes_out_bare_and_closes_with_1011(error: Exception, autojump_clock: MockClock) -> None:
    server = Server()
    with pytest.raises(type(error)) as caught:
        async with connecting(server):
            raise error
    assert caught.value is error
    assert server.closes == [1011]
    assert server.closed


async def test_a_group_of_the_user_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    group = ExceptionGroup("mine", [ValueError("a"), ExceptionGroup("inner", [OSError("b")])])
    inner = group.exceptions
    server = Server()
    with pytest.raises(ExceptionGroup) as caught:
        async with connecting(server):
            raise group
    assert caught.value is group
    assert group.exceptions is inner
    assert server.closes == [1011]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_an_exit_comes_out_bare_and_does_not_wait_for_the_server(
    error: BaseException, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with pytest.raises(type(error)) as caught:
        async with connecting(server):
            raise error
    assert caught.value is error
    assert server.closes == [1001]
    assert server.closed
    assert trio.current_time() == start


async def test_leaving_a_silent_server_takes_the_close_timeout_and_no_longer(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with connecting(server, close_timeout="3s") as client:
        pass
    assert trio.current_time() - start == pytest.approx(3)
    assert server.closed
    assert client.error is None
    assert client.close_code == 1006


async def test_an_exception_waits_for_a_silent_server_no_longer_than_the_close_timeout(
    autojump_clock: MockClock,
) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with pytest.raises(ValueError, match="mine"):
        async with connecting(server):
            raise ValueError("mine")
    assert trio.current_time() - start == pytest.approx(10)
    assert server.closed


@pytest.mark.parametrize("ending", ["close", "eof", "reset", "violation"])
async def test_leaving_never_raises_how_the_connection_ended(ending: str, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        match ending:
            case "close":
                server.send(close(1011, "no"))
                server.end()
            case "eof":
                server.end()
            case "reset":
                server.reset()
            case _:
                server.send(frame(3))
                server.end()
        await wait_all_tasks_blocked()
        assert client.error is not None
    assert server.closed


async def test_cancelled_tries_a_close_frame_and_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    channels: list[csp.Channel[Message]] = []
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server) as client:
            channels.append(client.channel())
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closes == [1001]
    assert server.closed
    assert trio.current_time() == start
    assert channels[0].closed


async def test_cancelled_with_a_message_on_the_way_in_or_out_closes_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    channels: list[csp.Channel[Message]] = []
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server, channel_capacity=1) as client:
            channels.append(client.channel())
            server.send(*[text("x")] * 5)
            server.stop_reading()
            nursery.start_soon(ended_send, client)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closed
    assert trio.current_time() == start
    assert (await channels[0].receive()).value.data == "x"
    assert await channels[0].receive() == ENDED
    assert is_kind(channels[0].cause, Kind.UNAVAILABLE)


async def ended_send(client: Client) -> None:
    with pytest.raises(ConnectionFailedError):
        await client.send("data")


async def test_cancelled_with_a_server_that_never_reads_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server()
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server):
            server.stop_reading()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closed
    assert trio.current_time() == start


async def test_cancelled_with_a_connection_that_is_broken_gives_nothing_but_cancelled(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    with trio.CancelScope() as scope:
        async with connecting(server):
            server.broken = True
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closed


async def test_cancelled_as_a_ping_arrives_sends_whole_frames_and_the_close_frame_last(
    autojump_clock: MockClock,
) -> None:
    for steps in range(25):
        server = Server(answers_close=False)
        with trio.CancelScope() as scope:
            async with connecting(server):
                await wait_all_tasks_blocked()
                server.send(frame(PING, b"p"))
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        # While the pong is on its way, a close frame cannot be tried without waiting.
        assert server.closes in ([], [1001])
        assert not server.unparsed
        assert server.closed


async def test_interrupted_during_a_send_gives_nothing_but_the_interrupt(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def send(client: Client) -> None:
        with contextlib.suppress(ConnectionFailedError):
            await client.send("data")

    async def interrupted(server: Server, steps: int) -> None:
        async with connecting(server) as client:
            nursery.start_soon(send, client)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            raise KeyboardInterrupt

    for steps in range(25):
        server = Server(answers_close=False)
        with pytest.raises(KeyboardInterrupt):
            await interrupted(server, steps)
        assert server.closed
        assert not server.unparsed


async def test_a_pong_does_not_take_the_place_of_the_last_close_frame(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        connection = client._connection
        # trio-websocket answers a ping while the connection is being given up.
        connection._giving_up = lost("given up", asked=True)
        await connection.send_all(MaskingEncoder().encode(PONG, b""))
        assert not connection._handshaking.cancel_called
        connection._giving_up = None
    assert [received.opcode for received in server.frames] == [CLOSE]


@pytest.mark.parametrize(("leave", "code"), [("normally", 1000), ("by an error", 1011), ("by close", 3000)])
async def test_leaving_under_a_cancelled_scope_still_tries_a_close_frame(
    autojump_clock: MockClock, leave: str, code: int
) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.CancelScope() as scope, contextlib.suppress(ValueError):
        async with connecting(server) as client:
            scope.cancel()
            if leave == "by an error":
                raise ValueError
            if leave == "by close":
                await client.close(3000, "enough")
    assert scope.cancelled_caught == (leave != "by an error")
    assert [received.opcode for received in server.frames] == [CLOSE]
    assert server.frames[0].payload[:2] == code.to_bytes(2, "big")
    assert server.closed
    assert trio.current_time() == start


async def test_a_finished_connection_is_no_reference_cycle(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, protocols=[]) as client:
        pass
    reference = weakref.ref(client._connection)
    gc.disable()
    try:
        del client
        await wait_all_tasks_blocked()
        assert reference() is None
    finally:
        gc.enable()


async def test_an_exception_while_cancelled_comes_out_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()

    async def cancelled_and_failing() -> None:
        with trio.CancelScope() as scope:
            async with connecting(server):
                scope.cancel()
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await cancelled_and_failing()
    assert server.closed
    assert trio.current_time() == start


async def test_cancelled_while_an_exception_waits_for_the_server_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.move_on_after(1), pytest.raises(ValueError, match="mine"):
        async with connecting(server):
            raise ValueError("mine")
    assert server.closes == [1011]
    assert server.closed
    assert trio.current_time() - start == pytest.approx(1)


async def test_cancelled_while_leaving_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.move_on_after(1) as scope:
        async with connecting(server):
            pass
    assert scope.cancelled_caught
    assert server.closed
    assert trio.current_time() - start == pytest.approx(1)


async def test_a_nursery_in_the_block_that_is_cancelled_from_outside_is_no_failure(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server), trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert server.closes == [1001]
    assert trio.current_time() == start


async def test_a_scope_inside_the_block_may_be_cancelled(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with trio.move_on_after(1):
            await client.receive()
        server.send(text("a"))
        assert (await client.receive()).value.data == "a"
    assert server.closes == [1000]


async def test_after_the_block_a_channel_that_was_not_drained_is_closed(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(text("a"), text("b"), text("c"), close(1000))
        server.end()
        await wait_all_tasks_blocked()
    with trio.fail_after(1):
        assert (await drained(client))[:1] == ["a"]
    assert client.channel().closed


async def test_a_task_outside_that_waits_for_messages_ends_with_the_block(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ended = trio.Event()

    async def consume(client: Client) -> None:
        await drained(client)
        ended.set()

    async with connecting(Server()) as client:
        nursery.start_soon(consume, client)
        await wait_all_tasks_blocked()
    await ended.wait()


async def test_nothing_is_left_of_a_connection_after_its_block(autojump_clock: MockClock) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with connecting(Server()) as client:
        assert trio.lowlevel.current_statistics().tasks_living > before
    assert trio.lowlevel.current_statistics().tasks_living == before
    reference = weakref.ref(client._connection)
    del client
    gc.collect()
    assert reference() is None


# In the caller's nursery ----------------------------------------------------------------------------------------------


async def test_awaited_with_a_nursery_runs_there_until_closed(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        server.send(text("a"))
        assert (await client.receive()).value.data == "a"
        await client.send("b")
        assert len(nursery.child_tasks) == 1
        await client.close()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not nursery.cancel_scope.cancel_called
    assert server.payloads == [b"b", b"\x03\xe8"]
    assert server.closed


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b"garbage\r\n\r\n"])
async def test_awaited_with_a_nursery_a_failure_comes_out_bare_and_leaves_the_nursery_alone(
    answer: bytes, autojump_clock: MockClock
) -> None:
    server = Server(answer)
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectionFailedError):
            await connecting(server, nursery=nursery)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not nursery.cancel_scope.cancel_called
    assert server.closed


async def test_awaited_with_a_nursery_a_timeout_comes_out_bare(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectionTimeoutError):
            await connecting(Server(b""), nursery=nursery)


async def test_awaited_with_a_nursery_and_cancelled_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(b"")
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1) as scope:
            await connecting(server, nursery=nursery)
        assert scope.cancelled_caught
        assert server.closed
        assert not nursery.cancel_scope.cancel_called


@pytest.mark.parametrize("ending", ["close", "eof", "reset", "violation"])
async def test_in_a_nursery_the_end_of_the_connection_cancels_nobody(ending: str, autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        server.send({"close": close(1011), "violation": frame(3)}.get(ending, b"") or text("a"))
        if ending == "reset":
            server.reset()
        else:
            server.end()
        await drained(client)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not nursery.cancel_scope.cancel_called
    assert server.closed


async def test_in_a_nursery_that_is_cancelled_the_connection_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        nursery.cancel_scope.cancel()
    assert server.closes == [1001]
    assert server.closed
    assert trio.current_time() == start
    assert client.channel().closed


async def test_in_a_nursery_that_is_cancelled_a_task_that_closes_ends_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, close_timeout=None)
        nursery.cancel_scope.cancel()
        # Both this task and that of the connection give it up now.
        await client.close()
    assert not server.unparsed
    assert server.closed
    assert trio.current_time() == start


async def test_in_a_nursery_everything_received_is_delivered_although_the_connection_has_ended(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, channel_capacity=1)
        server.send(*(text(str(number)) for number in range(10)), close(1000))
        server.end()
        await wait_all_tasks_blocked()
        assert server.closed
        assert client.close_code == 1000
        assert await drained(client) == [str(number) for number in range(10)]
    assert client.channel().cause is None


async def test_in_a_nursery_closing_after_the_end_lets_go_of_what_nobody_takes(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, channel_capacity=1)
        server.send(*[text("a")] * 5, close(1000))
        server.end()
        await wait_all_tasks_blocked()
        await client.close()
        await trio.sleep(1)
        left = len(nursery.child_tasks)
        nursery.cancel_scope.cancel()
    assert not left


async def test_in_a_nursery_the_consumer_may_close_the_channel_of_a_connection_that_ended(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, channel_capacity=1)
        server.send(*[text("a")] * 5, close(1011))
        server.end()
        await wait_all_tasks_blocked()
        client.channel().close()
    assert client.close_code == 1011


# Ending: by the peer --------------------------------------------------------------------------------------------------


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


# Ending: our verdict --------------------------------------------------------------------------------------------------

VIOLATIONS = [
    pytest.param(frame(TEXT, b"\xff"), 1007, id="not UTF-8"),
    pytest.param(frame(TEXT, b"", reserved=0x40), 1002, id="reserved bit"),
    pytest.param(frame(TEXT, b"", mask=b"abcd"), 1002, id="masked"),
    pytest.param(frame(3), 1002, id="unknown opcode"),
    pytest.param(frame(CONTINUATION), 1002, id="continuation of nothing"),
    pytest.param(frame(PING, fin=False), 1002, id="fragmented ping"),
    pytest.param(frame(PING, bytes(126)), 1002, id="large ping"),
    pytest.param(close(1005), 1002, id="close with 1005"),
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


# Delivering -----------------------------------------------------------------------------------------------------------


async def test_messages_come_in_order_and_typed(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"), frame(BINARY, b"b"), frame(TEXT, b"c", fin=False), frame(CONTINUATION, b"d"))
        received = [(await client.receive()).value for _ in range(3)]
        assert received == [Message("text", "a"), Message("binary", b"b"), Message("text", "cd")]
        assert received[0].type == websocket.TYPE_TEXT
        assert received[1].type == websocket.TYPE_BINARY


async def test_a_slow_consumer_stops_the_reading(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=2) as client:
        opened = client.statistics().bytes_received
        block = frame(BINARY, bytes(1000)) * 70
        for _ in range(20):
            server.send(block)
        await wait_all_tasks_blocked()
        assert len(client.channel()) == 2
        # One block of 64 KiB, whose messages the consumer has not taken.
        assert client.statistics().bytes_received - opened == 64 * 1024
        for _ in range(20 * 70):
            assert (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert client.statistics().bytes_received - opened == 20 * len(block)


async def test_a_slow_consumer_stops_the_sending_of_a_peer_whose_stream_has_no_buffer(
    autojump_clock: MockClock,
) -> None:
    client_stream, server_stream = lockstep_stream_pair()
    sent = 0

    async def serve() -> None:
        nonlocal sent
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += await server_stream.receive_some(4096)
        server = Server()
        server._outgoing._outgoing.put(request)
        server.take_in()
        assert server.request is not None
        await server_stream.send_all(accepting(server.request))
        for _ in range(100):
            await server_stream.send_all(text("x"))
            sent += 1

    async def dial() -> Transport:
        return StreamTransport(client_stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.CancelScope() as scope:
            async with connecting(Server(), dial=dial, channel_capacity=3) as client:
                await wait_all_tasks_blocked()
                assert len(client.channel()) == 3
                assert sent == 4
                for _ in range(100):
                    assert (await client.receive()).ok
                scope.cancel()
                await trio.sleep_forever()
    await server_stream.aclose()


async def test_pings_already_read_are_answered_ahead_of_undelivered_data(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5, frame(PING, b"p"), *[text("b")] * 5)
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]
        assert [(await client.receive()).value.data for _ in range(10)] == ["a"] * 5 + ["b"] * 5


async def test_a_ping_behind_a_full_channel_is_answered_once_it_is_read(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(text("a"), text("b"))
        await wait_all_tasks_blocked()
        server.send(frame(PING, b"p"))
        await wait_all_tasks_blocked()
        assert not server.frames
        assert (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]


@pytest.mark.parametrize("count", [1, 10, MAX_WAITING_PONGS, 1000])
async def test_of_many_pings_in_one_block_the_latest_are_answered(count: int, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server):
        server.send(*(frame(PING, b"%d" % number) for number in range(count)))
        await wait_all_tasks_blocked()
        answered = range(max(0, count - MAX_WAITING_PONGS), count)
        assert server.frames == [Frame(PONG, b"%d" % number) for number in answered]


@pytest.mark.parametrize("payload", [b"", b"x" * 125])
async def test_a_ping_is_answered_with_its_payload(payload: bytes, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server):
        server.send(frame(PING, payload))
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, payload)]


async def test_a_peers_close_behind_undelivered_data_is_answered_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5, close(1011))
        server.end()
        await wait_all_tasks_blocked()
        assert server.closes == [1011]
        assert server.closed
        assert client.close_code == 1011
        assert not client.channel().closed
        assert await drained(client) == ["a"] * 5
        assert client.channel().cause is client.error


async def test_a_violation_behind_undelivered_data_is_told_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5, frame(3))
        server.end()
        await wait_all_tasks_blocked()
        assert server.closes == [1002]
        assert await drained(client) == ["a"] * 5
        assert client.channel().cause is client.error


async def test_closing_wakes_a_reader_that_waits_for_the_consumer(autojump_clock: MockClock) -> None:
    server = Server()
    start = trio.current_time()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5)
        await wait_all_tasks_blocked()
        await client.close()
        assert trio.current_time() == start
        assert await drained(client) == ["a"]
        assert client.error is None


async def test_closing_right_after_a_receive_that_made_room_is_no_failure(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 2)
        await wait_all_tasks_blocked()
        assert (await client.receive()).ok
        await client.close()
    assert server.closes == [1000]
    assert server.closed


async def test_a_full_channel_that_is_drained_and_closed_by_the_consumer_is_no_failure(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 2)
        await wait_all_tasks_blocked()
        assert (await client.receive()).ok
        client.channel().close()
        server.send(text("b"))
        await wait_all_tasks_blocked()
        assert await drained(client) == ["a"]
        await client.send("still open")
    assert server.payloads == [b"still open", b"\x03\xe8"]


@pytest.mark.parametrize("parked", [False, True])
async def test_a_consumer_that_closes_the_channel_gets_nothing_more_and_the_connection_lives_on(
    parked: bool, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        if parked:
            server.send(*[text("a")] * 5)
            await wait_all_tasks_blocked()
        client.channel().close()
        server.send(*[text("b")] * 1000, frame(PING, b"p"))
        server.send(frame(PONG, b""))
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]
        assert await drained(client) == (["a"] if parked else [])
        await client.send("hello")
    assert server.payloads == [b"p", b"hello", b"\x03\xe8"]


async def test_data_that_arrives_while_we_close_is_discarded(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.send(text("before"))
        await wait_all_tasks_blocked()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(*[text("a")] * 100, close(1000))
        server.end()
        await wait_all_tasks_blocked()
        assert await drained(client) == ["before"]


async def test_a_waiting_receiver_gets_the_end(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        results: list[object] = []

        async def receive() -> None:
            results.append(await client.receive())

        for _ in range(3):
            nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await client.close()
        await wait_all_tasks_blocked()
        assert results == [ENDED] * 3


# Closing --------------------------------------------------------------------------------------------------------------


async def timed_close(client: Client, server: Server) -> float:
    start = trio.current_time()
    await client.close()
    assert server.closed
    return trio.current_time() - start


async def test_close_returns_when_the_peer_has_answered_and_ended_the_stream(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        assert await timed_close(client, server) == 0
        assert client.close_code == 1000
        assert client.error is None


async def test_close_gives_a_silent_peer_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout="2s") as client:
        assert await timed_close(client, server) == pytest.approx(2)
        assert client.close_code == 1006
        assert client.error is None


async def test_close_gives_a_peer_that_answers_and_keeps_the_stream_open_the_close_timeout(
    autojump_clock: MockClock,
) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout="2s") as client, trio.open_nursery() as nursery:

        async def answer() -> None:
            await trio.sleep(1)
            server.send(close(1000))

        nursery.start_soon(answer)
        assert await timed_close(client, server) == pytest.approx(2)
        assert client.close_code == 1000


async def test_close_gives_a_peer_that_floods_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout="2s", channel_capacity=1) as client, trio.open_nursery() as nursery:

        async def flood() -> None:
            while not server.closed:
                server.send(frame(BINARY, bytes(100_000)), frame(PING, b"p"))
                await trio.sleep(0.01)

        nursery.start_soon(flood)
        await trio.sleep(0.1)
        assert await timed_close(client, server) == pytest.approx(2)


async def test_close_gives_a_peer_that_never_reads_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, close_timeout="2s") as client:
        server.stop_reading()
        assert await timed_close(client, server) == pytest.approx(2)


async def test_close_behind_a_send_that_is_stuck_takes_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, close_timeout="2s") as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(ended_send, client)
        nursery.start_soon(ended_send, client)
        await wait_all_tasks_blocked()
        assert await timed_close(client, server) == pytest.approx(2)


async def test_close_goes_out_behind_sends_that_wait(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        for payload in ("a", "b", "c"):
            nursery.start_soon(client.send, payload)
            await wait_all_tasks_blocked()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.read_on()
    assert server.payloads == [b"a", b"b", b"c", b"\x03\xe8"]


async def test_close_without_a_close_timeout_waits_for_the_peer(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout=None) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await trio.sleep(1000)
        assert not server.closed
        server.send(close(1000))
        server.end()
    assert server.closed


async def test_close_that_is_cancelled_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        start = trio.current_time()
        with trio.move_on_after(1) as scope:
            await client.close()
        assert scope.cancelled_caught
        assert server.closed
        assert trio.current_time() - start == pytest.approx(1)
        assert client.error is None


async def test_closing_again_waits_for_the_end_and_sends_nothing(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        ended: list[int] = []

        async def close_with(code: int) -> None:
            await client.close(code)
            assert server.closed
            ended.append(code)

        nursery.start_soon(close_with, 1000)
        await wait_all_tasks_blocked()
        nursery.start_soon(close_with, 3000)
        nursery.start_soon(close_with, 3001)
        await wait_all_tasks_blocked()
        assert not ended
        server.send(close(1000))
        server.end()
        await wait_all_tasks_blocked()
        assert sorted(ended) == [1000, 3000, 3001]
        await client.close(3002)
    assert server.closes == [1000]


async def test_a_second_closer_that_is_cancelled_closes_at_once_for_both(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await client.close()
    assert server.closed
    assert trio.current_time() - start == pytest.approx(1)


@pytest.mark.parametrize("close_timeout", [None, "10s"])
async def test_a_task_outside_that_closes_ends_with_a_block_that_is_cancelled(
    close_timeout: str | None, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    ended = trio.Event()

    async def close_it(client: Client) -> None:
        await client.close()
        ended.set()

    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server, close_timeout=close_timeout) as client:
            nursery.start_soon(close_it, client)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    await ended.wait()
    assert server.closes == [1000]
    assert server.closed
    assert trio.current_time() == start


@pytest.mark.parametrize("ending", [close(1011), b""])
async def test_closing_after_the_peer_has_waits_for_the_end_only(ending: bytes, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        if ending:
            server.send(ending)
        server.end()
        await wait_all_tasks_blocked()
        error = client.error
        assert error is not None
        await client.close()
        assert client.error is error
        assert server.closes == ([1011] if ending else [])


async def test_a_close_of_the_peer_that_crosses_ours_counts_as_its_answer(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(close(1001, "leaving"))
        server.end()
        server.read_on()
        await wait_all_tasks_blocked()
        assert (client.close_code, client.close_reason) == (1001, "leaving")
        assert client.error is None
    assert server.closes == [1000]
    assert server.closed


async def test_a_ping_that_crosses_our_close_is_never_answered_after_it(autojump_clock: MockClock) -> None:
    for steps in range(25):
        server = Server(answers_close=False)
        async with connecting(server) as client, trio.open_nursery() as nursery:
            await wait_all_tasks_blocked()
            server.send(frame(PING, b"p"))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(client.close)
            await wait_all_tasks_blocked()
            server.send(frame(PING, b"q"), close(1000))
            server.end()
        # The server itself refuses what follows the close frame.
        assert server.closes == [1000]
        assert Frame(PONG, b"q") not in server.frames
        assert server.closed


async def test_an_end_of_the_stream_instead_of_an_answer_is_1006_and_no_error(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.end()
        await wait_all_tasks_blocked()
        assert client.close_code == 1006
        assert client.error is None
        assert server.closed


# Over a socket --------------------------------------------------------------------------------------------------------


async def over_a_socket(serve: Callable[[trio.SocketStream], Any], nursery: trio.Nursery) -> Callable[[], Any]:
    """Start a server on one end of a pair of sockets; return what dials the other."""
    ours, theirs = trio.socket.socketpair()
    nursery.start_soon(serve, trio.SocketStream(theirs))

    async def dial() -> Transport:
        return SocketTransport(trio.SocketStream(ours))

    return dial


async def relay(server: Server, stream: trio.SocketStream) -> None:
    """Let a server in memory speak over a socket."""
    async with stream, trio.open_nursery() as nursery:

        async def outwards() -> None:
            while data := await server.stream.receive_some():
                await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(outwards)
        while data := await stream.receive_some():
            await server.stream.send_all(data)


async def test_the_client_works_the_same_over_a_socket(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()

    async def serve(stream: trio.SocketStream) -> None:
        await relay(server, stream)

    dial = await over_a_socket(serve, nursery)
    async with connecting(server, dial=dial) as client:
        await client.send("a")
        await client.send(bytes(1 << 20))
        server.send(text("b"), frame(PING, b"p"))
        assert (await client.receive()).value.data == "b"
        await client.close()
    assert server.payloads == [b"a", bytes(1 << 20), b"p", b"\x03\xe8"]
    nursery.cancel_scope.cancel()


async def test_cancelled_over_a_socket_tries_the_close_frame(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        with trio.CancelScope() as relaying:
            nursery.start_soon(stop_at_the_end, stream, relaying)
            await relay(server, stream)

    async def stop_at_the_end(stream: trio.SocketStream, relaying: trio.CancelScope) -> None:
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        relaying.cancel()
        ended.set()

    dial = await over_a_socket(serve, nursery)
    with trio.CancelScope() as scope:
        async with connecting(server, dial=dial):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await ended.wait()
    assert server.closes == [1001]


async def test_a_selector_on_the_channel_sees_the_end_once(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with csp.Selector(client.channel().case_receive()) as selector:
            server.send(text("a"), close(1000))
            server.end()
            results: list[object] = [(result.ok, result.value) async for result in selector]
        assert results == [(True, Message("text", "a")), (False, None)]


class Flooding(StreamTransport):
    """Once the server has sent something, there is always the same to read, and every look at it takes 0.1 s."""

    def __init__(self, stream: trio.abc.Stream, clock: MockClock, begin: bytes, flood: bytes) -> None:
        super().__init__(stream)
        self.clock = clock
        self.begin = begin
        self.flood = flood
        self.flooding = False

    async def receive_some(self, max_bytes: int) -> bytes:
        if self.flooding:
            self.clock.jump(0.1)
            await trio.lowlevel.checkpoint()
            return self.flood
        data = await super().receive_some(max_bytes)
        self.flooding = data.endswith(self.begin)
        return data


async def test_a_server_that_sends_without_end_after_a_verdict_is_left_after_the_close_timeout(
    mock_clock: MockClock,
) -> None:
    server = Server()
    violation = frame(3)

    async def dial() -> Transport:
        return Flooding(server.stream, mock_clock, violation, bytes(100))

    # Nobody closes it but itself.
    async with trio.open_nursery() as nursery:
        client = await connecting(server, dial=dial, nursery=nursery, close_timeout="3s")
        server.send(violation)
    assert client.close_code == 1002
    assert server.closed
    assert 3 <= trio.current_time() < 4


async def test_pings_without_end_do_not_extend_the_read_timeout(mock_clock: MockClock) -> None:
    server = Server()
    pings = frame(PING) * 10

    async def dial() -> Transport:
        return Flooding(server.stream, mock_clock, pings, pings)

    async with connecting(server, dial=dial, read_timeout="5s", close_timeout="1s") as client:
        server.send(pings)
        assert await client.receive() == ENDED
        assert client.close_code == 1011
        assert 5 <= trio.current_time() < 6


async def leave_by(interrupt: BaseException, server: Server, clients: list[Client]) -> None:
    async with connecting(server) as client:
        clients.append(client)
        raise interrupt


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_a_block_that_is_interrupted_does_not_wait_for_the_peers_answer(
    interrupt: type[BaseException], autojump_clock: MockClock
) -> None:
    # The order in which tasks run is random, so once proves nothing.
    for _ in range(20):
        server = Server()
        clients: list[Client] = []
        with pytest.raises(interrupt):
            await leave_by(interrupt(), server, clients)
        assert server.closes == [1001]
        assert clients[0].close_code == 1006
        assert is_kind(clients[0].error, Kind.UNAVAILABLE)


async def test_a_client_that_is_being_closed_says_so(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        assert repr(client) == f"<csp.websocket.Client closing, {URL}>"
        with pytest.raises(ConnectionFailedError, match="sending failed: the connection is being closed"):
            await client.send("late")


async def test_a_close_that_is_cancelled_sends_the_close_frame_while_messages_arrive(
    autojump_clock: MockClock,
) -> None:
    # Whether the reader or the close frame goes first is the scheduler's choice.
    for _ in range(20):
        server = Server(answers_close=False)
        async with connecting(server) as client, trio.open_nursery() as nursery:

            async def talk(server: Server = server) -> None:
                while not server.closed:
                    server.send(text("news"))
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(talk)
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.close()
        assert server.closes == [1000]


async def test_of_several_pings_that_cross_our_close_none_is_answered_after_it(autojump_clock: MockClock) -> None:
    answered: set[int] = set()
    for steps in range(25):
        server = Server(answers_close=False)
        async with connecting(server) as client, trio.open_nursery() as nursery:
            await wait_all_tasks_blocked()
            server.send(*(frame(PING, b"%d" % number) for number in range(5)))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(client.close)
            await wait_all_tasks_blocked()
            server.send(close(1000))
            server.end()
        # The server itself refuses what follows the close frame.
        assert server.closes == [1000]
        pongs = server.payloads[:-1]
        assert pongs == [b"0", b"1", b"2", b"3", b"4"][: len(pongs)]
        answered.add(len(pongs))
    # In the course of this, our close has gone out between two answers.
    assert answered & {1, 2, 3, 4}


@pytest.mark.parametrize("code", [1013, 1014])
async def test_a_ping_before_the_peers_close_is_answered_with_a_pong(code: int, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(frame(PING, b"p"), close(code, "x"))
        server.end()
        assert not (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert server.frames[0] == Frame(PONG, b"p")
        assert server.closes == [code]
