"""Counts and durations.

Totals are read from the connections when they are collected, so that nothing is counted twice and no message costs
more. A reader may collect in a thread of its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import trio
from opentelemetry.metrics import Observation

from trio_csp_websocket.client.keeper import Keeper
from trio_csp_websocket.connection.connection import Connection
from trio_csp_websocket.connection.statistics import counted, waiting
from trio_csp_websocket.telemetry.attributes import of_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, Meter

    from trio_csp_websocket.events import Event
    from trio_csp_websocket.telemetry.attributes import Attributes

    Observe = Callable[[CallbackOptions], Iterable[Observation]]

_ROLES = ("client", "server")
_DIRECTIONS = {"transmit": "sent", "receive": "received"}
_TOTALS = (
    ("websocket.messages", "{message}", "Messages, of any size.", "messages"),
    ("websocket.payload", "By", "What messages have, uncompressed.", "payload_bytes"),
    ("websocket.io", "By", "What went over the wire, but for what TLS adds.", "bytes"),
    ("websocket.compressed", "By", "What compressed messages have on the wire.", "compressed_bytes"),
    ("websocket.inflated", "By", "What the same messages have uncompressed.", "inflated_bytes"),
)
"""Name, unit, description, and what the names of the statistics begin with."""
_HANDSHAKE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_CONNECTION_SECONDS = (1, 10, 60, 300, 900, 3600, 14400, 43200, 86400, 604800)
_BEGINNINGS = ("client.connecting", "server.arrived")
_OUTCOMES = (
    *("client.connected", "client.failed", "client.abandoned"),
    *("server.accepted", "server.refused", "server.answered", "server.no_request", "server.gone", "server.left"),
)


class Metrics:
    """Counts of the connections that it is told of.

    Args:
        meter: makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        # Of what follows, against a reader's thread.
        self._lock = threading.Lock()
        self._active = False
        self._open: dict[Connection, str] = {}
        self._feeds: set[Keeper] = set()
        self._ended: dict[str, dict[str, int]] = {role: {} for role in _ROLES}
        # When a handshake began, by what it is about.
        self._began: dict[object, float] = {}
        for name, unit, description, field in _TOTALS:
            meter.create_observable_counter(name, [self._totals(field)], unit, description)
        meter.create_observable_gauge(
            "websocket.inflation.ratio",
            [self._ratios],
            "1",
            "How many times as large compressed messages are uncompressed.",
        )
        meter.create_observable_up_down_counter(
            "websocket.connections", [self._connections], "{connection}", "Connections that are open."
        )
        meter.create_observable_up_down_counter(
            "websocket.queue.messages", [self._waiting_messages], "{message}", "Messages that wait."
        )
        meter.create_observable_up_down_counter(
            "websocket.queue.bytes", [self._waiting_bytes], "By", "What waits to be written."
        )
        self._reconnects = meter.create_counter(
            "websocket.reconnects", "{connection}", "Connections of feeds behind their first."
        )
        self._durations = meter.create_histogram(
            "websocket.connection.duration",
            "s",
            "How long connections were open.",
            explicit_bucket_boundaries_advisory=_CONNECTION_SECONDS,
        )
        self._handshakes = meter.create_histogram(
            "websocket.handshake.duration",
            "s",
            "From the beginning of connecting or of a request to the answer, or to the failure.",
            explicit_bucket_boundaries_advisory=_HANDSHAKE_SECONDS,
        )
        self._round_trips = meter.create_histogram(
            "websocket.round_trip",
            "s",
            "The time from a ping to its pong.",
            explicit_bucket_boundaries_advisory=_HANDSHAKE_SECONDS,
        )

    def told(self, event: Event) -> None:
        """Take note of an event."""
        role, _, what = event.name.partition(".")
        if event.name in _BEGINNINGS:
            self._began.setdefault(event.about, trio.current_time())
        elif event.name in _OUTCOMES:
            self._handshake_ended(role, event)
        elif event.name == "feed.attempt" and isinstance(event.about, Keeper):
            with self._lock:
                self._feeds.add(event.about)
        elif event.name == "feed.open" and isinstance(event.about, Keeper):
            if event.about.statistics().connections > 1:
                self._reconnects.add(1)
        elif event.name == "feed.ended" and isinstance(event.about, Keeper):
            with self._lock:
                self._feeds.discard(event.about)
        elif what in ("ended", "round_trip") and isinstance(event.about, Connection) and event.about in self._open:
            self._told_of_connection(what, event.about, event.fields)

    def _handshake_ended(self, role: str, event: Event) -> None:
        began = self._began.pop(event.about, None)
        if isinstance(event.subject, Connection):
            with self._lock:
                self._open[event.subject] = role
        if began is not None:
            attributes = {"websocket.role": role, **of_outcome(event.fields)}
            self._handshakes.record(trio.current_time() - began, attributes)

    def _told_of_connection(self, what: str, connection: Connection, fields: Mapping[str, object]) -> None:
        attributes: Attributes = {"websocket.role": self._open[connection]}
        seconds = fields["seconds"]
        assert isinstance(seconds, float)
        if what == "round_trip":
            self._round_trips.record(seconds, attributes)
            return
        with self._lock:
            _add(self._ended[self._open.pop(connection)], connection)
        code = fields["code"]
        assert isinstance(code, int)
        self._durations.record(seconds, {**attributes, "websocket.close.code": code})

    def start(self) -> None:
        """Have all of it observed from now on."""
        self._active = True

    def stop(self) -> None:
        """Observe nothing more. Totals go on from there if it starts again."""
        with self._lock:
            self._active = False
            for connection, role in self._open.items():
                _add(self._ended[role], connection)
            self._open.clear()
            self._feeds.clear()
            self._began.clear()

    # What is read when it is collected --------------------------------------------------------------------------------

    def _sums(self) -> dict[str, dict[str, int]]:
        """Return the counts of all connections, open or not, by role; none if nothing is to be observed."""
        with self._lock:
            sums = {role: dict(self._ended[role]) for role in self._roles}
            for connection, role in self._open.items():
                _add(sums[role], connection)
        return sums

    @property
    def _roles(self) -> Sequence[str]:
        return _ROLES if self._active else ()

    def _totals(self, field: str) -> Observe:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(counts.get(f"{field}_{past}", 0), _attributes(role, direction))
                for role, counts in self._sums().items()
                for direction, past in _DIRECTIONS.items()
            ]

        return observe

    def _ratios(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(counts[f"inflated_bytes_{past}"] / compressed, _attributes(role, direction))
            for role, counts in self._sums().items()
            for direction, past in _DIRECTIONS.items()
            if (compressed := counts.get(f"compressed_bytes_{past}"))
        ]

    def _connections(self, _options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            roles = list(self._open.values())
        return [Observation(roles.count(role), {"websocket.role": role}) for role in self._roles]

    def _waiting(self) -> tuple[Sequence[tuple[str, Mapping[str, int]]], int]:
        """Return what waits at each connection, with its role, and how many messages wait at feeds."""
        with self._lock:
            parts = [(role, connection) for connection, role in self._open.items()]
            feeds = list(self._feeds)
        found: list[tuple[str, Mapping[str, int]]] = []
        for role, connection in parts:
            try:
                found.append((role, waiting(connection)))
            except (RuntimeError, IndexError, TypeError):
                continue  # it has changed while it was read, as this is another thread; the next time will tell
        return found, sum(len(feed.channel) for feed in feeds)

    def _waiting_messages(self, _options: CallbackOptions) -> Iterable[Observation]:
        parts, at_feeds = self._waiting()
        observed = [
            Observation(sum(counts[name] for part, counts in parts if part == role), _attributes(role, direction))
            for role in self._roles
            for direction, name in (("transmit", "messages_waiting_send"), ("receive", "messages_waiting_receive"))
        ]
        if self._active:
            observed.append(Observation(at_feeds, _attributes("feed", "receive")))
        return observed

    def _waiting_bytes(self, _options: CallbackOptions) -> Iterable[Observation]:
        parts, _ = self._waiting()
        return [
            Observation(
                sum(counts["bytes_waiting_send"] for part, counts in parts if part == role),
                _attributes(role, "transmit"),
            )
            for role in self._roles
        ]


def _add(counts: dict[str, int], connection: Connection) -> None:
    for name, number in counted(connection).items():
        counts[name] = counts.get(name, 0) + number


def _attributes(role: str, direction: str) -> Attributes:
    return {"websocket.role": role, "network.io.direction": direction}
