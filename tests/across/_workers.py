"""Worker processes for the scenarios: started, killed, stopped, and what they have done."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.across import _journal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# Servers run on systems that have these.
STOP, CONTINUE = (getattr(signal, name, signal.SIGTERM) for name in ("SIGSTOP", "SIGCONT"))
ROOT = Path(__file__).parents[2]


def variables() -> dict[str, str]:
    """Return the environment variables with which a process finds the checkout."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "drivers"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


class Workers:
    """Worker processes of one queue."""

    def __init__(self, url: str, queue: str, lease: str, folder: Path, poison: str | None) -> None:
        self._arguments = (url, queue, lease)
        self._folder = folder
        self._poison = poison
        self._number = 0
        self._files: list[Path] = []
        self.died: dict[int, float] = {}
        self.processes: list[trio.Process] = []

    async def start(self, *, consumer: str | None = None) -> trio.Process:
        """Start another worker."""
        url, queue, lease = self._arguments
        self._number += 1
        file = self._folder / f"{self._number}.txt"
        self._files.append(file)
        command = [sys.executable, "-m", "tests.across.worker", url, queue, consumer or f"worker-{self._number}", lease]
        command += [str(file), *(["--poison", self._poison] if self._poison else [])]
        process = await trio.lowlevel.open_process(command, env=variables(), stdin=None, stderr=None)
        self.processes.append(process)
        return process

    async def kill(self, process: trio.Process) -> None:
        """Kill a worker with SIGKILL, and wait until it is gone."""
        process.kill()
        await process.wait()
        self.died[process.pid] = time.monotonic()

    @staticmethod
    def stop(process: trio.Process) -> None:
        process.send_signal(STOP)

    @staticmethod
    def resume(process: trio.Process) -> None:
        process.send_signal(CONTINUE)

    def journal(self) -> _journal.Journal:
        """Return what was done so far."""
        found = _journal.read(self._files)
        found.died = dict(self.died)
        return found


@asynccontextmanager
async def workers(url: str, queue: str, *, lease: str, poison: str | None = None) -> AsyncGenerator[Workers]:
    """Have worker processes for the length of a block; they are killed at its end."""
    with tempfile.TemporaryDirectory(prefix="csp-across-") as folder:
        group = Workers(url, queue, lease, Path(folder), poison)
        try:
            yield group
        finally:
            with trio.CancelScope(shield=True):
                for process in group.processes:
                    if process.returncode is None:
                        process.send_signal(CONTINUE)
                        await group.kill(process)
