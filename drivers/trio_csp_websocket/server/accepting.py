"""Accepts what connects to the listeners of a server, for as long as there is room."""

from __future__ import annotations

import errno
import logging
import math
from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.events import Events, fields_of
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from trio_csp_websocket.server.reception import Reception
    from trio_csp_websocket.server.register import Register
    from trio_csp_websocket.transport.base import Transport

_events = Events("csp.websocket.server")

# How long accepting rests when the system lacks something.
_REST_SECONDS = 0.1
# A shortage is over once accepting has not failed for so long. Until then, single descriptors come and go.
_SHORTAGE_SECONDS = 60.0
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Acceptor:
    """Accepts streams, and gives them to the reception.

    While the system lacks descriptors or memory for another socket, accepting rests, and goes on. A warning is logged
    at the beginning of such a time, once for all listeners.

    Args:
        reception: takes the streams in.
        register: keeps account of them.
        max_crowd: how many requests may wait for room in the channel of connections until accepting rests.
    """

    def __init__(self, reception: Reception, register: Register, max_crowd: int) -> None:
        self._reception = reception
        self._register = register
        self._max_crowd = max_crowd
        self._shortage_ends = -math.inf

    async def accept_from(self, listener: trio.abc.Listener[trio.abc.Stream]) -> None:
        """Accept streams from a listener until it is closed."""
        register = self._register
        while True:
            await register.wait_until(lambda: register.crowd < self._max_crowd)
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                self._note_shortage(error)
                await trio.sleep(_REST_SECONDS)
                continue
            if isinstance(stream, trio.SocketStream):
                transport: Transport = SocketTransport(stream)
            else:
                transport = StreamTransport(stream, on_fault=_log_fault)
            self._reception.take_in(transport)

    def _note_shortage(self, error: OSError) -> None:
        now = trio.current_time()
        if now >= self._shortage_ends:
            what = "there are no more file descriptors" if error.errno in _OUT_OF_DESCRIPTORS else str(error)
            text = "accepting connections rests until it is possible again: %s"
            _events.tell("server.resting", logging.WARNING, text, what, error=what)
        self._shortage_ends = now + _SHORTAGE_SECONDS


def _log_fault(error: Exception) -> None:
    """Log what a stream of the user's own has raised: it ends its connection, and must not end the others."""
    text = "a stream that was accepted has failed, and its connection ends"
    _events.tell("server.stream_failed", logging.ERROR, text, exc_info=error, **fields_of(error))
