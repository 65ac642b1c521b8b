"""Operations that fail at once visit the scheduler all the same: a loop that ignores errors must not starve others."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def checked(check: Callable[[], T]) -> T:
    """Return what a function returns that checks arguments; let other tasks run before what it raises comes out."""
    try:
        return check()
    except Exception:
        await trio.lowlevel.checkpoint()
        raise
