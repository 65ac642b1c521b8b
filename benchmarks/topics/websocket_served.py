"""WebSocket servers: csp's and its peers, each a process of its own under the same load from another process.

What counts is the server's CPU time, or its memory, from when it has done its work a few times.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.meters.measure import Workload, available
from benchmarks.meters.served import POSSIBLE, Load, Served, ServerMemory, ServerTime
from benchmarks.peers import websocket_load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROUP = "server"
ONE_BY_ONE = "csp, a send each"
"""csp's own server where it sends a message to one connection after the other."""

TRIO_WEBSOCKET = "trio-websocket"
WEBSOCKETS = "websockets (asyncio)"

_CONNECTIONS = 500
_MANY_CONNECTIONS = 5000


def _peers() -> list[str]:
    distributions = {
        "websockets (trio)": "websockets",
        WEBSOCKETS: "websockets",
        "aiohttp": "aiohttp",
        "picows": "picows",
        "hypercorn": "hypercorn",
    }
    return [TRIO_WEBSOCKET, *(name for name, distribution in distributions.items() if available(distribution))]


_PEERS = _peers() if POSSIBLE else []
_ECHOING = {name: (name, "echo") for name in ("csp", "csp.serve", *_PEERS)}
"""The server and its work, by the names of the sides."""
_CLOSING = {name: serving for name, serving in _ECHOING.items() if name != "websockets (trio)"}
"""Those that answer a close. Where it follows the handshake at once, that one ends most streams without an answer."""
_SENDING_TO_ALL = {
    "csp": ("csp", "broadcast"),
    ONE_BY_ONE: ("csp", "loop"),
    **{name: (name, "broadcast") for name in _PEERS},
    **({f"{WEBSOCKETS}, a send each": (WEBSOCKETS, "loop")} if WEBSOCKETS in _PEERS else {}),
}
_NOT_WAITING = {name: serving for name, serving in _SENDING_TO_ALL.items() if name in {"csp", WEBSOCKETS, "picows"}}
"""Those that do not wait for a connection that takes nothing: it would hold up all others for ever."""


def _server(name: str, work: str, *, send_buffer_bytes: int | None = None) -> Served:
    command = ["-m", "benchmarks.peers.websocket_servers", name, work]
    return Served(command, send_buffer_bytes=send_buffer_bytes)


def _time_row(
    name: str,
    load: Load,
    count: int,
    ratio_targets: Mapping[str, float],
    *,
    sides: Mapping[str, tuple[str, str]] = _ECHOING,
    send_buffer_bytes: int | None = None,
    takes_turns: bool = False,
    on_request: bool = False,
) -> Workload:
    """Return the row of some servers' CPU time."""
    times = {
        side: ServerTime(partial(_server, *serving, send_buffer_bytes=send_buffer_bytes), load, takes_turns)
        for side, serving in sides.items()
    }
    ours = times.pop("csp")
    return Workload(
        name, ours, times, count=count, ratio_targets=ratio_targets, group=GROUP, on_request=on_request, apart=False
    )


def _to_all(connections: int, *, one_in_ten_stalls: bool = False) -> Load:
    return partial(websocket_load.broadcast, connections, one_in_ten_stalls=one_in_ten_stalls)


def _rows() -> Sequence[Workload]:
    echoes = [
        ("32 B", 32, 32, 20_000, 0.27, 0.80),
        ("32 B", 32, 1, 2000, 0.55, 1.30),
        ("16 KiB", 16 * 1024, 8, 2000, 0.20, 1.05),
        ("16 KiB", 16 * 1024, 1, 1000, 0.28, 1.25),
    ]
    return (
        *(
            _time_row(
                f"WebSocket server, echo {text}, {in_flight} in flight",
                partial(websocket_load.echo, size, in_flight),
                count,
                {TRIO_WEBSOCKET: to_trio_websocket, WEBSOCKETS: to_websockets},
                takes_turns=in_flight == 1,
            )
            for text, size, in_flight, count, to_trio_websocket, to_websockets in echoes
        ),
        _time_row(
            "WebSocket server, accept and close",
            websocket_load.visit,
            300,
            {TRIO_WEBSOCKET: 0.85, WEBSOCKETS: 1.25},
            sides=_CLOSING,
            takes_turns=True,
        ),
        Workload(
            "memory, an idle connection of a WebSocket server",
            ServerMemory(partial(_server, "csp", "echo"), websocket_load.stay),
            {
                side: ServerMemory(partial(_server, *serving), websocket_load.stay)
                for side, serving in _ECHOING.items()
                if side != "csp"
            },
            count=1000,
            unit="B",
            cost_target=11 * 1024,
            group=GROUP,
            apart=False,
        ),
        _time_row(
            f"WebSocket server, one message to {_CONNECTIONS} connections",
            _to_all(_CONNECTIONS),
            40 * _CONNECTIONS,
            {ONE_BY_ONE: 0.70},
            sides=_SENDING_TO_ALL,
        ),
        _time_row(
            f"WebSocket server, one message to {_CONNECTIONS} connections, one in ten not reading",
            _to_all(_CONNECTIONS, one_in_ten_stalls=True),
            120 * _CONNECTIONS,
            {},
            sides=_NOT_WAITING,
            send_buffer_bytes=websocket_load.STALLED_BUFFER_BYTES,
        ),
        _time_row(
            f"WebSocket server, one message to {_MANY_CONNECTIONS:,} connections",
            _to_all(_MANY_CONNECTIONS),
            10 * _MANY_CONNECTIONS,
            {},
            sides=_SENDING_TO_ALL,
            on_request=True,
        ),
    )


WORKLOADS = _rows() if POSSIBLE else ()
