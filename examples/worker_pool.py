"""A worker pool: the SHA-256 of every file under a folder, four at a time, in the order of their names."""

from __future__ import annotations

import hashlib
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

import trio

import csp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Digest(NamedTuple):
    """A file and what came of it."""

    path: trio.Path
    text: str


async def files(folder: trio.Path) -> AsyncGenerator[trio.Path]:
    """Give the files under a folder, by name."""
    for path in sorted(await folder.rglob("*")):
        if await path.is_file():
            yield path


async def digest(path: trio.Path) -> Digest:
    """Read a file in a thread, so that four of them are read at once."""
    try:
        content = await path.read_bytes()
    except OSError as error:
        return Digest(path, str(error.strerror))
    return Digest(path, await trio.to_thread.run_sync(lambda: hashlib.sha256(content).hexdigest()))


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
            if not isinstance(r.value, Digest):
                sys.exit("interrupted")
            print(f"{r.value.text}  {r.value.path}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else ".")
