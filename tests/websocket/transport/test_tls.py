"""TLS as a transport: over memory streams, over a socket pair with little room, and what it says of errors."""

from __future__ import annotations

import contextlib
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.websocket._forging import Forger, forgeable
from tests.websocket._links import SMALL_BUFFER_BYTES
from tests.websocket._peers import LIMIT_SECONDS, until
from tests.websocket.transport._pairs import outcome_of
from trio_csp_websocket.connection.writer import Writer
from trio_csp_websocket.protocol.encoder import MaskingEncoder
from trio_csp_websocket.transport.base import SLICE_BYTES
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport
from trio_csp_websocket.transport.tls import TlsTransport
from trio_csp_websocket.transport.tls_reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Self

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport

KIB = 1024
MIB = 1024 * KIB
ALL = 1 << 24

AUTHORITY = trustme.CA()


def serving(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("server.test").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


class Server:
    """The other side of TLS, without I/O: what it makes is fetched, and what it gets is given to it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.alerted = False

    def shake_hands(self, arrived: bytes) -> bytes:
        """Go on with the handshake; return what to send."""
        self._incoming.write(arrived)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def records(self, *messages: bytes) -> bytes:
        """Return a record, or several, for each message."""
        for message in messages:
            self.tls.write(message)
        return self._outgoing.read()

    def alert(self) -> bytes:
        """Return a closure alert."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()

    def decrypt(self, arrived: bytes) -> bytes:
        """Return what is in what has arrived, and note a closure alert."""
        self._incoming.write(arrived)
        data = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self.tls.read(ALL):
                data += piece
            self.alerted = True
        return data


async def connect(inner: Transport, wire: trio.abc.Stream, server: Server, client: ssl.SSLContext) -> TlsTransport:
    """Return a transport whose handshake is done, and all that belongs to it received."""
    transport = TlsTransport(inner, client, "server.test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        for _ in range(2):
            await wire.send_all(server.shake_hands(bytes(await wire.receive_some(ALL))) + b"")
    assert await transport.receive_now(100) is None
    return transport


class OverMemory:
    """A client over memory streams, and its server."""

    transport: TlsTransport

    def __init__(self, server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None) -> None:
        self.ours, self.wire = memory_stream_pair()
        self.server = Server(server or serving())
        self._inner = StreamTransport(self.ours)
        self._client = client or trusting()

    async def __aenter__(self) -> Self:
        self.transport = await connect(self._inner, self.wire, self.server, self._client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.aclose()
        await self.wire.aclose()


class OverSockets:
    """A client over a socket pair with little room, and its server."""

    transport: TlsTransport

    def __init__(self, server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        self.wire = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.server = Server(server or serving())
        self.inner = SocketTransport(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self._client = client or trusting()

    async def __aenter__(self) -> Self:
        self.transport = await connect(self.inner, self.wire, self.server, self._client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.aclose()
        await self.wire.aclose()

    async def take(self, size: int) -> bytes:
        """Receive until the server has decrypted so much."""
        data = b""
        while len(data) < size:
            data += self.server.decrypt(bytes(await self.wire.receive_some(ALL)))
        return data

    def fill(self) -> bytes:
        """Send at once until something is pending; return what was encrypted."""
        sent = b""
        while not self.transport.pending:
            piece = b"%07d|" % len(sent) * 1000
            sent += piece[: self.transport.send_now(piece)]
        return sent


class Stub(ssl.SSLContext):
    """A context that answers with a fake instead of OpenSSL."""

    fake: Any

    def wrap_bio(self, *_arguments: object, **_options: object) -> Any:
        return self.fake


both_versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
over_both = pytest.mark.parametrize("over", [OverMemory, OverSockets])


# Receiving ------------------------------------------------------------------------------------------------------------


@both_versions
@over_both
async def test_messages_go_both_ways_and_are_counted_above_tls(
    version: ssl.TLSVersion, over: type[OverMemory | OverSockets]
) -> None:
    async with over(serving(version)) as link:
        assert link.server.tls.version() == version.name.replace("_", ".")
        await link.wire.send_all(link.server.records(b"hello", b"", b" and more"))
        assert await link.transport.receive_some(100) == b"hello and more"
        await link.transport.send_all(b"answer")
        assert link.server.decrypt(bytes(await link.wire.receive_some(ALL))) == b"answer"
        assert (link.transport.bytes_received, link.transport.bytes_sent) == (14, 6)
        await link.wire.send_all(link.server.records(b"without waiting"))
        assert await link.transport.receive_now(100) == b"without waiting"
        assert await link.transport.receive_now(100) is None


@both_versions
async def test_a_record_may_be_cut_at_every_byte(version: ssl.TLSVersion) -> None:
    async with OverMemory(serving(version)) as link:
        size = len(link.server.records(b"x"))
    async with OverMemory(serving(version)) as link:
        for cut in range(1, size):
            record = link.server.records(b"x")
            await link.wire.send_all(record[:cut])
            assert await link.transport.receive_now(100) is None
            await link.wire.send_all(record[cut:] + link.server.records(b"y"))
            assert await link.transport.receive_some(100) == b"xy"


async def test_no_more_than_asked_for_is_received_and_the_rest_needs_no_arrival() -> None:
    async with OverMemory() as link:
        await link.wire.send_all(link.server.records(b"abcdef", b"ghi"))
        for expected in (b"ab", b"cdef", b"ghi"):
            assert await link.transport.receive_some(len(expected)) == expected
        assert await link.transport.receive_now(10) is None
        await link.wire.send_all(link.server.records(b"abcdef"))
        assert await link.transport.receive_some(3) == b"abc"
        assert await link.transport.receive_now(3) == b"def"
        with trio.move_on_after(0) as scope:
            await link.transport.receive_some(3)
        assert scope.cancelled_caught


async def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    async with OverMemory() as link:
        record = link.server.records(b"abc")
        await link.wire.send_all(record[:10])
        for _ in range(2):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel(scope: trio.CancelScope = scope) -> None:
                        await wait_all_tasks_blocked()
                        scope.cancel()

                    nursery.start_soon(cancel)
                    await link.transport.receive_some(100)
            assert scope.cancelled_caught
        await link.wire.send_all(record[10:] + link.server.records(b"def"))
        assert await link.transport.receive_some(4) == b"abcd"
        with trio.CancelScope() as scope:
            scope.cancel()
            await link.transport.receive_some(100)
        assert scope.cancelled_caught
        assert await link.transport.receive_some(100) == b"ef"


@pytest.mark.parametrize("more", [False, True])
async def test_every_receive_lets_others_run_once(more: bool) -> None:
    async with OverSockets() as link, trio.open_nursery() as nursery:
        await link.wire.send_all(link.server.records(b"abcdef"))
        if more:
            assert await link.transport.receive_some(1) == b"a"
        passes = 0

        async def count() -> None:
            nonlocal passes
            while True:
                passes += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        await link.transport.receive_some(1)
        assert passes <= 1
        await link.transport.receive_some(1)
        assert 1 <= passes <= 2
        nursery.cancel_scope.cancel()


# The peer's end -------------------------------------------------------------------------------------------------------


@both_versions
async def test_a_closure_alert_is_the_end_behind_the_data(version: ssl.TLSVersion) -> None:
    async with OverMemory(serving(version)) as link:
        await link.wire.send_all(link.server.records(b"last") + link.server.alert() + b"not looked at")
        assert await link.transport.receive_some(100) == b"last"
        for _ in range(2):
            assert await link.transport.receive_some(100) == b""
            assert await link.transport.receive_now(100) == b""


@pytest.mark.parametrize("cut", [0, 10])
async def test_the_end_of_what_is_beneath_is_an_end_even_within_a_record(cut: int) -> None:
    async with OverMemory() as link:
        await link.wire.send_all(link.server.records(b"last") + link.server.records(b"cut")[:cut])
        await link.wire.send_eof()
        assert await link.transport.receive_some(100) == b"last"
        for _ in range(2):
            assert await link.transport.receive_some(100) == b""
            assert await link.transport.receive_now(100) == b""


@over_both
async def test_noise_breaks_the_connection_behind_the_data_and_is_told_to_the_peer(
    over: type[OverMemory | OverSockets],
) -> None:
    async with over() as link:
        record = bytearray(link.server.records(b"changed"))
        record[-1] ^= 1
        await link.wire.send_all(link.server.records(b"") + record)
        for receive in (link.transport.receive_some, link.transport.receive_some, link.transport.receive_now):
            with pytest.raises(trio.BrokenResourceError, match="BAD_RECORD_MAC") as caught:
                await receive(100)
            assert isinstance(caught.value.__cause__, ssl.SSLError)
        # Over memory it waits for whoever sends.
        assert link.transport.pending == (over is OverMemory)
        if link.transport.pending:
            await link.transport.send_all(b"")
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            link.server.decrypt(bytes(await link.wire.receive_some(ALL)))
        with pytest.raises(trio.BrokenResourceError, match=r"\w"):
            await link.transport.send_all(b"x")


async def test_data_ahead_of_noise_is_received_first() -> None:
    async with OverMemory() as link:
        await link.wire.send_all(link.server.records(b"good") + b"this is no TLS")
        assert await link.transport.receive_some(100) == b"good"
        with pytest.raises(trio.BrokenResourceError, match="WRONG_VERSION_NUMBER"):
            await link.transport.receive_some(100)


# What reading has to say ----------------------------------------------------------------------------------------------


def asking() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server that asks for a certificate later, and of a client that has one."""
    server, client = serving(ssl.TLSVersion.TLSv1_3), trusting()
    server.verify_mode = ssl.CERT_REQUIRED
    server.post_handshake_auth = client.post_handshake_auth = True
    AUTHORITY.configure_trust(server)  # pyright: ignore[reportUnknownMemberType]  # the same
    AUTHORITY.issue_cert("client@example.com").configure_cert(client)  # pyright: ignore[reportUnknownMemberType]  # the same
    return server, client


async def test_a_silent_client_answers_a_server_that_asks_for_its_certificate() -> None:
    async with OverSockets(*asking()) as link:
        link.server.tls.verify_client_post_handshake()
        await link.wire.send_all(link.server.records(b"who are you?"))
        assert await link.transport.receive_some(100) == b"who are you?"
        while link.server.tls.getpeercert() is None:
            # It may have no room for all at once, so another frame brings the rest.
            await link.transport.send_all(b"")
            link.server.decrypt(bytes(await link.wire.receive_some(ALL)))


@pytest.mark.parametrize("listens", [True, False])
async def test_an_answer_that_cannot_be_written_at_once_is_pending_and_told_of(listens: bool) -> None:
    async with OverMemory(*asking()) as link:
        calls: list[bool] = []
        if listens:
            link.transport.on_pending = lambda: calls.append(link.transport.pending)
        link.server.tls.verify_client_post_handshake()
        await link.wire.send_all(link.server.records(b"who are you?"))
        assert await link.transport.receive_some(100) == b"who are you?"
        assert (calls, link.transport.pending) == ([True] * listens, True)
        await link.transport.send_all(b"me")
        assert not link.transport.pending
        assert link.server.decrypt(bytes(await link.wire.receive_some(ALL))) == b"me"
        assert link.server.tls.getpeercert() is not None


async def test_an_answer_to_a_peer_that_is_gone_breaks_the_writer_and_not_the_reader() -> None:
    async with OverSockets(*asking()) as link:
        link.server.tls.verify_client_post_handshake()
        await link.wire.send_all(link.server.records(b"bye"))
        await link.wire.aclose()
        assert await link.transport.receive_some(100) == b"bye"
        assert await link.transport.receive_some(100) == b""
        assert link.transport.pending
        with pytest.raises(trio.BrokenResourceError):
            await link.transport.send_all(b"")


async def test_a_key_update_is_followed_and_answered(tmp_path: Path) -> None:
    context = serving()
    forgeable(context, tmp_path / "keys")
    async with OverMemory(context) as link:
        forger = Forger(context)
        await link.wire.send_all(forger.key_update() + forger.data(b"under new keys"))
        assert await link.transport.receive_some(100) == b"under new keys"
        await link.transport.send_all(b"mine, too")
        answer = bytes(await link.wire.receive_some(ALL))
        # The client's own update has gone out ahead of the data: two records.
        assert len(answer) == (5 + 5 + 17) + (5 + 9 + 17)
        assert link.server.decrypt(answer) == b"mine, too"


# A server that makes TLS answer, and does not read --------------------------------------------------------------------


class Flood:
    """A server that has much to say which TLS answers, and a client that receives what is behind it."""

    def __init__(self, transport: TlsTransport, wire: trio.abc.Stream, records: bytes) -> None:
        self.transport = transport
        self.wire = wire
        self.records = records
        self.sent = 0
        self.most = 0
        """The most that waited to be sent of what TLS has to say."""

    async def send(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            for start in range(0, len(self.records), 4 * KIB):
                piece = self.records[start : start + 4 * KIB]
                await self.wire.send_all(piece)
                self.sent += len(piece)
                self.most = max(self.most, self.waiting)

    async def receive(self) -> None:
        assert await self.transport.receive_some(100) == b"behind it"

    async def read_all(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while await self.wire.receive_some(ALL):
                self.most = max(self.most, self.waiting)

    @property
    def waiting(self) -> int:
        return self.transport._outgoing.pending


async def cancel_once(scope: trio.CancelScope, condition: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        await until(condition)
    await wait_all_tasks_blocked()
    scope.cancel()


def requests_each(forger: Forger) -> bytes:
    return b"".join(forger.requests(1) for _ in range(10_000))


def requests_in_large_records(forger: Forger) -> bytes:
    return b"".join(forger.requests(600) for _ in range(8))


def key_updates(forger: Forger) -> bytes:
    return b"".join(forger.key_update() for _ in range(20_000))


# With the most that one block brings, on top of 64 KiB. It may be the end of two records. TLS answers a request with
# some 1.2 KB here, and a key update with as much as it takes.
@pytest.mark.parametrize(
    ("forge", "most_bytes"),
    [(requests_each, 600 * KIB), (requests_in_large_records, 1700 * KIB), (key_updates, 256 * KIB)],
)
async def test_nothing_is_read_while_tls_has_too_much_to_say_and_reading_goes_on_when_it_is_sent(
    forge: Callable[[Forger], bytes], most_bytes: int, tmp_path: Path
) -> None:
    server, client = asking()
    server.verify_mode = ssl.CERT_NONE
    forgeable(server, tmp_path / "keys")
    async with OverSockets(server, client) as link, trio.open_nursery() as nursery:
        Writer(link.transport, nursery, MaskingEncoder())
        forger = Forger(server)
        flood = Flood(link.transport, link.wire, forge(forger) + forger.data(b"behind it"))
        nursery.start_soon(flood.send)
        with trio.CancelScope() as resting:
            nursery.start_soon(cancel_once, resting, lambda: flood.waiting >= 64 * KIB)
            await flood.receive()
        assert resting.cancelled_caught
        # Although there is something to read, and TLS could make it plain.
        assert await link.transport.receive_now(100) is None
        # The server reads at last.
        nursery.start_soon(flood.read_all)
        with trio.fail_after(LIMIT_SECONDS):
            await flood.receive()
        assert flood.most <= 64 * KIB + most_bytes
        await wait_all_tasks_blocked()
        assert (flood.waiting, link.transport.pending) == (0, False)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["aclose", "send_eof"])
async def test_a_reader_that_rests_is_woken_by_the_end_of_ours(end: str, tmp_path: Path) -> None:
    server, client = asking()
    server.verify_mode = ssl.CERT_NONE
    forgeable(server, tmp_path / "keys")
    async with OverSockets(server, client) as link, trio.open_nursery() as nursery:
        flood = Flood(link.transport, link.wire, requests_each(Forger(server)))
        outcome: list[str] = []
        nursery.start_soon(flood.send)
        nursery.start_soon(outcome_of, flood.receive, outcome)
        with trio.fail_after(LIMIT_SECONDS):
            await until(lambda: flood.waiting >= 64 * KIB)
            await wait_all_tasks_blocked()
            assert flood.sent < len(flood.records)
            await getattr(link.transport, end)()
            if end == "aclose":
                await until(lambda: outcome)
                assert outcome == ["ClosedResourceError"]
            else:
                # It goes on, and throws away what still arrives.
                await until(lambda: flood.sent == len(flood.records))
                assert outcome == []
        nursery.cancel_scope.cancel()


async def test_a_large_send_that_waits_does_not_keep_the_reader_from_reading() -> None:
    async with OverSockets(*asking()) as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.transport.send_all, bytes(MIB))
        await wait_all_tasks_blocked()
        await link.wire.send_all(link.server.records(b"behind it"))
        assert await link.transport.receive_some(100) == b"behind it"
        assert await link.take(MIB) == bytes(MIB)


# Sending --------------------------------------------------------------------------------------------------------------


async def test_what_the_system_does_not_take_stays_ahead_of_all_that_follows() -> None:
    async with OverSockets() as link, trio.open_nursery() as nursery:
        sent = link.fill()
        assert link.transport.bytes_sent == len(sent)
        # Others come: none is encrypted, in whole or in part, while ciphertext waits.
        assert [link.transport.send_now(b"overtaking"), link.transport.send_now(b"")] == [0, 0]
        await link.transport.send_last(b"overtaking")
        nursery.start_soon(link.transport.send_all, b"behind it")
        await wait_all_tasks_blocked()
        assert link.transport.send_now(b"overtaking") == 0
        assert await link.take(len(sent) + 9) == sent + b"behind it"
        await wait_all_tasks_blocked()
        assert not link.transport.pending
        assert link.transport.send_now(b"again") == 5
        assert await link.take(5) == b"again"


async def test_an_answer_made_while_a_send_waits_is_sent_behind_it() -> None:
    async with OverSockets(*asking()) as link, trio.open_nursery() as nursery:
        sent = link.fill()
        nursery.start_soon(link.transport.send_all, b"behind it")
        await wait_all_tasks_blocked()
        link.server.tls.verify_client_post_handshake()
        await link.wire.send_all(link.server.records(b"who are you?"))
        assert await link.transport.receive_some(100) == b"who are you?"
        assert await link.take(len(sent) + 9) == sent + b"behind it"
        await wait_all_tasks_blocked()
        assert not link.transport.pending
        await link.transport.send_all(b"end")
        assert await link.take(3) == b"end"
        assert link.server.tls.getpeercert() is not None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_large_send_is_encrypted_in_slices_whose_progress_can_be_seen(
    kind: Callable[[bytes], bytes | bytearray | memoryview],
) -> None:
    async with OverMemory() as link:
        data = bytes(range(256)) * 4000
        seen: list[int] = []
        outgoing = link.ours.send_stream

        async def look() -> None:
            seen.append(link.transport.bytes_sent)

        outgoing.send_all_hook = look
        await link.transport.send_all(kind(data))
        assert sorted(set(seen)) == list(range(0, len(data), SLICE_BYTES))
        assert link.transport.bytes_sent == len(data)
        assert link.server.decrypt(bytes(outgoing.get_data_nowait())) == data


async def test_at_once_a_large_send_goes_as_far_as_there_is_room() -> None:
    async with OverSockets() as link, trio.open_nursery() as nursery:
        data = bytearray(range(256)) * 4000
        taken = link.transport.send_now(data)
        assert 0 < taken < len(data)
        assert taken % SLICE_BYTES == 0
        assert link.transport.bytes_sent == taken
        nursery.start_soon(link.transport.send_all, bytes(data[taken:]))
        assert await link.take(len(data)) == data
        data.clear()  # no view of it is left


async def test_over_a_stream_all_that_is_encrypted_at_once_is_pending() -> None:
    async with OverMemory() as link:
        assert link.transport.send_now(b"hello") == 5
        assert (link.transport.bytes_sent, link.transport.pending) == (5, True)
        assert link.transport.send_now(b"world") == 0
        await link.transport.send_all(b"world")
        assert link.server.decrypt(bytes(await link.wire.receive_some(ALL))) == b"helloworld"


async def test_after_a_send_that_was_cancelled_nothing_follows_part_of_a_record() -> None:
    async with OverSockets() as link:
        link.fill()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.transport.send_all, b"never")
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        assert link.transport.pending
        assert link.transport.send_now(b"x") == 0


async def test_a_break_while_sending_at_once_is_told_and_told_again() -> None:
    async with OverSockets() as link:
        await link.wire.aclose()
        with pytest.raises(trio.BrokenResourceError):
            link.transport.send_now(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await link.transport.send_all(b"")


class Renegotiating:
    """OpenSSL that must hear from the server before it takes anything, as in a renegotiation of TLS 1.2."""

    def __init__(self) -> None:
        self.heard = False
        self.written: list[bytes] = []

    def read(self, size: int) -> bytes:
        self.heard = True
        return b"x" * size

    def write(self, data: memoryview) -> None:
        if not self.heard:
            raise ssl.SSLWantReadError
        self.written.append(bytes(data))


def renegotiating(inner: Transport) -> tuple[TlsTransport, Renegotiating]:
    context = Stub(ssl.PROTOCOL_TLS_CLIENT)
    context.fake = fake = Renegotiating()
    return TlsTransport(inner, context, "server.test"), fake


async def test_a_write_that_tls_lets_wait_for_the_server_goes_on_when_that_is_heard(nursery: trio.Nursery) -> None:
    ours, theirs = trio.socket.socketpair()
    transport, tls = renegotiating(SocketTransport(trio.SocketStream(ours)))
    peer = trio.SocketStream(theirs)
    assert transport.send_now(b"waits") == 0
    await transport.send_last(b"waits")
    nursery.start_soon(transport.send_all, b"waits")
    await wait_all_tasks_blocked()
    assert tls.written == []
    await peer.send_all(b"!")
    assert await transport.receive_some(1) == b"x"
    await wait_all_tasks_blocked()
    assert tls.written == [b"waits"]
    assert not transport.pending
    await transport.aclose()
    await peer.aclose()


async def test_closing_wakes_a_write_that_tls_lets_wait(nursery: trio.Nursery) -> None:
    ours, theirs = trio.socket.socketpair()
    transport, tls = renegotiating(SocketTransport(trio.SocketStream(ours)))
    outcome: list[str] = []

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_all(b"waits")
        outcome.append("closed")

    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    await transport.aclose()
    await wait_all_tasks_blocked()
    assert (outcome, tls.written) == (["closed"], [])
    theirs.close()


@over_both
async def test_nothing_works_after_closing_and_closing_again_does(over: type[OverMemory | OverSockets]) -> None:
    async with over() as link:
        await link.wire.send_all(link.server.records(b"too late"))
        assert await link.transport.receive_some(1) == b"t"
        await link.transport.aclose()
        await link.transport.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await link.transport.receive_some(100)
        with pytest.raises(trio.ClosedResourceError):
            await link.transport.send_all(b"x")


@over_both
async def test_closing_wakes_a_receive(over: type[OverMemory | OverSockets], nursery: trio.Nursery) -> None:
    async with over() as link:
        outcome: list[str] = []

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await link.transport.receive_some(100)
            outcome.append("closed")

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await link.transport.aclose()
        await wait_all_tasks_blocked()
        assert outcome == ["closed"]


# The end of our direction ---------------------------------------------------------------------------------------------


@both_versions
@over_both
async def test_a_closure_alert_comes_before_the_end_and_what_arrives_is_thrown_away(
    version: ssl.TLSVersion, over: type[OverMemory | OverSockets], nursery: trio.Nursery
) -> None:
    async with over(serving(version)) as link:
        await link.wire.send_all(link.server.records(b"abcdef"))
        assert await link.transport.receive_some(2) == b"ab"
        await link.transport.send_eof()
        written = b""
        while block := await link.wire.receive_some(ALL):
            written += block
        assert link.server.decrypt(written) == b""
        assert link.server.alerted
        assert await link.transport.receive_now(100) is None
        await link.wire.send_all(link.server.records(b"more") + b"and noise")
        ended: list[bytes] = []

        async def receive() -> None:
            ended.append(await link.transport.receive_some(100))

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert not ended
        await link.wire.aclose()
        await wait_all_tasks_blocked()
        assert ended == [b""]
        assert link.transport.bytes_received == 2


@over_both
async def test_nothing_goes_past_tls_while_it_ends_or_after(over: type[OverMemory | OverSockets]) -> None:
    async with over() as link:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.transport.send_eof)
            await trio.lowlevel.checkpoint()
            await link.transport.send_last(b"for nobody else to read")
        with pytest.raises(trio.ClosedResourceError):
            await link.transport.send_all(b"for nobody else to read")
        written = b""
        while block := await link.wire.receive_some():
            written += block
        assert b"for nobody else to read" not in written
        # The last frame may have been the first to run.
        assert link.server.decrypt(written) in (b"", b"for nobody else to read")


async def test_what_has_arrived_when_tls_ends_is_no_error() -> None:
    async with OverMemory() as link:
        await link.wire.send_all(link.server.records(b"too late"))
        await link.transport.send_eof()
        assert link.server.decrypt(bytes(await link.wire.receive_some())) == b""
        assert await link.wire.receive_some() == b""


@over_both
async def test_a_last_frame_is_followed_by_nothing(over: type[OverMemory | OverSockets]) -> None:
    async with over() as link:
        await link.transport.send_last(b"last")
        await link.transport.send_last(b"another")
        await link.transport.send_eof()
        written = b""
        while block := await link.wire.receive_some(ALL):
            written += block
        assert link.server.decrypt(written) == b"last"
        assert len(written) < 50
        assert link.transport.bytes_sent == len(b"last")


async def test_an_end_does_not_wait_and_comes_without_an_alert_behind_part_of_a_record(
    autojump_clock: MockClock,
) -> None:
    async with OverSockets() as link:
        sent = link.fill()
        await link.transport.send_eof()
        received = b""
        while block := await link.wire.receive_some(ALL):
            received += block
        data = link.server.decrypt(received)
        assert sent.startswith(data)
        assert len(data) < len(sent)


async def test_a_last_frame_to_a_peer_that_is_gone_is_no_error() -> None:
    async with OverSockets() as link:
        await link.wire.aclose()
        await link.transport.send_last(b"last")


# The handshake --------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_not_trusted_gets_an_alert_before_the_end() -> None:
    for transport_of in (StreamTransport, None):
        if transport_of is None:
            near, far = trio.socket.socketpair()
            inner: Transport = SocketTransport(trio.SocketStream(near))
            wire: trio.abc.Stream = trio.SocketStream(far)
        else:
            ours, wire = memory_stream_pair()
            inner = StreamTransport(ours)
        server = Server(serving())
        transport = TlsTransport(inner, trusting(), "another.test")

        async def serve(wire: trio.abc.Stream = wire, server: Server = server) -> None:
            await wire.send_all(server.shake_hands(bytes(await wire.receive_some(ALL))))
            with pytest.raises(ssl.SSLError, match="ALERT_BAD_CERTIFICATE"):
                server.shake_hands(bytes(await wire.receive_some(ALL)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(trio.BrokenResourceError, match=r"not trusted: .*'another\.test'") as caught:
                await transport.handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        await transport.aclose()
        await wire.aclose()


async def test_a_handshake_may_be_cancelled_wherever_it_waits(autojump_clock: MockClock) -> None:
    for parts in range(3):
        ours, wire = memory_stream_pair()
        transport, server = TlsTransport(StreamTransport(ours), trusting(), "server.test"), Server(serving())

        async def serve(wire: trio.abc.Stream = wire, server: Server = server, parts: int = parts) -> None:
            flight = server.shake_hands(bytes(await wire.receive_some(ALL)))
            await wire.send_all(flight[: len(flight) * parts // 3])

        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await transport.handshake()
        assert scope.cancelled_caught
        await transport.aclose()
        await wire.aclose()


# Real sockets ---------------------------------------------------------------------------------------------------------


@both_versions
async def test_large_messages_go_both_ways_at_once(version: ssl.TLSVersion) -> None:
    size, count = MIB, 4
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port: int = listener.socket.getsockname()[1]

    async def serve() -> None:
        async with listener:
            stream = trio.SSLStream(await listener.accept(), serving(version), server_side=True, https_compatible=True)
        async with stream:
            await exchange(stream.send_all, partial(stream.receive_some, 64 * KIB))

    async def exchange(
        send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes | bytearray]]
    ) -> None:
        data = bytes(range(256)) * (size // 256)

        async def send_them() -> None:
            for _ in range(count):
                await send(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_them)
            received = bytearray()
            while len(received) < size * count:
                received += await receive()
            assert received == data * count

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        tcp = SocketTransport(await trio.open_tcp_stream("127.0.0.1", port))
        transport = TlsTransport(tcp, trusting(), "server.test")
        await transport.handshake()
        await exchange(transport.send_all, partial(transport.receive_some, MIB))
        await transport.aclose()


# What TLS has to say --------------------------------------------------------------------------------------------------


def distrust(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] and much more")
    error.verify_message = message
    return error


def alert(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] something of TLS")
    error.reason = reason  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  # None it is, at times
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (distrust("certificate has expired"), "the certificate is not trusted: certificate has expired"),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        (alert(None), "[SSL] something of TLS"),
        (ssl.SSLError("no reason"), "no reason"),
        (ssl.SSLCertVerificationError("no chain"), "the certificate is not trusted: no chain"),
        (OSError(2148098052, "no signature"), "no signature"),
    ],
)
def test_tls_says_why_in_words(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


# With the writer, and at the edges ------------------------------------------------------------------------------------


async def test_an_answer_that_becomes_pending_is_written_by_the_writer(nursery: trio.Nursery) -> None:
    async with OverMemory(*asking()) as link:
        Writer(link.transport, nursery, MaskingEncoder())
        link.server.tls.verify_client_post_handshake()
        await link.wire.send_all(link.server.records(b"who are you?"))
        assert await link.transport.receive_some(100) == b"who are you?"
        await wait_all_tasks_blocked()
        assert not link.transport.pending
        link.server.decrypt(bytes(await link.wire.receive_some(ALL)))
        assert link.server.tls.getpeercert() is not None


async def test_what_comes_together_with_the_end_of_the_handshake_is_received() -> None:
    ours, wire = memory_stream_pair()
    server = Server(serving(ssl.TLSVersion.TLSv1_2))
    transport = TlsTransport(StreamTransport(ours), trusting(), "server.test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        await wire.send_all(server.shake_hands(bytes(await wire.receive_some(ALL))))
        last = server.shake_hands(bytes(await wire.receive_some(ALL)))
        await wire.send_all(last + server.records(b"early"))
    assert await transport.receive_now(100) == b"early"


async def test_receiving_without_waiting_looks_at_one_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # A server could go on for ever with records that hold no data.
    async with OverMemory() as link:
        record = link.server.records(b"cut in pieces")
        pieces = [record[:10], record[10:20], record[20:]]

        async def receive_now(_max_bytes: int) -> bytes | None:
            return pieces.pop(0)

        monkeypatch.setattr(link._inner, "receive_now", receive_now)
        assert await link.transport.receive_now(100) is None
        assert len(pieces) == 2
        assert await link.transport.receive_now(100) is None
        assert await link.transport.receive_now(100) == b"cut in pieces"


async def test_nothing_is_encrypted_while_a_send_waits() -> None:
    async with OverSockets() as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.transport.send_all, bytes(1 << 20))
        await wait_all_tasks_blocked()
        assert link.transport.send_now(b"x") == 0
        assert await link.take(1 << 20) == bytes(1 << 20)
