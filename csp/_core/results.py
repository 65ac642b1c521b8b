"""What a receive and a select give: tuples, because those are made fast, whose fields are read by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T_co = TypeVar("T_co", covariant=True)


class Received(NamedTuple, Generic[T_co]):
    """What a receive gives: ``(value, True)``, or ``(None, False)`` from a channel that is closed and drained.

    It stays this pair: ``value, ok = await channel.receive()``. ``value`` is typed as a value although it is None when
    ``ok`` is False: look at ``ok`` first.
    """

    value: T_co
    ok: bool


class SelectResult(NamedTuple, Generic[T_co]):
    """Which case was performed, and what came of it.

    `Source.gave` and `Channel.took` ask it whether a source gave a value, or a channel took one. Read the fields by
    name: later versions may add some at the end.

    Attributes:
        channel: the channel, timer or other source of the case; compare it with ``is``. None for the default.
        value: the value received or sent. Typed as a value although it is None when ``ok`` is False and for the
            default.
        ok: False if the channel received from is closed and drained, else True.
        default: whether nothing was ready and ``default=True`` was given.
        index: the position of the case among the arguments (in a `Selector`, its order of adding); -1 for the default.
        sent: whether the case sent a value.
    """

    channel: object
    value: T_co
    ok: bool
    default: bool
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    sent: bool


# What a NamedTuple's constructor does in the end, at half the cost; for the hot paths.
new_tuple = cast(
    "Callable[[type[tuple[object, ...]], tuple[object, ...]], Any]",
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType]
)
