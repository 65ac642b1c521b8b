"""The guard in `benchmarks.counts`: its meters count right, and what has become dearer fails.

Run as a program, this prints what the meters count here: they belong in a process of their own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import trio

import csp

pytest.importorskip("benchmarks", reason="the benchmarks are in the checkout only")

from benchmarks import counts
from benchmarks.counts import Change, Committed
from benchmarks.meters.counters import Allocations, Instructions, Passes, SystemCalls, TaskSteps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.meters.counters import Counter

CHECKOUT = Path(__file__).parent.parent


# What is counted in a child -----------------------------------------------------------------------------------------


class Small:
    __slots__ = ()


async def loop(operations: int) -> None:
    for _ in range(operations):
        pass


async def make_three_objects(operations: int) -> None:
    for _ in range(operations):
        Small()
        Small()
        bytes(5000)


async def checkpoint(operations: int) -> None:
    for _ in range(operations):
        await trio.lowlevel.checkpoint()


async def checkpoint_in_two_tasks(operations: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checkpoint, operations)
        nursery.start_soon(checkpoint, operations)


async def send_and_receive(operations: int) -> None:
    here, there = socket.socketpair()
    with here, there:
        for _ in range(operations):
            here.send(b"a")
            here.fileno()
            there.recv(1)


def count(meter: type[Counter], side: Callable[[int], Awaitable[None]]) -> float:
    """Return what a meter counts an operation, having checked that it can; NaN if it cannot."""
    if meter.obstacle() is not None:
        return float("nan")

    async def run(operations: int) -> int:
        with meter() as counter:
            await side(operations)
        return counter.count

    few = trio.run(run, 1000)
    return (trio.run(run, 2000) - few) / 1000


def figures() -> dict[str, Any]:
    row = counts.Row(counts.ROWS["1 to 1, unbuffered"].side, 256)
    receive = csp.Channel[None].receive

    async def receive_wastefully(channel: csp.Channel[None]) -> csp.Received[None]:
        await trio.lowlevel.checkpoint()
        return await receive(channel)

    plain = counts.count_row(row)
    again = counts.count_row(row)
    with mock.patch.object(csp.Channel, "receive", receive_wastefully):
        wasteful = counts.count_row(row)
    return {
        "task steps": count(TaskSteps, checkpoint_in_two_tasks),
        "passes": count(Passes, checkpoint_in_two_tasks),
        "allocations": count(Allocations, make_three_objects) - count(Allocations, loop),
        "instructions": count(Instructions, loop),
        "system calls": count(SystemCalls, send_and_receive),
        "plain": plain,
        "again": again,
        "wasteful": wasteful,
    }


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    paths = [str(CHECKOUT), str(CHECKOUT / "drivers"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONHASHSEED": "0"}
    child = subprocess.run([sys.executable, __file__], env=environment, stdout=subprocess.PIPE, check=True)
    printed: dict[str, Any] = json.loads(child.stdout)
    return printed


def skip_if_uncountable(meter: type[Counter]) -> None:
    obstacle = meter.obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)


def test_every_step_of_every_task_counts(counted: dict[str, Any]) -> None:
    assert counted["task steps"] == pytest.approx(2, abs=0.005)


def test_tasks_that_can_run_share_a_pass(counted: dict[str, Any]) -> None:
    assert counted["passes"] == pytest.approx(1, abs=0.005)


def test_small_and_large_objects_count_although_they_are_freed(counted: dict[str, Any]) -> None:
    skip_if_uncountable(Allocations)
    assert counted["allocations"] == 3


def test_an_empty_loop_is_three_instructions(counted: dict[str, Any]) -> None:
    skip_if_uncountable(Instructions)
    assert counted["instructions"] == 3  # the next number, to keep it, to jump back


def test_only_what_enters_the_system_is_a_system_call(counted: dict[str, Any]) -> None:
    skip_if_uncountable(SystemCalls)
    assert counted["system calls"] == 2


def test_the_same_code_counts_the_same(counted: dict[str, Any]) -> None:
    assert Committed({"row": counted["plain"]}).changes({"row": counted["again"]}) == []


def test_a_channel_that_visits_the_scheduler_needlessly_is_found(counted: dict[str, Any]) -> None:
    changes = Committed({"row": counted["plain"]}).changes({"row": counted["wasteful"]})
    assert all(change.is_growth for change in changes)
    assert {change.figure for change in changes} == counted["plain"].keys()


# Comparing ----------------------------------------------------------------------------------------------------------

FIGURES = {"task steps": 1.0, "passes": 1.0, "allocations": 20.0, "instructions": 500.0, "system calls": 2.0}


def compare(**now: float) -> list[Change]:
    return Committed({"row": FIGURES}).changes({"row": FIGURES | now})


def test_what_rounding_and_an_interpreter_may_change_is_no_growth() -> None:
    assert compare(allocations=20.02, instructions=510.0, passes=1.005) == []


def test_more_is_growth() -> None:
    assert compare(allocations=20.03, instructions=510.1) == [
        Change("row", "allocations", 20.0, 20.03),
        Change("row", "instructions", 500.0, 510.1),
    ]


def test_growth_fails_with_a_line_that_says_what_grew_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert counts.report(Committed({"row": FIGURES}), {"row": FIGURES | {"passes": 1.25}}) == 1
    line = "row: passes grew from 1 to 1.25; if that is wanted: python -m benchmarks.counts --update"
    assert line in capsys.readouterr().out.splitlines()


def test_a_figure_that_shrank_passes_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert counts.report(Committed({"row": FIGURES}), {"row": FIGURES | {"allocations": 19.0}}) == 0
    assert "figures that shrank: 1; to hold on to that: python -m benchmarks.counts --update" in capsys.readouterr().out


def test_a_row_that_is_new_passes() -> None:
    assert counts.report(Committed({}), {"row": FIGURES}) == 0


def test_other_versions_are_named_and_only_what_is_the_same_on_all_is_compared() -> None:
    versions = {"trio": "0.34.0"}
    document = {python: {"versions": versions, "counts": {python: FIGURES}} for python in ("3.9", "3.13", "3.12")}
    assert Committed.load(document, "3.12", versions) == Committed({"3.12": FIGURES})
    grown = {name: 2 * value for name, value in FIGURES.items()}
    of_another_python = Committed.load(document, "3.14", versions)
    assert of_another_python == Committed({"3.13": FIGURES}, other_python="Python 3.13, not 3.14")
    changes = of_another_python.changes({"3.13": grown})
    assert [change.figure for change in changes] == ["task steps", "passes", "system calls"]
    of_another_trio = Committed.load(document, "3.12", {"trio": "0.35.0"})
    assert of_another_trio == Committed({"3.12": FIGURES}, other_versions="trio 0.34.0, not 0.35.0")
    assert of_another_trio.changes({"3.12": grown}) == []


def test_what_is_committed_has_every_row_and_figure() -> None:
    document = json.loads(counts.COMMITTED.read_text(encoding="utf-8"))
    for entry in document.values():
        assert entry["counts"].keys() == counts.ROWS.keys()
        assert all(figures.keys() == counts.FIGURES.keys() for figures in entry["counts"].values())


if __name__ == "__main__":
    print(json.dumps(figures()))
