"""HTTP headers, put together and taken apart."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trio_csp_websocket.protocol.headers import joined, parse_headers

if TYPE_CHECKING:
    from types import FrameType


def test_headers_are_found_by_names_in_any_case_and_keep_their_repetitions() -> None:
    headers = parse_headers(b"Via: one\r\nX-Empty: \r\nvia: two\r\nX-Colons: a: b")
    assert headers.get_all("VIA") == ["one", "two"]
    assert headers.items() == [("Via", "one"), ("X-Empty", ""), ("via", "two"), ("X-Colons", "a: b")]


def test_any_byte_of_a_value_is_kept() -> None:
    assert parse_headers(b"X-Name: gr\xfcn")["x-name"] == "gr\u00fcn"


def test_joined_headers_are_sorted_by_their_names_in_lower_case() -> None:
    headers = parse_headers(b"Via: one\r\nAge: 1\r\nvia: two\r\nVIA: ")
    assert list(joined(headers).items()) == [("age", "1"), ("via", "one, two, ")]


def test_the_work_of_joining_grows_with_the_number_of_headers() -> None:
    # A server may send thousands, each with a name of its own.
    def calls(count: int) -> int:
        headers = parse_headers(b"\r\n".join(b"X-%d: 1" % number for number in range(count)))
        counted = 0

        def count_call(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal counted
            counted += event.endswith("call")

        before = sys.getprofile()
        sys.setprofile(count_call)
        try:
            joined(headers)
        finally:
            sys.setprofile(before)
        return counted

    assert calls(2000) <= 3 * calls(1000)
