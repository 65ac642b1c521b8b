"""Servers that send more than a client should hold: by size, by number, by deflate (RFC 7692, section 7.2.3).

A bomb is a few bytes on the wire and many in memory, or never ends. What a client holds of one is its read limit and
little more.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import TYPE_CHECKING

from trio.testing import wait_all_tasks_blocked

from tests.hostile._attack import MIB, Attack
from tests.websocket._peers import BINARY, CONTINUATION, PING, PONG, TEXT, Peer, acceptance, close_frame, frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from csp import websocket

BEFORE = frame(TEXT, b"before")
RSV1 = 0x40


@cache
def deflated_zeros(mib: int) -> bytes:
    """Return a deflate stream, without its end, of so many MiB of zeros."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    pieces = [compressor.compress(bytes(MIB)) for _ in range(mib)]
    return b"".join([*pieces, compressor.flush(zlib.Z_SYNC_FLUSH)])[:-4]


def stored(size: int) -> bytes:
    """Return a deflate stream of stored blocks, which takes more than what it holds."""
    block = b"\x00\xff\xff\x00\x00" + bytes(65_535)
    return block * (size // 65_535 + 1)


def fragmented(opcode: int, payload: bytes, count: int, reserved: int = 0) -> bytes:
    """Return a message in fragments."""
    size = -(-len(payload) // count)
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    frames = [frame(CONTINUATION, piece, fin=False) for piece in pieces[1:-1]]
    return b"".join([frame(opcode, pieces[0], fin=False, reserved=reserved), *frames, frame(CONTINUATION, pieces[-1])])


def sending(*blocks: bytes, compressed: bool = False) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(acceptance(peer.request, *["Sec-WebSocket-Extensions: permessage-deflate"] * compressed))
        await peer.send(BEFORE)
        for block in blocks:
            await peer.send(block)

    return serve


def refused(name: str, limit: int, *blocks: bytes, compressed: bool = True) -> Attack:
    return Attack(
        name,
        sending(*blocks, compressed=compressed),
        rf"a (compressed )?(message|frame) of .*{limit}",
        code=1009,
        wire=1009,
        received=("before",),
        options={"compression": int(compressed), "read_limit": limit},
    )


async def take_your_time(client: websocket.Client) -> list[str | bytes]:
    """Let messages pile up, as far as they can; return the first and the last."""
    first = last = (await client.receive()).value.data
    await wait_all_tasks_blocked(0.01)
    async for message in client:
        last = message.data
    return [first, last]


def survived(name: str, *blocks: bytes, compressed: bool = False) -> Attack:
    """What is within all limits: the client has to take it, and little memory."""
    return Attack(
        name,
        sending(*blocks, frame(TEXT, b"after") + close_frame(1000), compressed=compressed),
        code=1000,
        wire=1000,
        received=("before", "after"),
        use=take_your_time,
        options={"read_limit": MIB, "channel_capacity": 1, "compression": int(compressed)},
    )


def too_large(limit: int) -> Iterator[Attack]:
    mib = limit // MIB
    zeros = deflated_zeros(4 * mib)
    inflating = f"{4 * mib} MiB of deflated zeros"
    yield refused(f"{inflating}, limit {mib}", limit, frame(BINARY, zeros, reserved=RSV1))
    yield refused(f"{inflating} as text, limit {mib}", limit, frame(TEXT, zeros, reserved=RSV1))
    yield refused(f"{inflating} in fragments, limit {mib}", limit, fragmented(BINARY, zeros, 10, RSV1))
    # As much as the limit allows in one frame, and only then too much.
    just = deflated_zeros(mib) + b"\x00\x00\xff\xff"
    more = frame(CONTINUATION, deflated_zeros(1), fin=False)
    yield refused(f"{mib} MiB and 1 MiB more, limit {mib}", limit, frame(BINARY, just, fin=False, reserved=RSV1), more)


def endless(limit: int, count: int) -> Iterator[Attack]:
    yield refused("stored blocks above the limit", limit, frame(BINARY, stored(limit), reserved=RSV1))
    start, more = frame(BINARY, fin=False), frame(CONTINUATION, bytes(65_536), fin=False)
    yield refused("large fragments above the limit", limit, start, *[more] * (limit // 65_536 + 1), compressed=False)
    more = frame(CONTINUATION, b"x", fin=False)
    yield refused(f"{count} fragments of a byte", count - 1, start, *times(count, more), compressed=False)


def times(count: int, data: bytes) -> list[bytes]:
    return [data * 1000] * (count // 1000)


def fragments(count: int) -> Iterator[Attack]:
    nothing = times(count, frame(CONTINUATION, fin=False))
    yield survived(f"{count} empty fragments", frame(TEXT, fin=False), *nothing, frame(CONTINUATION))
    start, end = frame(TEXT, fin=False, reserved=RSV1), frame(CONTINUATION, b"\x00")
    yield survived(f"{count} empty compressed fragments", start, *nothing, end, compressed=True)


def control_frames(count: int) -> Iterator[Attack]:
    yield survived(f"{count} pings", *times(count, frame(PING, bytes(125))))
    yield survived(f"{count} pongs", *times(count, frame(PONG, bytes(125))))


def many_messages(count: int) -> Iterator[Attack]:
    yield survived(f"{count} empty messages", *times(count, frame(TEXT)))
    yield survived(f"{count} messages of a byte", *times(count, frame(BINARY, b"x")))
    empty = frame(BINARY, b"\x02\x00", reserved=RSV1)
    yield survived(f"{count} empty deflated messages", *times(count, empty), compressed=True)
    blocks = b"\x00\x00\x00\xff\xff" * count + b"\x00"
    yield survived(f"{count} empty blocks", frame(BINARY, blocks, reserved=RSV1), compressed=True)
    inflating = frame(BINARY, deflated_zeros(1), reserved=RSV1)
    yield survived("100 messages of 1 KiB that inflate to 1 MiB", inflating * 100, compressed=True)


FINAL_BLOCKS = Attack(
    "2000 final blocks",
    sending(frame(BINARY, b"\x03\x00" * 2000, reserved=RSV1), compressed=True),
    "final blocks",
    code=1007,
    wire=1007,
    received=("before",),
    options={"compression": 1},
)


def attacks(limits: Sequence[int], count: int) -> list[Attack]:
    """Return the bombs for these read limits; those that are one by their number have ``count`` parts."""
    return [
        *(attack for limit in limits for attack in too_large(limit)),
        *endless(4 * MIB, count),
        *fragments(count),
        *control_frames(count),
        *many_messages(count // 5),
        FINAL_BLOCKS,
    ]


ATTACKS = attacks((MIB, 16 * MIB), 10_000)
