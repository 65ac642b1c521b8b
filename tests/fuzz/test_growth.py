"""Work that grows faster than what a peer sends: none is found, and what would be one is.

``python -m tests.fuzz.growth`` looks for longer, and at what compiled code does.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests._steps import steps
from tests.fuzz._growth import TARGETS, TOO_MANY_STEPS, Input, Target, chosen, grows_too_fast, suspect

INPUTS = 12
# To be repeated eight times as often.
SMALLEST_BYTES = 150


@pytest.mark.parametrize("name", TARGETS)
def test_work_grows_with_the_input(name: str) -> None:
    chance = random.Random(name)
    # Those of a whole connection take longest.
    for _ in range(3 if name == "connections" else INPUTS):
        tried = chosen(TARGETS[name], chance)
        assert not suspect(TARGETS[name], tried, SMALLEST_BYTES, steps, TOO_MANY_STEPS), tried


# What the driver once did ---------------------------------------------------------------------------------------------


def join_by_looking_at_all(blocks: list[bytes]) -> None:
    names = [line.partition(b":")[0] for line in b"".join(blocks).split(b"\r\n")]
    _ = {name: [other for other in names if other == name] for name in names}


def look_for_pongs(blocks: list[bytes]) -> None:
    pongs = b"".join(blocks).split(b";")
    unanswered = [b"%d" % number for number in range(len(pongs))]
    for pong in pongs:
        if all(ping != pong for ping in unanswered):
            continue


@pytest.mark.parametrize(("run", "unit"), [(join_by_looking_at_all, b"#:\r\n"), (look_for_pongs, b"none;")])
def test_what_was_quadratic_would_be_found(run: object, unit: bytes) -> None:
    assert callable(run)
    target = Target(run, (b"",), (unit,), (b"",))
    assert suspect(target, Input(b"", unit, b"", 1 << 30), SMALLEST_BYTES, steps, TOO_MANY_STEPS)


@pytest.mark.parametrize(("name", "unit"), [("headers", b"#: x\r\n"), ("connections", b"\x8a\x00")])
def test_what_was_found_once_is_no_longer_there(name: str, unit: bytes) -> None:
    assert not suspect(TARGETS[name], Input(b"", unit, b"", 1 << 30), 200, steps, TOO_MANY_STEPS)


@pytest.mark.parametrize(
    ("costs", "too_fast"),
    [
        ((1, 2, 4, 8), False),
        ((10, 11, 13, 17), False),
        ((1, 4, 16, 64), True),
        ((100, 103, 300, 900), True),
        # From a size on, more is done.
        ((1, 2, 4, 800), False),
        ((1, 2, 400, 800), False),
        ((1, 200, 400, 800), False),
    ],
)
def test_twice_in_a_row_is_too_fast(costs: tuple[float, ...], too_fast: bool) -> None:
    assert grows_too_fast(lambda length: costs[(1, 2, 4, 8).index(length)], 2.2) is too_fast


def test_the_command_tells_what_it_tried() -> None:
    command = [sys.executable, "-m", "tests.fuzz.growth", "--target", "negotiation", "--seconds", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (ended.returncode, ended.stdout.splitlines()[-1], ended.stderr) == (0, "0 found", "")
