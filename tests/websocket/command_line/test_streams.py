"""Standard input read as lines, and lines written to descriptors."""

from __future__ import annotations

import os
import select
import sys
from typing import Any

import pytest
import trio

import csp
from tests.websocket.command_line._terminal import Terminal, open_terminal, set_columns
from trio_csp_websocket.command_line.lines import Line
from trio_csp_websocket.command_line.streams import MAX_LINE_BYTES, read_lines, streams


async def lines_of(data: bytes) -> list[str]:
    ours, theirs = os.pipe()
    taken: list[str] = []

    async def take(line: str) -> None:
        taken.append(line)

    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(theirs, view) :]
        os.close(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write)
        try:
            await read_lines(ours, take)
        except csp.errors.InvalidError as error:
            taken.append(str(error))
            while await trio.to_thread.run_sync(os.read, ours, 1 << 20):
                pass
    os.close(ours)
    return taken


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\r\n\nc", ["a", "b", "", "c"]),
        (b"\r\r\n", ["\r"]),
        ("é\n".encode() * 50_000, ["é"] * 50_000),
        (b"x" * 200_000 + b"\ny\n", ["x" * 200_000, "y"]),
        (b"ok\na\xff\nb\n", ["ok", "line 2 is not UTF-8: its byte 2 is 0xff"]),
        (b"ok\n\xff", ["ok", "line 2 is not UTF-8: its byte 1 is 0xff"]),
        (b"\n" + bytes(MAX_LINE_BYTES + 1), ["", f"line 2 is longer than {MAX_LINE_BYTES} bytes"]),
    ],
    ids=["nothing", "ends", "cr", "many", "long", "not-utf-8", "not-utf-8-at-end", "endless"],
)
async def test_lines_are_read_without_their_ends(data: bytes, lines: list[str]) -> None:
    assert await lines_of(data) == lines


LINES = [Line("note", "n"), Line("received", "é" * 100), Line("sent", "s"), Line("error", "e" * 100)]


async def test_messages_go_to_one_descriptor_and_the_rest_to_another() -> None:
    out, err = os.pipe(), os.pipe()
    await streams(out=out[1], err=err[1])(LINES)
    assert (os.read(out[0], 999).decode(), os.read(err[0], 999).decode()) == (
        f"{'é' * 100}\n",
        f"n\ns\n{'e' * 100}\n",
    )
    for fd in (*out, *err):
        os.close(fd)


@pytest.mark.parametrize("columns", [0, 30])
@pytest.mark.parametrize("which", ["out", "err", "both"])
async def test_on_a_terminal_lines_are_marked_and_stay_inside_it(columns: int, which: str) -> None:
    out, err = os.pipe(), os.pipe()
    ours, theirs = open_terminal()
    set_columns(theirs, columns)
    fds = {"out": out[1], "err": err[1]} | ({"out": theirs} if which == "both" else {which: theirs})
    await streams(out=fds["out"], err=fds["err"], interactive=which == "both")(LINES)
    room = (columns or 80) - 3
    rows = {
        mark: mark + "\r\n  ".join(letter * min(room, 100 - start) for start in range(0, 100, room))
        for mark, letter in (("< ", "é"), ("! ", "e"))
    }
    expected = {"out": [rows["< "]], "err": ["- n", "> s", rows["! "]], "both": ["- n", rows["< "], rows["! "]]}
    terminal, text = Terminal(ours), "".join(f"{row}\r\n" for row in expected[which])
    terminal.wait_for(text)  # a terminal may hand it on in parts
    assert terminal.shown == text
    for fd in (*out, *err, ours, theirs):
        os.close(fd)


async def test_descriptors_left_non_blocking_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("pipes are never non-blocking here")
    ours, theirs = os.pipe()
    for fd in (ours, theirs):
        os.set_blocking(fd, False)
    taken: list[str] = []
    read = bytearray()
    wait = select.select

    def wait_to_read(*fds: Any) -> object:
        os.write(theirs, b"a\n")
        os.close(theirs)
        return wait(*fds)

    def wait_to_write(*fds: Any) -> object:
        read.extend(os.read(ours, 1 << 20))
        return wait(*fds)

    async def take(line: str) -> None:
        taken.append(line)

    monkeypatch.setattr(select, "select", wait_to_write)
    await streams(out=theirs)([Line("received", "x" * 300_000)])
    assert len(read + os.read(ours, 1 << 20)) == 300_001
    monkeypatch.setattr(select, "select", wait_to_read)
    await read_lines(ours, take)
    assert taken == ["a"]
    os.close(ours)
