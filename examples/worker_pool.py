"""A worker pool: the SHA-256 of every file under a folder, four at a time, in the order of their names."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from typing import TYPE_CHECKING

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio

import csp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


async def files(folder: trio.Path) -> AsyncGenerator[trio.Path]:
    """Give the files under a folder, by name."""
    for path in sorted(await folder.rglob("*")):
        if await path.is_file():
            yield path


async def digest(path: trio.Path) -> str:
    """Return the line about a file, which is read in a thread, so that four of them are read at once."""
    try:
        content = await path.read_bytes()
    except OSError as error:
        return f"{error.strerror}  {path}"
    return f"{await trio.to_thread.run_sync(lambda: hashlib.sha256(content).hexdigest())}  {path}"


async def main(folder: str) -> None:
    """Print a line for each file as soon as it and those before it are done."""
    if not await trio.Path(folder).is_dir():
        sys.exit(f"worker_pool: {folder} is no folder")
    async with (
        csp.from_signals(signal.SIGINT) as stop,
        csp.from_async_iterable(files(trio.Path(folder))) as paths,
        csp.pipeline(paths, digest, workers=4) as digests,
    ):
        while (r := await csp.select(stop.case_receive(), digests.case_receive(), priority=True)).ok:
            if stop.gave(r):
                sys.exit(130)
            print(r.value)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else ".")
