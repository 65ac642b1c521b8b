"""What spans and metrics say of an event, by the names of OpenTelemetry's semantic conventions where there are some.

All of it is made of the fields of events, which have no secrets: no query of a URL, no header, no credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

Attributes: TypeAlias = "dict[str, str | int | bool]"

_DEFAULT_PORTS = {"ws": 80, "wss": 443}


def of_place(fields: Mapping[str, object]) -> Attributes:
    """Return what is known of where a connection leads, and of who is at the other end."""
    found: Attributes = {}
    url, remote, proxy = fields.get("url"), fields.get("remote"), fields.get("proxy")
    if isinstance(url, str) and url.startswith(("ws:", "wss:")):
        parts = urlsplit(url.partition("?")[0])
        found = {"url.scheme": parts.scheme, "url.path": parts.path}
        found |= {"server.address": parts.hostname or "", "server.port": parts.port or _DEFAULT_PORTS[parts.scheme]}
    if isinstance(remote, str):
        host, _, port = remote.rpartition(":")
        if host and port.isdecimal():
            found |= {"network.peer.address": host.strip("[]"), "network.peer.port": int(port)}
        else:
            found |= {"network.peer.address": remote, "network.transport": "unix"}
    if isinstance(proxy, str):
        found["websocket.proxy"] = proxy
    return found


def of_outcome(fields: Mapping[str, object]) -> Attributes:
    """Return how something has come out: the status of the answer, the type of an error."""
    found: Attributes = {}
    status, error_type = fields.get("status"), fields.get("error_type")
    if isinstance(status, int):
        found["http.response.status_code"] = status
    if isinstance(error_type, str):
        refused = isinstance(status, int) and status >= 300
        found["error.type"] = str(status) if refused else error_type
    elif isinstance(status, int) and status >= 500:
        found["error.type"] = str(status)
    return found
