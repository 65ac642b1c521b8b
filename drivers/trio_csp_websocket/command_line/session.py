"""What the program does while it is connected, or waits to be again: one select over everything that can happen."""

from __future__ import annotations

import contextlib
import math
import re
from typing import TYPE_CHECKING, NamedTuple

import trio

import csp
from csp.errors import ConnectionFailedError, InvalidError
from trio_csp_websocket.command_line.lines import Line, escaped
from trio_csp_websocket.command_line.output import Output
from trio_csp_websocket.protocol.close import check_close
from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.command_line.format import Format
    from trio_csp_websocket.command_line.lines import Show
    from trio_csp_websocket.command_line.link import Link
    from trio_csp_websocket.protocol.messages import Message

HELP = (
    "/ping                    measure the round-trip time",
    "/close [CODE [REASON]]   close the connection, as Ctrl-C and Ctrl-D do",
    "//TEXT                   send /TEXT",
)
GRACE_SECONDS = 1
"""How long writing the last lines may take after a `Stop`: after Ctrl-C, there may be nobody left to read them."""


class Stop(NamedTuple):
    """Why to end early, and with which exit status."""

    status: int
    why: str = ""


class Session:
    """All that is done over one link, until it has ended and every line is written.

    Args:
        link: one connection that is open, or many, of which the first is still to come.
        lines: what a person types at a terminal (``interactive``), else the input; None at its end.
        stops: what ends the session early: signals, and input or output that fails.
        ping: how often to ping; None for never.
        wait: the silence of an open connection that ends the session after the end of the input; None for no limit.
        delay: how long to wait before the first line of the input is sent, and at least between lines.
        first_within: nothing is sent before a first message, which an open connection may take this long to bring; None
            to send at once.
    """

    def __init__(
        self,
        link: Link,
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
        first_within: str | None = None,
    ) -> None:
        self.link = link
        self.stops = stops
        self.form = form
        self.count = count
        self.wait = wait
        # The connection.
        self.attempts = 0  # since there was a connection
        self.opened = trio.Event()
        self.hint = interactive  # still to be shown
        # Sending. An input is read only as fast as the server takes it; a person is not made to wait.
        self.typed = lines if interactive else None
        self.to_send = csp.Channel[str | None](math.inf) if interactive else lines
        self.delay_seconds = csp.parse_duration(delay) if delay else 0.0
        self.first_within = first_within
        self.first = trio.Event()
        self.all_sent = csp.Channel[None](1)
        self.input_ended = False
        self.unsure = False  # whether the server may lack something that was sent
        # What an open connection may take too long for.
        self.silence: csp.Source[float] = csp.never()
        self.patience: csp.Source[float] = csp.never()
        # Pings.
        self.ticks = csp.tick(ping) if ping else csp.never()
        self.pinging = False
        # Receiving and writing.
        self.received = 0
        self.told = csp.Channel[Line](math.inf)  # by other tasks
        self.output = Output(show, self.writing_failed)
        # The end.
        self.stop: Stop | None = None
        self.closing = False
        self.ended = False

    async def run(self) -> int:
        """Run the session to its end; return the exit status."""
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
        return 1 if self.link.ending().error or self.falls_short() or self.held_back() or self.unsure else 0

    async def do_next(self) -> None:
        """Wait for whatever happens next, and do what it asks for."""
        values, states, output = self.link.values, self.link.states, self.output
        receiving = not output.full or self.stop
        r = await csp.select(
            self.stops.case_receive(),
            states.case_receive() if receiving else None,
            self.typed.case_receive() if self.typed else None,
            self.told.case_receive(),
            self.ticks.case_receive() if not self.pinging else None,
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
            self.ping_if_connected()
        elif self.all_sent.gave(r):
            self.input_ended = True
            self.restart_silence()
        elif not output.took(r):
            self.end_early(r.value if self.stops.gave(r) else self.too_long(r.channel))

    def falls_short(self) -> bool:
        """Whether fewer messages came than were asked for."""
        return self.received < self.count < math.inf

    def held_back(self) -> bool:
        """Whether the input was not sent, because no message came."""
        return self.first_within is not None and not self.received

    # The connection ---------------------------------------------------------------------------------------------------

    def change(self, state: csp.ConnectionState) -> None:
        """Tell of a new state of the connection, and count from now on what an open one may take too long for."""
        latest = self.link.latest
        if state.name == "connecting":
            self.attempts += 1
            if self.typed and self.attempts == 1 and latest is None:
                self.output.add(self.form.connecting())
                self.show_hint()
        elif state.name == "open" and latest is not None:
            self.output.add(*self.form.connected(latest, again=self.opened.is_set()))
            self.attempts = 0
            self.opened.set()
            self.show_hint()
        elif state.name == "waiting":
            self.output.add(*self.form.waiting(state, latest, attempt=self.attempts + 1))
        self.restart_silence()
        waits = self.first_within if self.link.client and not self.first.is_set() else None
        self.patience = csp.after(waits) if waits else csp.never()

    def show_hint(self) -> None:
        """Tell a person, once, what can be typed."""
        if self.hint:
            self.hint = False
            self.output.add(Line("note", "what you type is sent; /help tells more, Ctrl-D ends"))

    def restart_silence(self) -> None:
        """Once the input has ended, count the silence that ends the session from now on, if there is a connection."""
        if self.input_ended and self.wait:
            self.silence = csp.after(self.wait) if self.link.client else csp.never()

    def end(self) -> None:
        """Tell of the end: nothing more comes."""
        self.ended = True
        self.output.add(*self.form.end(self.link.ending(), ours=self.closing))
        if self.held_back() and not self.stop:
            self.output.add(Line("error", "no message came, so nothing was sent"))
        if self.falls_short():
            self.output.add(Line("error", f"{self.received} of {self.count} messages came"))

    # What comes -------------------------------------------------------------------------------------------------------

    def receive(self, value: Message | csp.Gap) -> None:
        """Note a message, or a gap between those of two connections."""
        if isinstance(value, csp.Gap):
            self.output.add(*self.form.gap(value))
        elif self.received < self.count:
            self.received += 1
            if not self.first.is_set():
                self.first.set()
                self.patience = csp.never()
            self.output.add(self.form.message(value))
            self.restart_silence()
            if self.received == self.count:
                self.close()

    def do_typed(self, typed: str | None) -> None:
        """Send what was typed, or carry it out as a command; None closes the connection."""
        if typed is None and self.closing:
            self.ended = True
        elif typed is None:
            if self.link.client:
                self.output.add(Line("note", "closing; Ctrl-C again does not wait for the server"))
            self.close()
        elif typed and self.closing:
            self.output.add(Line("error", "not sent: closing"))
        elif typed.startswith("/") and not typed.startswith("//"):
            self.do_command(*typed.split(maxsplit=2))
        elif typed:
            text = typed.removeprefix("/") if typed.startswith("//") else typed
            self.to_send.send_nowait(text)
            self.output.add(Line("sent", _on_lines(text)))
            if not self.link.client:
                self.output.add(Line("note", "it is sent once there is a connection"))

    def do_command(self, name: str, first: str = "", rest: str = "") -> None:
        """Carry out a command."""
        if name == "/ping" and not first:
            if not self.ping_if_connected():
                self.output.add(Line("error", "there is no connection"))
        elif name == "/close" and re.fullmatch("[0-9]{0,5}", first):
            try:
                self.close(int(first or CloseCode.NORMAL), rest)
            except InvalidError as error:
                self.output.add(Line("error", escaped(str(error))))
        elif name == "/help":
            self.output.add(*(Line("note", line) for line in HELP))
        else:
            self.output.add(Line("error", escaped(f"not understood: {name} {first}".rstrip() + "; see /help")))

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

    def too_long(self, timer: object) -> Stop | None:
        """Return why a timer ends the session: None if that is the silence."""
        if timer is not self.patience:
            return None
        return Stop(1, f"no message came within {self.first_within}, so nothing was sent")

    # What goes --------------------------------------------------------------------------------------------------------

    def ping_if_connected(self) -> bool:
        """Start a ping, unless one is waiting for its answer; return False if there is no connection to ping."""
        client = self.link.client
        if client is not None and not self.pinging:
            self.pinging = True
            self.tasks.start_soon(self.ping, client)
        return client is not None

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start to close the connection: the end of its messages is its end. Raises InvalidError."""
        check_close(code, reason)
        self.closing = True
        self.tasks.start_soon(self.link.close, code, reason)

    # Tasks for what may have to wait ----------------------------------------------------------------------------------

    async def send(self) -> None:
        await self.opened.wait()
        if self.first_within is not None:
            await self.first.wait()
        not_before = trio.current_time() + self.delay_seconds
        number = 0
        while (text := (await self.to_send.receive()).value) is not None:
            number += 1
            if self.delay_seconds:
                await trio.sleep_until(not_before)
            if not await self.link.send(text) and self.link.goes_on and not self.closing:
                self.unsure = True
                what = _on_lines(text) if self.typed else f"line {number} of the input"
                lost = Line("error", f"the connection ended while this was sent, and it may be lost: {what}")
                await self.told.send(lost)
            not_before = trio.current_time() + self.delay_seconds
        await self.all_sent.send(None)

    async def ping(self, client: Client) -> None:
        with contextlib.suppress(ConnectionFailedError):
            async for seconds in await client.ping():
                await self.told.send(self.form.pong(seconds))
        self.pinging = False

    async def writing_failed(self, error: OSError) -> None:
        failed = Stop(1, f"cannot write the output: {error.strerror}")
        await self.stops.send(Stop(0) if isinstance(error, BrokenPipeError) else failed)


def _on_lines(text: str) -> str:
    """Return a text that was typed as a line's, for a terminal."""
    return "\n".join(map(escaped, text.split("\n")))
