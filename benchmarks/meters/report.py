"""What is reported: the environment, the table and the JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import csp
from benchmarks.meters.measure import Result, Spread, versions_of_peers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEPENDENCIES = ("trio", "outcome", "trio-websocket", "wsproto")


def describe_environment() -> dict[str, str]:
    """Return the machine and the versions, by name."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio-csp": csp.__version__ + _checkout(),
        **{name: importlib.metadata.version(name) for name in _DEPENDENCIES},
        **versions_of_peers(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _checkout() -> str:
    """Return the commit that csp is imported from, if that is a checkout."""
    root = Path(csp.__file__).parents[1]
    commit = _git(root, "rev-parse", "--short", "HEAD") if (root / ".git").exists() else ""
    if not commit:
        return ""
    changed = _git(root, "status", "--porcelain", "--", "csp", "drivers")
    return f", from the checkout at {commit}{', changed' if changed else ''}"


def _git(root: Path, *arguments: str) -> str:
    try:
        finished = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return finished.stdout.strip()


_HEADER = ("workload", "peer", "unit", "csp", "of the peer", "ratio", "lowest - highest", "target", "")


def format_results(results: Sequence[Result]) -> str:
    """Return the medians as a table: a line for each workload and peer."""
    return format_table([_HEADER, *(line for result in results for line in _lines(result))])


def format_busy(results: Sequence[Result]) -> str:
    """Return how busy a client was, or a server, whose other end is on another core: 1 if it never had to wait."""
    rows = [
        (result.workload.name, *(f"{name} {_busy(result, name):.2f}" for name in ("csp", *result.peers)))
        for result in results
        if _busy(result, "csp")
    ]
    return "\n".join(f"- {name}: {', '.join(shares)}" for name, *shares in rows)


def _busy(result: Result, side: str) -> float:
    """Return the median of the share of its time that a side worked; 0 if nobody asked."""
    measure = result.workload.csp if side == "csp" else result.workload.peers[side]
    shares: list[float] = [] if getattr(measure, "takes_turns", False) else getattr(measure, "busy", [])
    # The first may be of the warm-up.
    return statistics.median(shares[-len(result.csp) :]) if shares else 0.0


def format_table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as a Markdown table; the first line is its header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    header, *rows = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
    rule = "".join(f"|{'-' * (width + 2)}" for width in widths) + "|"
    return "\n".join([header, rule, *rows])


def _lines(result: Result) -> list[tuple[str, ...]]:
    workload = result.workload
    ours = Spread.of(result.csp)
    lines: list[tuple[str, ...]] = []
    for name, values in result.peers.items():
        ratio = Spread.of(result.ratios(name))
        target, verdict = _judge(workload.ratio_targets.get(name), ratio.median, " x")
        if ratio.median > 1:
            verdict = ", ".join(filter(None, (verdict, "behind")))
        lines.append(
            (
                workload.name,
                name,
                workload.unit,
                _cost(ours.median),
                _cost(statistics.median(values)),
                format_ratio(ratio.median),
                f"{format_ratio(ratio.lowest)} - {format_ratio(ratio.highest)}",
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
    return f"<= {target:{'.3g' if target < 100 else 'g'}}{unit}", "met" if value <= target else "not met"


def _cost(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def format_ratio(value: float) -> str:
    """Return a ratio with two decimals, or with two digits where it is small, or none where it is large."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def write_json(path: Path, results: Sequence[Result], *, environment: Mapping[str, str], quick: bool) -> None:
    """Write the environment and, for each workload, every round's cost and the medians."""
    document = {"environment": environment, "quick": quick, "workloads": [_document(result) for result in results]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _document(result: Result) -> dict[str, object]:
    workload = result.workload
    return {
        "name": workload.name,
        "group": workload.group,
        "unit": workload.unit,
        "count": workload.count,
        "ratio_targets": dict(workload.ratio_targets),
        "cost_target": workload.cost_target,
        "csp": {**asdict(Spread.of(result.csp)), "rounds": result.csp, "busy": _busy(result, "csp")},
        "peers": {
            name: {
                **asdict(Spread.of(values)),
                "rounds": values,
                "busy": _busy(result, name),
                "ratio": {**asdict(Spread.of(result.ratios(name))), "rounds": result.ratios(name)},
            }
            for name, values in result.peers.items()
        },
    }
