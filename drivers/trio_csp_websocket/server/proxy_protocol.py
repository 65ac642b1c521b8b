"""The PROXY protocol: what a load balancer says about a connection, ahead of all else on it. No I/O.

Versions 1 and 2 of the specification by HAProxy ("The PROXY protocol", 2020).
"""

from __future__ import annotations

import re
import struct
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, final

from trio_csp_websocket.protocol.authority import normalized_ipv6

if TYPE_CHECKING:
    from trio_csp_websocket.transport.base import Address

# Version 1 is a line of text, version 2 is binary.
_LINE_STARTS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN")
_BEGUN_LINE = re.compile(rb"PROXY (TCP4 [0-9. ]*|TCP6 [0-9A-Fa-f:. ]*|UNKNOWN( [^\r\n]*)?)\r?")
_LINE = re.compile(
    rb"PROXY (TCP(?P<version>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<destination>[0-9A-Fa-f:.]+) "
    rb"(?P<source_port>0|[1-9][0-9]{0,4}) (?P<destination_port>0|[1-9][0-9]{0,4})|UNKNOWN( [^\r\n]*)?)"
)
_MAX_LINE_BYTES = 107
_MAX_PORT = 65535
_MALFORMED_LINE = "its PROXY line is malformed"

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_BYTES = 16
_VERSION = 0x20
_LOCAL, _PROXY = 0, 1
_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)
_ADDRESS_BYTES = (0, 12, 36, 216)
"""By family: two addresses and two ports; of Unix sockets, two paths."""
_UNIX_PATH_BYTES = 108
_MAX_TRANSPORT = 2  # 0 is unspecified, 1 a stream, 2 datagrams
_MAX_EXTENSION_BYTES = 4096


class ProxyProtocolError(Exception):
    """A connection does not begin with a header of the PROXY protocol; the text says what is wrong with it."""


@final
class ProxyHeader:
    """Reads the header of the PROXY protocol, version 1 or 2, that a connection begins with.

    Attributes:
        source: where the client is: an address and a port, or the path of a Unix socket. None while the header is not
            complete, and if it does not say (LOCAL, UNKNOWN): the peer's own address counts then.
        rest: what came behind the header.
    """

    def __init__(self) -> None:
        self.source: Address | None = None
        self.rest = b""
        self._received = bytearray()

    def feed(self, data: bytes) -> bool:
        """Take bytes as they arrive, and return whether the header is complete; what is behind it is in `rest` then.

        However they are cut, the result is the same. Extensions (TLVs) are skipped, also checksums.

        Raises:
            ProxyProtocolError: this is no such header, or its extensions have more than 4 KiB. It is raised as soon as
                it is certain.
        """
        self._received += data
        if _SIGNATURE.startswith(self._received[: len(_SIGNATURE)]):
            size = self._read_binary()
        else:
            size = self._read_line(bytes(self._received[:_MAX_LINE_BYTES]))
        if size is None:
            return False
        self.rest = bytes(self._received[size:])
        return True

    def _read_line(self, begin: bytes) -> int | None:
        """Read version 1; return its size in bytes, or None if it is not complete."""
        if any(start.startswith(begin) for start in _LINE_STARTS):
            return None
        if not begin.startswith(_LINE_STARTS):
            raise ProxyProtocolError("it does not begin with a header of the PROXY protocol")
        line, end, _ = begin.partition(b"\r\n")
        if not _BEGUN_LINE.fullmatch(line):
            raise ProxyProtocolError(_MALFORMED_LINE)
        if end:
            self.source = _line_source(line)
            return len(line) + len(end)
        if len(begin) == _MAX_LINE_BYTES:
            raise ProxyProtocolError(f"its PROXY line has more than {_MAX_LINE_BYTES} bytes")
        return None

    def _read_binary(self) -> int | None:
        """Read version 2; return its size in bytes, or None if it is not complete."""
        received = self._received
        command, family = _LOCAL, _UNSPECIFIED
        if len(received) > 12:
            command = received[12] - _VERSION
            if command not in (_LOCAL, _PROXY):
                raise ProxyProtocolError(
                    f"its PROXY header has an unknown version or command: 0x{received[12]:02x}, not 0x20 or 0x21"
                )
        # Whatever else a LOCAL header has is to be ignored.
        if len(received) > 13 and command == _PROXY:
            family, transport = divmod(received[13], 16)
            if family > _UNIX or transport > _MAX_TRANSPORT:
                raise ProxyProtocolError(f"its PROXY header has an unknown kind of address: 0x{received[13]:02x}")
            if transport == _UNSPECIFIED:
                family = _UNSPECIFIED
        if len(received) < _FIXED_BYTES:
            return None
        length = int.from_bytes(received[14:_FIXED_BYTES])
        if length < _ADDRESS_BYTES[family]:
            raise ProxyProtocolError(
                f"its PROXY header has {length} bytes for addresses that take {_ADDRESS_BYTES[family]}"
            )
        extension_bytes = length - _ADDRESS_BYTES[family]
        if extension_bytes > _MAX_EXTENSION_BYTES:
            raise ProxyProtocolError(
                f"its PROXY header has {extension_bytes} bytes of extensions, more than {_MAX_EXTENSION_BYTES}"
            )
        size = _FIXED_BYTES + length
        if len(received) < size:
            return None
        self.source = _binary_source(family, bytes(received[_FIXED_BYTES : _FIXED_BYTES + _ADDRESS_BYTES[family]]))
        return size


def _line_source(line: bytes) -> Address | None:
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise ProxyProtocolError(_MALFORMED_LINE)
    if parts["version"] is None:
        return None
    try:
        source, _ = (_line_address(parts["version"], parts[end]) for end in ("source", "destination"))
    except AddressValueError:
        raise ProxyProtocolError("its PROXY line has an invalid address") from None
    if max(int(parts["source_port"]), int(parts["destination_port"])) > _MAX_PORT:
        raise ProxyProtocolError(f"its PROXY line has a port above {_MAX_PORT}")
    return source, int(parts["source_port"])


def _line_address(version: bytes, address: bytes) -> str:
    text = address.decode("ascii")
    return str(IPv4Address(text)) if version == b"4" else normalized_ipv6(text)


def _binary_source(family: int, addresses: bytes) -> Address | None:
    if family == _UNSPECIFIED:
        return None
    if family == _INET:
        source, _, port, _ = struct.unpack("!4s4sHH", addresses)
        return str(IPv4Address(source)), port
    if family == _INET6:
        source, _, port, _ = struct.unpack("!16s16sHH", addresses)
        return normalized_ipv6(str(IPv6Address(source))), port
    path = addresses[:_UNIX_PATH_BYTES].rstrip(b"\x00")
    # A name that begins with a NUL is one of Linux's abstract sockets.
    name, _, _ = path[1:].partition(b"\x00")
    return (path[:1] + name).decode("utf-8", "surrogateescape")
