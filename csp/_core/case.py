"""What stands in a select."""

from __future__ import annotations

from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Case(Generic[T_co]):
    """An operation that `select` may perform, on a value of type ``T_co``: a `ReceiveCase` or a `SendCase`."""

    __slots__ = ()
