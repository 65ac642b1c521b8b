"""What a server answers, without I/O: h11 reads it as it was meant."""

from __future__ import annotations

import email.utils
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
import pytest

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.protocol.answer import (
    HANDSHAKE_FIELDS,
    Answer,
    acceptance,
    checked_acceptance_fields,
    checked_answer,
    checked_fields,
    checked_status,
    encoded_answer,
    text_answer,
)
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.headers import Headers
from trio_csp_websocket.protocol.response import ResponseReader

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: server.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "
    + KEY
    + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def read(written: bytes, method: str = "GET") -> tuple[int, bytes, Headers, bytes]:
    """Return status, reason, headers and body of an answer as h11 finds them; the connection ends with it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "server.test")]))
    client.send(h11.EndOfMessage())
    client.receive_data(written)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    assert client.their_state is h11.MUST_CLOSE
    headers = Headers((name.decode(), value.decode("latin-1")) for name, value in response.headers.raw_items())
    return response.status_code, bytes(response.reason), headers, body


# The 101 --------------------------------------------------------------------------------------------------------------


def test_the_answer_of_the_rfc() -> None:
    assert acceptance(KEY, "chat", None, ()) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )


def test_the_client_takes_an_acceptance_as_it_was_meant() -> None:
    client = ResponseReader(["v1", "v2"], Compression.CONTEXT_TAKEOVER)
    client.request_sent(REQUEST)
    fields = checked_acceptance_fields([("X-A", "1"), ("Set-Cookie", "a"), ("Set-Cookie", "b")])
    read_as = client.feed(acceptance(KEY, "v2", "permessage-deflate; server_max_window_bits=10", fields) + b"\x81\0")
    assert read_as is not None
    head, rest = read_as
    assert b"Sec-WebSocket-Protocol: v2\r\n" in head
    assert rest == b"\x81\0"
    assert client.deflate is not None
    assert client.deflate.peer_max_window_bits == 10
    assert client.headers.get_all("set-cookie") == ["a", "b"]
    assert client.headers["x-a"] == "1"


def test_an_acceptance_has_no_more_than_it_needs() -> None:
    client = ResponseReader((), Compression.DISABLED)
    client.request_sent(REQUEST)
    assert client.feed(acceptance(KEY, None, None, ())) is not None
    assert list(client.headers) == ["Upgrade", "Connection", "Sec-WebSocket-Accept"]


@pytest.mark.parametrize("name", [*HANDSHAKE_FIELDS, "UPGRADE", "sec-websocket-accept"])
def test_headers_of_the_handshake_are_its_own(name: str) -> None:
    with pytest.raises(InvalidError) as caught:
        checked_acceptance_fields({"X-A": "1", name: "s3cret"})
    assert str(caught.value) == f"headers must not contain {name!r}: it belongs to the handshake"


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_an_acceptance_has_no_body(name: str) -> None:
    with pytest.raises(InvalidError) as caught:
        checked_acceptance_fields({name: "0"})
    assert str(caught.value) == "headers must not contain 'Content-Length' or 'Transfer-Encoding': there is no body"


# Other answers --------------------------------------------------------------------------------------------------------


def test_an_answer_says_how_long_it_is_when_it_was_made_and_that_it_is_the_last() -> None:
    before = int(time.time())
    status, reason, headers, body = read(encoded_answer(404, [(b"X-A", b"1"), (b"x-a", b"\xe9")], b"no\n"))
    assert (status, reason, body) == (404, b"Not Found", b"no\n")
    assert headers.get_all("x-a") == ["1", "\xe9"]
    assert (headers["content-length"], headers["connection"]) == ("3", "close")
    assert before <= email.utils.parsedate_to_datetime(headers["date"]).timestamp() <= time.time()
    assert headers["date"].endswith(" GMT")


def test_a_date_is_made_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    original = email.utils.formatdate

    def formatdate(seconds: float, *, usegmt: bool) -> str:
        made.append(seconds)
        return original(seconds, usegmt=usegmt)

    times = [784111777.0, 784111777.9, 784111778.0]
    monkeypatch.setattr(email.utils, "formatdate", formatdate)
    monkeypatch.setattr(time, "time", iter(times).__next__)
    dates = [read(encoded_answer(200, [], b""))[2]["date"] for _ in times]
    assert dates == ["Sun, 06 Nov 1994 08:49:37 GMT"] * 2 + ["Sun, 06 Nov 1994 08:49:38 GMT"]
    assert made == [784111777, 784111778]


@pytest.mark.parametrize("name", [b"Date", b"date"])
def test_a_date_that_was_given_stays(name: bytes) -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert read(encoded_answer(200, [(name, date.encode())], b""))[2].get_all("date") == [date]


@pytest.mark.parametrize("status", [200, 404, 418, 431, 500, 503, 505, 511])
def test_the_reason_is_that_of_the_status(status: int) -> None:
    assert read(encoded_answer(status, [], b""))[:2] == (status, HTTPStatus(status).phrase.encode())


def test_an_unknown_status_has_an_empty_reason() -> None:
    written = encoded_answer(599, [], b"")
    assert written.startswith(b"HTTP/1.1 599 \r\n")
    assert read(written)[:2] == (599, b"")


@pytest.mark.parametrize(("status", "lengths"), [(200, ["0"]), (205, ["0"]), (204, []), (304, [])])
def test_statuses_that_have_no_length(status: int, lengths: list[str]) -> None:
    _, _, headers, body = read(encoded_answer(status, [], b""))
    assert headers.get_all("content-length") == lengths
    assert body == b""


def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    given = checked_answer(200, {"Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, "h\xe9")
    assert given.encoded(head_only=True) + b"h\xc3\xa9" == given.encoded()
    _, _, headers, body = read(given.encoded(head_only=True), "HEAD")
    assert (headers["content-length"], body) == ("3", b"")


def test_an_upgrade_header_comes_with_its_option() -> None:
    assert read(encoded_answer(426, [(b"Upgrade", b"websocket")], b""))[2]["connection"] == "close, Upgrade"


def test_a_text_is_a_line_in_utf_8() -> None:
    status, _, headers, body = read(text_answer(405, "h\xe9", [("Allow", "GET")]))
    assert (status, body) == (405, b"h\xc3\xa9\n")
    assert (headers["content-type"], headers["allow"]) == ("text/plain; charset=utf-8", "GET")
    assert headers["content-length"] == "4"
    _, _, headers, body = read(text_answer(503, "busy", head_only=True), "HEAD")
    assert (headers["content-length"], body) == ("5", b"")


# What users give ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 599, HTTPStatus.NOT_FOUND])
def test_statuses_that_there_may_be(status: int) -> None:
    checked = checked_status(status)
    assert checked == status
    assert type(checked) is int


@pytest.mark.parametrize("status", [0, 100, 101, HTTPStatus.CONTINUE, 199, 600, 999, -404])
def test_statuses_that_there_must_not_be(status: int) -> None:
    with pytest.raises(InvalidError) as caught:
        checked_status(status)
    assert str(caught.value) == f"status must be 200 to 599, not {int(status)}"
    with pytest.raises(InvalidError) as caught:
        checked_answer(status, None, b"")
    assert str(caught.value) == f"status must be 200 to 599, not {int(status)}"


@pytest.mark.parametrize("status", [None, True, "404", 404.0])
def test_a_status_is_an_int(status: object) -> None:
    with pytest.raises(InvalidTypeError) as caught:
        checked_answer(status, None, b"")
    assert str(caught.value) == f"status must be an int, not {status!r}"


@pytest.mark.parametrize(
    "headers", [{"X-A": " 1 ", "x-b": ""}, [("X-A", "1"), ("x-b", "")], Headers({"X-A": "1", "x-b": ""})]
)
def test_headers_are_a_mapping_or_pairs(headers: Any) -> None:
    assert checked_fields(headers, own=()) == [(b"X-A", b"1"), (b"x-b", b"")]
    assert checked_answer(200, headers, b"").fields == [(b"X-A", b"1"), (b"x-b", b"")]


def test_no_headers() -> None:
    assert checked_fields(None, own=("Upgrade",)) == []
    assert checked_acceptance_fields(None) == []


def test_names_that_are_not_its_own_are_refused_in_any_case() -> None:
    with pytest.raises(InvalidError, match="'x-B'"):
        checked_fields({"x-B": "1"}, own=("X-b",))
    with pytest.raises(InvalidTypeError):
        checked_fields(5, own=())  # type: ignore[arg-type]


def test_an_answer_is_written_as_it_was_given() -> None:
    given = checked_answer(HTTPStatus.FORBIDDEN, [("X-A", "1"), ("Content-Length", "2")], bytearray(b"no"))
    assert given == Answer(403, [(b"X-A", b"1"), (b"Content-Length", b"2")], b"no")
    assert (type(given.status), type(given.body)) == (int, bytes)
    status, _, headers, body = read(given.encoded())
    assert (status, body, headers.get_all("content-length")) == (403, b"no", ["2"])


@pytest.mark.parametrize(
    ("body", "headers", "types"),
    [
        ("h\xe9", None, ["text/plain; charset=utf-8"]),
        ("", None, ["text/plain; charset=utf-8"]),
        ("<p>", {"content-TYPE": "text/html"}, ["text/html"]),
        (b"h", None, []),
        (memoryview(b"h"), None, []),
    ],
)
def test_text_has_a_type_unless_there_is_one(body: str | bytes, headers: Any, types: list[str]) -> None:
    _, _, found, sent = read(checked_answer(200, headers, body).encoded())
    assert found.get_all("content-type") == types
    assert sent == (body.encode() if isinstance(body, str) else bytes(body))


@pytest.mark.parametrize("status", [204, 205, 304])
def test_statuses_that_have_no_body(status: int) -> None:
    assert read(checked_answer(status, None, b"").encoded())[0] == status
    with pytest.raises(InvalidError) as caught:
        checked_answer(status, None, "no")
    assert str(caught.value) == f"body must be empty with status {status}"


LENGTH = "headers must contain Content-Length once, as 2: that is how long the body is"
CODING = "headers must not contain 'Transfer-Encoding': the body goes as it is"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([("Content-Length", "3")], LENGTH),
        ([("Content-Length", "2"), ("content-length", "2")], LENGTH),
        ([("Content-Length", "+2")], LENGTH),
        ([("Content-Length", "")], LENGTH),
        ([("Transfer-Encoding", "chunked")], CODING),
        ([("transfer-encoding", "identity"), ("Content-Length", "2")], CODING),
        ([("connection", "keep-alive")], "headers must not contain 'Connection': the answer ends the connection"),
        ([("Connection", "close")], "headers must not contain 'Connection': the answer ends the connection"),
        ([("X\r\nY", "1")], "headers must have names without spaces and separators, not 'X' and more"),
        ([("X", "1\r\nY: s3cret")], "headers must not contain control characters such as line breaks, as 'X' does"),
        ([("X", "\u20ac")], "headers must have values in Latin-1, unlike that of 'X'"),
    ],
)
def test_headers_that_would_make_another_answer_of_it(headers: Iterable[tuple[str, str]], text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        checked_answer(404, headers, b"no")
    assert str(caught.value) == text


def test_no_content_has_no_length() -> None:
    with pytest.raises(InvalidError) as caught:
        checked_answer(204, {"Content-Length": "0"}, b"")
    assert str(caught.value) == "headers must not contain 'Content-Length' with status 204"
    assert checked_answer(304, {"Content-Length": "0"}, b"").fields == [(b"Content-Length", b"0")]


def test_a_body_is_text_or_bytes() -> None:
    with pytest.raises(InvalidTypeError) as wrong:
        checked_answer(404, None, 5)  # type: ignore[arg-type]
    assert str(wrong.value) == "body must be a str or bytes-like, not int"
    with pytest.raises(InvalidError, match="body cannot be encoded as UTF-8"):
        checked_answer(404, None, "\ud800")
