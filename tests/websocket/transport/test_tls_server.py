"""The server's side of TLS: over memory streams, and on loopback with Python's and OpenSSL's own clients."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.websocket._peers import LIMIT_SECONDS
from tests.websocket.transport._pairs import over_memory, over_sockets
from tests.websocket.transport.test_tls import ALL, AUTHORITY, MIB, both_versions, serving, trusting
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport
from trio_csp_websocket.transport.tls import TlsTransport
from trio_csp_websocket.transport.tls_reasons import reason_of_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport

over_both = pytest.mark.parametrize("over", [over_memory, over_sockets])


class Client:
    """The client's side of TLS, without I/O: what it makes is fetched, and what it gets is given to it."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str = "server.test") -> None:
        self._incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self.outgoing, server_hostname=server_hostname)
        self.done = False
        self.alerted = False

    def shake_hands(self, arrived: bytes = b"") -> bytes:
        """Go on with the handshake; return what to send."""
        self._incoming.write(arrived)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.done = True
        return self.outgoing.read()

    def records(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def alert(self) -> bytes:
        """Return a closure alert."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def decrypt(self, arrived: bytes) -> bytes:
        """Return what is in what has arrived, and note a closure alert."""
        self._incoming.write(arrived)
        data = b""
        try:
            while piece := self.tls.read(ALL):
                data += piece
            self.alerted = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # where its own alert has been sent
            self.alerted = True
        return data


NO_CIPHER = "the client has no cipher in common with the context, or the context has no certificate"


async def shake_hands(wire: trio.abc.Stream, client: Client) -> None:
    """Carry out the client's part of the handshake."""
    arrived = b""
    while True:
        answer = client.shake_hands(arrived)
        if answer:
            await wire.send_all(answer)
        if client.done:
            return
        arrived = bytes(await wire.receive_some(ALL))
        assert arrived, "the server went away"


@contextlib.asynccontextmanager
async def connected(
    context: ssl.SSLContext,
    client_context: ssl.SSLContext | None = None,
    over: Callable[[], tuple[Transport, trio.abc.Stream]] = over_memory,
) -> AsyncGenerator[tuple[TlsTransport, trio.abc.Stream, Client]]:
    """A server's transport whose handshake is done, the other end of its stream, and the client there."""
    inner, wire = over()
    client = Client(client_context or trusting())
    transport = TlsTransport(inner, context, server_side=True)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands, wire, client)
            await transport.handshake()
        yield transport, wire, client
    finally:
        await transport.aclose()
        await wire.aclose()


async def failure(context: ssl.SSLContext, *sent: bytes, end: bool = False) -> tuple[str, bytes]:
    """Return why a handshake fails, after a client has sent this, and what the client got."""
    inner, wire = over_memory()
    for block in sent:
        await wire.send_all(block)
    if end:
        assert isinstance(wire, trio.StapledStream)
        await wire.send_eof()
    transport = TlsTransport(inner, context, server_side=True)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await transport.handshake()
    assert isinstance(caught.value.__cause__, OSError)
    await transport.aclose()
    answer = b""
    while block := bytes(await wire.receive_some()):
        answer += block
    await wire.aclose()
    return str(caught.value), answer


async def refusal(context: ssl.SSLContext, client: Client) -> str:
    """Return why a server breaks off a handshake with a client, or takes it for broken off."""
    inner, wire = over_memory()
    transport = TlsTransport(inner, context, server_side=True)

    async def shake_hands_in_vain() -> None:
        try:
            await shake_hands(wire, client)
            client.decrypt(bytes(await wire.receive_some(ALL)))
        except ssl.SSLError:
            if alert := client.outgoing.read():
                await wire.send_all(alert)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands_in_vain)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await transport.handshake()
    await transport.aclose()
    await wire.aclose()
    return str(caught.value)


def asking(mode: ssl.VerifyMode, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a server's context that asks for a certificate."""
    context = serving(version)
    context.verify_mode = mode
    AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    return context


def certified(authority: trustme.CA) -> ssl.SSLContext:
    """Return a client's context that has a certificate."""
    context = trusting()
    authority.issue_cert("client@server.test").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


# A connection ---------------------------------------------------------------------------------------------------------


@both_versions
@over_both
async def test_messages_go_both_ways_and_are_counted_above_tls(
    version: ssl.TLSVersion, over: Callable[[], tuple[Transport, trio.abc.Stream]]
) -> None:
    async with connected(serving(version), over=over) as (transport, wire, client):
        assert client.tls.version() == version.name.replace("_", ".")
        await wire.send_all(client.records(b"hello"))
        assert await transport.receive_some(100) == b"hello"
        await transport.send_all(b"answer")
        data = b""
        while data != b"answer":  # behind session tickets
            data += client.decrypt(bytes(await wire.receive_some(ALL)))
        assert (transport.bytes_received, transport.bytes_sent) == (5, 6)
        assert transport.peer_certificate is None
        assert transport.protocol is None
        assert not transport.silent_since_handshake


async def test_the_protocol_that_was_chosen_is_known() -> None:
    server, client = serving(), trusting()
    server.set_alpn_protocols(["http/1.1"])
    client.set_alpn_protocols(["h2", "http/1.1"])
    async with connected(server, client) as (transport, _, _):
        assert transport.protocol == "http/1.1"


@both_versions
async def test_data_that_comes_together_with_the_end_of_the_handshake_is_received(version: ssl.TLSVersion) -> None:
    inner, wire = over_memory()
    client = Client(trusting())
    transport = TlsTransport(inner, serving(version), server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        await wire.send_all(client.shake_hands())
        last = client.shake_hands(bytes(await wire.receive_some(ALL)))
        if not client.done:
            # Of TLS 1.2, whose server has the last word: the client may not send data before it.
            await wire.send_all(last)
            client.shake_hands(bytes(await wire.receive_some(ALL)))
            last = b""
        await wire.send_all(last + client.records(b"early") + client.records(b" data"))
    assert await transport.receive_now(100) == b"early data"
    await transport.aclose()
    await wire.aclose()


@both_versions
async def test_large_messages_go_both_ways_at_once(version: ssl.TLSVersion) -> None:
    data = bytes(range(256)) * (4 * 4096)
    async with connected(serving(version), over=over_sockets) as (transport, wire, client):

        async def receive(into: bytearray) -> None:
            while len(into) < len(data):
                into += await transport.receive_some(MIB)

        async def send_from_the_client() -> None:
            for start in range(0, len(data), MIB):
                await wire.send_all(client.records(data[start : start + MIB]))

        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, received)
            nursery.start_soon(send_from_the_client)
            nursery.start_soon(transport.send_all, data)
            arrived = bytearray()
            while len(arrived) < len(data):
                arrived += client.decrypt(bytes(await wire.receive_some(ALL)))
        assert received == arrived == data


@both_versions
async def test_the_end_of_either_side_comes_with_its_alert(version: ssl.TLSVersion) -> None:
    async with connected(serving(version)) as (transport, wire, client):
        await wire.send_all(client.records(b"last") + client.alert())
        assert await transport.receive_some(100) == b"last"
        assert await transport.receive_some(100) == b""
        await transport.send_eof()
        while block := bytes(await wire.receive_some(ALL)):
            client.decrypt(block)
        assert client.alerted


# Certificates of clients ----------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL])
async def test_a_clients_certificate_is_known(mode: ssl.VerifyMode, version: ssl.TLSVersion) -> None:
    async with connected(asking(mode, version), certified(AUTHORITY)) as (transport, _, _):
        assert transport.peer_certificate is not None
        assert transport.peer_certificate["subjectAltName"] == (("email", "client@server.test"),)


@both_versions
async def test_a_client_may_have_none_where_it_is_optional(version: ssl.TLSVersion) -> None:
    async with connected(asking(ssl.CERT_OPTIONAL, version)) as (transport, _, _):
        assert transport.peer_certificate is None


@both_versions
async def test_a_client_without_one_is_refused_where_it_is_required(version: ssl.TLSVersion) -> None:
    said = await refusal(asking(ssl.CERT_REQUIRED, version), Client(trusting()))
    assert said == "the client sent no certificate, and the context requires one"


@both_versions
@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL])
async def test_a_client_whose_certificate_is_not_trusted_is_refused(
    mode: ssl.VerifyMode, version: ssl.TLSVersion
) -> None:
    said = await refusal(asking(mode, version), Client(certified(trustme.CA())))
    assert said.startswith("the client's certificate is not trusted: ")


# Handshakes that fail -------------------------------------------------------------------------------------------------


@both_versions
async def test_a_client_that_does_not_trust_the_certificate_says_so(version: ssl.TLSVersion) -> None:
    said = await refusal(serving(version), Client(ssl.create_default_context()))
    assert said == "the client does not accept the certificate: unknown ca"


@both_versions
async def test_a_client_that_wants_another_name_says_so(version: ssl.TLSVersion) -> None:
    said = await refusal(serving(version), Client(trusting(), "other.test"))
    assert said == "the client does not accept the certificate: bad certificate"


@pytest.mark.parametrize("newest", [True, False])
async def test_a_client_without_a_version_in_common_is_told(newest: bool) -> None:
    server, client = serving(), trusting()
    old, new = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    server.minimum_version = server.maximum_version = new if newest else old
    client.minimum_version = client.maximum_version = old if newest else new
    said = await refusal(server, Client(client))
    assert said == "the client speaks no version of TLS that the context allows"


async def test_a_client_without_a_cipher_in_common_is_told() -> None:
    server, client = serving(ssl.TLSVersion.TLSv1_2), trusting()
    server.set_ciphers("ECDHE+AES128")
    client.set_ciphers("ECDHE+AES256")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await refusal(server, Client(client)) == NO_CIPHER


async def test_a_context_without_a_certificate_is_told() -> None:
    # Nothing tells whether a context has one before a client comes.
    empty = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    assert await refusal(empty, Client(trusting())) == NO_CIPHER


@pytest.mark.parametrize(
    "request_line", [b"GET / HTTP/1.1", b"POST /a HTTP/1.1", b"HEAD / HTTP/1.1", b"CONNECT server.test:443 HTTP/1.1"]
)
async def test_plain_http_is_recognised(request_line: bytes) -> None:
    said, answer = await failure(serving(), request_line + b"\r\nHost: server.test\r\n\r\n")
    assert said == "the client spoke plain HTTP, not TLS"
    assert answer == b""


@pytest.mark.parametrize(
    "noise", [bytes(50), b"\xff" * 50, b"SSH-2.0-client\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"]
)
async def test_what_is_no_tls_is_told(noise: bytes) -> None:
    assert (await failure(serving(), noise))[0] == "the client did not speak TLS"


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + bytes(50)])
async def test_a_record_that_is_no_hello_is_answered_with_an_alert(noise: bytes) -> None:
    said, answer = await failure(serving(), noise)
    assert re.fullmatch(r"the TLS handshake failed: [A-Z_]+", said)
    assert answer[:1] == b"\x15"


async def test_another_alert_of_a_client_is_told_by_its_name() -> None:
    hello = Client(trusting()).shake_hands()
    alert = b"\x15\x03\x03\x00\x02\x02\x50"
    said, _ = await failure(serving(ssl.TLSVersion.TLSv1_2), hello, alert)
    assert said == "the client gave the TLS handshake up: internal error"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("the key store is locked"), "the TLS handshake failed: the key store is locked"),
        (ssl.SSLZeroReturnError(6, "closed"), "the client closed the connection in the middle of the TLS handshake"),
    ],
)
def test_what_a_context_or_an_early_end_says_is_told(error: OSError, words: str) -> None:
    assert reason_of_client(error, begun=True) == words


@both_versions
async def test_a_hello_may_come_byte_by_byte(version: ssl.TLSVersion) -> None:
    inner, wire = over_memory()
    client = Client(trusting())
    transport = TlsTransport(inner, serving(version), server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        for byte in client.shake_hands():
            await wire.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        await wire.send_all(client.shake_hands(bytes(await wire.receive_some(ALL))))
        if not client.done:
            client.shake_hands(bytes(await wire.receive_some(ALL)))
    await wire.send_all(client.records(b"x"))
    assert await transport.receive_some(10) == b"x"
    await transport.aclose()
    await wire.aclose()


async def test_a_client_that_goes_away_in_its_hello_is_told_wherever_it_stops() -> None:
    hello = Client(trusting()).shake_hands()
    context = serving()
    for cut in range(1, len(hello)):
        said, _ = await failure(context, hello[:cut], end=True)
        assert said == "the client closed the connection in the middle of the TLS handshake"


async def test_a_client_that_goes_away_without_a_word_is_told() -> None:
    assert (await failure(serving(), end=True))[0] == "the client closed the connection before the TLS handshake"


async def test_what_was_received_before_the_handshake_is_no_part_of_it() -> None:
    inner, wire = over_memory()
    await wire.send_all(b"PROXY UNKNOWN\r\n")
    assert await inner.receive_some(100) == b"PROXY UNKNOWN\r\n"
    await wire.aclose()
    transport = TlsTransport(inner, serving(), server_side=True)
    with pytest.raises(trio.BrokenResourceError, match="before the TLS handshake"):
        await transport.handshake()
    await transport.aclose()


async def test_what_was_read_too_much_before_the_handshake_is_given_back_to_it() -> None:
    inner, wire = over_memory()
    client = Client(trusting())
    transport = TlsTransport(inner, serving(), server_side=True)
    inner.unread(client.shake_hands())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        await wire.send_all(client.shake_hands(bytes(await wire.receive_some(ALL))))
    assert client.done
    await transport.aclose()
    await wire.aclose()


async def test_a_hello_that_stops_midway_waits_until_it_is_cancelled(autojump_clock: MockClock) -> None:
    hello, context = Client(trusting()).shake_hands(), serving()
    for cut in (0, 1, 5, len(hello) // 2, len(hello) - 1, len(hello)):
        ours, wire = memory_stream_pair()
        transport = TlsTransport(StreamTransport(ours), context, server_side=True)
        await wire.send_all(hello[:cut])
        with trio.move_on_after(10) as scope:
            await transport.handshake()
        assert scope.cancelled_caught
        await transport.aclose()
        await wire.aclose()


def test_a_clients_context_does_not_serve() -> None:
    with pytest.raises(ssl.SSLError):
        TlsTransport(over_memory()[0], trusting(), server_side=True)


# On loopback ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(handler: Callable[[TlsTransport], Any], context: ssl.SSLContext) -> AsyncGenerator[int]:
    """Serve one connection; give the port. Returns when the handler has."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(LIMIT_SECONDS):
        async with listener, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def serve_one() -> None:
                transport = TlsTransport(SocketTransport(await listener.accept()), context, server_side=True)
                try:
                    await handler(transport)
                finally:
                    await transport.aclose()

            yield listener.socket.getsockname()[1]


@both_versions
async def test_pythons_client_is_served_and_ends_in_order(version: ssl.TLSVersion) -> None:
    data = bytes(range(256)) * 4096

    async def echo(transport: TlsTransport) -> None:
        await transport.handshake()
        while block := await transport.receive_some(MIB):
            await transport.send_all(block)
        await transport.send_eof()

    def talk(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as plain,
            trusting().wrap_socket(plain, server_hostname="server.test") as secure,
        ):
            answer = b""
            for start in range(0, len(data), 64 * 1024):
                secure.sendall(data[start : start + 64 * 1024])
                end = min(start + 64 * 1024, len(data))
                while len(answer) < end:
                    answer += secure.recv(MIB)
            secure.unwrap()
            return answer

    async with listening(echo, serving(version)) as port:
        assert await trio.to_thread.run_sync(partial(talk, port)) == data


@both_versions
async def test_pythons_client_gets_the_alert_of_a_server_that_refuses_it(version: ssl.TLSVersion) -> None:
    said: list[str] = []

    async def refuse(transport: TlsTransport) -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await transport.handshake()
        said.append(str(caught.value))

    def talk(port: int) -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as plain,
            pytest.raises(ssl.SSLError) as caught,
            trusting().wrap_socket(plain, server_hostname="server.test") as secure,
        ):
            secure.recv(1)
        return caught.value.reason

    async with listening(refuse, asking(ssl.CERT_REQUIRED, version)) as port:
        reason = await trio.to_thread.run_sync(talk, port)
    assert "ALERT" in reason
    assert said == ["the client sent no certificate, and the context requires one"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl, which can ask to renegotiate")
@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO < (3, 0), reason="before OpenSSL 3 it is the context that refuses it")
async def test_a_client_that_asks_to_renegotiate_is_refused() -> None:
    async def serve(transport: TlsTransport) -> None:
        await transport.handshake()
        # OpenSSL's client takes the refusal for a failure, and says so.
        with pytest.raises(trio.BrokenResourceError, match="HANDSHAKE_FAILURE"):
            await transport.receive_some(100)

    async with listening(serve, serving(ssl.TLSVersion.TLSv1_2)) as port:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2"]
        result = await trio.run_process(command, stdin=b"R\n", capture_stdout=True, capture_stderr=True, check=False)
    assert b"no renegotiation" in result.stderr
