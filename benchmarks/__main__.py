"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import channels, compression, fan_in, memory, timers
from benchmarks._measure import Workload, describe_environment, format_table, run, write_json

# A topic is a module with WORKLOADS; add new ones here.
TOPICS = (channels, fan_in, timers, memory, compression)


def main() -> None:
    """Run the benchmarks that the command line asks for."""
    options = _parse()
    workloads = _select_workloads(options.only)
    if options.list:
        print("\n".join(workload.name for workload in workloads))
        return
    if not workloads:
        sys.exit(f"no benchmark has {' or '.join(options.only)} in its name; see --list")
    rounds: int = options.rounds or (1 if options.quick else 15)
    environment = describe_environment()
    results = run(workloads, rounds=rounds, quick=options.quick)
    print("\n".join(f"{name}: {value}" for name, value in environment.items()))
    print(f"rounds: {rounds}{' (quick: too short to mean anything)' if options.quick else ''}\n")
    print(format_table(results))
    if options.json:
        write_json(options.json, results, environment=environment, quick=options.quick)


def _select_workloads(only: list[str]) -> list[Workload]:
    every = [workload for topic in TOPICS for workload in topic.WORKLOADS]
    return [workload for workload in every if not only or any(text in workload.name for text in only)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What csp costs, next to its peers.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's figures to FILE")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="default 15, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="a few seconds: only to see that everything runs")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="the rows with NAME in their name; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    main()
