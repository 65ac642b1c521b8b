"""What documents say about performance, held against the figures of a run.

A page says in comments, which no reader sees, what its words mean in terms of the figures. They stand at the end of a
paragraph, a line each: at the beginning of a line a comment ends the paragraph.

    <!-- 9.8 is: EXPRESSION -->     the paragraph has this number; it is the expression's value, as far as it is written
    <!-- holds: EXPRESSION -->      what the paragraph says is true if the expression is
    <!-- not measured: REASON -->   the paragraph is not about the figures
    <!-- costs: PREFIX -->          in the table that follows, each row is a workload of that prefix, and each cell the
                                    cost of a peer in multiples of csp's: as `table` writes it

Costs can only be told apart if all rounds agree about which is lower: that is what `cheaper` and `dearer` ask.
"""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING

from benchmarks.design import BOUNDS, format_design
from benchmarks.meters.measure import Spread
from benchmarks.meters.report import format_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.meters.figures import Figures
    from benchmarks.meters.measure import Result

_MARK = re.compile(r"<!-- (?:(?P<number>[\d.,]+) )?(?P<kind>is|holds|costs|not measured):(?P<code>.*?)-->", re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_COMPARES = re.compile(
    r"\d|\b(cost|costs|cheaper|dearer|less|more|faster|slower|times|half|quarter|fifth|third|same|as much)\b"
)
SIZES = ("32 B", "1 KiB", "16 KiB", "1 MiB")


class Statements:
    """Judges pages by the figures of a run."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._results = {result.workload.name: result for result in figures.results}
        self._clients = tuple(self._results["WebSocket receive, 32 B"].peers)
        self.not_met: set[tuple[str, str]] = set()
        """The bounds that a page was found to call not met: their work and peer."""

    def wrong(self, text: str) -> list[str]:
        """Return what a page says that its figures do not."""
        return [error for mark in _MARK.finditer(text) if (error := self._wrong(text, mark))]

    def _wrong(self, text: str, mark: re.Match[str]) -> str:
        kind, code = mark["kind"], mark["code"].strip()
        if kind == "not measured":
            return "" if code else "the reason is missing"
        if kind == "costs":
            header, rows = _table_after(text[mark.end() :])
            right = self.table(code, header, [row.split("|")[1].strip() for row in rows])
            return "" if rows == right else "the table should be\n" + "\n".join(right)
        paragraph = re.split(r"\n\n|\n(?=- )", text[: mark.start()])[-1]
        value = eval(code, self._names(paragraph))
        if kind == "holds":
            return "" if value is True else f"does not hold: {code}"
        number = mark["number"] or ""
        if number not in _NUMBER.findall(_MARK.sub("", paragraph)):
            return f"the paragraph does not say {number}: {code}"
        decimals = len(number.partition(".")[2])
        return "" if number.replace(",", "") == f"{value:.{decimals}f}" else f"{number} is {value:.5g}: {code}"

    def _names(self, paragraph: str) -> dict[str, object]:
        """Return what expressions may use."""
        ways = [f"WebSocket {way}{over}, " for way in ("receive", "send") for over in ("", " over TLS")]
        return {
            "CLIENTS": self._clients,
            "IDLE": "memory, an idle WebSocket connection",
            "SIZES": SIZES,
            "WEBSOCKET": tuple(way + size for way in ways for size in SIZES),
            "bounds": self.bounds,
            "cheaper": self.cheaper,
            "cost": self.cost,
            "dearer": self.dearer,
            "environment": lambda: self._describes_environment(paragraph),
            "except_for": _except_for,
            "missed": self.missed,
            "of": _of,
            "ratio": self.ratio,
            "times": self.times,
            "unclear": self.unclear,
        }

    def cost(self, row: str, peer: str = "csp") -> float:
        """Return the median cost of csp, or of a peer."""
        result = self._results[row]
        return statistics.median(result.csp if peer == "csp" else result.peers[peer])

    def ratio(self, row: str, peer: str) -> float:
        """Return the median of csp's cost over a peer's."""
        return self._ratio(row, peer).median

    def times(self, row: str, peer: str) -> float:
        """Return the median of a peer's cost over csp's."""
        return 1 / self.ratio(row, peer)

    def cheaper(self, peer: str, *rows: str) -> bool:
        """Tell whether csp costs less than a peer in every round of all of these rows."""
        return bool(rows) and all(self._ratio(row, peer).highest < 1 for row in rows)

    def dearer(self, peer: str, *rows: str) -> bool:
        """Tell whether csp costs more than a peer in every round of all of these rows."""
        return bool(rows) and all(self._ratio(row, peer).lowest > 1 for row in rows)

    def unclear(self, peer: str, *rows: str) -> bool:
        """Tell whether in each of these rows there are rounds of both kinds."""
        return bool(rows) and all(_disagree(self._ratio(row, peer)) for row in rows)

    def _ratio(self, row: str, peer: str) -> Spread:
        return Spread.of(self._results[row].ratios(peer))

    def bounds(self, *, met: bool | None = None) -> int:
        """Return how many bounds the design has, or how many are met or not."""
        verdicts = [line.split("|")[-2].strip() for line in format_design(self._figures.results).splitlines()[2:]]
        return len([verdict for verdict in verdicts if met is None or verdict == ("met" if met else "not met")])

    def missed(self, work: str, peer: str = "") -> float:
        """Return the worst figure of a bound that is not met, and note that a page says so."""
        (bound,) = (bound for bound in BOUNDS if (bound.work, bound.peer) == (work, peer))
        figures = [bound.figure(self._results[name]) for name in bound.workloads]
        worst = min(figures) if bound.kind == "rate" else max(figures)
        met = worst >= bound.limit if bound.kind == "rate" else worst <= bound.limit
        assert not met, f"{work} is met"
        self.not_met.add((work, peer))
        return worst

    def table(self, prefix: str, header: str, rows: Sequence[str]) -> list[str]:
        """Return the rows of a table that has these workloads and the peers of its header."""
        peers = [cell.strip() for cell in header.split("|")[3:-1]]
        return [self._row(self._results[f"{prefix} {row}".strip()], row, peers) for row in rows]

    def _row(self, result: Result, name: str, peers: Sequence[str]) -> str:
        cost = statistics.median(result.csp)
        cells = [name, f"{cost:.0f}" if cost >= 100 else f"{cost:.2f}"]
        for peer in peers:
            if peer in result.peers:
                spread = Spread.of([1 / ratio for ratio in result.ratios(peer)])
                cells.append(f"{'≈ ' if _disagree(spread) else ''}{format_ratio(spread.median)}")
            else:
                cells.append("\N{EN DASH}")
        return f"| {' | '.join(cells)} |"

    def _describes_environment(self, paragraph: str) -> bool:
        """Tell whether a paragraph names the machine, and no version but those of the figures."""
        environment = self._figures.environment
        said = set(re.findall(r"(?<=[:,] )([\w-]+ [\d.]+\d)", " ".join(paragraph.split())))
        known = {environment["python"], *(f"{name} {version}" for name, version in environment.items())}
        return environment["machine"] in paragraph and len(said) > 5 and said <= known


def _of(*sizes: str) -> tuple[str, ...]:
    """Return the WebSocket rows of these sizes, over plain TCP."""
    return tuple(f"WebSocket {way}, {size}" for way in ("receive", "send") for size in sizes)


def _except_for(rows: Sequence[str], *ends: str) -> tuple[str, ...]:
    return tuple(row for row in rows if not row.endswith(ends))


def _disagree(spread: Spread) -> bool:
    return spread.lowest <= 1 <= spread.highest


def _table_after(text: str) -> tuple[str, list[str]]:
    """Return the header of the table that comes next, and its rows."""
    lines = text.strip().split("\n\n")[0].splitlines()
    return lines[0], lines[2:]


def unmarked(text: str) -> Iterator[str]:
    """Yield what is not held by anything: paragraphs that compare or have a number, and numbers with decimals."""
    text = re.sub(r"^```.*?^```$|^\|.*?$|^#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\n|\n(?=- )", text):
        said = re.sub(r"!?\[[^]]*\]\([^)]*\)(\{[^}]*\})?|`[^`]*`", "", paragraph)
        marks = list(_MARK.finditer(paragraph))
        if _COMPARES.search(said) and not marks:
            yield paragraph
        claimed = [mark["number"] for mark in marks]
        yield from (
            number for number in _NUMBER.findall(_MARK.sub("", said)) if "." in number and number not in claimed
        )
