"""The settings of a connection, as options of ``connect``: timeouts, limits, compression."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from csp import websocket
from csp.errors import InvalidError, InvalidTypeError
from csp.websocket import COMPRESSION
from tests.websocket._options import invalid, parsed
from trio_csp_websocket.client.options import parse_options

# Timeouts -------------------------------------------------------------------------------------------------------------

# Those of the specification, which take milliseconds too, and ours.
SPECIFIED = ["dial_timeout", "read_timeout", "write_timeout"]
OURS = ["close_timeout", "keepalive"]
TIMEOUTS = [*SPECIFIED, *OURS]


def seconds(name: str, value: object) -> float:
    options = parse_options({name: value})
    result: float = getattr(options if name == "dial_timeout" else options.connection, f"{name}_seconds")
    return result


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("1ns", 1e-9),
        (timedelta(seconds=3), 3),
        (timedelta(microseconds=1), 1e-6),
        ("2562047h47m16.854775807s", 2**63 / 1e9),
        (timedelta(days=106751), 106751 * 86400),
        (None, math.inf),
    ],
)
def test_a_timeout_is_a_go_string_or_a_timedelta(name: str, value: object, expected: float) -> None:
    assert seconds(name, value) == pytest.approx(expected)


@pytest.mark.parametrize("name", SPECIFIED)
@pytest.mark.parametrize(("value", "expected"), [(1, 0.001), (2500, 2.5), (2**63 // 1_000_000, 2**63 / 1e9)])
def test_the_timeouts_of_the_specification_may_be_milliseconds(name: str, value: int, expected: float) -> None:
    assert seconds(name, value) == pytest.approx(expected)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("value", [0, 1, 20, -20, 10_000])
def test_elsewhere_an_int_is_refused_with_what_to_write(name: str, value: int) -> None:
    error = invalid(**{name: value})
    assert isinstance(error, InvalidTypeError)
    assert str(error) == (
        f'{name} must be a string with a unit or a timedelta, not the number {value} (write "{value}s" or "{value}ms")'
    )


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [0.0, 0.5, 20.0, -0.5])
def test_a_float_is_refused_whatever_its_value(name: str, value: float) -> None:
    error = invalid(**{name: value})
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith(f"{name} must be a string with a unit or a timedelta, not the number {value!r}")
    assert f'write "{value}s"' in str(error)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300, 5e-324, 1j, Fraction(1, 3)])
def test_of_a_number_that_no_duration_is_written_as_none_is_proposed(name: str, value: object) -> None:
    error = invalid(**{name: value})
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"{name} must be a string with a unit or a timedelta, not the number {value}"


@pytest.mark.parametrize("name", TIMEOUTS)
def test_any_kind_of_number_is_refused_with_what_to_write(name: str) -> None:
    assert str(invalid(**{name: Decimal("2.50")})).endswith('not the number 2.50 (write "2.50s" or "2.50ms")')


@pytest.mark.parametrize("name", OURS)
def test_a_huge_int_is_not_shown(name: str) -> None:
    error = invalid(**{name: 10**400})
    assert str(error) == f"{name} must be a string with a unit or a timedelta, not a number such as this"


@pytest.mark.parametrize("name", SPECIFIED)
@pytest.mark.parametrize("value", [0, -1, -(10**30), 2**63 // 1_000_000 + 1, pytest.param(10**400, id="huge")])
def test_milliseconds_out_of_range_are_invalid(name: str, value: int) -> None:
    error = invalid(**{name: value})
    assert not isinstance(error, InvalidTypeError)
    assert str(error).startswith(f"{name} must be above 0")
    assert repr(value)[:30] in str(error)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize(
    "value",
    [
        "0",
        "0s",
        "0.1ns",
        "-1s",
        "-1ns",
        timedelta(0),
        timedelta(seconds=-1),
    ],
)
def test_a_timeout_out_of_range_is_invalid(name: str, value: object) -> None:
    error = invalid(**{name: value})
    assert not isinstance(error, InvalidTypeError)
    assert str(error).startswith(f"{name} must be above 0")
    assert repr(value)[:30] in str(error)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "10 s", " 10s", "10s\n", "\u0661s", "9" * 30 + "h", "2562047h47m16.854775808s"),
        *(
            "10",
            "s",
            "-",
            "+",
            ".s",
            "1.2.3s",
            "5s??5s",
            "1y",
            "1d",
            "1S",
            "None",
            "inf",
            "nan",
            "1e3s",
            "0x1s",
            "--1s",
        ),
    ],
)
def test_a_malformed_timeout_is_invalid(name: str, value: str) -> None:
    error = invalid(**{name: value})
    assert str(error).startswith(f"{name} must be ")
    assert repr(value)[:20] in str(error)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [timedelta.max, timedelta.min, timedelta(days=106752)])
def test_a_timedelta_beyond_what_go_can_express_is_invalid(name: str, value: timedelta) -> None:
    assert str(invalid(**{name: value})) == f"{name} must be within 292 years, not {value!r}"


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [True, False, b"10s", [10], {}, object])
def test_a_timeout_of_another_type_is_invalid(name: str, value: object) -> None:
    error = invalid(**{name: value})
    assert isinstance(error, InvalidTypeError)
    assert str(error).startswith(f'{name} must be a string such as "1m30s" or a timedelta')
    assert repr(value) in str(error)


# Whole numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 16, 10_000])
def test_the_channel_capacity_may_be_1_to_10000(value: int) -> None:
    assert parsed(channel_capacity=value).connection.channel_capacity == value


@pytest.mark.parametrize("value", [0, -1, 10_001, 10**30])
def test_another_channel_capacity_is_invalid(value: int) -> None:
    assert str(invalid(channel_capacity=value)) == f"channel_capacity must be 1 to 10000, not {value}"


@pytest.mark.parametrize(("value", "limit"), [(0, 16 * 1024 * 1024), (1, 1), (134_217_728, 134_217_728)])
def test_the_read_limit_may_be_0_to_134217728_and_0_is_the_default(value: int, limit: int) -> None:
    assert parsed(read_limit=value).connection.read_limit_bytes == limit


@pytest.mark.parametrize("value", [-1, 134_217_729, 10**30])
def test_another_read_limit_is_invalid(value: int) -> None:
    assert str(invalid(read_limit=value)) == f"read_limit must be 0 to 134217728, not {value}"


@pytest.mark.parametrize("value", [*COMPRESSION, 0, 1, 2])
def test_compression_is_one_of_the_constants_or_its_number(value: int) -> None:
    assert parsed(compression=value).connection.compression is COMPRESSION(value)


MODES = "COMPRESSION.DISABLED (0), CONTEXT_TAKEOVER (1) or NO_CONTEXT (2)"


@pytest.mark.parametrize("value", [-1, 3, 10**30])
def test_another_compression_is_invalid(value: int) -> None:
    assert str(invalid(compression=value)) == f"compression must be {MODES}, not {value}"


@pytest.mark.parametrize("value", [0, 1, 128, 104_857_600])
@pytest.mark.parametrize("compression", COMPRESSION)
def test_the_compression_threshold_may_be_0_to_104857600(value: int, compression: websocket.Compression) -> None:
    assert parsed(compression=compression, compression_threshold=value).connection.compression_threshold_bytes == value


@pytest.mark.parametrize("value", [-1, 104_857_601, 10**30])
def test_another_compression_threshold_is_invalid(value: int) -> None:
    assert str(invalid(compression_threshold=value)) == f"compression_threshold must be 0 to 104857600, not {value}"


def test_the_default_compression_threshold_follows_the_compression() -> None:
    assert parsed(compression=COMPRESSION.DISABLED).connection.compression_threshold_bytes == 128
    assert parsed(compression=COMPRESSION.CONTEXT_TAKEOVER).connection.compression_threshold_bytes == 128
    assert parsed(compression=COMPRESSION.NO_CONTEXT).connection.compression_threshold_bytes == 512


@pytest.mark.parametrize("name", ["channel_capacity", "read_limit", "compression", "compression_threshold"])
@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, math.inf, math.nan, [1], b"1"])
def test_a_number_of_another_type_is_invalid(name: str, value: object) -> None:
    error = invalid(**{name: value})
    assert isinstance(error, InvalidTypeError)
    wanted = MODES if name == "compression" else "a whole number"
    assert str(error) == f"{name} must be {wanted}, not {value!r}"


@pytest.mark.parametrize("name", ["read_limit", "channel_capacity", "compression_threshold", "read_timeout"])
def test_a_number_too_large_to_be_printed_is_invalid(name: str) -> None:
    options: dict[str, Any] = {name: 10**5000}
    with pytest.raises(InvalidError):
        websocket.connect("ws://server.test/", **options)
