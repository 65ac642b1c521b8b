"""Workloads and their rounds.

Every round measures csp and its peers one after the other, the first to go being another each round, so that a slow
moment of the machine hits both. A ratio is taken within a round; what is reported is the median of the ratios.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.metadata
import statistics
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from time import process_time
from typing import Any, Protocol, Self, TypeAlias

import trio

from benchmarks.meters.apart import measure_apart

Measure: TypeAlias = Callable[[int], float]
"""Performs an operation so many times; returns what one costs, in the unit of its workload."""

CSP = "csp"
"""What csp's own side is called."""

_QUICK_FRACTION = 25
_WARM_UP_FRACTION = 100


class Meter(Protocol):
    """Measures what happens in one ``with`` block."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exc_info: object) -> None: ...


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


Side: TypeAlias = Callable[[int, Meter], Awaitable[None]]
"""Performs an operation so many times in a run of its own, with the meter around the part that counts."""


def microseconds(side: Side) -> Measure:
    """Return the measure of a Trio side's microseconds of CPU time an operation."""

    def measure(count: int) -> float:
        stopwatch = Stopwatch()
        trio.run(side, count, stopwatch)
        return stopwatch.seconds / count * 1e6

    return measure


def microseconds_of_asyncio(side: Side, run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run) -> Measure:
    """Return the measure of an asyncio side's microseconds of CPU time an operation, on the loop that ``run`` uses."""

    def measure(count: int) -> float:
        stopwatch = Stopwatch()

        async def main() -> None:
            await side(count, stopwatch)

        run(main())
        return stopwatch.seconds / count * 1e6

    return measure


@dataclass(frozen=True)
class Elsewhere:
    """A measure that starts a process of its own, which is built or filled once for all rounds."""

    measure: Measure

    def __call__(self, count: int) -> float:
        return self.measure(count)


def fewer(measure: Measure, divisor: int) -> Measure:
    """Return the measure that performs its operation only once where the others of its workload do so many times."""
    return lambda count: measure(max(1, count // divisor))


_installed: dict[str, str] = {}
_missing: dict[str, None] = {}


def available(distribution: str) -> bool:
    """Tell whether the distribution of an optional peer is installed; what is missing is reported."""
    try:
        found(distribution, importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        missing(distribution)
    return distribution in _installed


def found(peer: str, version: str) -> None:
    """Have an optional peer's version reported."""
    _installed[peer] = version


def missing(peer: str) -> None:
    """Have an optional peer reported as skipped."""
    _missing[peer] = None


def versions_of_peers() -> dict[str, str]:
    """Return the versions of the optional peers there are, by name."""
    return dict(_installed)


def missing_peers() -> list[str]:
    """Return the names of the optional peers that there are not."""
    return list(_missing)


def load(module: str) -> Any:
    """Import a module of an optional peer.

    Its type is `Any`, so that type checkers say the same whether or not it is installed and has types.
    """
    return importlib.import_module(module)


@dataclass(frozen=True)
class Workload:
    """One operation, done by csp and by its peers.

    Attributes:
        name: of the row in the table.
        csp: csp's measure.
        peers: the measures of what it is compared with, by name.
        count: how many times a round performs the operation.
        unit: of what the measures return.
        ratio_targets: the design's bounds on csp's cost over a peer's, by the peer's name.
        cost_target: the design's bound on csp's cost, if there is one.
        group: what the row is about; ``--only`` also goes by it.
        on_request: whether it is run only if its whole name is asked for.
        apart: whether each side is measured in a process of its own; not if it is one already.
        environment: returns what those processes need in their environment.
    """

    name: str
    csp: Measure
    peers: Mapping[str, Measure] = field(default_factory=dict[str, Measure])
    count: int = 10_000
    unit: str = "us"
    ratio_targets: Mapping[str, float] = field(default_factory=dict[str, float])
    cost_target: float | None = None
    group: str = ""
    on_request: bool = False
    apart: bool = True
    environment: Callable[[], Mapping[str, str]] = dict[str, str]

    def measure_of(self, side: str) -> Measure:
        """Return the measure of csp or of a peer."""
        return self.csp if side == CSP else self.peers[side]


@dataclass
class Result:
    """What the rounds of one workload gave."""

    workload: Workload
    csp: list[float] = field(default_factory=list[float])
    peers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def run_round(self, number: int, *, quick: bool) -> None:
        """Measure csp and each peer once. A quick round does it in this process."""
        workload = self.workload
        count = max(1, workload.count // _QUICK_FRACTION) if quick else workload.count
        sides = [(self.csp, CSP), *((self.peers.setdefault(name, []), name) for name in workload.peers)]
        turn = number % len(sides)
        for values, side in sides[turn:] + sides[:turn]:
            measure = workload.measure_of(side)
            if quick or not workload.apart or isinstance(measure, Elsewhere):
                values.append(measure(count))
            else:
                values.append(self._measure_apart(side, count))

    def _measure_apart(self, side: str, count: int) -> float:
        workload = self.workload
        measured = measure_apart(workload.name, side, count, self._warm_up_count, workload.environment())
        busy: list[float] | None = getattr(workload.measure_of(side), "busy", None)
        if busy is not None:
            busy.append(measured["busy"])
        return float(measured["cost"])

    def warm_up(self) -> None:
        """Do a little on every side that is measured here, unmeasured: what happens only once is then over."""
        for measure in (self.workload.csp, *self.workload.peers.values()):
            if not self.workload.apart or isinstance(measure, Elsewhere):
                measure(self._warm_up_count)

    @property
    def _warm_up_count(self) -> int:
        return max(1, self.workload.count // _WARM_UP_FRACTION)

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
    """Run the workloads, all of them in each round, and return their results. A quick run does not warm up."""
    results = [Result(workload) for workload in workloads]
    for number in range(1 if quick else 0, rounds + 1):
        for position, result in enumerate(results, start=1):
            stage = f"round {number} of {rounds}" if number else "warming up"
            _show_progress(f"{stage}, {position} of {len(results)}: {result.workload.name}")
            if number:
                result.run_round(number, quick=quick)
            else:
                result.warm_up()
    _show_progress("")
    return results


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
