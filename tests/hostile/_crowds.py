"""Clients that come in crowds, or begin with what is no request: half requests, TLS that stalls, the PROXY protocol."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tests.hostile._attack import MIB
from tests.hostile._field import ClientAttack
from tests.hostile._foe import HOST, head, sent
from tests.websocket._peers import CLOSE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from csp.websocket import ServerConnection
    from tests.hostile._field import Field
    from tests.hostile._foe import Foe, Said

GOODBYE = sent(CLOSE, b"\x03\xe8")
HALF = head()[:-2]
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
SLOTS = 100
SOON = "300ms"


async def never(connection: ServerConnection) -> None:
    """Do not answer."""
    await connection.wait_closed()


async def connect_many(field: Field, number: int, data: bytes = b"", *, plain: bool = False) -> list[Foe]:
    foes: list[Foe] = []
    for _ in range(number):
        foe = await field.connect(plain=plain)
        await foe.send(data)
        foes.append(foe)
    return foes


async def greet(field: Field) -> None:
    """Be a client that behaves: it must be let in."""
    foe = await field.connect()
    await foe.open()
    said = await foe.hear_out(GOODBYE)
    assert (said.code, said.clean) == (1000, True), said


# Crowds ---------------------------------------------------------------------------------------------------------------


async def half_requests(field: Field, *, number: int) -> list[Said]:
    """Begin many requests, end none of them, and see whether somebody else is let in."""
    foes = await connect_many(field, number, HALF)
    await greet(field)
    said = [await foe.hear_out() for foe in foes]
    statuses = [one.status for one in said]
    # On a busy machine the first are too late before so many have come.
    assert statuses.count(503) + statuses.count(408) == number, statuses
    assert all(one.clean for one in said)
    return []


async def half_handshakes(field: Field, *, number: int, data: bytes) -> list[Said]:
    """Begin many handshakes of TLS, or none at all, and see whether somebody else is let in."""
    foes = await connect_many(field, number, data, plain=True)
    await greet(field)
    for foe in foes:
        await foe.hear_out()
    return []


async def too_many(field: Field, *, number: int) -> list[Said]:
    """Open as many connections as there may be, and then more."""
    for _ in range(number):
        foe = await field.connect()
        await foe.open()
    return [await (await field.connect()).hear_out(head()) for _ in range(20)]


async def unanswered(field: Field, *, number: int) -> list[Said]:
    foes = await connect_many(field, number, head() + GOODBYE)
    return [await foe.hear_out() for foe in foes]


async def lingering(field: Field, *, number: int) -> list[Said]:
    """Send many requests that are refused, and keep TCP open until the server has closed it."""
    foes = await connect_many(field, number, head(fields=()))
    before = trio.lowlevel.current_statistics().tasks_living
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before)
    return [await foe.hear() for foe in foes[-SLOTS // 2 :]]


async def coming_and_going(field: Field, *, number: int, leave: Callable[[Foe], object]) -> list[Said]:
    """Connect, and leave, many times."""
    for _ in range(number):
        foe = await field.connect(plain=True)
        leave(foe)
        field.forget(foe)
    return []


async def opening_and_dropping(field: Field, *, number: int, leave: Callable[[Foe], object]) -> list[Said]:
    """Open a connection, and leave, many times."""
    for _ in range(number):
        foe = await field.connect()
        await foe.open()
        leave(foe)
        field.forget(foe)
    return []


def end(foe: Foe) -> None:
    foe.socket.socket.close()


def reset(foe: Foe) -> None:
    foe.reset()


def crowds(many: int = 100) -> Iterator[ClientAttack]:
    """Return attacks of many clients.

    Args:
        many: how many come and go.
    """
    waiting: dict[str, Any] = {"clean": None, "max_bytes": 16 * MIB + 1000 * many, "max_steps": 200 * many + 50_000}
    yield ClientAttack(
        "300 half requests",
        partial(half_requests, number=300),
        records={"refused .*(503: there are too many|408)": 300, "accepted .*": 1},
        options={"handshake_timeout": "2s"},
        tcp_only=True,
        **waiting,
    )
    for name, data in (("nothing", b""), ("half a hello", bytes.fromhex("16030100f8010000f40303"))):
        yield ClientAttack(
            f"300 handshakes of TLS that stall after {name}",
            partial(half_handshakes, number=300, data=data),
            records={"no request .*": 300, "accepted .*": 1},
            options={"handshake_timeout": "2s"},
            tls_only=True,
            **waiting,
        )
    yield ClientAttack(
        "300 that send nothing",
        partial(half_handshakes, number=300, data=b""),
        records={"(no request|refused) .*": 300, "accepted .*": 1},
        options={"handshake_timeout": "2s"},
        tcp_only=True,
        **waiting,
    )
    yield ClientAttack(
        "more connections than there may be",
        partial(too_many, number=4),
        status=503,
        says="Retry-After",
        records={"accepted .*": 4, "refused .* 503": 20},
        options={"max_connections": 5},
    )
    yield ClientAttack(
        "nobody answers",
        partial(unanswered, number=30),
        status=503,
        says="Retry-After",
        records={"nobody has answered": 30},
        handler=never,
        options={"handshake_timeout": SOON},
    )
    yield ClientAttack(
        "150 that are refused, and keep TCP open",
        partial(lingering, number=150),
        status=426,
        records={"refused .* 426": 150},
        **waiting,
    )
    for name, leave in (("close", end), ("reset", reset)):
        yield ClientAttack(
            f"{many} that connect, and {name}",
            partial(coming_and_going, number=many, leave=leave),
            records={"no request .*": many},
            **waiting,
        )
        yield ClientAttack(
            f"{many} that open a connection, and {name}",
            partial(opening_and_dropping, number=many, leave=leave),
            records={"accepted .*": many},
            **waiting,
        )


# The PROXY protocol ---------------------------------------------------------------------------------------------------


async def behind_a_proxy(field: Field, *, data: bytes, each: int = MIB) -> list[Said]:
    """Begin a stream with bytes that are no header of the PROXY protocol."""
    foe = await field.connect(plain=True)
    await foe.say(data, each=each)
    said = await foe.hear_out()
    assert said.data == b"", said
    return []


def proxies() -> Iterator[ClientAttack]:
    binary = SIGNATURE + b"\x21\x11"
    for name, data in {
        "no header": head(),
        "a TLS hello": bytes.fromhex("16030100f8010000f40303") + bytes(240),
        "a line that is malformed": b"PROXY TCP4 1.2.3.4 nowhere\r\n" + head(),
        "an address that is none": b"PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n" + head(),
        "a port that is none": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n" + head(),
        "a line without end": b"PROXY UNKNOWN " + b"x" * 100_000,
        "another version": SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        "another kind of address": SIGNATURE + b"\x21\x51\x00\x0c" + bytes(12),
        "too few bytes for its addresses": binary + b"\x00\x05" + bytes(100),
        "64 KiB of extensions": binary + b"\xff\xff" + bytes(65_535),
        "64 KiB of a local one": SIGNATURE + b"\x20\x00\xff\xff" + bytes(65_535),
        "garbage": bytes(range(256)) * 100,
    }.items():
        yield ClientAttack(
            f"PROXY: {name}",
            partial(behind_a_proxy, data=data),
            records={"no request .*": 1},
            options={"proxy_protocol": True},
            clean=None,
        )
    for name, data in (("late", b""), ("half", binary), ("a byte at a time", b"PROXY UNKNOWN ")):
        yield ClientAttack(
            f"PROXY: {name}",
            partial(behind_a_proxy, data=data, each=1),
            records={"no request .* not complete within": 1},
            options={"proxy_protocol": True, "handshake_timeout": SOON},
        )
    yield ClientAttack(
        "PROXY: a path that is no text",
        partial(named, source=b"/\xff\n\x1b[31m" + bytes(100)),
        status=400,
        records={"refused .*": 1},
        options={"proxy_protocol": True},
        tcp_only=True,
    )


async def named(field: Field, *, source: bytes) -> list[Said]:
    """Come from a Unix socket with a path of any bytes."""
    foe = await field.connect(plain=True)
    paths = source[:108].ljust(108, b"\0") + bytes(108)
    await foe.send(SIGNATURE + b"\x21\x31" + len(paths).to_bytes(2, "big") + paths)
    return [await foe.hear_out(head(HOST))]


def attacks(many: int = 100) -> Iterator[ClientAttack]:
    yield from crowds(many)
    yield from proxies()


ATTACKS = list(attacks())
