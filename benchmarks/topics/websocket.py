"""WebSocket clients: csp's driver and its peers, against one server in a process and on a core of its own.

What counts begins when the connection is open and has been used a little, and ends when the last message has been
received, or, where messages are sent, when the server has said that all have come.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.meters.measure import Measure, Stopwatch, Workload
from benchmarks.meters.rig import CHECKOUT, WITH_TLS, Allocations, ClientTime, address, on_a_core, with_server
from benchmarks.peers.websocket_clients import (
    COMPRESSING_PEERS,
    CSP,
    CSP_CLIENT,
    CSP_FEED,
    CSP_ITERATING,
    CSP_MANY,
    MANY,
    PEERS,
    TRIO_WEBSOCKET,
    Library,
)
from benchmarks.peers.websocket_messages import WARM_UP, text
from benchmarks.topics.websocket_many import CONNECTIONS, clones, selector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from benchmarks.meters.measure import Meter

_GROUP = "WebSocket"
_SIZES = {
    "32 B": 32,
    "1 KiB": 1024,
    "16 KiB": 16 * 1024,
    "128 KiB": 128 * 1024,
    "1 MiB": 1024 * 1024,
    "4 MiB": 4 * 1024 * 1024,
}
_COUNTS = {"32 B": 20_000, "1 KiB": 10_000, "16 KiB": 1500, "128 KiB": 300, "1 MiB": 40, "4 MiB": 16}


async def _receive(
    size: int, library: Library, count: int, meter: Meter, *, secure: bool = False, compressed: bool = False
) -> None:
    kind = "compressed" if compressed else "flood"
    server = address(f"/{kind}/{size}/{count}", secure=secure)
    async with library.connect(server.url, server.tls, compressed=compressed) as connection:
        await connection.receive(WARM_UP)
        with meter:
            await connection.send("go", 1)
            await connection.receive(count)


async def _send(size: int, library: Library, count: int, meter: Meter, *, secure: bool = False) -> None:
    server = address(f"/sink/{size}/{count}", secure=secure)
    async with library.connect(server.url, server.tls, compressed=False) as connection:
        await connection.send(text(size), WARM_UP)
        with meter:
            await connection.send(text(size), count)
            await connection.receive(1)


async def _ping_pong(library: Library, count: int, meter: Meter) -> None:
    await _echoes(library, count, meter)


async def _echoes(library: Library, count: int, meter: Meter) -> list[float]:
    """Send messages to be echoed, one at a time; return the seconds that each took."""
    server = address("/echo")
    async with library.connect(server.url, None, compressed=False) as connection:
        await connection.ping_pong(text(32), WARM_UP)
        with meter:
            return await connection.ping_pong(text(32), count)


def _latency(percentile: int, library: Library) -> Measure:
    """Return the measure of the microseconds of wall time within which so many of a hundred messages are back."""

    def measure(count: int) -> float:
        seconds: list[float] = []

        async def side(count: int, meter: Meter) -> None:
            seconds.extend(await _echoes(library, count, meter))

        with on_a_core(of_server=True):
            library.run(side, max(2, count), Stopwatch())
        return statistics.quantiles(seconds, n=100, method="inclusive")[percentile - 1] * 1e6

    return measure


def _bytes_of_idle(library: Library) -> Measure:
    """Return the measure of the bytes that Python allocates for an open connection on which nothing happens."""

    async def side(count: int, meter: Meter) -> None:
        url = address("/echo").url
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(library.connect(url, None, compressed=False))
            with meter:
                for _ in range(count):
                    await stack.enter_async_context(library.connect(url, None, compressed=False))

    def measure(count: int) -> float:
        allocations = Allocations()
        library.run(side, count, allocations)
        return allocations.bytes / count

    return measure


def _mib_of_bomb(count: int) -> float:
    """Return by how many MiB the memory of a client grows that is sent 1 MiB which inflates to 1 GiB."""
    command = [sys.executable, "-m", "benchmarks.peers.websocket_bomb", address("/bomb").url]
    return max(float(subprocess.check_output(command, cwd=CHECKOUT, timeout=60)) for _ in range(count))


def _row(
    name: str,
    side: Callable[..., Awaitable[None]],
    count: int,
    ratio_targets: Mapping[str, float],
    *,
    ours: Library = CSP,
    peers: Sequence[Library] = PEERS,
    takes_turns: bool = False,
    **options: bool,
) -> Workload:
    """Return the row of a side that every library performs."""

    def time(library: Library) -> Measure:
        return ClientTime(partial(side, library, **options), library.run, library.share, takes_turns)

    return Workload(
        name,
        time(ours),
        {library.name: time(library) for library in peers},
        count=count,
        ratio_targets=ratio_targets,
        group=_GROUP,
        environment=with_server,
    )


_RECEIVE_TARGETS: dict[str, dict[str, float]] = {
    "32 B": {"trio-websocket": 0.1, "websockets (trio)": 0.25, "picows": 4.0},
    "1 KiB": {"trio-websocket": 0.1, "websockets (trio)": 1 / 3, "picows": 4.0},
    "16 KiB": {"trio-websocket": 0.1},
    "128 KiB": {},
    "1 MiB": {"trio-websocket": 1 / 4.5, "picows": 1.3},
    "4 MiB": {},
}
_SEND_TARGETS: dict[str, dict[str, float]] = {
    "32 B": {"trio-websocket": 1 / 8},
    "1 KiB": {"trio-websocket": 1 / 8},
    "16 KiB": {"trio-websocket": 1 / 7},
    "128 KiB": {},
    "1 MiB": {"trio-websocket": 1 / 3.5, "picows": 1.3},
    "4 MiB": {},
}
_FEED_COUNTS = {"32 B": 20_000, "16 KiB": 1500}
_TLS_COUNTS = {"32 B": 5000, "1 KiB": 4000, "16 KiB": 1000, "1 MiB": 20}
_TLS_TARGETS = {"32 B": {TRIO_WEBSOCKET.name: 0.5}, "16 KiB": {TRIO_WEBSOCKET.name: 0.5}}
_PEER = TRIO_WEBSOCKET.name


def _tls_rows() -> list[Workload]:
    return [
        _row(
            f"WebSocket {verb} over TLS, {size}",
            partial(side, _SIZES[size]),
            count,
            _TLS_TARGETS.get(size, {}),
            secure=True,
        )
        for verb, side in (("receive", _receive), ("send", _send))
        for size, count in _TLS_COUNTS.items()
    ]


def _latency_row(percentile: int) -> Workload:
    return Workload(
        f"WebSocket echo latency, p{percentile}",
        _latency(percentile, CSP),
        {library.name: _latency(percentile, library) for library in PEERS},
        count=1000,
        group=_GROUP,
        environment=with_server,
    )


WORKLOADS = (
    *(
        _row(f"WebSocket receive, {name}", partial(_receive, size), _COUNTS[name], _RECEIVE_TARGETS[name])
        for name, size in _SIZES.items()
    ),
    *(
        _row(f"WebSocket send, {name}", partial(_send, size), _COUNTS[name], _SEND_TARGETS[name])
        for name, size in _SIZES.items()
    ),
    _row(
        "WebSocket receive by async for, 32 B",
        partial(_receive, 32),
        _COUNTS["32 B"],
        {"picows": 3.1},
        ours=CSP_ITERATING,
    ),
    *(
        _row(
            f"WebSocket receive many at once, {name}",
            partial(_receive, _SIZES[name]),
            _COUNTS[name],
            {"picows": target},
            ours=CSP_MANY,
        )
        for name, target in (("32 B", 1.4), ("1 KiB", 2.3))
    ),
    _row(f"WebSocket send {MANY} at once, 32 B", partial(_send, 32), _COUNTS["32 B"], {"picows": 0.7}, ours=CSP_MANY),
    *(
        _row(
            f"WebSocket receive through a feed, {name}",
            partial(_receive, _SIZES[name]),
            count,
            {},
            ours=CSP_FEED,
            peers=[CSP_CLIENT],
        )
        for name, count in _FEED_COUNTS.items()
    ),
    *(_tls_rows() if WITH_TLS else ()),
    _row(
        "WebSocket receive compressed, 1 KiB",
        partial(_receive, 1024),
        10_000,
        {_PEER: 0.25, "picows.websockets": 1.4},
        peers=COMPRESSING_PEERS,
        compressed=True,
    ),
    _row("WebSocket ping-pong, 32 B", _ping_pong, 2000, {_PEER: 1 / 1.7}, takes_turns=True),
    _latency_row(50),
    _latency_row(99),
    Workload(
        f"WebSocket, {CONNECTIONS} connections into one Selector",
        ClientTime(selector),
        {_PEER: ClientTime(clones)},
        count=40 * CONNECTIONS,
        ratio_targets={_PEER: 1 / 10},
        group=_GROUP,
        environment=with_server,
    ),
    Workload(
        "memory, an idle WebSocket connection",
        _bytes_of_idle(CSP),
        {library.name: _bytes_of_idle(library) for library in PEERS},
        count=100,
        unit="B",
        cost_target=20 * 1024,
        group=_GROUP,
        environment=with_server,
    ),
    *(
        [
            Workload(
                "memory, a 1 MiB frame that inflates to 1 GiB",
                _mib_of_bomb,
                count=1,
                unit="MiB",
                cost_target=8,
                group=_GROUP,
                environment=with_server,
            )
        ]
        if sys.platform == "linux"
        else ()
    ),
)
