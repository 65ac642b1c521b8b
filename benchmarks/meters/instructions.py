"""Instructions instead of time: a figure that does not depend on how busy the machine is.

A side is run in two child processes, once with twice the operations of the other; what starting and stopping take
drops out of the difference. Processes that the child starts are not counted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING

from benchmarks.meters.report import format_ratio, format_table
from benchmarks.meters.served import ServerTime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.meters.measure import Workload

_CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
_CALLGRIND_RESULT = re.compile(r"Collected : (\d+)")
_PERF = ("perf", "stat", "--no-inherit", "-x,", "-e", "instructions:u")
_PERF_RESULT = re.compile(r"^(\d+),[^,]*,instructions", re.MULTILINE)
_FRACTION = 10
_TIME_LIMIT_SECONDS = 900.0


class NoToolError(Exception):
    """Nothing here counts instructions."""


@cache
def _find_tool() -> tuple[tuple[str, ...], re.Pattern[str]]:
    """Return the command that counts, and where it says how many."""
    if shutil.which("perf") and _PERF_RESULT.search(_run((*_PERF, "true"))):
        return _PERF, _PERF_RESULT
    if shutil.which("valgrind"):
        return _CALLGRIND, _CALLGRIND_RESULT
    raise NoToolError("counting instructions takes valgrind, or a perf that supports it, on the path")


def _run(command: Sequence[str]) -> str:
    """Run a command and return what it wrote to its standard error, where the tools report."""
    return subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        text=True,
        timeout=_TIME_LIMIT_SECONDS,
        check=False,
    ).stderr


def _count(workload: Workload, side: str, count: int) -> int:
    tool, result = _find_tool()
    report = _run((*tool, sys.executable, "-m", "benchmarks", "--child", workload.name, side, str(count)))
    found = result.search(report)
    if found is None:
        raise RuntimeError(f"{tool[0]} counted nothing in {side} of {workload.name}:\n{report}")
    return int(found[1])


def count_an_operation(workload: Workload, side: str) -> float:
    """Return the instructions that an operation takes, of ``csp`` or of a peer."""
    count = max(1, workload.count // _FRACTION)
    with ThreadPoolExecutor() as pool:
        once, twice = pool.map(partial(_count, workload, side), (count, 2 * count))
    return (twice - once) / count


def format_instructions(workloads: Sequence[Workload], *, elsewhere: Sequence[str]) -> str:
    """Return the table of the instructions of what is measured in time, but for what runs in other processes."""
    lines = [("workload", "side", "instructions", "csp / peer")]
    for workload in workloads:
        if workload.unit != "us" or isinstance(workload.csp, ServerTime):
            continue
        ours = count_an_operation(workload, "csp")
        lines.append((workload.name, "csp", f"{ours:.0f}", ""))
        for peer in workload.peers:
            if peer not in elsewhere:
                theirs = count_an_operation(workload, peer)
                lines.append((workload.name, peer, f"{theirs:.0f}", format_ratio(ours / theirs)))
    return format_table(lines)
