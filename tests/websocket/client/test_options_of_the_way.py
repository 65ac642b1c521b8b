"""The options that say how a server is reached: their bounds and types, and which exclude each other."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import websocket
from csp.errors import InvalidError, InvalidTypeError
from tests.websocket._options import invalid, parsed
from tests.websocket._server import URL, Server, connecting
from trio_csp_websocket.network.proxy import parse_proxy

if TYPE_CHECKING:
    from trio.testing import MockClock

SECURE_URL = "wss://server.test/"
needs_unix_sockets = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no Unix sockets here")


async def dial(_host: str, _port: int) -> trio.abc.Stream:
    return await trio.sleep_forever()


# The Host header ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("app.test", "app.test"),
        ("App.Test.", "app.test"),
        ("app.test:8080", "app.test:8080"),
        ("app.test:80", "app.test:80"),
        ("app.test:443", "app.test:443"),
        ("app.test:", "app.test"),
        ("app.test:00081", "app.test:81"),
        ("b\u00fccher.test:81", "xn--bcher-kva.test:81"),
        ("127.0.0.1", "127.0.0.1"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("[::1]:81", "[::1]:81"),
        ("[::ffff:127.0.0.1]:81", "127.0.0.1:81"),
        ("[fe80::1%25eth0]:81", "[fe80::1]:81"),
        ("a_b", "a_b"),
        (f"{'a' * 63}.test:65535", f"{'a' * 63}.test:65535"),
    ],
)
async def test_a_host_header_is_sent_in_place_of_the_urls(given: str, sent: str, autojump_clock: MockClock) -> None:
    websocket.connect(URL, host_header=given)
    server = Server()
    async with connecting(server, host_header=given) as client:
        assert client.url == URL
    assert server.request is not None
    assert server.request.get_all("Host") == [sent]


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", ":", ":80", ".", "a..b", "-a", "a-", "a b", "app.test\r\nX: y", "app.test\0", "app.test\t"),
        *("app.test/", "app.test?a", "app.test#a", "user@app.test", "app.test\\x", "ws://app.test", "a%41"),
        *("app.test:0", "app.test:65536", "app.test:x", "app.test:-1", "app.test:8 0", "app.test:80:80"),
        *("::1", "[::1", "::1]", "[::1]x", "[::g]", "[::1%25eth0]", "127.1", "0x7f000001", "1.2.3.256"),
        *("a" * 64, "a" * 254, "x" * 5000, "\u2028", "\ud800"),
        # What stands before a port, and wsproto encodes together with it.
        f"{'a' * 60}:8080",
    ],
    ids=ascii,
)
def test_another_host_header_is_invalid(value: str) -> None:
    error = invalid(host_header=value)
    assert not isinstance(error, InvalidTypeError)
    assert str(error).startswith("host_header ")


@pytest.mark.parametrize("value", [True, 0, b"app.test", ["app.test"], ("app.test", 80)])
def test_a_host_header_of_another_type_is_invalid(value: object) -> None:
    error = invalid(host_header=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"host_header must be a string or None, not {value!r}"


@pytest.mark.parametrize("name", ["Host", "host", "HOST"])
def test_a_header_host_names_the_option_for_it(name: str) -> None:
    error = invalid(headers={name: "app.test"})
    assert str(error) == f"headers must not contain {name!r}: it belongs to the handshake; write host_header="


# Redirects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 10, 100])
def test_max_redirects_is_a_number(value: int) -> None:
    assert parsed(max_redirects=value).max_redirects == value


@pytest.mark.parametrize("value", [-1, 101, 1 << 100])
def test_max_redirects_has_bounds(value: int) -> None:
    error = invalid(max_redirects=value)
    assert str(error) == f"max_redirects must be 0 to 100, not {value}"


@pytest.mark.parametrize("value", [None, True, False, "10", 1.0, [1]])
def test_max_redirects_of_another_type_is_invalid(value: object) -> None:
    error = invalid(max_redirects=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("max_redirects must be ")


# Subprotocols ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, 1, "yes", "", []])
def test_require_subprotocol_of_another_type_is_invalid(value: object) -> None:
    error = invalid(require_subprotocol=value, protocols=["a"])
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"require_subprotocol must be True or False, not {value!r}"


@pytest.mark.parametrize("protocols", [None, [], iter(())])
def test_a_subprotocol_that_is_not_offered_cannot_be_required(protocols: Any) -> None:
    error = invalid(require_subprotocol=True, protocols=protocols)
    assert str(error) == "require_subprotocol must not be given without protocols to offer"
    assert parsed(require_subprotocol=False).require_subprotocol is False
    assert parsed(require_subprotocol=True, protocols=["a"]).require_subprotocol is True


# Unix sockets ---------------------------------------------------------------------------------------------------------


@needs_unix_sockets
@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/run/app.sock", "/run/app.sock"),
        ("app.sock", "app.sock"),
        (Path("app.sock"), "app.sock"),
        (os.fsdecode(b"\xff.sock"), os.fsdecode(b"\xff.sock")),
        ("x" * 107, "x" * 107),
        ("\u00fc" * 53, "\u00fc" * 53),
    ],
    ids=repr,
)
def test_a_path_of_a_unix_socket_is_taken(value: Any, path: str) -> None:
    assert parsed(unix_socket=value).route.unix_socket == path
    for url in (URL, SECURE_URL):
        websocket.connect(url, unix_socket=value)


@needs_unix_sockets
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "unix_socket must be a path without NUL characters, not ''"),
        ("\0app", "unix_socket must be a path without NUL characters, not '\\x00app'"),
        ("/run/\0", "unix_socket must be a path without NUL characters, not '/run/\\x00'"),
        ("x" * 108, "unix_socket must be a path of at most 107 bytes, not 108"),
        ("\u00fc" * 54, "unix_socket must be a path of at most 107 bytes, not 108"),
        ("/run/\ud800", "unix_socket must be a path that the system can encode, not '/run/\\ud800'"),
    ],
    ids=repr,
)
def test_another_path_is_invalid(value: str, says: str) -> None:
    error = invalid(unix_socket=value)
    assert not isinstance(error, InvalidTypeError)
    assert str(error) == says


class BytesPath(os.PathLike[bytes]):
    """A path that is no string."""

    def __fspath__(self) -> bytes:
        return b"app.sock"


@pytest.mark.parametrize(
    "value", [True, 1, b"app.sock", ["app.sock"], BytesPath(), object()], ids=lambda value: type(value).__name__
)
def test_a_unix_socket_of_another_type_is_invalid(value: object) -> None:
    error = invalid(unix_socket=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("unix_socket must be ")


def test_without_unix_sockets_the_option_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    says = "unix_socket must not be given: Python has no Unix sockets on this system"
    assert str(invalid(unix_socket="app.sock")) == says


# dial -----------------------------------------------------------------------------------------------------------------


def test_a_function_to_dial_with_is_taken() -> None:
    assert parsed(dial=dial).route.dial is dial
    for url in (URL, SECURE_URL):
        websocket.connect(url, dial=dial)


@pytest.mark.parametrize("value", [True, "dial", object(), [dial]], ids=lambda value: type(value).__name__)
def test_what_cannot_be_called_is_invalid(value: object) -> None:
    error = invalid(dial=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"dial must be an async function of host and port, not {value!r}"


async def test_a_coroutine_in_place_of_its_function_is_invalid() -> None:
    coroutine: Any = dial("", 0)
    with contextlib.closing(coroutine):
        assert isinstance(invalid(dial=coroutine), InvalidTypeError)


# One way only ---------------------------------------------------------------------------------------------------------

WAYS: dict[str, Any] = {"dial": dial, "unix_socket": "app.sock", "proxy": "http://proxy.test:3128"}


@needs_unix_sockets
@pytest.mark.parametrize("names", [("dial", "unix_socket"), ("dial", "proxy"), ("unix_socket", "proxy"), tuple(WAYS)])
def test_ways_to_the_server_exclude_each_other(names: tuple[str, ...]) -> None:
    error = invalid(**{name: WAYS[name] for name in reversed(names)})
    assert not isinstance(error, InvalidTypeError)
    assert str(error) == f"{' and '.join(names)} exclude each other: give one way to the server"


@needs_unix_sockets
@pytest.mark.parametrize("name", ["dial", "unix_socket"])
@pytest.mark.parametrize("proxy", [True, False, None])
def test_the_environments_proxy_and_none_go_with_any_way(name: str, proxy: Any) -> None:
    websocket.connect(URL, proxy=proxy, **{name: WAYS[name]})


@needs_unix_sockets
@pytest.mark.parametrize("name", ["dial", "unix_socket"])
def test_a_context_for_the_proxy_goes_with_a_proxy_only(name: str) -> None:
    context = ssl.create_default_context()
    error = invalid(proxy_ssl_context=context, **{name: WAYS[name]})
    assert str(error) == "proxy_ssl_context must not be given without a proxy"


# Proxies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown", "port"),
    [
        ("http://proxy.test", "http://proxy.test", 80),
        ("HTTP://Proxy.Test.:3128/", "http://proxy.test:3128", 3128),
        ("https://proxy.test", "https://proxy.test", 443),
        ("http://proxy.test:80", "http://proxy.test", 80),
        ("https://proxy.test:443/", "https://proxy.test", 443),
        ("https://proxy.test:80", "https://proxy.test:80", 80),
        ("socks5h://proxy.test:1080", "socks5h://proxy.test", 1080),
        ("socks4a://[::1]:1080", "socks4a://[::1]", 1080),
        ("socks5://b\u00fccher.test", "socks5://xn--bcher-kva.test", 1080),
        ("socks5h://[2001:DB8::1]", "socks5h://[2001:db8::1]", 1080),
        ("socks4://127.0.0.1:9", "socks4://127.0.0.1:9", 9),
        ("socks4a://[::ffff:127.0.0.1]", "socks4a://127.0.0.1", 1080),
        ("http://alice:secret@proxy.test", "http://proxy.test", 80),
        ("http://[fe80::1%25eth0]", "http://[fe80::1]", 80),
    ],
)
def test_a_proxys_url_is_normalised_and_shown_without_credentials(url: str, shown: str, port: int) -> None:
    proxy = parse_proxy(url)
    assert (proxy.url, proxy.port) == (shown, port)
    assert (proxy.shown, proxy.setting) == (f"the proxy {shown}", "")
    assert "secret" not in repr(proxy)
    named = parse_proxy(url, setting="the variable x")
    assert named.shown == f"the proxy {shown} (named by the variable x; proxy=None connects without it)"


@pytest.mark.parametrize(
    ("url", "credentials", "authorization"),
    [
        ("http://proxy.test", (b"", b""), None),
        ("http://alice:pw@proxy.test", (b"alice", b"pw"), b"Basic YWxpY2U6cHc="),
        ("http://alice@proxy.test", (b"alice", b""), b"Basic YWxpY2U6"),
        ("http://:pw@proxy.test", (b"", b"pw"), b"Basic OnB3"),
        ("https://a%40b:c%3Ad%25@proxy.test", (b"a@b", b"c:d%"), b"Basic YUBiOmM6ZCU="),
        ("http://\u00fc:%00@proxy.test", (b"\xc3\xbc", b"\0"), b"Basic w7w6AA=="),
        ("socks5://alice:pw@proxy.test", (b"alice", b"pw"), b"Basic YWxpY2U6cHc="),
        (f"socks5h://{'u' * 255}:{'p' * 255}@proxy.test", (b"u" * 255, b"p" * 255), None),
        ("socks4://alice@proxy.test", (b"alice", b""), None),
    ],
    ids=repr,
)
def test_a_proxys_credentials_are_decoded(
    url: str, credentials: tuple[bytes, bytes], authorization: bytes | None
) -> None:
    proxy = parse_proxy(url)
    assert (proxy.user, proxy.password) == credentials
    if proxy.is_http:
        assert proxy.authorization == authorization


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", 'must start with "http://", "https://", "socks5://", "socks5h://", "socks4://" or "socks4a://"'),
        ("proxy.test:3128", 'must start with "http://"'),
        ("ftp://proxy.test", 'or "socks4a://", not "ftp:"'),
        ("socks://proxy.test", 'not "socks:"'),
        ("http://", "must name a host"),
        ("http://:3128", "must name a host"),
        ("http://proxy.test:0", "must have a port of 1 to 65535, not 0"),
        ("http://proxy.test:65536", "has a port that is not a number of 1 to 65535"),
        ("http://proxy.test/x", "must end with the proxy's host and port: it has a path or a query"),
        ("http://proxy.test?x", "must end with the proxy's host and port: it has a path or a query"),
        ("http://proxy.test/?", "must end with the proxy's host and port: it has a path or a query"),
        ("http://proxy.test#x", "must not have a fragment"),
        ("http://a b.test", "must not contain spaces, control characters or surrogates"),
        ("http://proxy.test\n", "must not contain spaces, control characters or surrogates"),
        ("http://a\\@proxy.test", "must not have a backslash before its path"),
        ("http://[::1", "is malformed: what follows the scheme names no valid host"),
        ("http://127.1", "is no IPv4 address of four numbers"),
        ("http://a%3Ab:SECRET@proxy.test", "has a user name with a colon, which Basic authorization cannot express"),
        ("socks5://SECRET@proxy.test", "has a user name without a password, or the reverse"),
        ("socks5h://:SECRET@proxy.test", "has a user name without a password, or the reverse"),
        (f"socks5://a:SECRET{'p' * 250}@proxy.test", "has a user name or a password of more than 255 characters"),
        (f"socks4://SECRET{'u' * 250}@proxy.test", "has a user name or a password of more than 255 characters"),
        ("socks5://a:SECRET%00@proxy.test", "has credentials that are not ASCII, or have a NUL"),
        ("socks4a://SECRET\u00fc@proxy.test", "has credentials that are not ASCII, or have a NUL"),
        ("socks4://a:SECRET@proxy.test", "has a password, and SOCKS4 knows none: it takes a user name only"),
        ("http://a:SECRET@[::1", "is malformed"),
        ("http://a:SECRET@proxy.test:x", "has a port that is not a number"),
    ],
    ids=repr,
)
def test_a_proxy_that_is_malformed_is_invalid_and_told_without_credentials(url: str, says: str) -> None:
    error = invalid(proxy=url)
    assert not isinstance(error, InvalidTypeError)
    assert str(error).startswith("proxy ")
    assert says in str(error)
    assert "SECRET" not in str(error)
    with pytest.raises(InvalidError, match=r"^the environment variable x "):
        parse_proxy(url, setting="the environment variable x")
