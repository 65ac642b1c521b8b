"""Does something at a moment at which the garbage collector may run a finalizer."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

CORE = (f"csp{os.sep}_core{os.sep}", f"trio{os.sep}_channel.py")
PACKAGE = (f"csp{os.sep}", "weakref.py")


class Interrupting:
    """Does something at the nth call or return in the core."""

    def __init__(self, at: int, action: Callable[[], None], places: tuple[str, ...] = CORE) -> None:
        self.left = at
        self.action = action
        self.places = places
        self.done = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_return") or not any(place in frame.f_code.co_filename for place in self.places):
            return
        self.left -= 1
        if self.left < 0:
            self.done = True
            sys.setprofile(None)
            self.action()


@contextmanager
def interrupted(at: int, action: Callable[[], None]) -> Generator[Interrupting]:
    """Do something at the nth call or return in the package that the block makes."""
    profile = sys.getprofile()
    interrupting = Interrupting(at, action, PACKAGE)
    sys.setprofile(interrupting)
    try:
        yield interrupting
    finally:
        sys.setprofile(profile)
