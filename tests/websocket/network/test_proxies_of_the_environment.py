"""Which proxy the environment names for a URL, as `connect` follows it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.websocket._network import Names, Sockets, refuse
from tests.websocket._peers import connected, raw_server
from tests.websocket._proxies import Echo, Proxy, http_answer

if TYPE_CHECKING:
    from trio.testing import MockClock

PROXY = "http://proxy.test:3128"
ADDRESS = "192.0.2.1"
"""To which every name leads."""
ON_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="names of variables have no case on Windows")


class Case(NamedTuple):
    url: str
    place: str
    """The host and the port that are connected to; a name as it was looked up."""
    variables: dict[str, str]

    def __str__(self) -> str:
        return f"{self.url} {self.variables}"


CASES = [
    # Which variable.
    Case("ws://server.test/", "server.test:80", {}),
    Case("ws://server.test/", "proxy.test:3128", {"http_proxy": PROXY}),
    Case("wss://server.test/", "server.test:443", {"http_proxy": PROXY}),
    Case("wss://server.test/", "proxy.test:3128", {"https_proxy": PROXY}),
    Case("ws://server.test/", "server.test:80", {"https_proxy": PROXY}),
    Case("ws://server.test/", "proxy.test:3128", {"all_proxy": PROXY}),
    Case("wss://server.test/", "proxy.test:3128", {"all_proxy": PROXY}),
    Case("ws://server.test/", "proxy.test:3128", {"http_proxy": PROXY, "all_proxy": "http://other.test"}),
    Case("wss://server.test/", "proxy.test:3128", {"https_proxy": PROXY, "all_proxy": "http://other.test"}),
    Case("ws://server.test/", "proxy.test:3128", {"HTTP_PROXY": PROXY}),
    Case("wss://server.test/", "proxy.test:3128", {"HTTPS_PROXY": PROXY}),
    Case("wss://server.test/", "proxy.test:3128", {"ALL_PROXY": PROXY}),
    Case("ws://server.test/", "server.test:80", {"ws_proxy": PROXY, "ftp_proxy": PROXY}),
    # What it may say.
    Case("ws://server.test/", "server.test:80", {"http_proxy": ""}),
    Case("ws://server.test/", "server.test:80", {"http_proxy": "", "all_proxy": PROXY}),
    Case("ws://server.test/", "server.test:80", {"http_proxy": " "}),
    Case("ws://server.test/", "proxy.test:3128", {"http_proxy": "proxy.test:3128"}),
    Case("ws://server.test/", "proxy.test:80", {"http_proxy": "proxy.test"}),
    Case("ws://server.test/", "proxy.test:80", {"http_proxy": "user:pass@proxy.test"}),
    Case("ws://server.test/", "192.0.2.3:3128", {"http_proxy": "192.0.2.3:3128"}),
    Case("ws://server.test/", "2001:db8::3:3128", {"http_proxy": "[2001:db8::3]:3128"}),
    Case("ws://server.test/", "proxy.test:3128", {"http_proxy": f"  {PROXY}/ "}),
    Case("ws://server.test/", "proxy.test:3128", {"http_proxy": "HTTP://PROXY.test:3128"}),
    Case("wss://server.test/", "proxy.test:443", {"https_proxy": "https://proxy.test"}),
    Case("wss://server.test/", "proxy.test:1080", {"all_proxy": "socks5h://proxy.test"}),
    Case("wss://server.test/", "proxy.test:1080", {"all_proxy": "socks5://proxy.test"}),
    Case("wss://server.test/", "proxy.test:1080", {"all_proxy": "socks4a://proxy.test"}),
    # As desktops write it.
    Case("wss://server.test/", "proxy.test:1080", {"all_proxy": "socks://proxy.test/"}),
    Case("ws://server.test/", "proxy.test:1081", {"ALL_PROXY": "SOCKS://proxy.test:1081"}),
    # Where a web server runs it, HTTP_PROXY is a header of whoever asked (RFC 3875, section 4.1.18).
    Case("ws://server.test/", "server.test:80", {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}),
    Case("ws://server.test/", "proxy.test:3128", {"ALL_PROXY": PROXY, "REQUEST_METHOD": "GET"}),
    # This machine is not reached through it.
    *(
        Case(f"ws://{host}:81/", f"{place}:81", {"http_proxy": PROXY, "all_proxy": PROXY})
        for host, place in {
            "localhost": "localhost",
            "LOCALHOST": "localhost",
            "a.localhost": "a.localhost",
            "127.0.0.1": "127.0.0.1",
            "127.255.0.9": "127.255.0.9",
            "[::1]": "::1",
            "[::ffff:127.0.0.1]": "127.0.0.1",
        }.items()
    ),
    Case("ws://localhost.test/", "proxy.test:3128", {"http_proxy": PROXY}),
    Case("ws://nolocalhost/", "proxy.test:3128", {"http_proxy": PROXY}),
    Case("ws://128.0.0.1/", "proxy.test:3128", {"http_proxy": PROXY}),
    Case("ws://10.0.0.1/", "proxy.test:3128", {"http_proxy": PROXY}),
]


def excepted(no_proxy: str, url: str, place: str) -> Case:
    return Case(url, place, {"all_proxy": PROXY, "no_proxy": no_proxy})


EXCEPTIONS = [
    *(
        excepted(no_proxy, "ws://server.test:81/", "server.test:81")
        for no_proxy in (
            "server.test",
            "SERVER.Test",
            ".test",
            "test",
            "*.test",
            "*",
            "other.test,server.test",
            "other.test, server.test",
            "other.test server.test",
            ",,server.test,",
            "server.test:81",
            "server.test:80,server.test:81",
            ".test:81",
            "server.test.",
            "server.test:*",
            "*erver.tes*",
            "<local>, 10., server.test",
        )
    ),
    *(
        excepted(no_proxy, "ws://server.test:81/", "proxy.test:3128")
        for no_proxy in (
            "",
            " ",
            ",",
            "erver.test",
            "rver.test",
            "server",
            "server.tes",
            "a.server.test",
            "server.test:80",
            "server.test:8",
            "other.test",
            "192.0.2.0/24",
            "0.0.0.0/0",
            "192.",
            "<local>",
            "*.local",
        )
    ),
    *(
        excepted(no_proxy, "ws://192.0.2.9/", "192.0.2.9:80")
        for no_proxy in (
            *("192.0.2.9", "192.0.2.0/24", "192.0.2.9/32", "0.0.0.0/0", "10.0.0.0/8,192.0.2.8/31"),
            *("192.", "192.0.2.", "192.0.2.*", "192.0/16", "192.0.2/24"),
        )
    ),
    *(
        excepted(no_proxy, "ws://192.0.2.9/", "proxy.test:3128")
        for no_proxy in (
            *("192.0.2.1", "92.0.2.9", "10.0.0.0/8", "192.0.2.0/29", "2001:db8::/32", "192.0.2.9:81"),
            *("10.", "192.1.", "192.1/16", "*0.2.8", "<local>"),
        )
    ),
    *(
        excepted(no_proxy, "ws://[2001:db8::9]/", "2001:db8::9:80")
        for no_proxy in ("2001:db8::9", "2001:DB8:0::9", "[2001:db8::9]", "[2001:db8::9]:80", "2001:db8::/32", "::/0")
    ),
    *(
        excepted(no_proxy, "ws://[2001:db8::9]/", "proxy.test:3128")
        for no_proxy in ("2001:db8::1", "2001:db9::/32", "0.0.0.0/0", "[2001:db8::9]:81")
    ),
    excepted("<local>", "ws://server/", "server:80"),
    excepted("<local>", "ws://[2001:db8::9]/", "proxy.test:3128"),
    excepted("fe80::9%eth0", "ws://[2001:db8::9]/", "proxy.test:3128"),
    Case("ws://server.test/", "server.test:80", {"http_proxy": PROXY, "NO_PROXY": "server.test"}),
    Case("wss://server.test/", "server.test:443", {"https_proxy": PROXY, "no_proxy": "server.test:443"}),
    Case("ws://bücher.test/", "xn--bcher-kva.test:80", {"http_proxy": PROXY, "no_proxy": "xn--bcher-kva.test"}),
]


def network() -> tuple[Names, Sockets]:
    return Names([ADDRESS]), Sockets(refuse)


def place(names: Names, sockets: Sockets) -> str:
    """Return what was looked up, or the address that was connected to, and the port."""
    (connected_to,) = sockets.places
    host = connected_to[0]
    if names.asked:
        # Before the proxy that does not look the target's name up, that one.
        asked = names.asked[-1]
        assert isinstance(asked, bytes)
        host = asked.decode()
        assert connected_to[0] == ADDRESS
    return f"{host}:{connected_to[1]}"


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("case", [*CASES, *EXCEPTIONS], ids=str)
async def test_the_environment_says_what_is_connected_to(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, case.variables)
    names, sockets = network()
    with pytest.raises(ConnectionFailedError) as caught:
        async with websocket.connect(case.url):
            pytest.fail("connected")
    assert place(names, sockets) == case.place
    # Whoever did not know of the variable is told of it, and what to write.
    if sockets.places[0][1] in (80, 81, 443) and "proxy.test" not in case.place:
        assert "proxy" not in str(caught.value)
    else:
        assert next(iter(case.variables)) in str(caught.value)
        assert "proxy=None" in str(caught.value)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("none", [None, False])
async def test_the_environment_is_not_asked_where_that_is_not_wanted(
    case: Case, none: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, case.variables)
    _, sockets = network()
    with pytest.raises(ConnectionFailedError) as caught:
        async with websocket.connect(case.url, proxy=none):
            pytest.fail("connected")
    assert "proxy" not in str(caught.value)
    assert 3128 not in [where[1] for where in sockets.places]


@ON_WINDOWS
@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
async def test_a_variable_in_lower_case_comes_before_one_in_upper_case(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lower, expected in ((PROXY, "proxy.test:3128"), ("", "server.test:80")):
        set_all(monkeypatch, {name: lower, name.upper(): "http://upper.test:3129"})
        names, sockets = network()
        with pytest.raises(ConnectionFailedError):
            async with websocket.connect("ws://server.test/"):
                pytest.fail("connected")
        assert place(names, sockets) == expected


@ON_WINDOWS
async def test_no_proxy_in_lower_case_comes_before_one_in_upper_case(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"http_proxy": PROXY, "no_proxy": "other.test", "NO_PROXY": "server.test"})
    names, sockets = network()
    with pytest.raises(ConnectionFailedError):
        async with websocket.connect("ws://server.test/"):
            pytest.fail("connected")
    assert place(names, sockets) == "proxy.test:3128"


MALFORMED = [
    "http://",
    "ftp://proxy.test",
    "ws://proxy.test",
    "http://user:hunter2@",
    "http://user:hunter2@proxy.test:99999",
    "http://user:hunter2@proxy.test:port",
    "http://user:hunter2@proxy.test/path",
    "user:hunter2@proxy test",
    "http://user:hunter2@[::1",
    "socks4://user:hunter2@proxy.test",
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
async def test_a_malformed_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    _, sockets = network()
    # The call is right; what it finds later is not.
    connecting = websocket.connect("ws://server.test/")
    with pytest.raises(ConnectionFailedError) as caught:
        async with connecting:
            pytest.fail("connected")
    assert name in str(caught.value)
    assert "proxy=None" in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(caught.value.details)
    assert not caught.value.retryable
    assert sockets.places == []


@pytest.mark.parametrize(
    "entry",
    [
        *("http://server.test", "server.test:port", "server.test:0", "server.test:65536", "server.test:1:2"),
        *("10.0.0.0/33", "10.0.0.0/x", "a/8", "2001:db8::/129", "1::2::3", "[::1", "localhost;127.0.0.1"),
        *("300.0.0.1", "a" * 64 + ".test", "a" * 10_000),
    ],
)
async def test_a_malformed_exception_is_named(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"all_proxy": PROXY, "no_proxy": f"server.test,{entry}"})
    _, sockets = network()
    with pytest.raises(ConnectionFailedError) as caught:
        async with websocket.connect("ws://server.test/"):
            pytest.fail("connected")
    assert "no_proxy" in str(caught.value)
    assert "proxy=None" in str(caught.value)
    assert not caught.value.retryable
    assert len(str(caught.value)) < 1000
    assert sockets.places == []


def system_settings(monkeypatch: pytest.MonkeyPatch, *bypassed: str, **settings: str) -> None:
    """Let a system like Windows or macOS have settings."""
    monkeypatch.setattr("urllib.request.getproxies", lambda: settings)

    def bypass(host: str) -> bool:
        return host in bypassed

    monkeypatch.setattr("urllib.request.proxy_bypass", bypass)


@pytest.mark.parametrize(
    ("url", "expected", "settings"),
    [
        ("ws://server.test/", "proxy.test:3128", {"http": "http://proxy.test:3128"}),
        ("wss://server.test/", "server.test:443", {"http": "http://proxy.test:3128"}),
        ("wss://server.test/", "proxy.test:3128", {"https": "http://proxy.test:3128"}),
        ("ws://server.test/", "proxy.test:3128", {"all": "http://proxy.test:3128"}),
        ("ws://server.test/", "proxy.test:1080", {"socks": "socks://proxy.test"}),
        ("ws://server.test/", "proxy.test:1081", {"socks": "http://proxy.test:1081"}),
        ("ws://server.test/", "proxy.test:3128", {"http": "http://proxy.test:3128", "socks": "socks://other.test"}),
        ("ws://inside.test/", "inside.test:80", {"http": "http://proxy.test:3128"}),
        ("ws://localhost/", "localhost:80", {"http": "http://proxy.test:3128"}),
        ("ws://server.test/", "server.test:80", {"ftp": "http://proxy.test:3128"}),
    ],
)
async def test_the_systems_settings_count_where_no_variable_does(
    url: str, expected: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    system_settings(monkeypatch, "inside.test", **settings)
    names, sockets = network()
    with pytest.raises(ConnectionFailedError) as caught:
        async with websocket.connect(url):
            pytest.fail("connected")
    assert place(names, sockets) == expected
    assert ("system's proxy setting" in str(caught.value)) == expected.startswith("proxy.test")


async def test_of_a_variable_and_the_systems_settings_the_variable_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    system_settings(monkeypatch, http="http://other.test")
    for value, expected in ((PROXY, "proxy.test:3128"), ("", "server.test:80")):
        monkeypatch.setenv("http_proxy", value)
        names, sockets = network()
        with pytest.raises(ConnectionFailedError):
            async with websocket.connect("ws://server.test/"):
                pytest.fail("connected")
        assert place(names, sockets) == expected


async def test_a_malformed_variable_of_the_other_scheme_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"https_proxy": "http://", "no_proxy": "other.test"})
    names, sockets = network()
    with pytest.raises(ConnectionFailedError):
        async with websocket.connect("ws://server.test/"):
            pytest.fail("connected")
    assert place(names, sockets) == "server.test:80"


async def test_the_environment_is_read_at_each_attempt(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    names = Names([ADDRESS])
    proxies = ["first.test:1", "second.test:2", ""]

    async def change(_address: str) -> None:
        monkeypatch.setenv("http_proxy", proxies.pop(0))
        await refuse(_address)

    sockets = Sockets(change)
    with trio.fail_after(1000):
        async with websocket.reconnecting("ws://server.test/", max_attempts=4) as feed:
            await feed.wait_closed()
    assert names.asked == [b"server.test", b"first.test", b"second.test", b"server.test"]
    assert [where[1] for where in sockets.places] == [80, 1, 2, 80]


async def test_a_variable_leads_through_a_real_proxy_to_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        raw_server(Echo()) as url,
        Proxy("http", login=(b"user", b"p@ss")).running() as proxy,
    ):
        address = url.replace("127.0.0.1", "server.test")
        monkeypatch.setenv("http_proxy", f"user:p%40ss@127.0.0.1:{proxy.port}")
        async with connected(address) as client:
            assert client.proxy == proxy.url()
            await client.send("x")
            assert (await anext(client)).data == "x"
        # The URL that was given comes before it, and what is on this machine does not go through it.
        async with connected(url) as client:
            assert client.proxy is None
    assert [asked.host for asked in proxy.asked] == ["server.test"]


async def test_a_refusal_of_the_environments_proxy_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Proxy("http", answers={"connect": http_answer(403)}).running() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url(credentials="user:hunter2"))
        with pytest.raises(ConnectionFailedError, match=r"status 403") as caught:
            async with connected("ws://server.test/"):
                pytest.fail("connected")
    for part in ("ALL_PROXY", "proxy=None", proxy.url(), "status 403"):
        assert part in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_no_test_is_led_through_a_proxy_of_whoever_runs_it() -> None:
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]
