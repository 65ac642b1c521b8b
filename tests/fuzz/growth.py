"""``python -m tests.fuzz.growth`` looks for work that grows faster than what a peer sends, by time of the processor.

It prints each input whose work grows too fast, and ends with status 1 if there is one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.fuzz._growth import TARGETS, TOO_MANY_SECONDS, Input, Target, chosen, seconds, suspect

# So that at eight times as many the square shows: to be found, it must take so long at least.
_SMALLEST_BYTES = 6_000
_SHORTEST_SECONDS = 0.02


def once(target: Target, given: Input, count: int) -> float:
    """Return how many seconds of the processor an input takes with so many units."""
    blocks = given.blocks(count)
    start = time.thread_time()
    target.run(blocks)
    return time.thread_time() - start


def main() -> int:
    """Fuzz what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.growth", description="Look for superlinear work.")
    parser.add_argument("--seconds", type=int, default=20, metavar="N", help="for each target; default 20")
    parser.add_argument("--target", choices=TARGETS, help="default: all, one after the other")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random inputs; default 1")
    options = parser.parse_args()
    found = 0
    for name in TARGETS if options.target is None else [options.target]:
        chance = random.Random(options.seed)
        target = TARGETS[name]
        tried, worst, end = 0, 0.0, time.perf_counter() + options.seconds
        while time.perf_counter() < end:
            tried += 1
            given = chosen(target, chance)
            count = max(1, _SMALLEST_BYTES // len(given.unit))
            half, whole = (once(target, given, length * count) for length in (4, 8))
            worst = max(worst, whole)
            # Again, because a machine that others use is not exact.
            if whole > max(_SHORTEST_SECONDS, TOO_MANY_SECONDS * half) and suspect(
                target, given, _SMALLEST_BYTES, seconds, TOO_MANY_SECONDS
            ):
                found += 1
                print(f"{name}: {given} takes {whole:.2f} s for 48 KB", flush=True)
        print(f"{name}: {tried} inputs of 48 KB, the longest took {worst:.3f} s", flush=True)
    print(f"{found} found")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
