"""Random programs that mix everything: several tasks at each end of each connection do what users' tasks do.

They send messages whole and in pieces, from iterables that are slow, raise, or never end; receive in each way, also as
streams that are left early; ping and wait for the pong; come and go in hubs and broadcast; stop receiving for a while,
close, raise, and are cancelled at any step, while the server may close, stop or be cancelled. Options are random too,
frames are logged in some and telemetry watches others. Whatever they do: nothing hangs, messages come whole, once
and in order, nothing is lost but what was cut, dropped by a hub or left, both ends agree on the close and the counts,
nothing but what the program raises is logged as an error, and nothing is left.

``CSP_PROGRAMS=20000 pytest tests/websocket/whole/test_mixed_programs.py`` runs as many programs, other ones each time;
a failure shows its seed, and ``CSP_SEED`` is that of the first.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import register_random
from trio._core import _run as trio_run
from trio.testing import MockClock

from csp._core import select
from tests.websocket._peers import open_sockets
from tests.websocket.telemetry._exported import instrumented
from tests.websocket.whole._mixed_ends import OwnError
from tests.websocket.whole._mixed_program import Program

if TYPE_CHECKING:
    from collections.abc import Generator

# As hypothesis is loaded, the order in which Trio runs tasks depends on its seed only.
register_random(select._rng)

LONG_RUN = os.environ.get("CSP_PROGRAMS")
FIRST = int(os.environ.get("CSP_SEED") or (time.time_ns() // 1000 if LONG_RUN else 0))
PARTS = 10
PROGRAMS = int(LONG_RUN or 300) // PARTS
# What was done: programs that do nothing show nothing.
counts: Counter[str] = Counter()


class Ear(logging.Filter):
    """Looks at all that is logged; what is logged as more than information must be of the program's own making."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        own = record.exc_info and isinstance(record.exc_info[1], OwnError)
        if record.levelno > logging.INFO and not own:
            self.faults.append(f"{text}: {record.exc_info and record.exc_info[1]!r}")
        return False


@pytest.fixture
def ear() -> Generator[Ear]:
    ear = Ear()
    names = ("", ".client", ".server", ".frames", ".telemetry")
    loggers = [logging.getLogger(f"csp.websocket{name}") for name in names]
    for logger in loggers:
        logger.addFilter(ear)
    yield ear
    for logger in loggers:
        logger.removeFilter(ear)
        logger.setLevel(logging.NOTSET)


def run(seed: int, ear: Ear) -> None:
    """Run one program, always in the same way."""
    trio_run._r.seed(seed)
    select._rng.seed(seed)
    before = open_sockets()
    program = Program(seed)
    logging.getLogger("csp.websocket.frames").setLevel(logging.DEBUG if seed % 7 == 0 else logging.INFO)
    try:
        if seed % 10 == 3:
            with instrumented() as exported:
                trio.run(program.run, clock=MockClock(autojump_threshold=0))
            assert len(exported.spans("connect")) >= sum("client" in pair.ends for pair in program.pairs.values())
            assert len(exported.spans("accept")) >= sum("server" in pair.ends for pair in program.pairs.values())
        else:
            trio.run(program.run, clock=MockClock(autojump_threshold=0))
        program.check()
        assert ear.faults == [], ear.faults
        assert open_sockets() == before, (open_sockets(), before)
        program.count(counts)
    except BaseException as error:
        error.add_note(f"of the program with the seed {seed}, {program.link}, {program.mood}, {program.end}")
        raise


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_users_mix_nothing_hangs_is_lost_or_left(part: int, ear: Ear) -> None:
    for number in range(PROGRAMS):
        run(FIRST + part * PROGRAMS + number, ear)


def test_the_programs_have_shown_something(ear: Ear) -> None:
    for seed in range(60):
        run(seed, ear)
    for what in (
        "sent",
        "doomed",
        "posted",
        "droppable",
        "received whole",
        "left early",
        "1000",
        "1001",
        "1006",
        "1011",
    ):
        assert counts[what] > 0, what


@pytest.fixture(scope="module", autouse=True)
def _summary() -> Generator[None]:
    yield
    print("\nprograms:", ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))  # shown by -s
