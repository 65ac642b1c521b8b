"""How lines are written: for a terminal, for a program, as JSON."""

from __future__ import annotations

import json

from csp import websocket
from trio_csp_websocket.command_line.lines import Format, escaped


def test_a_terminal_gets_no_control_characters() -> None:
    form = Format(json=False, terminal=True)
    every = "".join(map(chr, range(0x300))) + "\u202e\u2066\u2028"
    shown = form.message(websocket.Message("text", every)).text
    assert [
        character for character in shown if not character.isprintable() and character not in "\t\n\u00ad\u00a0"
    ] == []
    assert form.message(websocket.Message("text", "one\r\n- two\rthree")).text == "one\n  - two\n  three"
    assert escaped("Grüße 世界 👩\u200d🚀\ta\nb") == "Grüße 世界 👩\u200d🚀\ta\\u000ab"
    shown = Format(json=True, terminal=True).message(websocket.Message("text", every)).text
    assert json.loads(shown)["data"] == every
    assert "\x7f" not in shown
    assert "\x9b" not in shown


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
