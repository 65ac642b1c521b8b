"""TLS on loopback: whom the client trusts, and that the data plane works as well on it."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, InvalidError, Kind
from tests.websocket._peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    close_frame,
    frame,
    parse_close,
    raw_server,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

MIB = 1 << 20


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def context_for(authority: trustme.CA, identity: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(identity).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    return context


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    return context_for(authority, "127.0.0.1")


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


def tcp_of(peer: Peer) -> trio.SocketStream:
    """Return what is below a server's TLS."""
    return cast("trio.SSLStream[trio.SocketStream]", peer.stream).transport_stream


async def frames_until_close(peer: Peer) -> list[Frame]:
    """Read up to the client's close, and answer it."""
    frames: list[Frame] = []
    while not frames or frames[-1].opcode != CLOSE:
        received = await peer.read_frame()
        assert received is not None
        frames.append(received)
    await peer.send(frame(CLOSE, frames[-1].payload))
    return frames


async def fails_to_connect(url: str, context: ssl.SSLContext | None, says: str) -> None:
    with pytest.raises(ConnectionFailedError, match=says) as caught:
        async with websocket.connect(url, ssl_context=context):
            pytest.fail("connected")
    assert not isinstance(caught.value, ConnectionTimeoutError)
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)


async def test_messages_of_all_sizes_go_both_ways(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        while (received := await peer.read_frame()) is not None and received.opcode != CLOSE:
            if received.opcode != PONG:
                await peer.send(frame(PING, b"alive?") + frame(received.opcode, received.payload))
        await peer.send(close_frame(1000))

    messages: list[str | bytes] = ["", b"", "é" * 100, bytes(range(256)) * 256, b"x" * (4 * MIB), "z" * MIB] * 2
    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for message in messages:
                    await client.send(message)

            nursery.start_soon(send)
            for message in messages:
                assert (await client.receive()).value.data == message
        await client.close()
        assert (client.close_code, client.error) == (1000, None)


async def test_a_feed_that_reconnects_says_so_beneath_tls(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    heard: list[int] = []

    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.send(frame(TEXT, b"hello"))
        received = await peer.read_frame()
        assert received is not None
        heard.append(parse_close(received.payload)[0])

    async with raw_server(server, tls=server_tls) as url, websocket.reconnecting(url, ssl_context=trusting) as feed:
        assert isinstance(await feed.receive_value(), websocket.Message)
        await feed.reconnect()
        gap = await feed.receive_value()
        assert isinstance(gap, websocket.Gap)
        assert gap.code == 1006
        assert isinstance(await feed.receive_value(), websocket.Message)
    assert heard == [1001, 1000]


async def test_an_untrusted_certificate_is_refused(server_tls: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    async with raw_server(server, tls=server_tls) as url:
        await fails_to_connect(url, None, "not trusted")
        await fails_to_connect(url, ssl.create_default_context(), "not trusted")


def verifying_itself(error: OSError) -> ssl.SSLContext:
    """Return a context that does not ask OpenSSL whom to trust, as that of truststore on macOS and Windows."""

    class Verified(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            certificate = self.getpeercert(binary_form=True)
            assert certificate is not None
            extensions = x509.load_der_x509_certificate(certificate).extensions
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if self.server_hostname not in names.get_values_for_type(x509.DNSName):
                raise error

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.sslobject_class = Verified
    return context


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLCertVerificationError("the system does not trust it"),
        OSError(2148204809, "the system does not trust it"),
    ],
)
async def test_a_context_that_verifies_by_itself_is_heard(authority: trustme.CA, error: OSError) -> None:
    async def trusted(peer: Peer) -> None:
        await peer.accept()
        await frames_until_close(peer)

    async def untrusted(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    context = verifying_itself(error)
    server_tls = context_for(authority, "localhost")
    async with (
        raw_server(trusted, tls=server_tls) as url,
        websocket.connect(url.replace("127.0.0.1", "localhost"), ssl_context=context),
    ):
        pass
    async with raw_server(untrusted, tls=server_tls) as url:
        await fails_to_connect(url, context, "the system does not trust it")


async def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    async with raw_server(server, tls=context_for(authority, "example.com")) as url:
        await fails_to_connect(url, trusting, r"not trusted.*127\.0\.0\.1")


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b""])
async def test_a_server_without_tls_behind_wss_fails_at_once(says: bytes, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        assert (await peer.stream.receive_some())[:1] == b"\x16"
        await peer.send(says)

    async with raw_server(server) as url:
        await fails_to_connect(
            url.replace("ws:", "wss:"), trusting, r"TLS failed: the server .*; is it a ws: server\?$"
        )


async def test_a_server_that_says_nothing_to_tls_is_left_after_the_dial_timeout(trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.expect_gone()

    async with raw_server(server) as url:
        with pytest.raises(ConnectionTimeoutError):
            async with websocket.connect(url.replace("ws:", "wss:"), ssl_context=trusting, dial_timeout=50):
                pytest.fail("connected")


def test_a_context_for_a_url_without_tls_is_invalid(trusting: ssl.SSLContext) -> None:
    with pytest.raises(InvalidError, match="ssl_context"):
        websocket.connect("ws://127.0.0.1:1/", ssl_context=trusting)


async def test_pings_are_answered_during_a_large_send(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    received = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept()
        for number in range(100):
            await peer.send(frame(PING, b"%d" % number) + frame(TEXT, b"%d" % number))
        await received.wait()
        frames = await frames_until_close(peer)
        assert [len(one.payload) for one in frames if one.opcode == BINARY] == [24 * MIB]
        pongs = [one.payload for one in frames if one.opcode == PONG]
        assert len(pongs) < 30
        assert pongs[-1] == b"99"

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        assert client.close_code is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, bytes(24 * MIB))
            for number in range(100):
                assert (await client.receive()).value.data == str(number)
            received.set()


async def test_a_cancelled_block_tells_the_server_that_we_go_away(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        assert parse_close(await peer.expect(CLOSE)) == (1001, "")
        await peer.expect_end()

    async with raw_server(server, tls=server_tls) as url:
        with trio.CancelScope() as scope:
            async with websocket.connect(url, ssl_context=trusting) as client:
                scope.cancel()
                await client.receive()
        assert scope.cancelled_caught


async def test_a_cancelled_block_ends_at_once_although_the_server_does_not_read(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.expect_gone()

    async with raw_server(server, tls=server_tls) as url:
        with trio.CancelScope() as scope:
            async with (
                websocket.connect(url, ssl_context=trusting, close_timeout=None) as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(client.send, bytes(24 * MIB))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught


@pytest.mark.parametrize("ends", ["an exception", "a cancellation"])
async def test_leaving_a_connection_that_broke_unnoticed_raises_nothing_of_its_own(
    ends: str, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    # Nothing is read while the channel is full, so the reset is noticed only when the last frame is written.
    die = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"message") * 10)
        await die.wait()
        Peer(tcp_of(peer), peer.left).reset()

    async with raw_server(server, tls=server_tls) as url:
        client: websocket.Client | None = None
        with trio.CancelScope() as scope, contextlib.suppress(ValueError):
            async with websocket.connect(url, ssl_context=trusting, channel_capacity=1) as client:
                await wait_all_tasks_blocked()
                die.set()
                await wait_all_tasks_blocked()
                if ends == "an exception":
                    raise ValueError("mine")
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert client is not None
        assert client.close_code == 1006


@pytest.mark.parametrize("reset", [False, True])
async def test_a_server_that_dies_inside_a_tls_record_is_reported(
    reset: bool, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"whole"))
        await peer.expect(TEXT)
        tcp = tcp_of(peer)
        # The beginning of a record of application data.
        await tcp.send_all(b"\x17\x03\x03\x10\x00" + bytes(100))
        if reset:
            Peer(tcp, peer.left).reset()
        else:
            await tcp.aclose()

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        assert (await client.receive()).value.data == "whole"
        await client.send("die")
        assert not (await client.receive()).ok
        assert client.error is not None
        assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, True)
        assert client.close_code == 1006


async def test_noise_instead_of_a_tls_record_is_reported(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(TEXT)
        await tcp_of(peer).send_all(b"this is no TLS" * 100)
        with contextlib.suppress(trio.BrokenResourceError):
            await tcp_of(peer).receive_some()

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        await client.send("go")
        assert not (await client.receive()).ok
        assert client.error is not None
        assert (client.error.kind, client.close_code) == (Kind.UNAVAILABLE, 1006)


async def test_a_server_that_keeps_tls_open_after_the_closes_is_left_after_the_close_timeout(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await frames_until_close(peer)
        await peer.expect_gone()

    async with (
        raw_server(server, tls=server_tls) as url,
        websocket.connect(url, ssl_context=trusting, close_timeout="100ms") as client,
    ):
        await client.close()
        assert (client.close_code, client.error) == (1000, None)


@pytest.mark.parametrize("misdeed", [b"", frame(3)])
async def test_a_server_that_waits_for_the_clients_end_gets_it(
    misdeed: bytes, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    # As over TCP, where the client ends its half of the connection.
    async def server(peer: Peer) -> None:
        await peer.accept(misdeed)
        code, _ = parse_close(await peer.expect(CLOSE))
        assert code == (1002 if misdeed else 1000)
        if not misdeed:
            await peer.send(close_frame(1000))
        # Not just TCP's end: that would be an error here (RFC 8446, section 6.1).
        await peer.expect_end()

    async with (
        raw_server(server, tls=server_tls, https_compatible=False) as url,
        websocket.connect(url, ssl_context=trusting, close_timeout="1h") as client,
    ):
        if misdeed:
            assert not (await client.receive()).ok
        await client.close()


async def test_sends_cancelled_at_random_never_corrupt_or_reorder_the_stream(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    rng = random.Random(0)
    arrived: list[int] = []
    sent: list[int] = []

    async def server(peer: Peer) -> None:
        await peer.accept()
        for one in await frames_until_close(peer):
            if one.opcode == BINARY:
                arrived.append(int.from_bytes(one.payload[:2], "big"))
                assert one.payload == one.payload[:2] + bytes(len(one.payload) - 2)

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        for number in range(300):
            with trio.CancelScope() as scope:
                if rng.random() < 0.7:
                    scope.deadline = trio.current_time() + rng.random() * rng.choice((0, 0.0002, 0.002))
                await client.send(number.to_bytes(2, "big") + bytes(rng.choice((0, 1000, 300_000))))
                sent.append(number)
    assert arrived == sorted(set(arrived))
    assert set(sent) <= set(arrived)
    assert len(sent) < 300


async def test_a_server_that_is_silent_in_the_tls_handshake_is_given_up_in_time() -> None:
    async def server(peer: Peer) -> None:
        await peer.read(1)
        await peer.expect_gone()

    async with raw_server(server) as url:
        with pytest.raises(ConnectionTimeoutError) as caught:
            async with websocket.connect(url.replace("ws:", "wss:"), dial_timeout="50ms"):
                pytest.fail("connected")
    said = "the server took the TCP connection, and did not answer the TLS handshake"
    assert str(caught.value).endswith(f" within 0.05 s: {said}")


async def test_a_server_that_stops_in_the_tls_handshake_is_told(mock_clock: MockClock) -> None:
    said = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.read(1)
        await peer.send(b"\x16\x03\x03")  # the beginning of a record
        said.set()
        await peer.expect_gone()

    async def give_up() -> None:
        await said.wait()
        await wait_all_tasks_blocked()
        mock_clock.jump(6)

    async with raw_server(server) as url, trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        with pytest.raises(ConnectionTimeoutError) as caught:
            await websocket.connect(url.replace("ws:", "wss:"), dial_timeout="5s").__aenter__()
    text = "the server took the TCP connection, and did not finish the TLS handshake"
    assert str(caught.value).endswith(f" within 5 s: {text}")


async def test_a_reset_in_the_tls_handshake_is_a_failed_connection() -> None:
    async def server(peer: Peer) -> None:
        await peer.read(1)
        peer.reset()

    async with raw_server(server) as url:
        with pytest.raises(ConnectionFailedError, match="TLS failed: ") as caught:
            async with websocket.connect(url.replace("ws:", "wss:")):
                pytest.fail("connected")
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)
    cause = caught.value.__cause__
    assert cause is not None
    reset = cause.__cause__
    assert isinstance(reset, ConnectionResetError)
    assert str(caught.value).endswith(f"TLS failed: {reset.strerror}")


# Whom the certificate is for ------------------------------------------------------------------------------------------


async def refuse_to_talk(peer: Peer) -> None:
    """Be a server that the client turns down."""
    with contextlib.suppress(trio.BrokenResourceError):
        assert await peer.stream.receive_some() == b""


def noting_sni(context: ssl.SSLContext) -> list[str | None]:
    """Return a list of the names that clients will ask a server for."""
    names: list[str | None] = []

    def note(_connection: Any, name: str | None, _context: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = note
    return names


def noting_hosts(hosts: list[str]) -> Callable[[Peer], Awaitable[None]]:
    """Return a server that accepts and writes down the Host header."""

    async def server(peer: Peer) -> None:
        await peer.accept()
        hosts.extend(line[6:].decode() for line in peer.request.split(b"\r\n") if line.startswith(b"Host: "))
        await frames_until_close(peer)

    return server


class LoopbackForAll(trio.abc.HostnameResolver):
    """Says of every name that it is this machine."""

    # Takes whatever Trio gives.
    async def getaddrinfo(self, *given: Any) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", given[1]))]

    async def getnameinfo(self, *_given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError


@pytest.mark.parametrize(
    ("server_hostname", "sni"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com.", "example.com"),
        ("b\u00fccher.test", "xn--bcher-kva.test"),
        ("127.0.0.1", None),  # an address is no name to ask for
        (None, None),
    ],
)
async def test_the_server_is_asked_for_the_server_hostname_and_must_be_that(
    server_hostname: str | None, sni: str | None, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context, hosts = context_for(authority, sni or "127.0.0.1"), list[str]()
    names = noting_sni(context)
    async with (
        raw_server(noting_hosts(hosts), tls=context) as url,
        websocket.connect(url, ssl_context=trusting, server_hostname=server_hostname) as client,
    ):
        assert client.url == url
    assert names == [sni]
    # The request is still for the host of the URL.
    assert hosts == [url.removeprefix("wss://").removesuffix("/")]


@pytest.mark.parametrize(
    ("host", "sni"),
    [
        ("server.test", "server.test"),
        ("SERVER.test.", "server.test"),
        ("b\u00fccher.test", "xn--bcher-kva.test"),
        ("user:pass@server.test", "server.test"),
    ],
)
async def test_without_a_server_hostname_the_server_must_be_the_host_of_the_url(
    host: str, sni: str, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    trio.socket.set_custom_hostname_resolver(LoopbackForAll())
    context, hosts = context_for(authority, sni), list[str]()
    names = noting_sni(context)
    async with raw_server(noting_hosts(hosts), tls=context) as url:
        address = url.replace("127.0.0.1", host)
        async with websocket.connect(address, ssl_context=trusting):
            pass
    assert names == [sni]
    port = url.rpartition(":")[2]
    assert hosts == [f"{sni}:{port}".removesuffix("/")]


@pytest.mark.parametrize("server_hostname", ["example.org", "www.example.com", "127.0.0.1", "::1"])
async def test_a_server_that_is_not_the_server_hostname_is_refused(
    server_hostname: str, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    async with raw_server(refuse_to_talk, tls=context_for(authority, "example.com")) as url:
        with pytest.raises(ConnectionFailedError, match="TLS failed: the certificate is not trusted: ") as caught:
            async with websocket.connect(url, ssl_context=trusting, server_hostname=server_hostname):
                pytest.fail("connected")
    assert f"certificate is not valid for '{server_hostname}'" in str(caught.value)
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)


async def test_the_host_of_the_url_does_not_count_where_there_is_a_server_hostname(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    async with raw_server(refuse_to_talk, tls=context_for(authority, "127.0.0.1")) as url:
        with pytest.raises(ConnectionFailedError, match=r"not trusted.*'example\.com'"):
            async with websocket.connect(url, ssl_context=trusting, server_hostname="example.com"):
                pytest.fail("connected")


def test_a_server_hostname_for_a_url_without_tls_is_invalid() -> None:
    with pytest.raises(InvalidError, match="server_hostname must not be given for a ws: URL"):
        websocket.connect("ws://127.0.0.1:1/", server_hostname="example.com")


# What is wrong with a certificate -------------------------------------------------------------------------------------

NOW = dt.datetime.now(tz=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("not_before", "not_after", "says"),
    [
        (NOW - 10 * DAY, NOW - DAY, "the certificate is not trusted: certificate has expired"),
        (NOW + DAY, NOW + 10 * DAY, "the certificate is not trusted: certificate is not yet valid"),
    ],
    ids=["expired", "not yet valid"],
)
async def test_a_certificate_out_of_its_time_is_refused(
    not_before: dt.datetime,
    not_after: dt.datetime,
    says: str,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority.issue_cert("127.0.0.1", not_before=not_before, not_after=not_after)
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    async with raw_server(refuse_to_talk, tls=context) as url:
        await fails_to_connect(url, trusting, says)


def self_signed(directory: Path) -> ssl.SSLContext:
    """Return the context of a server that has nobody's word but its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_a_self_signed_certificate_is_refused_unless_it_is_trusted_itself(
    trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    context = self_signed(tmp_path)
    async with raw_server(noting_hosts([]), tls=context) as url:
        trusting_it = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        async with websocket.connect(url, ssl_context=trusting_it, server_hostname="localhost"):
            pass
    async with raw_server(refuse_to_talk, tls=context) as url:
        await fails_to_connect(url, trusting, "the certificate is not trusted: self.signed certificate$")
        await fails_to_connect(url, None, "the certificate is not trusted: self.signed certificate$")


async def test_a_certificate_of_another_authority_is_refused(trusting: ssl.SSLContext) -> None:
    async with raw_server(refuse_to_talk, tls=context_for(trustme.CA(), "127.0.0.1")) as url:
        await fails_to_connect(url, trusting, "the certificate is not trusted: unable to get local issuer certificate$")


async def test_a_context_that_verifies_nothing_is_the_users_choice(server_tls: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with raw_server(noting_hosts([]), tls=server_tls) as url, websocket.connect(url, ssl_context=context):
        pass


# The client's own certificate -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demanding(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context that requires a certificate of the client."""
    context = context_for(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


def with_certificate_of(issuer: trustme.CA, authority: trustme.CA) -> ssl.SSLContext:
    """Return a client's context that trusts the authority, and has a certificate itself."""
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    issuer.issue_cert("client@example.com").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


async def test_a_client_shows_its_certificate(authority: trustme.CA, demanding: ssl.SSLContext) -> None:
    seen: list[Any] = []

    async def server(peer: Peer) -> None:
        await peer.accept()
        certificate = cast("trio.SSLStream[trio.SocketStream]", peer.stream).getpeercert()
        assert certificate is not None
        seen.append(certificate["subjectAltName"])
        await frames_until_close(peer)

    async with (
        raw_server(server, tls=demanding) as url,
        websocket.connect(url, ssl_context=with_certificate_of(authority, authority)),
    ):
        pass
    assert seen == [(("email", "client@example.com"),)]


@pytest.mark.parametrize(
    ("certificate", "says"),
    [("none", "ALERT_CERTIFICATE_REQUIRED"), ("of another authority", "ALERT_UNKNOWN_CA")],
)
async def test_a_server_that_wants_another_certificate_of_the_client_is_understood(
    certificate: str, says: str, authority: trustme.CA, trusting: ssl.SSLContext, demanding: ssl.SSLContext
) -> None:
    # In TLS 1.3 the client's handshake is over when the server refuses: its word comes instead of the answer.
    async def server(peer: Peer) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        handshake = demanding.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                handshake.do_handshake()
            except ssl.SSLWantReadError:
                await peer.send(outgoing.read())
                incoming.write(await peer.stream.receive_some())
            except ssl.SSLError:
                # Trio's stream would keep the alert to itself.
                await peer.send(outgoing.read())
                await peer.expect_gone()
                return

    context = trusting if certificate == "none" else with_certificate_of(trustme.CA(), authority)
    async with raw_server(server) as url:
        await fails_to_connect(
            url.replace("ws:", "wss:"), context, f"the connection broke during the WebSocket handshake: .*{says}$"
        )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 "])
async def test_a_reset_right_after_tls_1_3_may_be_about_the_clients_certificate(
    version: ssl.TLSVersion, says: bytes, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = context_for(authority, "127.0.0.1")
    context.maximum_version = version

    async def server(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(says)
        peer.reset()

    async with raw_server(server, tls=context) as url:
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url, ssl_context=trusting).__aenter__()
    hint = ", right after TLS; the server may want a client certificate"
    expected = hint if version is ssl.TLSVersion.TLSv1_3 and not says else ""
    said = "the connection broke during the WebSocket handshake: Connection reset by peer"
    assert str(caught.value) == f"cannot connect to {url}: {said}{expected}"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 "])
async def test_an_end_right_after_tls_1_3_may_be_about_the_clients_certificate(
    version: ssl.TLSVersion, says: bytes, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = context_for(authority, "127.0.0.1")
    context.maximum_version = version
    context.num_tickets = 0

    async def server(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(says)
        await cast("trio.SSLStream[trio.SocketStream]", peer.stream).transport_stream.aclose()

    async with raw_server(server, tls=context) as url:
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url, ssl_context=trusting).__aenter__()
    when = "in the middle of the WebSocket handshake" if says else "without an answer to the WebSocket handshake"
    hint = ", right after TLS; the server may want a client certificate"
    expected = hint if version is ssl.TLSVersion.TLSv1_3 and not says else ""
    assert str(caught.value) == f"cannot connect to {url}: the server closed the connection {when}{expected}"


async def test_an_end_without_an_answer_may_come_of_a_server_of_tls(server_tls: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.read_request()

    async with raw_server(server) as url:
        said = r"the server closed the connection without an answer to the WebSocket handshake; is it a wss: server\?$"
        with pytest.raises(ConnectionFailedError, match=said) as caught:
            await websocket.connect(url).__aenter__()
    assert caught.value.details == {"url": url, "answer": b""}


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_an_end_without_an_answer_may_come_of_the_subprotocols(
    authority: trustme.CA, trusting: ssl.SSLContext, secure: bool
) -> None:
    async def server(peer: Peer) -> None:
        await peer.read_request()

    context = context_for(authority, "127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # of which the server says something after its handshake
    hint = "; is it a wss: server, or does it know none of the subprotocols that were offered?"
    if secure:
        hint = "; does it know none of the subprotocols that were offered?"
    async with raw_server(server, tls=context if secure else None) as url:
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url, protocols=["s3cret"], ssl_context=trusting if secure else None).__aenter__()
    said = "the server closed the connection without an answer to the WebSocket handshake"
    assert str(caught.value) == f"cannot connect to {url}: {said}{hint}"
    assert caught.value.retryable


async def test_a_reset_without_tls_is_not_about_certificates() -> None:
    async def server(peer: Peer) -> None:
        await peer.read_request()
        peer.reset()

    async with raw_server(server) as url:
        with pytest.raises(ConnectionFailedError, match=r"WebSocket handshake: Connection reset by peer$"):
            await websocket.connect(url).__aenter__()


# Which protocol is spoken within TLS ----------------------------------------------------------------------------------


def offering(trusted: trustme.CA, *protocols: str) -> ssl.SSLContext:
    """Return a client's context that trusts the authority, and offers these protocols."""
    context = ssl.create_default_context()
    trusted.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    context.set_alpn_protocols(protocols)
    return context


async def test_a_server_that_chooses_http_2_is_told_with_what_to_do(authority: trustme.CA) -> None:
    served = context_for(authority, "127.0.0.1")
    served.set_alpn_protocols(["h2", "http/1.1"])

    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""  # no request is made

    async with raw_server(server, tls=served) as url:
        with pytest.raises(ConnectionFailedError, match=r"chose HTTP/2, because ssl_context offers it") as caught:
            await websocket.connect(url, ssl_context=offering(authority, "http/1.1", "h2")).__aenter__()
    assert "give connect a context of its own" in str(caught.value)
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
    assert caught.value.details == {"url": url}


@pytest.mark.parametrize(("served", "offered"), [(["http/1.1"], ["h2", "http/1.1"]), ([], ["h2"]), (["x"], ["x"])])
async def test_another_choice_of_the_servers_is_no_obstacle(
    served: list[str], offered: list[str], authority: trustme.CA
) -> None:
    context = context_for(authority, "127.0.0.1")
    context.set_alpn_protocols(served)

    async def server(peer: Peer) -> None:
        await peer.accept()
        await frames_until_close(peer)

    async with raw_server(server, tls=context) as url:
        async with websocket.connect(url, ssl_context=offering(authority, *offered)) as client:
            pass
        assert client.close_code == 1000


async def test_a_server_that_speaks_http_2_although_nobody_chose_it_is_told(authority: trustme.CA) -> None:
    async def server(peer: Peer) -> None:
        await peer.send(b"\0\0\x12\x04\0\0\0\0\0" + bytes(18))
        await peer.expect_gone()

    async with raw_server(server, tls=context_for(authority, "127.0.0.1")) as url:
        with pytest.raises(ConnectionFailedError, match=r"as HTTP/2 does, and WebSocket needs HTTP/1\.1$"):
            await websocket.connect(url, ssl_context=offering(authority, "h2")).__aenter__()


async def test_an_alert_about_the_offer_of_protocols_is_told(authority: trustme.CA) -> None:
    async def server(peer: Peer) -> None:
        await peer.read(1)
        await peer.send(b"\x15\x03\x03\0\x02\x02\x78")  # no_application_protocol (RFC 7301, section 3.2)
        await peer.expect_gone()

    async with raw_server(server) as url:
        said = r"(?i)no.application.protocol.*; the server takes none of the protocols that ssl_context offers \(ALPN\)"
        await fails_to_connect(url.replace("ws:", "wss:"), offering(authority, "h2"), said)


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"", "the server closed the connection without an answer; is it a ws: server\\?$"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server did not answer in TLS; is it a ws: server\\?$"),
        (b"\x16\x03\x03", "the server closed the connection in the middle of the handshake$"),
        # close_notify (RFC 8446, section 6.1)
        (b"\x15\x03\x03\0\x02\x01\0", "the server closed the connection in the middle of the handshake$"),
    ],
)
async def test_a_tls_handshake_that_ends_is_told_in_words(says: bytes, told: str, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.stream.receive_some()
        await peer.send(says)

    async with raw_server(server) as url:
        await fails_to_connect(url.replace("ws:", "wss:"), trusting, f"TLS failed: {told}")


class Unusable(ssl.SSLContext):
    """A context that cannot be used, and says so when it is."""

    def wrap_bio(self, *_arguments: object, **_options: object) -> ssl.SSLObject:
        raise ssl.SSLError("not this one")


async def test_a_context_that_cannot_be_used_is_a_failed_connection_that_leaves_no_socket() -> None:
    async def server(peer: Peer) -> None:
        await peer.expect_gone()

    async with raw_server(server) as url:
        await fails_to_connect(
            url.replace("ws:", "wss:"), Unusable(ssl.PROTOCOL_TLS_CLIENT), "TLS failed: .*not this one"
        )


async def test_a_program_that_computes_for_longer_than_the_read_timeout_does_not_blame_the_server(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        # All at once: while the client computes, this task cannot send either.
        await peer.send(frame(BINARY, bytes(70_000)) * 3)
        await peer.expect(CLOSE)
        await peer.send(close_frame(1000))

    async with (
        raw_server(server, tls=server_tls) as url,
        websocket.connect(url, ssl_context=trusting, read_timeout="100ms", channel_capacity=1) as client,
    ):
        for _ in range(3):
            _, ok = await client.receive()
            assert ok, client.error
            time.sleep(0.2)  # noqa: ASYNC251  # nobody reads in the meantime, and that is the point
