"""The ends of connections in random programs: what each does at random, and what it notes for the checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

import csp
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, EndOfChannelError, NoContextError
from csp.websocket import Compression, Message, ServerConnection

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from csp import websocket

MIB = 1024 * 1024
SIZES = [1, 1, 1, 300, 5_000, 70 * 1024, 2 * MIB]
CODES = [1000, 1001, 1008, 1012, 3000]
PATIENCE_SECONDS = [0.0, 0.0, 0.01, 1.0, 30.0, 400.0, 400.0]
PAUSE_SECONDS = [0.0, 0.01, 0.3, 3.0, 40.0]
# After its own close an end may still lose the connection, or fail it for what comes.
LOST_OR_FAILED = [1002, 1006, 1007, 1009]
STATUSES = [200, 301, 403, 404, 503]
# No operation goes on for longer once its connection has ended and its socket is closed.
AFTERWARDS_SECONDS = 60.0


class OwnError(Exception):
    """What the program itself raises: in handlers, in blocks."""


@dataclass
class Notes:
    """What one end of a connection has sent and received, and how the connection ended for it."""

    begun: list[int] = field(default_factory=list[int])
    """Messages whose sending began, in order."""
    sent: set[int] = field(default_factory=set[int])
    """Those whose sending returned."""
    received: list[int] = field(default_factory=list[int])
    codes: set[int] = field(default_factory=set[int])
    """With what this end may have closed."""
    drained: bool = False
    """Whether it has received until the end."""
    stopped: bool = False
    """Whether it was closed on this side while not all was received: what had come was discarded."""
    ended: bool = False
    """Whether the connection has ended, and the rest of this is known."""
    close_code: int | None = None
    closing: bool = False
    stalled: bool = False
    """Whether it was failed because the peer sent nothing."""

    def text(self, size: int) -> str:
        """Return the next message, and note that its sending begins."""
        self.begun.append(len(self.begun))
        return f"{self.begun[-1]}:".ljust(size, "x")

    def take(self, data: str | bytes) -> None:
        """Note a message that came."""
        self.received.append(int(data[: data.index(b":" if isinstance(data, bytes) else ":")]))  # type: ignore[arg-type]  # of one type

    @property
    def saw_close(self) -> bool:
        """Whether the connection ended with a close frame that the peer sent by its own decision."""
        return self.ended and not self.closing and not self.stalled and self.close_code in {*CODES, 1011}


class End:
    """One end of a connection: a `Client`, or a `ServerConnection` that may be unanswered."""

    def __init__(self, endpoint: websocket.Client | ServerConnection, notes: Notes, chance: random.Random) -> None:
        self.endpoint = endpoint
        self.notes = notes
        self.chance = chance

    async def act(self, number: int) -> None:
        """Do so many things."""
        operations = [self.send] * 4 + [self.receive] * 4 + [self.ping] * 2 + [self.pause, self.several, self.select]
        for _ in range(number):
            await self.attempt(self.chance.choice(operations))

    async def attempt(self, operation: Callable[[], Awaitable[None]]) -> None:
        """Do something that may be cancelled in its middle, and must not go on after the connection's end."""
        with trio.move_on_after(self.chance.choice(PATIENCE_SECONDS)):
            async with csp.BackgroundNursery() as nursery:
                nursery.start_soon(self._watch, operation)
                await operation()

    async def _watch(self, operation: Callable[[], Awaitable[None]]) -> None:
        await self.endpoint.wait_closed()
        await trio.sleep(AFTERWARDS_SECONDS)
        raise AssertionError(f"{operation} goes on after the end of {self.endpoint!r}")

    async def send(self) -> None:
        text = self.notes.text(self.chance.choice(SIZES))
        number = self.notes.begun[-1]
        try:
            await self.endpoint.send(text if self.chance.random() < 0.7 else text.encode())
        except ConnectionFailedError:
            return
        self.notes.sent.add(number)

    async def ping(self) -> None:
        try:
            pong = await self.endpoint.ping()
        except ConnectionFailedError:
            return
        if self.chance.random() < 0.8:
            await pong.receive()

    async def pause(self) -> None:
        await trio.sleep(self.chance.choice(PAUSE_SECONDS))

    async def several(self) -> None:
        """Send in a few tasks, and wait for a pong and a message in others, all at once."""
        async with trio.open_nursery() as nursery:
            for _ in range(self.chance.randint(2, 4)):
                nursery.start_soon(self.send)
            nursery.start_soon(self.ping)
            if self.chance.random() < 0.5:
                nursery.start_soon(self.receive)

    async def receive(self) -> None:
        """Take a message, or the end, in one of many ways."""
        message: Message | None = None
        way = self.chance.randrange(3)
        try:
            if way == 0:
                message, _ = await self.endpoint.receive()
            elif way == 1:
                message = await self.endpoint.receive_value()
            else:
                message = await anext(self.endpoint)
        except ConnectionFailedError:
            # From `accept`, if nothing was received before, or of the connection's end.
            self.notes.drained = self.endpoint.close_code is not None
            return
        except (EndOfChannelError, StopAsyncIteration):
            pass
        self.note(message)

    async def select(self) -> None:
        try:
            channel = self.endpoint.channel()
        except NoContextError:  # it is unanswered
            return
        r = await csp.select(channel.case_receive(), csp.after(self.chance.choice(["1ms", "2s"])).case_receive())
        if r.channel is channel:
            self.note(r.value if isinstance(r.value, Message) else None)

    def note(self, message: Message | None) -> None:
        """Note a message, or that no more come."""
        if message is None:
            self.notes.drained = True
        else:
            self.notes.take(message.data)

    async def drain(self) -> None:
        """Receive until the end."""
        while not self.notes.drained:
            await self.receive()

    async def close(self) -> None:
        code = self.chance.choice(CODES)
        self.notes.codes.add(code)
        self.notes.stopped |= not self.notes.drained
        await self.endpoint.close(code)

    async def leave(self) -> None:
        """Come to an end: receive until the connection ends, at least for a while, or close it at once."""
        if self.chance.random() < 0.6:
            await self.attempt(self.drain)
        await self.close()

    # A server's end ---------------------------------------------------------------------------------------------------

    async def answer(self) -> None:
        """Accept or reject it in some way, or leave that to what uses it first."""
        await trio.sleep(self.chance.choice([0.0, 0.0, 0.01, 2.0, 15.0]))
        ways = [self.accept] * 4 + [self.reject, self.answer_twice, self.raise_own, self.pause]
        await self.attempt(self.chance.choice(ways))

    async def accept(self) -> None:
        assert isinstance(self.endpoint, ServerConnection)
        try:
            await self.endpoint.accept(compression=self.chance.choice([None, None, *Compression]))
        except ConnectionFailedError:
            assert self.endpoint.close_code is not None or self.endpoint.closing

    async def reject(self) -> None:
        assert isinstance(self.endpoint, ServerConnection)
        body = b"no" * self.chance.choice([0, 1, 500_000])
        try:
            await self.endpoint.reject(self.chance.choice(STATUSES), body=body)
        except ConnectionFailedError:
            pass
        else:
            assert self.endpoint.error is None
        assert self.endpoint.close_code == 1006

    async def answer_twice(self) -> None:
        """Answer in two tasks at once: one of them is told that the other has."""
        told: list[NoContextError] = []

        async def answer(way: Callable[[], Awaitable[None]]) -> None:
            try:
                await way()
            except NoContextError as error:
                told.append(error)

        async with trio.open_nursery() as nursery:
            for way in self.chance.sample([self.accept, self.accept, self.reject], 2):
                nursery.start_soon(answer, way)
        assert len(told) == 1 or self.endpoint.error is not None

    async def raise_own(self) -> None:
        self.notes.codes.add(1011)
        raise OwnError


async def note_end(endpoint: websocket.Client | ServerConnection, notes: Notes) -> None:
    """Wait for the end of a connection, and note how it was."""
    await endpoint.wait_closed()
    notes.ended = True
    notes.close_code, notes.closing = endpoint.close_code, endpoint.closing
    notes.stalled = isinstance(endpoint.error, ConnectionTimeoutError)


def check(ours: Notes, theirs: Notes, *, raw: bool = False) -> None:
    """Check what one end has received from the other, and the code that it was closed with.

    Args:
        ours: those of the end that receives.
        theirs: those of the other.
        raw: whether the other end is no client of ours.
    """
    assert ours.received == sorted(set(ours.received)), f"twice, or out of order: {ours.received} of {theirs.begun}"
    assert set(ours.received) <= set(theirs.begun), "something came that was not sent"
    if ours.saw_close:
        assert ours.close_code in theirs.codes or (theirs.stalled and ours.close_code == 1011), (
            f"{ours.close_code} came, but {theirs.codes} were sent"
        )
        if ours.drained and not ours.stopped:
            assert theirs.sent <= set(ours.received), "something was sent before the close, and did not come"
        if not raw and theirs.ended and theirs.closing and theirs.close_code not in LOST_OR_FAILED:
            assert theirs.close_code in (ours.close_code, *ours.codes, *theirs.codes), (
                f"the ends have {ours.close_code} and {theirs.close_code}"
            )
