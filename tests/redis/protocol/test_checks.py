from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_redis.protocol.checks import parse_seconds, parse_text, parse_whole_number


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("1ns", 1e-9), ("1m30s", 90.0), (timedelta(milliseconds=5), 0.005), ("8784h", 31_622_400.0)],
)
def test_durations_are_seconds(duration: Any, seconds: float) -> None:
    assert parse_seconds("lease", duration) == pytest.approx(seconds)


def test_a_duration_may_have_a_least_one() -> None:
    assert parse_seconds("lease", "100ms", least=0.1) == 0.1
    with pytest.raises(InvalidError, match=r"^lease must be at least 0.1 s and at most a year, not '99ms'$"):
        parse_seconds("lease", "99ms", least=0.1)
    with pytest.raises(InvalidError, match=r"^lease must be above 0 and at most a year, not '0s'$"):
        parse_seconds("lease", "0s")


def test_whole_numbers_have_bounds() -> None:
    assert [parse_whole_number("n", number, 1, 3) for number in (1, 3)] == [1, 3]
    for number in (0, 4):
        with pytest.raises(InvalidError, match=f"^n must be 1 to 3, not {number}$"):
            parse_whole_number("n", number, 1, 3)
    for other in (1.0, True, "1", None):
        with pytest.raises(InvalidTypeError, match=r"^n must be a whole number, not "):
            parse_whole_number("n", other, 1, 3)


def test_texts_have_bounds_and_can_be_written() -> None:
    assert parse_text("key", "\U0001f600" * 3, 3) == "\U0001f600" * 3
    for text in ("", "abcd"):
        with pytest.raises(InvalidError, match=f"^key must have 1 to 3 characters, not {len(text)}$"):
            parse_text("key", text, 3)
    assert parse_text("key", "", 3, least=0) == ""
    with pytest.raises(InvalidError, match="it has a surrogate"):
        parse_text("key", "\udcff", 3)
    with pytest.raises(InvalidTypeError, match=r"^key must be a string, not bytes$"):
        parse_text("key", b"a", 3)
