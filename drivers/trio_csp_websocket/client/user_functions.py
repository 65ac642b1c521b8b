"""The functions that a user gives to a feed: ``url``, ``headers``, ``subscribe`` and ``retry``; checked, and called.

They run as a user's own code does: Ctrl-C may interrupt them. While one runs, the feed waits for what it prepares. So
what waits for the feed there would wait for ever, and has to ask `UserFunctions.running_here` first.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias, cast

import trio
from trio.lowlevel import disable_ki_protection

from csp.errors import Error, InvalidTypeError

if TYPE_CHECKING:
    from trio_csp_websocket.client.client import Client

Subscribe: TypeAlias = "Callable[[Client], Awaitable[object]]"
"""Asks the server of a new connection for the messages that the application wants."""

Retry: TypeAlias = "Callable[[Error], bool]"
"""Says whether a feed comes back after an error; `default_retry` is the one that a feed has by itself."""


_DOING = {"url": "asking for the URL", "headers": "asking for the headers", "subscribe": "subscribing"}


class TookTooLongError(Exception):
    """A user's function has raised `trio.TooSlowError`, which is the cause of this."""


class UserFunctions:
    """Runs a user's functions, one at a time."""

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._name: str | None = None
        # What the latest one that failed has raised, if that is not retryable.
        self._final: Error | None = None

    @property
    def running_here(self) -> str | None:
        """The name of the function in which the current task is, or that waits for the current task; None for none."""
        if self._task is None:
            return None
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None and task is not self._task:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return None if task is None else self._name

    async def call(
        self, name: str, function: Callable[..., object], *arguments: object, plain_allowed: bool = True
    ) -> object:
        """Call a function, and wait for what it returns if that can be awaited.

        Args:
            name: its name among the arguments of `reconnecting`.
            function: the function.
            arguments: what it is called with.
            plain_allowed: whether it may return something else.

        Raises:
            TookTooLongError: it has raised `trio.TooSlowError`.
            InvalidTypeError: it has returned nothing to await, and had to.
        """
        self._task, self._name = trio.lowlevel.current_task(), name
        try:
            returned, awaited = await _called(function, *arguments)
            if not (awaited or plain_allowed):
                raise InvalidTypeError(
                    f"{name} must be an async function: it returned {type(returned).__name__}, which cannot be awaited"
                )
        except trio.TooSlowError as error:
            raise TookTooLongError(f"{_DOING[name]} took too long") from error
        except Error as error:
            if not error.retryable:
                self._final = error
            raise
        finally:
            self._task = None
        return returned

    def is_final(self, error: Error) -> bool:
        """Whether it is an error of such a function that ends the feed, and not one of connecting."""
        return error is self._final


@disable_ki_protection
async def _called(function: Callable[..., object], *arguments: object) -> tuple[object, bool]:
    """Return what a function gives, and whether that was awaited."""
    value = function(*arguments)
    if not isinstance(value, Awaitable):
        return value, False
    return await cast("Awaitable[object]", value), True


@disable_ki_protection
def asked(retry: Retry, error: Error) -> bool:
    """Ask a user's ``retry`` about an error.

    Raises:
        InvalidTypeError: it has returned something to await.
    """
    answer: object = retry(error)
    if isinstance(answer, Awaitable):
        raise InvalidTypeError(f"retry must be a plain function: it returned {_closed(answer)}, which must be awaited")
    return bool(answer)


def check_subscribe(subscribe: object) -> None:
    """Check what was given as ``subscribe``.

    Raises:
        InvalidTypeError: it cannot be called.
    """
    if not callable(subscribe):
        what = _what(subscribe) if inspect.iscoroutine(subscribe) else repr(subscribe)
        raise InvalidTypeError(f"subscribe must be an async function or None, not {what}")


def check_retry(retry: object) -> None:
    """Check what was given as ``retry``.

    Raises:
        InvalidTypeError: it is no function of one argument, or an async one.
    """
    if not callable(retry) or isinstance(retry, type):
        raise InvalidTypeError(f"retry must be a function of an error, or None, not {_what(retry)}")
    for function in (retry, retry.__call__):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidTypeError(f"retry must be a plain function, and {_name(retry)} is async")
    _check_signature("retry", retry, None)


def function_of(name: str, given: object) -> Callable[[], object] | None:
    """Return what was given as an option if it is a function to ask; None if it is a value, right or wrong.

    Raises:
        InvalidTypeError: it is a class, a function that takes other arguments than none, or what an async function has
            returned.
    """
    if isinstance(given, type) or inspect.iscoroutine(given):
        # A class can be called as well, as `dict` to get no headers; but an object of it was meant.
        raise InvalidTypeError(
            f"{name} must be a value or a function without arguments that returns one, not {_what(given)}"
        )
    if isinstance(given, str | Mapping) or not callable(given):
        return None
    _check_signature(name, given)
    return cast("Callable[[], object]", given)


def _check_signature(name: str, function: Callable[..., object], *arguments: object) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # that of some functions in C is not known
    try:
        signature.bind(*arguments)
    except TypeError as error:
        count = "an error" if arguments else "no arguments"
        raise InvalidTypeError(f"{name} is called with {count}, and {_name(function)} does not fit: {error}") from None


def _what(given: object) -> str:
    """Return what was given, for an error: never its repr, which may show a secret."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    if inspect.iscoroutine(given):
        return f"{_closed(given)}: give the async function itself, without calling it"
    return type(given).__name__


def _closed(waiting: object) -> str:
    """Return the type of something to await, as it is named; close it if it is a coroutine, which would warn."""
    if inspect.iscoroutine(waiting):
        waiting.close()
        return "a coroutine"
    return type(waiting).__name__


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
