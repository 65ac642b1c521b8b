"""Who may do what: policies that a context carries, and the question whether an action is allowed.

    readers = Scope([
        Policy("websocket.connect", ""),
        Policy("websocket.connect.url", "wss://api.example.com/*"),
    ])
    with security.context(actor=Actor("alice"), scope=readers):
        ...  # here, and in tasks started from here, connections lead to api.example.com only

The context is a context variable: a Trio task inherits it from the code that started the task.
"""

from __future__ import annotations

import inspect
import logging
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, cast, final

from csp._patterns import check_resources, matches
from csp.errors import InvalidError, InvalidTypeError

_logger = logging.getLogger(__name__)

__all__ = ["Actor", "Condition", "Policy", "Scope", "can", "context"]


@final
@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who acts.

    Args:
        id: what identifies the actor.
        meta: facts about the actor, for conditions.
    """

    id: str
    meta: Mapping[str, object] = field(default_factory=dict[str, object], hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise InvalidTypeError(f"id must be a string, not {self.id!r}")
        if not isinstance(self.meta, Mapping):
            raise InvalidTypeError(f"meta must be a mapping, not {self.meta!r}")


Condition: TypeAlias = Callable[[Actor | None, str, str, Mapping[str, object]], object]
"""Called with actor, action, resource and meta; a policy applies if it returns something true.

If it raises, the action is denied, and the exception is logged as an error of ``csp.security``.
"""


@final
@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class Policy:
    """Allows or denies actions on resources.

    A pattern matches itself, or, if it ends in ``*``, all that begins with the rest of it: ``*`` matches everything,
    ``websocket.*`` matches ``websocket.connect`` and not ``websocket``. It is compared as it is written, so one for
    URLs must be written in their normal form: scheme and host in lower case, no default port, a path of at least ``/``.
    Servers read paths in more ways than one, so what is denied is better not listed, but what is allowed.

    Args:
        actions: patterns of the actions it is about, one or several.
        resources: patterns of the resources it is about, one or several.
        effect: ``"allow"`` or ``"deny"``.
        condition: when it applies; None for always.

    Raises:
        InvalidError: the effect is anything else; a pattern has a ``*`` before its end, or in the host or port of a
            URL; or a pattern can never match, because it is a URL not in its normal form, or because a driver's actions
            are asked about something else. The text says what to write.
        InvalidTypeError: an argument is of the wrong type.
    """

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    effect: Literal["allow", "deny"]
    condition: Condition | None

    def __init__(
        self,
        actions: str | Iterable[str],
        resources: str | Iterable[str],
        effect: Literal["allow", "deny"] = "allow",
        condition: Condition | None = None,
    ) -> None:
        if effect not in ("allow", "deny"):
            raise InvalidError(f'effect must be "allow" or "deny", not {effect!r}')
        # The coroutine of an async condition would be true, whatever the condition returns.
        if condition is not None and (inspect.iscoroutinefunction(condition) or not callable(condition)):
            raise InvalidTypeError(f"condition must be a function that is not async, not {condition!r}")
        action_patterns, resource_patterns = _patterns("actions", actions), _patterns("resources", resources)
        check_resources(action_patterns, resource_patterns)
        _set(self, "actions", action_patterns)
        _set(self, "resources", resource_patterns)
        _set(self, "effect", effect)
        _set(self, "condition", condition)

    def __repr__(self) -> str:
        resources = [_without_query(pattern) for pattern in self.resources]
        condition = "" if self.condition is None else f", condition={self.condition!r}"
        return f"<csp.security.Policy {self.effect} {list(self.actions)} on {resources}{condition}>"

    def _verdict(self, actor: Actor | None, action: str, resource: str, meta: Mapping[str, object]) -> bool | None:
        """Return whether it allows (True) or denies (False); None if it does not apply."""
        if not (_matches(self.actions, action) and _matches(self.resources, resource)):
            return None
        if self.condition is not None:
            try:
                applies = self.condition(actor, action, resource, meta)
                if inspect.isawaitable(applies):
                    return False  # its result cannot be known here
                if not applies:
                    return None
            except Exception:  # noqa: BLE001  # whether it is allowed cannot be known
                _log_raised(self, action, resource)
                return False
        return self.effect == "allow"


@final
@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class Scope:
    """A set of policies. If any of them denies, the action is denied; otherwise it is allowed if any allows it."""

    policies: tuple[Policy, ...]

    def __init__(self, policies: Iterable[Policy]) -> None:
        if not isinstance(policies, Iterable):
            raise InvalidTypeError(f"policies must be an iterable of policies, not {policies!r}")
        checked = tuple(policies)
        for policy in checked:
            if not isinstance(policy, Policy):
                raise InvalidTypeError(f"policies must be csp.security.Policy objects, not {policy!r}")
        _set(self, "policies", checked)

    def __repr__(self) -> str:
        return f"<csp.security.Scope {list(self.policies)}>"


class _Context(NamedTuple):
    actor: Actor | None
    scope: Scope | None
    strict: bool | None
    """None where nobody has said."""
    outer: _Context | None


_NOBODY = _Context(None, None, strict=None, outer=None)
_context = ContextVar("csp.security", default=_NOBODY)


@final
class context:  # noqa: N801  # used like a function
    """Act as ``actor`` within ``scope`` inside the ``with`` block, and in tasks started there.

    What is None stays as it is outside. ``strict`` is about where the actor or the scope is missing: what no policy
    decides is denied there, and allowed without ``strict``.

    Entering with a scope and without an actor warns (`RuntimeWarning`), because what the scope leaves out is allowed.
    Nothing warns where an outer context has an actor, or where ``strict`` is given as True or False, here or outside.

    Raises:
        InvalidTypeError: an argument is of the wrong type.
    """

    # Not a generator-based context manager: as a decorator of an async function it would end before the function runs.

    def __init__(self, *, actor: Actor | None = None, scope: Scope | None = None, strict: bool | None = None) -> None:
        for name, value, expected in (("actor", actor, Actor), ("scope", scope, Scope), ("strict", strict, bool)):
            if value is not None and not isinstance(value, expected):
                raise InvalidTypeError(f"{name} must be a {expected.__name__} or None, not {value!r}")
        self._actor = actor
        self._scope = scope
        self._strict = strict

    def __enter__(self) -> None:
        outer = _context.get()
        inner = _Context(
            outer.actor if self._actor is None else self._actor,
            outer.scope if self._scope is None else self._scope,
            outer.strict if self._strict is None else self._strict,
            outer,
        )
        if self._scope is not None and inner.actor is None and inner.strict is None:
            # Before the context is set: a filter may turn the warning into an exception.
            warnings.warn(
                "a csp.security.context with a scope and without an actor allows what no policy of the scope decides: "
                "give it an actor or strict=True to deny that, or strict=False to allow it without this warning",
                RuntimeWarning,
                stacklevel=2,
            )
        _context.set(inner)

    def __exit__(self, *exc_info: object) -> None:
        # Without a token of the context variable: one object may be entered in many tasks at once.
        _context.set(_context.get().outer or _NOBODY)

    def __repr__(self) -> str:
        return f"<csp.security.context actor={self._actor!r} scope={self._scope!r} strict={self._strict!r}>"


def can(action: str, resource: str = "", meta: Mapping[str, object] | None = None, *, optional: bool = False) -> bool:
    """Tell whether the context allows an action.

    It is denied if any policy of the scope denies it, and otherwise allowed if any allows it. If no policy applies, it
    is denied where there are both an actor and a scope, and where the context is strict; otherwise it is allowed.

    Args:
        action: what is to be done, such as ``"websocket.connect"``.
        resource: what it is to be done to.
        meta: facts for conditions.
        optional: whether a scope may leave the action out. If no policy applies, it is then denied only where a policy
            of the scope allows this very action, written out in full: that one lists what is allowed.

    Raises:
        InvalidTypeError: an argument is of the wrong type.
    """
    for name, value in (("action", action), ("resource", resource)):
        if not isinstance(value, str):
            raise InvalidTypeError(f"{name} must be a string, not {value!r}")
    if meta is not None and not isinstance(meta, Mapping):
        raise InvalidTypeError(f"meta must be a mapping or None, not {meta!r}")
    actor, scope, strict, _ = _context.get()
    policies = () if scope is None else scope.policies
    verdicts = {policy._verdict(actor, action, resource, meta or {}) for policy in policies}  # noqa: SLF001
    if False in verdicts:
        return False
    if True in verdicts:
        return True
    if optional:
        return not any(policy.effect == "allow" and action in policy.actions for policy in policies)
    return not strict and (actor is None or scope is None)


# How a frozen object is filled in.
_set = object.__setattr__


def _log_raised(policy: Policy, action: str, resource: str) -> None:
    """Log the exception of a condition. The query of a resource may hold a token, and is not logged."""
    query = resource.partition("?")[2]
    trace = traceback.format_exc()
    hidden = trace.replace(repr(query)[1:-1], "...").replace(query, "...") if query else trace
    _logger.error(
        "a condition of %r raised: %r on %r is denied%s",
        policy,
        action,
        _without_query(resource),
        "" if hidden == trace else f"\n{hidden}",
        exc_info=hidden == trace,
    )


def _without_query(resource: str) -> str:
    """Return a URL with ``...`` in place of its query."""
    path, mark, _ = resource.partition("?")
    return f"{path}{mark}..." if mark else resource


def _patterns(name: str, patterns: object) -> tuple[str, ...]:
    if isinstance(patterns, str):
        patterns = (patterns,)
    if isinstance(patterns, bytes) or not isinstance(patterns, Iterable):
        raise InvalidTypeError(f"{name} must be a string or an iterable of strings, not {patterns!r}")
    checked: list[str] = []
    for pattern in cast("Iterable[object]", patterns):
        if not isinstance(pattern, str):
            raise InvalidTypeError(f"{name} must be strings, not {pattern!r}")
        if "*" in pattern[:-1]:
            raise InvalidError(f"{name} must have a * at their end only, not as in {_without_query(pattern)!r}")
        checked.append(pattern)
    return tuple(checked)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)
