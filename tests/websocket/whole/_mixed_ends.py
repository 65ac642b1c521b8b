"""One end of a connection in a random program that mixes everything: several tasks, which do what users' tasks do."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import trio

import csp
from csp import websocket
from csp.errors import ConnectionFailedError, EndOfChannelError, InvalidError, InvalidTypeError, NoContextError
from csp.websocket import BINARY, TEXT, Client, ServerConnection
from tests.websocket.whole._mixed_notes import FIN, Ledger, Reader, content, name_of

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from csp.websocket import HubOverflow, MessageStream

    Operation: TypeAlias = Callable[[], Awaitable[None]]

SIZES = [1, 30, 30, 300, 5_000, 70_000, 300_000]
PAUSE_SECONDS = [0.0, 0.01, 0.3, 3.0, 40.0]
PIECE_SECONDS = [None, None, None, 0.0, 0.01, 1.0]
PATIENCE_SECONDS = [0.0, 0.01, 1.0, 30.0, 400.0, 400.0]
CODES = [1000, 1008, 1012, 3000]
HANGS_AFTER_SECONDS = 2_000.0
"""What has to end ends earlier, if both ends receive."""
AFTERWARDS_SECONDS = 60.0
"""No operation goes on for longer once its connection has ended and its socket is closed."""


class OwnError(Exception):
    """What the program itself raises."""


class Room:
    """A hub, and the ends that may be its members."""

    def __init__(self, capacity_bytes: int) -> None:
        self.hub = websocket.Hub(capacity_bytes=capacity_bytes)
        self.ends: dict[object, End] = {}
        self.told = 0
        self.dropped = 0

    def broadcast(self, size: int) -> None:
        """Send a message to all, and note whose it is."""
        self.told += 1
        name = f"h{self.told}"
        members = [self.ends[member] for member in self.hub]
        for end in members:
            end.ours.fates[name] = "posted" if end.policy == "close" else "droppable"
        outcome = self.hub.broadcast(content(name, size))
        self.dropped += outcome.dropped
        for end in members:
            if end.endpoint not in self.hub:
                # It was closed as too slow, or has ended: what waited was discarded, unlike what was sent otherwise.
                end.codes.add(1013)
                end.ours.may_drop()


class End:
    """One end.

    Args:
        endpoint: what it uses.
        ours: notes what it sends.
        theirs: notes what it receives.
        room: has the hub of this side, where it comes and goes.
        chance: what decides.
        calm: whether it does nothing that could end the connection or lose a message.
        attentive: whether a task receives all the time, at both ends.
    """

    def __init__(
        self,
        endpoint: Client | ServerConnection,
        ours: Ledger,
        theirs: Ledger,
        room: Room,
        chance: random.Random,
        *,
        calm: bool,
        attentive: bool,
    ) -> None:
        self.endpoint = endpoint
        self.ours = ours
        self.theirs = theirs
        self.room = room
        self.chance = chance
        self.calm = calm
        self.attentive = attentive
        self.codes: set[int] = set()
        """With what it may have closed."""
        self.policy: HubOverflow = "close"
        self.drained = False
        self.stopped = False
        """Whether it was closed here before all was received."""
        self.may_shield = True
        """Whether it may wait for a pong although it is cancelled: a server that is cancelled reads nothing."""
        self.cut = False
        """Whether a message in pieces was cut here, which may have ended the connection."""
        self.over = False
        """Whether that was behind its first piece: nothing more can be sent then."""
        self._fin = trio.Event()
        room.ends[endpoint] = self

    # Tasks ------------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Do things in several tasks; then close, or wait for the peer to."""
        if self.chance.random() < 0.5:
            await self._join()
        async with trio.open_nursery() as nursery:
            receiving = trio.CancelScope()
            if self.attentive:
                nursery.start_soon(self._attend, receiving)
            async with trio.open_nursery() as tasks:
                for _ in range(self.chance.randint(1, 3)):
                    tasks.start_soon(self._act, self.chance.choice([0, 1, 3, 8]))
            if self.calm:
                await self.endpoint.send(self._fin_text())
                with trio.fail_after(HANGS_AFTER_SECONDS):
                    await self._fin.wait()
            elif not self.attentive and self.chance.random() < 0.6:
                nursery.start_soon(self._attend, receiving)
                with trio.move_on_after(self.chance.choice([1.0, 1000.0])):
                    await self.endpoint.wait_closed()
            await self._finish(receiving)

    def _fin_text(self) -> str:
        self.ours.fates[FIN] = "sent"
        return content(FIN, 10)

    async def _finish(self, receiving: trio.CancelScope) -> None:
        if self.calm or self.chance.random() < 0.8:
            await self._close(self.chance.choice(CODES))
        elif self.chance.random() < 0.5:
            self.codes.add(1011)
            self.stopped = True
            raise OwnError
        receiving.cancel()

    async def _attend(self, scope: trio.CancelScope) -> None:
        """Receive, in ever different ways, until the connection ends."""
        reader = Reader(self.theirs)
        with scope:
            while not self.drained:
                await self._receive(reader)

    async def _act(self, number: int) -> None:
        reader = Reader(self.theirs)
        operations: list[Operation] = [self._send, self._send, self._send_pieces, self._send_pieces, self._ping]
        operations += [self._pause, self._join, self._broadcast, self._look]
        operations += [partial(self._receive_in_time, reader)] * 2
        if not self.calm:
            operations += [self._join_and_leave, self._several]
        for _ in range(number):
            if not self.calm and self.chance.random() < 0.02:
                await self._close(self.chance.choice(CODES))
            await self._attempt(self.chance.choice(operations))

    async def _attempt(self, operation: Operation) -> None:
        """Do something, which may be cancelled in its middle, and must not go on after the connection's end."""
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(self._watch, operation)
            if self.calm or (self.attentive and self.chance.random() < 0.5):
                await operation()
            elif self.chance.random() < 0.5:
                with trio.CancelScope() as scope:
                    nursery.start_soon(self._cancel, scope, self.chance.randrange(20))
                    await operation()
            else:
                with trio.move_on_after(self.chance.choice(PATIENCE_SECONDS)):
                    await operation()

    async def _cancel(self, scope: trio.CancelScope, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def _watch(self, operation: Operation) -> None:
        with trio.move_on_after(HANGS_AFTER_SECONDS) as waiting:
            await self.endpoint.wait_closed()
        if not waiting.cancelled_caught:
            await trio.sleep(AFTERWARDS_SECONDS)
        raise AssertionError(f"{operation} hangs, of {self.endpoint!r}")

    # Sending ----------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        text = self.ours.begin(self.chance.choice(SIZES))
        name = name_of(text)
        assert name is not None
        over = self.over
        try:
            await self.endpoint.send(text if self.chance.random() < 0.7 else text.encode())
        except ConnectionFailedError:
            assert not self.calm
        else:
            assert not over, "a message was cut, and the connection goes on"
            self.ours.fates[name] = "sent"

    async def _send_pieces(self) -> None:
        end = "whole" if self.calm else self.chance.choice(["whole", "whole", "whole", "raises", "endless", "wrong"])
        type_ = self.chance.choice([None, None, TEXT, BINARY])
        pieces = _Pieces(self, end, type_)
        try:
            with trio.move_on_after(self.chance.choice([5, 40]) if end == "endless" else float("inf")):
                await self.endpoint.send(pieces.give(), type_)
        except ConnectionFailedError:
            assert not self.calm
        except OwnError:
            assert end == "raises"
        except (InvalidTypeError, InvalidError):
            assert end == "wrong"
        else:
            if end == "whole" and pieces.name is not None and pieces.complete:
                self.ours.fates[pieces.name] = "sent"
                return
        finally:
            if pieces.name is not None and self.ours.fates[pieces.name] != "sent":
                self.cut = True
                if not pieces.complete:
                    self.ours.fates[pieces.name] = "doomed"
            self.over |= not pieces.complete and pieces.given > 1

    async def _ping(self) -> None:
        try:
            pong = await self.endpoint.ping()
        except ConnectionFailedError:
            assert not self.calm
            return
        if self.chance.random() < 0.8:
            # However little patience there was to send it: the wait ends by itself, also where nobody else receives.
            with (
                trio.CancelScope(shield=self.may_shield and self.chance.random() < 0.5),
                trio.fail_after(HANGS_AFTER_SECONDS),
            ):
                received = await pong.receive()
                assert not received.ok or received.value >= 0

    async def _several(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self.chance.randint(2, 4)):
                nursery.start_soon(self.chance.choice([self._send, self._send_pieces, self._ping]))

    # Everything else --------------------------------------------------------------------------------------------------

    async def _pause(self) -> None:
        # A reader that rests for longer would let the peer's close time out.
        await trio.sleep(self.chance.choice(PAUSE_SECONDS[:3] if self.calm else PAUSE_SECONDS))

    async def _look(self) -> None:
        statistics = self.endpoint.statistics()
        assert statistics.messages_waiting_receive >= 0
        assert statistics.messages_waiting_send >= 0
        assert statistics.bytes_waiting_send >= 0
        repr(self.endpoint)

    async def _join(self) -> None:
        """Join the hub, which keeps the policy of before if it was a member."""
        policies: list[HubOverflow] = ["close", "close", "drop_oldest", "drop_newest"]
        self.policy = self.chance.choice(policies[2:] if self.calm else policies)
        if self.policy == "drop_oldest":
            self.ours.may_drop()  # what waits
        self.room.hub.add(self.endpoint, overflow=self.policy, capacity=self.chance.choice([1, 3, 64]))

    async def _join_and_leave(self) -> None:
        await self._join()
        await self._pause()
        self.room.hub.discard(self.endpoint)

    async def _broadcast(self) -> None:
        self.room.broadcast(self.chance.choice(SIZES))

    async def _close(self, code: int) -> None:
        self.codes.add(code)
        self.stopped |= not self.drained
        with trio.fail_after(HANGS_AFTER_SECONDS):
            await self.endpoint.close(code)

    # Receiving --------------------------------------------------------------------------------------------------------

    async def _receive(self, reader: Reader) -> None:
        """Take a message, or a few, or the end, in one of many ways."""
        ways = [self._one, self._value, self._for, self._select, self._selector, self._stream, self._stream]
        try:
            await self.chance.choice(ways)(reader)
        except (EndOfChannelError, ConnectionFailedError):
            assert self.endpoint.close_code is not None or self.endpoint.closing
            self.drained = True

    async def _receive_in_time(self, reader: Reader) -> None:
        """Wait for a message, which may never come."""
        with trio.move_on_after(self.chance.choice(PATIENCE_SECONDS)):
            await self._receive(reader)

    def _took(self, reader: Reader, data: str | bytes) -> None:
        if reader.take(data) == FIN:
            self._fin.set()

    async def _one(self, reader: Reader) -> None:
        message, ok = await self.endpoint.receive()
        if ok:
            self._took(reader, message.data)
        else:
            self.drained = True

    async def _value(self, reader: Reader) -> None:
        self._took(reader, (await self.endpoint.receive_value()).data)

    async def _for(self, reader: Reader) -> None:
        left = self.chance.randint(1, 4)
        async for message in self.endpoint:
            self._took(reader, message.data)
            left -= 1
            if not left:
                return
        self.drained = True

    async def _select(self, reader: Reader) -> None:
        channel = self.endpoint.channel()
        r = await csp.select(channel.case_receive(), csp.after(self.chance.choice(["1ms", "2s"])).case_receive())
        if r.channel is channel:
            if r.ok:
                self._took(reader, r.value.data)  # type: ignore[union-attr]  # it is a message
            else:
                self.drained = True

    async def _selector(self, reader: Reader) -> None:
        left = self.chance.randint(1, 4)
        with csp.Selector(self.endpoint.channel()) as selector:
            async for r in selector:
                if not r.ok:
                    self.drained = True
                    return
                self._took(reader, r.value.data)
                left -= 1
                if not left:
                    return

    async def _stream(self, reader: Reader) -> None:
        stream = self.endpoint.receive_stream()
        if self.chance.random() < 0.2:
            await self._pause()  # it is entered late
        whole = entered = False
        way = "full" if self.calm else self.chance.choice(["full", "full", "full", "break", "raise", "cancel"])
        parts: list[str | bytes] = []
        try:
            async with stream:
                entered = True
                with trio.move_on_after(self.chance.choice([0, 0.01, 2]) if way == "cancel" else float("inf")) as scope:
                    await self._take_pieces(stream, parts, way)
                whole = way == "full" or (way == "cancel" and not scope.cancelled_caught)
        except NoContextError:
            assert not entered
            await trio.sleep(1)  # another task takes a stream
        except OwnError:
            assert way == "raise"
        finally:
            if entered:
                self._note_stream(reader, parts, whole=whole)

    async def _take_pieces(self, stream: MessageStream, parts: list[str | bytes], way: str) -> None:
        count = 0
        async for piece in stream:
            assert piece
            assert isinstance(piece, str) == (stream.type == "text")
            parts.append(piece)
            count += 1
            if way in ("break", "raise") and count > 1 + self.chance.randrange(3):
                break
            if self.chance.random() < 0.2:
                await trio.sleep(self.chance.choice([0, 0.01] if self.calm else [0, 0.01, 3]))
        if way == "break":
            return
        if way == "raise":
            raise OwnError

    def _note_stream(self, reader: Reader, parts: list[str | bytes], *, whole: bool) -> None:
        text = "".join(part for part in parts if isinstance(part, str))
        # Bytes that are not whole characters would not be as they were sent.
        text += b"".join(part for part in parts if isinstance(part, bytes)).decode(
            "utf-8", "strict" if whole else "ignore"
        )
        if whole:
            self._took(reader, text if isinstance(parts[0], str) else text.encode())
        elif (name := name_of(text)) is not None:
            reader.note(name, whole=False)
            if name == FIN:
                self._fin.set()
        else:
            self.theirs.unknown += 1


class _Pieces:
    """A message that an iterable gives in pieces."""

    def __init__(self, end: End, how: str, type_: int | None) -> None:
        self._end = end
        self._how = how
        self._type = type_
        self.name: str | None = None
        self.given = 0
        """How many pieces were asked for and given."""
        self.complete = False
        """Whether it has given all, and was asked for more."""

    async def give(self) -> AsyncGenerator[str | bytes]:
        chance = self._end.chance
        pause = chance.choice(PIECE_SECONDS)
        size = chance.choice(SIZES)
        as_bytes = self._type == BINARY or chance.random() < 0.4
        cuts = chance.randint(0, 5)
        parts: list[str | bytes] = []
        while True:
            await self._pause(pause)
            if self._how == "raises" and self.given and chance.random() < 0.4:
                raise OwnError
            if self._how == "raises" and not self.given and chance.random() < 0.2:
                self.complete = True  # nothing of it was sent
                raise OwnError
            if self._how == "wrong" and self.given == 1:
                yield 7  # type: ignore[misc]  # that is wrong
            if self.name is None:
                text = self._end.ours.begin(size, "begun" if self._how == "whole" else "doomed")
                self.name = name_of(text)
                data: str | bytes = text.encode() if as_bytes else text
                places = sorted({0, len(data), *(chance.randint(0, len(data)) for _ in range(cuts))})
                parts = [data[begin:end] for begin, end in pairwise(places)]
                if chance.random() < 0.3:
                    parts.insert(chance.randrange(len(parts) + 1), data[:0])
                parts.reverse()
            if parts:
                self.given += 1
                yield parts.pop()
            elif self._how == "whole":
                break
            else:
                await trio.sleep(1)
                self.given += 1
                yield b"more" if as_bytes else "more"
        self.complete = True

    async def _pause(self, seconds: float | None) -> None:
        if seconds is not None:
            await trio.sleep(seconds)
