"""The command line client as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO


def environment() -> dict[str, str]:
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def start(*arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "csp.websocket", *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
    )
