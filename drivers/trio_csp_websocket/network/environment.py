"""Which proxy the environment names for a target: its variables, and the system's settings.

The variables are read here, so that errors can say which it was. ``urllib.request`` is asked for what else there is:
the settings of Windows and of macOS.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

import trio

from csp.errors import ConnectionFailedError, InvalidError, Kind
from trio_csp_websocket.network.no_proxy import is_excepted
from trio_csp_websocket.network.proxy import Proxy, parse_proxy
from trio_csp_websocket.protocol.authority import is_address

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.url import Target

_SYSTEM = "the system's proxy setting"


class _Setting(NamedTuple):
    """Where a value comes from, as texts say it, and the value."""

    name: str
    value: str


def environment_proxy(target: Target) -> Proxy | None:
    """Return the proxy that the environment names for a target; None for none.

    ``https_proxy`` counts for ``wss:``, ``http_proxy`` for ``ws:``, then ``all_proxy``, each in lower or upper case;
    then what `urllib.request.getproxies` knows of the system. ``no_proxy`` takes hosts out. This machine is never
    reached through a proxy: ``localhost``, names below it, and loopback and link-local addresses with a zone.

    Raises:
        ConnectionFailedError: a setting is malformed; the text names it. Kind INVALID, not retryable.
    """
    if _is_local(target):
        return None
    scheme = "https" if target.secure else "http"
    setting = _variable(f"{scheme}_proxy") or _variable("all_proxy")
    if setting is None:
        setting = _of_system(scheme)
    if setting is None or not setting.value:
        return None
    try:
        exceptions = _variable("no_proxy")
        if exceptions is not None and is_excepted(target, exceptions.value, exceptions.name):
            return None
        return parse_proxy(_completed(setting.value), setting=setting.name)
    except InvalidError as error:
        raise ConnectionFailedError(
            f"{error}; proxy=None connects without a proxy", kind=Kind.INVALID, retryable=False
        ) from None


def _is_local(target: Target) -> bool:
    host = target.host
    if host == "localhost" or host.endswith(".localhost") or target.zone:
        return True
    return is_address(host) and ip_address(host).is_loopback


def _variable(name: str) -> _Setting | None:
    """Return an environment variable, in lower case if it is set so, else in upper case; None if it is not set."""
    # A web server that runs a program by CGI sets HTTP_PROXY to a header of the request (RFC 3875, section 4.1.18). On
    # Windows, where variables have no case, all of them are listed in upper case.
    if name == "http_proxy" and "REQUEST_METHOD" in os.environ and name not in list(os.environ):
        return None
    for written in (name, name.upper()):
        value = os.environ.get(written)
        if value is not None:
            return _Setting(f"the environment variable {written}", value.strip())
    return None


async def is_excepted_by_system(proxy: Proxy, target: Target) -> bool:
    """Whether the proxy is that of the system's settings, and these take a target out.

    Python may look names up for that, and so it is done in a thread.
    """
    if proxy.setting != _SYSTEM:
        return False
    import urllib.request  # noqa: PLC0415  # loaded by now

    return bool(await trio.to_thread.run_sync(urllib.request.proxy_bypass, target.host, abandon_on_cancel=True))


def _of_system(scheme: str) -> _Setting | None:
    """Return the proxy in the system's settings, if there is one for the scheme, or for all."""
    # Here, because it takes milliseconds to load, and few need it.
    import urllib.request  # noqa: PLC0415

    found = urllib.request.getproxies()
    for name in (scheme, "all", "socks"):
        value = found.get(name)
        if value:
            if name == "socks":
                kind, _, place = value.rpartition("://")
                value = f"{kind if kind not in ('', 'http', 'socks') else 'socks5h'}://{place}"
            return _Setting(_SYSTEM, value.strip())
    return None


def _completed(value: str) -> str:
    """Return the URL that a value stands for."""
    if "://" not in value:
        return f"http://{value}"
    # As desktops write it for SOCKS5.
    return re.sub(r"^socks://", "socks5h://", value, flags=re.IGNORECASE)
