"""Which proxy the environment names for a target: its variables, and the system's settings.

Python's own rule, `urllib.request.proxy_bypass_environment`, does not know ports of ``no_proxy`` other than the URL's,
networks, and IPv6 addresses, and asks ``all_proxy`` never. So the variables are read here. ``urllib.request`` is asked
for what else there is: the settings of Windows and of macOS.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from ipaddress import AddressValueError, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from csp.errors import ConnectionFailedError, InvalidError, Kind, shown
from trio_csp_websocket.network.proxy import Proxy, parse_proxy
from trio_csp_websocket.protocol.authority import is_address, normalized_host, normalized_ipv6

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.url import Target

# An IPv6 address may stand without brackets, and has no port then.
_ENTRY = re.compile(
    r"(\[(?P<address>[^]]*:[^]]*)\]|(?P<host>[^]:[]+))(:(\*|(?P<port>[0-9]{1,5})))?"
    r"|(?P<bare>[0-9a-fA-F.]*:[0-9a-fA-F:.]*(%.*)?)"
)
_BEGINS_ADDRESS = re.compile(r"([0-9]{1,3}\.){1,3}")
_SHORT_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}")
_WITHOUT_DOT = "<local>"
_MAX_PORT = 65535


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
        setting = _of_system(scheme, target.host)
    if setting is None or not setting.value:
        return None
    try:
        if _is_excepted(target):
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
    upper = name.upper()
    for written in (name, upper):
        # A web server that runs a program by CGI sets HTTP_PROXY to a header of the request (RFC 3875, section 4.1.18).
        if written == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
            continue
        value = os.environ.get(written)
        if value is not None:
            return _Setting(f"the environment variable {written}", value.strip())
    return None


def _of_system(scheme: str, host: str) -> _Setting | None:
    """Return the proxy in the system's settings, unless these take the host out."""
    # Here, because it takes milliseconds to load, and few need it.
    import urllib.request  # noqa: PLC0415

    found = urllib.request.getproxies()
    for name in (scheme, "all", "socks"):
        value = found.get(name)
        if value:
            if urllib.request.proxy_bypass(host):
                return None
            if name == "socks":
                value = re.sub(r"^(http|socks)://", "socks5h://", value)
            return _Setting("the system's proxy settings", value.strip())
    return None


def _completed(value: str) -> str:
    """Return the URL that a value stands for."""
    if "://" not in value:
        return f"http://{value}"
    # As desktops write it for SOCKS5.
    return re.sub(r"^socks://", "socks5h://", value, flags=re.IGNORECASE)


def _is_excepted(target: Target) -> bool:
    """Whether ``no_proxy`` takes a target out.

    It lists, with commas or spaces between them:

    - names; each stands for those below it too, and may begin with a dot or ``*.``
    - addresses, and networks such as ``10.0.0.0/8``, for hosts that are written as addresses
    - each of these with a port behind it, for that port only
    - ``*`` for everything

    and what other programs write there: the beginning of an address (``192.168.``), a network without its zeros
    (``169.254/16``), a ``*`` anywhere, also for the port, and ``<local>`` for names without a dot.

    Raises:
        InvalidError: an entry is malformed.
    """
    setting = _variable("no_proxy")
    if setting is None:
        return False
    # All are checked, also those behind one that matches: a mistake is told wherever the connection leads.
    matches = [_matches(entry, target, setting.name) for entry in re.split(r"[,\s]+", setting.value) if entry]
    return any(matches)


def _matches(entry: str, target: Target, name: str) -> bool:
    problem = f"{name} has an entry that is neither a host nor a network: {shown(repr(entry))}"
    if entry == _WITHOUT_DOT:
        return "." not in target.host and ":" not in target.host
    if "/" in entry:
        return _is_in_network(entry, target.host, problem)
    parts = _ENTRY.fullmatch(entry)
    if parts is None or (parts["port"] and not 1 <= int(parts["port"]) <= _MAX_PORT):
        raise InvalidError(problem)
    if parts["port"] and int(parts["port"]) != target.port:
        return False
    return _is_host((parts["bare"] or parts["address"] or parts["host"]).lower(), target.host, problem)


def _is_host(host: str, target_host: str, problem: str) -> bool:
    """Whether a host is one that an entry names, or below it."""
    if ":" in host:
        try:
            return normalized_ipv6(host.partition("%")[0]) == target_host
        except AddressValueError:
            raise InvalidError(problem) from None
    if _BEGINS_ADDRESS.fullmatch(host):
        return target_host.startswith(host) and is_address(target_host)
    host = host.removeprefix("*.").removeprefix(".")
    if "*" in host:
        return fnmatchcase(target_host, host)
    try:
        host = normalized_host(host, problem)
    except InvalidError:
        raise InvalidError(problem) from None
    return target_host == host or target_host.endswith(f".{host}")


def _is_in_network(entry: str, host: str, problem: str) -> bool:
    address, _, length = entry.partition("/")
    if _SHORT_ADDRESS.fullmatch(address):
        address += ".0" * (3 - address.count("."))
    try:
        network = ip_network(f"{address}/{length}", strict=False)
    except ValueError:
        raise InvalidError(problem) from None
    return is_address(host) and ip_address(host) in network
