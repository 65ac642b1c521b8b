"""What the design asks of the costs: its table, each bound with the workloads that measure it.

A bound on several workloads is met when the worst of their medians meets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks.meters.measure import Result, Spread
from benchmarks.meters.report import format_ratio, format_table
from benchmarks.topics import across, channels, fan_in, timers, websocket_served

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Bound:
    """What is asked of one figure of some workloads.

    Attributes:
        work: what is done, in the words of the table.
        kind: ``cost`` is csp's cost over the peer's, ``rate`` the inverse of that, anything else the unit of csp's own
            cost. A rate is bounded from below, the others from above.
        limit: the bound itself.
        peer: whose cost is compared, or nothing where csp's own cost is bounded.
        workloads: their names.
    """

    work: str
    kind: Literal["cost", "rate", "us", "B", "MiB"]
    limit: float
    peer: str
    workloads: tuple[str, ...]

    def describe(self) -> str:
        """Return the bound as text."""
        if self.kind == "rate":
            return f"rate >= {self.limit:g} x {self.peer}"
        if self.kind == "cost":
            return f"cost <= {self.limit:g} x {self.peer}"
        return f"<= {_amount(self.limit, self.kind)}"

    def format(self, value: float) -> str:
        """Return one of the figures as text."""
        return f"{format_ratio(value)} x" if self.peer else _amount(value, self.kind)

    def figure(self, result: Result) -> float:
        """Return the median of the figure that is bounded."""
        if self.kind == "cost":
            return Spread.of(result.ratios(self.peer)).median
        if self.kind == "rate":
            return 1 / Spread.of(result.ratios(self.peer)).median
        if result.workload.unit != self.kind:
            raise ValueError(f"{result.workload.name} is measured in {result.workload.unit}, not in {self.kind}")
        return Spread.of(result.csp).median


def _amount(value: float, unit: str) -> str:
    if unit == "B" and value >= 1024:
        return f"{value / 1024:.3g} KiB"
    return f"{value:.3g} {unit}"


def _cost(work: str, limit: float, peer: str, *workloads: str) -> Bound:
    return Bound(work, "cost", limit, peer, workloads or (work,))


def _rate(work: str, limit: float, peer: str, *workloads: str) -> Bound:
    return Bound(work, "rate", limit, peer, workloads or (work,))


def _own(work: str, limit: float, unit: Literal["us", "B", "MiB"]) -> Bound:
    return Bound(work, unit, limit, "", (work,))


_RAW = "trio-websocket"
_BOTH_SMALL = ("32 B", "1 KiB")
_ECHO = "WebSocket server, echo"
_TO_WEBSOCKETS = websocket_served.WEBSOCKETS
_TO_ALL = "WebSocket server, one message to 500 connections"

BOUNDS = (
    _cost(
        "1 to 1, capacity 100, receive and async for",
        0.20,
        channels.PEER,
        "1 to 1, capacity 100",
        "1 to 1, capacity 100, async for",
    ),
    _cost("1 to 1, unbuffered; ping-pong", 0.60, channels.PEER, "1 to 1, unbuffered", "ping-pong"),
    _cost("Selector, N busy, N = 2 to 4096", 0.55, fan_in.PEER, *(f"Selector, {size} busy" for size in fan_in.SIZES)),
    _cost(
        "Selector, 1 busy of N, N = 8 to 4096",
        0.65,
        fan_in.PEER,
        *(f"Selector, 1 busy of {size}" for size in fan_in.SIZES if size >= 8),
    ),
    _cost("Selector, 1 busy of 4096 or of 8", 1.3, "Selector of 8"),
    _cost("Selector, 1 busy of 64", 1, fan_in.GO),
    _rate("Selector, 1 busy of 4096", 100, fan_in.GO),
    _cost("select, 8 busy", 0.65, fan_in.PEER),
    _cost("select, 1 busy of 8", 0.85, fan_in.PEER),
    _cost("select, 8 busy, and 1 busy of 8", 0.45, fan_in.AIOCHAN, "select, 8 busy", "select, 1 busy of 8"),
    _own("select, parked, one more case", 0.15, "us"),
    _cost(
        "select with a new after, capacity 100 and unbuffered",
        0.50,
        timers.PEER,
        "select with a new after, capacity 100",
        "select with a new after, unbuffered",
    ),
    _own("memory, an idle unbuffered channel", 250, "B"),
    _cost("memory, a buffer that was used", 1.2, channels.PEER),
    _rate("WebSocket receive, 32 B and 1 KiB", 10, _RAW, *(f"WebSocket receive, {size}" for size in _BOTH_SMALL)),
    _rate("WebSocket receive, 32 B", 4, "websockets (trio)"),
    _rate("WebSocket receive, 1 KiB", 3, "websockets (trio)"),
    _cost("WebSocket receive, 32 B and 1 KiB", 4, "picows", *(f"WebSocket receive, {size}" for size in _BOTH_SMALL)),
    _rate("WebSocket receive, 16 KiB", 10, _RAW),
    _rate("WebSocket receive, 1 MiB", 4.5, _RAW),
    _rate("WebSocket send, 32 B and 1 KiB", 8, _RAW, *(f"WebSocket send, {size}" for size in _BOTH_SMALL)),
    _rate("WebSocket send, 16 KiB", 7, _RAW),
    _rate("WebSocket send, 1 MiB", 3.5, _RAW),
    _rate(
        "WebSocket over TLS, 32 B and 16 KiB, both ways",
        2,
        _RAW,
        *(f"WebSocket {way} over TLS, {size}" for way in ("receive", "send") for size in ("32 B", "16 KiB")),
    ),
    _rate("WebSocket ping-pong, 32 B", 1.7, _RAW),
    _rate("WebSocket, 500 connections into one Selector", 10, _RAW),
    _rate("WebSocket receive compressed, 1 KiB", 4, _RAW),
    _cost("WebSocket receive compressed, 1 KiB", 1.4, "picows.websockets"),
    _own("memory, an idle WebSocket connection", 20 * 1024, "B"),
    _own("memory, a 1 MiB frame that inflates to 1 GiB", 8, "MiB"),
    _cost(f"{_ECHO} 32 B, 32 in flight", 0.27, _RAW),
    _cost(f"{_ECHO} 32 B, 32 in flight", 0.80, _TO_WEBSOCKETS),
    _cost(f"{_ECHO} 32 B, 1 in flight", 0.55, _RAW),
    _cost(f"{_ECHO} 32 B, 1 in flight", 1.30, _TO_WEBSOCKETS),
    _cost(f"{_ECHO} 16 KiB, 8 in flight", 0.20, _RAW),
    _cost(f"{_ECHO} 16 KiB, 8 in flight", 1.05, _TO_WEBSOCKETS),
    _cost(f"{_ECHO} 16 KiB, 1 in flight", 0.28, _RAW),
    _cost(f"{_ECHO} 16 KiB, 1 in flight", 1.25, _TO_WEBSOCKETS),
    _cost("WebSocket server, accept and close", 0.85, _RAW),
    _cost("WebSocket server, accept and close", 1.25, _TO_WEBSOCKETS),
    _own("memory, an idle connection of a WebSocket server", 11 * 1024, "B"),
    _cost(_TO_ALL, 0.70, websocket_served.ONE_BY_ONE),
    *(
        _cost(f"Redis topic, receive, capacity {capacity}", limit, across.BARE)
        for capacity, limit in across.RECEIVE_TARGETS.items()
    ),
    _own("Redis queue, work", across.WORK_TARGET, "us"),
    _cost("Redis topic, latency, p50", across.LATENCY_TARGET, across.COREDIS),
)
"""The design's table, in its order. Each bound speaks of the workload it is named for, or of those listed."""


def format_design(results: Sequence[Result]) -> str:
    """Return the table of the bounds, what was measured, and whether it meets them.

    Bounds on what was not run at all are left out.
    """
    by_name = {result.workload.name: result for result in results}
    return format_table(
        [
            ("work", "must be", "measured", "met"),
            *(
                (bound.work, bound.describe(), *_judge(bound, by_name))
                for bound in BOUNDS
                if by_name.keys() & bound.workloads
            ),
        ]
    )


def _judge(bound: Bound, results: dict[str, Result]) -> tuple[str, str]:
    """Return what was measured, and whether it meets the bound."""
    measured = [results[name] for name in bound.workloads if name in results]
    if len(measured) < len(bound.workloads):
        return "only in part", "not measured"
    if bound.peer and any(bound.peer not in result.peers for result in measured):
        return f"without {bound.peer}", "not measured"
    figures = sorted(bound.figure(result) for result in measured)
    met = figures[0] >= bound.limit if bound.kind == "rate" else figures[-1] <= bound.limit
    text = " - ".join(dict.fromkeys(bound.format(figure) for figure in (figures[0], figures[-1])))
    return text, "met" if met else "not met"
