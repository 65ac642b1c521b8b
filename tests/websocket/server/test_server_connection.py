"""What an application holds of a connection: unanswered, accepted, refused."""

from __future__ import annotations

import http
import socket
import struct
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

import csp
from csp import security, websocket
from csp.errors import (
    ConnectionFailedError,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from tests.websocket.server._lobby import PING, PONG, TEXT, RawClient, connected, handshake, listening, masked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

# The answer to KEY (RFC 6455, section 4.2.2).
ACCEPT = "ICX+Yqv66kxgM0FcWaLWlFLwTAI="
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def _raising(error: type[BaseException] | None) -> AbstractContextManager[object]:
    return nullcontext() if error is None else pytest.raises(error)


# The request ----------------------------------------------------------------------------------------------------------


async def test_a_connection_tells_what_was_asked_for(autojump_clock: MockClock) -> None:
    request = handshake(
        "/a/../%7euser/%2f?token=1&b=%20",
        "Cookie: a=1",
        "cookie: b=2",
        "Origin: https://app.example.com",
        "Sec-WebSocket-Protocol: chat.v2, chat.v1",
        host="App.Example.com:8080",
    )
    async with connected(request, origins="*") as (connection, _):
        assert connection.url == "ws://app.example.com:8080/~user/%2F?token=1&b=%20"
        assert (connection.path, connection.query) == ("/~user/%2F", "token=1&b=%20")
        assert connection.headers["COOKIE"] == "a=1"
        assert connection.headers.get_all("Cookie") == ["a=1", "b=2"]
        assert connection.protocols == ("chat.v2", "chat.v1")
        assert connection.origin == "https://app.example.com"
        assert (connection.remote, connection.local, connection.peer_certificate) == (None, None, None)
        assert (connection.subprotocol, connection.close_code, connection.error) == (None, None, None)
        assert (
            repr(connection) == "<csp.websocket.ServerConnection unanswered, ws://app.example.com:8080/~user/%2F?...>"
        )
        assert {connection: 1}[connection] == 1


async def test_what_was_not_sent_is_empty(autojump_clock: MockClock) -> None:
    async with connected() as (connection, _):
        assert (connection.path, connection.query, connection.protocols, connection.origin) == ("/", "", (), None)


# accept ---------------------------------------------------------------------------------------------------------------


async def test_accept_answers_with_101_and_what_was_asked_for(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        await connection.accept(headers={"Set-Cookie": "a=1"})
        answer = await client.answer()
        assert answer.status == 101
        assert dict(answer.headers) == {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": ACCEPT,
            "Set-Cookie": "a=1",
        }
        assert "open" in repr(connection)
        await client.send(masked(TEXT, b"hi"))
        assert (await connection.receive_value()).data == "hi"
        await connection.send("ho")
        assert await client.text() == "ho"
        await client.close()
    assert (connection.close_code, connection.error) == (1000, None)


@pytest.mark.parametrize(
    ("offered", "wanted", "arguments", "chosen"),
    [
        ("b, a", ("a", "b"), {}, "a"),
        ("c, b", ("a", "b"), {}, "b"),
        ("c", ("a", "b"), {}, None),
        ("c", (), {}, None),
        ("c, d", ("c",), {"subprotocol": "d"}, "d"),
        ("c", ("c",), {"subprotocol": None}, None),
    ],
)
async def test_the_subprotocol_is_that_of_the_call_or_the_first_of_the_servers(
    offered: str, wanted: tuple[str, ...], arguments: dict[str, Any], chosen: str | None, autojump_clock: MockClock
) -> None:
    request = handshake("/", f"Sec-WebSocket-Protocol: {offered}")
    async with connected(request, protocols=wanted) as (connection, client):
        await connection.accept(**arguments)
        assert connection.subprotocol == chosen
        assert (await client.answer()).headers.get("Sec-WebSocket-Protocol") == chosen


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"subprotocol": "x"}, InvalidError, "subprotocol must be one of the 1 that were offered, not 'x'"),
        ({"subprotocol": 1}, InvalidTypeError, "subprotocol must be a str or None, not 1"),
        (
            {"headers": {"Upgrade": "x"}},
            InvalidError,
            "headers must not contain 'Upgrade': it belongs to the handshake",
        ),
        ({"headers": {"sec-websocket-accept": "x"}}, InvalidError, "headers must not contain"),
        ({"headers": {"Content-Length": "0"}}, InvalidError, "there is no body"),
        ({"headers": {"X": "a\nb"}}, InvalidError, "control characters"),
        ({"headers": 1}, InvalidTypeError, "headers must be a mapping"),
        ({"compression": True}, InvalidTypeError, "compression must be COMPRESSION"),
        ({"compression": 7}, InvalidError, "compression must be COMPRESSION"),
    ],
    ids=str,
)
async def test_a_wrong_argument_leaves_it_unanswered(
    arguments: dict[str, Any], error: type[InvalidError], text: str, autojump_clock: MockClock
) -> None:
    async with connected(handshake("/", "Sec-WebSocket-Protocol: chat")) as (connection, client):
        with pytest.raises(error, match=text):
            await connection.accept(**arguments)
        await connection.accept()
        assert (await client.answer()).status == 101


@pytest.mark.parametrize(
    ("offer", "server", "call", "agreed"),
    [
        (DEFLATE, 0, None, None),
        (DEFLATE, 1, None, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
        (DEFLATE, 0, 1, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
        (DEFLATE, 1, 0, None),
        (DEFLATE, 1, 2, "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ("X: 1", 1, None, None),
        ("Sec-WebSocket-Extensions: permessage-deflate; ;;", 1, None, None),
    ],
)
async def test_compression_is_agreed_to_if_it_is_offered(
    offer: str, server: int, call: int | None, agreed: str | None, autojump_clock: MockClock
) -> None:
    async with connected(handshake("/", offer), compression=server) as (connection, client):
        await connection.accept(compression=call)
        assert (await client.answer()).headers.get("Sec-WebSocket-Extensions") == agreed
        await connection.send("x" * 1000)
        head, payload = await client.frame()
        assert (head == 0xC1, len(payload) < 100) == (agreed is not None, agreed is not None)


async def test_small_messages_are_not_compressed(autojump_clock: MockClock) -> None:
    async with connected(handshake("/", DEFLATE), compression_threshold=10) as (connection, client):
        await connection.accept(compression=2)
        await client.answer()
        for size, head in ((9, 0x81), (10, 0xC1)):
            await connection.send("x" * size)
            assert (await client.frame())[0] == head


async def test_it_can_be_answered_once(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        await connection.accept()
        for again in (connection.accept, connection.reject):
            with pytest.raises(
                NoContextError, match=r"answered already: it was accepted, by accept\(\) or by its first"
            ):
                await again()
        await client.answer()
        await client.close()
        with pytest.raises(NoContextError):
            await connection.accept()


async def test_what_was_refused_is_not_answered_again(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        await connection.reject(404)
        for again in (connection.accept, connection.reject):
            with pytest.raises(NoContextError, match="answered already: it was refused with status 404"):
                await again()
        assert (await client.answer()).status == 404


async def test_what_comes_right_behind_the_request_is_received_after_accept(autojump_clock: MockClock) -> None:
    async with connected(handshake() + masked(TEXT, b"early") + masked(PING, b"p")) as (connection, client):
        await wait_all_tasks_blocked()
        await connection.accept()
        assert (await connection.receive_value()).data == "early"
        assert (await client.answer()).status == 101
        assert await client.frame() == (0x80 | PONG, b"p")


async def test_a_violation_right_behind_the_request_fails_the_connection_after_accept(
    autojump_clock: MockClock,
) -> None:
    async with connected(handshake() + masked(3, b"x")) as (connection, client):
        await connection.accept()
        assert (await client.answer()).status == 101
        assert (await client.closed())[0] == 1002
        with pytest.raises(ConnectionFailedError):
            await connection.receive_value()


# The first use --------------------------------------------------------------------------------------------------------

USES: dict[str, Callable[[websocket.ServerConnection], Awaitable[object]]] = {
    "send": lambda connection: connection.send("x"),
    "send_json": lambda connection: connection.send_json(1),
    "ping": lambda connection: connection.ping(),
    "receive": lambda connection: connection.receive(),
    "receive_value": lambda connection: connection.receive_value(),
    "iteration": lambda connection: anext(aiter(connection)),
}
CALLS: dict[str, Callable[[websocket.ServerConnection], Awaitable[object]]] = {
    **USES,
    "accept": lambda connection: connection.accept(),
    "reject": lambda connection: connection.reject(),
}


@pytest.mark.parametrize("use", USES)
async def test_the_first_use_accepts(use: str, autojump_clock: MockClock) -> None:
    request = handshake("/", "Sec-WebSocket-Protocol: chat") + masked(TEXT, b"x")
    async with connected(request, protocols=["chat"]) as (connection, client):
        await USES[use](connection)
        answer = await client.answer()
        assert (answer.status, answer.headers["Sec-WebSocket-Protocol"]) == (101, "chat")
        with pytest.raises(NoContextError):
            await connection.accept()


async def test_the_first_uses_of_many_tasks_accept_once(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client), trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(connection.send, str(number))
        assert (await client.answer()).status == 101
        assert sorted([await client.text() for _ in range(3)]) == ["0", "1", "2"]


async def test_what_is_sent_first_comes_first_although_it_accepts(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        ours, theirs = lockstep_stream_pair()
        lobby.bring(theirs)
        client = RawClient(ours)
        await client.send(handshake())
        connection = await server.receive_value()
        for text in ("first", "second", "third"):
            nursery.start_soon(connection.send, text)
            await wait_all_tasks_blocked()
        # Nothing was taken so far, not even the answer.
        await client.answer()
        assert [await client.text() for _ in range(3)] == ["first", "second", "third"]


async def test_a_wrong_argument_of_the_first_use_does_not_accept(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        with pytest.raises(InvalidTypeError):
            await connection.send(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidError):
            await connection.ping(b"x" * 126)
        await connection.reject()
        assert (await client.answer()).status == 403


async def test_the_channel_of_an_unanswered_connection_is_refused(autojump_clock: MockClock) -> None:
    async with connected() as (connection, _):
        with pytest.raises(NoContextError, match="accept it first"):
            connection.channel()
        await connection.accept()
        assert connection.channel() is connection.channel()


# reject ---------------------------------------------------------------------------------------------------------------


async def test_reject_answers_with_a_status_and_ends_it(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        await connection.reject(401, headers={"WWW-Authenticate": "Bearer"}, body="who are you?")
        answer = await client.answer()
        assert (answer.status, answer.body) == (401, b"who are you?")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Connection"] == "close"
        await client.ended()
        await connection.wait_closed()
        assert (connection.close_code, connection.error) == (1006, None)
        assert "ended with 1006" in repr(connection)
        assert not (await connection.channel().receive()).ok
        for use in (connection.accept, connection.reject):
            with pytest.raises(NoContextError):
                await use()
        with pytest.raises(ConnectionFailedError, match="the connection has ended"):
            await connection.send("x")


@pytest.mark.parametrize(
    ("arguments", "status", "body"),
    [
        ((), 403, b""),
        ((http.HTTPStatus.NOT_FOUND,), 404, b""),
        ((200,), 200, b""),
        ((599,), 599, b""),
    ],
    ids=str,
)
async def test_statuses(arguments: tuple[int, ...], status: int, body: bytes, autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        await connection.reject(*arguments, body=body)
        answer = await client.answer()
        assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"status": 101}, InvalidError, "status must be 200 to 599, not 101"),
        ({"status": 600}, InvalidError, "status must be 200 to 599, not 600"),
        ({"status": "403"}, InvalidTypeError, "status must be an int, not '403'"),
        ({"status": 204, "body": "x"}, InvalidError, "body must be empty with status 204"),
        ({"body": 1}, InvalidTypeError, "body must be"),
        ({"headers": {"Connection": "keep-alive"}}, InvalidError, "headers must not contain 'Connection'"),
    ],
    ids=str,
)
async def test_a_wrong_argument_of_reject_leaves_it_unanswered(
    arguments: dict[str, Any], error: type[InvalidError], text: str, autojump_clock: MockClock
) -> None:
    async with connected() as (connection, client):
        with pytest.raises(error, match=text):
            await connection.reject(**arguments)
        await connection.reject(418)
        assert (await client.answer()).status == 418


async def test_a_large_refusal_is_not_waited_for_and_comes_whole() -> None:
    body = bytes(8_000_000)
    received = b""
    async with websocket.listen(0, host="127.0.0.1") as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
        await stream.send_all(handshake())
        connection = await server.receive_value()
        with trio.fail_after(10):
            await connection.reject(413, body=body)
        async for block in stream:
            received += block
        await stream.aclose()
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert rest == body


async def test_a_refusal_over_a_stream_waits_until_it_is_taken(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    async with listening() as (server, lobby):
        lobby.bring(far)
        await near.send_all(handshake())
        connection = await server.receive_value()
        with trio.move_on_after(1) as scope:
            await connection.reject(404)
        assert scope.cancelled_caught
        assert b" 404 " in bytes(await near.receive_some())


# Closing, and blocks --------------------------------------------------------------------------------------------------


async def test_closing_an_unanswered_connection_refuses_it(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.close)
        answer = await client.answer()
        assert (answer.status, answer.body) == (403, b"the server has not accepted the connection\n")
        await client.ended()
        await client.leave()
    assert connection.error is None


@pytest.mark.parametrize(("error", "status"), [(None, 403), (ValueError, 500), (KeyboardInterrupt, 503)])
async def test_the_end_of_a_block_refuses_what_is_unanswered(
    error: type[BaseException] | None, status: int, autojump_clock: MockClock
) -> None:
    async with connected() as (connection, client), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            assert (await client.answer()).status == status
            await client.ended()
            await client.leave()

        with _raising(error):
            async with connection:
                if error is not None:
                    raise error


@pytest.mark.parametrize(("error", "code"), [(None, 1000), (ValueError, 1011), (KeyboardInterrupt, 1001)])
async def test_the_end_of_a_block_closes_an_accepted_connection(
    error: type[BaseException] | None, code: int, autojump_clock: MockClock
) -> None:
    async with connected() as (connection, client), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            await client.answer()
            assert await client.closed() == (code, "")
            if error is not KeyboardInterrupt:
                await client.send(masked(8, code.to_bytes(2, "big")))
            await client.leave()

        with _raising(error):
            async with connection:
                await connection.accept()
                if error is not None:
                    raise error


@pytest.mark.parametrize("use", ["accept", "reject", "send"])
async def test_a_call_that_is_cancelled_before_it_begins_leaves_it_unanswered(
    use: str, autojump_clock: MockClock
) -> None:
    async with connected() as (connection, client):
        with trio.CancelScope() as scope:
            scope.cancel()
            await CALLS[use](connection)
        assert scope.cancelled_caught
        await connection.accept()
        assert (await client.answer()).status == 101


async def test_a_cancelled_close_refuses_an_unanswered_connection(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.close()
        assert scope.cancelled_caught
        assert (await client.answer()).status == 503


# Who may, and who has gone --------------------------------------------------------------------------------------------


async def test_the_policy_sees_the_url_and_the_facts(autojump_clock: MockClock) -> None:
    asked: list[Any] = []

    def applies(*facts: Any) -> bool:
        asked.append(facts)
        return True

    request = handshake("/x?y=1", "Origin: https://a.example", "Sec-WebSocket-Protocol: chat")
    policy = security.Policy(["websocket.accept"], ["ws://localhost/x*"], "allow", condition=applies)
    async with connected(request, origins="*") as (connection, client):
        with security.context(actor=security.Actor("me"), scope=security.Scope([policy])):
            await connection.accept(subprotocol="chat")
        assert (await client.answer()).status == 101
    assert "https://a.example" in repr(asked)
    assert "chat" in repr(asked)


@pytest.mark.parametrize("use", ["accept", "send", "receive"])
async def test_what_no_policy_allows_gets_403(use: str, autojump_clock: MockClock) -> None:
    async with connected(handshake("/x?token=1")) as (connection, client):
        with (
            security.context(actor=security.Actor("me"), scope=security.Scope([])),
            pytest.raises(PermissionDeniedError, match=r"ws://localhost/x\?\.\.\. is not allowed") as caught,
        ):
            await CALLS[use](connection)
        assert "token" not in str(caught.value)
        assert (await client.answer()).status == 403
        with pytest.raises(NoContextError):
            await connection.accept()


@pytest.mark.parametrize("goes", ["closes", "resets"])
async def test_a_client_that_has_gone_cannot_be_accepted(goes: str) -> None:
    async with websocket.listen(0, host="127.0.0.1") as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
        await stream.send_all(handshake())
        connection = await server.receive_value()
        if goes == "resets":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await trio.sleep(0.01)
        with pytest.raises(ConnectionFailedError, match="the client has gone") as caught:
            await connection.accept()
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, False)
        await connection.wait_closed()
        assert connection.close_code == 1006
        with pytest.raises(ConnectionFailedError, match="the client has gone"):
            await connection.accept()
        assert server.statistics().accepted == 0


async def test_a_client_that_has_gone_cannot_be_rejected() -> None:
    async with websocket.listen(0, host="127.0.0.1") as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
        await stream.send_all(handshake())
        connection = await server.receive_value()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await trio.sleep(0.01)
        with pytest.raises(ConnectionFailedError, match="rejecting failed: the client has gone") as caught:
            await connection.reject()
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, False)
        await connection.wait_closed()
        with pytest.raises(NoContextError):
            await connection.reject()


async def test_what_a_client_in_memory_has_left_cannot_be_answered(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        await client.leave()
        with pytest.raises(ConnectionFailedError, match="accepting failed: the client has gone"):
            await connection.accept()
        await connection.wait_closed()
        assert connection.close_code == 1006


async def test_a_connection_can_be_selected_with_the_server(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby):
        clients = [lobby.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.send(handshake(f"/{number}"), masked(TEXT, b"hello"))
        heard: list[str] = []
        selector: csp.Selector[Any] = csp.Selector(server.channel())
        with selector:
            async for r in selector:
                if isinstance(r.value, websocket.ServerConnection):
                    await r.value.accept()
                    selector.add(r.value.channel())
                elif isinstance(r.value, websocket.Message):
                    heard.append(str(r.value.data))
                    if len(heard) == 3:
                        break
        assert heard == ["hello"] * 3


async def test_accepting_many_lets_other_tasks_run_now_and_then() -> None:
    async with (
        websocket.listen(0, host="127.0.0.1", max_waiting=100, max_handshakes=100) as server,
        csp.BackgroundNursery() as nursery,
    ):
        streams = [await trio.open_tcp_stream("127.0.0.1", server.port or 0) for _ in range(80)]
        for stream in streams:
            await stream.send_all(handshake())
        connections = [await server.receive_value() for _ in streams]
        ran: list[str] = []

        @nursery.start_soon
        async def note() -> None:
            ran.append("another task")

        for connection in connections:
            await connection.accept()
        assert ran
        for stream in streams:
            await stream.aclose()
