"""What workers have written of their work, and whether it was done as promised."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Line(NamedTuple):
    """Something that a worker has done."""

    what: str
    value: str
    attempt: int
    moment: float
    worker: int


@dataclass
class Journal:
    """What workers have done."""

    lines: list[Line]
    died: dict[int, float] = field(default_factory=dict[int, float])
    """When workers have died, by their process id."""

    @property
    def done(self) -> set[str]:
        """The values that were done at least once."""
        return {line.value for line in self.lines if line.what == "end"}

    @property
    def redone(self) -> int:
        """How often a value was done that had been done before."""
        return sum(1 for line in self.lines if line.what == "end") - len(self.done)

    def overlaps(self) -> list[tuple[Line, Line]]:
        """Return the pairs of a value's beginnings of which the second came while another worker was at work on it.

        A worker is at work from "begin" to the line that follows it, or until it has died.
        """
        ends: dict[tuple[str, int, int], float] = {
            (line.value, line.attempt, line.worker): line.moment for line in self.lines if line.what != "begin"
        }
        begun: defaultdict[str, list[Line]] = defaultdict(list)
        for line in sorted(self.lines, key=lambda line: line.moment):
            if line.what == "begin":
                begun[line.value].append(line)
        found: list[tuple[Line, Line]] = []
        for beginnings in begun.values():
            for first, second in pairwise(beginnings):
                key = (first.value, first.attempt, first.worker)
                if second.moment < ends.get(key, self.died.get(first.worker, float("inf"))):
                    found.append((first, second))
        return found


def read(paths: Iterable[Path]) -> Journal:
    """Read what workers have written, up to what they write at this moment."""
    lines: list[Line] = []
    for path in paths:
        for text in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
            parts = text.split(" ")
            if len(parts) == 5:
                lines.append(Line(parts[0], parts[1], int(parts[2]), float(parts[3]), int(parts[4])))
    return Journal(lines)
