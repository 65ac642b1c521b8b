"""What happens to connections, told to a logger and to observers.

An event is told by one call of `Events.tell`. The logger gets a text, and what the text is made of as fields of the
record, whose names begin with ``websocket_``. Observers get the same fields; the telemetry is one. While there is
none, and the level of the logger is higher, an event costs a comparison.

A log or an observer that raises must not harm a connection, nor the task of all timers, which sends pings. So what it
raises goes no further than to standard error, or to the log.

Nothing told here may be secret: no query of a URL, no value of a header, no credentials, no data of a message. What a
peer has said goes through `csp.errors.shown`.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from csp.errors import Error, shown

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

PREFIX = "websocket_"
"""What the names of fields begin with in a record of a log."""

_logger = logging.getLogger("csp.websocket.telemetry")


class Event(NamedTuple):
    """Something that has happened."""

    name: str
    """What it is, as ``"client.connected"``."""
    about: object
    """What it happened to, the same object in all events about that."""
    fields: Mapping[str, object]
    """What there is to know, by names without the prefix."""
    subject: object
    """What else has to do with it: the connection that was opened or accepted, or the feed that connects."""


class Observer(Protocol):
    """Is told of events. What its methods raise is logged, and goes no further."""

    def told(self, event: Event, /) -> None:
        """Take note of an event. Called in the task in which it happens."""

    def enter(self, about: object, /) -> object:
        """Begin a part of the current task that belongs to what `Event.about` names; return a token for `leave`."""

    def leave(self, token: object, /) -> None:
        """End that part."""


_observers: tuple[Observer, ...] = ()


def add_observer(observer: Observer) -> None:
    """Have an observer told of all events from now on."""
    global _observers  # noqa: PLW0603  # one list for all connections
    _observers = (*_observers, observer)


def remove_observer(observer: Observer) -> None:
    """Tell an observer nothing more."""
    global _observers  # noqa: PLW0603  # as above
    _observers = tuple(other for other in _observers if other is not observer)


class Events:
    """Tells the events of one area.

    Args:
        logger_name: the logger of that area.
    """

    def __init__(self, logger_name: str) -> None:
        self._logger = logging.getLogger(logger_name)

    def enabled(self, level: int) -> bool:
        """Whether the log shows events of a level."""
        return self._logger.isEnabledFor(level)

    def wanted(self, level: int = logging.DEBUG) -> bool:
        """Whether anybody is told of an event of a level: ask where it costs something to describe it."""
        return bool(_observers) or self._logger.isEnabledFor(level)

    def tell(
        self,
        name: str,
        level: int | None,
        text: str,
        *arguments: object,
        about: object = None,
        subject: object = None,
        exc_info: BaseException | bool | None = None,
        **fields: object,
    ) -> None:
        """Tell an event.

        Args:
            name: what has happened.
            level: of the record in the log; None for none, where only observers are told.
            text: of the record, with the places of its arguments.
            arguments: of the text.
            about: see `Event`.
            subject: see `Event`.
            exc_info: as `logging` has it.
            fields: what there is to know; None where it is not known.
        """
        if level is not None and self._logger.isEnabledFor(level):
            extra = {PREFIX + field: value for field, value in fields.items() if value is not None}
            extra[f"{PREFIX}event"] = name
            _log(self._logger, level, text, *arguments, exc_info=exc_info, extra=extra, stacklevel=3)
        if _observers:
            event = Event(name, about, fields, subject)
            for observer in _observers:
                try:
                    observer.told(event)
                except Exception:  # noqa: BLE001  # it is logged
                    _log(_logger, logging.ERROR, "an observer of %s has failed", name, exc_info=True)


def _log(logger: logging.Logger, level: int, text: str, *arguments: object, **options: Any) -> None:
    """Log a record. What a filter or a handler raises is printed as `logging.Handler.handleError` does it."""
    try:
        logger.log(level, text, *arguments, **options)
    except Exception:  # noqa: BLE001  # a filter or a handler may raise anything
        if logging.raiseExceptions:
            with suppress(OSError):
                traceback.print_exc()


@contextmanager
def inside(about: object) -> Generator[None]:
    """Mark what the current task does in a block as a part of something: a user's function that is called for it."""
    entered: list[tuple[Observer, object]] = []
    for observer in _observers:
        try:
            entered.append((observer, observer.enter(about)))
        except Exception:  # noqa: BLE001  # it is logged
            _log(_logger, logging.ERROR, "an observer has failed at the beginning of a part", exc_info=True)
    try:
        yield
    finally:
        for observer, token in reversed(entered):
            try:
                observer.leave(token)
            except Exception:  # noqa: BLE001  # it is logged
                _log(_logger, logging.ERROR, "an observer has failed at the end of a part", exc_info=True)


def text_of(error: BaseException) -> str:
    """Return an error as a log shows it: its type only, if it is none of this package's and may say anything."""
    return shown(str(error), None) if isinstance(error, Error) else type(error).__name__


def fields_of(error: BaseException | None) -> dict[str, Any]:
    """Return the fields of an error: its text and its type, and the status of a server that has refused."""
    if error is None:
        return {}
    status = error.details.get("status") if isinstance(error, Error) else None
    return {"error": text_of(error), "error_type": type(error).__name__, "status": status}
