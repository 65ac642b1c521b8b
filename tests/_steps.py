"""Work, counted: the same on every machine."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_TOOL = 4  # of `sys.monitoring`: one that neither debuggers nor coverage and profilers have


def steps(work: Callable[[], object]) -> int:
    """Return how many instructions of Python's virtual machine a call takes, with all that it calls.

    What compiled code does within one of them, such as copying or matching a pattern, is not counted.
    """
    gc.disable()  # a finalizer of something else would be counted
    try:
        if sys.version_info >= (3, 12):
            return _monitored(work)
        return _traced(work)
    finally:
        gc.enable()


def _traced(work: Callable[[], object]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        elif event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return trace

    before = sys.gettrace()  # that of coverage, or of a debugger
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


if sys.version_info >= (3, 12):  # where tracing misses what a function does when it is first called

    def _monitored(work: Callable[[], object]) -> int:
        count = 0

        def instruction(_code: object, _offset: int) -> None:
            nonlocal count
            count += 1

        monitoring = sys.monitoring
        monitoring.use_tool_id(_TOOL, "steps")
        try:
            monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, instruction)
            monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
            try:
                work()
            finally:
                monitoring.set_events(_TOOL, 0)
        finally:
            monitoring.free_tool_id(_TOOL)
        return count
