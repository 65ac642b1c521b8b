"""Which pages of browsers may connect."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import InvalidError
from tests._steps import steps
from trio_csp_websocket.server.origins import parse_origins

SAME = parse_origins("same")
ANY = parse_origins("*")

NO_ORIGINS = [
    "",
    "null ",
    "NULL",
    "null, null",
    "example.com",
    "example.com:443",
    "//example.com",
    "://example.com",
    "https:example.com",
    "https:/example.com",
    "https://",
    "https:///",
    "https://example.com/",
    "https://example.com/chat",
    "https://example.com?",
    "https://example.com#",
    "https://example.com\\",
    "https://example.com\n",
    "https://example.com\0",
    "https://user@example.com",
    "https://evil.test@example.com",
    "https://example.com https://evil.test",
    "https://evil.test https://example.com",
    "https://example.com, https://evil.test",
    "https://example.com,https://evil.test",
    " https://example.com",
    "https:// example.com",
    "https://example.com:0",
    "https://example.com:65536",
    "https://example.com:443:443",
    "https://*",
    "https://*.example.com",
    "https://.example.com",
    "https://a..example.com",
    "https://[::1",
    "https://::1",
    "https://[::1%25lo]",
    "https://ex%61mple.com",
    "https://EXAMPLE\u212a.com",
    "https://b\xfccher.example",
    "1https://example.com",
    "ht_tp://example.com",
]


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_what_is_no_origin_is_let_in_only_if_any_is(origin: str) -> None:
    hosts = [None, "example.com", "*.example.com", "[::1]", origin, origin.partition("//")[2]]
    listed = parse_origins(["https://example.com", "https://*.example.com", "https://[::1]", "https://bücher.example"])
    for host in hosts:
        assert not SAME.allows(origin, host)
        assert not listed.allows(origin, host)
        assert ANY.allows(origin, host)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://example.com", "example.com", True),
        ("http://example.com", "example.com", True),
        ("wss://example.com", "example.com", True),
        ("ws://example.com", "example.com", True),
        ("HTTPS://Example.com", "eXample.com", True),
        ("https://example.com", "example.com:443", True),
        ("https://example.com:443", "example.com", True),
        ("http://example.com", "example.com:80", True),
        ("http://example.com:80", "example.com", True),
        ("ws://example.com:80", "example.com", True),
        ("wss://example.com:443", "example.com", True),
        ("https://example.com:", "example.com:", True),
        ("http://localhost:8765", "localhost:8765", True),
        ("http://[::1]:8765", "[::1]:8765", True),
        ("http://[2001:db8::a]", "[2001:DB8::A]:80", True),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example", True),
        ("https://example.com.", "example.com.", True),
        ("https://example.com", "example.com:80", False),
        ("http://example.com", "example.com:443", False),
        ("http://example.com:443", "example.com", False),
        ("https://example.com:80", "example.com", False),
        ("http://localhost:3000", "localhost:8765", False),
        ("http://localhost", "localhost:8765", False),
        ("http://localhost:8765", "localhost", False),
        ("http://localhost:8765", "127.0.0.1:8765", False),
        ("http://[::1]", "[0:0:0:0:0:0:0:1]", False),
        ("http://[::ffff:127.0.0.1]", "127.0.0.1", False),
        ("https://example.com.", "example.com", False),
        ("https://example.com", "example.com.", False),
        ("https://a.example.com", "example.com", False),
        ("https://example.com", "a.example.com", False),
        ("https://evil.test", "example.com", False),
        ("https://example.com.evil.test", "example.com", False),
        ("https://example.com", None, False),
        ("https://example.com", "", False),
        ("https://example.com", "example.com,example.com", False),
        ("https://a/b", "a/b", False),
        ("null", "null", False),
        ("null", None, False),
        # Pages of applications: that their host has the same name says nothing.
        ("tauri://localhost", "localhost", False),
        ("chrome-extension://abcdefgh", "abcdefgh", False),
    ],
)
def test_same_is_the_host_and_the_port_of_the_request(origin: str, host: str | None, allowed: bool) -> None:
    assert SAME.allows(origin, host) is allowed


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("HTTPS://App.example.com", "https://app.EXAMPLE.com", True),
        ("https://app.example.com", "https://app.example.com:443", True),
        ("https://app.example.com:443", "https://app.example.com", True),
        ("https://app.example.com", "https://app.example.com.", True),
        ("https://app.example.com", "http://app.example.com", False),
        ("https://app.example.com", "wss://app.example.com", False),
        ("https://app.example.com", "https://app.example.com:8443", False),
        ("https://app.example.com:8443", "https://app.example.com:8443", True),
        ("https://app.example.com:8443", "https://app.example.com", False),
        ("https://app.example.com", "https://example.com", False),
        ("https://app.example.com", "https://a.app.example.com", False),
        ("https://app.example.com", "https://app.example.com.evil.test", False),
        ("https://app.example.com", "null", False),
        ("http://app.example.com", "http://app.example.com:80", True),
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://A.b.Example.com:443", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://a.example.com.evil.test", False),
        ("https://*.example.com", "https://evil.test/.example.com", False),
        ("https://*.example.com", "https://evil.test#.example.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("https://*.example.com:8443", "https://a.example.com", False),
        ("http://*.localhost:3000", "http://app.localhost:3000", True),
        ("https://bücher.example", "https://xn--bcher-kva.example", True),
        ("https://*.bücher.example", "https://a.xn--bcher-kva.example", True),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000", True),
        ("http://[::1]:3000", "http://[::1]:3000", True),
        ("http://[0:0::1]", "http://[::1]", True),
        ("http://[::1]", "http://[::2]", False),
        ("null", "null", True),
        ("null", "https://null", False),
        ("https://null", "null", False),
        ("tauri://localhost", "tauri://localhost", True),
        ("tauri://localhost", "tauri://localhost:80", False),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh", True),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgi", False),
    ],
)
@pytest.mark.parametrize("host", [None, "app.example.com", "a b"])
def test_a_pattern_is_a_scheme_a_host_and_a_port(pattern: str, origin: str, allowed: bool, host: str | None) -> None:
    assert parse_origins([pattern]).allows(origin, host) is allowed
    assert parse_origins(["https://*.other.test", pattern, "https://other.test:1"]).allows(origin, host) is allowed


def test_an_empty_list_lets_no_page_in() -> None:
    origins = parse_origins([])
    assert not any(origins.allows(origin, "example.com") for origin in ("https://example.com", "null", ""))


def test_without_null_in_the_list_null_is_not_let_in_and_with_it_others_are_not() -> None:
    assert not parse_origins(["https://example.com"]).allows("null", "null")
    assert parse_origins(["null", "https://example.com"]).allows("https://example.com", None)
    assert not parse_origins(["null"]).allows("https://example.com", "example.com")
    assert ANY.allows("null", None)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("", "must have a scheme"),
        ("app.example.com", "must have a scheme"),
        ("app.example.com:8443", "must have a scheme"),
        ("localhost:3000", "must have a scheme"),
        ("*.example.com", "must have a scheme"),
        ("*://example.com", "must have a scheme"),
        (" https://example.com", "must have a scheme"),
        ("NULL", "must have a scheme"),
        ("file:", "must have a scheme"),
        ("https://example.com/", "must have nothing but a scheme, a host and a port"),
        ("https://example.com/chat", "must have nothing but"),
        ("https://*/", "must have nothing but"),
        ("https://example.com?a", "must have nothing but"),
        ("https://example.com#a", "must have nothing but"),
        ("https://user:password@example.com", "must have nothing but"),
        ("file:///", "must have nothing but"),
        ("https://", "has an invalid host"),
        ("https://*", "has an invalid host"),
        ("https://*.", "has an invalid host"),
        ("https://*example.com", "has an invalid host"),
        ("https://a.*.example.com", "has an invalid host"),
        ("https://*.*.example.com", "has an invalid host"),
        ("https://example.*", "has an invalid host"),
        ("https://example.com:*", "has an invalid host"),
        ("https://example.com:0", "has an invalid host"),
        ("https://example.com:65536", "has an invalid host"),
        ("https://::1", "has an invalid host"),
        ("https://[::1", "has an invalid host"),
        ("https://[a]", "has an invalid host"),
        ("https://*.0.0.1", "has an invalid host"),
        ("https://a b", "has an invalid host"),
        ("https://\udc80", "has an invalid host"),
        pytest.param("https://" + "a" * 100_000, "has an invalid host", id="long"),
        ("https://*.127.0.0.1", r"must have a \* before names only"),
        ("https://*.[::1]", r"must have a \* before names only"),
        ("*", r"must have '\*' alone"),
        ("same", "must have 'same' alone"),
    ],
)
def test_a_pattern_that_can_be_no_origin_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(InvalidError, match=f"^origins {told}") as caught:
        parse_origins(["https://example.com", pattern])
    assert len(str(caught.value)) < 800


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9](\.[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True)
HOSTS = NAMES | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: f"[{address}]")
PLACES = st.tuples(HOSTS, st.none() | st.integers(1, 65535) | st.sampled_from((80, 443))).map(
    lambda place: place[0] if place[1] is None else f"{place[0]}:{place[1]}"
)


@given(st.sampled_from(("http", "https", "ws", "wss")), PLACES)
@settings(max_examples=100)
def test_a_page_is_of_the_same_origin_as_its_host_and_is_its_own_pattern(scheme: str, place: str) -> None:
    origin = f"{scheme}://{place}"
    assert SAME.allows(origin, place)
    assert parse_origins([origin]).allows(origin, None)
    assert not parse_origins([f"{scheme}://a.{place}" if place[0].isalpha() else "null"]).allows(origin, place)


@given(NAMES, NAMES)
@settings(max_examples=100)
def test_a_pattern_with_a_star_holds_for_what_is_below_and_for_nothing_else(above: str, other: str) -> None:
    origins = parse_origins([f"https://*.{above}"])
    assert origins.allows(f"https://{other}.{above}", None)
    assert not origins.allows(f"https://{above}", above)
    assert origins.allows(f"https://{other}", other) is other.endswith(f".{above}")


@given(st.text(), st.none() | st.text())
@settings(max_examples=200)
def test_any_text_is_let_in_or_not(origin: str, host: str | None) -> None:
    assert ANY.allows(origin, host)
    assert not parse_origins([]).allows(origin, host)
    assert SAME.allows(origin, host) in (True, False)


@pytest.mark.parametrize("unit", ["a", "a.", "https://", "*.", "[", ":", " ", "\xfc"])
def test_work_does_not_grow_with_an_origin_that_is_too_long(unit: str) -> None:
    origins = parse_origins(["https://*.example.com"])

    def work(count: int) -> int:
        origin = f"https://{unit * count}"
        return steps(lambda: (origins.allows(origin, origin), SAME.allows(origin, unit * count)))

    assert work(50_000) <= work(5000) + 50
