"""Rounds, medians, the table and the JSON.

Every round measures csp and its peers one after the other, the first to go being another each round, so that a slow
moment of the machine hits both. A ratio is taken within a round; what is reported is the median of the ratios.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Self, TypeAlias

import trio

Measure: TypeAlias = Callable[[int], float]
"""Performs an operation so many times; returns what one costs, in the unit of its workload."""

DISTRIBUTIONS = ("trio-csp", "trio", "outcome")
"""Installed distributions whose versions are reported."""

_QUICK_FRACTION = 25


class Stopwatch:
    """Measures the CPU time of one ``with`` block, from an empty garbage collector that then stays off."""

    seconds: float = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        gc.disable()
        self._start = process_time()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = process_time() - self._start
        gc.enable()


Side: TypeAlias = Callable[[int, Stopwatch], Awaitable[None]]
"""Performs an operation so many times in a Trio run of its own, with the stopwatch around the part that counts."""


def microseconds(side: Side) -> Measure:
    """Return the measure of a side's microseconds of CPU time an operation."""

    def measure(count: int) -> float:
        stopwatch = Stopwatch()
        trio.run(side, count, stopwatch)
        return stopwatch.seconds / count * 1e6

    return measure


@dataclass(frozen=True)
class Workload:
    """One operation, done by csp and by its peers.

    Attributes:
        name: of the row in the table.
        csp: csp's measure.
        peers: the measures of what it is compared with, by name.
        count: how many times a round performs the operation.
        unit: of what the measures return.
        ratio_target: the design's bound on csp's cost over each peer's, if there is one.
        cost_target: the design's bound on csp's cost, if there is one.
    """

    name: str
    csp: Measure
    peers: Mapping[str, Measure] = field(default_factory=dict[str, Measure])
    count: int = 10_000
    unit: str = "us"
    ratio_target: float | None = None
    cost_target: float | None = None


@dataclass
class Result:
    """What the rounds of one workload gave."""

    workload: Workload
    csp: list[float] = field(default_factory=list[float])
    peers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def run_round(self, number: int, *, quick: bool) -> None:
        """Measure csp and each peer once."""
        workload = self.workload
        count = max(1, workload.count // _QUICK_FRACTION) if quick else workload.count
        sides = [(self.csp, workload.csp)]
        sides += [(self.peers.setdefault(name, []), measure) for name, measure in workload.peers.items()]
        turn = number % len(sides)
        for values, measure in sides[turn:] + sides[:turn]:
            values.append(measure(count))

    def ratios(self, peer: str) -> list[float]:
        """Return csp's cost over a peer's, round by round."""
        return [ours / theirs for ours, theirs in zip(self.csp, self.peers[peer], strict=True)]


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and how far they lay apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(statistics.median(values), min(values), max(values))


def run(workloads: Sequence[Workload], *, rounds: int, quick: bool) -> list[Result]:
    """Run the workloads, all of them in each round, and return their results."""
    results = [Result(workload) for workload in workloads]
    for number in range(rounds):
        for position, result in enumerate(results, start=1):
            _show_progress(f"round {number + 1} of {rounds}, {position} of {len(results)}: {result.workload.name}")
            result.run_round(number, quick=quick)
    _show_progress("")
    return results


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def describe_environment() -> dict[str, str]:
    """Return the machine and the versions, by name."""
    versions = {name: _version(name) for name in DISTRIBUTIONS}
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **versions,
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed (run from a checkout)"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_HEADER = ("workload", "peer", "unit", "csp", "of the peer", "ratio", "lowest - highest", "target", "")


def format_table(results: Sequence[Result]) -> str:
    """Return the medians as a Markdown table: a line for each workload and peer."""
    lines = [_HEADER, *(line for result in results for line in _lines(result))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    rows = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = "".join(f"|{'-' * (width + 2)}" for width in widths)
    return "\n".join(f"{row}" for row in [f"{rows[0]} |", f"{rule}|", *(f"{row} |" for row in rows[1:])])


def _lines(result: Result) -> list[tuple[str, ...]]:
    workload = result.workload
    ours = Spread.of(result.csp)
    lines: list[tuple[str, ...]] = []
    for name, values in result.peers.items():
        ratio = Spread.of(result.ratios(name))
        target, verdict = _judge(workload.ratio_target, ratio.median, " x")
        lines.append(
            (
                workload.name,
                name,
                workload.unit,
                _cost(ours.median),
                _cost(statistics.median(values)),
                f"{ratio.median:.2f}",
                f"{ratio.lowest:.2f} - {ratio.highest:.2f}",
                target,
                verdict,
            )
        )
    if not lines or workload.cost_target is not None:
        target, verdict = _judge(workload.cost_target, ours.median, f" {workload.unit}")
        spread = f"{_cost(ours.lowest)} - {_cost(ours.highest)}"
        lines.append((workload.name, "-", workload.unit, _cost(ours.median), "-", "-", spread, target, verdict))
    return lines


def _judge(target: float | None, value: float, unit: str) -> tuple[str, str]:
    """Return a target as text, and whether a value meets it."""
    if target is None:
        return "-", ""
    return f"<= {target:g}{unit}", "met" if value <= target else "not met"


def _cost(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def write_json(path: Path, results: Sequence[Result], *, environment: Mapping[str, str], quick: bool) -> None:
    """Write the environment and, for each workload, every round's cost and the medians."""
    document = {"environment": environment, "quick": quick, "workloads": [_document(result) for result in results]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _document(result: Result) -> dict[str, object]:
    workload = result.workload
    return {
        "name": workload.name,
        "unit": workload.unit,
        "count": workload.count,
        "ratio_target": workload.ratio_target,
        "cost_target": workload.cost_target,
        "csp": {**asdict(Spread.of(result.csp)), "rounds": result.csp},
        "peers": {
            name: {
                **asdict(Spread.of(values)),
                "rounds": values,
                "ratio": {**asdict(Spread.of(result.ratios(name))), "rounds": result.ratios(name)},
            }
            for name, values in result.peers.items()
        },
    }
