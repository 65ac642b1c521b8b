"""`Latest`: a value that changes, to read at any time and to wait for.

A reader has the number of the version that it received last; it is ready while that is not the version there is. The
`Latest` itself is such a reader, for programs that need only one.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast, final, overload

import trio
from trio.lowlevel import enable_ki_protection

from csp._core.results import Received
from csp._core.source import Moment, Source
from csp.errors import ChannelClosedError, Error, InvalidTypeError, Kind

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

_NO_VALUE: Final = object()


@final
class Latest(Source[T]):
    """A value that changes: the latest can be read at any time, and each reader receives the latest change once.

        config = csp.Latest(Settings())
        r = await csp.select(config.case_receive(), shutdown.case_receive())

    It is a source, and so one reader; tasks that share it share the changes. `changes` makes more readers. A reader
    that is slow skips the values in between. Where each value counts, use `csp.Channel` or `csp.broadcast`. (tokio:
    ``watch``; Kotlin: ``StateFlow``; ReactiveX: ``BehaviorSubject``.)

    As a block, ``with latest:``, it is closed at the end, with the exception that ends the block as the cause.

    Args:
        value: the first value; none by default, so that readers wait for one.
    """

    __slots__ = ("_cause", "_closed", "_readers", "_received", "_value", "_version")

    _value: T

    # Overloaded so that type checkers know what an empty one takes: Latest[int]().
    @overload
    def __init__(self) -> None: ...
    @overload
    def __init__(self, value: T) -> None: ...
    def __init__(self, value: Any = _NO_VALUE) -> None:
        super().__init__()
        self._version = self._received = 0
        if value is not _NO_VALUE:
            self._value, self._version = value, 1
        self._closed = False
        self._cause: BaseException | None = None
        # Weakly, so that a reader can be forgotten. A dict, so that the readers are woken in the order they were made.
        self._readers: weakref.WeakKeyDictionary[Source[T], None] = weakref.WeakKeyDictionary()

    @property
    def value(self) -> T:
        """The latest value, also after the end.

        Raises:
            Error: there is none yet (kind NOT_FOUND).
        """
        if not self._version:
            raise Error("this Latest has no value yet: nobody has set one", kind=Kind.NOT_FOUND)
        return self._value

    @enable_ki_protection
    def set(self, value: T) -> None:
        """Replace the value, and give it to the readers that wait; it never waits.

        It is a change for every reader, also if the value is equal to the one before.

        Raises:
            ChannelClosedError: it is closed; the value stays as it was.
        """
        # Kept until the end: its finalizer may do anything, such as closing this.
        previous = getattr(self, "_value", None)
        if self._closed:
            raise ChannelClosedError("cannot set: the Latest is closed") from self._cause
        self._value = value
        self._version += 1
        self._wake_readers()
        del previous

    def changes(self) -> Source[T]:
        """Return a new reader: a source of the value there is now, if any, and then of the latest change each time.

        Tasks that share a reader share the changes: make one for each. A reader needs no clean-up.
        """
        reader = _Reader(self)
        self._readers[reader] = None
        return reader

    @enable_ki_protection
    def close(self, cause: BaseException | None = None) -> None:
        """End it, with the error that ended it if there was one: readers receive the last value, and then the end.

        A reader that has the last value is only told the end. Closing it again does nothing; the first cause stays.

        Raises:
            InvalidTypeError: cause is not an exception.
        """
        if cause is not None and not isinstance(cause, BaseException):
            raise InvalidTypeError(f"cause must be an exception or None, not {cause!r}")
        if not self._closed:
            self._closed, self._cause = True, cause
            self._wake_readers()

    def is_ready(self, moment: Moment) -> bool:
        """Tell whether there is a change that was not received here, or the end."""
        return self._received != self._version or self._closed

    @enable_ki_protection
    def receive_nowait(self) -> Received[T]:
        """Take the latest change, unless it was received here.

        Returns ``(value, True)``, or ``(None, False)`` once it is closed and the last value was received.

        Raises:
            trio.WouldBlock: there is no change.
        """
        return self._give(self)

    def _give(self, reader: Latest[T] | _Reader[T]) -> Received[T]:
        """Return what a reader receives that asks now."""
        if reader._received != self._version:
            # Together, so that no finalizer comes between them.
            reader._received, value = self._version, self._value
            return Received(value, True)
        if self._closed:
            return Received(cast("T", None), False)
        raise trio.WouldBlock

    def _wake_readers(self) -> None:
        self.wake()
        # Iterating over the dict itself, which is in Python, fails if a finalizer makes a reader meanwhile.
        for reference in self._readers.keyrefs():
            reader = reference()
            if reader is not None:
                reader.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(exc)

    @property
    def closed(self) -> bool:
        """Whether it is closed; the value can still be read."""
        return self._closed

    @property
    def cause(self) -> BaseException | None:
        """The exception it was closed with, or None."""
        return self._cause

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<csp.Latest {state}, {len(self._readers)} readers, at {id(self):#x}>"


class _Reader(Source[T]):
    """What `Latest.changes` returns."""

    __slots__ = ("_latest", "_received")

    def __init__(self, latest: Latest[T]) -> None:
        super().__init__()
        self._latest = latest
        self._received = 0

    def is_ready(self, moment: Moment) -> bool:
        return self._received != self._latest._version or self._latest.closed

    @enable_ki_protection
    def receive_nowait(self) -> Received[T]:
        return self._latest._give(self)

    @property
    def closed(self) -> bool:
        return self._latest.closed

    @property
    def cause(self) -> BaseException | None:
        return self._latest.cause

    def __repr__(self) -> str:
        state = "ready" if self.is_ready(Moment()) else "up to date"
        return f"<changes of {self._latest!r}, {state}, at {id(self):#x}>"
