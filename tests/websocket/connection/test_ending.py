"""How a connection ended. First, in the table that decides: which endings are errors, of which kind, and whether a new
connection may go better. Then of whole connections: every way to end, in memory and over a socket, entered and awaited,
what it tells, and that nothing is left.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._peers import driver_tasks, open_sockets
from tests.websocket._server import BINARY, CLOSE, ENDED, PING, TEXT, Server, close, connecting, frame, text
from trio_csp_websocket.connection.ending import closed_by_peer, failed_by_us, lost, stalled, write_timed_out
from trio_csp_websocket.protocol.close import ForbiddenCodeViolation
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.frames import ProtocolViolation
from trio_csp_websocket.transport.socket import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from csp.websocket import Client
    from trio_csp_websocket.client.connect import Connecting
    from trio_csp_websocket.transport.base import Transport


def error_of(error: ConnectionFailedError | None) -> ConnectionFailedError:
    assert error is not None
    return error


@pytest.mark.parametrize("code", [1000, 1001, 1005])
def test_a_peer_that_has_finished_is_no_error(code: int) -> None:
    assert closed_by_peer(code, "done", closing=False) == (code, "done", None)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_peers_error_code_is_an_unavailable_error(code: int) -> None:
    ending = closed_by_peer(code, "why", closing=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (code, "why")
    assert error.kind is Kind.UNAVAILABLE
    assert error.retryable is (code in (1011, 1012, 1013, 1014))
    assert error.details == {"code": code, "reason": "why"}
    assert str(code) in str(error)
    assert str(error).endswith(": why")


@pytest.mark.parametrize("code", [1000, 1002, 1011, 4000])
def test_any_answer_to_our_close_is_no_error(code: int) -> None:
    assert closed_by_peer(code, "why", closing=True) == (code, "why", None)


def test_the_text_names_a_known_code_and_a_reason_if_there_is_one() -> None:
    known = error_of(closed_by_peer(1013, "", closing=False).error)
    assert str(known) == "the peer closed the connection with code 1013 (TRY_AGAIN_LATER)"
    private = error_of(closed_by_peer(4000, "go", closing=False).error)
    assert str(private) == "the peer closed the connection with code 4000: go"


@pytest.mark.parametrize("code", [CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_PAYLOAD, CloseCode.MESSAGE_TOO_BIG])
def test_our_verdict_is_an_internal_error_and_not_retryable(code: CloseCode) -> None:
    ending = failed_by_us(ProtocolViolation(code, "bad"), closing=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (code, "bad")
    assert error.kind is Kind.INTERNAL
    assert error.retryable is False
    assert error.details == {"code": int(code), "reason": "bad"}
    assert "bad" in str(error)


def test_our_verdict_after_our_close_is_no_error() -> None:
    violation = ProtocolViolation(CloseCode.PROTOCOL_ERROR, "bad")
    assert failed_by_us(violation, closing=True) == (1002, "bad", None)


@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015, 2999, 5000, 65_535])
def test_a_close_with_a_code_that_must_not_be_sent_is_unavailable_and_retryable(code: int) -> None:
    ending = failed_by_us(ForbiddenCodeViolation(code, "stale"), closing=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (1002, f"a close frame has the invalid code {code}")
    assert type(error) is ConnectionFailedError
    assert error.kind is Kind.UNAVAILABLE
    assert error.retryable is True
    assert error.details == {"code": code, "reason": "stale"}


def test_the_text_says_that_a_code_must_not_be_sent() -> None:
    known = error_of(failed_by_us(ForbiddenCodeViolation(1006, "stale connection"), closing=False).error)
    assert str(known) == (
        "the peer closed the connection with code 1006 (ABNORMAL_CLOSURE), which must not be sent: stale connection"
    )
    unknown = error_of(failed_by_us(ForbiddenCodeViolation(5000, ""), closing=False).error)
    assert str(unknown) == "the peer closed the connection with code 5000, which must not be sent"


def test_such_a_close_after_our_own_is_no_error() -> None:
    ending = failed_by_us(ForbiddenCodeViolation(1006, "stale"), closing=True)
    assert ending == (1002, "a close frame has the invalid code 1006", None)


def test_a_lost_connection_is_1006_unavailable_and_retryable() -> None:
    ending = lost("reset", closing=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (1006, "")
    assert error.kind is Kind.UNAVAILABLE
    assert error.retryable is True
    assert error.details == {"code": 1006, "reason": ""}
    assert str(error) == "the connection was lost: reset"


def test_a_connection_lost_after_our_close_is_no_error() -> None:
    assert lost("reset", closing=True) == (1006, "", None)


def test_a_peer_that_stalled_is_told_so_with_1011_and_is_a_retryable_timeout() -> None:
    ending = stalled("no message within 5 s")
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (1011, "no message within 5 s")
    assert type(error) is ConnectionTimeoutError
    assert error.kind is Kind.TIMEOUT
    assert error.retryable is True
    assert error.details == {"code": 1011, "reason": "no message within 5 s"}
    assert str(error) == "the connection timed out: the peer has sent no message within 5 s"


def test_a_write_that_timed_out_is_1006_and_a_retryable_timeout() -> None:
    ending = write_timed_out("it was not written within 2 s", closing=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (1006, "")
    assert type(error) is ConnectionTimeoutError
    assert error.kind is Kind.TIMEOUT
    assert error.retryable is True
    assert error.details == {"code": 1006, "reason": ""}
    assert str(error) == "the connection timed out: it was not written within 2 s"


def test_a_write_that_timed_out_after_our_close_is_no_error() -> None:
    assert write_timed_out("it was not written within 2 s", closing=True) == (1006, "", None)


def test_only_timeouts_are_timeout_errors() -> None:
    for ending in (
        closed_by_peer(1011, "", closing=False),
        failed_by_us(ProtocolViolation(CloseCode.PROTOCOL_ERROR, ""), closing=False),
        lost("", closing=False),
    ):
        assert type(ending.error) is ConnectionFailedError


def test_codes_in_details_are_plain_ints() -> None:
    for ending in (
        stalled("nothing"),
        write_timed_out("late", closing=False),
        closed_by_peer(CloseCode.INTERNAL_ERROR, "", closing=False),
        failed_by_us(ProtocolViolation(CloseCode.PROTOCOL_ERROR, ""), closing=False),
        lost("", closing=False),
    ):
        details = error_of(ending.error).details
        assert type(details["code"]) is int


# Whole connections ----------------------------------------------------------------------------------------------------

# More than the system buffers between two sockets.
LARGE = bytes(1024 * 1024)


class Link:
    """A scripted server and the way to it: memory, or a pair of sockets."""

    def __init__(self, nursery: trio.Nursery, *, socket: bool) -> None:
        self.server = Server()
        self._sockets_before = open_sockets()
        self._nursery = nursery
        self._relaying = trio.CancelScope()
        self._theirs: trio.SocketStream | None = None
        self._socket = socket

    def connecting(self, **options: Any) -> Connecting:
        return connecting(self.server, reach=self._dial if self._socket else None, **options)

    async def _dial(self) -> Transport:
        ours, theirs = trio.socket.socketpair()
        self._theirs = trio.SocketStream(theirs)
        self._nursery.start_soon(self._hold, self._theirs)
        self._nursery.start_soon(self._relay, self._theirs)
        return SocketTransport(trio.SocketStream(ours))

    async def _relay(self, theirs: trio.SocketStream) -> None:
        with self._relaying:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._relay_outwards, theirs)
                while data := await theirs.receive_some():
                    await self.server.stream.send_all(data)

    async def _relay_outwards(self, theirs: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # the client is gone
            while data := await self.server.stream.receive_some():
                await theirs.send_all(data)
            await theirs.send_eof()

    async def _hold(self, theirs: trio.SocketStream) -> None:
        """Close the server's socket at the end of a test, also of one that fails."""
        async with theirs:
            await trio.sleep_forever()

    async def reset(self, client: Client) -> None:
        """Break the connection."""
        if self._theirs is None:
            self.server.reset()
            return
        self._relaying.cancel()
        await wait_all_tasks_blocked()
        # A socket of a pair that is closed with something unread is reset.
        await client.send("unread")
        await self._theirs.aclose()

    async def check_nothing_left(self) -> None:
        assert driver_tasks() == []
        if self._theirs is None:
            assert self.server.closed
            return
        self._relaying.cancel()
        await wait_all_tasks_blocked()
        # One socket is still open, and it is not the client's.
        with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            while await self._theirs.receive_some():
                pass
        await self._theirs.aclose()
        assert open_sockets() == self._sockets_before


class Failure(NamedTuple):
    """What `client.error` is expected to be, besides its code and reason."""

    kind: Kind
    retryable: bool
    type: type[ConnectionFailedError] = ConnectionFailedError


LOST = Failure(Kind.UNAVAILABLE, retryable=True)
TOLD = Failure(Kind.UNAVAILABLE, retryable=False)
VERDICT = Failure(Kind.INTERNAL, retryable=False)
STALLED = Failure(Kind.TIMEOUT, retryable=True, type=ConnectionTimeoutError)


class Way(NamedTuple):
    """A way to end."""

    deed: Callable[[Client, Link], Awaitable[object]]
    code: int
    reason: str
    failure: Failure | None
    told: list[int | None]
    """The codes of the close frames that the server gets."""
    options: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple's defaults are read only
    details: dict[str, object] | None = None
    """Those of the error, if they are not code and reason."""


def sends(*data: bytes) -> Callable[[Client, Link], Awaitable[None]]:
    async def send(_client: Client, link: Link) -> None:
        link.server.send(*data)

    return send


def closes(code: int, reason: str = "") -> Callable[[Client, Link], Awaitable[None]]:
    async def do(client: Client, _link: Link) -> None:
        await client.close(code, reason)

    return do


def closes_and_gets(*answer: bytes) -> Callable[[Client, Link], Awaitable[None]]:
    async def do(client: Client, link: Link) -> None:
        link.server.answers_close = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.close, 4000, "enough")
            await trio.sleep(1)
            link.server.send(*answer)
            link.server.end()

    return do


async def closes_in_vain(client: Client, link: Link) -> None:
    link.server.answers_close = False
    await client.close(4000, "enough")


async def ends(_client: Client, link: Link) -> None:
    link.server.end()


async def ends_in_mid_message(_client: Client, link: Link) -> None:
    link.server.send(frame(TEXT, b"incomplete")[:5])
    link.server.end()


async def ends_instead_of_answering(client: Client, link: Link) -> None:
    link.server.answers_close = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await trio.sleep(1)
        link.server.end()


async def is_reset(client: Client, link: Link) -> None:
    await link.reset(client)


async def is_silent(_client: Client, _link: Link) -> None:
    await trio.sleep(100)


async def does_not_read(client: Client, link: Link) -> None:
    link.server.stop_reading()
    with pytest.raises(ConnectionTimeoutError) as caught:
        await client.send(LARGE)
    assert caught.value.__cause__ is client.error


async def does_not_read_while_we_close(client: Client, link: Link) -> None:
    async def send() -> None:
        with pytest.raises(ConnectionTimeoutError):
            await client.send(LARGE)

    link.server.stop_reading()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(1)
        nursery.start_soon(client.close)


RETRYABLE_CODES = (1011, 1012, 1013, 1014)
ERROR_CODES = (1002, 1003, *range(1007, 1015), 3000, 4999)
SENDABLE_CODES = (1000, 1001, *ERROR_CODES)
FORBIDDEN_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)

WAYS = {
    **{f"peer closes with {code}": Way(sends(close(code, "why")), code, "why", None, [code]) for code in (1000, 1001)},
    "peer closes without a code": Way(sends(close()), 1005, "", None, [None]),
    **{
        f"peer closes with {code}": Way(
            sends(close(code, "why")), code, "why", LOST if code in RETRYABLE_CODES else TOLD, [code]
        )
        for code in ERROR_CODES
    },
    **{
        f"peer closes with {code}": Way(
            sends(close(code, "why")),
            1002,
            f"a close frame has the invalid code {code}",
            LOST,
            [1002],
            details={"code": code, "reason": "why"},
        )
        for code in FORBIDDEN_CODES
    },
    "peer closes with half a code": Way(
        sends(frame(CLOSE, b"\x03")), 1002, "a close frame has one byte instead of a code of two", VERDICT, [1002]
    ),
    "peer closes with a reason that is not UTF-8": Way(
        sends(frame(CLOSE, b"\x03\xe8\xff")), 1007, "a close frame's reason is not UTF-8", VERDICT, [1007]
    ),
    "peer closes and hangs up": Way(sends(close(1000), b"noise"), 1000, "", None, [1000]),
    **{f"we close with {code}": Way(closes(code, "why"), 1000, "", None, [code]) for code in SENDABLE_CODES},
    "we close and the peer answers with another code": Way(
        closes_and_gets(text("discarded"), close(1008, "no")), 1008, "no", None, [4000]
    ),
    "we close and the peer breaks the protocol": Way(
        closes_and_gets(frame(TEXT, b"x", reserved=0x20)), 1002, "a reserved bit is set", None, [4000]
    ),
    "we close and the peer answers with a code that must not be sent": Way(
        closes_and_gets(close(1006, "stale")), 1002, "a close frame has the invalid code 1006", None, [4000]
    ),
    "we close and the peer does not answer": Way(closes_in_vain, 1006, "", None, [4000]),
    "we close and the peer ends the stream": Way(ends_instead_of_answering, 1006, "", None, [1000]),
    "end of the stream": Way(ends, 1006, "", LOST, []),
    "end of the stream in mid message": Way(ends_in_mid_message, 1006, "", LOST, []),
    "reset": Way(is_reset, 1006, "", LOST, []),
    "read timeout": Way(is_silent, 1011, "no message within 5 s", STALLED, [1011], {"read_timeout": "5s"}),
    "keepalive timeout": Way(is_silent, 1011, "nothing for 4 s after a ping", STALLED, [1011], {"keepalive": "4s"}),
    "write timeout": Way(does_not_read, 1006, "", STALLED, [], {"write_timeout": "3s"}),
    "write timeout while we close": Way(does_not_read_while_we_close, 1006, "", None, [], {"write_timeout": "3s"}),
    "reserved bit": Way(sends(frame(TEXT, b"x", reserved=0x20)), 1002, "a reserved bit is set", VERDICT, [1002]),
    "fragmented ping": Way(sends(frame(PING, fin=False)), 1002, "a control frame is fragmented", VERDICT, [1002]),
    "text that is not UTF-8": Way(sends(frame(TEXT, b"\xff")), 1007, "a text message is not UTF-8", VERDICT, [1007]),
    "message too big": Way(
        sends(frame(BINARY, bytes(101))),
        1009,
        "a message of at least 101 bytes, more than 100",
        VERDICT,
        [1009],
        {"read_limit": 100},
    ),
}


async def begin(client: Client, link: Link) -> None:
    """Receive one of two messages; the other stays in the channel."""
    assert (client.close_code, client.close_reason, client.error) == (None, None, None)
    link.server.send(text("first"), text("second"))
    assert (await client.receive()).value.data == "first"


def check_told(
    client: Client, code: int, reason: str, failure: Failure | None, details: dict[str, object] | None = None
) -> None:
    assert (client.close_code, client.close_reason) == (code, reason)
    error = client.error
    if failure is None:
        assert error is None
        return
    assert error is not None
    assert type(error) is failure.type
    assert (error.kind, error.retryable) == (failure.kind, failure.retryable)
    assert error.details == (details or {"code": code, "reason": reason})
    assert isinstance(error, ConnectionError)
    assert isinstance(error, TimeoutError) is (failure.kind is Kind.TIMEOUT)


async def check_received(client: Client, failure: Failure | None) -> None:
    """Check what is still to be had from the channel, and its end in every form."""
    assert (await client.receive()).value.data == "second"
    for _ in range(2):
        assert await client.receive() == ENDED
    channel = client.channel()
    assert channel.closed
    assert channel.cause is client.error
    if failure is None:
        assert [message async for message in client] == []
        assert [message async for message in channel] == []
    else:
        for source in (client, channel):
            with pytest.raises(failure.type) as caught:
                await anext(aiter(source))
            assert caught.value is not client.error
            assert caught.value.__cause__ is client.error
            assert (caught.value.kind, caught.value.retryable) == (failure.kind, failure.retryable)


async def check_unusable(client: Client) -> None:
    for deed in (lambda: client.send("more"), client.ping):
        with pytest.raises(
            ConnectionFailedError, match=rf"the connection has ended \(code {client.close_code}\)"
        ) as caught:
            await deed()
        assert not isinstance(caught.value, ConnectionTimeoutError)
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        if client.error is not None:
            assert caught.value.__cause__ is client.error
    with trio.fail_after(0.001):
        await client.close(4001, "too late")
    assert repr(client).startswith(f"<csp.websocket.Client ended with {client.close_code}, ")


async def check_end(client: Client, way: Way) -> None:
    with trio.fail_after(100):
        await client._connection.finished.wait()
    check_told(client, way.code, way.reason, way.failure, way.details)
    await check_received(client, way.failure)
    await check_unusable(client)
    # Nothing that came afterwards has changed it.
    check_told(client, way.code, way.reason, way.failure, way.details)


over = pytest.mark.parametrize("socket", [False, True], ids=["in memory", "over a socket"])


@over
@pytest.mark.parametrize("awaited", [False, True], ids=["entered", "awaited"])
@pytest.mark.parametrize("name", WAYS)
async def test_an_end_is_told_alike_wherever_one_looks(
    name: str, awaited: bool, socket: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    way, link = WAYS[name], Link(nursery, socket=socket)
    if awaited:
        async with trio.open_nursery() as callers:
            client = await link.connecting(**way.options, nursery=callers)
            await begin(client, link)
            await way.deed(client, link)
            await check_end(client, way)
    else:
        async with link.connecting(**way.options) as client:
            await begin(client, link)
            await way.deed(client, link)
            await check_end(client, way)
    check_told(client, way.code, way.reason, way.failure, way.details)
    await link.check_nothing_left()
    assert link.server.closes == way.told


@over
async def test_the_end_of_a_cancelled_block(socket: bool, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    link, client = Link(nursery, socket=socket), None
    with trio.CancelScope() as scope:
        async with link.connecting() as client:
            await begin(client, link)
            scope.cancel()
            await client.receive()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert client is not None
    check_told(client, 1006, "", LOST)
    assert str(client.error) == "the connection was lost: its block was cancelled"
    await check_received(client, LOST)
    await check_unusable(client)
    await wait_all_tasks_blocked()
    await link.check_nothing_left()
    assert link.server.closes == [1001]


@over
async def test_the_end_of_a_block_that_raised(socket: bool, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    link, client, mine, came_out = Link(nursery, socket=socket), None, ValueError("mine"), None
    try:
        async with link.connecting() as client:
            await begin(client, link)
            raise mine
    except ValueError as error:
        came_out = error
    assert came_out is mine
    assert mine.__context__ is None
    assert client is not None
    check_told(client, 1000, "", None)
    await check_received(client, None)
    await check_unusable(client)
    await link.check_nothing_left()
    assert link.server.closes == [1011]


@over
async def test_the_end_of_an_awaited_connection_whose_nursery_is_cancelled(
    socket: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    link = Link(nursery, socket=socket)
    async with trio.open_nursery() as callers:
        client = await link.connecting(nursery=callers)
        await begin(client, link)
        callers.cancel_scope.cancel()
    check_told(client, 1006, "", LOST)
    await check_received(client, LOST)
    await check_unusable(client)
    await wait_all_tasks_blocked()
    await link.check_nothing_left()
    assert link.server.closes == [1001]


@over
@pytest.mark.parametrize("name", ["peer closes with 1000", "reset", "read timeout", "write timeout", "reserved bit"])
async def test_an_end_while_everybody_waits_wakes_everybody(
    name: str, socket: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    way, link = WAYS[name], Link(nursery, socket=socket)
    woken: list[str] = []

    async def receive(client: Client) -> None:
        assert await client.receive() == ENDED
        woken.append("receive")

    async def iterate(client: Client) -> None:
        with contextlib.suppress(ConnectionFailedError):
            async for _ in client:
                pytest.fail("there is a message")
        woken.append("iterate")

    async def wait_for_pong(client: Client) -> None:
        answer = await client.ping()
        assert not (await answer.receive()).ok
        woken.append("pong")

    async with link.connecting(**way.options) as client:
        async with trio.open_nursery() as users:
            for user in (receive, iterate, wait_for_pong):
                users.start_soon(user, client)
            await wait_all_tasks_blocked()
            await way.deed(client, link)
        assert sorted(woken) == ["iterate", "pong", "receive"]
        check_told(client, way.code, way.reason, way.failure, way.details)
    await link.check_nothing_left()
