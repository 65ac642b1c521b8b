"""The arguments of `redis.Bus`: what is wrong with them is told by the call."""

from __future__ import annotations

import ssl
from datetime import timedelta
from typing import Any

import pytest

from csp import redis
from csp.errors import InvalidError, InvalidTypeError

URL = "redis://h.test"
DURATIONS = ["dial_timeout", "timeout", "close_timeout", "min_delay", "max_delay"]


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", ["0s", "-1s", "", "5", "1x", "9000h", timedelta(0), timedelta(days=367)])
def test_a_duration_out_of_range_or_malformed(name: str, value: Any) -> None:
    with pytest.raises(InvalidError, match=f"^{name} ") as caught:
        redis.Bus(URL, **{name: value})
    assert not isinstance(caught.value, InvalidTypeError)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [5, 0.5, None, b"5s", True])
def test_a_duration_of_another_type(name: str, value: Any) -> None:
    with pytest.raises(InvalidTypeError, match=f"^{name} "):
        redis.Bus(URL, **{name: value})


def test_durations_are_texts_or_timedeltas() -> None:
    options: Any = dict.fromkeys(DURATIONS, timedelta(seconds=1))
    assert redis.Bus(URL, **options).url == "redis://h.test:6379/0"
    assert redis.Bus(URL, min_delay="5s", max_delay="5s").url == "redis://h.test:6379/0"


def test_the_most_is_not_below_the_least() -> None:
    with pytest.raises(InvalidError, match="max_delay must be at least min_delay, which is 6 s, not 5 s"):
        redis.Bus(URL, min_delay="6s")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_attempts": 0}, InvalidError, "max_attempts must be 1 to 1000000000, not 0"),
        ({"max_attempts": -1}, InvalidError, "max_attempts must be 1 to 1000000000, not -1"),
        ({"max_attempts": 10**9 + 1}, InvalidError, "max_attempts must be 1 to 1000000000, not 1000000001"),
        ({"max_attempts": 10**5000}, InvalidError, "max_attempts must be 1 to 1000000000, not a number that large"),
        ({"max_attempts": 1.0}, InvalidTypeError, "max_attempts must be a whole number, not float"),
        ({"max_attempts": True}, InvalidTypeError, "max_attempts must be a whole number, not bool"),
        ({"prefix": "a{"}, InvalidError, "prefix must not have braces"),
        ({"prefix": "}"}, InvalidError, "prefix must not have braces"),
        ({"prefix": "p" * 501}, InvalidError, "prefix must have 0 to 500 characters, not 501"),
        ({"prefix": "\ud800"}, InvalidError, "prefix must be text that can be written as UTF-8: it has a surrogate"),
        ({"prefix": b"a"}, InvalidTypeError, "prefix must be a string, not bytes"),
        ({"ssl_context": True}, InvalidTypeError, "ssl_context must be an ssl.SSLContext or None, not bool"),
        ({"codec": "json"}, InvalidTypeError, "codec must be a pair of functions (encode, decode), not 'json'"),
        ({"codec": (str,)}, InvalidTypeError, "codec must be a pair of functions"),
        ({"codec": (str, 1)}, InvalidTypeError, "codec must be a pair of functions"),
        ({"codec": [str, bytes]}, InvalidTypeError, "codec must be a pair of functions"),
    ],
)
def test_another_option_that_is_wrong(options: Any, error: type[InvalidError], text: str) -> None:
    with pytest.raises(error) as caught:
        redis.Bus(URL, **options)
    assert type(caught.value) is error
    assert str(caught.value).startswith(text)


def test_a_context_for_tls_needs_a_url_with_tls() -> None:
    context = ssl.create_default_context()
    with pytest.raises(InvalidError, match='ssl_context is for TLS: the url must start with "rediss://"'):
        redis.Bus(URL, ssl_context=context)
    assert redis.Bus("rediss://h.test", ssl_context=context).url == "rediss://h.test:6379/0"


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(TypeError):
        redis.Bus(URL, retry=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
