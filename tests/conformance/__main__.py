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
from tests.conformance import _client, _server
from tests.conformance._autobahn import NOT_INSTALLED, Outcome, installed

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
    start = time.perf_counter()
    try:
        outcomes = _run(options)
    except ValueError as error:
        sys.exit(str(error))
    seconds = time.perf_counter() - start
    _clear_progress()
    print("".join(f"{outcome}\n\n" for outcome in outcomes if outcome.judgement not in ("OK", "UNIMPLEMENTED")), end="")
    report = _report(outcomes, seconds)
    print(report)
    if not options.cases:
        _write_report(_name(options), report)
    sys.exit(any(outcome.judgement == "FAILED" or outcome.observation.sockets_left for outcome in outcomes))


def _run(options: argparse.Namespace) -> list[Outcome]:
    compression = COMPRESSIONS[options.compression]
    if options.server:
        return _server.run_cases(options.cases, compression=compression, tls=options.tls, show_progress=_show_progress)
    echo = _client.echo_raw if options.raw else partial(_client.echo, compression=compression)
    return _client.run_cases(echo, options.cases, show_progress=_show_progress)


def _name(options: argparse.Namespace) -> str:
    """Return the name of the report's place in the README."""
    if options.raw:
        return "raw"
    return f"{'server ' if options.server else ''}{options.compression}{' tls' if options.tls else ''}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="The Autobahn cases against the client, or the server. What comes out of a run of all of them is "
        "written into the README beside, where it has a place.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="the number of a case, or a pattern such as 9.1.*")
    parser.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        default="context",
        help="what is offered or agreed to: compression with context takeover (default), without, or none at all",
    )
    parser.add_argument("--raw", action="store_true", help="try trio-websocket's client instead; it does not compress")
    parser.add_argument("--server", action="store_true", help="try the server")
    parser.add_argument("--tls", action="store_true", help="try the server over TLS")
    options = parser.parse_args()
    if options.raw and options.server:
        parser.error("--raw is for the client")
    if options.tls and not options.server:
        parser.error("--tls is for the server")
    return options


def _show_progress(number: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[Kcase {number}", end="", file=sys.stderr, flush=True)


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
    """Put a report into the README, between its two marks, if they are there."""
    before, begin, rest = README.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if end:
        README.write_text(f"{before}{begin}\n{report}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
