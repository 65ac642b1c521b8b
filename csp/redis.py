"""Queues and topics on Redis Streams: values of other machines arrive on sources, in the same `csp.select`.

    async with redis.Bus("redis://localhost:6379") as bus:
        jobs = bus.queue("jobs")
        prices = bus.topic("prices")
        await jobs.send(b"a job")

        async with jobs.work() as deliveries, prices.subscribe() as updates:
            r = await csp.select(deliveries.case_receive(), updates.case_receive())
            if deliveries.gave(r):
                with r.value as delivery:
                    print(delivery.data)

It needs Redis 7.0 or Valkey 7.2, or newer, and ``pip install 'trio-csp[redis]'``. This module is the face of the driver
in ``trio_csp_redis``.
"""

from csp._connections import ConnectionState, Gap
from csp._home import publish

try:
    from trio_csp_redis.bus.bus import Bus
except ModuleNotFoundError as _missing:
    if _missing.name != "coredis":
        raise
    raise ModuleNotFoundError("csp.redis needs coredis: pip install 'trio-csp[redis]'", name="coredis") from None
from trio_csp_redis.connection.counts import BusStatistics
from trio_csp_redis.protocol.codec import BYTES, JSON, Codec
from trio_csp_redis.queue.backlog import Backlog
from trio_csp_redis.queue.dead_letters import DeadLetter, DeadLetters
from trio_csp_redis.queue.deliveries import Deliveries
from trio_csp_redis.queue.delivery import Delivery
from trio_csp_redis.queue.queue import Queue
from trio_csp_redis.queue.sender import QueueOverflow
from trio_csp_redis.topic.published import Published
from trio_csp_redis.topic.topic import Topic
from trio_csp_redis.topic.updates import Updates

State = ConnectionState
"""What a bus is doing: `csp.ConnectionState`."""

__all__ = [
    "BYTES",
    "JSON",
    "Backlog",
    "Bus",
    "BusStatistics",
    "Codec",
    "DeadLetter",
    "DeadLetters",
    "Deliveries",
    "Delivery",
    "Gap",
    "Published",
    "Queue",
    "QueueOverflow",
    "State",
    "Topic",
    "Updates",
]

publish(__name__, [globals()[name] for name in __all__])
