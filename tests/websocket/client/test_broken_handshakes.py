"""What trio-websocket, wsproto and h11 raise in an opening handshake, in either task: one documented error, bare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import h11
import pytest
import trio
import trio.testing
import trio_websocket
import wsproto
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from csp import websocket
from csp.errors import ConnectionFailedError, Kind
from csp.websocket import Message
from tests.websocket._peers import Peer, acceptance, raw_server
from tests.websocket._server import Server, accepting, connecting, text
from tests.websocket.client._feed import Site, saying

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

FAILURES = [
    h11.LocalProtocolError("cannot send"),
    LocalProtocolError("not in this state"),
    RemoteProtocolError("bad answer"),
    trio_websocket.ConnectionRejected(403, (), None),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal not in range"),
    AssertionError(),
]
EVERY_FAILURE = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)


async def entered(connecting: Any) -> None:
    async with connecting:
        pytest.fail("it was opened")


async def awaited(connecting: Any) -> None:
    await connecting
    pytest.fail("it was opened")


def check(error: ConnectionFailedError, failure: Exception, server: Server) -> None:
    assert type(error) is ConnectionFailedError
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert error.__cause__ is failure
    assert str(error) == f"cannot connect to ws://server.test/feed: the opening handshake failed: {failure!r}"
    assert error.details == {"url": "ws://server.test/feed"}
    assert server.closed


def failing(failure: BaseException) -> Callable[..., Any]:
    def fail(*_given: object, **_named: object) -> None:
        raise failure

    return fail


@EVERY_FAILURE
@pytest.mark.parametrize("how", [entered, awaited])
async def test_what_the_reader_task_raises_at_the_answer_is_the_cause(
    how: Callable[[Any], Awaitable[None]],
    failure: Exception,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    server = Server()
    if isinstance(failure, RemoteProtocolError):
        # trio-websocket expects this one only.
        monkeypatch.setattr(trio_websocket.WebSocketConnection, "_handle_accept_connection_event", failing(failure))
    else:
        monkeypatch.setattr(wsproto.WSConnection, "receive_data", failing(failure))
    with pytest.raises(ConnectionFailedError) as caught:
        await how(connecting(server, nursery=nursery, dial_timeout=None))
    check(caught.value, failure, server)


@EVERY_FAILURE
async def test_what_the_reader_task_raises_at_the_request_is_the_cause(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = Server()
    monkeypatch.setattr(wsproto.WSConnection, "send", failing(failure))
    with pytest.raises(ConnectionFailedError) as caught:
        await entered(connecting(server, dial_timeout=None))
    check(caught.value, failure, server)
    assert server.request is None


@EVERY_FAILURE
async def test_what_is_raised_where_connect_was_called_is_the_cause(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = Server()
    monkeypatch.setattr(trio_websocket, "wrap_client_stream", failing(failure))
    with pytest.raises(ConnectionFailedError) as caught:
        await entered(connecting(server))
    check(caught.value, failure, server)


async def raising(error: BaseException) -> None:
    raise error


async def raising_at_its_end(error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


async def test_several_failures_are_one_cause(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    failures = KeyError(), IndexError()

    async def start_both(nursery: trio.Nursery, *_given: object, **_named: object) -> None:
        nursery.start_soon(raising, failures[0])
        nursery.start_soon(raising_at_its_end, failures[1])
        await trio.sleep_forever()

    monkeypatch.setattr(trio_websocket, "wrap_client_stream", start_both)
    with pytest.raises(ConnectionFailedError) as caught:
        await entered(connecting(Server()))
    group = cast("ExceptionGroup[Exception]", caught.value.__cause__)
    assert set(group.exceptions) == set(failures)


async def test_a_keyboard_interrupt_is_not_lost_to_a_failure(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def interrupt(nursery: trio.Nursery, *_given: object, **_named: object) -> None:
        nursery.start_soon(raising_at_its_end, KeyError())
        await trio.testing.wait_all_tasks_blocked()
        raise KeyboardInterrupt

    monkeypatch.setattr(trio_websocket, "wrap_client_stream", interrupt)
    with pytest.raises(KeyboardInterrupt):
        await entered(connecting(Server()))


async def test_a_feed_tries_again_after_a_failure(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    failures = [h11.LocalProtocolError("first"), KeyError()]
    receive_data = wsproto.WSConnection.receive_data

    def fail_twice(self: wsproto.WSConnection, data: bytes | None) -> None:
        if failures:
            raise failures.pop()
        receive_data(self, data)

    monkeypatch.setattr(wsproto.WSConnection, "receive_data", fail_twice)
    site = Site(Server(), Server(), saying(text("a")))
    async with site.feed() as feed:
        assert await feed.receive() == (Message("text", "a"), True)
    assert [server.closed for server in site.servers] == [True] * 3


@pytest.mark.parametrize("no_space", [b"\xa0", b"\x85", b"\x1c", b"\x1d", b"\x1e", b"\x1f"], ids=bytes.hex)
async def test_an_accept_key_with_bytes_that_are_no_spaces_in_http_is_refused(no_space: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(acceptance(peer.request).replace(b"Accept: ", b"Accept: " + no_space))

    async with raw_server(serve) as url:
        with pytest.raises(ConnectionFailedError, match="Sec-WebSocket-Accept header does not match") as caught:
            await entered(websocket.connect(url))
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)


async def test_a_feed_tries_again_after_such_an_answer(autojump_clock: MockClock) -> None:
    bad = Server(lambda request: accepting(request).replace(b"Accept: ", b"Accept: \xa0"))
    async with Site(bad, saying(text("a"))).feed() as feed:
        assert await feed.receive() == (Message("text", "a"), True)
