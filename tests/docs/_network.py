"""A network for pages about the way to a server: proxies that answer what a page says, and servers behind them.

Nothing leaves the process, and the clock may jump: a connection is a pair of sockets, and each name that was given a
place here has an address of those for documentation (RFC 5737). Other names do not exist. From the first place on, the
servers of `csp.testing` are not connected to, which would be without any proxy.

A page about servers has the real network instead, of this machine only: `Network.is_real`.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
import trio.testing
import trio_websocket
import trustme

from trio_csp_websocket.network import dial

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

_OUR_END = ("192.0.2.100", 50000)
_READ_BYTES = 64 * 1024
# What is sent to a socket of this machine arrives well within this.
_REAL_JUMP_SECONDS = 0.15


class _Place(NamedTuple):
    """What is at a host and port."""

    answers: tuple[bytes, ...]
    refuses: bool
    opens: bool
    tls: bool


class Network:
    """The network of a page.

    Args:
        patch: undone at the end of the page.
        folder: for the certificate of the authority that all trust.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch = patch
        self._folder = folder
        self._authority_path = folder / "authority.pem"
        self._authority: trustme.CA | None = None
        self._addresses: dict[str, str] = {}
        self._places: dict[tuple[str, int], _Place] = {}
        self.jump_seconds = 0.0
        """How long all tasks have to wait until the clock jumps."""

    def is_real(self) -> None:
        """Connect to the ports and Unix sockets of this machine for the rest of the page.

        A clock that jumps does so once all tasks have waited for a moment: what was sent has arrived by then.
        """
        self._patch.setattr(dial, "memory_servers", trio.lowlevel.RunVar("none", default=()))
        self.jump_seconds = _REAL_JUMP_SECONDS
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, trio.testing.MockClock):
            clock.autojump_threshold = self.jump_seconds

    def certificates(self, *clients: str) -> None:
        """Make the current folder one with ``authority.pem``, ``server.pem`` for localhost, and a file a client."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._folder / "authority.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(self._folder / "server.pem")
        for name in clients:
            made = authority.issue_cert(f"{name}@example.com", common_name=name)
            made.private_key_and_cert_chain_pem.write_to_path(self._folder / f"{name}.pem")
        self.folder()

    def folder(self) -> None:
        """Make the current folder one that goes with the page."""
        self._patch.chdir(self._folder)

    def at(self, place: str, *answers: bytes, refuses: bool = False, opens: bool = False, tls: bool = False) -> None:
        """Put something at a host and port.

        Args:
            place: the host and port.
            answers: one for each thing that it receives.
            refuses: whether it takes no connection.
            opens: whether a server of WebSockets comes after the answers, which says hello; behind TLS for port 443.
            tls: whether it speaks TLS itself.
        """
        if self._authority is None:
            self._connect_all()
        host, _, port = place.rpartition(":")
        address = self._addresses.setdefault(host, f"192.0.2.{len(self._addresses) + 1}")
        self._places[address, int(port)] = _Place(answers, refuses, opens, tls)

    def _connect_all(self) -> None:
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(self._authority_path)
        self._patch.setenv("SSL_CERT_FILE", str(self._authority_path))
        self._patch.setattr(dial, "memory_servers", trio.lowlevel.RunVar("none", default=()))
        trio.socket.set_custom_hostname_resolver(_Names(self._addresses))
        trio.socket.set_custom_socket_factory(_Sockets(self))

    def reach(self, address: tuple[str, int]) -> socket.socket:
        """Return our end of a connection to an address."""
        place = self._places[address]
        if place.refuses:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        ours, theirs = socket.socketpair()
        trio.lowlevel.spawn_system_task(self._serve, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), place)
        return ours

    async def _serve(self, stream: trio.abc.Stream, place: _Place) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio_websocket.ConnectionClosed):
            async with stream:
                if place.tls:
                    stream = self._secured(stream)
                request: bytes | bytearray = b""
                for answer in place.answers:
                    request = await stream.receive_some(_READ_BYTES)
                    await stream.send_all(answer)
                if place.opens:
                    await _greet(self._secured(stream) if _is_for_https(request) else stream)
                else:
                    await _hear_out(stream)

    def _secured(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        assert self._authority is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = self._authority.issue_cert(*self._addresses, "api.example.com")
        certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
        return trio.SSLStream(stream, context, server_side=True, https_compatible=True)


async def _hear_out(stream: trio.abc.Stream) -> None:
    while await stream.receive_some(_READ_BYTES):
        pass


def _is_for_https(request: bytes | bytearray) -> bool:
    """Whether a proxy is asked for port 443, by CONNECT or in SOCKS5, where the port comes last."""
    return b":443 " in request or request.endswith((443).to_bytes(2, "big"))


async def _greet(stream: trio.abc.Stream) -> None:
    async with trio.open_nursery() as nursery:
        request = await trio_websocket.wrap_server_stream(nursery, stream)
        connection = await request.accept()
        await connection.send_message("hello")
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            await connection.get_message()


class _Names(trio.abc.HostnameResolver):
    """The addresses of names."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses

    # These take whatever Trio gives.
    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        await trio.lowlevel.checkpoint()
        address = self._addresses.get(host.decode("ascii"))
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]

    async def getnameinfo(self, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError


class _Sockets(trio.abc.SocketFactory):
    """Makes sockets that connect within a network."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def socket(self, *_: Any) -> trio.socket.SocketType:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Socket(self._network)


class _Socket(trio.socket.SocketType):
    """As much of a socket as connecting takes; its file descriptor is then taken out of it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._socket: socket.socket | None = None
        self._address = ("", 0)

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    def setsockopt(self, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    async def connect(self, address: Any) -> None:
        await trio.lowlevel.checkpoint()
        self._address = address
        self._socket = self._network.reach(address)

    def getsockname(self) -> tuple[str, int]:
        return _OUR_END

    def getpeername(self) -> tuple[str, int]:
        return self._address

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def detach(self) -> int:
        assert self._socket is not None
        return self._socket.detach()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
