"""Asking a SOCKS proxy for a connection to a target, by python-socks (RFC 1928, RFC 1929; SOCKS4 and 4a)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import trio
from python_socks import ProxyError, ProxyType
from python_socks.async_.trio import Proxy as SocksProxy

from csp.errors import ConnectionFailedError, Kind, shown
from trio_csp_websocket.network.failures import not_connected

if TYPE_CHECKING:
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.proxy import Proxy
    from trio_csp_websocket.transport.base import Transport

# Replies that will be the same again (RFC 1928, section 6): no CONNECT, not this type of address.
_LASTING_REPLIES = (7, 8)
# SOCKS4: no identd, or another user's.
_LOGIN_REPLIES = (0x5C, 0x5D)
# RFC 1928, section 3, and RFC 1929, section 2.
_VERSION = 5
_LOGIN_METHOD = 2
_NO_METHOD = 0xFF
_LOGIN_VERSION = 1
# The login is the second thing that is sent.
_LOGIN_SEND = 2
_MAX_SHOWN_BYTES = 16


class NotReachedError(Exception):
    """The proxy has not connected to this address of the target, and may connect to another.

    Args:
        failure: the error if there is no other.
    """

    def __init__(self, failure: ConnectionFailedError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class _EndError(Exception):
    """The proxy has closed the connection."""


class _Conversation:
    """What python-socks is given in place of the Trio socket that it would speak through. Notes what is said.

    It also stands for the proxy before the proxy (``forward``), which python-socks asks for a socket to the proxy.

    Args:
        transport: the connection to the proxy.
        version: what its answers begin with.
    """

    def __init__(self, transport: Transport, version: int) -> None:
        self.sends = 0
        self.received = bytearray()
        self._transport = transport
        self._version = version

    async def connect(self, **_: object) -> _Conversation:
        return self

    async def send(self, data: bytes) -> int:
        self.sends += 1
        await self._transport.send_all(data)
        return len(data)

    async def recv(self, max_bytes: int) -> bytes:
        data = await self._transport.receive_some(max_bytes)
        if not data:
            raise _EndError
        self.received += data
        if self.received[0] != self._version:
            raise ValueError  # rather than wait for as many bytes as an answer has
        return data

    def close(self) -> None:
        """Leave it to the caller, who owns the transport."""


async def ask_socks_proxy(transport: Transport, proxy: Proxy, host: str, port: int, progress: Progress) -> None:
    """Have a proxy connect to a target. Nothing that comes behind its answer is read.

    Args:
        transport: the connection to the proxy.
        proxy: the proxy.
        host: the name or the address that it is given.
        port: the target's.
        progress: told what is waited for.

    Raises:
        NotReachedError: it did not connect, and may connect to another address.
        ConnectionFailedError: it did not connect.
    """
    is_socks4 = proxy.scheme in ("socks4", "socks4a")
    conversation = _Conversation(transport, 0 if is_socks4 else _VERSION)
    progress.waits_for = lambda: f"{proxy.shown} did not {'finish its answer' if conversation.received else 'answer'}"
    asked = SocksProxy(
        ProxyType.SOCKS4 if is_socks4 else ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.user.decode("ascii") or None,
        proxy.password.decode("ascii") or None,
        rdns=True,  # or it would resolve the name here, past the policies
        forward=cast("Any", conversation),
    )
    try:
        await asked.connect(host, port, timeout=math.inf)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise not_connected(f"the connection to {proxy.shown} broke: {shown(str(error))}") from error
    except _EndError:
        when = "in the middle of its answer" if conversation.received else "without an answer"
        raise not_connected(f"{proxy.shown} closed the connection {when}") from None
    except ProxyError as error:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise _refusal(error, conversation, proxy, place) from None
    except ValueError as error:
        raise _no_answer(conversation, proxy) from error


def _refusal(
    error: ProxyError, conversation: _Conversation, proxy: Proxy, place: str
) -> ConnectionFailedError | NotReachedError:
    reply = error.error_code
    if _is_login(conversation, proxy, reply):
        wants = "does not accept the login in its URL" if proxy.user else "wants a login: write it in its URL"
        return ConnectionFailedError(
            f"{proxy.shown} {wants} ({shown(str(error))})", kind=Kind.INTERNAL, retryable=False
        )
    if reply is None:
        return _no_answer(conversation, proxy)
    return NotReachedError(
        ConnectionFailedError(
            f"{proxy.shown} did not connect to {place}: {shown(str(error))}",
            kind=Kind.INTERNAL,
            retryable=reply not in _LASTING_REPLIES,
            details={"reply": int(reply)},
        )
    )


def _is_login(conversation: _Conversation, proxy: Proxy, reply: int | None) -> bool:
    """Whether it was the login that the proxy has refused, or the lack of one."""
    said = conversation.received
    if proxy.scheme in ("socks4", "socks4a"):
        return reply in _LOGIN_REPLIES
    if conversation.sends == 1:
        # The first answer chooses a method: none of those offered, or the login, which was not.
        return said[0] == _VERSION and said[1] in (_NO_METHOD, _LOGIN_METHOD)
    # If the method is the login, the second answer, of the same length, tells what came of it.
    return said[1] == _LOGIN_METHOD and conversation.sends == _LOGIN_SEND and said[2] == _LOGIN_VERSION


def _no_answer(conversation: _Conversation, proxy: Proxy) -> ConnectionFailedError:
    began = bytes(conversation.received[:_MAX_SHOWN_BYTES])
    return not_connected(f"{proxy.shown} did not answer in {proxy.scheme[:6].upper()}: it began with {began!r}")
