"""The requests that a server refuses by itself, for whoever shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import csp
from trio_csp_websocket.command_line.news import Refused

if TYPE_CHECKING:
    from trio_csp_websocket.events import Event

MAX_WAITING = 16
"""How many wait to be shown; those that come meanwhile are not shown, as anybody may send requests without end."""


class Refusals:
    """Is told of events, and keeps the refusals of them.

    All servers of the process tell it; the command line has one.
    """

    def __init__(self) -> None:
        self.channel = csp.Channel[Refused](MAX_WAITING, overflow="drop_newest")

    def told(self, event: Event, /) -> None:
        if event.name == "server.refused":
            fields = event.fields
            remote, status, why = (fields.get(name) for name in ("remote", "status", "error"))
            self.channel.send_nowait(Refused(str(remote or "somebody"), int(str(status)), str(why)))

    def enter(self, about: object, /) -> object:
        return about

    def leave(self, token: object, /) -> None:
        pass
