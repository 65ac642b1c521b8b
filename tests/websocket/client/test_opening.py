"""The opening handshake against a server in memory: the request, the answer, and how long it may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._server import (
    PING,
    PONG,
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
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from email.message import Message as Headers

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport


async def refused(server: Server, **options: Any) -> ConnectionFailedError:
    """Connect in vain; return the error, with the stream closed and no exception group around it."""
    with pytest.raises(ConnectionFailedError) as caught:
        async with connecting(server, **options):
            pytest.fail("it was opened")
    assert server.closed
    return caught.value


# The request ----------------------------------------------------------------------------------------------------------


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


# The answer -----------------------------------------------------------------------------------------------------------


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
    assert "the connection broke during the WebSocket handshake" in str(error)
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


# Time and cancellation ------------------------------------------------------------------------------------------------


async def test_a_silent_server_is_given_up_after_the_dial_timeout(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    error = await refused(Server(b""), dial_timeout="5s")
    assert isinstance(error, ConnectionTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.kind is Kind.INTERNAL
    assert error.retryable is True
    assert str(error) == f"no connection to {URL} within 5 s: the server did not answer the WebSocket handshake"
    assert details(error) == {"url": URL}
    assert trio.current_time() - start == pytest.approx(5)


async def test_a_server_that_is_not_reached_is_given_up_after_the_dial_timeout(autojump_clock: MockClock) -> None:
    with pytest.raises(ConnectionTimeoutError) as caught:
        async with connecting(Server(), reach=trio.sleep_forever, dial_timeout="5s"):
            pytest.fail("it was opened")
    assert str(caught.value) == f"no connection to {URL} within 5 s: the server was not reached"


async def test_an_answer_that_does_not_end_is_given_up_after_the_dial_timeout(autojump_clock: MockClock) -> None:
    error = await refused(Server(b"HTTP/1.1 101 Sw"), dial_timeout="5s")
    assert isinstance(error, ConnectionTimeoutError)
    assert str(error).endswith(" within 5 s: the server's answer to the WebSocket handshake was not complete")


async def test_a_request_that_is_not_taken_is_given_up_after_the_dial_timeout(autojump_clock: MockClock) -> None:
    near, _far = lockstep_stream_pair()

    async def dial() -> Transport:
        return StreamTransport(near)

    with pytest.raises(ConnectionTimeoutError) as caught:
        await connecting(Server(), reach=dial, dial_timeout="5s").__aenter__()
    assert str(caught.value).endswith(" within 5 s: the server did not take the request of the WebSocket handshake")


async def test_a_refusal_that_is_known_when_the_dial_timeout_expires_is_what_is_told(autojump_clock: MockClock) -> None:
    server = Server(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nno!")
    error = await refused(server, dial_timeout="500ms")
    assert not isinstance(error, ConnectionTimeoutError)
    assert str(error) == f"cannot connect to {URL}: the server refused the connection with status 403 Forbidden"
    assert error.retryable is False
    assert (error.status, details(error)["url"], details(error)["body"]) == (403, URL, b"no!")


async def test_dialing_counts_towards_the_dial_timeout(autojump_clock: MockClock) -> None:
    async def dial() -> Transport:
        await trio.sleep(3)
        return StreamTransport(server.stream)

    server = Server(b"")
    start = trio.current_time()
    await refused(server, reach=dial, dial_timeout="5s")
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
        async with connecting(Server(), reach=dial):
            pytest.fail("it was opened")
    assert caught.value is error


async def test_an_error_of_dialing_of_our_own_is_told_with_the_url_and_keeps_its_cause(
    autojump_clock: MockClock,
) -> None:
    cause = OSError("cause")

    async def dial() -> Transport:
        raise ConnectionFailedError("no way", kind=Kind.INTERNAL, retryable=True) from cause

    with pytest.raises(ConnectionFailedError) as caught:
        async with connecting(Server(), reach=dial):
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
