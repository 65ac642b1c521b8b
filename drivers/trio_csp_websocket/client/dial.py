"""Reaching a server: name resolution, TCP, and TLS where the URL says so."""

from __future__ import annotations

import os
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
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

MemoryServer: TypeAlias = "Callable[[Target], Transport | None]"
"""Returns a stream to a server in memory; None if it does not serve that target."""

memory_servers: trio.lowlevel.RunVar[tuple[MemoryServer, ...]] = trio.lowlevel.RunVar("csp.testing servers", default=())
"""If there are any, `dial` reaches only these: the last one that serves the target."""


async def dial(target: Target, options: Options) -> Transport:
    """Open the byte stream to a target.

    Raises:
        PermissionDeniedError: no address of the target may be connected to.
        ConnectionFailedError: the target cannot be reached, or TLS failed; the text says why. Retryable.
    """
    if memory_servers.get():
        await trio.lowlevel.checkpoint()
        return _dial_memory(target)
    try:
        stream = await open_tcp_stream(target)
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
    if not target.secure:
        return tcp
    try:
        tls = TlsTransport(tcp, options.ssl_context or verifying_context(), options.server_hostname or target.host)
        await tls.handshake()
    except trio.BrokenResourceError as error:
        await tcp.aclose()
        raise _not_connected(f"TLS failed: {shown(str(error))}{_hint(error)}") from error
    except (ssl.SSLError, ValueError) as error:
        # The context or the server's name cannot be used.
        await tcp.aclose()
        raise _not_connected(f"TLS failed: {shown(str(error))}") from error
    except BaseException:
        await tcp.aclose()
        raise
    return tls


def _dial_memory(target: Target) -> Transport:
    for server in reversed(memory_servers.get()):
        transport = server(target)
        if transport is not None:
            return transport
    raise _not_connected("connection refused: no csp.testing.websocket_server serves this URL")


def _not_connected(reason: str) -> ConnectionFailedError:
    return ConnectionFailedError(reason, kind=Kind.INTERNAL, retryable=True)


def _hint(error: trio.BrokenResourceError) -> str:
    """Return what may be wrong if the server's answer is not TLS."""
    reason = getattr(error.__cause__, "reason", None)
    return "; is it a ws: server?" if reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING") else ""


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
