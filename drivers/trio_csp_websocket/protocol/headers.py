"""HTTP headers: names in any case, repeated ones kept."""

from __future__ import annotations

from email.message import Message as Headers


def parse_headers(head: bytes) -> Headers[str, str]:
    """Parse what `ResponseReader.head` gave."""
    headers: Headers[str, str] = Headers()
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(": ")
        headers[name] = value
    return headers


def joined(headers: Headers[str, str]) -> dict[str, str]:
    """Return headers by their names in lower case, repeated ones joined as RFC 9110, section 5.3, allows."""
    values: dict[str, list[str]] = {}
    for name, value in headers.items():
        values.setdefault(name.lower(), []).append(value)
    return {name: ", ".join(values[name]) for name in sorted(values)}
