"""Reaching a server, in one of the ways that the options and the environment name, and TLS where the URL says so.

In this order: a server of `csp.testing`, the function ``dial``, a Unix socket, a proxy, TCP.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias, cast

import trio
from trio.lowlevel import disable_ki_protection

from csp.errors import ConnectionTimeoutError, Error, InvalidTypeError, Kind, shown
from trio_csp_websocket.network.addresses import check_address
from trio_csp_websocket.network.environment import environment_proxy, is_excepted_by_system
from trio_csp_websocket.network.failures import not_connected, system_errors
from trio_csp_websocket.network.proxy import Proxy
from trio_csp_websocket.network.securing import secured, server
from trio_csp_websocket.network.tcp import open_tcp_stream
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.route import Dial, Route
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

# What a function of the user's raises if it has not reached the server.
_FAILED = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

MemoryServer: TypeAlias = "Callable[[Target], Transport | None]"
"""Returns a stream to a server in memory; None if it does not serve that target."""

memory_servers: trio.lowlevel.RunVar[tuple[MemoryServer, ...]] = trio.lowlevel.RunVar("csp.testing servers", default=())
"""If there are any, `dial` reaches only these: the last one that serves the target."""


def with_proxy(route: Route, target: Target) -> Route:
    """Return a route to a target with the proxy that the environment names, and load what it takes to use that.

    To be called before a timeout begins, which loading must not use up.

    Raises:
        ConnectionFailedError: as `environment_proxy`.
    """
    if route.dial is not None or route.unix_socket is not None or memory_servers.get():
        return route
    proxy = environment_proxy(target) if route.proxy is True else route.proxy
    if not isinstance(proxy, Proxy):
        return replace(route, proxy=False)
    import_module("trio_csp_websocket.network.tunnel")  # and with it h11 and python-socks
    return replace(route, proxy=proxy)


async def dial(target: Target, route: Route, progress: Progress) -> Transport:
    """Open the byte stream to a target, and tell ``progress`` what it waits for.

    Args:
        target: the target.
        route: what `with_proxy` returns: the environment is not asked here.
        progress: told what is waited for.

    Raises:
        PermissionDeniedError: no address of the target may be connected to, or the proxy may not be used.
        ConnectionFailedError: the target cannot be reached, or TLS failed; the text says why. Not retryable where the
            same would fail again: ``ssl_context`` made the server choose HTTP/2, or a proxy wants other credentials.
    """
    if memory_servers.get():
        await trio.lowlevel.checkpoint()
        return _dial_memory(target)
    transport, reached = await _reach(target, route, progress)
    if not target.secure:
        return transport
    hostname = route.server_hostname or target.host
    return await secured(transport, route.ssl_context, hostname, server(reached), progress)


async def _reach(target: Target, route: Route, progress: Progress) -> tuple[Transport, str]:
    """Open the byte stream beneath TLS; return it, and what was reached, as a clause."""
    if route.dial is not None:
        return await _call(route.dial, target, progress), "the function dial has returned a stream, and the server"
    if route.unix_socket is not None:
        transport = await _open_unix_socket(route.unix_socket, target, progress)
        return transport, f"{_shown(route.unix_socket)} took the connection, and the server"
    progress.waits_for = lambda: "the system did not say whether its settings take the server out"
    if isinstance(route.proxy, Proxy) and not await is_excepted_by_system(route.proxy, target):
        # Here, because few need it; it is loaded by now.
        from trio_csp_websocket.network.tunnel import open_tunnel  # noqa: PLC0415

        tunnel = await open_tunnel(route.proxy, target, route, progress)
        return tunnel, f"{route.proxy.shown} opened a tunnel, and the server"
    with system_errors():
        stream = await open_tcp_stream(target, progress)
    return SocketTransport(stream), "the server took the TCP connection, and"


async def _open_unix_socket(path: str, target: Target, progress: Progress) -> Transport:
    _check_path(target, path)
    progress.waits_for = lambda: f"{_shown(path)} took no connection"
    with system_errors(f"{_shown(path)}: "):
        transport = SocketTransport(await trio.open_unix_socket(path))
    if transport.remote is None:
        # Linux takes no connection at once if too many wait. Trio knows that of TCP only, and goes on.
        await transport.aclose()
        raise not_connected(f"{_shown(path)} took no connection: too many may be waiting")
    return transport


def _check_path(target: Target, path: str) -> None:
    """Ask the policies about a path as it is written, made absolute, and about where its links lead."""
    absolute = os.path.abspath(path)  # noqa: PTH100  # `Path.resolve` follows links
    for name in dict.fromkeys((absolute, os.path.realpath(path))):
        check_address(target, name)


def _shown(path: str) -> str:
    return f"the Unix socket {shown(path)}"


async def _call(function: Dial, target: Target, progress: Progress) -> Transport:
    """Call the user's function, and take over the stream that it returns."""
    progress.waits_for = lambda: "the function dial has not returned"
    try:
        stream = await _returned(function, target.looked_up, target.port)
    except Error:
        raise
    except trio.TooSlowError as error:
        raise ConnectionTimeoutError("dial took too long", kind=Kind.INTERNAL, retryable=True) from error
    except _FAILED as error:
        raise not_connected(f"dial failed: {shown(_words(error))}") from error
    except ExceptionGroup as group:
        # As out of a nursery that the function has opened.
        if group.split(_FAILED)[1] is not None:
            raise
        raise not_connected(f"dial failed: {shown('; '.join(map(_words, _leaves(group))))}") from group
    if not isinstance(stream, trio.abc.Stream):
        raise InvalidTypeError(f"dial must return a trio.abc.Stream, not {stream!r}")
    if type(stream) is not trio.SocketStream:
        return StreamTransport(stream)
    if stream.socket.fileno() == -1:
        raise not_connected("dial failed: it returned a stream that is closed")
    return SocketTransport(stream)


@disable_ki_protection
async def _returned(function: Dial, host: str, port: int) -> object:
    waiting = cast("object", function(host, port))
    if not isinstance(waiting, Awaitable):
        raise InvalidTypeError(f"dial must be an async function: it returned {type(waiting).__name__}")
    return await cast("Awaitable[object]", waiting)


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(cast("ExceptionGroup[Exception]", error))
        else:
            yield error


def _words(error: Exception) -> str:
    """Return what an error says, with the reasons of all attempts if it stands for several."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    attempts = getattr(error.__cause__, "exceptions", ())
    reasons = dict.fromkeys(getattr(attempt, "strerror", None) or str(attempt) for attempt in attempts)
    return f"{said} ({'; '.join(reasons)})" if reasons else said


def _dial_memory(target: Target) -> Transport:
    for serve in reversed(memory_servers.get()):
        transport = serve(target)
        if transport is not None:
            return transport
    raise not_connected("connection refused: no csp.testing.websocket_server serves this URL")
