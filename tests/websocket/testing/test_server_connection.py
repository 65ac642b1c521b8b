"""The server's end of a connection, as a handler uses it: answers, messages, pings, closing."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request

import csp
from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, InvalidError, InvalidTypeError, NoContextError
from csp.testing import ServerConnection, websocket_pair, websocket_server
from tests.websocket._server import CLOSE, TEXT, accepting, details, frame
from tests.websocket.testing._handlers import URL, dialled, masked, raw_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    Operation: TypeAlias = Callable[[], Awaitable[object]]


# Answers to the handshake ---------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_before_it_is_accepted_is_gone_for_the_handler(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        await trio.sleep(6)
        seen.append(repr(connection))
        operations: list[Operation] = [connection.accept, lambda: connection.send("late"), connection.reject]
        for operation in operations:
            with pytest.raises(ConnectionFailedError):
                await operation()
        seen.append((await connection.receive()).ok)
        seen.append((connection.close_code, str(connection.error)))
        await connection.send("late")

    async with websocket_server(handler):
        with pytest.raises(ConnectionTimeoutError):
            async with websocket.connect(URL, dial_timeout="5s"):
                pass
        assert trio.current_time() == 5
        await trio.sleep(5)
    assert seen == [
        f"<csp.testing.ServerConnection unanswered, {URL}>",
        False,
        (1006, "the connection was not opened: the client has gone"),
    ]


async def refusal(handler: Any, **options: Any) -> ConnectionFailedError:
    # Caught inside the block, so that the handler comes to its end.
    async with websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as raised:
            async with websocket.connect(URL, **options):
                pass
    return raised.value


async def test_a_rejection_has_status_headers_and_body() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(401, headers=[("WWW-Authenticate", "Bearer")], body=b"no token")
        with pytest.raises(NoContextError, match="answered already"):
            await connection.accept()
        with pytest.raises(ConnectionFailedError, match="has ended"):
            await connection.send("late")
        assert not (await connection.receive()).ok
        await connection.close()
        assert connection.error is None

    error = await refusal(handler)
    assert not error.retryable
    assert details(error)["status"] == 401
    headers: Any = details(error)["headers"]
    assert (headers["www-authenticate"], headers["content-length"]) == ("Bearer", "8")
    assert details(error)["body"] == b"no token"


async def test_a_rejection_is_read_by_the_client_before_the_call_returns() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(401, body=bytes(300_000))
        connection.drop()

    assert (await refusal(handler)).status == 401


async def test_what_comes_behind_a_rejection_is_ignored() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(403)
        await connection.wait_closed()

    async with websocket_server(handler):
        transport = await dialled()
        await transport.send_all(WSConnection(ConnectionType.CLIENT).send(Request(host="api.example.com", target="/")))
        assert (await transport.receive_some(1000)).startswith(b"HTTP/1.1 403 ")
        for _ in range(3):
            await transport.send_all(masked(TEXT, b"\r\n\r\n"))
        await transport.aclose()


async def test_a_rejection_tells_when_to_come_back() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(503, headers={"Retry-After": "120", "content-length": "0"})

    error = await refusal(handler)
    assert error.retryable
    headers: Any = details(error)["headers"]
    assert (headers["retry-after"], headers["content-length"]) == ("120", "0")


async def test_garbage_for_an_answer() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(b"SSH-2.0-OpenSSH\r\n")
        for operation in (connection.accept, connection.reject):
            with pytest.raises(NoContextError, match="answered already"):
                await operation()

    assert "did not answer in HTTP" in str(await refusal(handler))


async def test_a_handler_that_returns_after_half_an_answer_ends_the_stream() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(b"HTTP/1.1 101 ")

    assert "in the middle of the WebSocket handshake" in str(await refusal(handler))


async def test_dropped_instead_of_answered() -> None:
    async def handler(connection: ServerConnection) -> None:
        connection.drop()
        with pytest.raises(NoContextError, match="answered already"):
            await connection.accept()
        with pytest.raises(ConnectionFailedError):
            await connection.send("late")

    assert (await refusal(handler)).retryable


async def test_an_answer_that_never_comes(autojump_clock: MockClock) -> None:
    async def handler(_connection: ServerConnection) -> None:
        await trio.sleep_forever()

    assert isinstance(await refusal(handler, dial_timeout="30s"), ConnectionTimeoutError)
    assert trio.current_time() == 30


async def test_a_subprotocol_must_have_been_offered() -> None:
    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(InvalidError, match="must be one of the 2 that were offered, not 'c'"):
            await connection.accept(subprotocol="c")
        await connection.accept()

    async with websocket_server(handler), websocket.connect(URL, protocols=["a", "b"]) as client:
        assert client.subprotocol is None


async def test_a_connection_that_was_accepted_by_hand_is_one(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers))
        await connection.send_bytes(frame(TEXT, b"by hand"))
        await connection.send("and not")
        assert (await connection.receive_value()).data == "understood"
        await connection.wait_closed()
        assert (connection.close_code, connection.error) == (1000, None)

    async with websocket_server(handler), websocket.connect(URL) as client:
        await client.send("understood")
        assert [(await client.receive()).value.data for _ in range(2)] == ["by hand", "and not"]
    assert client.close_code == 1000


async def test_the_end_of_a_connection_that_was_accepted_by_hand_is_the_end_of_its_stream() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers))
        await connection.close(4001)
        with pytest.raises(ConnectionFailedError):
            await connection.send_bytes(b"late")

    async with websocket_server(handler), websocket.connect(URL) as client:
        assert not (await client.receive()).ok
        assert client.close_code == 1006


async def test_a_cancelled_close_after_an_answer_by_hand_ends_the_stream() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers))
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.close()
        assert "ended" in repr(connection)

    async with websocket_server(handler), websocket.connect(URL) as client:
        assert not (await client.receive()).ok
        assert client.close_code == 1006


async def test_only_waiting_for_the_end_and_asking_for_the_channel_accept_nothing(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(NoContextError, match="accept it first"):
            connection.channel()
        await connection.wait_closed()

    assert isinstance(await refusal(handler, dial_timeout="30s"), ConnectionTimeoutError)


async def test_bytes_that_answer_the_handshake_are_all_of_it(autojump_clock: MockClock) -> None:
    async def refuse(connection: ServerConnection) -> None:
        await connection.send_bytes(b"HTTP/1.1 503 Unavailable\r\n\r\nbody")

    error = await refusal(refuse)
    assert details(error)["body"] == b"body"
    assert trio.current_time() == 0


async def test_headers_of_the_answer_may_be_latin_1(autojump_clock: MockClock) -> None:
    async def accept(connection: ServerConnection) -> None:
        await connection.accept(headers={"X-Name": "caf\xe9"})
        await connection.wait_closed()

    async with websocket_server(accept), websocket.connect(URL) as client:
        assert client.response_headers["X-Name"] == "caf\xe9"


async def test_headers_of_one_connection_may_be_sent_on_another(autojump_clock: MockClock) -> None:
    async def accept(connection: ServerConnection) -> None:
        tags = websocket.Headers(("X-Tag", value) for value in connection.headers.get_all("x-tag"))
        await connection.accept(headers=tags)
        await connection.wait_closed()

    tags = websocket.Headers([("X-Tag", "a"), ("X-Tag", "b")])
    async with websocket_server(accept), websocket.connect(URL, headers=tags) as client:
        assert client.response_headers.get_all("X-Tag") == ["a", "b"]


async def test_an_iteration_can_be_gone_on_with() -> None:
    async with websocket_pair() as (client, server):
        messages = aiter(server)
        for word in ("one", "two"):
            await client.send(word)
        assert (await anext(messages)).data == "one"
        await client.close(4001)
        with pytest.raises(ConnectionFailedError, match="4001"):  # and what was not received before the close is
            assert [message.data async for message in messages] == ["two"]


# Messages -------------------------------------------------------------------------------------------------------------


async def test_one_select_waits_for_both_ends() -> None:
    async with websocket_pair() as (client, server):
        mine, theirs = client.channel(), server.channel()
        assert server.channel() is theirs
        await client.send("to the server")
        result = await csp.select(mine.case_receive(), theirs.case_receive())
        assert (result.channel, result.value.data) == (theirs, "to the server")
        await server.send("to the client")
        result = await csp.select(mine.case_receive(), theirs.case_receive())
        assert (result.channel, result.value.data) == (mine, "to the client")


async def test_what_is_no_message_is_refused_before_anything_is_sent() -> None:
    async with websocket_pair() as (client, server):
        bad: Any = 42
        with pytest.raises(TypeError):
            await server.send(bad)
        await server.send("good")
        assert (await client.receive()).value.data == "good"


async def test_values_go_as_json() -> None:
    async with websocket_pair() as (client, server):
        await server.send_json({"price": 101.5, "name": "caf\xe9"})
        assert (await client.receive_value()) == websocket.Message("text", '{"price":101.5,"name":"caf\xe9"}')
        await server.send_json([1], dumps=lambda value: repr(value).encode())
        assert (await client.receive_value()).json() == [1]
        await client.send_json({"id": 1})
        assert (await server.receive_value()).json() == {"id": 1}
        with pytest.raises(InvalidError):
            await server.send_json(float("nan"))
        with pytest.raises(InvalidTypeError):
            await server.send_json(object())


# Pings ----------------------------------------------------------------------------------------------------------------


async def test_a_test_can_wait_for_the_clients_pong(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (_client, server):
        assert (await (await server.ping(b"payload")).receive()) == (0.0, True)
        assert (await (await server.ping()).receive()).ok


async def test_a_ping_without_an_answer_ends_with_the_connection() -> None:
    async with websocket_pair() as (_client, server):
        server.stop_reading()
        answer = await server.ping()
        server.drop()
        assert not (await answer.receive()).ok
        with pytest.raises(ConnectionFailedError):
            await server.ping()


async def test_pings_of_the_client_are_answered_unless_the_server_is_silent(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        assert server.answer_pings
        assert (await (await client.ping()).receive()).ok
        server.answer_pings = False
        answer = await client.ping()
        with trio.move_on_after(60) as waiting:
            await answer.receive()
        assert waiting.cancelled_caught


async def test_keepalive_finds_a_silent_server(autojump_clock: MockClock) -> None:
    async with websocket_pair(keepalive="20s") as (client, server):
        await trio.sleep(1000)
        assert client.close_code is None
        server.answer_pings = False
        start = trio.current_time()
        assert not (await client.receive()).ok
        assert 20 <= trio.current_time() - start <= 60
        assert isinstance(client.error, ConnectionTimeoutError)
        await server.wait_closed()
        assert server.close_code == 1011


async def test_a_read_timeout_runs_on_the_clock(autojump_clock: MockClock) -> None:
    async with websocket_pair(read_timeout="30s") as (client, _server):
        assert not (await client.receive()).ok
        assert isinstance(client.error, ConnectionTimeoutError)
        assert 30 <= trio.current_time() < 31


# Closing --------------------------------------------------------------------------------------------------------------


async def test_a_close_of_the_server_waits_for_the_client() -> None:
    async with websocket_pair() as (client, server):
        await server.send("last")
        await server.close(4001, "enough")
        assert (server.close_code, server.close_reason) == (4001, "enough")
        assert "ended" in repr(server)
        assert (await client.receive()).value.data == "last"
        assert not (await client.receive()).ok
        assert (client.close_code, client.close_reason) == (4001, "enough")
        await server.close()
        for operation in (server.send("late"), server.ping(), server.send_bytes(b"late")):
            with pytest.raises(ConnectionFailedError):
                await operation
        assert server.error is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 65535])
async def test_any_code_can_be_sent(code: int, autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        await server.close(code)
        assert client.close_code == 1002
        assert (server.close_code, server.error) == (1002, None)


async def test_a_close_without_a_code() -> None:
    async with websocket_pair() as (client, server):
        await server.close(None)
        assert (client.close_code, client.error) == (1005, None)


async def test_a_close_of_the_client_shows_its_code_and_reason() -> None:
    async with websocket_pair() as (client, server):
        assert (server.close_code, server.close_reason) == (None, None)
        await client.close(4002, "tschüß")
        assert not (await server.receive()).ok
        assert (server.close_code, server.close_reason) == (4002, "tschüß")
        assert server.channel().cause is server.error
        assert "with code 4002: tschüß" in str(server.error)
        assert client.close_code == 4002


async def test_a_client_block_that_fails_closes_with_1011() -> None:
    codes: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.receive()
        codes.append(connection.close_code)

    async with websocket_server(handler):
        with pytest.raises(ZeroDivisionError):
            async with websocket.connect(URL):
                raise ZeroDivisionError
    assert codes == [1011]


async def test_a_client_that_does_not_answer_a_close_is_dropped_in_the_end(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.close)
            await wait_all_tasks_blocked()
            assert "closing" in repr(server)
        assert trio.current_time() == 10
        assert (server.close_code, server.error) == (1006, None)
        assert not (await client.receive()).ok


async def test_a_cancelled_close_ends_the_stream() -> None:
    async with websocket_pair() as (client, server):
        server.stop_reading()
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.close()
        assert "ended" in repr(server)
        assert not (await client.receive()).ok


async def test_a_client_whose_close_is_not_answered_gives_up(autojump_clock: MockClock) -> None:
    async with websocket_pair(close_timeout="3s") as (client, server):
        server.stop_reading()
        await client.close()
        assert trio.current_time() == 3


async def test_a_dropped_connection_ends_abnormally() -> None:
    async with websocket_pair() as (client, server):
        await server.send("last")
        server.drop()
        assert (await client.receive()).value.data == "last"
        assert not (await client.receive()).ok
        assert client.close_code == 1006
        assert client.error is not None
        assert client.error.retryable
        server.drop()
        await server.wait_closed()
        assert not (await server.receive()).ok
        assert server.error is None


async def test_bytes_may_follow_a_close_frame_in_the_same_call() -> None:
    async with websocket_pair() as (client, server):
        await server.send_bytes(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late"))
        assert not (await client.receive()).ok
        await server.wait_closed()
        assert (client.close_code, server.close_code) == (1000, 1000)


async def test_nothing_is_sent_behind_a_close() -> None:
    async with websocket_pair() as (client, server):
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.close)
            await wait_all_tasks_blocked()
            operations: list[Operation] = [lambda: server.send("late"), lambda: server.send_bytes(b"late")]
            for operation in operations:
                with pytest.raises(ConnectionFailedError, match="is being closed"):
                    await operation()
            server.read_on()
        assert not (await client.receive()).ok
        assert client.close_code == 1000


# What cannot be written -----------------------------------------------------------------------------------------------


TWICE = [("Content-Length", "2"), ("content-length", "2")]
# The type of the error, its text, and the call.
BAD: list[tuple[type[InvalidError], str, Callable[[Any], Any]]] = [
    (InvalidTypeError, "subprotocol must be a str or None, not b'a'", lambda c: c.accept(subprotocol=b"a")),
    (InvalidError, "subprotocol must be one of the 1 that were offered, not 'c'", lambda c: c.accept(subprotocol="c")),
    (InvalidTypeError, "compression must be COMPRESSION.DISABLED (0), ", lambda c: c.accept(compression=True)),
    (InvalidTypeError, "headers must be a mapping or an iterable of pairs, not int", lambda c: c.accept(headers=3)),
    (InvalidTypeError, "headers must have strings as names and values", lambda c: c.accept(headers={"X": 3})),
    (InvalidError, "headers must have names without spaces", lambda c: c.accept(headers={"X Y": ""})),
    (InvalidError, "headers must have names without spaces", lambda c: c.accept(headers={"X-caf\xe9": ""})),
    (InvalidError, "headers must not contain control characters", lambda c: c.accept(headers={"X": "a\r\nB: c"})),
    (InvalidError, "headers must have values in Latin-1", lambda c: c.accept(headers={"X": "\u20ac"})),
    (InvalidError, "there is no body", lambda c: c.accept(headers={"content-length": "0"})),
    (InvalidError, "there is no body", lambda c: c.accept(headers={"Transfer-Encoding": "chunked"})),
    (InvalidTypeError, "status must be an int, not '401'", lambda c: c.reject("401")),
    (InvalidTypeError, "status must be an int, not True", lambda c: c.reject(True)),
    (InvalidError, "status must be 200 to 599, not 101", lambda c: c.reject(HTTPStatus.SWITCHING_PROTOCOLS)),
    (InvalidError, "status must be 200 to 599, not 600", lambda c: c.reject(600)),
    (InvalidTypeError, "body must be a str or bytes-like, not dict", lambda c: c.reject(400, body={})),
    (InvalidError, "body cannot be encoded as UTF-8", lambda c: c.reject(400, body="\ud800")),
    (InvalidError, "body must be empty with status 204", lambda c: c.reject(204, body="x")),
    (InvalidTypeError, "headers must be a mapping", lambda c: c.reject(401, headers="X: y")),
    (InvalidError, "headers must not contain control characters", lambda c: c.reject(401, headers={"X": "\n"})),
    (InvalidError, "headers must contain Content-Length once, as 2", lambda c: c.reject(401, body="ab", headers=TWICE)),
    (
        InvalidError,
        "headers must contain Content-Length once, as 1",
        lambda c: c.reject(401, body="a", headers=TWICE[:1]),
    ),
    (
        InvalidError,
        "must not contain 'Transfer-Encoding'",
        lambda c: c.reject(401, headers={"Transfer-Encoding": "x"}),
    ),
    (InvalidTypeError, "data must be a str or bytes-like, not int", lambda c: c.send(3)),
    (InvalidError, "data cannot be encoded as UTF-8", lambda c: c.send("\ud800")),
    (InvalidTypeError, "payload must be a str or bytes-like, not int", lambda c: c.ping(3)),
    (InvalidError, "payload must be at most 125 bytes, not 126", lambda c: c.ping(bytes(126))),
    (InvalidError, "payload must be at most 125 bytes, not 126", lambda c: c.ping("\xe4" * 63)),
    (InvalidTypeError, "raw must be bytes-like, not str: encode it", lambda c: c.send_bytes("raw")),
    (InvalidTypeError, "raw must be a str or bytes-like, not int", lambda c: c.send_bytes(3)),
    (InvalidTypeError, "code must be an int or None, not '1000'", lambda c: c.close("1000")),
    (InvalidTypeError, "code must be an int or None, not False", lambda c: c.close(False)),
    (InvalidError, "code must be 0 to 65535, not 65536", lambda c: c.close(65536)),
    (InvalidError, "code must be 0 to 65535, not -1", lambda c: c.close(-1)),
    (InvalidTypeError, "reason must be a str, not b'x'", lambda c: c.close(1000, b"x")),
    (InvalidError, "reason cannot be encoded as UTF-8", lambda c: c.close(1000, "\ud800")),
    (InvalidError, "reason must be empty without a code", lambda c: c.close(None, "x")),
]


@pytest.mark.parametrize(("kind", "said", "call"), BAD)
async def test_what_a_server_cannot_write_is_told_in_the_call_and_nothing_is_sent(
    kind: type[InvalidError], said: str, call: Callable[[Any], Any], autojump_clock: MockClock
) -> None:
    async def handler(connection: ServerConnection) -> None:
        for _ in range(2):
            with pytest.raises(InvalidError, match=re.escape(said)) as raised:
                await call(connection)
            assert type(raised.value) is kind
        await connection.accept(subprotocol="a")
        await connection.send("good")
        with pytest.raises(InvalidError, match=re.escape(said)):
            await call(connection)
        await connection.close(4000)

    async with websocket_server(handler), websocket.connect(URL, protocols=["a"]) as client:
        assert (await client.receive_value()).data == "good"
        assert not (await client.receive()).ok
    assert (client.subprotocol, client.close_code) == ("a", 4000)


async def test_whether_pings_are_answered_is_true_or_false() -> None:
    async with websocket_pair() as (_, server):
        bad: Any = "no"
        with pytest.raises(InvalidTypeError, match="answer_pings must be True or False, not 'no'"):
            server.answer_pings = bad
        assert server.answer_pings


@pytest.mark.parametrize("given", [b"ab", bytearray(b"ab"), memoryview(b"a-b-")[::2]])
async def test_anything_bytes_like_can_be_sent(given: Any) -> None:
    async with websocket_pair() as (client, server):
        await server.send(given)
        await server.send_bytes(frame(0x2, b"cd"))
        await server.send_bytes(memoryview(frame(0x2, b"ef")))
        assert [(await client.receive()).value.data for _ in range(3)] == [b"ab", b"cd", b"ef"]
        assert (await (await server.ping(given)).receive()).ok
        assert (await (await server.ping("\xe4")).receive()).ok


async def test_what_is_sent_is_as_it_was_in_the_call() -> None:
    data = bytearray(b"before")
    changed = trio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_bytes, b"first ")
            await wait_all_tasks_blocked()
            nursery.start_soon(connection.send_bytes, data)
            await wait_all_tasks_blocked()
            data[:] = b"after!"
            changed.set()

    async with websocket_server(handler):
        stream = await raw_client()
        await changed.wait()
        received = b""
        while len(received) < len(b"first before"):
            received += await stream.receive_some(100)
        assert received == b"first before"
        await stream.aclose()


@pytest.mark.parametrize(
    ("body", "given", "expected"),
    [
        ("kein Schl\xfcssel", {}, ("text/plain; charset=utf-8", "kein Schl\xfcssel".encode())),
        ('{"why": 1}', {"content-TYPE": "application/json"}, ("application/json", b'{"why": 1}')),
        (b"bytes", {}, (None, b"bytes")),
        (bytearray(b"bytes"), {}, (None, b"bytes")),
        ("", {}, ("text/plain; charset=utf-8", b"")),
    ],
)
async def test_a_rejection_may_have_text_as_its_body(
    body: Any, given: dict[str, str], expected: tuple[str | None, bytes]
) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(HTTPStatus.UNAUTHORIZED, headers=given, body=body)

    error = await refusal(handler)
    headers: Any = details(error)["headers"]
    assert (headers.get("content-type"), details(error)["body"]) == expected
    assert details(error)["status"] == 401


async def test_a_reason_may_have_line_breaks_and_is_cut() -> None:
    async with websocket_pair() as (client, server):
        await server.close(4000, "a\r\n\0" + "\u20ac" * 100)
        assert client.close_reason == "a\r\n\0" + "\u20ac" * 39
