"""How far the opening of a connection has come, for the text of a timeout: what was waited for when it expired."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Progress:
    """What the opening of one connection waits for.

    Whoever begins a stage of it sets `waits_for`. It is called only if the time is over, and may then look at how far
    the stage has come.
    """

    def __init__(self) -> None:
        self.waits_for: Callable[[], str] = _not_reached
        """Says what has not happened yet, as a clause."""


def _not_reached() -> str:
    return "the server was not reached"
