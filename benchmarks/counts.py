"""The guard: what an operation costs in counts, which no other work of the machine disturbs.

    python -m benchmarks.counts           # exits with 1 if a figure is above the one in counts.json
    python -m benchmarks.counts --update  # writes the figures to counts.json, for this version of Python

A figure is of one operation: a value, a message, or one there and back. It is the difference between two runs, one
with twice as many operations as the other, so that what happens once is not in it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import trio
from trio.testing import MockClock

from benchmarks.meters.counters import Allocations, Counter, Instructions, Passes, SystemCalls, TaskSteps
from benchmarks.meters.report import format_table
from benchmarks.topics import across_counted, websocket_counted, websocket_served_counted
from benchmarks.topics.channels import CAPACITY, one_to_one, ping_pong
from benchmarks.topics.fan_in import select, select_parked, selector
from benchmarks.topics.timers import select_after
from benchmarks.topics.websocket_counted import TEXT, frame

if TYPE_CHECKING:
    from benchmarks.meters.measure import Meter, Side

COMMITTED = Path(__file__).with_name("counts.json")
UPDATE = "python -m benchmarks.counts --update"
DISTRIBUTIONS = ("trio", "outcome", "trio-websocket", "wsproto")
"""What the figures depend on, besides csp and Python."""

Counts: TypeAlias = Mapping[str, Mapping[str, float]]
"""Figures, by the names of the row and of the figure."""

# What is counted ----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """An operation.

    Attributes:
        side: performs it.
        operations: how many: a multiple of `csp.OPERATIONS_PER_SCHEDULE_POINT`, and of the capacity and the block there
            is.
        stopped_clock: whether Trio's clock stands still meanwhile, so that nothing happens because of the time.
    """

    side: Side
    operations: int = 512
    stopped_clock: bool = False


class Figure(NamedTuple):
    """Something that is counted.

    Attributes:
        meter: counts it.
        digits: of a figure, behind the point.
        slack: how much more than the committed figure is no growth, as a share of it.
        portable: whether it is the same on every version of Python.
        times: how many times a row's operations are counted: more where counting is quick.
    """

    meter: type[Counter]
    digits: int = 3
    slack: float = 0
    portable: bool = True
    times: int = 1


FIGURES: Mapping[str, Figure] = {
    "task steps": Figure(TaskSteps, times=4),
    "passes": Figure(Passes, times=4),
    "allocations": Figure(Allocations, slack=0.001, portable=False),
    "instructions": Figure(Instructions, digits=1, slack=0.02, portable=False),
    "system calls": Figure(SystemCalls),
}

_BUFFERED = 800

ROWS: Mapping[str, Row] = {
    "1 to 1, capacity 100": Row(partial(one_to_one, CAPACITY), _BUFFERED),
    "1 to 1, unbuffered": Row(partial(one_to_one, 0)),
    "ping-pong": Row(ping_pong),
    "Selector, 8 busy": Row(partial(selector, 8, 8), _BUFFERED),
    "Selector, 1 busy of 8": Row(partial(selector, 8, 1), _BUFFERED),
    "Selector, 1 busy of 512": Row(partial(selector, 512, 1), _BUFFERED),
    "select, 8 busy": Row(partial(select, 8, 8), _BUFFERED),
    "select, 1 busy of 8": Row(partial(select, 8, 1), _BUFFERED),
    "select, parked, 8 cases": Row(partial(select_parked, 8)),
    "select with a new after, capacity 100": Row(partial(select_after, CAPACITY), _BUFFERED),
    "select with a new after, unbuffered": Row(partial(select_after, 0)),
    "WebSocket receive, 32 B": Row(partial(websocket_counted.receive, [frame(TEXT.encode())] * 1024), 1024),
    "WebSocket receive, 1 KiB": Row(partial(websocket_counted.receive, [frame(bytes(1024))] * 32)),
    "WebSocket receive, 64 KiB": Row(partial(websocket_counted.receive, [frame(bytes(64 * 1024))]), 64),
    "WebSocket receive compressed, 1 KiB": Row(websocket_counted.receive_compressed),
    "WebSocket send, 32 B": Row(partial(websocket_counted.send, 1)),
    "WebSocket send, 32 B, 16 tasks": Row(partial(websocket_counted.send, 16)),
    "WebSocket ping-pong, 32 B": Row(websocket_counted.ping_pong),
    "WebSocket server, echo 32 B": Row(websocket_served_counted.echo),
    "WebSocket server, accept and close": Row(websocket_served_counted.accept_and_close, 64),
    f"WebSocket server, one message to {websocket_served_counted.MEMBERS}": Row(websocket_served_counted.broadcast, 64),
    f"Redis topic, receive, capacity {across_counted.CAPACITY}": Row(across_counted.receive, 1024, stopped_clock=True),
    f"Redis queue, work, capacity {across_counted.CAPACITY}": Row(across_counted.work, 1024, stopped_clock=True),
}


def count_row(row: Row) -> dict[str, float]:
    """Return the figures of a row that can be counted here."""
    _run(row, row.operations, nullcontext())  # what is loaded, cached and specialised the first time
    return {name: _count(row, figure) for name, figure in FIGURES.items() if figure.meter.obstacle() is None}


def _count(row: Row, figure: Figure) -> float:
    def total(count: int) -> int:
        meter = figure.meter()
        _run(row, count, meter)
        return meter.count

    count = figure.times * row.operations
    return round((total(2 * count) - total(count)) / count, figure.digits)


def _run(row: Row, count: int, meter: Meter) -> None:
    run = partial(trio.run, clock=MockClock() if row.stopped_clock else None)
    # In a thread of its own, where csp begins to count operations until the next visit to the scheduler.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(run, row.side, count, meter).result()


def count_in_child(names: Sequence[str]) -> Counts:
    """Return the figures of some rows, counted in a process with nothing else in it."""
    program = "import sys; from benchmarks import counts; counts.print_counts(sys.argv[1:])"
    # Nothing that changes what Python does, and one order of sets for all.
    kept = {name: value for name, value in os.environ.items() if name == "PYTHONPATH" or not name.startswith("PYTHON")}
    child = subprocess.run(
        [sys.executable, "-c", program, *names],
        cwd=COMMITTED.parent.parent,
        env={**kept, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        check=True,
    )
    counts: Counts = json.loads(child.stdout)
    return counts


def print_counts(names: Sequence[str]) -> None:
    """Print the figures of some rows, as JSON."""
    print(json.dumps({name: count_row(ROWS[name]) for name in names}))


# Comparing ----------------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A figure that is not what was committed."""

    row: str
    figure: str
    committed: float
    now: float

    @property
    def is_growth(self) -> bool:
        return self.now > self.committed

    def __str__(self) -> str:
        verb = "grew" if self.is_growth else "shrank"
        return f"{self.row}: {self.figure} {verb} from {self.committed:g} to {self.now:g}"


class Committed(NamedTuple):
    """What to compare with.

    Attributes:
        counts: as they were.
        other_python: why figures that are not portable cannot be compared, if they cannot.
        other_versions: why nothing can.
    """

    counts: Counts
    other_python: str = ""
    other_versions: str = ""

    @classmethod
    def load(cls, document: Mapping[str, Any], python: str, versions: Mapping[str, str]) -> Committed:
        """Take the figures of a version of Python, or else of the latest there is."""
        chosen = python if python in document else max(document, key=_as_numbers)
        entry = document[chosen]
        there = entry["versions"]
        different = [
            f"{name} {there.get(name)}, not {version}"
            for name, version in versions.items()
            if there.get(name) != version
        ]
        return cls(
            entry["counts"],
            other_python="" if chosen == python else f"Python {chosen}, not {python}",
            other_versions=", ".join(different),
        )

    def obstacle(self, figure: Figure) -> str:
        """Return why a figure cannot be compared, if it cannot."""
        return self.other_versions or ("" if figure.portable else self.other_python)

    def changes(self, now: Counts) -> list[Change]:
        """Return the figures that grew or shrank, of those that can be compared."""
        found: list[Change] = []
        for row, figures in now.items():
            for name, value in figures.items():
                figure, committed = FIGURES[name], self.counts.get(row, {}).get(name)
                if committed is None or self.obstacle(figure):
                    continue
                if abs(value - committed) > max(_ROUNDING, figure.slack * committed):
                    found.append(Change(row, name, committed, value))
        return found


_ROUNDING = 0.005


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def format_counts(committed: Counts, now: Counts) -> str:
    """Return the figures as a table; one that is not as committed stands behind that."""
    return format_table(
        [
            ("row", *FIGURES),
            *(
                (row, *(_cell(committed.get(row, {}).get(name), figures.get(name)) for name in FIGURES))
                for row, figures in now.items()
            ),
        ]
    )


def _cell(committed: float | None, now: float | None) -> str:
    if now is None:
        return "not counted"
    return f"{now:g}" if committed in (None, now) else f"{committed:g} -> {now:g}"


# The command line ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Count, and compare or update."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counts", description="What csp costs, in counts.")
    parser.add_argument("--update", action="store_true", help="write the figures to counts.json instead of comparing")
    options = parser.parse_args()
    document: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    versions = {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
    now = count_in_child(list(ROWS))
    if options.update:
        document[python] = {"versions": versions, "counts": now}
        ordered = {version: document[version] for version in sorted(document, key=_as_numbers)}
        COMMITTED.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        print(format_counts(now, now))
        return
    sys.exit(report(Committed.load(document, python, versions), now))


def report(committed: Committed, now: Counts) -> int:
    """Print the table and what follows from it; return the exit code."""
    print(format_counts(committed.counts, now), end="\n\n")
    for name, figure in FIGURES.items():
        obstacle = figure.meter.obstacle()
        if obstacle is not None:
            print(f"{name}: not counted: {obstacle}")
        elif committed.obstacle(figure):
            print(f"{name}: not compared: counts.json has those of {committed.obstacle(figure)}")
    changes = committed.changes(now)
    grown = [change for change in changes if change.is_growth]
    for change in grown:
        print(f"{change}; if that is wanted: {UPDATE}")
    if len(grown) < len(changes):
        print(f"figures that shrank: {len(changes) - len(grown)}; to hold on to that: {UPDATE}")
    return 1 if grown else 0


if __name__ == "__main__":
    main()
