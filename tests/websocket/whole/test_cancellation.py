"""Cancelled at every step: whatever an operation is doing, nothing is left over, half sent or lost.

Each sweep repeats an operation and cancels it before step 0, 1, 2, ... of the client's tasks, until it completes first;
`_sweep` says what a step is, and what is checked after each. Further sweeps cancel two operations at steps of their
own, cancel with a deadline that falls together with a timeout, and let the server interfere instead: it breaks the
connection, ends it, closes it or breaks the protocol before the n-th step.

An ordinary run cancels at every step over a stream in memory, and does some of the rest: sockets, TLS, compression.
``CSP_SWEEP_ORDERS=3 pytest tests/websocket/whole/test_cancellation.py`` goes over every step with all of
them, each in three orders of the tasks that are runnable at a time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Unpack

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, register_random, settings
from hypothesis import strategies as st

from csp._core import select
from csp.errors import ConnectionFailedError, ConnectionTimeoutError
from tests.websocket._links import LATE_SECONDS, AnsweringServer, Closing, Link, Way
from tests.websocket._proxies import ESTABLISHED, SOCKS5_GRANTED, Protocol, Proxy, Stopping, http_answer, steps
from tests.websocket._server import PING, frame
from tests.websocket._sweep import WORDS, Trial

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence

    from csp.websocket import Client
    from trio_csp_websocket.client.options import ConnectOptions

ORDERS = os.environ.get("CSP_SWEEP_ORDERS")

ALL_LINKS: list[tuple[Link, bool]] = [
    (link, takeover) for link in ("memory", "socket", "tls") for takeover in (False, True)
]

# What was swept: a sweep of nothing shows nothing.
counts: Counter[str] = Counter()

register_random(select._rng)


class Operation(NamedTuple):
    run: Callable[[Trial], Awaitable[None]]
    floor: int
    """How many steps it takes at least."""
    moments: tuple[float, ...]
    """When something expires in it, in seconds. It lasts until the last of them."""


OPERATIONS: dict[str, Operation] = {}


def operation(
    floor: int, *moments: float, name: str = ""
) -> Callable[[Callable[[Trial], Awaitable[None]]], Callable[[Trial], Awaitable[None]]]:
    """Put a function into the table of operations."""

    def add(run: Callable[[Trial], Awaitable[None]]) -> Callable[[Trial], Awaitable[None]]:
        OPERATIONS[name or run.__name__.replace("_", " ")] = Operation(run, floor, moments)
        return run

    return add


@contextlib.asynccontextmanager
async def connected(
    trial: Trial, *, closing: Closing = "at once", pongs: bool = True, **options: Unpack[ConnectOptions]
) -> AsyncGenerator[Client]:
    """Connect; the trial begins after that."""
    async with trial.connecting(closing=closing, pongs=pongs, **options) as client:
        trial.client = client
        await trial.settle()
        yield client


async def unless_it_ends(deed: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Do something that fails when the connection ends."""
    with contextlib.suppress(ConnectionFailedError):
        await deed(*arguments)


# Connecting -----------------------------------------------------------------------------------------------------------


@operation(27)
async def connect_and_leave(trial: Trial) -> None:
    with trial.swept():
        async with trial.connecting():
            pass


@operation(10)
async def connect_in_a_nursery(trial: Trial) -> None:
    async with trio.open_nursery() as nursery:
        clients: list[Client] = []
        with trial.swept():
            clients.append(await trial.connecting(nursery=nursery))
        for trial.client in clients:
            await trial.check_usable()
            await trial.client.close()
            await trial.check_closed()
        assert not nursery.cancel_scope.cancel_called


async def fails_to_connect(trial: Trial, answer: bytes, error: type[Exception] = ConnectionFailedError) -> None:
    with trial.swept(), pytest.raises(error):
        async with trial.connecting(answer, dial_timeout="10s"):
            pytest.fail("connected")


@operation(14)
async def connect_where_it_is_refused(trial: Trial) -> None:
    await fails_to_connect(trial, b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno")


@operation(14)
async def connect_where_garbage_comes(trial: Trial) -> None:
    await fails_to_connect(trial, b"garbage\r\n\r\n")


@operation(16, 1.0)
async def connect_where_a_refusal_never_ends(trial: Trial) -> None:
    await fails_to_connect(trial, b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nbusy")


@operation(16, 10.0)
async def connect_where_nothing_comes(trial: Trial) -> None:
    await fails_to_connect(trial, b"", ConnectionFailedError if trial.hostile else ConnectionTimeoutError)


# Sending --------------------------------------------------------------------------------------------------------------


@operation(6)
async def send(trial: Trial) -> None:
    async with connected(trial):
        await trial.send(f"first {WORDS}")
        with trial.swept():
            await trial.send(f"second {WORDS}")
            await trial.send(f"third {WORDS}")
        await trial.check_usable()


@operation(4)
async def send_much(trial: Trial) -> None:
    async with connected(trial):
        with trial.swept():
            await trial.send(trial.much)
        await trial.check_usable()


async def read_on_later(server: AnsweringServer) -> None:
    await trio.sleep(1)
    server.read_on()


@operation(8, 1.0)
async def send_much_to_a_server_that_reads_late(trial: Trial) -> None:
    async with connected(trial):
        trial.server.stop_reading()
        trial.in_task(read_on_later, trial.server)
        with trial.swept():
            await trial.send(WORDS)
            await trial.send(trial.much)
        await trial.check_usable()


@operation(8)
async def send_in_three_tasks(trial: Trial) -> None:
    async with connected(trial):
        with trial.swept():
            async with trio.open_nursery() as nursery:
                for data in (trial.much, WORDS, b"small"):
                    nursery.start_soon(trial.send, data)
        await trial.check_usable()


@operation(6, 1.0)
async def send_between_others(trial: Trial) -> None:
    async def send_behind() -> None:
        await trial.settle()
        await trial.send(f"behind {WORDS}")

    async with connected(trial):
        trial.server.stop_reading()
        trial.in_task(read_on_later, trial.server)
        async with trio.open_nursery() as nursery:
            for data in (trial.much, f"before {WORDS}"):
                nursery.start_soon(trial.send, data)
                await trial.settle()
            with trial.swept():
                nursery.start_soon(send_behind)
                await trial.send(f"between {WORDS}")
            if trial.scopes[0].cancelled_caught and trial.seconds < 1:
                # It was in line until the server read on.
                trial.unwanted.append(f"between {WORDS}")
        await trial.check_usable()


@operation(8, 5.0)
async def send_until_the_write_timeout(trial: Trial) -> None:
    async with connected(trial, write_timeout="5s"):
        trial.server.stop_reading()
        fails = contextlib.nullcontext() if trial.hostile else pytest.raises(ConnectionTimeoutError)
        with trial.swept(), fails:
            await trial.send(trial.much)
        trial.server.read_on()
        await trial.check_either()


# Pings ----------------------------------------------------------------------------------------------------------------


@operation(4)
async def ping_and_wait(trial: Trial) -> None:
    async with connected(trial) as client:
        with trial.swept():
            answer = await client.ping(b"x")
            assert (await answer.receive()).ok or trial.hostile
        await trial.check_usable()
        assert len(client._connection.pings) == 0


@operation(3)
async def ping_without_an_answer(trial: Trial) -> None:
    async with connected(trial, pongs=False) as client:
        answers: list[object] = []
        with trial.swept():
            answers.append(await client.ping(b"x"))
        if client.close_code is None:
            assert len(client._connection.pings) == len(answers)
        await trial.check_usable()


# Receiving ------------------------------------------------------------------------------------------------------------


async def tell_one_after_another(trial: Trial) -> None:
    for _ in range(4):
        await trial.settle()
        trial.tell(1)


async def receive(trial: Trial, way: str, *, full: bool) -> None:
    async with connected(trial, channel_capacity=1):
        if full:
            trial.tell(3)
            await trial.settle()
        else:
            trial.in_task(tell_one_after_another, trial)
        with trial.swept(), contextlib.suppress(StopAsyncIteration):
            for _ in range(3):
                await trial.take(way)
                # The task that reads goes on once its last message is taken.
                await trio.lowlevel.checkpoint()
        await trial.check_usable()


WAYS = ["receive", "select", "iterate", "selector"]
for way in WAYS:
    operation(6, name=f"{way}, while they arrive")(functools.partial(receive, way=way, full=False))
    operation(1, name=f"{way}, the channel full")(functools.partial(receive, way=way, full=True))
RECEIVES = [name for name in OPERATIONS if name.startswith(tuple(WAYS))]


@operation(5)
async def receive_what_came_before_the_servers_close(trial: Trial) -> None:
    async with connected(trial, channel_capacity=1):
        trial.tell(5)
        trial.server.say_close(1011)
        with trial.swept():
            while await trial.take():
                pass
        await trial.check_end()
        assert trial.received == trial.told or trial.hostile


@operation(12, 3.0)
async def receive_until_the_read_timeout(trial: Trial) -> None:
    async with connected(trial, read_timeout="3s"):
        with trial.swept():
            assert not await trial.take()
        await trial.check_either()


@operation(16, 2.0, 4.0)
async def receive_until_keepalive_gives_up(trial: Trial) -> None:
    async with connected(trial, pongs=False, keepalive="2s", closing="never"):
        with trial.swept():
            assert not await trial.take()
        await trial.check_either()


# Closing --------------------------------------------------------------------------------------------------------------


async def close_once(trial: Trial, closing: Closing, **options: Unpack[ConnectOptions]) -> None:
    trial.codes = {3000}
    options["channel_capacity"] = 1
    async with connected(trial, closing=closing, **options) as client:
        trial.tell(5)
        trial.server.say(frame(PING, b"p"))
        await trial.settle()
        with trial.swept():
            await client.close(3000, "bye")
        assert trial.transport_closed
        await trial.settle()
        if not trial.hostile:
            assert client.error is None
            assert client.close_code in ([1000, 1006] if trial.interfered else [1006 if closing == "never" else 1000])
            assert trial.at != (0,) or trial.server.closes == [3000]
        await trial.check_closed()


CLOSINGS: dict[Closing, tuple[float, ...]] = {"at once": (), "late": (LATE_SECONDS,), "never": (10.0,), "half": (10.0,)}
for closing, moments in CLOSINGS.items():
    operation(9, *moments, name=f"close, answered {closing}")(functools.partial(close_once, closing=closing))


@operation(9, 10.0)
async def close_while_the_read_timeout_expires(trial: Trial) -> None:
    await close_once(trial, "never", read_timeout="10s", keepalive="5s", write_timeout="10s")


@operation(17)
async def close_while_others_are_busy(trial: Trial) -> None:
    async with connected(trial, pongs=False) as client:
        async with trio.open_nursery() as nursery:
            for data in (trial.much, f"second {WORDS}"):
                nursery.start_soon(unless_it_ends, trial.send, data)
            answer = await client.ping()
            nursery.start_soon(answer.receive)
            nursery.start_soon(trial.take)
            with trial.swept():
                await client.close()
            assert trial.transport_closed
        await trial.check_closed()


@operation(14)
async def be_busy_while_another_closes(trial: Trial) -> None:
    async with connected(trial) as client:
        async with trio.open_nursery() as nursery:
            with trial.swept():
                async with trio.open_nursery() as busy:
                    busy.start_soon(unless_it_ends, trial.send, trial.much)
                    busy.start_soon(unless_it_ends, trial.send, WORDS)
                    busy.start_soon(unless_it_ends, client.ping)
                    busy.start_soon(trial.take)
                    nursery.start_soon(client.close)
        assert trial.hostile or (client.close_code, client.error) == (1000, None)
        await trial.check_closed()


@operation(18, LATE_SECONDS)
async def close_while_another_closes(trial: Trial) -> None:
    async with connected(trial, closing="late") as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        with trial.swept():
            await client.close()
        assert trial.transport_closed
        await trial.check_closed()


@operation(7, 10.0)
async def close_behind_a_send_that_is_stuck(trial: Trial) -> None:
    async with connected(trial) as client:
        trial.server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unless_it_ends, trial.send, trial.much)
            await trial.settle()
            with trial.swept():
                await client.close()
            assert trial.transport_closed
        trial.server.read_on()
        await trial.check_closed()


@operation(15)
async def close_while_the_server_closes(trial: Trial) -> None:
    async with connected(trial, closing="never", channel_capacity=1) as client:
        trial.tell(5)
        trial.server.say_close(1011)
        trial.server.end()
        with trial.swept():
            await client.close()
        await trial.check_closed()


# Leaving --------------------------------------------------------------------------------------------------------------


async def leave(trial: Trial, kind: type[ValueError | KeyboardInterrupt] | None, closing: Closing) -> None:
    error = None if kind is None else kind("mine")
    caught: list[BaseException] = []
    with trial.swept(begins=False):
        try:
            async with connected(trial, closing=closing, channel_capacity=1):
                trial.tell(5)
                await trial.send(WORDS)
                trial.begin()
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt) as raised:
            caught.append(raised)
    assert caught == ([] if error is None else [error])
    assert trial.transport_closed
    if not trial.hostile:
        await trial.settle()
        if trial.at == (0,):
            # There was time for a close frame, for nothing else.
            assert trial.server.closes == [1000 if kind is None else 1011 if kind is ValueError else 1001]
            assert trial.scopes[0].cancelled_caught == (error is None)
        elif kind is KeyboardInterrupt:
            assert trial.server.closes == [1001]
    await trial.check_closed()


for closing, moments in CLOSINGS.items():
    operation(14, *moments, name=f"leave, answered {closing}")(functools.partial(leave, kind=None, closing=closing))
    operation(14, *moments, name=f"leave by an error, answered {closing}")(
        functools.partial(leave, kind=ValueError, closing=closing)
    )
    operation(29, name=f"leave by Ctrl-C, answered {closing}")(
        functools.partial(leave, kind=KeyboardInterrupt, closing=closing)
    )


@operation(15, 1.0)
async def leave_while_another_sends(trial: Trial) -> None:
    async with trio.open_nursery() as nursery:
        with trial.swept(begins=False):
            async with connected(trial):
                trial.server.stop_reading()
                trial.in_task(read_on_later, trial.server)
                nursery.start_soon(unless_it_ends, trial.send, trial.much)
                await trial.settle()
                trial.begin()
        assert trial.transport_closed
    trial.server.read_on()
    await trial.check_closed()


@operation(28)
async def leave_at_once_while_another_sends_on(trial: Trial) -> None:
    async def send_on() -> None:
        while trial.client.close_code is None:
            await trial.send(f"{len(trial.finished)} {WORDS}")

    async with trio.open_nursery() as nursery:
        with trial.swept(begins=False), contextlib.suppress(KeyboardInterrupt):
            async with connected(trial):
                nursery.start_soon(unless_it_ends, send_on)
                trial.begin()
                raise KeyboardInterrupt
        assert trial.transport_closed
    await trial.check_closed()


async def use(trial: Trial) -> None:
    trial.tell(3)
    trial.server.say(frame(PING, b"p"))
    await trial.send(WORDS)
    await trial.take()
    await (await trial.client.ping()).receive()
    await trial.send(trial.much)


@operation(50)
async def use_in_a_nursery_that_is_cancelled(trial: Trial) -> None:
    async with trio.open_nursery() as nursery:
        trial.scopes[0] = nursery.cancel_scope
        trial.begin()
        with contextlib.nullcontext() if not trial.hostile else contextlib.suppress(ConnectionFailedError):
            trial.client = await trial.connecting(nursery=nursery)
            await use(trial)
            await trial.client.close()
    trial.finish()


@operation(9, 10.0)
async def close_outside_a_nursery_that_is_cancelled(trial: Trial) -> None:
    async def close() -> None:
        await trial.client.close()
        trial.finish()

    async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
        trial.client = await trial.connecting(closing="never", nursery=nursery)
        await trial.settle()
        trial.scopes[0] = nursery.cancel_scope
        trial.begin()
        outside.start_soon(close)
    await trial.check_closed()


@operation(46)
async def a_whole_block(trial: Trial) -> None:
    trial.codes = {3000, 1001}
    with trial.swept():
        async with trial.connecting() as trial.client:
            await use(trial)
            await trial.client.close(3000, "bye")


# Through a proxy ------------------------------------------------------------------------------------------------------

LOGIN = (b"user", b"pass")
# None of them connects anywhere: it is the other end of the link that serves.
RIGHT: dict[Protocol, bytes] = {"http": ESTABLISHED, "https": ESTABLISHED, "socks5": SOCKS5_GRANTED}
PROXIED: list[tuple[Link, Protocol]] = [
    ("socket", "http"),
    ("socket", "https"),
    ("socket", "socks5"),
    ("tls", "http"),
    ("tls", "socks5"),
]
STOPS: list[tuple[Protocol, str]] = [
    (protocol, step) for protocol in RIGHT for step in steps(protocol, login=True) if step != "connect answered"
]


async def connect_in_vain(trial: Trial) -> None:
    with trial.swept(), pytest.raises(ConnectionFailedError, match="proxy"):
        async with trial.connecting(dial_timeout="10s"):
            pytest.fail("connected")


# The sweeps -----------------------------------------------------------------------------------------------------------


def in_every_order(sweep: Callable[[], None]) -> None:
    """Run a sweep with the choices seeded that Trio and `select` make: once, or once for each order asked for."""

    @settings(
        max_examples=int(ORDERS or 1),
        derandomize=not ORDERS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.random_module())
    def once(_seed: object) -> None:
        sweep()

    once()


@pytest.fixture(scope="module", autouse=True)
def _summary() -> Generator[None]:
    yield
    print("\ncancellation:", ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))  # shown by -s


def sweep(
    name: str,
    link: Link,
    *,
    takeover: bool,
    stride: int,
    deeds: Sequence[Callable[[AnsweringServer], None] | None] = (None,),
) -> None:
    """Interfere with an operation before every step, or one of so many; the deeds take turns."""
    _, floor, moments = OPERATIONS[name]
    for step, deed in zip(itertools.chain([0], itertools.count(1, stride)), itertools.cycle(deeds), strict=False):
        trial = try_once(name, Trial(link, takeover=takeover, at=(step,), deed=deed))
        if not trial.interfered:
            # A socket's own way of sending, and TLS over that, waits for nothing, where there is room.
            assert link != "memory" or trial.steps >= floor
            assert trial.seconds == (moments[-1] if moments else 0)
            return


def try_once(name: str, trial: Trial) -> Trial:
    try:
        trial.run(OPERATIONS[name].run)
    except BaseException as error:
        error.add_note(f"{name}, {trial}")
        raise
    counts[trial.kind] += trial.interfered
    return trial


def linked(ordinarily: dict[tuple[Link, bool], int], *, finest: int = 1) -> pytest.MarkDecorator:
    """Run a test over these links, with one step of so many; or over all, with the finest stride there is."""
    strides = dict.fromkeys(ALL_LINKS, finest) if ORDERS else ordinarily
    if not hasattr(socket, "AF_UNIX"):
        strides = {(link, takeover): stride for (link, takeover), stride in strides.items() if link == "memory"}
    return pytest.mark.parametrize(
        ("link", "takeover", "stride"),
        [(*key, stride) for key, stride in strides.items()],
        ids=[f"{link}, compressed" if takeover else link for link, takeover in strides],
    )


AT_ANY_STEP = linked({("memory", False): 1, ("socket", True): 3, ("tls", True): 14})


@AT_ANY_STEP
@pytest.mark.parametrize("name", RECEIVES)
def test_a_receive_may_be_cancelled_at_any_step_and_loses_nothing(
    name: str, link: Link, takeover: bool, stride: int
) -> None:
    in_every_order(lambda: sweep(name, link, takeover=takeover, stride=stride))


@AT_ANY_STEP
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in RECEIVES])
def test_an_operation_may_be_cancelled_at_any_step(name: str, link: Link, takeover: bool, stride: int) -> None:
    if name.startswith("connect"):
        # Dialling and TLS take a few steps each, at which a socket may be left.
        stride = min(stride, 3)
    in_every_order(lambda: sweep(name, link, takeover=takeover, stride=stride))


WAYS_STRIDE = 4
"""One of so many steps ordinarily, of the sweeps over ways to a server."""
WITH_SOCKETS = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="sockets with names in the file system")


def sweep_through(proxy: Callable[[], Proxy], link: Link, run: Callable[[Trial], Awaitable[None]]) -> float:
    """Cancel an operation through a proxy before every step; return how long it takes where that comes too late."""
    return sweep_whole(lambda step: Trial(link, proxy=proxy(), at=(step,)), "cancelled, through a proxy", run)


def sweep_whole(make_trial: Callable[[int], Trial], kind: str, run: Callable[[Trial], Awaitable[None]]) -> float:
    """Cancel an operation before every step, or one of so many; return how long it takes where that comes too late."""
    for step in itertools.count(0, 1 if ORDERS else WAYS_STRIDE):
        trial = make_trial(step)
        try:
            trial.run(run)
        except BaseException as error:
            error.add_note(str(trial))
            raise
        counts[kind] += trial.interfered
        if not trial.interfered:
            assert step > 2
            return trial.seconds
    raise AssertionError


@WITH_SOCKETS
@pytest.mark.parametrize(("link", "protocol"), PROXIED)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("connect")])
def test_connecting_through_a_proxy_may_be_cancelled_at_any_step(name: str, link: Link, protocol: Protocol) -> None:
    def sweeps() -> None:
        seconds = sweep_through(
            lambda: Proxy(protocol, LOGIN, answers={"connect": RIGHT[protocol]}), link, OPERATIONS[name].run
        )
        assert seconds == max(OPERATIONS[name].moments, default=0)

    in_every_order(sweeps)


@WITH_SOCKETS
@pytest.mark.parametrize("stops_by", ["close", "reset", "stall"])
@pytest.mark.parametrize(("protocol", "step"), STOPS)
def test_connecting_through_a_proxy_that_stops_may_be_cancelled_at_any_step(
    protocol: Protocol, step: str, stops_by: Stopping
) -> None:
    def proxy() -> Proxy:
        return Proxy(protocol, LOGIN, answers={"connect": RIGHT[protocol]}, stops_at=step, stops_by=stops_by)

    def sweeps() -> None:
        assert sweep_through(proxy, "socket", connect_in_vain) == (10 if stops_by == "stall" else 0)

    in_every_order(sweeps)


@WITH_SOCKETS
@pytest.mark.parametrize(
    ("protocol", "answers"),
    [
        ("http", {"connect": http_answer(407)}),
        ("http", {"connect": b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nbusy"}),
        ("http", {"connect": b"banana\r\n\r\n"}),
        ("https", {"connect": http_answer(403)}),
        ("socks5", {"greeting": b"\x05\xff"}),
        ("socks5", {"login": b"\x01\x01"}),
        ("socks5", {"connect": b"\x05\x02" + SOCKS5_GRANTED[2:]}),
    ],
)
def test_connecting_through_a_proxy_that_refuses_may_be_cancelled_at_any_step(
    protocol: Protocol, answers: dict[str, bytes]
) -> None:
    def sweeps() -> None:
        assert sweep_through(lambda: Proxy(protocol, LOGIN, answers=answers), "socket", connect_in_vain) == 0

    in_every_order(sweeps)


OTHER_WAYS: list[tuple[Way, Link]] = [
    ("redirect", "memory"),
    ("redirect", "socket"),
    ("redirect", "tls"),
    ("dial", "memory"),
    ("dial", "tls"),
    ("unix socket", "socket"),
    ("unix socket", "tls"),
]


@WITH_SOCKETS
@pytest.mark.parametrize(("way", "link"), OTHER_WAYS)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("connect")])
def test_connecting_another_way_may_be_cancelled_at_any_step(name: str, way: Way, link: Link) -> None:
    def sweeps() -> None:
        seconds = sweep_whole(
            lambda step: Trial(link, way=way, at=(step,)), f"cancelled, by {way}", OPERATIONS[name].run
        )
        assert seconds == max(OPERATIONS[name].moments, default=0)

    in_every_order(sweeps)


@WITH_SOCKETS
@pytest.mark.parametrize(("way", "link"), OTHER_WAYS)
@pytest.mark.parametrize("deed", ["reset", "end", "break the protocol"])
def test_the_server_may_interfere_at_any_step_of_another_way(deed: str, way: Way, link: Link) -> None:
    def sweeps() -> None:
        deeds = {"reset": reset, "end": end, "break the protocol": break_the_protocol}
        make = functools.partial(Trial, link, way=way, deed=deeds[deed])
        sweep_whole(lambda step: make(at=(step,)), f"interfered, by {way}", OPERATIONS["connect and leave"].run)

    in_every_order(sweeps)


def reset(server: AnsweringServer) -> None:
    server.reset()


def end(server: AnsweringServer) -> None:
    server.end()


def close_with_1000(server: AnsweringServer) -> None:
    server.say_close(1000)


def close_with_1011(server: AnsweringServer) -> None:
    server.say_close(1011)


def break_the_protocol(server: AnsweringServer) -> None:
    server.say(b"\xff\xff")


DEEDS = [reset, end, close_with_1000, close_with_1011, break_the_protocol]


@linked({("memory", False): 6, ("socket", True): 14})
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_the_server_may_interfere_at_any_step(name: str, link: Link, takeover: bool, stride: int) -> None:
    def sweeps() -> None:
        for deeds in [[deed] for deed in DEEDS] if ORDERS else [DEEDS]:
            sweep(name, link, takeover=takeover, stride=stride, deeds=deeds)

    in_every_order(sweeps)


@linked({("memory", True): 1})
@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.moments])
def test_a_deadline_may_fall_together_with_a_timeout(name: str, link: Link, takeover: bool, stride: int) -> None:
    moments = OPERATIONS[name].moments

    def deadlines() -> None:
        for deadline in sorted({0.0, *(moment + delta for moment in moments for delta in (-0.5, 0, 0.5))}):
            trial = try_once(name, Trial(link, takeover=takeover, deadline=deadline))
            assert trial.seconds == min(deadline, moments[-1])

    in_every_order(deadlines)


# Two operations at once -----------------------------------------------------------------------------------------------

PAIRED: dict[str, Callable[[Trial, int], Awaitable[object]]] = {
    "send": lambda trial, which: trial.send(f"{which} {WORDS}"),
    "send much": lambda trial, which: trial.send(bytes([which]) + trial.much),
    "receive": lambda trial, _: trial.take("select"),
    "ping": lambda trial, _: trial.client.ping(),
    "close": lambda trial, _: trial.client.close(),
}


async def two_at_once(trial: Trial, first: str, second: str) -> None:
    async def do(which: int, name: str) -> None:
        with trial.scopes[which]:
            await unless_it_ends(PAIRED[name], trial, which)

    trial.receives_in_order = False
    async with connected(trial, channel_capacity=1):
        trial.tell(3)
        trial.begin()
        async with trio.open_nursery() as nursery:
            for which, name in enumerate((first, second)):
                nursery.start_soon(do, which, name)
        trial.finish()
        await trial.check_either()


@linked({("memory", True): 6, ("socket", False): 10}, finest=3)
@pytest.mark.parametrize(("first", "second"), [*itertools.combinations_with_replacement(PAIRED, 2)])
def test_two_operations_may_be_cancelled_at_steps_of_their_own(
    first: str, second: str, link: Link, takeover: bool, stride: int
) -> None:
    def grid() -> None:
        steps = range(0, Trial(link, takeover=takeover).run(both).steps + 1, stride)
        for at in itertools.product(steps, repeat=2):
            counts["two cancelled"] += Trial(link, takeover=takeover, at=at).run(both).interfered

    both = functools.partial(two_at_once, first=first, second=second)
    in_every_order(grid)
