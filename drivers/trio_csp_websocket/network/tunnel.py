"""A connection to a target through a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csp import security
from csp.errors import ConnectionFailedError, Kind, PermissionDeniedError
from trio_csp_websocket.network.addresses import address_name, allowed_addresses, check_address, look_up
from trio_csp_websocket.network.failures import system_errors
from trio_csp_websocket.network.http_proxy import ask_http_proxy
from trio_csp_websocket.network.securing import Peer, secured
from trio_csp_websocket.network.socks_proxy import NotReachedError, ask_socks_proxy
from trio_csp_websocket.network.tcp import connect_to_one
from trio_csp_websocket.protocol.authority import is_address
from trio_csp_websocket.transport.socket import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.proxy import Proxy
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport


async def open_tunnel(proxy: Proxy, target: Target, route: Route, progress: Progress) -> Transport:
    """Connect to a target through a proxy.

    Raises:
        PermissionDeniedError: ``websocket.connect.proxy`` is denied for the proxy, or ``websocket.connect.address`` for
            the target's address, where it is known here.
        ConnectionFailedError: the proxy cannot be reached, or does not connect to the target. Not retryable if it wants
            other credentials, or refuses for another reason that will not go away.
    """
    progress.proxy = proxy
    _check_allowed(proxy, target)
    try:
        transport = await _open(proxy, target, route, progress)
    except ConnectionFailedError as error:
        # A status, for one, may be the proxy's or the server's.
        error.details = {**error.details, "by_proxy": True}
        raise
    # What is counted from here on is the target's.
    transport.bytes_sent = transport.bytes_received = 0
    transport.proxy = proxy.url
    return transport


async def _open(proxy: Proxy, target: Target, route: Route, progress: Progress) -> Transport:
    failure: ConnectionFailedError | None = None
    for host in await _hosts(proxy, target, progress):
        transport = await _reach(proxy, route, progress)
        try:
            if proxy.is_http:
                await ask_http_proxy(transport, proxy, host, target.port, progress)
            else:
                await ask_socks_proxy(transport, proxy, host, target.port, progress)
        except NotReachedError as error:
            # Another address of the target may be reached.
            await transport.aclose()
            failure = failure or error.failure
        except BaseException:
            await transport.aclose()
            raise
        else:
            return transport
    assert failure is not None  # there is at least one address
    raise failure


def _check_allowed(proxy: Proxy, target: Target) -> None:
    facts = {"url": target.url, "host": proxy.host, "port": proxy.port}
    if not security.can("websocket.connect.proxy", proxy.url, facts, optional=True):
        raise PermissionDeniedError(
            f"connections through {proxy.shown} are not allowed: websocket.connect.proxy is denied",
            details={"url": target.url, "proxy": proxy.url},
        )


async def _hosts(proxy: Proxy, target: Target, progress: Progress) -> Sequence[str]:
    """Return what the proxy is to be given for the target's host: its name; or its addresses, to be tried in turn."""
    if target.zone:
        raise ConnectionFailedError(
            f"{proxy.shown} cannot reach {target.shown}, whose zone is an interface of this machine",
            kind=Kind.INVALID,
            retryable=False,
        )
    if proxy.resolves_names:
        hosts = [target.host]
        if is_address(target.host):
            check_address(target, target.host)
    else:
        with system_errors():
            hosts = list(dict.fromkeys(map(address_name, await allowed_addresses(target, progress))))
    if proxy.scheme in ("socks4", "socks4a"):
        hosts = [host for host in hosts if ":" not in host]
        if not hosts:
            raise ConnectionFailedError(
                f"{proxy.shown} takes IPv4 addresses only, and {target.host} is IPv6; SOCKS5 takes both",
                kind=Kind.INTERNAL,
                retryable=False,
            )
    return hosts


async def _reach(proxy: Proxy, route: Route, progress: Progress) -> Transport:
    """Connect to the proxy."""
    with system_errors(f"{proxy.shown} cannot be reached: "):
        addresses = await look_up(proxy.host, proxy.zone, proxy.port, progress)
        stream = await connect_to_one(addresses, proxy.port, progress, f" of {proxy.shown}")
    tcp = SocketTransport(stream)
    if proxy.scheme != "https":
        return tcp
    peer = Peer(
        name="the proxy",
        reached=f"{proxy.shown} took the TCP connection, and",
        failed=f"TLS with {proxy.shown}",
        plain="an http: proxy",
        option="proxy_ssl_context",
    )
    tls = await secured(tcp, route.proxy_ssl_context, proxy.host, peer, progress)
    tls.ends_at_proxy = True
    return tls
