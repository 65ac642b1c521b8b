"""Accepts what connects to a listener, for as long as there is room."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from trio_csp_websocket.server.reception import Reception
    from trio_csp_websocket.server.register import Register

_logger = logging.getLogger("csp.websocket.server")

# How long accepting rests when the system lacks something.
_REST_SECONDS = 0.1
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


async def accept_from(
    listener: trio.abc.Listener[trio.abc.Stream],
    reception: Reception,
    register: Register,
    max_crowd: int,
    nursery: trio.Nursery,
) -> None:
    """Accept streams, and start a task of the reception for each, until the listener is closed.

    While the system lacks descriptors or memory for another socket, accepting rests, and goes on; a warning is logged
    once.

    Args:
        listener: where they come from.
        reception: takes them in.
        register: keeps account of them.
        max_crowd: how many requests may wait for room in the channel of connections until accepting rests.
        nursery: where the tasks run.
    """
    warned = False
    while True:
        await register.wait_until(lambda: register.crowd < max_crowd)
        try:
            stream = await listener.accept()
        except trio.ClosedResourceError:
            return
        except OSError as error:
            if not warned:
                what = "there are no more file descriptors" if error.errno in _OUT_OF_DESCRIPTORS else str(error)
                _logger.warning("accepting connections rests until it is possible again: %s", what)
            warned = True
            await trio.sleep(_REST_SECONDS)
            continue
        warned = False
        transport = SocketTransport(stream) if isinstance(stream, trio.SocketStream) else StreamTransport(stream)
        nursery.start_soon(reception.receive, transport, name="csp.websocket server connection")
