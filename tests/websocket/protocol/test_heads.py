"""Where heads end, however they are cut into blocks, and how large they may be."""

from __future__ import annotations

import pytest

from trio_csp_websocket.protocol.heads import MAX_HEAD_BYTES, MAX_HEADER_LINES, Heads, NoAnswerError

STATUS = b"HTTP/1.1 404 Not Found\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def found(*blocks: bytes) -> tuple[list[bytes], bytes]:
    """Feed blocks up to the answer that is not informational; return the heads, and what is left behind them."""
    heads = Heads()
    taken: list[bytes] = []
    for block in blocks:
        heads.feed(block)
        while not (taken and taken[-1].startswith(STATUS)) and (head := heads.next()) is not None:
            taken.append(head)
    return taken, heads.rest()


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def refusal(*blocks: bytes) -> str:
    with pytest.raises(NoAnswerError) as caught:
        found(*blocks)
    return str(caught.value)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_head_ends_at_a_blank_line_wherever_it_is_cut(end: bytes, size: int) -> None:
    first, second = b"HTTP/1.1 100 Continue" + end, b"HTTP/1.1 404 No\r\nX: 1" + end
    heads = Heads()
    taken: list[bytes] = []
    for block in pieces(first + second, size):
        heads.feed(block)
        while (head := heads.next()) is not None:
            taken.append(head)
    assert taken == [first, second]
    assert heads.rest() == b""


def test_what_is_behind_the_last_head_is_left() -> None:
    heads = Heads()
    heads.feed(CONTINUE + b"\x81\x02hi")
    assert heads.next() == CONTINUE
    assert heads.rest() == b"\x81\x02hi"
    assert heads.rest() == b""


@pytest.mark.parametrize("before", [b"", CONTINUE])
@pytest.mark.parametrize("said", [b"\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0", b"http/1.1 200 OK\r\n", b"HTTQ"])
def test_what_does_not_begin_as_an_answer_is_refused_at_once(said: bytes, before: bytes) -> None:
    said_back = f"the server did not answer in HTTP: it began with {said[:16]!r}"
    assert refusal(before + said) == said_back
    assert refusal(*pieces(before + said, 1)).startswith("the server did not answer in HTTP: it began with ")


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_head_may_have_a_hundred_lines_of_headers(size: int) -> None:
    lines = [b"X-%d: x\r\n" % number for number in range(MAX_HEADER_LINES)]
    answer = STATUS + b"".join(lines) + b"\r\n"
    assert found(*pieces(answer, size)) == ([answer], b"")
    more = STATUS + b"".join(lines) + b"X: 1\r\n\r\n"
    assert refusal(*pieces(more, size)) == "the head of the server's answer has more than 100 lines of headers"


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_folded_header_has_as_many_lines_as_it_takes(size: int) -> None:
    folded = STATUS + b"X: 1\r\n" + b" 2\r\n" * (MAX_HEADER_LINES - 1)
    assert found(*pieces(folded + b"\r\n", size)) == ([folded + b"\r\n"], b"")
    assert "more than 100 lines" in refusal(*pieces(folded + b" 2\r\n\r\n", size))


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_the_lines_of_informational_answers_count(size: int) -> None:
    answer = STATUS + b"X: 1\r\n" * 60 + b"\r\n"
    assert len(found(*pieces(CONTINUE * 40 + answer, size))[0]) == 41
    assert "more than 100 lines" in refusal(*pieces(CONTINUE * 41 + answer, size))


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_the_bytes_of_all_heads_are_limited(size: int) -> None:
    room = MAX_HEAD_BYTES - len(CONTINUE + STATUS + b"X: \r\n\r\n")
    answer = CONTINUE + STATUS + b"X: " + b"x" * room + b"\r\n\r\n"
    assert len(found(*pieces(answer + b"a body", size))[0]) == 2
    too_large = answer.replace(b"X: ", b"X: x")
    assert refusal(*pieces(too_large, size)) == "the head of the server's answer is larger than 65536 bytes"
    assert "larger than 65536 bytes" in refusal(*pieces(STATUS + b"x" * MAX_HEAD_BYTES, size))


@pytest.mark.parametrize("byte", [b"\0", b"\x0b", b"\x0c", b"\r"])
def test_a_byte_that_no_head_may_have_is_refused(byte: bytes) -> None:
    text = f"the server did not answer in HTTP: its head contains the byte {byte!r}"
    assert refusal(STATUS + b"X: a" + byte + b"b\r\n\r\n") == text
    assert refusal(STATUS + b"X: a" + byte + b"\r\n\r\n") == text


def test_behind_a_head_any_byte_may_stand() -> None:
    heads = Heads()
    heads.feed(STATUS + b"\r\n\0\x0b\r")
    assert heads.next() == STATUS + b"\r\n"
    assert heads.rest() == b"\0\x0b\r"
