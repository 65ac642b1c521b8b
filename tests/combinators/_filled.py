"""A channel with values in it."""

from __future__ import annotations

import csp


def filled(*values: int, closed: bool = True, cause: BaseException | None = None) -> csp.Channel[int]:
    channel = csp.Channel[int](max(len(values), 1))
    for value in values:
        channel.send_nowait(value)
    if closed:
        channel.close(cause)
    return channel
