"""Which targets the environment's ``no_proxy`` takes out. No I/O.

Python's own rule, `urllib.request.proxy_bypass_environment`, knows no networks, and ports only of names.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from ipaddress import AddressValueError, ip_address, ip_network
from typing import TYPE_CHECKING

from csp.errors import InvalidError, shown
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


def is_excepted(target: Target, value: str, name: str) -> bool:
    """Whether ``no_proxy`` takes a target out.

    It lists, with commas or spaces between them:

    - names; each stands for those below it too, and may begin with a dot or ``*.``
    - addresses, and networks such as ``10.0.0.0/8``, for hosts that are written as addresses
    - each of these with a port behind it, for that port only
    - ``*`` for everything

    and what other programs write there: the beginning of an address (``192.168.``), a network without its zeros
    (``169.254/16``), a ``*`` anywhere, also for the port, and ``<local>`` for names without a dot.

    Args:
        target: where a connection is to lead.
        value: the list.
        name: what errors call it.

    Raises:
        InvalidError: an entry is malformed.
    """
    # All are checked, also those behind one that matches: a mistake is told wherever the connection leads.
    matches = [_matches(entry, target, name) for entry in re.split(r"[,\s]+", value) if entry]
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
    # Whether it is well formed is checked for any port.
    is_host = _is_host((parts["bare"] or parts["address"] or parts["host"]).lower(), target.host, problem)
    return is_host and (not parts["port"] or int(parts["port"]) == target.port)


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
    address = re.sub(r"^\[(.*)\]$", r"\1", address)
    if _SHORT_ADDRESS.fullmatch(address):
        address += ".0" * (3 - address.count("."))
    try:
        network = ip_network(f"{address}/{length}", strict=False)
    except ValueError:
        raise InvalidError(problem) from None
    return is_address(host) and ip_address(host) in network
