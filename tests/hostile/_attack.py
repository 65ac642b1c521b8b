"""One hostile server, one client, and what came of it."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
import tracemalloc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import trio
import trustme

from csp import websocket
from csp.errors import ConnectionFailedError, Kind
from tests.websocket._forging import forgeable
from tests.websocket._peers import Peer, open_sockets, raw_server, until
from tests.websocket._server import drained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from csp.websocket import ConnectOptions

MIB = 1 << 20
DEFAULT_READ_LIMIT = 16 * MIB
MAX_SECONDS = 50.0
"""A scenario that takes longer is given up, and fails."""

_IMPATIENT = "100ms"


def directly(url: str, certificates: Certificates | None) -> tuple[str, ConnectOptions]:
    """Let the client connect to the hostile server itself."""
    return url, {} if certificates is None else {"ssl_context": certificates.client}


@dataclass(frozen=True)
class Attack:
    """What a server does, and what a client has to make of it."""

    name: str
    serve: Callable[[Peer], Awaitable[object]]
    """Does the misdeed. What the client sends afterwards is read to its end, unless the server closes the stream."""
    reach: Callable[[str, Certificates | None], tuple[str, ConnectOptions]] = field(default=directly, kw_only=True)
    """Tells how the client comes to the server, whose URL it is given: the URL to connect to, and options for that.
    What is no WebSocket server itself, such as a proxy, has a way of its own."""
    says: str = ""
    """A pattern in the text of the error: what `connect` raises, or `client.error`. Empty for no error."""
    code: int | None = None
    """What `client.close_code` is; None where connecting fails."""
    wire: int | None = None
    """The code in the close frame that the client sends; None for no close frame."""
    received: tuple[str | bytes, ...] | None = ()
    """What is received before; None where that is not the point."""
    use: Callable[[websocket.Client], Awaitable[list[str | bytes]]] = drained
    """What the client does; returns what it received."""
    error: type[ConnectionFailedError] = ConnectionFailedError
    kind: Kind = Kind.INTERNAL
    retryable: bool = False
    details: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the error's details have among others."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    needs_timeout: str | None = None
    """The one timeout that ends it; all others, or all, are so long that waiting for them would fail."""
    stays: bool = False
    """Whether the server keeps TCP open for as long as the client does, also after the client's end."""
    reads: bool = True
    """Whether the server reads what the client sends after the misdeed."""
    tcp_only: bool = False
    """Whether this cannot be done over TLS."""
    tls_only: bool = False
    """Whether this can be done over TLS only."""
    shows_certificate: bool = False
    """Whether the client has a certificate, for a server that asks for one after the handshake of TLS."""
    max_steps: int = 50_000
    """How often the tasks of client and server together may be resumed."""
    max_bytes_over_limit: int = 8 * MIB
    """How much memory both may use above the read limit."""


class Outcome(NamedTuple):
    """What came of an attack."""

    error: Exception | None
    code: int | None
    wire: int | None
    """The code in the client's close frame; None if it sent none."""
    received: list[str | bytes]
    seconds: float
    """From connecting until the error was told and the socket was gone."""
    peak: int
    """The most memory used at a time, in bytes, by client and server together."""
    steps: int
    """How often a task of either was resumed."""
    longest_seconds: float
    """The longest that one was busy before it let others run, in time of the processor."""


class Steps(trio.abc.Instrument):
    """Counts how often tasks are resumed, and how long one is busy."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_seconds = 0.0
        self._start = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # Trio's interface
        self.count += 1
        self._start = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # the same
        self.longest_seconds = max(self.longest_seconds, time.thread_time() - self._start)


class Certificates(NamedTuple):
    """For attacks over TLS."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    showing: ssl.SSLContext
    """A client's that has a certificate, and shows it also after the handshake."""

    @classmethod
    def new(cls, key_log: Path) -> Certificates:
        """Make new ones, and log the server's secrets there, so that a `Forger` can use them."""
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
        forgeable(server, key_log)
        client, showing = ssl.create_default_context(), ssl.create_default_context()
        for context in (client, showing):
            authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
        authority.issue_cert("client@example.com").configure_cert(showing)  # pyright: ignore[reportUnknownMemberType]  # the same
        showing.post_handshake_auth = True
        return cls(server, client, showing)


async def carry_out(attack: Attack, certificates: Certificates | None = None) -> Outcome:
    """Carry out an attack over loopback TCP, or TLS, with the garbage collector's help to nobody.

    At its end the client's socket must be gone, before the block is left where there is one, and no task be left.
    """
    closes: list[int] = []
    over, gone = trio.Event(), trio.Event()

    async def serve(peer: Peer) -> None:
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await attack.serve(peer)
                if attack.reads:
                    await peer.read_frames()
        finally:
            closes.extend(peer.closes)
            over.set()
            if attack.stays:
                await gone.wait()

    options: dict[str, Any] = {"dial_timeout": None, "close_timeout": "1h", **attack.options}
    if attack.needs_timeout is not None:
        options[attack.needs_timeout] = _IMPATIENT
    error: Exception | None = None
    code: int | None = None
    received: list[str | bytes] = []
    tls = None if certificates is None else certificates.server
    async with raw_server(serve, tls=tls, limit_seconds=MAX_SECONDS) as url:
        address, more = attack.reach(url, certificates)
        options |= more
        if certificates is not None and attack.shows_certificate:
            options["ssl_context"] = certificates.showing
        listening = open_sockets()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        tracemalloc.start()
        start = time.perf_counter()
        try:
            async with websocket.connect(address, **options) as client:
                received = await attack.use(client)
                await over.wait()
                await until(lambda: open_sockets() == listening + attack.stays)
                error, code = client.error, client.close_code
                assert client.channel().cause is error
        except ConnectionFailedError as refusal:
            error = refusal
            await until(lambda: open_sockets() == listening + attack.stays)
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        trio.lowlevel.remove_instrument(steps)
        gone.set()
    assert len(closes) <= 1, closes
    wire = closes[0] if closes else None
    return Outcome(error, code, wire, received, seconds, peak, steps.count, steps.longest_seconds)


def check(attack: Attack, outcome: Outcome) -> None:
    """Check that what came of an attack is what had to."""
    error = outcome.error
    if attack.says:
        assert isinstance(error, ConnectionFailedError), error
        assert re.search(attack.says, str(error)), error
        assert type(error) is attack.error, repr(error)
        assert (error.kind, error.retryable) == (attack.kind, attack.retryable), repr(error)
        details = dict(error.details)
        expected = dict(attack.details) if outcome.code is None else {"code": outcome.code, **attack.details}
        for name, value in expected.items():
            assert details[name] == value, details
    else:
        assert error is None
    assert (outcome.code, outcome.wire) == (attack.code, attack.wire)
    assert attack.received is None or outcome.received == list(attack.received)
    limit = cast("int", attack.options.get("read_limit", 0)) or DEFAULT_READ_LIMIT
    assert outcome.peak < limit + attack.max_bytes_over_limit, f"{outcome.peak / MIB:.1f} MiB"
    assert outcome.steps <= attack.max_steps, f"{outcome.steps} steps"
