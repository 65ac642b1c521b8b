"""Tells how a connection has ended, once its transport is closed, and how much went over it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import trio

from csp.errors import shown
from trio_csp_websocket.connection.statistics import statistics_of
from trio_csp_websocket.events import fields_of

if TYPE_CHECKING:
    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.events import Events


def tell_end_of(
    connection: Connection, events: Events, name: str, level: int, text: str, who: str, **fields: Any
) -> None:
    """Have the end of a connection told, at once if it is over.

    Args:
        connection: one that was just opened.
        events: where to tell it.
        name: of the event.
        level: of the record.
        text: of the record, with places for ``who`` and for how it has ended.
        who: which connection it is, for the text.
        fields: further fields of the event.
    """
    began = trio.current_time()

    def tell() -> None:
        ending = connection.ending
        assert ending is not None
        events.tell(
            name,
            level,
            text,
            who,
            ending.shown,
            about=connection,
            code=int(ending.code),
            reason=shown(ending.reason) or None,
            seconds=trio.current_time() - began,
            **{**fields_of(ending.error), **asdict(statistics_of(connection)), **fields},
        )

    if connection.finished.is_set():
        tell()
    else:
        connection.on_finished = tell
