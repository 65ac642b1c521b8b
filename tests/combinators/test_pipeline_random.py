"""`pipeline` at random: whatever fails and whenever, the results, the cause and its notes are those they have to be."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

import csp
from tests.combinators._filled import filled

if TYPE_CHECKING:
    from trio.testing import MockClock

VALUES = list(range(12))
PROGRAMS = 100


class Program:
    """Calls that take their time, fail, or raise when they are cancelled; and a receiver that may be slow."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        chosen = random.Random(seed)
        self.ordered = chosen.random() < 0.5
        self.workers = chosen.randint(1, 4)
        self.slowness = chosen.choice([0, 0, 0.5, 3])
        self.seconds = [chosen.choice([0, 1, 2, 5, chosen.random()]) for _ in VALUES]
        self.failing = {value for value in VALUES if chosen.random() < 0.15}
        self.failing_when_cancelled = {value for value in VALUES if chosen.random() < 0.3}
        # What became of the values, in the order in which it did.
        self.begun: list[int] = []
        self.done: list[int] = []
        self.failed: list[int] = []
        self.cancelled: list[int] = []
        self.received: list[int] = []
        self.cause: BaseException | None = None

    async def work(self, value: int) -> int:
        assert not self.failed, self.seed  # nothing is begun after a failure
        self.begun.append(value)
        try:
            await trio.sleep(self.seconds[value])
        except trio.Cancelled:
            self.cancelled.append(value)
            if value in self.failing_when_cancelled:
                raise ValueError(value) from None
            raise
        if value in self.failing:
            self.failed.append(value)
            raise KeyError(value)
        self.done.append(value)
        return value

    async def run(self) -> None:
        results = csp.pipeline(filled(*VALUES), self.work, workers=self.workers, ordered=self.ordered)
        async with results as source:
            while (r := await source.receive()).ok:
                self.received.append(r.value)
                await trio.sleep(self.slowness)
            self.cause = source.cause
        assert sorted(self.begun) == sorted(self.done + self.failed + self.cancelled), self.seed

    def check(self) -> None:
        if not self.failed:
            assert self.cause is None, self.seed
            assert sorted(self.received) == VALUES, self.seed
            assert not self.ordered or self.received == VALUES, self.seed
            return
        first = min(self.failed) if self.ordered else self.failed[0]
        assert repr(self.cause) == f"KeyError({first})", self.seed
        if self.ordered:
            assert self.received == VALUES[:first], self.seed
            assert min(self.cancelled, default=first + 1) > first, self.seed
        else:
            assert sorted(self.received) == sorted(self.done), self.seed
        others = [f"KeyError({value})" for value in self.failed if value != first]
        others += [f"ValueError({value})" for value in self.cancelled if value in self.failing_when_cancelled]
        expected = sorted(f"another call of the pipeline raised, too: {other}" for other in others)
        notes = [note.rpartition(" (")[0] for note in getattr(self.cause, "__notes__", [])]
        assert sorted(notes) == expected, self.seed


@pytest.mark.parametrize("part", range(2))
async def test_results_cause_and_notes_are_as_they_have_to_be(autojump_clock: MockClock, part: int) -> None:
    for number in range(PROGRAMS // 2):
        program = Program(1000 * part + number)
        with trio.fail_after(1000):
            await program.run()
        program.check()
