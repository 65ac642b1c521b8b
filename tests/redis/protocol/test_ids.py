from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_redis.protocol.ids import FIRST, id_of, parse_id, written

PARTS = st.integers(0, 2**64 - 1)


@given(st.tuples(PARTS, PARTS), st.tuples(PARTS, PARTS))
def test_ids_are_written_and_read_and_keep_their_order(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert id_of(written(one)) == one
    assert parse_id("since", written(one).decode()) == one
    assert (id_of(written(one)) < id_of(written(other))) is (one < other)
    assert one >= FIRST


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "1-2-3", "a-b", "+1-0", "1-0 ", "\u0661-0", "\ud800-0", "1-18446744073709551616", "$"]
)
def test_what_is_no_id_is_invalid(text: str) -> None:
    with pytest.raises(
        InvalidError, match=r"^since must be 'now', 'start' or an entry's id such as '1733030400000-0', not "
    ):
        parse_id("since", text)


def test_an_id_is_a_string_and_a_long_text_is_not_shown_in_full() -> None:
    with pytest.raises(InvalidTypeError, match=r"^since must be a string, not bytes$"):
        parse_id("since", b"1-0")
    with pytest.raises(InvalidError) as caught:
        parse_id("since", "9" * 100_000)
    assert len(str(caught.value)) < 200
