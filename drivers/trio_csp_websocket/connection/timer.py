"""Calls a function at a time, without a task: by the one timer of the core that all `csp.after` of a run share.

Nothing public does this: a channel of `csp.after` wakes a task, and there would have to be one for each connection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from csp._time.alarm import current_alarm

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """Calls a function once, at a time that can be set again and again.

    Args:
        call: the function. It is called in a system task, so it must not raise.
    """

    __slots__ = ("_armed", "_call", "_deadline", "_entry")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call
        # What the alarm asks for.
        self._deadline = math.inf
        self._armed = False
        self._entry: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether it will call the function."""
        return self._armed

    def set(self, deadline: float) -> None:
        """Call the function at a time of Trio's clock. It must not be set now."""
        if deadline < math.inf:
            self._deadline = deadline
            self._armed = True
            current_alarm().arm(self)

    def end(self) -> None:
        """Call the function no more, and let go of it."""
        self._call = None
        if self._armed:
            self._armed = False
            current_alarm().disarm(self)

    @property
    def _awaited(self) -> bool:
        """Whether the alarm has to go on for this when the main task has ended. Then no connection is left."""
        return False

    def _due(self) -> None:
        self._armed = False
        if self._call is not None:
            self._call()
