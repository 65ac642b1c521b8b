"""What a client does while it is connected, or waits to be again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

import csp
from trio_csp_websocket.command_line.conversation import Conversation, Stop, on_lines
from trio_csp_websocket.command_line.lines import Line
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.command_line.format import Format
    from trio_csp_websocket.command_line.lines import Show
    from trio_csp_websocket.command_line.link import Link


class Session(Conversation[Message | csp.Gap, csp.ConnectionState]):
    """All that is done over one link, until it has ended and every line is written.

    Args:
        link: one connection that is open, or many, of which the first is still to come.
        lines: see `Conversation`.
        show: see `Conversation`.
        stops: see `Conversation`.
        form: see `Conversation`.
        first_within: nothing is sent before a first message, which an open connection may take this long to bring; None
            to send at once.
        options: see `Conversation`. The silence that ``wait`` is about is that of an open connection.
    """

    HELP = (
        "/ping                    measure the round-trip time",
        "/close [CODE [REASON]]   close the connection, as Ctrl-C and Ctrl-D do",
        "//TEXT                   send /TEXT",
    )
    HINT = "what you type is sent; /help tells more, Ctrl-D ends"
    NOT_YET = "it is sent once there is a connection"
    CLOSING = "closing; Ctrl-C again does not wait for the server"
    CLOSE_CODE = CloseCode.NORMAL

    def __init__(
        self,
        link: Link,
        lines: csp.Channel[str | None],
        show: Show,
        stops: csp.Channel[Stop],
        form: Format,
        *,
        first_within: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(link.values, link.states, lines, show, stops, form, **options)
        self.link = link
        self.attempts = 0  # since there was a connection
        self.opened = trio.Event()
        self.first_within = first_within
        self.first = trio.Event()
        self.unsure = False  # whether the server may lack something that was sent

    @property
    def open(self) -> list[Client]:
        client = self.link.client
        return [] if client is None else [client]

    def has_failed(self) -> bool:
        return bool(self.link.ending().error or self.held_back() or self.unsure)

    def held_back(self) -> bool:
        """Whether the input was not sent, because no message came."""
        return self.first_within is not None and not self.received

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

    def restart_silence(self) -> None:
        """Once the input has ended, count the silence that ends the session from now on, if there is a connection."""
        if self.input_ended and self.wait:
            self.silence = csp.after(self.wait) if self.link.client else csp.never()

    def too_long(self, timer: object) -> Stop | None:
        if timer is not self.patience:
            return None
        return Stop(1, f"no message came within {self.first_within}, so nothing was sent")

    def say_end(self) -> None:
        self.output.add(*self.form.end(self.link.ending(), ours=self.closing))
        if self.held_back() and not self.stop:
            self.output.add(Line("error", "no message came, so nothing was sent"))

    def receive(self, value: Message | csp.Gap) -> None:
        """Note a message, or a gap between those of two connections."""
        if isinstance(value, csp.Gap):
            self.output.add(*self.form.gap(value))
        else:
            if not self.first.is_set():
                self.first.set()
                self.patience = csp.never()
            self.count_message(self.form.message(value))

    # Tasks for what may have to wait ----------------------------------------------------------------------------------

    async def ready(self) -> None:
        await self.opened.wait()
        if self.first_within is not None:
            await self.first.wait()

    async def send_line(self, text: str, number: int) -> None:
        if not await self.link.send(text) and self.link.goes_on and not self.closing:
            self.unsure = True
            what = on_lines(text) if self.typed else f"line {number} of the input"
            lost = Line("error", f"the connection ended while this was sent, and it may be lost: {what}")
            await self.told.send(lost)

    async def close_all(self, code: int, reason: str) -> None:
        await self.link.close(code, reason)
