"""The figures of a run, read back from what ``python -m benchmarks --json`` wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.meters.measure import Result, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class NotFiguresError(Exception):
    """The file is not what ``python -m benchmarks --json`` writes."""


class Measured:
    """What stands for a measure that was read back: it cannot be taken again."""

    def __init__(self, busy: float) -> None:
        self.busy = [busy]

    def __call__(self, count: int) -> float:
        raise NotImplementedError("these figures were read from a file")


@dataclass(frozen=True)
class Figures:
    """The machine and the versions, by name, and what the rounds gave."""

    environment: Mapping[str, str]
    results: Sequence[Result]


def read_figures(path: Path) -> Figures:
    """Return the figures of a file.

    Raises:
        NotFiguresError: it has others.
        OSError: it cannot be read.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        return Figures(dict(document["environment"]), [_result(row) for row in document["workloads"]])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NotFiguresError(f"{path} is not what python -m benchmarks --json writes") from error


def _result(row: Any) -> Result:
    workload = Workload(
        row["name"],
        Measured(row["csp"]["busy"]),
        {name: Measured(peer["busy"]) for name, peer in row["peers"].items()},
        row["count"],
        row["unit"],
        row["ratio_targets"],
        row["cost_target"],
        row["group"],
    )
    return Result(workload, row["csp"]["rounds"], {name: peer["rounds"] for name, peer in row["peers"].items()})
