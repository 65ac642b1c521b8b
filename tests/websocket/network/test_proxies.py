"""Connecting through proxies: what they are asked, what goes through them, and who sees what."""

from __future__ import annotations

import base64
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

import pytest
import trio

from csp import security, websocket
from csp.errors import ConnectionFailedError, InvalidError, InvalidTypeError, PermissionDeniedError
from tests.websocket import _links
from tests.websocket._network import Names, Sockets, refuse
from tests.websocket._peers import TEXT, Peer, connected, frame, raw_server
from tests.websocket._proxies import (
    ESTABLISHED,
    SOCKS4_GRANTED,
    SOCKS5_GRANTED,
    Echo,
    Protocol,
    Proxy,
    contexts,
    http_answer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SPOKEN: dict[str, Protocol] = {
    "http": "http",
    "https": "https",
    "socks5": "socks5",
    "socks5h": "socks5",
    "socks4": "socks4",
    "socks4a": "socks4",
}
"""By the scheme of a proxy's URL."""
RESOLVED_HERE = ("socks5", "socks4")
EVERY_SCHEME = pytest.mark.parametrize("scheme", SPOKEN)
WS_AND_WSS = pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])


@asynccontextmanager
async def target(*, secure: bool = False) -> AsyncGenerator[tuple[Echo, int]]:
    """Run a server that echoes; the block gets it and its port."""
    echo = Echo()
    async with raw_server(echo, tls=_links.contexts()[0] if secure else None) as url:
        yield echo, int(url.rpartition(":")[2].strip("/"))


def options(proxy: str, *, secure: bool = False) -> websocket.ConnectOptions:
    """Return the options for a proxy, with what trusts its certificate and that of the target."""
    chosen: websocket.ConnectOptions = {"proxy": proxy}
    if proxy.startswith("https:"):
        chosen["proxy_ssl_context"] = contexts()[1]
    if secure:
        chosen["ssl_context"] = _links.contexts()[1]
    return chosen


async def echoed(client: websocket.Client, text: str = "through the tunnel") -> None:
    await client.send(text)
    assert (await anext(client)).data == text


async def visit(url: str, **chosen: Unpack[websocket.ConnectOptions]) -> None:
    async with connected(url, **chosen) as client:
        await echoed(client)


# What a proxy is asked ------------------------------------------------------------------------------------------------


@WS_AND_WSS
@EVERY_SCHEME
async def test_messages_go_through_and_the_name_is_looked_up_where_it_has_to_be(scheme: str, secure: bool) -> None:
    names = Names(["192.0.2.7"])
    async with target(secure=secure) as (echo, port), Proxy(SPOKEN[scheme]).running() as proxy:
        url = f"{'wss' if secure else 'ws'}://server.test:{port}/path"
        async with connected(url, **options(proxy.url(scheme=scheme), secure=secure)) as client:
            await echoed(client)
            await echoed(client, "much " * 100_000)
            assert client.proxy == proxy.url(scheme=scheme)
            assert client.url == url
        assert client.close_code == 1000
    (asked,) = proxy.asked
    here = scheme in RESOLVED_HERE
    assert (asked.host, asked.port, asked.by_name) == ("192.0.2.7" if here else "server.test", port, not here)
    assert names.asked == ([b"server.test"] if here else [])
    assert asked.credentials is None
    assert echo.requests[0].startswith(b"GET /path HTTP/1.1\r\nHost: server.test:%d\r\n" % port)
    assert (b"GET /path" in asked.tunnel) != secure


@pytest.mark.parametrize(
    ("host", "given"),
    [("192.0.2.9", "192.0.2.9"), ("2001:DB8:0::1", "2001:db8::1"), ("::ffff:192.0.2.9", "192.0.2.9")],
)
@EVERY_SCHEME
async def test_an_address_in_the_url_is_what_the_proxy_gets(scheme: str, host: str, given: str) -> None:
    if ":" in given and SPOKEN[scheme] == "socks4":
        pytest.skip("SOCKS 4 has no place for IPv6")
    async with target() as (_, port), Proxy(SPOKEN[scheme]).running() as proxy:
        written = f"[{host}]" if ":" in host else host
        await visit(f"ws://{written}:{port}/", **options(proxy.url(scheme=scheme)))
    assert (proxy.asked[0].host, proxy.asked[0].by_name) == (given, False)


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
async def test_socks_4_cannot_be_asked_for_an_ipv6_address_and_says_so(scheme: str) -> None:
    async with Proxy("socks4").running() as proxy:
        with pytest.raises(ConnectionFailedError, match="IPv6") as caught:
            async with connected("ws://[2001:db8::1]:81/", **options(proxy.url(scheme=scheme))):
                pytest.fail("connected")
    assert f"127.0.0.1:{proxy.port}" in str(caught.value)
    assert all(asked.host == "" for asked in proxy.asked)


async def test_of_a_name_that_socks_4_has_to_be_given_as_an_address_ipv6_does_not_count() -> None:
    Names(["2001:db8::1", "192.0.2.7"])
    async with target() as (_, port), Proxy("socks4").running() as proxy:
        await visit(f"ws://server.test:{port}/", **options(proxy.url()))
    assert proxy.asked[0].host == "192.0.2.7"


@EVERY_SCHEME
async def test_the_ports_of_urls_are_left_out_where_they_are_the_schemes_own(scheme: str) -> None:
    Names(["192.0.2.7"])
    for secure, url, number in ((False, "ws://server.test/", 80), (True, "wss://server.test/", 443)):
        async with target(secure=secure) as (echo, port), Proxy(SPOKEN[scheme], leads_to=port).running() as proxy:
            await visit(url, **options(proxy.url(scheme=scheme), secure=secure))
        assert proxy.asked[0].port == number
        assert b"\r\nHost: server.test\r\n" in echo.requests[0]


@pytest.mark.parametrize(
    ("scheme", "port"),
    [("http", 80), ("https", 443), ("socks5", 1080), ("socks5h", 1080), ("socks4", 1080), ("socks4a", 1080)],
)
async def test_a_proxy_without_a_port_is_looked_for_at_its_schemes_own(scheme: str, port: int) -> None:
    names = Names(["192.0.2.1"])
    network = Sockets(refuse)
    with pytest.raises(ConnectionFailedError) as caught:
        async with websocket.connect("ws://192.0.2.9/", proxy=f"{scheme}://proxy.test"):
            pytest.fail("connected")
    assert names.asked == [b"proxy.test"]
    assert network.places == [("192.0.2.1", port)]
    assert network.open == 0
    assert "proxy.test" in str(caught.value)
    assert caught.value.retryable


@EVERY_SCHEME
async def test_a_name_in_unicode_goes_to_the_proxy_as_dns_has_it(scheme: str) -> None:
    names = Names(["192.0.2.7"])
    async with target() as (_, port), Proxy(SPOKEN[scheme]).running() as proxy:
        await visit(f"ws://bücher.test:{port}/", **options(proxy.url(scheme=scheme)))
    assert proxy.asked[0].host in ("xn--bcher-kva.test", "192.0.2.7")
    assert names.asked == ([b"xn--bcher-kva.test"] if scheme in RESOLVED_HERE else [])


async def test_a_proxy_may_be_an_ipv6_address_or_a_name() -> None:
    for written in ("[::1]", "proxy.test"):
        names = Names(["192.0.2.1"])
        network = Sockets(refuse)
        with pytest.raises(ConnectionFailedError):
            async with websocket.connect("ws://server.test/", proxy=f"http://{written}:3128"):
                pytest.fail("connected")
        assert names.asked == ([] if written == "[::1]" else [b"proxy.test"])
        assert [place[:2] for place in network.places] == [("::1" if written == "[::1]" else "192.0.2.1", 3128)]


@EVERY_SCHEME
async def test_a_feed_comes_through_at_each_attempt(scheme: str) -> None:
    Names(["192.0.2.7"])

    async def say_one(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"one"))
        peer.reset()

    async with raw_server(say_one) as url, Proxy(SPOKEN[scheme]).running() as proxy:
        address = url.replace("127.0.0.1", "server.test")
        with trio.fail_after(10):
            async with websocket.reconnecting(address, min_delay="1ms", **options(proxy.url(scheme=scheme))) as feed:
                received = 0
                while received < 3 and (item := await feed.receive()).ok:
                    received += isinstance(item.value, websocket.Message)
        # Each conversation is over, whatever the feed had begun.
    assert len(proxy.asked) >= 3
    assert {asked.host for asked in proxy.asked[:3]} == {"192.0.2.7" if scheme in RESOLVED_HERE else "server.test"}


# Which proxy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("none", [None, False])
async def test_without_a_proxy_the_target_is_connected_to(none: Any) -> None:
    async with target() as (_, port), connected(f"ws://127.0.0.1:{port}/", proxy=none) as client:
        assert client.proxy is None
        await echoed(client)


@pytest.mark.parametrize("host", ["localhost", "ws.localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
async def test_a_proxy_that_was_given_is_used_for_this_machine_too(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    async with target() as (_, port), Proxy("http").running() as proxy:
        await visit(f"ws://{host}:{port}/", proxy=proxy.url())
    assert proxy.asked[0].host == host.strip("[]")


@pytest.mark.parametrize(
    "proxy",
    [
        "",
        "proxy.test",
        "proxy.test:3128",
        "//proxy.test:3128",
        "ftp://proxy.test",
        "ws://proxy.test",
        "socks://proxy.test",
        "socks6://proxy.test",
        "http://",
        "http://:3128",
        "http://user:hunter2@",
        "http://user:hunter2@:3128",
        "http://user:hunter2@proxy.test:65536",
        "http://user:hunter2@proxy.test:-1",
        "http://user:hunter2@proxy.test:port",
        "http://user:hunter2@proxy.test/path",
        "http://user:hunter2@proxy.test/?query",
        "http://user:hunter2@proxy.test#fragment",
        "http://user:hunter2@proxy test",
        "http://user:hunter2@proxy.test\r\nX: y",
        "http://user:hunter2@proxy.test\0",
        "http://user:hunter2@[::1",
        "http://user:hunter2@[::g]",
        "http://user:hunter2@" + "a" * 64 + ".test",
        "http://us%3Aer:hunter2@proxy.test",
        "socks5://us%00er:hunter2@proxy.test",
        "socks4://user:hunter2@proxy.test",
        "socks5://user:@proxy.test",
        "socks5://:hunter2@proxy.test",
        "socks5h://%C3%BCser:hunter2@proxy.test",
        "socks5://" + "u" * 256 + ":hunter2@proxy.test",
        "socks5://user:" + "hunter2" * 40 + "@proxy.test",
    ],
)
def test_what_is_no_proxy_is_told_by_the_call(proxy: str) -> None:
    for call in (websocket.connect, websocket.reconnecting):
        with pytest.raises(InvalidError, match="proxy") as caught:
            call("ws://server.test/", proxy=proxy)
        assert "hunter2" not in repr(caught.value) + str(caught.value.details)
        assert not caught.value.retryable


@pytest.mark.parametrize("proxy", [5, b"http://proxy.test", ["http://proxy.test"], {"http": "http://proxy.test"}])
def test_what_is_of_another_type_is_told_by_the_call(proxy: Any) -> None:
    with pytest.raises(InvalidTypeError, match="proxy"):
        websocket.connect("ws://server.test/", proxy=proxy)


def test_a_context_for_the_proxy_is_checked_by_the_call() -> None:
    wrong: Any = "trust everybody"
    with pytest.raises(InvalidTypeError, match="proxy_ssl_context"):
        websocket.connect("ws://server.test/", proxy="https://proxy.test", proxy_ssl_context=wrong)
    with pytest.raises(InvalidError, match="proxy_ssl_context"):
        websocket.connect("ws://server.test/", proxy="https://proxy.test", proxy_ssl_context=contexts()[0])
    for other in ("http://proxy.test", "socks5h://proxy.test", None):
        with pytest.raises(InvalidError, match="proxy_ssl_context"):
            websocket.connect("ws://server.test/", proxy=other, proxy_ssl_context=contexts()[1])


# Credentials ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "written", "login"),
    [
        ("http", "user:pass", (b"user", b"pass")),
        ("http", "us%40er:p%3Aa%2Fs%25s%23%3F", (b"us@er", b"p:a/s%s#?")),
        ("http", "%C3%BCser:p%E2%82%ACss", ("üser".encode(), "p€ss".encode())),
        ("http", "user", (b"user", b"")),
        ("http", "user:", (b"user", b"")),
        ("http", ":pass", (b"", b"pass")),
        ("http", "u" * 300 + ":" + "p" * 300, (b"u" * 300, b"p" * 300)),
        ("https", "us%40er:p%3Ass", (b"us@er", b"p:ss")),
        ("socks5", "user:pass", (b"user", b"pass")),
        ("socks5h", "us%40er:p%3Aa%2Fs%25s%23%3F", (b"us@er", b"p:a/s%s#?")),
        ("socks5h", "us%3Aer:pass%20word", (b"us:er", b"pass word")),
        ("socks5h", "u" * 255 + ":" + "p" * 255, (b"u" * 255, b"p" * 255)),
        ("socks4", "us%40er", (b"us@er", b"")),
        ("socks4a", "us%3Aer", (b"us:er", b"")),
    ],
)
async def test_credentials_arrive_as_they_were_before_they_were_encoded(
    scheme: str, written: str, login: tuple[bytes, bytes]
) -> None:
    Names(["192.0.2.7"])
    async with target() as (_, port), Proxy(SPOKEN[scheme], login=login).running() as proxy:
        url = proxy.url(scheme=scheme, credentials=written)
        async with connected(f"ws://server.test:{port}/", **options(url)) as client:
            await echoed(client)
            assert client.proxy == proxy.url(scheme=scheme)
            assert written not in repr(client)
    (asked,) = proxy.asked
    assert asked.credentials is not None
    assert (asked.credentials[0], asked.credentials[1] or b"") == login


async def test_a_socks_5_proxy_that_wants_no_login_gets_none() -> None:
    async with (
        target() as (_, port),
        Proxy("socks5").running() as proxy,
        connected(f"ws://192.0.2.9:{port}/", proxy=proxy.url(credentials="user:hunter2")) as client,
    ):
        await echoed(client)
    assert b"hunter2" not in proxy.asked[0].raw
    assert proxy.asked[0].credentials is None


@WS_AND_WSS
@EVERY_SCHEME
async def test_the_proxy_and_the_target_see_only_what_is_theirs(
    scheme: str, secure: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Names(["192.0.2.7"])
    secrets = ("swordfish", "token=open-sesame", "session=42", "my-agent", "my-origin.test")
    written = "agent47" if SPOKEN[scheme] == "socks4" else "agent47:hunter2"
    async with target(secure=secure) as (echo, port), Proxy(SPOKEN[scheme]).running() as proxy:
        url = f"{'wss' if secure else 'ws'}://me:swordfish@server.test:{port}/path?token=open-sesame"
        chosen = options(proxy.url(scheme=scheme, credentials=written), secure=secure)
        chosen["headers"] = {"Cookie": "session=42", "Authorization-Of-Mine": "session=42"}
        chosen["user_agent"] = "my-agent"
        chosen["origin"] = "https://my-origin.test"
        async with connected(url, **chosen) as client:
            await echoed(client)
            shown = repr(client) + repr(client.response_headers) + client.url
    (asked,) = proxy.asked
    basic = base64.b64encode(b"me:swordfish")
    hidden = [*(secret.encode() for secret in secrets), basic, b"/path", b"Cookie", b"\nAuthorization", b"websocket"]
    assert [part for part in hidden if part in asked.raw] == []
    (request,) = echo.requests
    assert b"proxy" not in request.lower()
    assert basic in request
    for secret in ("hunter2", "agent47", base64.b64encode(b"agent47:hunter2").decode()):
        assert secret.encode() not in request
        assert secret not in shown
        assert secret not in caplog.text
    if secure:
        assert b"open-sesame" not in asked.tunnel


# The answers of proxies -----------------------------------------------------------------------------------------------

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"


@WS_AND_WSS
@EVERY_SCHEME
async def test_an_answer_may_come_in_single_bytes(scheme: str, secure: bool) -> None:
    Names(["192.0.2.7"])
    login = None if SPOKEN[scheme] == "socks4" else (b"user", b"pass")
    credentials = "" if login is None else "user:pass"
    async with (
        target(secure=secure) as (_, port),
        Proxy(SPOKEN[scheme], login=login, piece_bytes=1).running() as proxy,
    ):
        url = f"{'wss' if secure else 'ws'}://server.test:{port}/"
        through = options(proxy.url(scheme=scheme, credentials=credentials), secure=secure)
        await visit(url, **through)


@pytest.mark.parametrize("piece_bytes", [0, 1])
@EVERY_SCHEME
async def test_what_the_target_says_in_the_packet_of_the_answer_is_not_lost(scheme: str, piece_bytes: int) -> None:
    Names(["192.0.2.7"])
    async with (
        target() as (_, port),
        Proxy(SPOKEN[scheme], early=SWITCHING, piece_bytes=piece_bytes).running() as proxy,
    ):
        await visit(f"ws://server.test:{port}/", **options(proxy.url(scheme=scheme)))


@EVERY_SCHEME
async def test_a_whole_refusal_of_the_target_in_the_packet_of_the_answer_is_the_targets(scheme: str) -> None:
    Names(["192.0.2.7"])
    opened = {"socks4": SOCKS4_GRANTED, "socks5": SOCKS5_GRANTED}.get(SPOKEN[scheme], ESTABLISHED)
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    async with (
        raw_server(Peer.read_request) as url,
        Proxy(SPOKEN[scheme], answers={"connect": opened + refusal}).running() as proxy,
    ):
        with pytest.raises(ConnectionFailedError) as caught:
            async with connected(url.replace("127.0.0.1", "server.test"), **options(proxy.url(scheme=scheme))):
                pytest.fail("connected")
    assert (caught.value.details["status"], caught.value.details["body"]) == (403, b"no")
    assert (caught.value.details["proxy"], "by_proxy" in caught.value.details) == (proxy.url(scheme=scheme), False)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 201 Created\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 299 Fine\r\n\r\n",
        # To be ignored: RFC 9110, section 9.3.6.
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nProxy-Agent: tests\r\nVia: 1.1 tests\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 16_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Short: x\r\n" * 90 + b"\r\n",
    ],
    ids=lambda answer: answer[:60].decode().replace("\r\n", "; "),
)
@pytest.mark.parametrize("piece_bytes", [0, 1])
@WS_AND_WSS
async def test_any_2xx_opens_the_tunnel_whatever_else_it_says(answer: bytes, piece_bytes: int, secure: bool) -> None:
    if piece_bytes and len(answer) > 1000:
        pytest.skip("it would take seconds")
    async with (
        target(secure=secure) as (_, port),
        Proxy("http", answers={"connect": answer}, piece_bytes=piece_bytes).running() as proxy,
    ):
        url = f"{'wss' if secure else 'ws'}://server.test:{port}/"
        await visit(url, **options(proxy.url(), secure=secure))


@pytest.mark.parametrize("piece_bytes", [0, 1])
@pytest.mark.parametrize(
    "bound",
    [
        bytes([1, 192, 0, 2, 1, 4, 56]),
        bytes([4, *bytes(15), 1, 0, 80]),
        bytes([3, 10]) + b"proxy.test" + bytes([0, 80]),
        bytes([3, 255]) + b"x" * 255 + bytes([0, 80]),
        bytes([3, 0, 0, 80]),
    ],
    ids=["IPv4", "IPv6", "a name", "a long name", "an empty name"],
)
async def test_a_socks_5_proxy_may_be_bound_to_any_address(bound: bytes, piece_bytes: int) -> None:
    reply = bytes([5, 0, 0]) + bound
    async with (
        target() as (_, port),
        Proxy("socks5", answers={"connect": reply}, early=SWITCHING, piece_bytes=piece_bytes).running() as proxy,
    ):
        await visit(f"ws://server.test:{port}/", proxy=proxy.url(scheme="socks5h"))


async def test_a_socks_4_proxy_may_be_bound_to_any_address() -> None:
    reply = bytes([0, 90, 4, 56, 192, 0, 2, 1])
    async with (
        target() as (_, port),
        Proxy("socks4", answers={"connect": reply}, early=SWITCHING).running() as proxy,
    ):
        await visit(f"ws://server.test:{port}/", proxy=proxy.url(scheme="socks4a"))


# TLS to the proxy -----------------------------------------------------------------------------------------------------


async def test_tls_to_the_proxy_is_verified_on_its_own() -> None:
    """The context for the target is not that for the proxy, and neither is the name."""
    async with Proxy("https").running() as proxy:
        for wrong in (
            websocket.ConnectOptions(proxy=proxy.url()),
            websocket.ConnectOptions(proxy=proxy.url(), ssl_context=contexts()[1], server_hostname="127.0.0.1"),
            websocket.ConnectOptions(proxy=proxy.url(host="localhost"), proxy_ssl_context=contexts()[1]),
        ):
            with pytest.raises(ConnectionFailedError, match=r"TLS with the proxy .*certificate") as caught:
                async with connected("wss://server.test:81/", **wrong):
                    pytest.fail("connected")
            assert f":{proxy.port}" in str(caught.value)
    assert [asked.raw for asked in proxy.asked] == [b"", b"", b""]


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_tls_to_the_target_is_verified_inside_the_tunnel(scheme: str) -> None:
    async with target(secure=True) as (echo, port), Proxy(SPOKEN[scheme]).running() as proxy:
        wrong = options(proxy.url(scheme=scheme))
        # It trusts the proxy, which is not the target.
        wrong["ssl_context"] = contexts()[1]
        with pytest.raises(ConnectionFailedError, match=r"TLS failed: .*certificate"):
            async with connected(f"wss://server.test:{port}/", **wrong):
                pytest.fail("connected")
        right = options(proxy.url(scheme=scheme), secure=True)
        with pytest.raises(ConnectionFailedError, match=r"TLS failed: .*(?i:hostname)"):
            async with connected(f"wss://other.test:{port}/", **right):
                pytest.fail("connected")
        right["server_hostname"] = "server.test"
        await visit(f"wss://other.test:{port}/", **right)
    assert len(echo.requests) == 1


async def test_a_proxy_that_chooses_http_2_is_not_asked() -> None:
    serving, trusting = contexts.__wrapped__()
    serving.set_alpn_protocols(["h2"])
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    async with Proxy("https", tls=serving).running() as proxy:
        with pytest.raises(ConnectionFailedError, match=r"the proxy chose HTTP/2, because proxy_ssl_context") as caught:
            async with connected("ws://server.test/", proxy=proxy.url(), proxy_ssl_context=trusting):
                pytest.fail("connected")
    assert not caught.value.retryable
    assert proxy.asked[0].raw == b""


# Who may --------------------------------------------------------------------------------------------------------------


async def test_the_policies_are_asked_about_the_proxy_and_about_an_address_it_is_given() -> None:
    asked: list[tuple[str, str]] = []

    def note(_actor: object, action: str, resource: str, _meta: object) -> bool:
        asked.append((action, resource))
        return True

    for host in ("server.test", "192.0.2.9"):
        asked.clear()
        async with target() as (_, port), Proxy("http").running() as proxy:
            with security.context(scope=security.Scope([security.Policy("*", "*", condition=note)]), strict=True):
                await visit(f"ws://{host}:{port}/", proxy=proxy.url(credentials="user:hunter2"))
        url = f"ws://{host}:{port}/"
        assert asked == [
            ("websocket.connect", ""),
            ("websocket.connect.url", url),
            ("websocket.connect.proxy", proxy.url()),
            *([("websocket.connect.address", host)] if host == "192.0.2.9" else []),
        ]


@EVERY_SCHEME
async def test_a_proxy_that_is_denied_is_not_connected_to(scheme: str) -> None:
    denying = security.Scope([security.Policy("*", "*"), security.Policy("websocket.connect.proxy", "*", "deny")])
    async with Proxy(SPOKEN[scheme]).running() as proxy:
        with security.context(scope=denying, strict=True), pytest.raises(PermissionDeniedError) as caught:
            await visit("ws://server.test/", **options(proxy.url(scheme=scheme)))
    assert caught.value.details == {"url": "ws://server.test/", "proxy": proxy.url(scheme=scheme)}
    assert proxy.asked == []


@pytest.mark.parametrize("written", ["http://proxy.test", "HTTP://PROXY.test.:80/", "http://user:pw@proxy.test:80"])
async def test_a_proxy_that_is_denied_is_not_connected_to_however_it_is_written(written: str) -> None:
    names = Names(["192.0.2.1"])
    policies = [security.Policy("*", "*"), security.Policy("websocket.connect.proxy", "http://proxy.test", "deny")]
    with security.context(scope=security.Scope(policies), strict=True), pytest.raises(PermissionDeniedError):
        await visit("ws://server.test/", proxy=written)
    assert names.asked == []


@EVERY_SCHEME
async def test_an_address_that_is_denied_is_not_reached_through_a_proxy_either(scheme: str) -> None:
    Names(["192.0.2.7"])
    denying = security.Scope([security.Policy("*", "*"), security.Policy("websocket.connect.address", "192.*", "deny")])
    async with Proxy(SPOKEN[scheme]).running() as proxy:
        for host in ["192.0.2.7", *(["server.test"] if scheme in RESOLVED_HERE else [])]:
            with security.context(scope=denying, strict=True), pytest.raises(PermissionDeniedError):
                await visit(f"ws://{host}/", **options(proxy.url(scheme=scheme)))
    assert proxy.asked == []


@EVERY_SCHEME
async def test_an_address_with_a_zone_is_of_this_machine_and_no_proxy_is_asked(scheme: str) -> None:
    async with Proxy(SPOKEN[scheme]).running() as proxy:
        with pytest.raises(ConnectionFailedError, match="zone") as caught:
            await visit("ws://[fe80::1%251]/", **options(proxy.url(scheme=scheme)))
    assert not caught.value.retryable
    assert proxy.asked == []


# What it leaves behind ------------------------------------------------------------------------------------------------


@EVERY_SCHEME
async def test_many_connections_at_once_have_each_their_tunnel(scheme: str) -> None:
    Names(["192.0.2.7"])
    async with target() as (echo, port), Proxy(SPOKEN[scheme]).running() as proxy:

        async def visit(number: int) -> None:
            async with connected(f"ws://server.test:{port}/{number}", **options(proxy.url(scheme=scheme))) as client:
                await echoed(client, f"number {number}")

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(visit, number)
    assert len(proxy.asked) == len(echo.requests) == 20


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_in_a_nursery_the_tunnel_ends_with_the_nursery(scheme: str) -> None:
    async with target() as (_, port), Proxy(SPOKEN[scheme]).running() as proxy, trio.open_nursery() as nursery:
        client = await websocket.connect(
            f"ws://server.test:{port}/", nursery=nursery, **options(proxy.url(scheme=scheme))
        )
        await echoed(client)
        nursery.cancel_scope.cancel()
    assert client.close_code is not None


async def test_a_proxy_that_dies_ends_the_connection() -> None:
    """As a server that dies: the tunnel is all there is of it."""
    over = trio.Event()

    async def die(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"last words"))
        await over.wait()
        peer.reset()

    async with (
        raw_server(die) as url,
        Proxy("http").running() as proxy,
        connected(url, proxy=proxy.url()) as client,
    ):
        assert (await anext(client)).data == "last words"
        over.set()
        assert not (await client.receive()).ok
        assert client.close_code == 1006
        assert client.proxy == proxy.url()


async def test_the_answer_to_connect_is_not_taken_for_the_targets() -> None:
    """A proxy that refuses with a status of its own is told as the proxy's; the target's headers are not."""
    async with Proxy("http", answers={"connect": http_answer(403)}).running() as proxy:
        with pytest.raises(ConnectionFailedError, match=r"proxy.*status 403") as caught:
            async with connected("ws://server.test:81/", proxy=proxy.url()):
                pytest.fail("connected")
    assert not proxy.asked[0].tunnel
    assert caught.value.details["url"] == "ws://server.test:81/"


@WS_AND_WSS
async def test_the_certificate_of_the_proxy_is_not_taken_for_the_targets(secure: bool) -> None:
    async with target(secure=secure) as (_, port), Proxy("https").running() as proxy:
        url = f"{'wss' if secure else 'ws'}://server.test:{port}/"
        async with connected(url, **options(proxy.url(), secure=secure)) as client:
            found = client.peer_certificate
    if not secure:
        assert found is None
    else:
        assert found is not None
        assert ("DNS", "server.test") in found["subjectAltName"]
