"""What is read of the environment beside its variables: the system's settings, CGI, and every form of no_proxy."""

from __future__ import annotations

import os
import urllib.request
from typing import TYPE_CHECKING

import pytest

from csp import websocket
from csp.errors import ConnectionFailedError, Kind
from tests.websocket._network import Names, Sockets, refuse
from trio_csp_websocket.network.environment import environment_proxy
from trio_csp_websocket.protocol.url import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXY = "http://proxy.test:3128"
ADDRESS = "192.0.2.1"


def found(url: str = "ws://server.test/") -> str | None:
    """Return the URL of the proxy for a target."""
    proxy = environment_proxy(parse_url(url))
    return None if proxy is None else proxy.url


def system(monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str], *bypassed: str) -> None:
    """Let the system's settings be these, as ``urllib.request`` reads them on Windows and macOS."""
    monkeypatch.setattr(urllib.request, "getproxies", lambda: dict(settings))
    monkeypatch.setattr(urllib.request, "proxy_bypass", bypassed.__contains__)


# The system's settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "url", "proxy"),
    [
        ({}, "ws://server.test/", None),
        ({"http": PROXY}, "ws://server.test/", PROXY),
        ({"http": PROXY}, "wss://server.test/", None),
        ({"https": PROXY}, "wss://server.test/", PROXY),
        ({"https": "proxy.test"}, "wss://server.test/", "http://proxy.test"),
        ({"ftp": PROXY}, "ws://server.test/", None),
        ({"all": PROXY}, "wss://server.test/", PROXY),
        ({"http": PROXY, "all": "http://other.test"}, "ws://server.test/", PROXY),
        ({"http": "", "all": PROXY}, "ws://server.test/", PROXY),
        # As macOS and Windows tell a proxy that speaks SOCKS.
        ({"socks": "http://proxy.test:1081"}, "ws://server.test/", "socks5h://proxy.test:1081"),
        ({"socks": "socks://proxy.test:1081"}, "wss://server.test/", "socks5h://proxy.test:1081"),
        ({"socks": "proxy.test:1081"}, "wss://server.test/", "socks5h://proxy.test:1081"),
        ({"socks": "socks5://proxy.test:1081"}, "wss://server.test/", "socks5://proxy.test:1081"),
        ({"socks": "http://other.test", "https": PROXY}, "wss://server.test/", PROXY),
        ({"http": PROXY}, "ws://localhost/", None),
        ({"http": PROXY}, "ws://a.localhost/", None),
        ({"http": PROXY}, "ws://127.0.0.1/", None),
        ({"http": PROXY}, "ws://[::1]/", None),
        ({"http": PROXY}, "ws://[fe80::1%25eth0]/", None),
        ({"http": PROXY}, "ws://[fe80::1]/", PROXY),
    ],
)
def test_where_no_variable_says_anything_the_systems_settings_count(
    settings: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    system(monkeypatch, settings)
    assert found(url) == proxy


def test_a_variable_comes_before_them_and_one_that_is_empty_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, {"http": "http://other.test", "https": "http://other.test"})
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("https_proxy", "")
    assert found("ws://server.test/") == PROXY
    assert found("wss://server.test/") is None


def test_no_proxy_takes_hosts_out_of_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, {"http": PROXY})
    monkeypatch.setenv("no_proxy", "server.test")
    assert found("ws://server.test/") is None
    assert found("ws://other.test/") == PROXY


async def test_settings_that_are_malformed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, {"http": "http://alice:hunter2@proxy.test:x"})
    sockets = Sockets(refuse)
    with pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect("ws://server.test/").__aenter__()
    said = (
        "the system's proxy setting has a port that is not a number of 1 to 65535; proxy=None connects without a proxy"
    )
    assert str(caught.value) == f"cannot connect to ws://server.test/: {said}"
    assert (caught.value.kind, caught.value.retryable) == (Kind.INVALID, False)
    assert sockets.places == []


async def test_a_proxy_of_theirs_is_connected_to_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, {"http": PROXY})
    names, sockets = Names([ADDRESS]), Sockets(refuse)
    with pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect("ws://server.test/").__aenter__()
    assert (names.asked, [place[1] for place in sockets.places]) == ([b"proxy.test"], [3128])
    assert f"the proxy {PROXY} (named by the system's proxy setting; proxy=None connects without it)" in str(
        caught.value
    )


async def test_what_they_take_out_is_reached_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, {"http": PROXY}, "inner.test")
    names, sockets = Names([ADDRESS]), Sockets(refuse)
    with pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect("ws://inner.test/").__aenter__()
    assert (names.asked, [place[1] for place in sockets.places]) == ([b"inner.test"], [80])
    assert "proxy" not in str(caught.value)


# CGI ------------------------------------------------------------------------------------------------------------------


def test_in_a_program_of_cgi_http_proxy_is_a_header_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://evil.test")
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert found("ws://server.test/") is None
    assert found("wss://server.test/") == PROXY
    monkeypatch.setenv("ALL_PROXY", PROXY)
    assert found("ws://server.test/") == PROXY
    monkeypatch.delenv("REQUEST_METHOD")
    assert found("ws://server.test/") == "http://evil.test"


@pytest.mark.skipif(os.name == "nt", reason="names of variables have no case on Windows")
def test_a_variable_in_lower_case_is_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://evil.test")
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert found("ws://server.test/") == PROXY


class WindowsEnvironment(dict[str, str]):
    """Variables without case, listed in upper case, as Python has them on Windows."""

    def __init__(self, **variables: str) -> None:
        super().__init__((name.upper(), value) for name, value in variables.items())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.upper())

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.upper())

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().get(name.upper(), default)


def test_on_windows_it_may_be_a_header_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", WindowsEnvironment(HTTP_PROXY="http://evil.test", https_proxy=PROXY))
    assert found("ws://server.test/") == "http://evil.test"
    monkeypatch.setattr(
        os, "environ", WindowsEnvironment(HTTP_PROXY="http://evil.test", https_proxy=PROXY, REQUEST_METHOD="GET")
    )
    assert found("ws://server.test/") is None
    assert found("wss://server.test/") == PROXY


# What a variable says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("socks://proxy.test:1081", "socks5h://proxy.test:1081"),
        ("SOCKS://proxy.test", "socks5h://proxy.test"),
        ("socks5://proxy.test", "socks5://proxy.test"),
        ("proxy.test:3128", PROXY),
        ("\tproxy.test:3128\n", PROXY),
    ],
)
def test_a_value_may_lack_its_scheme_or_have_one_of_desktops(
    value: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", value)
    assert found() == proxy


# no_proxy -------------------------------------------------------------------------------------------------------------

IN_NO_PROXY: dict[str, tuple[list[str], list[str]]] = {
    # By entry: what is taken out, and what is not.
    "server.test": (["server.test", "a.server.test", "server.test:81"], ["myserver.test", "test", "server.test.evil"]),
    ".server.test": (["server.test", "a.server.test"], ["aserver.test"]),
    "*.server.test": (["server.test", "a.server.test"], ["aserver.test"]),
    "SERVER.test.": (["server.test", "a.server.test"], ["test"]),
    "test": (["server.test", "test"], ["server.tests"]),
    "*": (["server.test", "192.0.2.1", "[2001:db8::1]"], []),
    "*:81": (["server.test:81", "192.0.2.1:81"], ["server.test", "server.test:82"]),
    "server.test:*": (["server.test", "server.test:81"], ["other.test"]),
    "server.test:80": (["server.test"], ["server.test:81"]),
    "ser*.test": (["server.test", "service.test"], ["other.test"]),
    "*test*": (["server.test", "test"], ["server.example"]),
    "<local>": (["intranet"], ["server.test", "[2001:db8::1]"]),
    "b\u00fccher.test": (["b\u00fccher.test", "xn--bcher-kva.test"], ["bucher.test"]),
    "192.0.2.1": (["192.0.2.1", "192.0.2.1:81", "[::ffff:192.0.2.1]"], ["192.0.2.11"]),
    "192.0.2.1:81": (["192.0.2.1:81"], ["192.0.2.1"]),
    "192.0.2.": (["192.0.2.1", "192.0.2.255"], ["192.0.20.1", "a.192.0.2.test"]),
    "10.": (["10.0.0.1"], ["100.0.0.1"]),
    "192.0.2.0/24": (["192.0.2.1"], ["192.0.3.1", "server.test", "[2001:db8::1]"]),
    "192.0.2.9/24": (["192.0.2.1"], ["192.0.3.1"]),
    "192.0.2.0/255.255.255.0": (["192.0.2.1"], ["192.0.3.1"]),
    "192.0/16": (["192.0.2.1"], ["192.1.0.0"]),
    "10/8": (["10.1.2.3"], ["11.0.0.0"]),
    "2001:db8::1": (["[2001:db8::1]", "[2001:DB8:0::1]:81"], ["[2001:db8::2]"]),
    "[2001:db8::1]": (["[2001:db8::1]", "[2001:db8::1]:81"], ["[2001:db8::2]"]),
    "[2001:DB8::1]:81": (["[2001:db8::1]:81"], ["[2001:db8::1]"]),
    "fe80::1%eth0": (["[fe80::1]"], ["[fe80::2]"]),
    "2001:db8::/32": (["[2001:db8::1]"], ["[2001:db9::1]", "192.0.2.1", "server.test"]),
    "[2001:db8::]/32": (["[2001:db8::1]"], ["[2001:db9::1]"]),
    "::ffff:192.0.2.1": (["192.0.2.1"], ["192.0.2.2"]),
}


@pytest.mark.parametrize("entry", IN_NO_PROXY, ids=ascii)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy_takes_hosts_out(entry: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv(name, f"first.test ,{entry}\t last.test,")
    out, through = IN_NO_PROXY[entry]
    assert [place for place in out if found(f"ws://{place}/") is not None] == []
    assert [place for place in through if found(f"ws://{place}/") is None] == []
    assert found("ws://last.test/") is None


@pytest.mark.parametrize(
    "entry",
    [
        *(
            ":80",
            ":",
            "a:b",
            "a:80:81",
            "server.test:0",
            "server.test:65536",
            "server.test:123456",
            "http://server.test",
        ),
        *("[::1", "::1]", "[]", "[::1]x", "[a]", "[192.0.2.1]", "1:2", "::g", "1::2::3"),
        *(
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/8/9",
            "10.0.0.0/x",
            "a/8",
            "256.0.0.0/8",
            "2001:db8::/129",
            "[::/8",
        ),
        *(
            "127.1",
            "0x7f000001",
            "1.2.3.256",
            ".",
            "*.",
            "..",
            "a..b",
            "-",
            "a@b",
            "a\\b",
            "a%41",
            "\ufffd",
            "a" * 64,
            "a" * 300,
        ),
    ],
    ids=ascii,
)
def test_an_entry_that_is_malformed_is_told_wherever_the_connection_leads(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", f"server.test,{entry}")
    for url in ("ws://server.test/", "ws://other.test:81/", "ws://192.0.2.1/", "ws://[2001:db8::1]/"):
        with pytest.raises(ConnectionFailedError) as caught:
            found(url)
        assert str(caught.value).startswith(
            "the environment variable no_proxy has an entry that is neither a host nor a network: "
        )
        assert str(caught.value).endswith("; proxy=None connects without a proxy")
        assert len(str(caught.value)) < 500
        assert (caught.value.kind, caught.value.retryable) == (Kind.INVALID, False)


def test_without_a_proxy_no_proxy_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "[::1")
    assert found() is None
