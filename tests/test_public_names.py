"""Public names say where they are imported from: in `repr`, tracebacks, pickles, and to who asks for hints and sources.

What is tested is found by walking ``__all__`` of every public module, so that a new name cannot be forgotten.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import pickle
import pkgutil
import subprocess
import sys
import traceback
import typing
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import csp
from csp import errors, security, websocket

FACES = [
    "csp",
    *(f"csp.{module.name}" for module in pkgutil.iter_modules(csp.__path__) if module.name[0] != "_"),
    *(f"csp.websocket.{module.name}" for module in pkgutil.iter_modules(websocket.__path__) if module.name[0] != "_"),
]
PUBLIC: dict[str, Any] = {
    f"{face}.{name}": getattr(importlib.import_module(face), name)
    for face in FACES
    for name in importlib.import_module(face).__all__
}
CLASSES: dict[str, type] = {path: thing for path, thing in PUBLIC.items() if isinstance(thing, type)}
FUNCTIONS: dict[str, FunctionType] = {path: thing for path, thing in PUBLIC.items() if isinstance(thing, FunctionType)}
ERRORS = {path: cls for path, cls in CLASSES.items() if issubclass(cls, BaseException)}
ENUMS = {path: cls for path, cls in CLASSES.items() if issubclass(cls, Enum)}
TUPLES: dict[str, Any] = {path: cls for path, cls in CLASSES.items() if issubclass(cls, tuple)}


def test_the_walk_sees_what_it_is_meant_to_see() -> None:
    assert {"csp", "csp.errors", "csp.security", "csp.testing", "csp.websocket"} <= set(FACES)
    assert {"csp.Channel", "csp.security.Policy", "csp.testing.ServerConnection", "csp.websocket.Client"} <= set(
        CLASSES
    )
    assert {"csp.select", "csp.errors.wrap", "csp.testing.websocket_pair", "csp.websocket.connect"} <= set(FUNCTIONS)
    assert {"csp.errors.Error", "csp.errors.ConnectionFailedError"} <= set(ERRORS)
    assert {"csp.errors.Kind", "csp.websocket.CloseCode"} <= set(ENUMS)
    assert {"csp.Received", "csp.websocket.Message"} <= set(TUPLES)


@pytest.mark.parametrize("path", [*CLASSES, *FUNCTIONS])
def test_a_public_name_says_its_public_home(path: str) -> None:
    thing = PUBLIC[path]
    assert thing.__module__ in FACES
    assert PUBLIC[f"{thing.__module__}.{thing.__qualname__}"] is thing


def test_a_class_is_printed_with_its_public_home() -> None:
    assert repr(csp.Channel) == "<class 'csp.Channel'>"
    assert repr(csp.Channel[int]) == "csp.Channel[int]"
    assert repr(websocket.Client) == "<class 'csp.websocket.Client'>"


async def test_what_is_returned_without_being_public_is_of_the_public_module_too() -> None:
    for thing in (csp.after("1s"), csp.tick("1s"), csp.never(), csp.Channel[int]().case_receive()):
        assert type(thing).__module__ == "csp"
        assert getattr(csp, type(thing).__name__) is type(thing)


def test_importing_the_testing_module_is_enough() -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(csp.__file__).parent.parent), *sys.path]!r}; import csp.testing; "
        "from trio_csp_websocket.protocol.messages import Message; print(Message)"
    )
    # In a process of its own: this one has loaded the client.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "<class 'csp.websocket.Message'>"


# Pickles and copies ---------------------------------------------------------------------------------------------------


def error(cls: type) -> errors.Error:
    """Return an instance of a class of errors, with as many of its fields as it lets be set."""
    make: Any = cls
    possible = {"message": "why", "kind": errors.TIMEOUT, "retryable": True, "details": {"code": 1006}}
    allowed = inspect.signature(cls).parameters
    made: errors.Error = make(**{name: value for name, value in possible.items() if name in allowed})
    made.__cause__ = KeyError("because")
    return made


VALUES: dict[str, Any] = {
    **{path: error(cls) for path, cls in ERRORS.items()},
    **{f"{path}.{member.name}": member for path, cls in ENUMS.items() for member in cls},
    **{path: cls(*range(len(cls.__match_args__))) for path, cls in TUPLES.items()},
    "csp.Received of a message": csp.Received(websocket.Message("text", "hello"), True),
    "csp.security.Actor": security.Actor("alice", {"role": "reader"}),
    "csp.security.Policy": security.Policy("websocket.*", ["wss://a/*", "wss://b/*"], "deny"),
    "csp.security.Scope": security.Scope([security.Policy("*", "*")]),
}


class Recording(pickle.Unpickler):
    """Notes the modules that a pickle names."""

    def __init__(self, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled))
        self.modules: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.modules.add(module)
        return super().find_class(module, name)


def fields(value: Any) -> object:
    """Return what makes up a value that compares by identity, or the value."""
    if isinstance(value, errors.Error):
        return value.args, vars(value)
    if isinstance(value, security.Policy):
        return value.actions, value.resources, value.effect, value.condition
    if isinstance(value, security.Scope):
        return [fields(policy) for policy in value.policies]
    return value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))  # before, slots were not kept
@pytest.mark.parametrize("path", VALUES)
def test_a_value_survives_pickling_and_the_pickle_names_public_modules(path: str, protocol: int) -> None:
    value = VALUES[path]
    unpickler = Recording(pickle.dumps(value, protocol))
    again = unpickler.load()
    assert type(again) is type(value)
    assert fields(again) == fields(value)
    assert {module for module in unpickler.modules if module.split(".")[0] in ("csp", "trio_csp_websocket")} <= set(
        FACES
    )


@pytest.mark.parametrize("path", VALUES)
def test_a_value_survives_a_deep_copy(path: str) -> None:
    again = copy.deepcopy(VALUES[path])
    assert type(again) is type(VALUES[path])
    assert fields(again) == fields(VALUES[path])


@pytest.mark.parametrize("path", ERRORS)
def test_a_traceback_names_the_public_module(path: str) -> None:
    raised = error(ERRORS[path])
    assert traceback.format_exception_only(raised) == [f"{type(raised).__module__}.{type(raised).__name__}: {raised}\n"]


# What Python finds under a module's name ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path, cls in TUPLES.items() if cls is not websocket.Gap])
def test_the_hints_of_a_tuples_fields_are_found(path: str) -> None:
    # Gap's name a class that its module imports for type checkers only.
    assert tuple(typing.get_type_hints(TUPLES[path])) == TUPLES[path].__match_args__


@pytest.mark.parametrize("cls", [csp.Source, csp.TimerChannel, csp.PullSource, csp.Moment])
def test_the_hints_of_a_class_are_found(cls: type) -> None:
    assert typing.get_type_hints(cls)


@pytest.mark.parametrize(("function", "count"), [(csp.merge, 6), (csp.select, 7), (errors.wrap, 2)])
def test_overloads_are_found(function: Any, count: int) -> None:
    assert len(typing.get_overloads(function)) == count


@pytest.mark.parametrize("path", FUNCTIONS)
def test_the_source_of_a_function_is_found(path: str) -> None:
    assert f"def {FUNCTIONS[path].__name__}(" in inspect.getsource(FUNCTIONS[path])


@pytest.mark.parametrize("path", CLASSES)
def test_the_source_of_a_method_is_found(path: str) -> None:
    # Not that of a class: Python looks for it in the file of the module that the class names.
    for name, method in vars(CLASSES[path]).items():
        if isinstance(method, FunctionType) and "<string>" not in method.__code__.co_filename and name[0] != "_":
            assert f"def {name}(" in inspect.getsource(method)
