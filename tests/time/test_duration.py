"""Go's duration grammar, exactly; the accepted ones are those of Go's own time_test.go."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

import csp
from csp import errors

NANOSECOND = 1e-9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("0s", 0),
        ("5s", 5),
        ("30s", 30),
        ("1478s", 1478),
        ("-5s", -5),
        ("+5s", 5),
        ("5.0s", 5),
        ("5.6s", 5.6),
        ("5.s", 5),
        (".5s", 0.5),
        ("1.0s", 1),
        ("1.00s", 1),
        ("1.004s", 1.004),
        ("1.0040s", 1.004),
        ("100.00100s", 100.001),
        ("10ns", 10 * NANOSECOND),
        ("11us", 11e-6),
        ("12\u00b5s", 12e-6),
        ("12\u03bcs", 12e-6),
        ("13ms", 0.013),
        ("14s", 14),
        ("15m", 15 * 60),
        ("16h", 16 * 3600),
        ("3h30m", 3.5 * 3600),
        ("10.5s4m", 4 * 60 + 10.5),
        ("-2m3.4s", -(2 * 60 + 3.4)),
        ("1h2m3s4ms5us6ns", 3723.004005006),
        ("39h9m14.425s", 39 * 3600 + 9 * 60 + 14.425),
        ("52763797000ns", 52.763797),
        ("0.3333333333333333333h", 20 * 60),
        ("9007199254740993ns", 9007199.254740993),
        ("9223372036854775807ns", (2**63 - 1) / 1e9),
        ("9223372036854775.807us", (2**63 - 1) / 1e9),
        ("9223372036s854ms775us807ns", (2**63 - 1) / 1e9),
        ("-9223372036854775808ns", -(2**63) / 1e9),
        ("-9223372036854775.808us", -(2**63) / 1e9),
        ("-2562047h47m16.854775808s", -(2**63) / 1e9),
        ("0.100000000000000000000h", 360),
        ("0.830103483285477580700h", 2988.372539827),
        ("0.9223372036854775808s", 0.922337203),
        ("00000000000000000000000000000001s", 1),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("-1s", -1),
        ("1.5h", 5400),
        ("2h45m", 9900),
    ],
)
def test_go_accepts(text: str, seconds: float) -> None:
    assert csp.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "-",
        "+",
        "s",
        ".",
        "-.",
        ".s",
        "+.s",
        "00",
        "0.0",
        "1.5",
        "1e3s",
        "\x85\x85",
        "\xffff",
        "hello \xffff world",
        "5s??5s",
        "1y",
        "1d",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "--1s",
        "+-1s",
        "1s-1s",
        "1S",
        "1M",
        "1.2.3s",
        "1,5s",
        "NaN",
        "nans",
        "inf",
        "infs",
        "\u0661s",  # an Arabic digit one
        "1\u00b5",
    ],
)
def test_go_rejects_as_malformed(text: str) -> None:
    with pytest.raises(errors.InvalidError, match="must be a duration such as") as caught:
        csp.parse_duration(text)
    assert caught.value.kind is errors.INVALID
    assert caught.value.retryable is False
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "9223372036854775810ns",
        "9223372036854775808ns",
        "-9223372036854775809ns",
        "9223372036854776us",
        "3000000h",
        "9223372036854775.808us",
        "9223372036854ms775us808ns",
        "100000000000000000000000000h",
        "2562047h47m16.854775808s",
        "1" * 5000 + "ns",
        timedelta(days=365 * 300),
        timedelta(days=-365 * 300),
        timedelta.max,
        timedelta.min,
    ],
)
def test_more_than_292_years_is_invalid(text: csp.Duration) -> None:
    with pytest.raises(errors.InvalidError, match="must be within 292 years") as caught:
        csp.parse_duration(text)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(timedelta(seconds=90), 90), (timedelta(milliseconds=-5), -0.005), (timedelta(0), 0), (timedelta(days=2), 172800)],
)
def test_a_timedelta_is_accepted(duration: timedelta, seconds: float) -> None:
    assert csp.parse_duration(duration) == seconds


@pytest.mark.parametrize("number", [30, 1.5, -1, 0])
def test_a_number_is_a_type_error_that_says_what_to_write(number: float) -> None:
    with pytest.raises(TypeError, match="must be a string with a unit") as caught:
        csp.parse_duration(number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert f'write "{number}s" or "{number}ms"' in str(caught.value)
    assert errors.is_kind(caught.value, errors.INVALID)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400, -(10**400), 10**5000], ids=lambda _: "")
def test_a_number_that_no_string_could_mean_is_invalid(number: float) -> None:
    with pytest.raises(errors.InvalidTypeError) as caught:
        csp.parse_duration(number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert caught.value.kind is errors.INVALID


@pytest.mark.parametrize("other", [None, True, b"1s", ["1s"], object()], ids=lambda other: type(other).__name__)
def test_anything_else_is_a_type_error(other: object) -> None:
    with pytest.raises(errors.InvalidTypeError, match="must be a string such as"):
        csp.parse_duration(other)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("duration", ["x", "3000000h", timedelta.max, 3, None])
def test_an_error_names_what_the_duration_is_for(duration: csp.Duration) -> None:
    with pytest.raises(errors.InvalidError, match=r"^dial_timeout must"):
        csp.parse_duration(duration, name="dial_timeout")


def test_a_long_malformed_string_is_not_repeated_in_full() -> None:
    with pytest.raises(errors.InvalidError) as caught:
        csp.parse_duration("x" * 10_000)
    assert len(caught.value.message) < 200


def test_many_terms_add_up() -> None:
    assert csp.parse_duration("1ms" * 1000) == 1.0
