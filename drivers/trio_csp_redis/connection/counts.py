"""What a bus has done, counted."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """What a bus has done so far. Later versions may add fields."""

    connections: int
    """Connections that were opened: one for commands, one for topics, and one for each worker, and those that followed
    when one was lost."""
    open_connections: int
    """Those that are open now."""
    attempts: int
    """Attempts to connect, those that failed included."""
    sent: int
    """Values that queues have taken, as far as the answer was waited for."""
    repeated: int
    """Sends with a key that were written again, because the connection was lost before the answer."""
    published: int
    """Values that were published on topics."""
    delivered: int
    """Deliveries that workers handed out."""
    redelivered: int
    """Those of them that had been delivered before, here or elsewhere: see `Delivery.attempt`."""
    acked: int
    """Deliveries that the server has taken an ack for."""
    retried: int
    """Deliveries that were given back as attempts that failed."""
    returned: int
    """Values that were given back without counting as an attempt."""
    rejected: int
    """Values that became dead letters here, those included that cannot be decoded or were delivered too often."""
    lost: int
    """Values whose lease ran out here, or that were another's when they were to be renewed or settled."""
    received: int
    """Values of topics that subscriptions handed out."""
    missed: int
    """Values of topics that subscriptions missed, where their number is known."""


@dataclass(slots=True)
class Counts:
    """The same, while they change."""

    connections: int = 0
    open_connections: int = 0
    attempts: int = 0
    sent: int = 0
    repeated: int = 0
    published: int = 0
    delivered: int = 0
    redelivered: int = 0
    acked: int = 0
    retried: int = 0
    returned: int = 0
    rejected: int = 0
    lost: int = 0
    received: int = 0
    missed: int = 0

    def statistics(self) -> BusStatistics:
        return BusStatistics(**{each.name: getattr(self, each.name) for each in fields(BusStatistics)})
