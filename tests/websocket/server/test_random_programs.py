"""Random programs: a server, its clients, and what each end does at random moments.

Handlers and clients accept, reject, send, ping and wait for the pong, stop receiving, close, leave and raise; what they
do is cancelled in its middle; the server stops, closes, fails or is cancelled. Whatever they do: nothing hangs, nothing
is raised that is not documented, messages come once and in order, both ends agree on the close, the statistics add up,
a client that behaves is served, and nothing is left.

``CSP_PROGRAMS=20000 pytest tests/websocket/server/test_random_programs.py`` runs as many programs in memory, and one
in twenty over sockets, other ones each time; a failure shows its seed.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

import pytest
import trio
from hypothesis import register_random
from trio._core import _run as trio_run
from trio.testing import MockClock

from csp._core import select
from tests.websocket._peers import open_sockets
from tests.websocket.server._ends import OwnError
from tests.websocket.server._lobby import LOGGER
from tests.websocket.server._program import Program

if TYPE_CHECKING:
    from collections.abc import Generator

# As hypothesis is loaded, the order in which Trio runs tasks depends on its seed only.
register_random(select._rng)

LONG_RUN = os.environ.get("CSP_PROGRAMS")
FIRST = time.time_ns() // 1000 if LONG_RUN else 0
PARTS = 10
IN_MEMORY = int(LONG_RUN or 120) // PARTS
OVER_SOCKETS = max(1, IN_MEMORY // 20)
# Over sockets a program's seconds pass so much faster.
RATE = 100


class Ear(logging.Filter):
    """Counts what the server logs by its first word; what it logs as an error must be of the program's own making.

    It lets no handler have the records: their tracebacks would keep connections alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()
        self.faults: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.DEBUG:
            self.lines[str(record.msg).split(" ", 1)[0]] += 1
        elif record.levelno > logging.INFO and not (record.exc_info and isinstance(record.exc_info[1], OwnError)):
            self.faults.append(record.getMessage())
        return False


@pytest.fixture
def ear() -> Generator[Ear]:
    """Listen to the log; and spare `gc.collect` what was there before."""
    logger, ear = logging.getLogger(LOGGER), Ear()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addFilter(ear)
    gc.collect()
    gc.freeze()
    yield ear
    gc.unfreeze()
    logger.removeFilter(ear)
    logger.setLevel(level)


def run(seed: int, link: Literal["memory", "sockets"], ear: Ear) -> None:
    """Run one program, always in the same way if it is in memory."""
    ear.lines.clear()
    trio_run._r.seed(seed)
    select._rng.seed(seed)
    before = open_sockets()
    program = Program(seed, link)
    program.lines = ear.lines
    clock = MockClock(autojump_threshold=0) if link == "memory" else MockClock(rate=RATE)
    try:
        trio.run(program.run, clock=clock)
        program.check()
        assert ear.faults == []
        assert open_sockets() == before
    except BaseException as error:
        error.add_note(f"of the program with the seed {seed}, {link}")
        raise


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_the_ends_do_nothing_hangs_is_lost_or_left(part: int, ear: Ear) -> None:
    for number in range(IN_MEMORY):
        run(FIRST + part * IN_MEMORY + number, "memory", ear)


@pytest.mark.parametrize("part", range(PARTS))
def test_the_same_over_sockets(part: int, ear: Ear) -> None:
    for number in range(OVER_SOCKETS):
        run(FIRST + part * OVER_SOCKETS + number, "sockets", ear)
