"""A side in a process of its own, as a user's program is one.

In a process that measures several libraries, what one does to the allocator, the peers have too: glibc raises its
thresholds once a large block was given back, and a library that makes large blocks then no longer pays for each page of
them. In one shared process, messages of 1 MiB seemed nine times as cheap as they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHECKOUT = Path(__file__).parents[2]
_TIME_LIMIT_SECONDS = 600.0


class SideError(Exception):
    """A side that could not be measured."""


def measure_apart(name: str, side: str, count: int, warm_up: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """Measure one side of one workload in a process that does nothing else.

    Args:
        name: of the workload.
        side: ``csp`` or the name of a peer.
        count: how many operations are measured.
        warm_up: how many are performed before.
        environment: what is added to this process's own.

    Returns ``cost`` and, of a client, ``busy``: see `ClientTime`.

    Raises:
        SideError: it failed.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--child", name, side, str(count), "--warm-up", str(warm_up)],
        cwd=_CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT_SECONDS,
        check=False,
    )
    if finished.returncode:
        raise SideError(f"{side} of {name!r} failed:\n{finished.stderr}")
    measured: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return measured
