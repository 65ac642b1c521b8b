"""What comes out of nurseries, of ours and of the client library."""

from __future__ import annotations

from typing import cast

import trio


def single(error: BaseException) -> BaseException:
    """Return the one exception that a group holds, beside cancellations and in groups; itself if it holds several.

    A KeyboardInterrupt in a task of the client library comes out of its nurseries in groups.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    rest = group.split(trio.Cancelled)[1]
    if rest is None:
        return group
    first, *others = rest.exceptions
    return group if others else single(first)
