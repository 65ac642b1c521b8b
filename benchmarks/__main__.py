"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.design import format_design
from benchmarks.meters.instructions import NoToolError, format_instructions
from benchmarks.meters.measure import Workload, missing_peers, run
from benchmarks.meters.report import describe_environment, format_busy, format_results, write_json
from benchmarks.topics import across, channels, compression, fan_in, memory, timers, websocket, websocket_served

# A topic is a module with WORKLOADS; add new ones here.
TOPICS = (channels, fan_in, timers, memory, websocket, websocket_served, compression, across)

_ROUNDS = 9


def main() -> None:
    """Run the benchmarks that the command line asks for."""
    options = _parse()
    if options.child:
        _run_side(*options.child, warm_up=options.warm_up)
        return
    workloads = _select_workloads(options.only, options.without)
    if options.list:
        print("\n".join(workload.name for workload in (workloads if options.only or options.without else _every())))
        return
    if not workloads:
        sys.exit("no benchmark is left of those that --only and --without name; see --list")
    if options.instructions:
        _count_instructions(workloads)
        return
    rounds: int = options.rounds or (1 if options.quick else _ROUNDS)
    results = run(workloads, rounds=rounds, quick=options.quick)
    environment = describe_environment()
    _print_environment(environment)
    print(f"rounds: {rounds}{' (quick: too short to mean anything)' if options.quick else ''}\n")
    print(f"{format_design(results)}\n")
    print(format_results(results))
    busy = format_busy(results)
    if busy:
        print(f"\nThe part of its time that a client, or a server, was not waiting for the other end:\n\n{busy}")
    if options.json:
        write_json(options.json, results, environment=environment, quick=options.quick)


def _every() -> list[Workload]:
    return [workload for topic in TOPICS for workload in topic.WORKLOADS]


def _select_workloads(only: list[str], without: list[str]) -> list[Workload]:
    selected = [
        workload
        for workload in _every()
        if workload.name in only
        or (not workload.on_request and (not only or any(_is_meant(text, workload) for text in only)))
    ]
    return [workload for workload in selected if not any(_is_meant(text, workload) for text in without)]


def _is_meant(text: str, workload: Workload) -> bool:
    return text in workload.name or text == workload.group


def _print_environment(environment: dict[str, str]) -> None:
    print("\n".join(f"{name}: {value}" for name, value in environment.items()))
    if missing_peers():
        print(f"skipped, not installed: {', '.join(missing_peers())}")


def _count_instructions(workloads: list[Workload]) -> None:
    try:
        table = format_instructions(workloads, elsewhere=[fan_in.GO])
    except NoToolError as error:
        sys.exit(str(error))
    _print_environment(describe_environment())
    print(f"\n{table}")


def _run_side(name: str, side: str, count: str, *, warm_up: int) -> None:
    """Perform one side of one workload so many times, and nothing else; print what was measured."""
    (workload,) = (workload for workload in _every() if workload.name == name)
    measure = workload.measure_of(side)
    if warm_up:
        measure(warm_up)
    cost = measure(int(count))
    busy: list[float] = getattr(measure, "busy", [])
    print(json.dumps({"cost": cost, "busy": busy[-1] if busy else None}))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What csp costs, next to its peers.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's figures to FILE")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"default {_ROUNDS}, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="a few seconds: only to see that everything runs")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="the rows with NAME in their name or as their group; may be repeated",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="not the rows with NAME in their name or as their group; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="count instructions instead of time, with perf or valgrind; half a minute a side, so use --only",
    )
    # One side alone: what `benchmarks.meters.apart` and --instructions run.
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--warm-up", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    main()
