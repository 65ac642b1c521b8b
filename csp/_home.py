"""Where public names live: `csp.Channel` says ``csp``, in tracebacks, `repr`, pickles and documentation.

The modules that define them are private. Each face calls `publish` once, when it has all its names.
"""

from __future__ import annotations

import inspect
import sys
from types import FunctionType
from typing import TYPE_CHECKING, ForwardRef, get_overloads, overload

if TYPE_CHECKING:
    from collections.abc import Iterable


def publish(face: str, objects: Iterable[object]) -> None:
    """Set a public module as the ``__module__`` of classes and functions.

    Other objects are left alone, and so is what is defined in a public module, which is one with an ``__all__``.

    Args:
        face: the name of the module.
        objects: what it makes public.
    """
    for thing in objects:
        if isinstance(thing, type | FunctionType) and not hasattr(sys.modules[thing.__module__], "__all__"):
            if isinstance(thing, type):
                _pin_annotations(thing)
            else:
                _register_overloads(face, thing)
            thing.__module__ = face


def _pin_annotations(cls: type) -> None:
    """Have `typing.get_type_hints` evaluate the annotations of a class where they were written, not in the face."""
    # They are strings, as every module imports annotations from the future; NamedTuple and TypedDict have wrapped them.
    pinned = inspect.get_annotations(cls)
    for name, annotation in pinned.items():
        text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
        pinned[name] = ForwardRef(text, is_argument=False, module=cls.__module__, is_class=True)
    if pinned:
        cls.__annotations__ = pinned


def _register_overloads(face: str, function: FunctionType) -> None:
    """Have `typing.get_overloads` find the overloads of a function, which it looks for under the name of its module."""
    for variant in get_overloads(function):
        variant.__module__ = face
        overload(variant)
