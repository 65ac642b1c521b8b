"""How far the opening of a connection has come, for the texts of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.network.proxy import Proxy


class Progress:
    """What the opening of one connection waits for.

    Whoever begins a stage of it sets `waits_for`. It is called only if the time is over, and may then look at how far
    the stage has come.
    """

    def __init__(self) -> None:
        self.waits_for: Callable[[], str] = _not_reached
        """Says what has not happened yet, as a clause."""
        self.proxy: Proxy | None = None
        """The proxy that the connection goes through."""


def _not_reached() -> str:
    return "the server was not reached"
