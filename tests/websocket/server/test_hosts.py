"""Which hosts a request may name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import InvalidError
from tests._steps import steps
from trio_csp_websocket.server.hosts import ANY_HOST, local_hosts, parse_hosts

LOCAL = local_hosts(())

MALFORMED = [
    "",
    " ",
    ":80",
    ".",
    "..",
    "a..b",
    "a b",
    " a",
    "a ",
    "a,b",
    "a\n",
    "a\0",
    "a/",
    "a/b",
    "a?b",
    "a#b",
    "u@a",
    "a:b",
    "a:80:80",
    "a:0",
    "a:65536",
    "a:123456",
    "a:-1",
    "a: 80",
    "a:80 ",
    "a:٨",
    "bücher.example",
    "\uff41",
    "%61",
    "*",
    "*.a",
    "::1",
    "[::1",
    "::1]",
    "[]",
    "[::1]a",
    "[::1]:a",
    "a[::1]",
    "[[::1]]",
    "[127.0.0.1]",
    "[::1%25lo]",
    "[v1.a]",
    "127.1",
    "1.2.3.4.5",
    "256.0.0.1",
    "0x7f000001",
    "2130706433",
    "127.0.0.01",
    "a" * 64,
    "http://a",
    pytest.param("a." * 127 + "a", id="254 characters"),
    pytest.param("a" * 100_000, id="100,000 characters"),
]


@pytest.mark.parametrize("host", MALFORMED)
def test_what_is_malformed_is_not_let_in(host: str) -> None:
    assert not ANY_HOST.allows(host)
    assert not parse_hosts("*").allows(host)
    assert not LOCAL.allows(host)
    assert not parse_hosts(["a", "b", "127.0.0.1", "[::1]", "xn--bcher-kva.example"]).allows(host)


@pytest.mark.parametrize(
    "host",
    ["a", "A.b:1", "a_b", "a.:80", "a:", "127.0.0.1:65535", "[::1]", "[2001:DB8::1]:80", "xn--bcher-kva.example"],
)
def test_any_host_is_any_that_is_well_formed(host: str) -> None:
    assert ANY_HOST.allows(host)


@pytest.mark.parametrize(
    ("entry", "host", "allowed"),
    [
        ("example.com", "example.com", True),
        ("example.com", "Example.COM", True),
        ("EXAMPLE.com", "example.com", True),
        ("example.com", "example.com.", True),
        ("example.com.", "example.com", True),
        ("example.com", "example.com:80", True),
        ("example.com", "example.com:8765", True),
        ("example.com", "example.com.:8765", True),
        ("example.com", "a.example.com", False),
        ("example.com", "example.com.evil.test", False),
        ("example.com", "evilexample.com", False),
        ("example.com", "com", False),
        ("example.com:8765", "example.com:8765", True),
        ("example.com:8765", "example.com:08765", True),
        ("example.com:8765", "example.com:8766", False),
        ("example.com:8765", "example.com", False),
        ("example.com:", "example.com:8766", True),
        ("example.com:80", "example.com", True),
        ("example.com:443", "example.com", True),
        ("example.com:443", "example.com:", True),
        ("example.com:443", "example.com:80", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "XN--bcher-kva.example:1", True),
        ("192.0.2.1", "192.0.2.1:8765", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("[2001:db8::1]", "[2001:db8::1]:8765", True),
        ("[2001:db8::1]", "[2001:DB8:0:0:0:0:0:1]", True),
        ("[2001:db8::1]:80", "[2001:db8::1]", True),
        ("[2001:db8::1]:1", "[2001:db8::1]:2", False),
        ("[::ffff:192.0.2.1]", "192.0.2.1", True),
        ("192.0.2.1", "[::ffff:c000:201]", True),
    ],
)
def test_an_entry_holds_for_a_host_and_for_its_port_or_any(entry: str, host: str, allowed: bool) -> None:
    assert parse_hosts([entry]).allows(host) is allowed
    assert parse_hosts(["other.test", entry, "other.test:1"]).allows(host) is allowed


def test_a_list_replaces_the_local_names_and_may_be_empty() -> None:
    assert not parse_hosts(["example.com"]).allows("localhost")
    assert not parse_hosts([]).allows("localhost")


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*.example.com", "http://example.com", "example.com/", "a b", "::1", "[::1", "127.1", "a:0", "a:65536"),
        *("a:b", "[::1%25lo]", "u@a", "\udc80", "a" * 300),
    ],
)
def test_an_entry_that_is_malformed_is_refused(entry: str) -> None:
    with pytest.raises(InvalidError, match=r"^hosts must have hosts, ") as caught:
        parse_hosts(["example.com", entry])
    assert len(str(caught.value)) < 600


def test_any_host_is_not_one_of_a_list() -> None:
    with pytest.raises(InvalidError, match=r'^hosts must have "\*" alone, not in a list$'):
        parse_hosts(["example.com", "*"])


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST.:8765", True),
        ("app.localhost:8765", True),
        ("a.b.localhost", True),
        ("127.0.0.1", True),
        ("127.0.0.1:8765", True),
        ("127.255.255.254", True),
        ("[::1]:8765", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("evil.example:8765", False),
        ("notlocalhost", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("128.0.0.1", False),
        ("0.0.0.0", False),
        ("192.168.0.1", False),
        ("[::]", False),
        ("[::2]", False),
    ],
)
def test_local_hosts_are_those_that_cannot_lead_elsewhere(host: str, allowed: bool) -> None:
    assert LOCAL.allows(host) is allowed


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("My-Box.test", "my-box.test:8765"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "[2001:DB8::1]:8765"),
        ("fe80::1%eth0", "[fe80::1]"),
    ],
)
def test_local_hosts_are_also_the_names_that_are_given(name: str, host: str) -> None:
    assert local_hosts([name]).allows(host)
    assert local_hosts(["localhost", name]).allows("localhost")
    assert not LOCAL.allows(host)


@pytest.mark.parametrize("name", ["127.1", "", "a b", "example.test:8765", "a" * 300])
def test_a_name_that_no_host_can_have_adds_nothing(name: str) -> None:
    hosts = local_hosts([name])
    assert hosts.allows("127.0.0.1")
    assert not hosts.allows(name)


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9](\.[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True)
HOSTS = NAMES | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: f"[{address}]")


@given(HOSTS, st.integers(1, 65535), st.booleans())
@settings(max_examples=100)
def test_a_host_is_let_in_by_itself_and_by_itself_with_its_port(host: str, port: int, upper: bool) -> None:
    written = f"{host.upper() if upper else host}:{port}"
    assert parse_hosts([host]).allows(written)
    assert parse_hosts([f"{host}:{port}"]).allows(written)
    assert not parse_hosts([f"{host}:{port % 65535 + 1}"]).allows(written)
    assert ANY_HOST.allows(written)


@given(st.text())
@settings(max_examples=200)
def test_any_text_is_let_in_or_not(host: str) -> None:
    if LOCAL.allows(host):
        assert ANY_HOST.allows(host)


def test_work_does_not_grow_with_a_host_that_is_too_long() -> None:
    hosts = parse_hosts(["example.com"])
    assert steps(lambda: hosts.allows("a." * 50_000)) <= steps(lambda: hosts.allows("a." * 5000)) + 50
