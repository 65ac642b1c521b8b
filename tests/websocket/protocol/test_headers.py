"""HTTP headers, put together and taken apart."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest

from csp.errors import InvalidTypeError
from trio_csp_websocket.protocol.headers import Headers, joined, parse_headers

if TYPE_CHECKING:
    from types import FrameType


def test_headers_are_found_by_names_in_any_case_and_keep_their_repetitions() -> None:
    headers = parse_headers(b"Via: one\r\nX-Empty: \r\nvia: two\r\nX-Colons: a: b")
    assert headers.get_all("VIA") == ["one", "two"]
    assert list(headers.items()) == [("Via", "one"), ("X-Empty", ""), ("X-Colons", "a: b")]
    assert headers.multi_items() == [("Via", "one"), ("Via", "two"), ("X-Empty", ""), ("X-Colons", "a: b")]
    assert (headers["vIa"], headers.get("x-colons"), headers.get("x-none"), len(headers)) == ("one", "a: b", None, 3)
    assert "VIA" in headers
    assert "x-none" not in headers
    nothing: Any = 5
    assert nothing not in headers
    assert headers.get_all("x-none") == []
    with pytest.raises(KeyError, match="X-None"):
        headers["X-None"]


def test_headers_cannot_be_changed() -> None:
    headers: Any = parse_headers(b"Via: one")
    with pytest.raises(TypeError):
        headers["Via"] = "two"
    with pytest.raises(TypeError):
        del headers["Via"]
    headers.get_all("Via").append("two")
    assert headers.get_all("Via") == ["one"]


def test_headers_are_made_from_a_mapping_too() -> None:
    headers = Headers({"ab": "x", "Server": "y"})
    assert headers.multi_items() == [("ab", "x"), ("Server", "y")]
    twice = Headers([("Via", "one"), ("via", "two")])
    assert Headers(twice) == twice
    assert Headers(iter([("a", "1")]))["A"] == "1"


@pytest.mark.parametrize(
    "fields", [5, "ab", b"ab", ["ab"], [("a",)], [("a", "b", "c")], [("a", 5)], [(5, "a")], {"a": None}, {1: "a"}]
)
def test_what_makes_no_headers_is_refused_and_no_value_is_shown(fields: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"^headers must "):
        Headers(fields)
    with pytest.raises(InvalidTypeError) as caught:
        Headers([("Cookie", b"hunter2")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", [5, None, b"via"])
def test_what_is_no_name_is_not_there(name: Any) -> None:
    headers = Headers({"via": "one"})
    assert name not in headers
    assert headers.get(name) is None
    assert headers.get_all(name) == []
    with pytest.raises(KeyError):
        headers[name]


def test_headers_are_equal_if_their_values_are() -> None:
    headers = Headers([("Via", "one"), ("Age", "1"), ("via", "two")])
    assert headers == Headers([("AGE", "1"), ("VIA", "one"), ("VIA", "two")])
    assert headers != Headers([("Age", "1"), ("Via", "two"), ("Via", "one")])
    assert headers != Headers([("Age", "1"), ("Via", "one")])
    assert headers != {"Via": "one", "Age": "1"}
    with pytest.raises(TypeError):
        hash(headers)


def test_headers_show_their_names_only() -> None:
    assert repr(Headers([("Date", "today"), ("Set-Cookie", "token=hunter2")])) == (
        "<csp.websocket.Headers Date, Set-Cookie>"
    )
    assert repr(Headers()) == "<csp.websocket.Headers without any>"


def test_headers_can_be_copied_and_pickled() -> None:
    headers = Headers([("Via", "one"), ("via", "two")])
    assert pickle.loads(pickle.dumps(headers)) == copy.deepcopy(headers) == headers


def test_an_empty_head_has_no_headers() -> None:
    assert len(parse_headers(b"")) == 0


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
