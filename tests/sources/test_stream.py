"""`from_stream`: bytes in pieces, read only when somebody asks."""

from __future__ import annotations

import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

import csp

ENDED: object = (None, False)


async def test_a_streams_bytes_come_in_pieces_and_end() -> None:
    ours, theirs = memory_stream_pair()
    async with csp.from_stream(ours, max_bytes=4) as source:
        await theirs.send_all(b"abcdefghij")
        await theirs.send_eof()
        assert [piece async for piece in source] == [b"abcd", b"efgh", b"ij"]
        assert source.cause is None
    await ours.send_all(b"still open")


async def test_a_stream_is_read_only_when_somebody_asks() -> None:
    ours, theirs = memory_stream_pair()
    async with csp.from_stream(ours) as source:
        await theirs.send_all(b"first")
        assert await source.receive() == (b"first", True)
        await theirs.send_all(b"second")
        await wait_all_tasks_blocked()
    assert bytes(await ours.receive_some()) == b"second"


async def test_a_stream_that_breaks_is_the_cause() -> None:
    ours, _theirs = memory_stream_pair()
    async with csp.from_stream(ours) as source:
        await ours.aclose()
        assert await source.receive() == ENDED
    assert isinstance(source.cause, trio.ClosedResourceError)


async def test_a_streams_pieces_are_bytes() -> None:
    ours, theirs = memory_stream_pair()
    async with csp.from_stream(ours) as source:
        await theirs.send_all(b"abc")
        assert type((await source.receive()).value) is bytes
