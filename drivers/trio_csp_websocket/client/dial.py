"""Reaching a server: name resolution, TCP, and TLS where the URL says so."""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, TypeAlias

import trio

from csp.errors import ConnectionFailedError, Kind, PermissionDeniedError, shown
from trio_csp_websocket.client.tcp import open_tcp_stream
from trio_csp_websocket.client.verifying import verifying_context
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.tls import TlsTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.client.progress import Progress
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

# OpenSSL's name of the alert (RFC 7301, section 3.2), or its words, if Python does not know the name.
_NO_PROTOCOL = re.compile("no.application.protocol", re.IGNORECASE)

MemoryServer: TypeAlias = "Callable[[Target], Transport | None]"
"""Returns a stream to a server in memory; None if it does not serve that target."""

memory_servers: trio.lowlevel.RunVar[tuple[MemoryServer, ...]] = trio.lowlevel.RunVar("csp.testing servers", default=())
"""If there are any, `dial` reaches only these: the last one that serves the target."""


async def dial(target: Target, options: Options, progress: Progress) -> Transport:
    """Open the byte stream to a target, and tell ``progress`` what it waits for.

    Raises:
        PermissionDeniedError: no address of the target may be connected to.
        ConnectionFailedError: the target cannot be reached, or TLS failed; the text says why. Retryable, unless
            ``ssl_context`` made the server choose HTTP/2.
    """
    if memory_servers.get():
        await trio.lowlevel.checkpoint()
        return _dial_memory(target)
    try:
        stream = await open_tcp_stream(target, progress)
    except PermissionDeniedError:
        raise
    except OSError as error:
        attempts = _failed_attempts(error)
        # The cause is a group only if several addresses failed.
        raise _not_connected(_reasons(attempts)) from (error if len(attempts) > 1 else attempts[0])
    except BaseExceptionGroup as group:
        # Ctrl-C can hit one of the tasks that try addresses; it then comes in a group.
        _, failures = group.split(trio.Cancelled)
        if failures is None or len(failures.exceptions) != 1:
            raise
        raise failures.exceptions[0] from None
    tcp = SocketTransport(stream)
    return await _secured(tcp, target, options, progress) if target.secure else tcp


async def _secured(tcp: SocketTransport, target: Target, options: Options, progress: Progress) -> Transport:
    """Carry out the TLS handshake; close the connection if it fails."""
    progress.waits_for = lambda: (
        "the server took the TCP connection, and did not "
        f"{'finish' if tcp.bytes_received else 'answer'} the TLS handshake"
    )
    try:
        tls = TlsTransport(tcp, options.ssl_context or verifying_context(), options.server_hostname or target.host)
        await tls.handshake()
    except trio.BrokenResourceError as error:
        await tcp.aclose()
        raise _not_connected(f"TLS failed: {_tls_reason(error, begun=tcp.bytes_received > 0)}") from error
    except (ssl.SSLError, ValueError) as error:
        # The context or the server's name cannot be used.
        await tcp.aclose()
        raise _not_connected(f"TLS failed: {shown(str(error))}") from error
    except BaseException:
        await tcp.aclose()
        raise
    if tls.protocol == "h2":
        await tls.aclose()
        raise ConnectionFailedError(
            "the server chose HTTP/2, because ssl_context offers it (ALPN: h2), and WebSocket needs HTTP/1.1; "
            "libraries such as httpcore add h2 to a context that they are given: give connect a context of its own",
            kind=Kind.INTERNAL,
            retryable=False,
        )
    return tls


def _dial_memory(target: Target) -> Transport:
    for server in reversed(memory_servers.get()):
        transport = server(target)
        if transport is not None:
            return transport
    raise _not_connected("connection refused: no csp.testing.websocket_server serves this URL")


def _not_connected(reason: str) -> ConnectionFailedError:
    return ConnectionFailedError(reason, kind=Kind.INTERNAL, retryable=True)


def _tls_reason(error: trio.BrokenResourceError, *, begun: bool) -> str:
    """Return why the TLS handshake failed, and what to do about it where that is known.

    Args:
        error: what broke it.
        begun: whether the server has said anything.
    """
    if isinstance(error.__cause__, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        when = "in the middle of the handshake" if begun else "without an answer; is it a ws: server?"
        return f"the server closed the connection {when}"
    reason = shown(str(error))
    if reason == "WRONG_VERSION_NUMBER":
        return "the server did not answer in TLS; is it a ws: server?"
    if _NO_PROTOCOL.search(reason):
        return (
            f"{reason}; the server takes none of the protocols that ssl_context offers (ALPN), which must have http/1.1"
        )
    return reason


def _failed_attempts(error: OSError) -> list[BaseException]:
    """Return the errors of a host's addresses, which are in the cause of the error."""
    attempts = getattr(error.__cause__, "exceptions", None)
    return [error.__cause__ or error] if attempts is None else list(attempts)


def _reasons(attempts: list[BaseException]) -> str:
    return "; ".join(dict.fromkeys(map(_reason, attempts)))


def _reason(attempt: BaseException) -> str:
    """Return why connecting to an address failed, in the system's words; Trio's own text repeats the address."""
    if isinstance(attempt, OSError) and not isinstance(attempt, socket.gaierror) and attempt.errno is not None:
        return error_text(attempt.errno)
    return getattr(attempt, "strerror", None) or str(attempt)


def error_text(number: int) -> str:
    """Return the system's text for the number of an error.

    On Windows strerror knows no error of a socket; Python has texts for these.
    """
    of_sockets: Mapping[int, str] = getattr(socket, "errorTab", {})
    return of_sockets.get(number, "").removesuffix(".") or os.strerror(number)
