"""``python -m tests.hostile [PATTERN]`` carries out the attacks and prints what each brought, over TCP and TLS.

First those of servers and proxies on clients. For each: the close code that went to the server, the seconds from
connecting until the error was told and the socket was gone, the longest time in which one task let no other run, the
most memory that client and server used together at a time, how often their tasks were resumed, and the error.

Then those of clients on a server. For each: the seconds until nothing of it was left, the longest that another client
waited for an echo meanwhile, the longest time in which one task let no other run, memory and steps as before, and the
last line of the server's log.

Memory is traced meanwhile, which makes everything slower. It ends with status 1 if something is not as it should be.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.hostile import (
    _bombs,
    _crowds,
    _field,
    _frames,
    _handshakes,
    _proxies,
    _redirects,
    _requests,
    _vanishing,
    _violations,
    _work,
)
from tests.hostile._attack import MIB, Attack, Certificates, carry_out, check

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS = {
    "Proxies": _proxies.ATTACKS,
    "Answers to the handshake": _handshakes.ATTACKS,
    "Redirects": _redirects.ATTACKS,
    "Violations of the protocol": _violations.ATTACKS,
    "Dying, stalling, closing": _vanishing.ATTACKS,
    # More parts than the tests have time for.
    "Bombs": [*_bombs.attacks((MIB, 16 * MIB, 128 * MIB), 100_000), *_bombs.fragments(1_000_000)],
    "Much work of few bytes": _work.attacks(_work.HEAD),
}
# Of clients. More of them come, and more fragments, than the tests have time for.
CLIENT_GROUPS = {
    "Requests": _requests.ATTACKS,
    "Frames": [*_frames.violations(), *_frames.floods(1_000_000), *_frames.stalling()],
    "Crowds": [*_crowds.crowds(10_000), *_crowds.proxies()],
}
NAME_WIDTH = 62
ERROR_WIDTH = 90
MAX_CLIENT_SECONDS = 3600.0


def told(error: Exception | None) -> str:
    """Return an error's text without what is the same in every row."""
    return re.sub(
        r"^(cannot connect to \S+:|this end closed the connection with code \d+ \(\w+\):) ", "", str(error or "-")
    )


def carry_out_and_print(attacks: Sequence[Attack], certificates: Certificates | None) -> int:
    """Return how many failed."""
    failures = 0
    for attack in attacks:
        try:
            outcome = trio.run(carry_out, attack, certificates)
            check(attack, outcome)
        except Exception as error:  # noqa: BLE001  # one that fails must not keep the others from being seen
            failures += 1
            print(f"{attack.name[:NAME_WIDTH]:{NAME_WIDTH}}  FAILED: {error!r}")
            continue
        wire = outcome.wire or ""
        print(
            f"{attack.name[:NAME_WIDTH]:{NAME_WIDTH}}  {wire:>5}  {outcome.seconds:7.3f}  "
            f"{outcome.longest_seconds:7.3f}  {outcome.peak / MIB:7.2f}  {outcome.steps:6}  "
            f"{told(outcome.error)[:ERROR_WIDTH]}"
        )
    return failures


def carry_out_and_print_clients(attacks: Sequence[_field.ClientAttack], certificates: Certificates | None) -> int:
    """Return how many failed."""
    failures = 0
    for attack in attacks:
        try:
            outcome = trio.run(_field.carry_out, attack, certificates, MAX_CLIENT_SECONDS)
            _field.check(attack, outcome)
        except Exception as error:  # noqa: BLE001  # as above
            failures += 1
            print(f"{attack.name[:NAME_WIDTH]:{NAME_WIDTH}}  FAILED: {error!r}")
            continue
        log = re.sub(r"127\.0\.0\.1:\d+", "a client", outcome.records[-1].getMessage()) if outcome.records else "-"
        print(
            f"{attack.name[:NAME_WIDTH]:{NAME_WIDTH}}  {outcome.seconds:7.3f}  {outcome.latency:7.3f}  "
            f"{outcome.longest_seconds:7.3f}  {outcome.peak / MIB:7.2f}  {outcome.steps:7}  {log[:ERROR_WIDTH]}"
        )
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile", description="Hostile servers, and hostile clients, one after another."
    )
    parser.add_argument("pattern", nargs="?", default="", help="a regular expression: only attacks whose name has it")
    pattern = re.compile(parser.parse_args().pattern)
    with tempfile.TemporaryDirectory() as scratch:
        return carry_out_all(pattern, Certificates.new(Path(scratch) / "keys"))


def carry_out_all(pattern: re.Pattern[str], certificates: Certificates) -> int:
    """Carry out what matches, and print it; return whether something failed."""
    start = time.perf_counter()
    carried_out = failures = 0
    for protocol in ("TCP", "TLS"):
        for group, attacks in GROUPS.items():
            left_out = [attack for attack in attacks if (attack.tls_only if protocol == "TCP" else attack.tcp_only)]
            chosen = [attack for attack in attacks if attack not in left_out and pattern.search(attack.name)]
            if not chosen:
                continue
            print(f"\n{f'{group}, over {protocol}':{NAME_WIDTH}}  close  seconds  longest      MiB   steps  error")
            failures += carry_out_and_print(chosen, certificates if protocol == "TLS" else None)
            carried_out += len(chosen)
        for group, onslaughts in CLIENT_GROUPS.items():
            possible = [one for one in onslaughts if not (one.tls_only if protocol == "TCP" else one.tcp_only)]
            wanted = [one for one in possible if pattern.search(one.name)]
            if not wanted:
                continue
            title = f"{group} of clients, over {protocol}"
            print(f"\n{title:{NAME_WIDTH}}  seconds  latency  longest      MiB    steps  log")
            failures += carry_out_and_print_clients(wanted, certificates if protocol == "TLS" else None)
            carried_out += len(wanted)
    print(f"\n{carried_out} attacks in {time.perf_counter() - start:.0f} s, {failures} failures")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
