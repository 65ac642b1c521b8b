"""The options of ``connect``: defaults, bounds, types, and what the errors say."""

from __future__ import annotations

import math
import ssl
from collections import OrderedDict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import csp
from csp import websocket
from csp.errors import InvalidError, InvalidTypeError
from csp.websocket import Headers
from tests.websocket._options import invalid, parsed
from tests.websocket._server import URL, Server, connecting
from trio_csp_websocket.client.options import ConnectOptions, Options, parse_options
from trio_csp_websocket.connection.settings import Settings
from trio_csp_websocket.network.route import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio
    from trio.testing import MockClock

USER_AGENT = (b"User-Agent", b"trio-csp/" + csp.__version__.encode())
SECURE_URL = "wss://server.test/"


def header_pairs(**options: object) -> list[tuple[bytes, bytes]]:
    """Return the headers that are sent besides the default User-Agent."""
    return [pair for pair in parsed(**options).headers if pair != USER_AGENT]


def test_the_defaults_are_those_of_the_specification() -> None:
    assert parsed() == Options(
        headers=(USER_AGENT,),
        protocols=(),
        require_subprotocol=False,
        dial_timeout_seconds=30,
        host_header=None,
        route=Route(
            ssl_context=None,
            server_hostname=None,
            proxy=True,
            proxy_ssl_context=None,
            unix_socket=None,
            dial=None,
        ),
        max_redirects=10,
        connection=Settings(
            read_timeout_seconds=math.inf,
            write_timeout_seconds=math.inf,
            compression=websocket.COMPRESSION.DISABLED,
            compression_threshold_bytes=128,
            read_limit_bytes=16 * 1024 * 1024,
            channel_capacity=16,
            keepalive_seconds=math.inf,
            close_timeout_seconds=10,
        ),
    )


def test_none_for_what_may_be_absent_is_the_default() -> None:
    absent: list[str] = ["headers", "protocols", "ssl_context", "server_hostname", "origin", "keepalive"]
    absent += ["read_timeout", "write_timeout", "host_header", "proxy_ssl_context", "unix_socket", "dial"]
    assert parsed(**dict.fromkeys(absent)) == parsed()


@pytest.mark.parametrize("name", ["Headers", "timeout", "user-agent", "proxies", "", "read_timeout_seconds", "url\n"])
def test_an_unknown_option_is_invalid_and_the_error_lists_the_known(name: str) -> None:
    error = invalid(**{name: None})
    assert isinstance(error, InvalidTypeError)
    assert isinstance(error, TypeError)
    assert f"unknown option {name!r}" in str(error)
    for known in ConnectOptions.__annotations__:
        assert known in str(error)


def test_several_invalid_options_are_one_error() -> None:
    assert "read_limit" in str(invalid(read_limit=-1, headers={"ok": "ok"}, dial_timeout="10s"))


@pytest.mark.parametrize("name", sorted(ConnectOptions.__annotations__))
def test_every_option_is_checked_by_the_call_outside_of_any_run(name: str) -> None:
    error = invalid(**{name: object()})
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith(f"{name} must be ")


@pytest.mark.parametrize("url", ["", "http://server.test/", "ws://server.test/\r\nX-A: b", "ws://user:secret@/"])
def test_an_invalid_url_is_raised_by_the_call_too(url: str) -> None:
    with pytest.raises(InvalidError, match=r"^url must ") as caught:
        websocket.connect(url)
    assert "secret" not in repr(caught.value)


# Headers --------------------------------------------------------------------------------------------------------------


def pairs() -> Iterator[tuple[str, str]]:
    yield "X-A", "1"
    yield "X-A", "2"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-A": "1"}, [(b"X-A", b"1")]),
        (Headers([("X-A", "1"), ("x-a", "2")]), [(b"X-A", b"1"), (b"X-A", b"2")]),
        (OrderedDict([("B", "1"), ("A", "2")]), [(b"B", b"1"), (b"A", b"2")]),
        ([("X-A", "1"), ("X-A", "2")], [(b"X-A", b"1"), (b"X-A", b"2")]),
        ([["X-A", "1"]], [(b"X-A", b"1")]),
        (pairs(), [(b"X-A", b"1"), (b"X-A", b"2")]),
        ({}, []),
        ({"X-A": ""}, [(b"X-A", b"")]),
        ({"X-A": " \ta\tb \t"}, [(b"X-A", b"a\tb")]),
        (MappingProxyType({"X-A": "1"}), [(b"X-A", b"1")]),
        ({"X-A": "\x80\xa0\xff"}, [(b"X-A", b"\x80\xa0\xff")]),
        ({"X-A": "gr\u00fcn"}, [(b"X-A", "gr\u00fcn".encode("latin-1"))]),
        ({"!#$%&'*+-.^_`|~09azAZ": "1"}, [(b"!#$%&'*+-.^_`|~09azAZ", b"1")]),
    ],
)
def test_headers_may_be_a_mapping_or_pairs(headers: object, expected: list[tuple[bytes, bytes]]) -> None:
    assert header_pairs(headers=headers) == expected


def test_headers_are_a_copy() -> None:
    headers = {"X-A": "1"}
    options = parsed(headers=headers)
    headers["X-A"] = "2"
    assert (b"X-A", b"1") in options.headers


SECRET = "hunter2"


@pytest.mark.parametrize(
    "value",
    [
        f"{SECRET}\r\nX-B: 1",
        f"{SECRET}\n",
        f"{SECRET}\r",
        f"\n{SECRET}",
        f"{SECRET}\x00",
        f"{SECRET}\x7f",
        f"{SECRET}\x1b",
        f"{SECRET}\x0b",
        f"{SECRET}\x0c",
        f"{SECRET}\x01",
        f"{SECRET}\x1f",
        f"{SECRET}\r\n folded",
        f"{SECRET}\u2028",
        f"{SECRET}\u0100",
        f"{SECRET}\u560a",  # a line feed if cut to eight bits
        f"{SECRET}\u20ac",
        f"{SECRET}\ud800",
    ],
)
def test_a_value_with_control_or_strange_characters_is_invalid_and_not_shown(value: str) -> None:
    error = invalid(headers={"X-Token": value})
    assert "'X-Token'" in str(error)
    assert SECRET not in repr(error)
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", "''"),
        ("X:", "'X:'"),
        ("X\x00", r"'X\x00'"),
        ("gr\u00fcn", "'gr\u00fcn'"),
        ("(x)", "'(x)'"),
        ("\u20ac", "'\u20ac'"),
        ("X A", "'X' and more"),
        ("X\r\n", "'X' and more"),
        ("\tX", "'' and more"),
        (f"Authorization: {SECRET}", "'Authorization:' and more"),
        (f"Bearer {SECRET}", "'Bearer' and more"),
    ],
)
def test_a_name_that_is_no_token_is_invalid(name: str, shown: str) -> None:
    error = invalid(headers={name: SECRET})
    assert str(error).endswith(f"without spaces and separators, not {shown}")
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "host",
        "UPGRADE",
        "Connection",
        "Sec-WebSocket-Key",
        "sec-websocket-version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Anything",
        "Content-Length",
        "Transfer-Encoding",
    ],
)
def test_a_header_of_the_handshake_itself_is_invalid(name: str) -> None:
    error = invalid(headers=[(name, SECRET)])
    assert f"must not contain {name!r}" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize("headers", [f"Authorization: {SECRET}", SECRET.encode(), 1, True, object()])
def test_headers_of_another_type_are_invalid(headers: object) -> None:
    error = invalid(headers=headers)
    assert isinstance(error, InvalidTypeError)
    assert SECRET not in repr(error)
    assert f"not {type(headers).__name__}" in str(error)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", SECRET, "c"), 1, None, (), {"a": "b"}])
def test_a_header_that_is_no_pair_is_invalid(pair: object) -> None:
    error = invalid(headers=[pair])
    assert isinstance(error, InvalidTypeError)
    assert "pairs of a name and a value" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("pair", "shown"),
    [
        (("a", 1), "'a'"),
        (("a", None), "'a'"),
        (("a", b"1"), "'a'"),
        ((b"a", SECRET), "bytes"),
        ((SECRET.encode(), b""), "bytes"),
        ((1, SECRET), "int"),
        ((f"Cookie: {SECRET}", None), "'Cookie:' and more"),
    ],
)
def test_a_header_that_is_no_pair_of_strings_is_invalid(pair: tuple[object, object], shown: str) -> None:
    error = invalid(headers=[pair])
    assert isinstance(error, InvalidTypeError)
    assert str(error).endswith(f"not as in {shown}")
    assert SECRET not in str(error)


# Origin and User-Agent ------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize(("option", "header"), [("origin", b"Origin"), ("user_agent", b"User-Agent")])


@BOTH
@pytest.mark.parametrize("value", ["x", "https://example.com", "a b/1.0 (c; d)", "!~", "null", "a" * 5000])
def test_origin_and_user_agent_are_headers(option: str, header: bytes, value: str) -> None:
    headers = parsed(**{option: value}).headers
    assert [text for name, text in headers if name == header] == [value.encode()]
    assert len(headers) == (2 if option == "origin" else 1)


@BOTH
@pytest.mark.parametrize(
    "value",
    [
        *("", " ", " x", "x ", "\tx", "a\tb", "x\n", "x\r\nX-B: 1", "a\rb", "a\0", "\x7f", "\x1b[0m"),
        *("gr\u00fcn", "\u20ac", "a\x85b", "\xa0", "\u2028", "\u560ax"),
    ],
)
def test_an_origin_or_user_agent_beyond_printable_ascii_is_invalid(option: str, header: bytes, value: str) -> None:
    error = invalid(**{option: value})
    assert str(error).startswith(f"{option} must be ASCII without control characters")
    assert repr(value) in str(error)


@BOTH
@pytest.mark.parametrize("value", [True, False, 1, 1.5, b"x", ["x"]])
def test_an_origin_or_user_agent_of_another_type_is_invalid(option: str, header: bytes, value: object) -> None:
    error = invalid(**{option: value})
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"{option} must be a string or None, not {value!r}"


@BOTH
@pytest.mark.parametrize("change", [str.lower, str.upper, str])
def test_an_origin_or_user_agent_also_among_the_headers_is_invalid(option: str, header: bytes, change: Any) -> None:
    error = invalid(**{option: "x", "headers": [("X-A", "1"), (change(header.decode()), SECRET)]})
    assert str(error) == f"{option} must not be given together with a header {header.decode()!r}"


@BOTH
@pytest.mark.parametrize("change", [str.lower, str.upper, str])
def test_an_origin_or_user_agent_may_be_given_as_a_header_instead(option: str, header: bytes, change: Any) -> None:
    pair = (change(header.decode()), "mine")
    for options in ({}, {option: None}):
        headers = parsed(headers=[pair], **options).headers
        assert [text for name, text in headers if name.lower() == header.lower()] == [b"mine"]


def test_no_user_agent_is_sent_if_it_is_none() -> None:
    assert parsed(user_agent=None).headers == ()


async def test_what_is_sent_are_the_headers_given_then_origin_and_user_agent(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, headers={"X-A": "1"}, origin="https://a.test", user_agent="me/1"):
        assert server.request is not None
        ours = [(name, value) for name, value in server.request.items() if name in ("X-A", "Origin", "User-Agent")]
        assert ours == [("X-A", "1"), ("Origin", "https://a.test"), ("User-Agent", "me/1")]


async def test_the_user_agent_on_the_wire_is_ours_the_callers_or_none(autojump_clock: MockClock) -> None:
    ours, given_as_header, none = Server(), Server(), Server()
    async with (
        connecting(ours),
        connecting(given_as_header, headers={"user-agent": "x"}),
        connecting(none, user_agent=None),
    ):
        for server, expected in (
            (ours, [f"trio-csp/{csp.__version__}"]),
            (given_as_header, ["x"]),
            (none, []),
        ):
            assert server.request is not None
            assert server.request.get_all("User-Agent", []) == expected
            assert server.request.get_all("Origin", []) == []


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(["header name", "header value", "origin", "user_agent", "protocols"]),
    st.text(min_size=1, max_size=6),
    st.sampled_from(["", "\r", "\n", "\r\n", "\0", "\x7f", "\x85", "\u560d\u560a"]),
)
def test_whatever_is_accepted_is_one_line_of_a_header(place: str, text: str, injected: str) -> None:
    value = text[:3] + injected + text[3:]
    places: dict[str, dict[str, object]] = {
        "header name": {"headers": [(value, "x")]},
        "header value": {"headers": [("X-A", value)]},
        "protocols": {"protocols": [value]},
    }
    options = places.get(place, {place: value})
    accepted, refusal = None, ""
    try:
        accepted = parse_options(options)
    except InvalidError as error:
        refusal = str(error)
    assert refusal.isprintable()  # nor is anything injected into a log
    if accepted is not None:
        sent = [part for pair in accepted.headers for part in pair]
        sent += [name.encode("ascii") for name in accepted.protocols]
        assert not any((byte < 0x20 and byte != 0x09) or byte == 0x7F for part in sent for byte in part)
        assert all(part == part.strip(b" \t") for part in sent)


# Subprotocols ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocols", [["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 1, "b": 2}])
def test_subprotocols_are_any_iterable_in_order(protocols: object) -> None:
    assert parsed(protocols=protocols).protocols == ("a", "b")


def test_no_subprotocols_are_none() -> None:
    assert parsed(protocols=[]).protocols == ()


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a/b", "gr\u00fcn", "a\n", "a\r\nX-B: 1", "\x00"])
def test_a_subprotocol_that_is_no_token_is_invalid(name: str) -> None:
    assert str(invalid(protocols=["ok", name])).endswith("names without spaces and separators, unlike number 2")


def test_a_subprotocol_twice_is_invalid() -> None:
    assert str(invalid(protocols=["a", "b", "a"])) == "protocols must be different, and number 3 came before"


@pytest.mark.parametrize("protocols", ["chat", b"chat", 1, True, [1], [None], [b"chat"], [["chat"]]])
def test_subprotocols_of_another_type_are_invalid(protocols: object) -> None:
    error = invalid(protocols=protocols)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("protocols must be ")
    assert "chat" not in str(error)


# TLS and nursery ------------------------------------------------------------------------------------------------------


def test_an_ssl_context_is_taken() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert parsed(ssl_context=context).route.ssl_context is context
    websocket.connect("wss://server.test/", ssl_context=context)


def test_an_ssl_context_for_a_ws_url_is_invalid() -> None:
    assert "write wss:" in str(invalid(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))


@pytest.mark.parametrize("value", [True, "context", object()])
def test_an_ssl_context_of_another_type_is_invalid(value: object) -> None:
    error = invalid(ssl_context=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("ssl_context must be an ssl.SSLContext, not ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com", "example.com"),
        ("example.com.", "example.com"),
        ("b\u00fccher.test", "xn--bcher-kva.test"),
        ("B\u00dcCHER.test.", "xn--bcher-kva.test"),
        ("localhost", "localhost"),
        ("a_b.test", "a_b.test"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:DB8:0::A", "2001:db8::a"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:7f00:1", "127.0.0.1"),
        ("a" * 63, "a" * 63),
        (None, None),
    ],
)
def test_a_server_hostname_is_a_host_name_or_an_address(value: object, expected: str | None) -> None:
    assert parsed(server_hostname=value).route.server_hostname == expected
    websocket.connect(SECURE_URL, server_hostname=value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", ".", "a..b", ".example.com", "*.example.com", "example.com:443", "https://example.com", "[::1]"),
        *(
            "example.com\n",
            "exam\r\nple.com",
            "example.com\0.evil.test",
            "a b",
            "-a",
            "a-",
            "a" * 64,
        ),
        *("\u00fc b", "\u2028", "a@b", "a%41", "1:2", "::g"),
    ],
    ids=ascii,
)
def test_another_server_hostname_is_invalid(value: str) -> None:
    with pytest.raises(InvalidError) as caught:
        websocket.connect(SECURE_URL, server_hostname=value)
    assert not isinstance(caught.value, InvalidTypeError)
    assert str(caught.value).startswith("server_hostname must be a host name or an address: ")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [True, False, 1, b"example.com", ["example.com"]])
def test_a_server_hostname_of_another_type_is_invalid(value: object) -> None:
    error = invalid(server_hostname=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"server_hostname must be a string or None, not {value!r}"


def test_a_server_hostname_for_a_ws_url_is_invalid() -> None:
    assert str(invalid(server_hostname="server.test")) == "server_hostname must not be given for a ws: URL; write wss:"


@pytest.mark.parametrize("value", [True, "nursery", object()])
def test_a_nursery_of_another_type_is_invalid(value: object) -> None:
    error = invalid(nursery=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("nursery must be a trio.Nursery, not ")


async def test_a_nursery_is_taken_and_none_is_none(nursery: trio.Nursery) -> None:
    websocket.connect(URL, nursery=nursery)
    websocket.connect(URL, nursery=None)


def test_what_connect_returns_shows_the_url_and_no_credentials() -> None:
    connecting_with = websocket.connect(f"ws://user:{SECRET}@server.test/feed", headers={"Cookie": SECRET})
    assert repr(connecting_with) == "<csp.websocket.connect('ws://server.test/feed')>"


@pytest.mark.parametrize("value", ["::1%\r\nX: y", "::1%\0", "fe80::1%eth0", "::1%a b"])
def test_a_server_hostname_with_a_zone_is_invalid(value: str) -> None:
    with pytest.raises(InvalidError):
        websocket.connect("wss://server.test/", server_hostname=value)


def test_a_tls_context_for_servers_is_invalid() -> None:
    with pytest.raises(InvalidError, match="ssl_context must be one for clients"):
        websocket.connect(SECURE_URL, ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
