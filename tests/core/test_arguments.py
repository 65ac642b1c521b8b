"""The check of whole numbers: what is refused, and what is said; more with the functions that make it."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest

from csp._core.arguments import check_count
from csp.errors import InvalidError, InvalidTypeError


@pytest.mark.parametrize("number", [1, 2, 10**100])
def test_a_whole_number_of_at_least_one_will_do(number: int) -> None:
    check_count(number, "size")


@pytest.mark.parametrize("number", [0, -1])
def test_one_that_is_too_small_is_told_with_the_bound(number: int) -> None:
    with pytest.raises(InvalidError, match=f"^size must be at least 1, not {number}$") as caught:
        check_count(number, "size")
    assert not isinstance(caught.value, InvalidTypeError)


@pytest.mark.parametrize("number", [True, False, 1.0, math.inf, math.nan, Fraction(1), "1", None])
def test_anything_else_is_of_the_wrong_type_a_bool_too(number: object) -> None:
    with pytest.raises(InvalidTypeError, match=re.escape(f"size must be a whole number, not {number!r}")):
        check_count(number, "size")


def test_the_bound_and_what_was_expected_can_be_others() -> None:
    check_count(0, "capacity", least=0)
    with pytest.raises(InvalidError, match=r"^capacity must be at least 0, not -1$"):
        check_count(-1, "capacity", least=0)
    with pytest.raises(InvalidTypeError, match=r"^capacity must be an int or math\.inf, not 0\.5$"):
        check_count(0.5, "capacity", expected="an int or math.inf")
