"""Queues and topics of a Redis server: csp's, next to coredis, on whose connection csp.redis is built.

Each side is a process of its own, and so is the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.meters.across import Asked, possible
from benchmarks.meters.measure import Measure, Workload, fewer
from benchmarks.peers.redis_load import CONNECTIONS, SERVERS, feed

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = "redis"
BARE = "bare connection"
COREDIS = "coredis"
ONE_BY_ONE = "coredis, one at a time"

_WORK_CAPACITY = 256
RECEIVE_TARGETS: Mapping[int, float] = {64: 1.7, 256: 2.2}
"""The design's bounds on csp's cost over that of the bare connection, by the capacity."""
LATENCY_TARGET = 1.6
WORK_TARGET = round(1e6 / 12_000, 1)
"""Microseconds a value, which are 12,000 values a second."""


def _row(
    name: str,
    ours: Measure,
    peers: Mapping[str, Measure],
    count: int,
    *,
    ratio_targets: Mapping[str, float] | None = None,
    cost_target: float | None = None,
) -> Workload:
    return Workload(
        name, ours, peers, count, "us", ratio_targets or {}, cost_target=cost_target, group=GROUP, apart=False
    )


def _rows() -> tuple[Workload, ...]:
    return (
        *(
            _row(
                f"Redis topic, receive, capacity {capacity}",
                Asked("csp", "receive", (capacity,), filled=True),
                {side: Asked(side, "receive", (capacity,), filled=True) for side in (BARE, COREDIS)},
                20_000,
                ratio_targets={BARE: target},
            )
            for capacity, target in RECEIVE_TARGETS.items()
        ),
        *(
            _row(
                f"Redis topic, latency, p{percent}",
                Asked("csp", "latency", (percent,), takes_turns=True),
                {COREDIS: Asked(COREDIS, "latency", (percent,), takes_turns=True)},
                2000,
                ratio_targets={COREDIS: LATENCY_TARGET} if percent == 50 else {},
            )
            for percent in (50, 99)
        ),
        _row(
            "Redis queue, work",
            Asked("csp", "work", (_WORK_CAPACITY,)),
            {
                COREDIS: Asked(COREDIS, "work", (_WORK_CAPACITY,)),
                ONE_BY_ONE: fewer(Asked(COREDIS, "work, one at a time"), 10),
            },
            10_000,
            cost_target=WORK_TARGET,
        ),
        *(
            _row(
                f"Redis queue, send, {tasks} at a time",
                Asked("csp", "send", (tasks,), takes_turns=tasks == 1),
                {COREDIS: Asked(COREDIS, "send", (tasks,), takes_turns=tasks == 1)},
                5000,
            )
            for tasks in (1, 32)
        ),
        _row(f"Redis topic, {SERVERS} processes of {CONNECTIONS // SERVERS} connections", feed, {}, 200_000),
    )


WORKLOADS = _rows() if possible() else ()
