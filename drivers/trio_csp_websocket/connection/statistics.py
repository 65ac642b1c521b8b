"""Counts of a connection, and of several together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_csp_websocket.connection.connection import Connection


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of a connection so far, as `Client.statistics` returns them. Later versions may add some.

    ``bytes_sent`` and ``bytes_received`` count everything on the wire, the handshake, frame headers and control frames
    included, but not what TLS adds. The ``payload_`` counts are those of the messages, uncompressed.

    `ServerStatistics` and `FeedStatistics` have the same counts, of all their connections together.
    """

    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int
    payload_bytes_sent: int
    payload_bytes_received: int
    compressed_bytes_sent: int = 0
    """The payload of messages that were sent compressed, as it was on the wire."""
    compressed_bytes_received: int = 0
    """The same of those received."""
    inflated_bytes_sent: int = 0
    """What those messages have uncompressed: divided by ``compressed_bytes_sent``, how much compression saves."""
    inflated_bytes_received: int = 0
    """The same of those received."""
    messages_waiting_receive: int = 0
    """Messages that have arrived and were not received by the application: in `Client.channel`, or on the way there."""
    messages_waiting_send: int = 0
    """Messages and pings that wait to be written."""
    bytes_waiting_send: int = 0
    """What waits to be written, control frames included. What the system has taken does not wait here any more."""


def statistics_of(connection: Connection) -> Statistics:
    """Return the counts of a connection."""
    return Statistics(**counted(connection), **waiting(connection))


def counted(connection: Connection) -> dict[str, int]:
    """Return what only grows. Any thread may ask."""
    encoder, decoder, transport = connection.writer.encoder, connection.decoder, connection.transport
    inflater, deflater = decoder.inflater, encoder.deflater
    return {
        "messages_sent": encoder.messages_sent,
        "messages_received": decoder.messages_received,
        "bytes_sent": transport.bytes_sent,
        "bytes_received": transport.bytes_received,
        "payload_bytes_sent": encoder.payload_bytes_sent,
        "payload_bytes_received": decoder.payload_bytes_received + decoder.streamed_bytes_received,
        "compressed_bytes_sent": 0 if deflater is None else deflater.compressed_bytes,
        "compressed_bytes_received": 0 if inflater is None else inflater.compressed_bytes,
        "inflated_bytes_sent": 0 if deflater is None else deflater.inflated_bytes,
        "inflated_bytes_received": 0 if inflater is None else inflater.inflated_bytes,
    }


def waiting(connection: Connection) -> dict[str, int]:
    """Return what waits."""
    messages_waiting, bytes_waiting = connection.writer.waiting
    return {
        "messages_waiting_receive": connection.delivery.unread,
        "messages_waiting_send": messages_waiting,
        "bytes_waiting_send": bytes_waiting,
    }


class Totals:
    """The counts of several connections together, of which most have ended."""

    __slots__ = ("_ended",)

    def __init__(self) -> None:
        self._ended: dict[str, int] = {}

    def end(self, connection: Connection) -> None:
        """Keep what a connection has counted that counts nothing more."""
        _add(self._ended, counted(connection))

    def with_open(self, connections: Iterable[Connection]) -> dict[str, int]:
        """Return the sums of all, these included, which have not ended. Only of these something waits."""
        sums = {field.name: self._ended.get(field.name, 0) for field in fields(Statistics)}
        for connection in connections:
            _add(sums, counted(connection))
            _add(sums, waiting(connection))
        return sums


def _add(sums: dict[str, int], counts: dict[str, int]) -> None:
    for name, count in counts.items():
        sums[name] = sums.get(name, 0) + count
