"""HTTP headers: names in any case, repeated ones kept."""

from __future__ import annotations

from email.message import Message as Headers


def parse_headers(head: bytes) -> Headers[str, str]:
    """Return the headers that `Handshake.head` gave."""
    headers: Headers[str, str] = Headers()
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(": ")
        headers[name] = value
    return headers


def joined(headers: Headers[str, str]) -> dict[str, str]:
    """Return headers by their names in lower case, repeated ones joined as RFC 9110, section 5.3, allows."""
    names = {name.lower() for name in headers}
    return {name: ", ".join(headers.get_all(name, [])) for name in sorted(names)}
