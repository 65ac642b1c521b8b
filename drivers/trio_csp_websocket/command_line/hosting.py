"""What a server does with all that connect to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

import csp
from trio_csp_websocket.command_line.conversation import Conversation, Stop
from trio_csp_websocket.command_line.lines import Line
from trio_csp_websocket.command_line.news import Came, Left, News, Said
from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from trio_csp_websocket.command_line.guest_format import GuestFormat
    from trio_csp_websocket.command_line.guests import Guests
    from trio_csp_websocket.command_line.lines import Show
    from trio_csp_websocket.connection.endpoint import Endpoint


class Hosting(Conversation[Said, News]):
    """All that is done with the connections of a server, until it has ended and every line is written.

    Args:
        guests: the connections.
        url: where the server listens.
        lines: see `Conversation`.
        show: see `Conversation`.
        stops: see `Conversation`.
        form: see `Conversation`.
        options: see `Conversation`. The silence that ``wait`` is about begins when somebody has connected.
    """

    HELP = (
        "/ping                    measure the round-trip time of each connection",
        "/close [CODE [REASON]]   close all connections and end, as Ctrl-C and Ctrl-D do",
        "//TEXT                   send /TEXT",
    )
    HINT = "what you type is sent to all; /help tells more, Ctrl-D ends"
    NOT_YET = "it is sent once somebody has connected"
    CLOSING = "closing; Ctrl-C again does not wait for the clients"
    CLOSE_CODE = CloseCode.GOING_AWAY

    def __init__(
        self,
        guests: Guests,
        url: str,
        lines: csp.Channel[str | None],
        show: Show,
        stops: csp.Channel[Stop],
        form: GuestFormat,
        **options: Any,
    ) -> None:
        super().__init__(guests.values, guests.states, lines, show, stops, form, **options)
        self.guests = guests
        self.guest_form = form
        self.connected = 0  # as far as it is told
        self.output.add(*form.listening(url))
        self.show_hint()

    @property
    def open(self) -> list[Endpoint]:
        return self.guests.open

    def number_of(self, connection: Endpoint) -> int:
        return self.guests.number_of(connection)

    def has_failed(self) -> bool:
        return False  # how a connection ends is the client's affair

    def receive(self, value: Said) -> None:
        self.count_message(self.form.message(value.message, value.number))

    def change(self, state: News) -> None:
        """Tell who has come or gone, or was refused."""
        if isinstance(state, Came):
            self.connected += 1
            self.output.add(*self.guest_form.came(state, count=self.connected))
        elif isinstance(state, Left):
            self.connected -= 1
            self.output.add(*self.guest_form.left(state, count=self.connected))
        else:
            self.output.add(self.guest_form.refused(state))
            return
        self.restart_silence()

    def restart_silence(self) -> None:
        if self.input_ended and self.wait and self.guests.came:
            self.silence = csp.after(self.wait)

    def too_long(self, timer: object) -> Stop | None:
        return None

    def say_end(self) -> None:
        self.output.add(Line("note", "stopped listening"))

    # Tasks for what may have to wait ----------------------------------------------------------------------------------

    async def ready(self) -> None:
        await self.guests.wait_for_somebody()

    async def send_line(self, text: str, number: int) -> None:
        del number
        await self.guests.wait_for_somebody()
        # A person is not made to wait; an input is, so that those who do read get all of it.
        if self.typed:
            self.guests.post(text)
            # Where writing needs a task, that has its turn before the next line of what was pasted.
            await trio.lowlevel.checkpoint()
        else:
            await self.guests.send(text)

    async def close_all(self, code: int, reason: str) -> None:
        await self.guests.close(code, reason)
