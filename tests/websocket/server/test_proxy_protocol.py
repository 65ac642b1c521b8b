"""The PROXY protocol, versions 1 and 2."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._steps import steps
from trio_csp_websocket.server.proxy_protocol import ProxyHeader, ProxyProtocolError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from trio_csp_websocket.transport.base import Address

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
IPV4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!HH", 4711, 443)
IPV6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 4711, 443)
)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1") * 2 + struct.pack("!HH", 4711, 443)


def binary(version_and_command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + bytes([version_and_command, family]) + struct.pack("!H", size) + body


def paths(source: bytes, destination: bytes = b"/run/server") -> bytes:
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


HEADERS: list[tuple[bytes, Address | None]] = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n", ("192.0.2.1", 4711)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", ("2001:db8::1", 4711)),
    (b"PROXY TCP6 2001:0DB8:0:0:0:0:0:1 :: 1 2\r\n", ("2001:db8::1", 1)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", ("192.0.2.1", 4711)),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", (("ffff:" * 8)[:-1], 65535)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN whatever 192.0.2.1 \0\xff\r\n", None),
    (b"PROXY UNKNOWN " + b"a" * 91 + b"\r\n", None),
    (binary(0x21, 0x11, IPV4), ("192.0.2.1", 4711)),
    (binary(0x21, 0x12, IPV4), ("192.0.2.1", 4711)),
    # Where the family or the transport is unspecified, addresses are to be ignored.
    (binary(0x21, 0x10, IPV4), None),
    (binary(0x21, 0x30, b"/"), None),
    (binary(0x21, 0x01, IPV4), None),
    (binary(0x21, 0x21, IPV6), ("2001:db8::1", 4711)),
    (binary(0x21, 0x21, MAPPED), ("192.0.2.1", 4711)),
    (binary(0x21, 0x31, paths(b"/run/client")), "/run/client"),
    (binary(0x21, 0x31, paths(b"/run/client\0left behind")), "/run/client"),
    (binary(0x21, 0x31, paths(b"/" + b"a" * 107)), "/" + "a" * 107),
    (binary(0x21, 0x31, paths(b"")), ""),
    (binary(0x21, 0x31, paths(b"\0abstract\0b")), "\0abstract"),
    (binary(0x21, 0x31, paths(b"/\xc3\xbc\xff")), "/\xfc\udcff"),
    (binary(0x21, 0x00, b""), None),
    (binary(0x21, 0x00, b"\x04\x00\x01a"), None),
    (binary(0x20, 0x00, b""), None),
    (binary(0x20, 0x11, IPV4), None),
    (binary(0x20, 0xFF, b"\x04\x00\x01a"), None),
    # Extensions, those with a checksum that is wrong, or that are cut, among them.
    (binary(0x21, 0x11, IPV4 + b"\x03\x00\x04\0\0\0\0\x01\x00\x02h2"), ("192.0.2.1", 4711)),
    (binary(0x21, 0x21, IPV6 + b"\x05\xff\xffa"), ("2001:db8::1", 4711)),
    (binary(0x21, 0x11, IPV4 + bytes(4096)), ("192.0.2.1", 4711)),
    (binary(0x21, 0x31, paths(b"/a") + bytes(4096)), "/a"),
    (binary(0x20, 0x00, bytes(4096)), None),
]


@pytest.mark.parametrize(("header", "source"), HEADERS, ids=lambda value: repr(value)[:60])
@pytest.mark.parametrize("behind", [b"", REQUEST, b"\r\n", b"\x16\x03\x01" + bytes(500_000)], ids=len)
def test_a_header_tells_the_source_and_what_is_behind_it_is_kept(
    header: bytes, source: Address | None, behind: bytes
) -> None:
    reader = ProxyHeader()
    assert reader.feed(header + behind)
    assert (reader.source, reader.rest) == (source, behind)


@pytest.mark.parametrize(("header", "source"), HEADERS, ids=lambda value: repr(value)[:60])
def test_a_header_may_come_in_any_pieces(header: bytes, source: Address | None) -> None:
    for cut in range(min(len(header), 300)):
        reader = ProxyHeader()
        assert not reader.feed(header[:cut])
        assert (reader.source, reader.rest) == (None, b"")
        assert reader.feed(header[cut:] + REQUEST)
        assert (reader.source, reader.rest) == (source, REQUEST)
    reader = ProxyHeader()
    fed = [reader.feed(header[at : at + 1]) for at in range(len(header))]
    assert fed == [False] * (len(header) - 1) + [True]
    assert (reader.source, reader.rest) == (source, b"")


# Each begins with what may still become a header, and the byte behind that is the one that makes sure it cannot.
BROKEN = [
    *((b"", b"G", "does not begin with"), (b"", b"\0", "does not begin with"), (b"", b"\x16", "does not begin with")),
    *((b"", b"p", "does not begin with"), (b"", b"\n", "does not begin with"), (b"P", b"O", "does not begin with")),
    (b"PROXY", b"\t", "does not begin with"),
    (b"PROXY ", b" ", "does not begin with"),
    (b"PROXY TCP", b" ", "does not begin with"),
    (b"PROXY TCP4", b"\r", "does not begin with"),
    (b"PROXY U", b"D", "does not begin with"),
    (b"PROXY UNKNOWN", b"S", "is malformed"),
    (b"PROXY UNKNOWN", b"\n", "is malformed"),
    (b"PROXY UNKNOWN a\r", b"a", "is malformed"),
    (b"PROXY UNKNOWN a", b"\n", "is malformed"),
    (b"PROXY TCP4 ", b"a", "is malformed"),
    (b"PROXY TCP4 192.0.2.1", b":", "is malformed"),
    (b"PROXY TCP4 192.0.2.1", b"\t", "is malformed"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443", b"\n", "is malformed"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r", b"\r", "is malformed"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r", b" ", "is malformed"),
    (b"PROXY TCP6 2001:db8::1", b"%", "is malformed"),
    (b"PROXY TCP6 2001:db8::1", b"g", "is malformed"),
    *(
        (b"PROXY " + line + b"\r", b"\n", "is malformed")
        for line in (
            *(b"TCP4 ", b"TCP4 192.0.2.1", b"TCP4 192.0.2.1 192.0.2.2", b"TCP4 192.0.2.1 192.0.2.2 4711"),
            *(
                b"TCP4 192.0.2.1 192.0.2.2 4711 ",
                b"TCP4 192.0.2.1 192.0.2.2 4711 443 ",
                b"TCP4 192.0.2.1 192.0.2.2 1 2 3",
            ),
            *(
                b"TCP4  192.0.2.1 192.0.2.2 4711 443",
                b"TCP4 192.0.2.1 192.0.2.2 04711 443",
                b"TCP4 1.2.3.4 1.2.3.4 1 100000",
            ),
            *(b"TCP6 2001:db8::1 2001:db8::2 4711 00", b"TCP6 ::1 ::1 a 1", b"TCP4 192.0.2.1 192.0.2.2 4711 44.3"),
        )
    ),
    *(
        (b"PROXY " + line + b" 1 2\r", b"\n", "has an invalid address")
        for line in (
            *(b"TCP4 192.0.2.256 192.0.2.2", b"TCP4 192.0.2 192.0.2.2", b"TCP4 192.0.2.01 192.0.2.2"),
            *(
                b"TCP4 192.0.2.1 192.0.2.256",
                b"TCP6 192.0.2.1 ::1",
                b"TCP6 ::1 192.0.2.1",
                b"TCP6 ::1 :::",
                b"TCP6 1:2 ::1",
            ),
        )
    ),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r", b"\n", "has a port above 65535"),
    (b"PROXY TCP6 ::1 ::1 1 65536\r", b"\n", "has a port above 65535"),
    (b"PROXY UNKNOWN " + b"a" * 92, b"a", "has more than 107 bytes"),
    (b"PROXY UNKNOWN " + b"a" * 92, b"\r", "has more than 107 bytes"),
    (b"PROXY TCP4 " + b"1" * 95, b"1", "has more than 107 bytes"),
    *((SIGNATURE[:cut], b"X", "does not begin with") for cut in range(1, 12)),
    (SIGNATURE, b"\x11", "unknown version or command: 0x11,"),
    (SIGNATURE, b"\x22", "unknown version or command: 0x22,"),
    (SIGNATURE, b"\x00", "unknown version or command: 0x00,"),
    (SIGNATURE, b"\xff", "unknown version or command: 0xff,"),
    (SIGNATURE + b"\x21", b"\x41", "unknown kind of address: 0x41"),
    (SIGNATURE + b"\x21", b"\x13", "unknown kind of address: 0x13"),
    (SIGNATURE + b"\x21", b"\x03", "unknown kind of address: 0x03"),
    (SIGNATURE + b"\x21\x11\x00", b"\x0b", "has 11 bytes for addresses that take 12"),
    (SIGNATURE + b"\x21\x21\x00", b"\x23", "has 35 bytes for addresses that take 36"),
    (SIGNATURE + b"\x21\x31\x00", b"\xd7", "has 215 bytes for addresses that take 216"),
    (SIGNATURE + b"\x21\x11\x10", b"\x0d", "has 4097 bytes of extensions, more than 4096"),
    (SIGNATURE + b"\x21\x21\xff", b"\xff", "has 65499 bytes of extensions"),
    (SIGNATURE + b"\x20\x00\xff", b"\xff", "has 65535 bytes of extensions"),
]


@pytest.mark.parametrize(("begin", "byte", "text"), BROKEN, ids=lambda value: repr(value)[-60:])
def test_what_is_no_header_is_refused_as_early_as_that_is_certain(begin: bytes, byte: bytes, text: str) -> None:
    begun = ProxyHeader()
    assert not begun.feed(begin)
    with pytest.raises(ProxyProtocolError, match=text) as caught:
        begun.feed(byte)
    assert begun.source is None
    for behind in (b"", b"\r\n", REQUEST):
        with pytest.raises(ProxyProtocolError) as at_once:
            ProxyHeader().feed(begin + byte + behind)
        assert str(at_once.value) == str(caught.value)
    bytewise = ProxyHeader()
    assert not any(bytewise.feed(begin[at : at + 1]) for at in range(len(begin)))
    with pytest.raises(ProxyProtocolError) as one_by_one:
        bytewise.feed(byte)
    assert str(one_by_one.value) == str(caught.value)


def outcome(blocks: list[bytes]) -> object:
    reader = ProxyHeader()
    for at, block in enumerate(blocks):
        try:
            if reader.feed(block):
                return reader.source, reader.rest + b"".join(blocks[at + 1 :])
        except ProxyProtocolError as error:
            return str(error)
    return None


def changed(data: tuple[bytes, int, int]) -> bytes:
    header, at, byte = data
    at %= len(header)
    return header[:at] + bytes([byte]) + header[at + 1 :]


MUTATED = st.tuples(
    st.sampled_from([header for header, _ in HEADERS if len(header) < 300]), st.integers(0, 300), st.integers(0, 255)
).map(changed)


@given(MUTATED | st.binary(), st.lists(st.integers(1, 20), max_size=8))
@settings(max_examples=400)
def test_any_bytes_are_the_same_however_they_are_cut(data: bytes, sizes: list[int]) -> None:
    whole = outcome([data])
    assert outcome([data[at : at + 1] for at in range(len(data))]) == whole
    blocks: list[bytes] = []
    for size in sizes:
        blocks.append(data[:size])
        data = data[size:]
    assert outcome([*blocks, data]) == whole


@given(st.ip_addresses(), st.integers(0, 65535))
@settings(max_examples=100)
def test_both_versions_tell_the_same_source(address: IPv4Address | IPv6Address, port: int) -> None:
    four = address.version == 4
    line = f"PROXY TCP{address.version} {address} {address} {port} 443\r\n"
    body = address.packed * 2 + struct.pack("!HH", port, 443)
    assert outcome([line.encode()]) == outcome([binary(0x21, 0x11 if four else 0x21, body)])
    found = outcome([line.encode() + REQUEST])
    assert found == ((str(getattr(address, "ipv4_mapped", None) or address), port), REQUEST)


@pytest.mark.parametrize("header", [HEADERS[0][0], HEADERS[10][0]], ids=["1", "2"])
def test_work_does_not_grow_with_what_is_behind(header: bytes) -> None:
    long = header + bytes(1 << 20)
    assert steps(lambda: ProxyHeader().feed(long)) == steps(lambda: ProxyHeader().feed(header))


def test_work_for_a_header_that_comes_byte_by_byte_grows_with_its_bytes() -> None:
    def work(extension_bytes: int) -> int:
        header = binary(0x21, 0x11, IPV4 + bytes(extension_bytes))
        blocks = [header[at : at + 1] for at in range(len(header))]
        return steps(lambda: outcome(blocks))

    assert work(4000) < 2.2 * work(2000)
