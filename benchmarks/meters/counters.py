"""Meters that count what happens in a ``with`` block, for `benchmarks.counts`.

What they count depends on the program and the versions of what it runs on, and not on the machine or the moment: the
garbage collector is off, and everything random begins at the same place each time.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import random
import select
import socket
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import trio

if TYPE_CHECKING:
    from types import CodeType, FrameType

_CPYTHON = sys.implementation.name == "cpython"


class Counter(ABC):
    """A meter that counts one thing; how many there were is in ``count`` afterwards."""

    def __init__(self) -> None:
        self.count = 0

    @classmethod
    def obstacle(cls) -> str | None:
        """Return why this cannot be counted here, if it cannot."""
        return None

    def __enter__(self) -> Self:
        gc.collect()
        gc.disable()
        _seed_generators()
        self._start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()
        gc.enable()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...


def _seed_generators() -> None:
    # Trio's own shuffles the tasks that can run, and csp's chooses in a select; neither is public.
    for generator in gc.get_objects():
        if type(generator) is random.Random:
            generator.seed(0)


class TaskSteps(Counter, trio.abc.Instrument):
    """Counts how often the scheduler resumes a task, whichever it is."""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # Trio's interface
        self.count += 1

    def _start(self) -> None:
        trio.lowlevel.add_instrument(self)

    def _stop(self) -> None:
        trio.lowlevel.remove_instrument(self)


class Passes(Counter, trio.abc.Instrument):
    """Counts the passes of the scheduler's loop; each asks the system for what has become ready."""

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  # Trio's interface
        self.count += 1

    def _start(self) -> None:
        trio.lowlevel.add_instrument(self)

    def _stop(self) -> None:
        trio.lowlevel.remove_instrument(self)


class _Allocator(ctypes.Structure):
    """C's ``PyMemAllocatorEx``."""

    ctx: int | None
    malloc: int | None
    calloc: int | None
    realloc: int | None
    free: int | None
    _fields_: ClassVar[Any] = [(name, ctypes.c_void_p) for name in ("ctx", "malloc", "calloc", "realloc", "free")]


class Allocations(Counter):
    """Counts the blocks of memory that Python's objects ask for.

    Nothing is given back meanwhile, so that what is allocated afterwards and before differ by all that were asked for.
    Objects that Python takes from its free lists (short tuples and lists, floats, frames) are not among them: they
    cost little. Never in a process that goes on for long: what was not given back stays so.
    """

    # PYMEM_DOMAIN_MEM and PYMEM_DOMAIN_OBJ, which share one allocator and its count.
    _DOMAINS = (1, 2)

    @classmethod
    def obstacle(cls) -> str | None:
        # Without the interpreter's lock, memory is another allocator's.
        if _CPYTHON and getattr(sys, "_is_gil_enabled", lambda: True)() and sys.getallocatedblocks():
            return None
        return "this Python does not allocate with pymalloc"

    def _start(self) -> None:
        self._own = [_get_allocator(domain) for domain in self._DOMAINS]
        # Any function of C's that has no effect and whose result nobody misses.
        ignore = ctypes.cast(ctypes.pythonapi.Py_GetPlatform, ctypes.c_void_p).value
        keeping = [_Allocator(own.ctx, own.malloc, own.calloc, own.realloc, ignore) for own in self._own]
        self._set(keeping)
        self._before = sys.getallocatedblocks()

    def _stop(self) -> None:
        self.count = sys.getallocatedblocks() - self._before
        self._set(self._own)

    def _set(self, allocators: list[_Allocator]) -> None:
        for domain, allocator in zip(self._DOMAINS, allocators, strict=True):
            ctypes.pythonapi.PyMem_SetAllocator(domain, ctypes.byref(allocator))


def _get_allocator(domain: int) -> _Allocator:
    allocator = _Allocator()
    ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(allocator))
    return allocator


class Instructions(Counter):
    """Counts the bytecode instructions that are executed, of all code."""

    @classmethod
    def obstacle(cls) -> str | None:
        return None if _CPYTHON else "only CPython executes CPython's instructions"

    if sys.version_info >= (3, 12):
        _TOOL = sys.monitoring.PROFILER_ID

        def _start(self) -> None:
            def executed(_code: CodeType, _offset: int) -> None:
                self.count += 1

            sys.monitoring.use_tool_id(self._TOOL, "benchmarks.counts")
            sys.monitoring.register_callback(self._TOOL, sys.monitoring.events.INSTRUCTION, executed)
            sys.monitoring.set_events(self._TOOL, sys.monitoring.events.INSTRUCTION)

        def _stop(self) -> None:
            sys.monitoring.set_events(self._TOOL, sys.monitoring.events.NO_EVENTS)
            sys.monitoring.free_tool_id(self._TOOL)

    else:

        def _start(self) -> None:
            def trace(frame: FrameType, event: str, _arg: object) -> Any:
                if event == "opcode":
                    self.count += 1
                elif event == "call":
                    _trace_opcodes(frame)
                return trace

            # Frames that are entered or resumed from now on announce themselves; these are running.
            running = inspect.currentframe()
            while running is not None:
                _trace_opcodes(running)
                running.f_trace = trace
                running = running.f_back
            sys.settrace(trace)

        def _stop(self) -> None:
            sys.settrace(None)


def _trace_opcodes(frame: FrameType) -> None:
    frame.f_trace_opcodes = True
    frame.f_trace_lines = False


class SystemCalls(Counter):
    """Counts the system calls of sockets and of epoll, but those of the benchmarks' own code."""

    _OWNERS = (socket.socket, *([select.epoll] if hasattr(select, "epoll") else []))
    _NAMES = frozenset(
        (
            "_accept",
            "recv",
            "recv_into",
            "recvmsg",
            "send",
            "sendall",
            "sendmsg",
            "shutdown",
            "poll",
            "register",
            "modify",
            "unregister",
        )
    )

    @classmethod
    def obstacle(cls) -> str | None:
        return None if hasattr(select, "epoll") else "Trio does not wait with epoll on this system"

    def _start(self) -> None:
        def called(frame: FrameType, event: str, arg: Any) -> None:
            if (
                event == "c_call"
                and arg.__name__ in self._NAMES
                and isinstance(arg.__self__, self._OWNERS)
                and not frame.f_globals["__name__"].startswith("benchmarks.")
            ):
                self.count += 1

        sys.setprofile(called)

    def _stop(self) -> None:
        sys.setprofile(None)
