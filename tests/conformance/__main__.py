"""The command line: ``python -m tests.conformance``."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from csp.websocket import Compression
from tests.conformance._autobahn import NOT_INSTALLED, Outcome, echo, echo_raw, installed, run_cases

COMPRESSIONS = {
    "context": Compression.CONTEXT_TAKEOVER,
    "none": Compression.NO_CONTEXT,
    "disabled": Compression.DISABLED,
}
DISTRIBUTIONS = ("kosoku", "trio", "trio-websocket", "wsproto")
GROUPS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "limits and performance",
    10: "automatic fragmentation",
    12: "compression: five kinds of data",
    13: "compression: parameters",
}
JUDGEMENTS = ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED", "UNIMPLEMENTED")
README = Path(__file__).with_name("README.md")


def main() -> None:
    """Run the cases that the command line asks for; exit with status 1 if one failed or left a socket open."""
    options = _parse()
    if not installed():
        sys.exit(NOT_INSTALLED)
    client = echo_raw if options.raw else partial(echo, compression=COMPRESSIONS[options.compression])
    start = time.perf_counter()
    try:
        outcomes = run_cases(client, options.cases, show_progress=_show_progress)
    except ValueError as error:
        sys.exit(str(error))
    seconds = time.perf_counter() - start
    _clear_progress()
    print("".join(f"{outcome}\n\n" for outcome in outcomes if outcome.judgement not in ("OK", "UNIMPLEMENTED")), end="")
    report = _report(outcomes, seconds)
    print(report)
    if not options.cases:
        _write_report("raw" if options.raw else options.compression, report)
    sys.exit(any(outcome.judgement == "FAILED" or outcome.observation.sockets_left for outcome in outcomes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="The Autobahn cases against the client. A run of all of them is written into the README beside.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="the number of a case, or a pattern such as 9.1.*")
    parser.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        default="context",
        help="what the client offers: compression with context takeover (default), without, or none at all",
    )
    parser.add_argument("--raw", action="store_true", help="try trio-websocket instead; it does not compress")
    return parser.parse_args()


def _show_progress(number: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{number} of {count}", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _report(outcomes: list[Outcome], seconds: float) -> str:
    """Return what ran, the counts by group as a Markdown table, and which cases are not OK."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    versions = ", ".join([python, *(f"{name} {importlib.metadata.version(name)}" for name in DISTRIBUTIONS)])
    left = sum(outcome.observation.sockets_left for outcome in outcomes)
    lines = [
        f"{versions}. Sockets left open: {left}. Time: {seconds:.0f} s.",
        "",
        f"| group | cases | {' | '.join(JUDGEMENTS)} |",
        f"|---|{'---:|' * (1 + len(JUDGEMENTS))}",
    ]
    lines += [
        _row(f"{group} {name}", members)
        for group, name in GROUPS.items()
        if (members := [outcome for outcome in outcomes if outcome.group == group])
    ]
    lines += [_row("all", outcomes), ""]
    for judgement in JUDGEMENTS[1:]:
        cases = _named(judgement, outcomes)
        if cases:
            lines.append(f"- {judgement}: {', '.join(cases)}")
    return "\n".join(lines)


def _row(name: str, outcomes: list[Outcome]) -> str:
    counts = Counter(outcome.judgement for outcome in outcomes)
    return f"| {name} | {len(outcomes)} | {' | '.join(str(counts[judgement] or '') for judgement in JUDGEMENTS)} |"


def _named(judgement: str, outcomes: list[Outcome]) -> list[str]:
    """Return the cases of this judgement; those of a section that is all of it by their pattern."""
    sections: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        sections.setdefault(outcome.verdict.case.rpartition(".")[0], []).append(outcome)
    names: list[str] = []
    for section, members in sections.items():
        cases = [outcome.verdict.case for outcome in members if outcome.judgement == judgement]
        names += [f"{section}.*"] if len(cases) == len(members) > 1 else cases
    return names


def _write_report(name: str, report: str) -> None:
    """Put a report into the README, between its two marks."""
    before, begin, rest = README.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    README.write_text(f"{before}{begin}\n{report}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
