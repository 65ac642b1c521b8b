"""How lines are written: for a terminal, for a program, as JSON."""

from __future__ import annotations

import json

import pytest

from csp import websocket
from tests.websocket.command_line._terminal import rows_on_screen
from trio_csp_websocket.command_line.format import Format
from trio_csp_websocket.command_line.lines import escaped, on_screen


def test_a_terminal_gets_no_control_characters() -> None:
    form = Format(json=False, terminal=True)
    every = "".join(map(chr, range(0x300))) + "\u202e\u2066\u2028"
    shown = form.message(websocket.Message("text", every)).text
    assert [character for character in shown if not character.isprintable() and character not in "\t\n\u00a0"] == []
    assert form.message(websocket.Message("text", "one\r\n- two\rthree")).text == "one\n- two\nthree"
    assert escaped("Grüße 世界 👩🚀\u3000\u202f\ta\nb") == "Grüße 世界 👩🚀\u3000\u202f\ta\\u000ab"
    assert escaped("👩\u200d🚀 pass\u200bword \u2764\ufe0f") == "👩\\u200d🚀 pass\\u200bword \u2764\\ufe0f"
    shown = Format(json=True, terminal=True).message(websocket.Message("text", every)).text
    assert json.loads(shown)["data"] == every
    assert "\x7f" not in shown
    assert "\x9b" not in shown


@pytest.mark.parametrize("columns", [11, 20, 80])
@pytest.mark.parametrize("unit", ["x", "- closed ", "é", "世", "👩", "a\u0301", "\t", "x\ty世\u3000", "\ud83d"])
@pytest.mark.parametrize("breaks", ["", "\n"])
def test_only_a_mark_begins_at_the_left_of_a_screen(columns: int, unit: str, breaks: str) -> None:
    text = (unit * 100 + breaks) * 3
    shown = on_screen("< ", "\n".join(map(escaped, text.split("\n"))), columns)
    first, *more = rows_on_screen(shown.replace("\n", "\r\n"), columns)
    assert first.startswith("< ")
    assert len(more) > 2
    assert all(row.startswith("  ") for row in more)
    assert "".join(row[2:] for row in (first, *more)) == escaped(text.replace("\n", ""))


def test_lines_are_broken_at_spaces_where_there_are_some() -> None:
    assert on_screen("! ", "one two three", 11) == "! one two \n  three"
    assert on_screen("! ", "onetwo3four five", 11) == "! onetwo3f\n  our five"
    assert on_screen("", "a long name: one", 11) == "a long \n  name: \n  one"
    assert on_screen("< ", "", 80) == "< "


def test_a_program_gets_a_line_a_message() -> None:
    form = Format(json=False, terminal=False)
    assert form.message(websocket.Message("text", '{"a":\r\n1,\n"b":2}\x1b')).text == '{"a": 1, "b":2}\x1b'
    assert form.message(websocket.Message("binary", b"\0\n\xff")).text == "000aff"


def test_a_terminal_gets_a_preview_of_binary_messages() -> None:
    form = Format(json=False, terminal=True)
    assert form.message(websocket.Message("binary", b"hello\0")).text == "binary, 6 bytes: 68656c6c 6f00  |hello.|"
    assert form.message(websocket.Message("binary", bytes(100))).text == (
        "binary, 100 bytes: 00000000 00000000 00000000 00000000...  |................|..."
    )
