"""Clients that break the protocol of the open connection, flood it, or stall (RFC 6455, sections 5 to 8; RFC 7692)."""

from __future__ import annotations

import contextlib
import functools
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from csp.errors import ConnectionFailedError
from tests.hostile import _violations
from tests.hostile._attack import MIB
from tests.hostile._field import ClientAttack
from tests.hostile._foe import from_client, head, sent
from tests.websocket._peers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from csp.websocket import ServerConnection
    from tests.hostile._field import Field
    from tests.hostile._foe import Said
    from tests.hostile._violations import Violation

BEFORE = sent(TEXT, b"before")
GOODBYE = sent(CLOSE, b"\x03\xe8")
ACCEPTED: Mapping[str, int] = {"accepted .*": 1}
SOON = "100ms"
# What is not taken for so long is not taken at all.
_FULL_SECONDS = 0.5
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


# What servers do ------------------------------------------------------------------------------------------------------


async def deaf(connection: ServerConnection) -> None:
    """Accept, and receive nothing."""
    await connection.accept()
    await connection.wait_closed()


async def send_much(connection: ServerConnection) -> None:
    """Send until that fails."""
    with contextlib.suppress(ConnectionFailedError):
        while True:
            await connection.send(bytes(64 * 1024))


async def close(connection: ServerConnection) -> None:
    await connection.accept()
    await connection.close(4000, "enough")


# What clients do ------------------------------------------------------------------------------------------------------


async def violating(
    field: Field, *, data: bytes, compressed: bool = False, each: int = MIB, behind: bool = False
) -> list[Said]:
    """Have a message echoed, send what breaks the protocol, and listen.

    Args:
        field: where the server is.
        data: what breaks it.
        compressed: whether compression is offered.
        each: in pieces of how many bytes it is sent.
        behind: whether it is sent right behind the request.
    """
    foe = await field.connect()
    more = [DEFLATE] if compressed else []
    if behind:
        await foe.send(head(*more) + data)
        return [await foe.hear_out()]
    await foe.open(*more, then=BEFORE)
    await foe.hear_until(b"before")
    await foe.say(data, each=each)
    return [await foe.hear_out()]


async def flooding(field: Field, *, data: bytes, times: int) -> list[Said]:
    """Send the same again and again, listen to nothing, and then leave."""
    foe = await field.connect()
    await foe.open()
    for _ in range(times):
        if not await foe.say(data, each=MIB):
            break
    await trio.aclose_forcefully(foe.stream)
    return []


async def flooding_until_given_up(field: Field, *, data: bytes) -> list[Said]:
    """Send the same again and again, and never listen, until the server gives up."""
    foe = await field.connect()
    foe.take_little()
    await foe.open()
    while await foe.say(data, each=MIB):
        pass
    await until(lambda: field.server.statistics().open == 1)
    return []


async def never_listening(field: Field) -> list[Said]:
    """Open a connection, and read nothing of what comes, until the server gives up."""
    foe = await field.connect()
    foe.take_little()
    await foe.open()
    await until(lambda: field.server.statistics().open == 1)
    return []


async def staying(field: Field, *, data: bytes = b"") -> list[Said]:
    """Send something, and then keep TCP open, until the server has closed its end."""
    foe = await field.connect()
    await foe.open()
    return [await foe.hear(data)]


async def trickling(field: Field) -> list[Said]:
    """Do not answer the server's close, but go on sending."""
    foe = await field.connect()
    await foe.open()
    await foe.hear_until(b"enough")
    while await foe.say(sent(TEXT, b"more") * 1000 + sent(PING)):
        pass
    return []


async def until_full(field: Field, *, data: bytes) -> list[Said]:
    """Send until nothing is taken any more, and leave."""
    foe = await field.connect()
    await foe.open()
    taken = True
    while taken:
        with trio.move_on_after(_FULL_SECONDS) as full:
            taken = await foe.say(data, each=MIB)
        taken = taken and not full.cancelled_caught
    await trio.aclose_forcefully(foe.stream)
    return []


async def resetting(field: Field, *, data: bytes) -> list[Said]:
    foe = await field.connect()
    await foe.open(then=data)
    foe.reset()
    return []


# Violations -----------------------------------------------------------------------------------------------------------


def refused(name: str, violation: Violation, **how: Any) -> ClientAttack:
    return ClientAttack(
        name,
        partial(violating, **how),
        status=101,
        says=violation.says if violation.sent_code is None else "",
        code=violation.code,
        records=ACCEPTED,
        options={"read_limit": _violations.READ_LIMIT, "compression": 1},
    )


def violations() -> Iterator[ClientAttack]:
    plain = {
        **_violations.HEADERS,
        **_violations.MESSAGES,
        **_violations.CLOSES,
        **dict(_violations.texts()),
    }
    for name, violation in plain.items():
        if "masked" not in name:
            yield refused(name, violation, data=from_client(violation.data))
            yield refused(f"{name}, behind the request", violation, data=from_client(violation.data), behind=True)
    for name, violation in _violations.COMPRESSED.items():
        yield refused(name, violation, data=from_client(violation.data), compressed=True)
    for opcode in (TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG):
        for size in (0, 5):
            data = frame(opcode, bytes(size))
            violation = _violations.Violation(data, 1002, "mask")
            yield refused(f"a frame of {size} bytes with opcode {opcode} that is not masked", violation, data=data)
    for name in ("opcode 3", "a close with 1005", "a text with a surrogate"):
        data = from_client(plain[name].data)
        yield refused(f"{name}, byte by byte", plain[name], data=data, each=1)
        yield refused(f"{name}, and a flood behind it", plain[name], data=data + sent(TEXT, b"x") * 50_000)


# Work and memory ------------------------------------------------------------------------------------------------------


@functools.cache
def bomb() -> bytes:
    """Return a compressed frame of about a megabyte, which would be a gigabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return sent(BINARY, (block * 1024)[:-4], reserved=0x40)


async def bombing(field: Field) -> list[Said]:
    return await violating(field, data=bomb(), compressed=True, behind=True)


def floods(many: int = 50_000) -> Iterator[ClientAttack]:
    """Return attacks of few bytes each that must not add up."""

    def flood(name: str, do: Callable[[Field], Awaitable[Sequence[Said]]], **more: Any) -> ClientAttack:
        given: dict[str, Any] = {"records": ACCEPTED, "clean": None, **more}
        return ClientAttack(name, do, **given)

    beginning = sent(BINARY, fin=False)
    piece = sent(CONTINUATION, b"x", fin=False)
    yield flood(
        f"{many} empty fragments",
        partial(violating, data=beginning + sent(CONTINUATION, fin=False) * many + sent(CONTINUATION) + GOODBYE),
        status=101,
        code=1000,
        max_bytes=4 * MIB + many * 8,
    )
    yield flood(
        "fragments of a byte past the limit",
        partial(violating, data=beginning + piece * 20_001),
        status=101,
        says="20001",
        code=1009,
        options={"read_limit": 20_000},
    )
    yield flood(
        "a header for 16 MiB with nothing behind",
        partial(violating, data=bytes([0x82, 0xFF]) + (16 * MIB).to_bytes(8, "big") + bytes(4)),
        status=101,
        says="16777216",
        code=1009,
    )
    yield flood(
        "a header for 16 MiB that are allowed, with nothing behind",
        partial(flooding, data=bytes([0x82, 0xFF]) + (16 * MIB).to_bytes(8, "big") + bytes(4), times=1),
        options={"read_limit": 16 * MIB},
        clean=None,
    )
    yield flood(
        "a gigabyte in a compressed megabyte",
        bombing,
        status=101,
        says="1048576",
        code=1009,
        options={"compression": 1},
        max_bytes=9 * MIB,
    )
    yield flood(
        "pings, and reads no pong", partial(flooding, data=sent(PING, bytes(125)) * 1000, times=20), handler=deaf
    )
    yield flood(
        "pongs that answer nothing", partial(flooding, data=sent(PONG, bytes(125)) * 1000, times=20), handler=deaf
    )
    yield flood(
        "pings, empty fragments and pongs, and a message in between",
        partial(flooding, data=(sent(PING) + beginning + sent(PONG) + sent(CONTINUATION)) * 500, times=20),
        options={"write_timeout": SOON},
    )
    yield flood(
        "messages to who receives none, until both ends are full",
        partial(until_full, data=sent(BINARY, bytes(1000)) * 100),
        handler=deaf,
        max_bytes=8 * MIB,
        options={"keepalive": SOON},
    )
    yield flood(
        "empty messages to who receives none",
        partial(until_full, data=sent(TEXT) * 10_000),
        handler=deaf,
        max_bytes=6 * MIB,
        options={"keepalive": SOON},
    )


# Stalling -------------------------------------------------------------------------------------------------------------


def stalling() -> Iterator[ClientAttack]:
    def stall(name: str, do: Callable[[Field], Awaitable[Sequence[Said]]], **more: Any) -> ClientAttack:
        given: dict[str, Any] = {"records": ACCEPTED, "clean": None, "max_bytes": 8 * MIB, **more}
        return ClientAttack(name, do, **given)

    yield stall(
        "sends and never reads",
        partial(flooding_until_given_up, data=sent(BINARY, bytes(64 * 1024)) * 4),
        options={"write_timeout": SOON},
        max_steps=200_000,
    )
    yield stall("never reads what is sent", never_listening, options={"write_timeout": SOON}, handler=send_much)
    yield stall(
        "half-open",
        staying,
        status=101,
        says="no pong|nothing",
        code=1011,
        options={"keepalive": SOON, "close_timeout": SOON},
    )
    yield stall(
        "reads, and answers no ping",
        staying,
        status=101,
        code=1011,
        options={"keepalive": SOON, "close_timeout": SOON},
        handler=deaf,
    )
    yield stall(
        "keeps TCP open after its close",
        partial(staying, data=GOODBYE),
        status=101,
        code=1000,
        options={"close_timeout": SOON},
    )
    yield stall(
        "keeps TCP open after our close", staying, status=101, code=4000, options={"close_timeout": SOON}, handler=close
    )
    yield stall(
        "answers our close with messages without end", trickling, options={"close_timeout": SOON}, handler=close
    )
    yield stall(
        "a message that takes too long",
        staying,
        status=101,
        code=1011,
        options={"read_timeout": SOON, "close_timeout": SOON},
    )
    for name, data in (("idle", b""), ("inside a frame", BEFORE[:4]), ("inside a message", sent(TEXT, fin=False))):
        yield stall(f"a reset, {name}", partial(resetting, data=data))


OVER_TLS = [*floods(), *stalling()]
ATTACKS = [*violations(), *OVER_TLS]
