"""What the program does while it is connected, at either end: one select over everything that can happen."""

from __future__ import annotations

import contextlib
import math
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

import trio

import csp
from csp.errors import ConnectionFailedError, InvalidError
from trio_csp_websocket.command_line.lines import Line, escaped
from trio_csp_websocket.command_line.output import Output
from trio_csp_websocket.protocol.close import check_close

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.command_line.format import Format
    from trio_csp_websocket.command_line.lines import Show
    from trio_csp_websocket.connection.endpoint import Endpoint
    from trio_csp_websocket.protocol.constants import CloseCode

GRACE_SECONDS = 1
"""How long writing the last lines may take after a `Stop`: after Ctrl-C, there may be nobody left to read them."""

ValueT = TypeVar("ValueT")
StateT = TypeVar("StateT")


class Stop(NamedTuple):
    """Why to end early, and with which exit status."""

    status: int
    why: str = ""


class Conversation(ABC, Generic[ValueT, StateT]):
    """All that is done until the connections have ended and every line is written.

    Args:
        values: what comes; closes at the end.
        states: what becomes of the connections; it is told ahead of ``values``.
        lines: what a person types at a terminal (``interactive``), else the input; None at its end.
        show: shows lines.
        stops: what ends it early: signals, and input or output that fails.
        form: how lines are written.
        count: after how many messages it ends.
        ping: how often to ping; None for never.
        wait: the silence that ends it after the end of the input; None for no limit.
        delay: how long to wait before the first line of the input is sent, and at least between lines.
    """

    HELP: ClassVar[tuple[str, ...]]
    """What ``/help`` shows."""
    HINT: ClassVar[str]
    """What a person is told at first."""
    NOT_YET: ClassVar[str]
    """What is told of a line that is typed while there is no connection."""
    CLOSING: ClassVar[str]
    """What is told of a close that waits for the other side."""
    CLOSE_CODE: ClassVar[CloseCode]
    """What a close is sent with if no code is given."""

    def __init__(
        self,
        values: csp.Source[ValueT],
        states: csp.Source[StateT],
        lines: csp.Channel[str | None],
        show: Show,
        stops: csp.Channel[Stop],
        form: Format,
        *,
        interactive: bool = False,
        count: float = math.inf,
        ping: str | None = None,
        wait: str | None = None,
        delay: str | None = None,
    ) -> None:
        self.values = values
        self.states = states
        self.stops = stops
        self.form = form
        self.count = count
        self.wait = wait
        self.hint = interactive  # still to be shown
        # Sending. An input is read only as fast as it is taken; a person is not made to wait.
        self.typed = lines if interactive else None
        self.to_send = csp.Channel[str | None](math.inf) if interactive else lines
        self.delay_seconds = csp.parse_duration(delay) if delay else 0.0
        self.all_sent = csp.Channel[None](1)
        self.input_ended = False
        # What may take too long: the silence, and what `too_long` knows.
        self.silence: csp.Source[float] = csp.never()
        self.patience: csp.Source[float] = csp.never()
        # Pings.
        self.ticks = csp.tick(ping) if ping else csp.never()
        self.pinging: set[Endpoint] = set()
        # Receiving and writing.
        self.received = 0
        self.told = csp.Channel[Line](math.inf)  # by other tasks
        self.output = Output(show, self.writing_failed)
        # The end.
        self.stop: Stop | None = None
        self.closing = False
        self.ended = False

    async def run(self) -> int:
        """Run it to its end; return the exit status."""
        async with csp.BackgroundNursery() as self.tasks:
            self.tasks.start_soon(self.send)
            self.tasks.start_soon(self.output.run)
            while not self.ended:
                await self.do_next()
            with trio.move_on_after(GRACE_SECONDS if self.stop else math.inf):
                await self.output.write_all()
                # Writing may have failed: a stop says so.
                with contextlib.suppress(trio.WouldBlock):
                    self.end_early(self.stops.receive_nowait().value)
                await self.output.write_all()
        if self.stop:
            return self.stop.status
        return 1 if self.falls_short() or self.has_failed() else 0

    async def do_next(self) -> None:
        """Wait for whatever happens next, and do what it asks for."""
        values, states, output = self.values, self.states, self.output
        receiving = not output.full or self.stop
        r = await csp.select(
            self.stops.case_receive(),
            states.case_receive() if receiving else None,
            self.typed.case_receive() if self.typed else None,
            self.told.case_receive(),
            self.ticks.case_receive() if self.all_answered() else None,
            output.case(),
            values.case_receive() if receiving else None,
            self.all_sent.case_receive(),
            self.patience.case_receive(),
            self.silence.case_receive() if output.empty else None,
            priority=True,
        )
        if values.gave(r):
            self.receive(r.value)
        elif r.channel is values:  # closed
            self.end()
        elif states.gave(r):
            self.change(r.value)
        elif self.typed and self.typed.gave(r):
            self.do_typed(r.value)
        elif self.told.gave(r):
            output.add(r.value)
        elif self.ticks.gave(r):
            self.ping_all()
        elif self.all_sent.gave(r):
            self.input_ended = True
            self.restart_silence()
        elif not output.took(r):
            self.end_early(r.value if self.stops.gave(r) else self.too_long(r.channel))

    # What the two ends do differently ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def open(self) -> Sequence[Endpoint]:
        """The connections that are open."""

    @abstractmethod
    def receive(self, value: ValueT) -> None:
        """Take note of what has come."""

    @abstractmethod
    def change(self, state: StateT) -> None:
        """Take note of what has become of a connection."""

    @abstractmethod
    def restart_silence(self) -> None:
        """Once the input has ended, count the silence that ends it from now on."""

    @abstractmethod
    def has_failed(self) -> bool:
        """Whether the exit status is 1 although nothing has ended it early."""

    @abstractmethod
    def say_end(self) -> None:
        """Tell how it has ended."""

    @abstractmethod
    def too_long(self, timer: object) -> Stop | None:
        """Return why a timer ends it: None if that is the silence."""

    @abstractmethod
    async def ready(self) -> None:
        """Wait until lines may be sent."""

    @abstractmethod
    async def send_line(self, text: str, number: int) -> None:
        """Send a line, of which the number is given."""

    @abstractmethod
    async def close_all(self, code: int, reason: str) -> None:
        """Close what is open; nothing else opens."""

    def number_of(self, _connection: Endpoint) -> int | None:
        """Return the number under which a connection is shown; None for none."""
        return None

    # What comes -------------------------------------------------------------------------------------------------------

    def show_hint(self) -> None:
        """Tell a person, once, what can be typed."""
        if self.hint:
            self.hint = False
            self.output.add(Line("note", self.HINT))

    def count_message(self, line: Line) -> None:
        """Show a message, unless enough have come before; end it if it was the last."""
        if self.received < self.count:
            self.received += 1
            self.output.add(line)
            self.restart_silence()
            if self.received == self.count:
                self.close()

    def falls_short(self) -> bool:
        """Whether fewer messages came than were asked for."""
        return self.received < self.count < math.inf

    def end(self) -> None:
        """Tell of the end: nothing more comes."""
        self.ended = True
        self.say_end()
        if self.falls_short():
            self.output.add(Line("error", f"{self.received} of {self.count} messages came"))

    def end_early(self, stop: Stop | None) -> None:
        """Close because of a stop, or, with None, because nothing has come for too long."""
        if stop and not self.stop:
            self.stop = stop
            if stop.why:
                self.output.add(Line("error", escaped(stop.why)))
        if self.typed and not self.ended:
            self.do_typed(None)
        else:
            self.close()

    # What is typed ----------------------------------------------------------------------------------------------------

    def do_typed(self, typed: str | None) -> None:
        """Send what was typed, or carry it out as a command; None closes what is open."""
        if typed is None and self.closing:
            self.ended = True
        elif typed is None:
            if self.open:
                self.output.add(Line("note", self.CLOSING))
            self.close()
        elif typed and self.closing:
            self.output.add(Line("error", "not sent: closing"))
        elif typed.startswith("/") and not typed.startswith("//"):
            self.do_command(*typed.split(maxsplit=2))
        elif typed:
            text = typed.removeprefix("/") if typed.startswith("//") else typed
            self.to_send.send_nowait(text)
            self.output.add(Line("sent", on_lines(text)))
            if not self.open:
                self.output.add(Line("note", self.NOT_YET))

    def do_command(self, name: str, first: str = "", rest: str = "") -> None:
        """Carry out a command."""
        if name == "/ping" and not first:
            if not self.ping_all():
                self.output.add(Line("error", "there is no connection"))
        elif name == "/close" and re.fullmatch("[0-9]{0,5}", first):
            try:
                self.close(int(first) if first else None, rest)
            except InvalidError as error:
                self.output.add(Line("error", escaped(str(error))))
        elif name == "/help":
            self.output.add(*(Line("note", line) for line in self.HELP))
        else:
            self.output.add(Line("error", escaped(f"not understood: {name} {first}".rstrip() + "; see /help")))

    # What goes --------------------------------------------------------------------------------------------------------

    def all_answered(self) -> bool:
        """Whether a ping would reach a connection that has answered the last one, or where there is none."""
        connections = set(self.open)
        return not connections or not connections <= self.pinging

    def ping_all(self) -> bool:
        """Start a ping on each connection where none waits for its answer; return False if there is no connection."""
        connections = self.open
        for connection in connections:
            if connection not in self.pinging:
                self.pinging.add(connection)
                self.tasks.start_soon(self.ping, connection)
        return bool(connections)

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Start to close what is open: the end of all messages is the end. Raises InvalidError."""
        code = self.CLOSE_CODE if code is None else code
        check_close(code, reason)
        self.closing = True
        self.tasks.start_soon(self.close_all, code, reason)

    # Tasks for what may have to wait ----------------------------------------------------------------------------------

    async def send(self) -> None:
        await self.ready()
        not_before = trio.current_time() + self.delay_seconds
        number = 0
        while (text := (await self.to_send.receive()).value) is not None:
            number += 1
            if self.delay_seconds:
                await trio.sleep_until(not_before)
            await self.send_line(text, number)
            not_before = trio.current_time() + self.delay_seconds
        await self.all_sent.send(None)

    async def ping(self, connection: Endpoint) -> None:
        number = self.number_of(connection)
        with contextlib.suppress(ConnectionFailedError):
            async for seconds in await connection.ping():
                await self.told.send(self.form.pong(seconds, number))
        self.pinging.discard(connection)

    async def writing_failed(self, error: OSError) -> None:
        failed = Stop(1, f"cannot write the output: {error.strerror}")
        await self.stops.send(Stop(0) if isinstance(error, BrokenPipeError) else failed)


def on_lines(text: str) -> str:
    """Return a text that was typed as a line's, for a terminal."""
    return "\n".join(map(escaped, text.split("\n")))
