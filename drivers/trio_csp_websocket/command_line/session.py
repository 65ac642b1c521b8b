"""What the program does while it is connected: one select over everything that can happen."""

from __future__ import annotations

import contextlib
import math
import re
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import trio

import csp
from csp.errors import ConnectionFailedError, InvalidError
from trio_csp_websocket.command_line.lines import Format, Line, Show, escaped
from trio_csp_websocket.protocol.close import check_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.secrets import looks_secret
from trio_csp_websocket.protocol.url import without_query

if TYPE_CHECKING:
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.protocol.messages import Message

HELP = (
    "/ping                    measure the round-trip time",
    "/close [CODE [REASON]]   close the connection, as Ctrl-C and Ctrl-D do",
    "//TEXT                   send /TEXT",
)
MAX_UNWRITTEN = 64
"""Lines collected while earlier ones are being written; with that many nothing is received, which slows the server."""
GRACE_SECONDS = 1
"""How long writing the last lines may take after a `Stop`: after Ctrl-C, there may be nobody left to read them."""


class Stop(NamedTuple):
    """Why to end early, and with which exit status."""

    status: int
    why: str = ""


class Session:
    """One connection, from when it is open until it has ended and every line is written.

    Args:
        lines: what a person types at a terminal (``interactive``), else the input; None at its end.
        stops: what ends the session early: signals, and input or output that fails.
        ping: how often to ping; None for never.
        wait: the silence that ends the session after the end of the input; None for no limit.
        delay: how long to wait before the first line of the input is sent, and at least between lines.
        first_within: nothing is sent before a first message, which may take this long; None to send at once.
    """

    def __init__(
        self,
        client: Client,
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
        self.client = client
        self.show = show
        self.stops = stops
        self.form = form
        self.count = count
        self.wait = wait
        # Sending. An input is read only as fast as the server takes it; a person is not made to wait.
        self.typed = lines if interactive else None
        self.to_send = csp.Channel[str | None](math.inf) if interactive else lines
        self.delay_seconds = csp.parse_duration(delay) if delay else 0.0
        self.first_within = first_within
        self.first = trio.Event()
        self.all_sent = csp.Channel[None](1)
        self.input_ended = False
        self.silence: csp.Source[float] = csp.never()
        # Pings.
        self.ticks = csp.tick(ping) if ping else csp.never()
        self.pinging = False
        self.pongs = csp.Channel[Line](math.inf)
        # Writing.
        self.received = 0
        self.unwritten: list[Line] = []
        self.output = csp.Channel[list[Line]]()
        # The end.
        self.stop: Stop | None = None
        self.closing = False
        self.ended = False

    async def run(self) -> int:
        """Run the session to its end; return the exit status."""
        messages = self.client.channel()
        async with csp.BackgroundNursery() as self.tasks:
            self.tasks.start_soon(self.send)
            self.tasks.start_soon(self.write)
            self.greet()
            while not self.ended:
                r = await csp.select(
                    self.stops.case_receive(),
                    self.typed.case_receive() if self.typed else None,
                    self.pongs.case_receive(),
                    self.ticks.case_receive() if not self.pinging else None,
                    self.output.case_send(self.unwritten) if self.unwritten else None,
                    messages.case_receive() if len(self.unwritten) < MAX_UNWRITTEN or self.stop else None,
                    self.all_sent.case_receive(),
                    self.silence.case_receive() if not self.unwritten else None,
                    priority=True,
                )
                if messages.gave(r):
                    self.receive(r.value)
                elif r.channel is messages:  # closed
                    self.receive(None)
                elif self.output.took(r):
                    self.unwritten = []
                elif self.typed and self.typed.gave(r):
                    self.do_typed(r.value)
                elif self.pongs.gave(r):
                    self.unwritten.append(r.value)
                elif self.ticks.gave(r):
                    self.start_ping()
                elif self.all_sent.gave(r):
                    self.input_ended = True
                    self.restart_silence()
                else:
                    self.end_early(r.value if self.stops.gave(r) else None)
            with trio.move_on_after(GRACE_SECONDS if self.stop else math.inf):
                await self.write_all()
                # Writing may have failed: a stop says so.
                with contextlib.suppress(trio.WouldBlock):
                    self.end_early(self.stops.receive_nowait().value)
                await self.write_all()
        if self.stop:
            return self.stop.status
        return 1 if self.client.error or self.falls_short() or self.held_back() else 0

    def falls_short(self) -> bool:
        """Whether fewer messages came than were asked for."""
        return self.received < self.count < math.inf

    def held_back(self) -> bool:
        """Whether the input was not sent, because no message came."""
        return self.first_within is not None and not self.received

    # What comes -------------------------------------------------------------------------------------------------------

    def receive(self, message: Message | None) -> None:
        """Note a message, or None: the end of the connection."""
        if message is None:
            self.ended = True
            self.unwritten.append(self.form.end(self.client, ours=self.closing))
            if self.held_back() and not self.stop:
                self.unwritten.append(Line("error", "no message came, so nothing was sent"))
            if self.falls_short():
                self.unwritten.append(Line("error", f"{self.received} of {self.count} messages came"))
        elif self.received < self.count:
            self.received += 1
            self.first.set()
            self.unwritten.append(self.form.message(message))
            self.restart_silence()
            if self.received == self.count:
                self.close()

    def do_typed(self, typed: str | None) -> None:
        """Send what was typed, or carry it out as a command; None closes the connection."""
        if typed is None and self.closing:
            self.ended = True
        elif typed is None:
            self.unwritten.append(Line("note", "closing; Ctrl-C again does not wait for the server"))
            self.close()
        elif typed and self.closing:
            self.unwritten.append(Line("error", "not sent: closing"))
        elif typed.startswith("/") and not typed.startswith("//"):
            self.do_command(*typed.split(maxsplit=2))
        elif typed:
            text = typed.removeprefix("/") if typed.startswith("//") else typed
            self.to_send.send_nowait(text)
            self.unwritten.append(Line("sent", "\n".join(map(escaped, text.split("\n")))))

    def do_command(self, name: str, first: str = "", rest: str = "") -> None:
        """Carry out a command."""
        if name == "/ping" and not first:
            self.start_ping()
        elif name == "/close" and re.fullmatch("[0-9]{0,5}", first):
            try:
                self.close(int(first or CloseCode.NORMAL), rest)
            except InvalidError as error:
                self.unwritten.append(Line("error", escaped(str(error))))
        elif name == "/help":
            self.unwritten += [Line("note", line) for line in HELP]
        else:
            self.unwritten.append(Line("error", escaped(f"not understood: {name} {first}".rstrip() + "; see /help")))

    def end_early(self, stop: Stop | None) -> None:
        """Close because of a stop, or, with None, because nothing has come for too long."""
        if stop and not self.stop:
            self.stop = stop
            if stop.why:
                self.unwritten.append(Line("error", escaped(stop.why)))
        if self.typed and not self.ended:
            self.do_typed(None)
        else:
            self.close()

    def restart_silence(self) -> None:
        """Once the input has ended, count the silence that ends the session from now on."""
        if self.input_ended and self.wait:
            self.silence = csp.after(self.wait)

    # What goes --------------------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Show what the connection is to, and what was agreed on with the server."""
        protocol = self.client.subprotocol
        compressed = "permessage-deflate" in self.client.response_headers.get("Sec-WebSocket-Extensions", "")
        agreed = ["compressed"] * compressed
        if protocol is not None:
            agreed.insert(
                0, "a protocol that looks like a secret" if looks_secret(protocol) else f"protocol {protocol}"
            )
        self.unwritten.append(Line("note", ", ".join([f"connected to {without_query(self.client.url)}", *agreed])))
        if self.typed:
            self.unwritten.append(Line("note", "what you type is sent; /help tells more, Ctrl-D ends"))

    def start_ping(self) -> None:
        """Start a ping, unless one is waiting for its answer."""
        if not self.pinging:
            self.pinging = True
            self.tasks.start_soon(self.ping)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start to close the connection: the end of its messages is its end. Raises InvalidError."""
        check_close(code, reason)
        self.closing = True
        self.tasks.start_soon(self.client.close, code, reason)

    # Tasks for what may have to wait ----------------------------------------------------------------------------------

    async def send(self) -> None:
        # The line about the connection's end tells why.
        with contextlib.suppress(ConnectionFailedError):
            await self.wait_for_first()
            not_before = trio.current_time() + self.delay_seconds
            while (text := (await self.to_send.receive()).value) is not None:
                if self.delay_seconds:
                    await trio.sleep_until(not_before)
                await self.client.send(text)
                not_before = trio.current_time() + self.delay_seconds
        await self.all_sent.send(None)

    async def wait_for_first(self) -> None:
        """If asked to, wait for a first message; where none comes in time, end the session."""
        if self.first_within is not None:
            with trio.move_on_after(csp.parse_duration(self.first_within)):
                await self.first.wait()
                return
            await self.stops.send(Stop(1, f"no message came within {self.first_within}, so nothing was sent"))
            await trio.sleep_forever()  # until the session has ended

    async def ping(self) -> None:
        with contextlib.suppress(ConnectionFailedError):
            async for seconds in await self.client.ping():
                await self.pongs.send(self.form.pong(seconds))
        self.pinging = False

    async def write(self) -> None:
        lost = False
        async for lines in self.output:  # pragma: no branch  # it is never closed
            # What is not a message is still shown when messages can no longer be written.
            for is_message, group in groupby(lines, lambda line: line.kind == "received"):
                if lost and is_message:
                    continue
                try:
                    await self.show(list(group))
                except OSError as error:
                    lost = True
                    failed = Stop(1, f"cannot write the output: {error.strerror}")
                    await self.stops.send(Stop(0) if isinstance(error, BrokenPipeError) else failed)

    async def write_all(self) -> None:
        await self.output.send(self.unwritten)
        self.unwritten = []
        await self.output.send([])  # taken once the lines before are written, or have failed
