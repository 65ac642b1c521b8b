"""What proxies say about the client behind them, and how much of it is believed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import InvalidError
from tests._steps import steps
from trio_csp_websocket.protocol.headers import Headers
from trio_csp_websocket.server.forwarded import Forwarded, forwarded, parse_networks

if TYPE_CHECKING:
    from trio_csp_websocket.transport.base import Address

PROXY = ("10.0.0.1", 50_000)
NETWORKS = parse_networks(["10.0.0.0/8", "fd00::/8"])
NOTHING = Forwarded(None, None, None)


def told(*fields: tuple[str, str], peer: Address | None = PROXY) -> Forwarded:
    return forwarded(Headers(fields), peer, NETWORKS)


def told_by_forwarded(*values: str) -> Forwarded:
    return told(*(("Forwarded", value) for value in values))


# Who is trusted -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "peer", "trusted"),
    [
        ("10.0.0.0/8", ("10.1.2.3", 1), True),
        ("10.0.0.0/8", ("11.0.0.1", 1), False),
        ("10.0.0.0/255.0.0.0", ("10.1.2.3", 1), True),
        ("192.0.2.1", ("192.0.2.1", 1), True),
        ("192.0.2.1", ("192.0.2.2", 1), False),
        ("2001:db8::/32", ("2001:db8:1::1", 1), True),
        ("2001:db8::/32", ("2001:db9::1", 1), False),
        ("::1", ("::1", 1), True),
        ("fe80::/10", ("fe80::1%eth0", 1), True),
        # The peers of a socket for both families are told with mapped addresses.
        ("10.0.0.0/8", ("::ffff:10.1.2.3", 1), True),
        ("::ffff:10.0.0.0/104", ("10.1.2.3", 1), True),
        ("::ffff:10.0.0.0/104", ("::ffff:a01:203", 1), True),
        ("::ffff:10.0.0.0/104", ("11.0.0.1", 1), False),
        ("::ffff:192.0.2.1", ("192.0.2.1", 1), True),
        ("::/0", ("192.0.2.1", 1), False),
        ("0.0.0.0/0", ("::1", 1), False),
        (IPv4Address("192.0.2.1"), ("192.0.2.1", 1), True),
        (IPv6Address("2001:db8::1"), ("2001:db8::1", 1), True),
        (IPv4Network("192.0.2.0/24"), ("192.0.2.200", 1), True),
        (IPv6Network("2001:db8::/32"), ("2001:db8::2", 1), True),
        ("unix", "/run/proxy.sock", True),
        ("unix", "", True),
        ("unix", ("127.0.0.1", 1), False),
        ("127.0.0.1", "", False),
        ("0.0.0.0/0", None, False),
        ("unix", None, False),
        ("0.0.0.0/0", ("no address", 1), False),
        ("0.0.0.0/0", ("", 1), False),
    ],
)
def test_a_proxy_is_trusted_by_its_network(network: object, peer: Address | None, trusted: bool) -> None:
    headers = Headers({"X-Forwarded-For": "198.51.100.7"})
    expected = Forwarded(("198.51.100.7", 0), None, None) if trusted else NOTHING
    for networks in ([network], ["198.51.100.8", network, "2001:db8:ffff::/48"]):
        parsed = parse_networks(networks)
        assert parsed
        assert parsed.has_peer(peer) is trusted
        assert forwarded(headers, peer, parsed) == expected


@pytest.mark.parametrize("peer", [PROXY, "", "/run/proxy.sock", None])
def test_without_networks_nobody_is_trusted(peer: Address | None) -> None:
    networks = parse_networks([])
    assert not networks
    headers = Headers({"Forwarded": "for=192.0.2.1;proto=https;host=a", "X-Forwarded-Proto": "https"})
    assert forwarded(headers, peer, networks) == NOTHING


@pytest.mark.parametrize(
    ("network", "detail"),
    [
        *(
            ("", ""),
            ("*", ""),
            ("localhost", ""),
            ("Unix", ""),
            ("10.0.0", ""),
            ("10.0.0.0/33", ""),
            ("10.0.0.0/8/8", ""),
        ),
        *(("10.0.0.0/", ""), (" 10.0.0.0", ""), ("10.0.0.1:80", ""), ("[::1]", ""), ("010.0.0.0", ""), ("1", "")),
        ("10.0.0.1/8", ": write '10.0.0.0/8' for the network, or '10.0.0.1' for the address"),
        ("2001:db8::1/32", ": write '2001:db8::/32' for the network, or '2001:db8::1' for the address"),
        ("fe80::1%eth0", ": a network has no zone"),
        (IPv6Address("fe80::1%eth0"), ": a network has no zone"),
    ],
)
def test_what_is_no_network_is_refused(network: object, detail: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_networks(["10.0.0.0/8", network])
    assert str(caught.value) == (
        'trusted_proxies must be a list of addresses and networks, and "unix" for the peers of a Unix socket, not one '
        f"with {str(network)!r} in it{detail}"
    )


# Forwarded ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "remote"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ('"192.0.2.1"', ("192.0.2.1", 0)),
        ('"192.0.2.1:4711"', ("192.0.2.1", 4711)),
        ('"192.0.2.1:0"', ("192.0.2.1", 0)),
        ('"192.0.2.1:65535"', ("192.0.2.1", 65535)),
        ('"192.0.2.1:_hidden"', ("192.0.2.1", 0)),
        ('"[2001:db8::1]"', ("2001:db8::1", 0)),
        ('"[2001:DB8:0::1]:4711"', ("2001:db8::1", 4711)),
        ('"[::ffff:192.0.2.1]:4711"', ("192.0.2.1", 4711)),
        (r'"\192.0.2\.1"', ("192.0.2.1", 0)),
    ],
)
def test_an_address_is_written_as_the_rfc_says(node: str, remote: tuple[str, int]) -> None:
    assert told_by_forwarded(f"for={node}") == Forwarded(remote, None, None)
    assert told_by_forwarded(f"for=10.0.0.9, For={node};proto=https") == Forwarded(remote, True, None)


@pytest.mark.parametrize(
    "node", ["unknown", "Unknown", "_hidden", '"_h.i-d_den"', '"unknown:80"', '"_hidden:_port"', ""]
)
def test_where_a_proxy_does_not_tell_the_address_it_is_the_last_that_is_known(node: str) -> None:
    element = f"for={node};proto=https;host=a.test" if node else "proto=https;host=a.test"
    assert told_by_forwarded(element) == Forwarded(None, True, "a.test")
    assert told_by_forwarded(f"for=192.0.2.1;proto=http, {element}") == Forwarded(None, True, "a.test")
    chain = f"for=192.0.2.1, {element}, for=10.0.0.2;proto=http;host=b.test"
    assert told_by_forwarded(chain) == Forwarded(("10.0.0.2", 0), True, "a.test")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # One proxy.
        ("for=192.0.2.1;proto=https;host=a.test", (("192.0.2.1", 0), True, "a.test")),
        ("for=192.0.2.1;by=10.0.0.1", (("192.0.2.1", 0), None, None)),
        # What the client itself has sent is left of it.
        ("for=198.51.100.1;proto=https, for=192.0.2.1;proto=http", (("192.0.2.1", 0), False, None)),
        ("for=10.0.0.9;proto=https;host=evil.test, for=192.0.2.1", (("192.0.2.1", 0), None, None)),
        # Two and three proxies.
        ("for=192.0.2.1;proto=https;host=a.test, for=10.0.0.2;proto=http", (("192.0.2.1", 0), True, "a.test")),
        ("for=192.0.2.1, for=10.0.0.2;proto=http;host=b.test", (("192.0.2.1", 0), None, None)),
        (
            'for=198.51.100.1;proto=http, for=192.0.2.1;proto=https, for="[fd00::3]:1";proto=http, for=10.0.0.2',
            (("192.0.2.1", 0), True, None),
        ),
        # All are trusted.
        ('for="10.0.0.4:5";proto=https, for=10.0.0.3;proto=http, for=10.0.0.2', (("10.0.0.4", 5), True, None)),
        ("for=10.0.0.4;host=a.test", (("10.0.0.4", 0), None, "a.test")),
        # Empty elements and parameters, and spaces.
        (", ,for=192.0.2.1 ,\t, for=10.0.0.2, ,", (("192.0.2.1", 0), None, None)),
        (";for=192.0.2.1 ;; PROTO=HTTPS\t; ", (("192.0.2.1", 0), True, None)),
        ("", (None, None, None)),
        (" , ,", (None, None, None)),
    ],
)
def test_the_rightmost_address_that_is_not_trusted_is_the_clients(
    value: str, expected: tuple[Address | None, bool | None, str | None]
) -> None:
    assert told_by_forwarded(value) == Forwarded(*expected)
    # Several headers are one list.
    assert told_by_forwarded(*value.split(",")) == Forwarded(*expected)
    assert told_by_forwarded("", value, "") == Forwarded(*expected)


MALFORMED = [
    "for",
    "for=",
    "=10.0.0.3",
    "for:10.0.0.3",
    "for =10.0.0.3",
    "for= 10.0.0.3",
    "for=10.0.0.3 proto=https",
    "for=10.0.0.3;for=10.0.0.4",
    "for=10.0.0.3;For=10.0.0.3",
    "for=10.0.0.3;proto=http;proto=https",
    "for=10.0.0.3;x",
    "for=10.0.0.3;x=a b",
    "for=10.0.0.300",
    "for=10.0.0",
    "for=10.0.0.03",
    "for=10.0.0.3:80",
    'for="10.0.0.3:"',
    'for="10.0.0.3:65536"',
    'for="10.0.0.3:123456"',
    'for="10.0.0.3:-1"',
    'for="10.0.0.3:_"',
    'for="10.0.0.3:80:80"',
    "for=[fd00::3]",
    "for=fd00::3",
    'for="fd00::3"',
    'for="[fd00::3"',
    'for="[fd00::3%25eth0]"',
    'for="[10.0.0.3]"',
    'for="[]"',
    'for=""',
    'for=" 10.0.0.3"',
    "for=_",
    "for=unknown.",
    "for=localhost",
    "for=un\u212anown",
    "for=10.0.0.3\x0b",
    'for="10.0.0.3',
    'for=10.0.0.3"',
    'for="10.0.0.3"x',
    'for="10.0.0.3\\"',
    'for="10.0.0.3";"',
    'for=10.0.0.3;x="',
    'for=10.0.0.3;x="\\',
    'for=10.0.0.3;x=\\"',
    "for=10.0.0.3;x=\\",
    'for=10.0.0.3;x="a"b"',
]


@pytest.mark.parametrize("malformed", MALFORMED)
def test_what_is_malformed_counts_for_nothing_and_neither_does_what_is_left_of_it(malformed: str) -> None:
    left = "for=198.51.100.1;proto=https;host=evil.test"
    assert told_by_forwarded(malformed) == NOTHING
    assert told_by_forwarded(f"{left}, {malformed}") == NOTHING
    assert told_by_forwarded(left, f"{malformed};proto=https;host=evil.test") == NOTHING
    for known in (
        "for=10.0.0.2;proto=http;host=b.test",
        'for="10.0.0.2";x="a,b;c=\\"d\\\\";proto=http;host="b.test"',
    ):
        expected = Forwarded(("10.0.0.2", 0), False, "b.test")
        assert told_by_forwarded(left, malformed, known) == expected
        assert told_by_forwarded(f"{left}, {malformed}, {known}") == expected


@pytest.mark.parametrize(
    "left", [*MALFORMED, "\\", '"', '\\"', '\\\\"', 'a="', 'for=10.0.0.3;x="', 'for="[fd00::3]:1;', ","]
)
@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("for=192.0.2.1", (("192.0.2.1", 0), None, None)),
        ('for="[2001:db8::1]:4711";proto=https', (("2001:db8::1", 4711), True, None)),
        ('for="192.0.2.1";host="a.test";proto="http"', (("192.0.2.1", 0), False, "a.test")),
        (r'x="\\";for="192.0.2.1";y="\"";z=", for=10.0.0.3;proto=https"', (("192.0.2.1", 0), None, None)),
        (r'for=192.0.2.1;host=", for=\"10.0.0.3\";host=evil.test"', (("192.0.2.1", 0), None, None)),
    ],
)
def test_nothing_that_a_client_sends_changes_what_its_proxy_adds(
    left: str, added: str, expected: tuple[Address | None, bool | None, str | None]
) -> None:
    assert told_by_forwarded(f"{left}, {added}") == Forwarded(*expected)
    assert told_by_forwarded(f"{left},{added}") == Forwarded(*expected)
    assert told_by_forwarded(left, added) == Forwarded(*expected)


@pytest.mark.parametrize(
    ("proto", "secure"),
    [
        *(("https", True), ("wss", True), ("http", False), ("ws", False), ("HTTPS", True), ("Ws", False)),
        *(("", None), ("ftp", None), ("https!", None), ("1", None)),
    ],
)
def test_the_scheme_tells_whether_the_client_uses_tls(proto: str, secure: bool | None) -> None:
    assert told_by_forwarded(f'for=192.0.2.1;proto="{proto}"').secure is secure
    assert told(("X-Forwarded-Proto", proto)) == Forwarded(None, secure, None)


@pytest.mark.parametrize(
    ("host", "valid"),
    [
        *(("a.test", True), ("A.test:8443", True), ("[2001:db8::1]:1", True), ("192.0.2.1", True), ("a.test.", True)),
        *(("", False), ("a b", False), ("a/b", False), ("u@a", False), ("a:b", False), ("::1", False), ("*", False)),
    ],
)
def test_a_host_that_is_malformed_is_not_said(host: str, valid: bool) -> None:
    expected = host if valid else None
    assert told_by_forwarded(f'for=192.0.2.1;host="{host}"') == Forwarded(("192.0.2.1", 0), None, expected)
    assert told(("X-Forwarded-Host", host)) == Forwarded(None, None, expected)


def test_forwarded_comes_before_all_of_the_others() -> None:
    others = [("X-Forwarded-For", "192.0.2.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "x.test")]
    assert told(*others, ("forwarded", "for=192.0.2.1")) == Forwarded(("192.0.2.1", 0), None, None)
    assert told(*others, ("Forwarded", 'for="')) == NOTHING
    assert told(*others, ("Forwarded", "")) == NOTHING
    assert told(*others) == Forwarded(("192.0.2.9", 0), True, "x.test")


# X-Forwarded-* --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "remote"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:4711", ("192.0.2.1", 4711)),
        ("2001:DB8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:4711", ("2001:db8::1", 4711)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 0)),
        ("198.51.100.1, 192.0.2.1", ("192.0.2.1", 0)),
        ("198.51.100.1, 192.0.2.1, 10.0.0.3,10.0.0.2:80 ", ("192.0.2.1", 0)),
        ("192.0.2.1, fd00::3, [fd00::2]:80", ("192.0.2.1", 0)),
        ("192.0.2.1, ::ffff:10.0.0.3", ("192.0.2.1", 0)),
        ("10.0.0.4:5, 10.0.0.3, 10.0.0.2", ("10.0.0.4", 5)),
        ("192.0.2.1, unknown", None),
        ("192.0.2.1, unknown, 10.0.0.2", ("10.0.0.2", 0)),
        ("192.0.2.1, _hidden, 10.0.0.2", ("10.0.0.2", 0)),
        ("unknown, 192.0.2.1", ("192.0.2.1", 0)),
        ("", None),
    ],
)
def test_x_forwarded_for_is_a_list_of_addresses(value: str, remote: Address | None) -> None:
    assert told(("X-Forwarded-For", value)) == Forwarded(remote, None, None)
    assert told(*(("x-forwarded-for", entry) for entry in value.split(","))) == Forwarded(remote, None, None)


@pytest.mark.parametrize(
    "malformed",
    [
        *("", " ", "a", "localhost", "10.0.0", "10.0.0.300", "10.0.0.3:", "10.0.0.3:65536", "10.0.0.3 10.0.0.4"),
        *('"10.0.0.3"', "for=10.0.0.3", "[10.0.0.3]", "[fd00::3", "fd00::3]", "fd00::3%eth0", "fd00:::3", ":", "::g"),
        *("unix:", "[]", "un\u212anown", "\xa010.0.0.3", "10.0.0.3;proto=https"),
    ],
)
def test_what_is_malformed_in_x_forwarded_for_ends_the_belief(malformed: str) -> None:
    assert told(("X-Forwarded-For", malformed)) == NOTHING
    assert told(("X-Forwarded-For", f"198.51.100.1, {malformed}")) == NOTHING
    assert told(("X-Forwarded-For", f"198.51.100.1, {malformed}, 10.0.0.2")) == Forwarded(("10.0.0.2", 0), None, None)
    assert told(("X-Forwarded-For", f"{malformed}, 192.0.2.1")) == Forwarded(("192.0.2.1", 0), None, None)


@pytest.mark.parametrize(
    ("addresses", "proto", "secure"),
    [
        # Each proxy has added its own: the one that the client met counts.
        ("192.0.2.1, 10.0.0.2", "https, http", True),
        ("192.0.2.1, 10.0.0.2", "http, https", False),
        ("192.0.2.1, 10.0.0.3, 10.0.0.2", "https, http, http", True),
        ("198.51.100.1, 192.0.2.1", "https, http", False),
        ("10.0.0.3, 10.0.0.2", "https, http", True),
        ("192.0.2.1, unknown, 10.0.0.2", "http, https, http", True),
        ("192.0.2.1, unknown, 10.0.0.2", "https, ftp, http", None),
        # Not each has: the last counts.
        ("192.0.2.1, 10.0.0.2", "https", True),
        ("192.0.2.1, 10.0.0.2", "https, https, http", False),
        ("192.0.2.1", "https, http", False),
        ("192.0.2.1", "http, https", True),
        ("192.0.2.1", "https,", None),
        (None, "https, http", False),
        (None, "http", False),
        # No address is believed.
        ("192.0.2.1, a", "https, http", False),
        ("192.0.2.1, ", "https, http", False),
    ],
)
def test_the_scheme_and_the_host_are_those_of_the_same_proxy(
    addresses: str | None, proto: str, secure: bool | None
) -> None:
    fields = [] if addresses is None else [("X-Forwarded-For", addresses)]
    hosts = ", ".join(f"{name.strip()}.test" if name.strip() else "" for name in proto.split(","))
    host = {True: "https.test", False: "http.test", None: "ftp.test" if "ftp" in proto else None}[secure]
    found = told(*fields, ("X-Forwarded-Proto", proto), ("X-Forwarded-Host", hosts))
    assert (found.secure, found.host) == (secure, host)
    apart = [("X-Forwarded-Proto", value) for value in proto.split(",")]
    assert told(*fields, *apart) == Forwarded(found.remote, secure, None)


def test_one_of_the_two_may_be_shorter() -> None:
    found = told(
        ("X-Forwarded-For", "192.0.2.1, 10.0.0.2"),
        ("X-Forwarded-Proto", "https, http"),
        ("X-Forwarded-Host", "a.test"),
    )
    assert found == Forwarded(("192.0.2.1", 0), True, "a.test")


# In general -----------------------------------------------------------------------------------------------------------

ADDRESSES = st.tuples(st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str), st.integers(0, 65535))
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))


def node(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(TEXTS, ADDRESSES, st.lists(st.integers(0, 255), max_size=3), TEXTS, st.sampled_from((", ", ",", " ,\t")))
@settings(max_examples=300)
def test_whatever_the_client_sends_the_address_is_the_one_that_its_proxy_saw(
    sent: str, client: tuple[str, int], proxies: list[int], extra: str, comma: str
) -> None:
    networks = parse_networks(["10.0.0.0/8"])
    added = [client, *((f"10.0.0.{number}", number) for number in proxies)]
    if networks.has_peer(client):
        return
    remote = told(("X-Forwarded-For", node(client))).remote
    elements = [f"x={quoted(extra)};for={quoted(node(address))};proto=https" for address in added]
    for fields in (
        [("Forwarded", comma.join([sent, *elements]))],
        [("Forwarded", value) for value in (sent, *elements)],
    ):
        assert forwarded(Headers(fields), PROXY, networks) == Forwarded(remote, True, None)
    chain = comma.join([sent, *map(node, added)])
    assert forwarded(Headers({"X-Forwarded-For": chain}), PROXY, networks) == Forwarded(remote, None, None)


@given(
    st.lists(
        st.tuples(st.sampled_from(("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")), TEXTS)
    )
)
@settings(max_examples=300)
def test_any_values_are_read(fields: list[tuple[str, str]]) -> None:
    assert forwarded(Headers(fields), ("192.0.2.1", 1), NETWORKS) == NOTHING
    remote = told(*fields).remote
    assert remote is None or isinstance(remote, tuple)


@pytest.mark.parametrize("sent", ["for=10.0.0.3,", "for=a;", 'x="\\"', "10.0.0.3,"])
def test_entries_that_are_not_believed_are_not_parsed(sent: str) -> None:
    added = {"Forwarded": "for=192.0.2.1", "X-Forwarded-For": "192.0.2.1"}

    def work(count: int) -> int:
        headers = [Headers({name: f"{sent * count},{value}"}) for name, value in added.items()]
        return steps(lambda: [forwarded(fields, PROXY, NETWORKS) for fields in headers])

    # A few steps to find each comma and quote, or to strip each entry, and not the hundreds of parsing an address.
    assert work(2000) - work(1000) < 50_000
