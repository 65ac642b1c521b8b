"""The clock that leases are counted on: it must run while the machine is suspended, as the server's does.

Neither Trio's clock nor `time.monotonic` does on Linux. On macOS CLOCK_MONOTONIC does, and on Windows `time.monotonic`
is the best there is.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _clock() -> Callable[[], float]:
    name = next((name for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC") if hasattr(time, name)), None)
    if name is None:
        return time.monotonic
    found = vars(time)  # by name, for type checkers on systems that have none
    return partial(found["clock_gettime"], found[name])


now: Callable[[], float] = _clock()
"""Return the seconds since some moment."""
