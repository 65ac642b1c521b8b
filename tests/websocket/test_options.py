"""The options of ``connect``: defaults, bounds, types, and what the errors say."""

from __future__ import annotations

import math
import ssl
from collections import OrderedDict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import csp
from csp import websocket
from csp.errors import InvalidError, InvalidTypeError, Kind
from tests.websocket._server import URL
from trio_csp_websocket._options import ConnectOptions, Options, parse_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio


def invalid(**options: Any) -> InvalidError:
    """Return the error that ``connect`` raises at the call."""
    with pytest.raises(InvalidError) as caught:
        websocket.connect(URL, **options)
    assert caught.value.kind is Kind.INVALID
    assert caught.value.retryable is False
    return caught.value


def parsed(**options: object) -> Options:
    return parse_options(options)


def test_the_defaults_are_those_of_the_specification() -> None:
    assert parsed() == Options(
        headers=((b"User-Agent", b"trio-csp/" + csp.__version__.encode()),),
        protocols=(),
        dial_timeout_seconds=30,
        read_timeout_seconds=math.inf,
        write_timeout_seconds=math.inf,
        compression=websocket.COMPRESSION.DISABLED,
        compression_threshold_bytes=128,
        read_limit_bytes=16 * 1024 * 1024,
        channel_capacity=16,
        ssl_context=None,
        server_hostname=None,
        keepalive_seconds=math.inf,
        close_timeout_seconds=10,
    )


def test_none_for_what_may_be_absent_is_the_default() -> None:
    assert parsed(headers=None, protocols=None, ssl_context=None) == parsed()


@pytest.mark.parametrize(
    "name",
    [
        "compression",
        "compression_threshold",
        "read_timeout",
        "write_timeout",
        "keepalive",
        "origin",
        "user_agent",
        "server_hostname",
        "Headers",
        "timeout",
    ],
)
def test_an_unknown_option_is_invalid_and_the_error_lists_the_known(name: str) -> None:
    error = invalid(**{name: None})
    assert isinstance(error, InvalidTypeError)
    assert isinstance(error, TypeError)
    assert f"unknown option {name!r}" in str(error)
    for known in ConnectOptions.__annotations__:
        assert known in str(error)


# Timeouts -------------------------------------------------------------------------------------------------------------

TIMEOUTS = ["dial_timeout", "close_timeout"]


def seconds(name: str, value: object) -> float:
    options = parse_options({name: value})
    return options.dial_timeout_seconds if name == "dial_timeout" else options.close_timeout_seconds


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 0.001),
        (2500, 2.5),
        (0.5, 0.0005),
        ("10s", 10),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("1ns", 1e-9),
        (timedelta(seconds=3), 3),
        (timedelta(microseconds=1), 1e-6),
        (None, math.inf),
    ],
)
def test_a_timeout_is_milliseconds_a_go_string_or_a_timedelta(name: str, value: object, expected: float) -> None:
    assert seconds(name, value) == pytest.approx(expected)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize(
    "value",
    [
        0,
        0.0,
        -1,
        -0.5,
        math.inf,
        -math.inf,
        math.nan,
        "0",
        "0s",
        "-1s",
        timedelta(0),
        timedelta(seconds=-1),
        pytest.param(10**400, id="huge"),
    ],
)
def test_a_timeout_out_of_range_is_invalid(name: str, value: object) -> None:
    error = invalid(**{name: value})
    assert not isinstance(error, InvalidTypeError)
    assert str(error).startswith(f"{name} must be above 0")
    assert repr(value)[:30] in str(error)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", ["", "10", "10 s", "s", "5s??5s", "1y", "9" * 30 + "h"])
def test_a_malformed_timeout_is_invalid(name: str, value: str) -> None:
    error = invalid(**{name: value})
    assert str(error).startswith(f"{name} must be ")
    assert value[:20] in str(error)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [True, False, b"10s", [10], 1j])
def test_a_timeout_of_another_type_is_invalid(name: str, value: object) -> None:
    error = invalid(**{name: value})
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith(f"{name} must be a number of milliseconds")
    assert repr(value) in str(error)


# Whole numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 16, 10_000])
def test_the_channel_capacity_may_be_1_to_10000(value: int) -> None:
    assert parsed(channel_capacity=value).channel_capacity == value


@pytest.mark.parametrize("value", [0, -1, 10_001, 10**30])
def test_another_channel_capacity_is_invalid(value: int) -> None:
    assert str(invalid(channel_capacity=value)) == f"channel_capacity must be 1 to 10000, not {value}"


@pytest.mark.parametrize(("value", "limit"), [(0, 16 * 1024 * 1024), (1, 1), (134_217_728, 134_217_728)])
def test_the_read_limit_may_be_0_to_134217728_and_0_is_the_default(value: int, limit: int) -> None:
    assert parsed(read_limit=value).read_limit_bytes == limit


@pytest.mark.parametrize("value", [-1, 134_217_729, 10**30])
def test_another_read_limit_is_invalid(value: int) -> None:
    assert str(invalid(read_limit=value)) == f"read_limit must be 0 to 134217728, not {value}"


@pytest.mark.parametrize("name", ["channel_capacity", "read_limit"])
@pytest.mark.parametrize("value", [True, 1.0, "16", None, math.inf, [1]])
def test_a_number_of_another_type_is_invalid(name: str, value: object) -> None:
    error = invalid(**{name: value})
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"{name} must be a whole number, not {value!r}"


# Headers --------------------------------------------------------------------------------------------------------------


def pairs() -> Iterator[tuple[str, str]]:
    yield "X-A", "1"
    yield "X-A", "2"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-A": "1"}, [(b"X-A", b"1")]),
        (OrderedDict([("B", "1"), ("A", "2")]), [(b"B", b"1"), (b"A", b"2")]),
        ([("X-A", "1"), ("X-A", "2")], [(b"X-A", b"1"), (b"X-A", b"2")]),
        ([["X-A", "1"]], [(b"X-A", b"1")]),
        (pairs(), [(b"X-A", b"1"), (b"X-A", b"2")]),
        ({}, []),
        ({"X-A": ""}, [(b"X-A", b"")]),
        ({"X-A": " a\tb "}, [(b"X-A", b"a\tb")]),
        ({"X-A": "gr\u00fcn"}, [(b"X-A", "gr\u00fcn".encode("latin-1"))]),
        ({"!#$%&'*+-.^_`|~09azAZ": "1"}, [(b"!#$%&'*+-.^_`|~09azAZ", b"1")]),
    ],
)
def test_headers_may_be_a_mapping_or_pairs(headers: object, expected: list[tuple[bytes, bytes]]) -> None:
    assert list(parsed(headers=headers).headers) == expected


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
        f"{SECRET}\u20ac",
        f"{SECRET}\ud800",
    ],
)
def test_a_value_with_control_or_strange_characters_is_invalid_and_not_shown(value: str) -> None:
    error = invalid(headers={"X-Token": value})
    assert "'X-Token'" in str(error)
    assert SECRET not in repr(error)
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize("name", ["", "X A", "X:", "X\r\n", "X\x00", "gr\u00fcn", "(x)", "X\n", "\tX", "\u20ac"])
def test_a_name_that_is_no_token_is_invalid(name: str) -> None:
    error = invalid(headers={name: SECRET})
    assert repr(name) in str(error)
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


@pytest.mark.parametrize("headers", ["X-A: 1", b"X-A: 1", 1, object()])
def test_headers_of_another_type_are_invalid(headers: object) -> None:
    error = invalid(headers=headers)
    assert isinstance(error, InvalidTypeError)
    assert f"not {type(headers).__name__}" in str(error)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", SECRET, "c"), 1, None, (), {"a": "b"}])
def test_a_header_that_is_no_pair_is_invalid(pair: object) -> None:
    error = invalid(headers=[pair])
    assert isinstance(error, InvalidTypeError)
    assert "pairs of a name and a value" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize("pair", [("a", 1), ("a", None), ("a", b"1"), (b"a", SECRET), (1, SECRET)])
def test_a_header_that_is_no_pair_of_strings_is_invalid(pair: tuple[object, object]) -> None:
    error = invalid(headers=[pair])
    assert isinstance(error, InvalidTypeError)
    assert repr(pair[0]) in str(error)
    assert SECRET not in str(error)


# Subprotocols ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocols", [["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 1, "b": 2}])
def test_subprotocols_are_any_iterable_in_order(protocols: object) -> None:
    assert parsed(protocols=protocols).protocols == ("a", "b")


def test_no_subprotocols_are_none() -> None:
    assert parsed(protocols=[]).protocols == ()


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a/b", "gr\u00fcn", "a\n", "\x00"])
def test_a_subprotocol_that_is_no_token_is_invalid(name: str) -> None:
    assert repr(name) in str(invalid(protocols=["ok", name]))


def test_a_subprotocol_twice_is_invalid() -> None:
    assert "'a' comes twice" in str(invalid(protocols=["a", "b", "a"]))


@pytest.mark.parametrize("protocols", ["chat", b"chat", 1, [1], [None], [b"chat"]])
def test_subprotocols_of_another_type_are_invalid(protocols: object) -> None:
    error = invalid(protocols=protocols)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("protocols must be ")


# TLS and nursery ------------------------------------------------------------------------------------------------------


def test_an_ssl_context_is_taken() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert parsed(ssl_context=context).ssl_context is context
    websocket.connect("wss://server.test/", ssl_context=context)


def test_an_ssl_context_for_a_ws_url_is_invalid() -> None:
    assert "write wss:" in str(invalid(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))


@pytest.mark.parametrize("value", [True, "context", object()])
def test_an_ssl_context_of_another_type_is_invalid(value: object) -> None:
    error = invalid(ssl_context=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("ssl_context must be an ssl.SSLContext, not ")


@pytest.mark.parametrize("value", [True, "nursery", object()])
def test_a_nursery_of_another_type_is_invalid(value: object) -> None:
    error = invalid(nursery=value)
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith("nursery must be a trio.Nursery, not ")


async def test_a_nursery_is_taken_and_none_is_none(nursery: trio.Nursery) -> None:
    websocket.connect(URL, nursery=nursery)
    websocket.connect(URL, nursery=None)


def test_what_connect_returns_shows_the_url_and_no_credentials() -> None:
    assert repr(websocket.connect("ws://user:secret@server.test/feed")) == (
        "<csp.websocket.connect('ws://server.test/feed')>"
    )
