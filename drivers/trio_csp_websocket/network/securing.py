"""The TLS handshake with a server or a proxy, and why it fails."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, NamedTuple

import trio

from csp.errors import ConnectionFailedError, Kind, shown
from trio_csp_websocket.network.failures import not_connected
from trio_csp_websocket.network.verifying import verifying_context
from trio_csp_websocket.transport.tls import TlsTransport

if TYPE_CHECKING:
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.transport.base import Transport

# OpenSSL's name of the alert (RFC 7301, section 3.2), or its words, if Python does not know the name.
_NO_PROTOCOL = re.compile("no.application.protocol", re.IGNORECASE)


class Peer(NamedTuple):
    """Whom TLS is spoken with, as texts say it."""

    name: str
    reached: str
    """What has been done so far, as a clause that what it has not done continues."""
    failed: str
    """What failed if TLS fails."""
    plain: str
    """What it may be if it does not speak TLS."""
    option: str
    """The option that its context comes from."""


def server(reached: str) -> Peer:
    return Peer("the server", reached, "TLS", "a ws: server", "ssl_context")


async def secured(
    inner: Transport, context: ssl.SSLContext | None, hostname: str, peer: Peer, progress: Progress
) -> TlsTransport:
    """Carry out the TLS handshake over a transport, which is closed if that fails.

    Args:
        inner: the transport; nothing must have been read of it that counts in its ``bytes_received``.
        context: whom to trust; None for the system's authorities.
        hostname: the name in the peer's certificate.
        peer: the peer.
        progress: told what is waited for.

    Raises:
        ConnectionFailedError: TLS failed; retryable, unless the context made the peer choose HTTP/2.
    """
    progress.waits_for = lambda: (
        f"{peer.reached} did not {'finish' if inner.bytes_received else 'answer'} the TLS handshake"
    )
    try:
        tls = TlsTransport(inner, context or verifying_context(), hostname)
        await tls.handshake()
    except trio.BrokenResourceError as error:
        await inner.aclose()
        reason = _reason(error, peer, begun=inner.bytes_received > 0)
        raise not_connected(f"{peer.failed} failed: {reason}") from error
    except (ssl.SSLError, ValueError) as error:
        # The context or the peer's name cannot be used.
        await inner.aclose()
        raise not_connected(f"{peer.failed} failed: {shown(str(error))}") from error
    except Exception as error:
        # A stream of the user's may raise anything.
        await inner.aclose()
        raise not_connected(f"{peer.failed} failed: {shown(repr(error))}") from error
    except BaseException:
        await inner.aclose()
        raise
    if tls.protocol == "h2":
        await tls.aclose()
        raise ConnectionFailedError(
            f"{peer.name} chose HTTP/2, because {peer.option} offers it (ALPN: h2), and WebSocket needs HTTP/1.1; "
            "libraries such as httpcore add h2 to a context that they are given: give connect a context of its own",
            kind=Kind.INTERNAL,
            retryable=False,
        )
    return tls


def _reason(error: trio.BrokenResourceError, peer: Peer, *, begun: bool) -> str:
    """Return why the TLS handshake failed, and what to do about it where that is known.

    Args:
        error: what broke it.
        peer: the peer.
        begun: whether it has said anything.
    """
    if isinstance(error.__cause__, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        when = "in the middle of the handshake" if begun else f"without an answer; is it {peer.plain}?"
        return f"{peer.name} closed the connection {when}"
    reason = shown(str(error))
    if reason == "WRONG_VERSION_NUMBER":
        return f"{peer.name} did not answer in TLS; is it {peer.plain}?"
    if _NO_PROTOCOL.search(reason):
        return (
            f"{reason}; {peer.name} takes none of the protocols that {peer.option} offers (ALPN), "
            "which must have http/1.1"
        )
    return reason
