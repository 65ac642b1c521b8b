"""A server that clients attack while it serves another client, and what came of it.

The server, the clients that misbehave and the bystander, which is served meanwhile, are tasks of one run, over loopback
TCP or TLS. The bystander sends a message, waits for its echo, and does so again: the longest wait is measured.
"""

from __future__ import annotations

import logging
import re
import time
import tracemalloc
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from csp import websocket
from tests.hostile._attack import MAX_SECONDS, MIB, Certificates, Steps
from tests.hostile._foe import Foe, Said
from tests.websocket._peers import driver_tasks, open_sockets, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from csp.websocket import Server, ServerConnection

LOGGER = logging.getLogger("csp.websocket.server")
_PAUSE_SECONDS = 0.002
# On a busy machine, with memory traced, which makes everything slower.
_MAX_LATENCY_SECONDS = 5.0


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


@dataclass(frozen=True)
class ClientAttack:
    """What clients do, and what a server has to make of it."""

    name: str
    do: Callable[[Field], Awaitable[Sequence[Said]]]
    """Does the misdeed; returns what the server said to each of those that were heard out."""
    status: int | None = None
    """The status of each answer; None where no answer comes."""
    says: str = ""
    """A pattern in each of what the server says."""
    code: int | None = None
    """The code of the close frame that ends each; None for no close frame."""
    clean: bool | None = True
    """Whether the stream ends as it should, and not with a reset; None where that is not the point."""
    records: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many records of the server's log have each of these patterns.

    There are no others, but for one that tells the end of each connection that was accepted.
    """
    handler: Callable[[ServerConnection], Awaitable[object]] = echo
    """What the server does with those that misbehave."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Those of the server."""
    tcp_only: bool = False
    """Whether this cannot be done over TLS, or TLS makes no difference."""
    tls_only: bool = False
    """Whether this can be done over TLS only."""
    max_bytes: int = 2 * MIB
    """How much memory server and clients may use together."""
    max_steps: int = 50_000
    """How often their tasks may be resumed, those of the bystander not counted."""


class Outcome(NamedTuple):
    """What came of an attack."""

    said: Sequence[Said]
    records: list[logging.LogRecord]
    """What the server has logged."""
    statistics: websocket.ServerStatistics
    seconds: float
    """From its beginning until nothing of it was left."""
    latency: float
    """The longest that the bystander waited for an echo, in seconds."""
    round_trips: int
    """How many echoes it got meanwhile."""
    peak: int
    """The most memory used at a time, in bytes, by the server and its clients together."""
    steps: int
    """How often a task was resumed."""
    longest_seconds: float
    """The longest that one was busy before it let others run, in time of the processor."""


class Records(logging.Handler):
    """Keeps what is logged while the block lasts, of all levels."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)

    def __enter__(self) -> list[logging.LogRecord]:
        self._level = LOGGER.level
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.addHandler(self)
        return self.found

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self)
        LOGGER.setLevel(self._level)


class Field:
    """Where an attack takes place."""

    def __init__(self, server: Server, certificates: Certificates | None) -> None:
        self.server = server
        self._certificates = certificates
        self._foes: list[Foe] = []

    @property
    def url(self) -> str:
        return self.server.url

    async def connect(self, *, plain: bool = False) -> Foe:
        """Connect another client that misbehaves; over TLS if that is what the server speaks.

        Args:
            plain: leave TLS out.
        """
        assert self.server.port is not None
        foe = Foe(await trio.open_tcp_stream("127.0.0.1", self.server.port))
        self._foes.append(foe)
        if self._certificates is not None and not plain:
            await foe.secure(self._certificates.client)
        return foe

    def forget(self, foe: Foe) -> None:
        """Keep nothing of a client that has left."""
        self._foes.remove(foe)

    async def leave(self) -> None:
        """Close whatever the clients that misbehave have left open."""
        for foe in self._foes:
            await trio.aclose_forcefully(foe.stream)


class Bystander:
    """A client that is served while others misbehave."""

    def __init__(self, client: websocket.Client) -> None:
        self.latency = 0.0
        self.round_trips = 0
        self._client = client

    async def go_on(self) -> None:
        """Send messages, one after the other, and wait for their echoes."""
        while True:
            start = time.perf_counter()
            await self._client.send("still there?")
            assert (await self._client.receive_value()).data == "still there?"
            self.latency = max(self.latency, time.perf_counter() - start)
            self.round_trips += 1
            await trio.sleep(_PAUSE_SECONDS)

    async def is_served(self) -> None:
        """Wait until a message was sent and echoed that was not under way before."""
        served = self.round_trips + 2
        await until(lambda: self.round_trips >= served)


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def _dial_behind_a_proxy(host: str, port: int) -> trio.abc.Stream:
    stream = await trio.open_tcp_stream(host, port)
    await stream.send_all(b"PROXY UNKNOWN\r\n")
    return stream


async def carry_out(
    attack: ClientAttack, certificates: Certificates | None = None, max_seconds: float = MAX_SECONDS
) -> Outcome:
    """Carry out an attack. At its end none of its sockets and tasks must be left, and the bystander still be served."""
    tls: dict[str, Any] = {} if certificates is None else {"ssl_context": certificates.server}
    own: dict[str, Any] = {} if certificates is None else {"ssl_context": certificates.client}
    if attack.options.get("proxy_protocol"):
        own["dial"] = _dial_behind_a_proxy
    sockets = open_sockets()

    async def handle(connection: ServerConnection) -> None:
        await (echo if connection.path == "/bystander" else attack.handler)(connection)

    with trio.fail_after(max_seconds), Records() as records:
        async with trio.open_nursery() as nursery:
            serve = partial(
                websocket.serve, handle, 0, host="127.0.0.1", **{"keepalive": None, **attack.options, **tls}
            )
            server: Server = await nursery.start(serve)
            async with (
                websocket.connect(f"{server.url}bystander", close_timeout="1h", **own) as client,
                trio.open_nursery() as watching,
            ):
                bystander = Bystander(client)
                watching.start_soon(bystander.go_on)
                await bystander.is_served()
                outcome = await _carry_out(attack, Field(server, certificates), bystander, records)
                watching.cancel_scope.cancel()
            await server.close()
    assert driver_tasks() == []
    assert open_sockets() == sockets
    return outcome


async def _carry_out(
    attack: ClientAttack, field: Field, bystander: Bystander, records: list[logging.LogRecord]
) -> Outcome:
    server = field.server
    tasks, sockets, before = _tasks(), open_sockets(), len(records)

    def nothing_is_left() -> bool:
        counts = server.statistics()
        return (counts.open, counts.waiting) == (1, 0) and open_sockets() == sockets and _tasks() == tasks

    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    bystander.latency, bystander.round_trips = 0.0, 0
    tracemalloc.start()
    start = time.perf_counter()
    try:
        said = await attack.do(field)
        await bystander.is_served()
        await field.leave()
        await until(nothing_is_left)
        await bystander.is_served()
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        trio.lowlevel.remove_instrument(steps)
    return Outcome(
        said,
        records[before:],
        server.statistics(),
        seconds,
        bystander.latency,
        bystander.round_trips,
        peak,
        # A few for each pause and each round trip.
        steps.count,
        steps.longest_seconds,
    )


def check(attack: ClientAttack, outcome: Outcome) -> None:
    """Check that what came of an attack is what had to."""
    for said in outcome.said:
        assert said.status == attack.status, said
        assert re.search(attack.says, said.text, re.DOTALL), said
        assert said.code == attack.code, said
        assert attack.clean in (None, said.clean), said
    texts = [record.getMessage() for record in outcome.records]
    assert all(record.levelno == logging.DEBUG and record.exc_info is None for record in outcome.records), texts
    assert all(text.isprintable() and len(text) < 1000 for text in texts), texts[:20]
    told = [text for text in texts if not re.match("the connection of .* has ended: ", text)]
    assert len(texts) - len(told) == sum(text.startswith("accepted ") for text in told), texts[:20]
    counts = {pattern: sum(bool(re.search(pattern, text)) for text in told) for pattern in attack.records}
    assert counts == dict(attack.records), texts[:20]
    assert sum(counts.values()) == len(told), texts[:20]
    assert outcome.peak < attack.max_bytes, f"{outcome.peak / MIB:.1f} MiB"
    assert outcome.latency < _MAX_LATENCY_SECONDS, f"the bystander waited for {outcome.latency:.1f} s"
    assert outcome.steps - 30 * outcome.round_trips <= attack.max_steps, f"{outcome.steps} steps"
