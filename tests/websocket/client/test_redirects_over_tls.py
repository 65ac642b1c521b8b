"""Redirects over TLS, between real servers: whose certificate is asked for what, and whom the client still trusts."""

from __future__ import annotations

import contextlib
import ssl
import warnings
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trustme

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.websocket._peers import CLOSE, Peer, close_frame, raw_server
from trio_csp_websocket.client import redirects
from trio_csp_websocket.network.verifying import verifying_context, without_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_csp_websocket.transport.base import PeerCertificate


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def serving(authority: trustme.CA, identity: str, names: list[str | None]) -> ssl.SSLContext:
    """Return the context of a server that asks for a certificate, and notes what name it is asked for itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(identity).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    context.verify_mode = ssl.CERT_OPTIONAL
    context.sni_callback = lambda _ssl, name, _context: names.append(name)
    return context


def trusting(authority: trustme.CA, *, certificate: bool = True) -> ssl.SSLContext:
    """Return a client's context that trusts the private authority only, and has a certificate to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    if certificate:
        authority.issue_cert("client@example.com").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


class TlsServer:
    """A server that notes what each client shows and asks for, and redirects the first ones to places."""

    def __init__(self, authority: trustme.CA, identity: str, *locations: str) -> None:
        self.names: list[str | None] = []
        self.certificates: list[PeerCertificate | None] = []
        self.requests: list[bytes] = []
        self.locations = list(locations)
        self._context = serving(authority, identity, self.names)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[str]:
        async with raw_server(self._serve, tls=self._context) as url:
            yield url

    async def _serve(self, peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # of a client that does not trust it
            await peer.read_request()
            self.certificates.append(cast("trio.SSLStream[trio.SocketStream]", peer.stream).getpeercert())
            self.requests.append(peer.request)
            if self.locations:
                location = self.locations.pop(0).encode()
                await peer.send(b"HTTP/1.1 307 Elsewhere\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")
                await peer.read_frames()
            else:
                await peer.send(peer.answer)
                await peer.expect(CLOSE)
                await peer.send(close_frame(1000))


def shown(server: TlsServer) -> list[bool]:
    """Whether each client has shown a certificate."""
    return [bool(certificate) for certificate in server.certificates]


async def test_a_certificate_goes_to_the_same_server_and_not_to_another_which_is_trusted_all_the_same(
    authority: trustme.CA,
) -> None:
    first, second = TlsServer(authority, "inner.test"), TlsServer(authority, "127.0.0.1")
    options: dict[str, Any] = {"server_hostname": "inner.test", "host_header": "host.test", "headers": {"Cookie": "a"}}
    async with first.running() as url, second.running() as other:
        first.locations = ["/again", f"{other}there"]
        async with websocket.connect(url, ssl_context=trusting(authority), **options) as client:
            assert client.url == f"{other}there"
            assert client.peer_certificate is not None
            assert client.peer_certificate["subjectAltName"] == (("IP Address", "127.0.0.1"),)
            assert client.remote == ("127.0.0.1", int(other.split(":")[2].rstrip("/")))
    assert shown(first) == [True, True]
    assert first.names == ["inner.test", "inner.test"]
    assert all(b"Host: host.test\r\n" in request and b"Cookie: a\r\n" in request for request in first.requests)
    assert shown(second) == [False]
    # An address is no name to be asked for (RFC 6066, section 3).
    assert second.names == [None]
    assert b"host.test" not in second.requests[0]
    assert b"Cookie" not in second.requests[0]


async def test_a_way_that_comes_back_shows_no_certificate(authority: trustme.CA) -> None:
    first, second = TlsServer(authority, "127.0.0.1"), TlsServer(authority, "127.0.0.1")
    async with first.running() as url, second.running() as other:
        first.locations, second.locations = [other], [url]
        async with websocket.connect(url, ssl_context=trusting(authority)) as client:
            assert client.url == url
    assert (shown(first), shown(second)) == ([True, False], [False])


async def test_another_server_has_to_be_trusted(authority: trustme.CA) -> None:
    first, second = TlsServer(authority, "127.0.0.1"), TlsServer(trustme.CA(), "127.0.0.1")
    async with first.running() as url, second.running() as other:
        first.locations = [other]
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url, ssl_context=trusting(authority)).__aenter__()
    assert str(caught.value).startswith(f"cannot connect to {other} (redirected from {url}): TLS failed: ")
    assert second.requests == []


async def test_the_name_of_another_server_is_that_of_its_url(authority: trustme.CA) -> None:
    first, second = TlsServer(authority, "inner.test"), TlsServer(authority, "inner.test")
    async with first.running() as url, second.running() as other:
        first.locations = [other]
        with pytest.raises(ConnectionFailedError, match=r"TLS failed: .*127"):
            await websocket.connect(url, ssl_context=trusting(authority), server_hostname="inner.test").__aenter__()
    assert second.requests == []


async def test_from_ws_a_redirect_leads_to_tls_with_the_authorities_of_the_system(authority: trustme.CA) -> None:
    async def redirect(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 301 Moved\r\nLocation: " + other.replace("wss", "https").encode() + b"\r\n\r\n")
        await peer.read_frames()

    second = TlsServer(authority, "127.0.0.1")
    async with second.running() as other, raw_server(redirect) as url:
        with pytest.raises(ConnectionFailedError, match=r"TLS failed: .*not trusted") as caught:
            await websocket.connect(url).__aenter__()
    assert caught.value.details["redirects"] == (other,)


# The copy -------------------------------------------------------------------------------------------------------------

SETTINGS = (
    "verify_mode",
    "check_hostname",
    "hostname_checks_common_name",
    "verify_flags",
    "options",
    "minimum_version",
    "maximum_version",
    "security_level",
)


def weak(context: ssl.SSLContext) -> None:
    context.set_ciphers("DEFAULT:@SECLEVEL=0")


def without_verifying(context: ssl.SSLContext) -> None:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE


def without_names(context: ssl.SSLContext) -> None:
    context.check_hostname = False


def without_common_names(context: ssl.SSLContext) -> None:
    context.hostname_checks_common_name = False


def strict(context: ssl.SSLContext) -> None:
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_CRL_CHECK_LEAF


def of_1_3_only(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3


def of_1_2_only(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.set_ciphers("ECDHE+CHACHA20")


@pytest.mark.parametrize(
    "change",
    [None, weak, without_verifying, without_names, without_common_names, strict, of_1_3_only, of_1_2_only],
)
def test_a_copy_verifies_as_the_users_context_does(change: Any, authority: trustme.CA) -> None:
    context = trusting(authority)
    if change is not None:
        change(context)
    copy = without_certificate(context)
    assert {name: getattr(copy, name) for name in SETTINGS} == {name: getattr(context, name) for name in SETTINGS}
    assert copy.get_ca_certs() == context.get_ca_certs() != []
    assert copy.get_ciphers() == context.get_ciphers()


def test_a_context_that_trusts_nobody_has_a_copy_that_does_not_either() -> None:
    copy = without_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    assert copy.get_ca_certs() == []
    assert (copy.verify_mode, copy.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_for_a_context_of_another_class_there_is_the_default() -> None:
    class Own(ssl.SSLContext):
        """It may verify in a way of its own."""

    assert without_certificate(Own(ssl.PROTOCOL_TLS_CLIENT)) is verifying_context()


async def test_one_copy_serves_the_whole_way_and_a_version_that_should_not_be_used_warns_nobody_again(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[ssl.SSLContext] = []

    def copy(context: ssl.SSLContext) -> ssl.SSLContext:
        copied.append(context)
        return without_certificate(context)

    monkeypatch.setattr(redirects, "without_certificate", copy)
    context = trusting(authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    first, second = TlsServer(authority, "127.0.0.1"), TlsServer(authority, "127.0.0.1")
    async with first.running() as url, second.running() as other:
        first.locations, second.locations = [other, other], [url]
        async with websocket.connect(url, ssl_context=context) as client:
            assert client.url == other
    assert copied == [context]
