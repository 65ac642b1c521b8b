"""The options of a server: which values they take."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from csp import websocket
from csp.errors import InvalidError, InvalidTypeError


@pytest.mark.parametrize(
    ("option", "value", "error", "text"),
    [
        ("protocols", "chat", InvalidTypeError, "protocols must be an iterable of strings, not str"),
        ("protocols", 1, InvalidTypeError, "protocols must be an iterable of strings, not int"),
        ("protocols", [1], InvalidTypeError, "protocols must be strings, and number 1 is int"),
        ("protocols", ["a b"], InvalidError, "protocols must be names without spaces and separators, unlike number 1"),
        ("protocols", ["a", "a"], InvalidError, "protocols must be different, and number 2 came before"),
        ("http", 1, InvalidTypeError, "http must be an async function of a Request or None, not 1"),
        ("max_window_bits", 8, InvalidError, "max_window_bits must be 9 to 15, not 8"),
        ("max_window_bits", 16, InvalidError, "max_window_bits must be 9 to 15, not 16"),
        ("handshake_timeout", 5, InvalidTypeError, "handshake_timeout"),
        ("handshake_timeout", "0s", InvalidError, "handshake_timeout must be above 0"),
        ("header_limit", 1023, InvalidError, "header_limit must be 1024 to 1048576, not 1023"),
        ("max_connections", 0, InvalidError, "max_connections must be 1 to 1000000, not 0"),
        ("max_handshakes", 0, InvalidError, "max_handshakes must be 1 to 1000000, not 0"),
        ("max_waiting", True, InvalidTypeError, "max_waiting must be a whole number, not True"),
        ("read_limit", -1, InvalidError, "read_limit must be 0 to 134217728, not -1"),
        ("channel_capacity", 0, InvalidError, "channel_capacity must be 1 to 10000, not 0"),
        ("keepalive", 20, InvalidTypeError, "keepalive"),
        ("write_timeout", "x", InvalidError, "write_timeout"),
        ("compression", True, InvalidTypeError, "compression must be COMPRESSION"),
        ("compression_threshold", -1, InvalidError, "compression_threshold must be 0 to 104857600, not -1"),
        ("origins", "https://a", InvalidTypeError, "origins"),
        ("hosts", 1, InvalidTypeError, "hosts"),
        ("trusted_proxies", ["x"], InvalidError, "trusted_proxies"),
        ("proxy_protocol", 1, InvalidTypeError, "proxy_protocol must be True or False, not 1"),
        ("ssl_context", 1, InvalidTypeError, "ssl_context must be an ssl.SSLContext or None, not 1"),
        ("ssl_context", ssl.create_default_context(), InvalidError, "ssl_context must be a server's, such as"),
        ("reuse_port", 1, InvalidTypeError, "reuse_port must be True or False, not 1"),
        ("backlog", 0, InvalidError, "backlog must be 1 to 2147483647, not 0"),
        ("host", 1, InvalidTypeError, "host must be a string or None, not 1"),
    ],
    ids=range(29),
)
def test_what_is_refused(option: str, value: Any, error: type[InvalidError], text: str) -> None:
    given: Any = {option: value}
    with pytest.raises(error) as caught:
        websocket.listen(0, **given)
    assert type(caught.value) is error
    assert text in str(caught.value)


async def test_none_and_the_bounds_are_taken() -> None:
    async with websocket.listen(
        0,
        hosts=None,
        protocols=None,
        http=None,
        handshake_timeout=None,
        header_limit=1024,
        max_connections=None,
        max_window_bits=9,
        read_limit=0,
        read_timeout=1,
        write_timeout=None,
        keepalive=None,
        close_timeout=None,
        trusted_proxies=(),
        ssl_context=None,
        backlog=None,
    ) as server:
        assert server.port
