"""Policies and contexts: who is allowed what, and whose context counts where."""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import csp
from csp import security
from csp.errors import InvalidError, InvalidTypeError, Kind
from csp.security import Actor, Policy, Scope, can, context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from trio.testing import MockClock

ALICE = Actor("alice")
NOTHING = Scope([])
ALLOW = Policy("*", "*")
DENY = Policy("*", "*", "deny")
# Applies to nothing that the tests ask for.
BESIDE = Policy("other", "*")


def always(*_arguments: object) -> bool:
    return True


def never(*_arguments: object) -> bool:
    return False


def broken(*_arguments: object) -> bool:
    raise LookupError("the user database is down")


def allowed(*policies: Policy, action: str = "act", resource: str = "thing") -> bool:
    """Return what these policies decide where there are actor and scope."""
    with context(actor=ALICE, scope=Scope(policies)):
        return can(action, resource)


# The decision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([], False),
        ([BESIDE], False),
        ([ALLOW], True),
        ([ALLOW, ALLOW], True),
        ([DENY], False),
        ([ALLOW, DENY], False),
        ([DENY, ALLOW], False),
        ([ALLOW, DENY, ALLOW], False),
        ([BESIDE, ALLOW], True),
        ([ALLOW, BESIDE], True),
        ([Policy("other", "*", "deny"), ALLOW], True),
    ],
)
def test_any_deny_decides_then_any_allow_and_else_it_is_denied(policies: list[Policy], expected: bool) -> None:
    assert allowed(*policies) is expected


@pytest.mark.filterwarnings("ignore:a csp.security.context with a scope and without an actor")
@pytest.mark.parametrize("actor", [None, ALICE])
@pytest.mark.parametrize("scope", [None, NOTHING, Scope([BESIDE])])
@pytest.mark.parametrize("strict", [None, False, True])
def test_what_no_policy_decides_is_allowed_where_actor_or_scope_is_missing_unless_strict(
    actor: Actor | None, scope: Scope | None, strict: bool | None
) -> None:
    with context(actor=actor, scope=scope, strict=strict):
        missing = actor is None or scope is None
        assert can("act") is (missing and not strict)


@pytest.mark.parametrize("actor", [None, ALICE])
@pytest.mark.parametrize("strict", [False, True])
def test_policies_decide_with_and_without_an_actor_and_strictness(actor: Actor | None, strict: bool) -> None:
    with context(actor=actor, strict=strict):
        with context(scope=Scope([ALLOW])):
            assert can("act") is True
        with context(scope=Scope([DENY])):
            assert can("act") is False


def test_without_any_context_everything_is_allowed() -> None:
    assert can("act") is True
    assert can("act", "thing", {"fact": 1}) is True


def test_a_policy_is_about_an_action_and_a_resource_together() -> None:
    policy = Policy("read", "book")
    assert allowed(policy, action="read", resource="book")
    assert not allowed(policy, action="read", resource="letter")
    assert not allowed(policy, action="write", resource="book")


def test_the_resource_is_empty_by_default_and_matched_like_any_other() -> None:
    with context(actor=ALICE, scope=Scope([Policy("act", "")])):
        assert can("act")
        assert can("act", "")
        assert not can("act", "thing")
    with context(actor=ALICE, scope=Scope([Policy("act", "*")])):
        assert can("act")


# Patterns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("websocket", ["websocket"], ["", "websocke", "websockets", "websocket.connect", "Websocket", "a websocket"]),
        ("*", ["", "*", "a", "a.b", "line\nbreak", "\u00fc"], []),
        ("websocket*", ["websocket", "websockets", "websocket.connect", "websocket*"], ["", "websocke", "a websocket"]),
        (
            "websocket.*",
            ["websocket.", "websocket.connect", "websocket.connect.url", "websocket.*"],
            ["websocket", "websockets", "websocketXconnect", "WEBSOCKET.connect"],
        ),
        ("", [""], ["a", "*"]),
        ("a.b", ["a.b"], ["aXb", "a.b.c", "a.b\n"]),
        ("[ab]?", ["[ab]?"], ["a1", "b"]),
        (
            "wss://api.example.com/*",
            ["wss://api.example.com/", "wss://api.example.com/v1?x=y"],
            [
                "wss://api.example.com",
                "wss://api.example.com.evil.net/",
                "wss://api.example.com:8443/",
                "wss://api.example.com@evil.net/",
                "ws://api.example.com/",
                "wss://evil.net/wss://api.example.com/",
            ],
        ),
    ],
)
@pytest.mark.parametrize("place", ["actions", "resources"])
def test_a_pattern_matches_exactly_or_up_to_its_star(
    pattern: str, matching: list[str], others: list[str], place: str
) -> None:
    policy = Policy(pattern, "*") if place == "actions" else Policy("*", pattern)
    for names, expected in ((matching, True), (others, False)):
        for name in names:
            action, resource = (name, "x") if place == "actions" else ("x", name)
            assert allowed(policy, action=action, resource=resource) is expected, name


@pytest.mark.parametrize("pattern", ["**", "*a", "a*b", "*.", "a.*.b", "a**", "*\n", "* "])
@pytest.mark.parametrize("place", ["actions", "resources"])
def test_a_star_elsewhere_than_at_the_end_is_invalid(pattern: str, place: str) -> None:
    given_patterns: dict[str, Any] = {"actions": "ok", "resources": "ok", place: ["ok*", pattern]}
    with pytest.raises(InvalidError) as caught:
        Policy(**given_patterns)
    assert not isinstance(caught.value, InvalidTypeError)
    assert caught.value.kind is Kind.INVALID
    assert str(caught.value).startswith(f"{place} must ")
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize(
    "patterns",
    [
        ["read", "write*"],
        ("read", "write*"),
        (name for name in ["read", "write*"]),
        OrderedDict[str, int](read=1, **{"write*": 2}),
    ],
    ids=["list", "tuple", "generator", "keys"],
)
def test_patterns_are_one_string_or_any_iterable_of_them(patterns: Any) -> None:
    policy = Policy(patterns, iter(["book", "letter"]))
    assert policy.actions == ("read", "write*")
    assert policy.resources == ("book", "letter")
    for _ in range(2):  # an iterator is not used up by the first question
        assert allowed(policy, action="read", resource="letter")
        assert allowed(policy, action="write.all", resource="book")
    assert not allowed(policy, action="erase", resource="book")


def test_one_string_is_one_pattern_and_not_its_letters() -> None:
    assert Policy("abc", "xyz*").actions == ("abc",)
    assert Policy("abc", "xyz*").resources == ("xyz*",)


@pytest.mark.parametrize("nothing", [[], (), iter(())])
@pytest.mark.parametrize("effect", ["allow", "deny"])
def test_a_policy_about_nothing_never_applies(nothing: Any, effect: Literal["allow", "deny"]) -> None:
    assert not allowed(Policy(nothing, "*", effect))
    assert not allowed(Policy("*", nothing, effect))
    assert allowed(Policy(nothing, "*", effect), ALLOW)


def test_patterns_are_a_copy() -> None:
    patterns = ["read"]
    policy = Policy(patterns, "*")
    patterns.append("write")
    assert not allowed(policy, action="write")


# Conditions -----------------------------------------------------------------------------------------------------------


def test_a_condition_is_asked_with_actor_action_resource_and_meta() -> None:
    asked: list[tuple[object, ...]] = []

    def condition(actor: Actor | None, action: str, resource: str, meta: Mapping[str, object]) -> bool:
        asked.append((actor, action, resource, meta))
        return True

    scope = Scope([Policy("*", "*", condition=condition)])
    facts = {"ip": "127.0.0.1"}
    with context(actor=ALICE, scope=scope):
        assert can("act", "thing", facts)
        assert can("act")
    with context(scope=scope, strict=False):
        assert can("act", meta={})
    assert asked == [(ALICE, "act", "thing", facts), (ALICE, "act", "", {}), (None, "act", "", {})]


def test_a_condition_is_not_asked_where_its_patterns_do_not_match() -> None:
    assert not allowed(Policy("other", "*", condition=broken))
    assert not allowed(Policy("*", "other", condition=broken))
    # Were it asked, its failure would deny.
    assert allowed(Policy("other", "*", condition=broken), ALLOW)


@pytest.mark.parametrize("effect", ["allow", "deny"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_condition_decides_whether_its_policy_applies(effect: Literal["allow", "deny"], beside: bool) -> None:
    others = [ALLOW] if beside else []
    assert allowed(Policy("*", "*", effect, always), *others) is (effect == "allow")
    assert allowed(Policy("*", "*", effect, never), *others) is beside


@pytest.mark.parametrize("effect", ["allow", "deny"])
@pytest.mark.parametrize("error", [LookupError, Exception, AssertionError, StopIteration])
def test_a_condition_that_raises_denies_in_either_kind_of_policy(
    effect: Literal["allow", "deny"], error: type[Exception]
) -> None:
    def condition(*_arguments: object) -> bool:
        raise error("nobody knows")

    policy = Policy("*", "*", effect, condition)
    assert not allowed(policy)
    assert not allowed(policy, ALLOW)
    assert not allowed(ALLOW, policy)
    with context(scope=Scope([policy]), strict=False):
        assert not can("act")  # even where what no policy decides is allowed


def test_ctrl_c_in_a_condition_is_not_taken_for_an_answer() -> None:
    def condition(*_arguments: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        allowed(Policy("*", "*", condition=condition))


def test_a_condition_may_ask_for_facts_about_the_actor_and_the_moment() -> None:
    def owner(actor: Actor | None, _action: str, resource: str, meta: Mapping[str, object]) -> bool:
        return actor is not None and actor.meta.get("owns") == resource and meta.get("hour") == 9

    with context(actor=Actor("bob", {"owns": "book"}), scope=Scope([Policy("*", "*", condition=owner)])):
        assert can("read", "book", {"hour": 9})
        assert not can("read", "book", {"hour": 10})
        assert not can("read", "letter", {"hour": 9})
        assert not can("read", "book")


async def asynchronous(*_arguments: object) -> bool:
    raise NotImplementedError


@pytest.mark.parametrize(
    "condition",
    [asynchronous, functools.partial(asynchronous, 1), 1, "always", True, [always]],
    ids=["asynchronous", "partial", "number", "text", "bool", "list"],
)
def test_a_condition_that_is_async_or_no_function_is_refused(condition: Any) -> None:
    # Were the first taken, the coroutine it returns would be true.
    with pytest.raises(InvalidTypeError) as caught:
        Policy("*", "*", condition=condition)
    assert str(caught.value).startswith("condition must be a function that is not async")
    assert repr(condition) in str(caught.value)


@pytest.mark.parametrize("condition", [always, functools.partial(always, 1), Actor("a").meta.get, Actor])
def test_any_other_callable_is_a_condition(condition: Callable[..., Any]) -> None:
    assert Policy("*", "*", condition=condition).condition is condition


def returning(value: Any) -> Callable[..., Any]:
    return lambda *_arguments, **_more: value


def test_what_a_condition_returns_counts_by_its_truth() -> None:
    yes: list[Any] = [1, "yes", [0]]
    no: list[Any] = [0, "", None, []]
    for value in yes:
        assert allowed(Policy("*", "*", condition=returning(value)))
    for value in no:
        assert not allowed(Policy("*", "*", condition=returning(value)))


# Contexts -------------------------------------------------------------------------------------------------------------


def seen() -> tuple[object, ...]:
    """Return the context's actor, scope and strictness, as a policy and the decision see them."""
    actor, scope, strict, _ = security._context.get()
    return actor, scope, bool(strict)


def test_an_inner_context_inherits_what_it_does_not_set() -> None:
    bob, other = Actor("bob"), Scope([ALLOW])
    assert seen() == (None, None, False)
    with context(actor=ALICE):
        assert seen() == (ALICE, None, False)
        with context(scope=NOTHING):
            assert seen() == (ALICE, NOTHING, False)
            with context(strict=True):
                assert seen() == (ALICE, NOTHING, True)
                with context():
                    assert seen() == (ALICE, NOTHING, True)
                with context(actor=bob):
                    assert seen() == (bob, NOTHING, True)
                with context(scope=other, strict=False):
                    assert seen() == (ALICE, other, False)
                assert seen() == (ALICE, NOTHING, True)
            assert seen() == (ALICE, NOTHING, False)
        assert seen() == (ALICE, None, False)
    assert seen() == (None, None, False)


def test_an_inner_scope_replaces_the_outer_one() -> None:
    with context(actor=ALICE, scope=Scope([DENY])):
        assert not can("act")
        with context(scope=Scope([ALLOW])):
            assert can("act")
        with context(scope=NOTHING):
            assert not can("act")
        assert not can("act")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_context_ends_with_its_block_also_by_an_exception(error: type[BaseException]) -> None:
    def fail() -> None:
        with context(actor=ALICE, scope=NOTHING, strict=True):
            assert not can("act")
            raise error

    with pytest.raises(error):
        fail()
    assert seen() == (None, None, False)


async def test_a_context_ends_with_a_cancelled_block() -> None:
    with trio.CancelScope() as scope, context(actor=ALICE, scope=NOTHING):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert seen() == (None, None, False)


@pytest.mark.parametrize(
    ("argument", "values"),
    [("actor", ["alice", 1, NOTHING, Actor]), ("scope", [[ALLOW], ALLOW, "x", 0]), ("strict", [0, 1, "yes", ALICE])],
)
def test_an_argument_of_a_context_of_another_type_is_refused(argument: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidTypeError) as caught, context(**{argument: value}):
            pytest.fail("it was entered")
        assert str(caught.value).startswith(f"{argument} must be a ")
        assert repr(value) in str(caught.value)
        assert seen() == (None, None, False)


# A scope without an actor ---------------------------------------------------------------------------------------------


def test_a_scope_without_an_actor_warns_of_what_it_allows() -> None:
    with pytest.warns(RuntimeWarning, match="without an actor allows what no policy") as caught, context(scope=NOTHING):
        assert can("act")
    (warning,) = caught
    assert warning.filename == __file__  # it points at the with statement
    assert str(warning.message).endswith(
        "give it an actor or strict=True to deny that, or strict=False to allow it without this warning"
    )


def test_the_same_place_warns_once_with_the_filters_that_python_has() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            with context(scope=NOTHING):
                assert can("act")
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({}, {"scope": NOTHING, "actor": ALICE}),
        ({}, {"scope": NOTHING, "strict": True}),
        ({}, {"scope": NOTHING, "strict": False}),
        ({"actor": ALICE}, {"scope": NOTHING}),
        ({"strict": True}, {"scope": NOTHING}),
        ({"strict": False}, {"scope": NOTHING}),
        ({}, {"actor": ALICE}),
        ({}, {}),
    ],
)
def test_nothing_warns_where_there_is_an_actor_or_strict_is_given(outer: Any, inner: Any) -> None:
    # Any warning would be an exception.
    with context(**outer), context(**inner):
        pass
    assert seen() == (None, None, False)


def test_a_scope_that_was_warned_of_is_not_warned_of_again_further_in() -> None:
    warned = pytest.warns(RuntimeWarning, match="without an actor")
    with warned as caught, context(scope=NOTHING), context(), context(strict=None):
        assert can("act")
    assert len(caught) == 1


def test_a_warning_that_is_made_an_exception_leaves_the_context_as_it_was() -> None:
    with pytest.raises(RuntimeWarning, match="without an actor"), context(scope=NOTHING):
        pytest.fail("it was entered")
    assert seen() == (None, None, False)


# Optional actions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([], True),
        ([BESIDE], True),
        ([Policy("act", "other", "deny")], True),
        ([DENY], False),
        ([ALLOW, DENY], False),
        ([Policy("act", "thing")], True),
        # What an allowing policy names is all that is allowed.
        ([Policy("act", "other")], False),
        ([Policy(["read", "act"], "other")], False),
        ([Policy("act", "other", condition=never)], False),
        ([Policy("act", "other"), ALLOW], True),
        # These only happen to be about it.
        ([Policy("*", "other")], True),
        ([Policy("ac*", "other")], True),
        ([Policy("act*", "other")], True),
    ],
)
@pytest.mark.parametrize("actor", [None, ALICE])
@pytest.mark.parametrize("strict", [True, False])
def test_an_optional_action_may_be_left_out_of_a_scope(
    policies: list[Policy], expected: bool, actor: Actor | None, strict: bool
) -> None:
    with context(actor=actor, scope=Scope(policies), strict=strict):
        assert can("act", "thing", optional=True) is expected


@pytest.mark.parametrize("strict", [True, False])
def test_an_optional_action_is_allowed_without_a_scope(strict: bool) -> None:
    with context(strict=strict):
        assert can("act", optional=True)


# Tasks ----------------------------------------------------------------------------------------------------------------


async def test_tasks_and_threads_have_the_context_of_the_code_that_started_them() -> None:
    found: dict[str, bool] = {}

    async def ask(name: str) -> None:
        await trio.lowlevel.checkpoint()
        found[name] = can("act")

    async def start(name: str, *, task_status: trio.TaskStatus[None]) -> None:
        await ask(f"{name} before")
        task_status.started()
        await ask(f"{name} after")

    async with trio.open_nursery() as nursery:
        with context(actor=ALICE, scope=NOTHING):
            nursery.start_soon(ask, "start_soon")
            await nursery.start(start, "start")
            found["thread"] = await trio.to_thread.run_sync(can, "act")
            found["from_thread"] = await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(can, "act"))
        # The tasks go on after the block; what counts is where they were started.
        nursery.start_soon(ask, "outside")
        await nursery.start(start, "start outside")
    assert found == {
        "start_soon": False,
        "start before": False,
        "start after": False,
        "thread": False,
        "from_thread": False,
        "outside": True,
        "start outside before": True,
        "start outside after": True,
    }


async def test_siblings_do_not_see_each_others_contexts() -> None:
    found: list[object] = []

    async def act(name: str) -> None:
        with context(actor=Actor(name)):
            await wait_all_tasks_blocked()
            found.append((name, seen()[0]))
            await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act, "alice")
        nursery.start_soon(act, "bob")
        await wait_all_tasks_blocked()
        assert seen() == (None, None, False)
    assert sorted(found, key=str) == [("alice", Actor("alice")), ("bob", Actor("bob"))]


async def test_a_task_does_not_change_the_context_of_the_one_that_started_it() -> None:
    async def act() -> None:
        with context(actor=Actor("mallory"), scope=Scope([ALLOW])):
            assert can("act")
            await trio.sleep_forever()

    with context(actor=ALICE, scope=NOTHING):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act)
            await wait_all_tasks_blocked()
            assert seen() == (ALICE, NOTHING, False)
            assert not can("act")
            nursery.cancel_scope.cancel()


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["actions", "resources"])
@pytest.mark.parametrize(
    "patterns", [None, 1, b"", b"read", object(), ["read", 1], [b"read"], [None], [["read"]], {1: "read"}]
)
def test_patterns_of_another_type_are_refused(place: str, patterns: Any) -> None:
    given_patterns: dict[str, Any] = {"actions": "ok", "resources": "ok", place: patterns}
    with pytest.raises(InvalidTypeError) as caught:
        Policy(**given_patterns)
    assert caught.value.kind is Kind.INVALID
    assert str(caught.value).startswith(f"{place} must be ")


@pytest.mark.parametrize("effect", ["", "Allow", "denied", None, True, ["allow"], b"deny"])
def test_another_effect_is_invalid(effect: Any) -> None:
    with pytest.raises(InvalidError) as caught:
        Policy("*", "*", effect)
    assert str(caught.value) == f'effect must be "allow" or "deny", not {effect!r}'


def policies() -> Iterator[Policy]:
    yield BESIDE
    yield ALLOW


@pytest.mark.parametrize("given_policies", [[BESIDE, ALLOW], (BESIDE, ALLOW), policies(), {BESIDE: 1, ALLOW: 2}])
def test_a_scope_takes_any_iterable_of_policies(given_policies: Any) -> None:
    scope = Scope(given_policies)
    assert scope.policies == (BESIDE, ALLOW)
    with context(actor=ALICE, scope=scope):
        assert can("act")
        assert can("act")


@pytest.mark.parametrize("given_policies", [None, 1, ALLOW, "allow", [ALLOW, None], [Policy], [("*", "*")]])
def test_a_scope_of_anything_else_is_refused(given_policies: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"^policies must be "):
        Scope(given_policies)


def test_a_scope_is_a_copy() -> None:
    several = [ALLOW]
    scope = Scope(several)
    several.append(DENY)
    with context(actor=ALICE, scope=scope):
        assert can("act")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None,), "id must be a string"),
        ((1,), "id must be a string"),
        ((b"alice",), "id must be a string"),
        (("alice", None), "meta must be a mapping"),
        (("alice", [("a", 1)]), "meta must be a mapping"),
    ],
)
def test_an_actor_of_anything_else_is_refused(arguments: Any, says: str) -> None:
    with pytest.raises(InvalidTypeError, match=says) as caught:
        Actor(*arguments)
    assert repr(arguments[-1]) in str(caught.value)


def test_actors_are_compared_by_what_they_are_and_cannot_change() -> None:
    assert Actor("alice", {"a": 1}) == Actor("alice", {"a": 1})
    assert Actor("alice") != Actor("bob")
    assert Actor("alice").meta == {}
    with pytest.raises(AttributeError):
        Actor("alice").id = "bob"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_actors_do_not_share_their_facts() -> None:
    assert Actor("alice").meta is not Actor("bob").meta


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None,), "action must be a string, not None"),
        ((1,), "action must be a string, not 1"),
        ((b"act",), "action must be a string, not b'act'"),
        (("act", None), "resource must be a string, not None"),
        (("act", b"x"), "resource must be a string, not b'x'"),
        (("act", "x", 1), "meta must be a mapping or None, not 1"),
        (("act", "x", [("a", 1)]), "meta must be a mapping or None, not [('a', 1)]"),
    ],
)
def test_a_question_of_another_type_is_refused_whatever_the_context(arguments: Any, says: str) -> None:
    with pytest.raises(InvalidTypeError) as caught:
        can(*arguments)
    assert str(caught.value) == says


def test_reprs_show_what_it_is_about() -> None:
    policy = Policy(["a", "b*"], "c", "deny")
    assert repr(policy) == "<csp.security.Policy deny ['a', 'b*'] on ['c']>"
    assert repr(Scope([policy])) == f"<csp.security.Scope [{policy!r}]>"
    assert repr(Policy("a", "b", condition=always)) == (
        f"<csp.security.Policy allow ['a'] on ['b'], condition={always!r}>"
    )
    assert repr(ALICE) == "Actor(id='alice', meta={})"


def test_the_module_is_exported_at_the_top() -> None:
    assert csp.security is security
    assert set(security.__all__) == {"Actor", "Condition", "Policy", "Scope", "can", "context"}


# Against a naive model ------------------------------------------------------------------------------------------------

names = st.sampled_from(["", "a", "b", "a.", "a.b", "ab", "a.b.a", "a*"])
patterns_of = st.sampled_from(["", "a", "b", "a.b", "*", "a*", "a.*", "b*", "a.b.*"])
outcomes = {"none": None, "true": always, "false": never, "raises": broken}
some_patterns = st.one_of(st.just(["*"]), st.lists(patterns_of, max_size=3))
model_policies = st.tuples(
    some_patterns, some_patterns, st.sampled_from(["allow", "deny"]), st.sampled_from(["none", *sorted(outcomes)])
)


def matches_naively(patterns: list[str], name: str) -> bool:
    for pattern in patterns:
        stem, star, _ = pattern.partition("*")
        if name == stem or (star and name[: len(stem)] == stem):
            return True
    return False


def decide_naively(
    policies: list[Any] | None, action: str, resource: str, *, has_actor: bool, strict: bool
) -> tuple[bool, str]:
    """Return the decision and what made it, as the design says it."""
    matching = [
        (effect, outcome)
        for actions, resources, effect, outcome in policies or []
        if matches_naively(actions, action) and matches_naively(resources, resource)
    ]
    if any(outcome == "raises" or (effect == "deny" and outcome != "false") for effect, outcome in matching):
        return False, "denied by a policy"
    if any(effect == "allow" and outcome != "false" for effect, outcome in matching):
        return True, "allowed by a policy"
    if policies is not None and has_actor:
        return False, "denied for want of a policy"
    return not strict, "undecided, strict" if strict else "undecided"


def test_decisions_are_those_of_a_naive_model() -> None:
    reasons: dict[str, int] = {}

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(
        st.one_of(st.none(), st.lists(model_policies, max_size=4)),
        names,
        names,
        st.booleans(),
        st.booleans(),
    )
    def compare(policies: list[Any] | None, action: str, resource: str, has_actor: bool, strict: bool) -> None:
        expected, reason = decide_naively(policies, action, resource, has_actor=has_actor, strict=strict)
        reasons[reason] = reasons.get(reason, 0) + 1
        scope = None
        if policies is not None:
            scope = Scope(Policy(one[0], one[1], one[2], outcomes[one[3]]) for one in policies)
        with context(actor=ALICE if has_actor else None, scope=scope, strict=strict):
            assert can(action, resource) is expected

    compare()
    # Every way to a decision was taken often enough for the comparison to mean something.
    assert min(reasons.values()) >= 10
    assert len(reasons) == 5


# Python's own warning about a coroutine that is never awaited tells whoever wrote the condition.
@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_condition_whose_answer_is_a_coroutine_denies() -> None:
    class Asynchronous:
        async def __call__(self, *_arguments: object) -> bool:
            return False

    condition: Any = Asynchronous()
    with context(actor=ALICE, scope=Scope([Policy("*", "*", condition=condition)])):
        assert not can("act")


def test_a_context_cannot_be_mistaken_for_a_decorator() -> None:
    decorator: Any = context(actor=ALICE)
    with pytest.raises(TypeError, match="not callable"):
        decorator(test_a_context_cannot_be_mistaken_for_a_decorator)


def test_a_context_may_be_entered_again_also_inside_itself() -> None:
    denying = context(scope=Scope([Policy("*", "*", "deny")]), strict=False)
    for _ in range(2):
        with denying:
            with denying:
                assert not can("act")
            assert not can("act")
        assert can("act")


def test_policies_scopes_and_actors_do_not_change() -> None:
    for frozen, name in ((Policy("a", "b"), "effect"), (Scope([]), "policies"), (ALICE, "id")):
        with pytest.raises(AttributeError):
            setattr(frozen, name, "deny")
    assert len({ALICE, Actor("alice", {"a": 1}), Actor("bob")}) == 3


async def test_one_context_may_be_entered_in_several_tasks_at_once(autojump_clock: MockClock) -> None:
    denying = context(scope=Scope([Policy("*", "*", "deny")]), strict=False)

    async def use(seconds: float) -> None:
        with denying:
            await trio.sleep(seconds)
            assert not can("act")
        assert can("act")

    async with trio.open_nursery() as nursery:
        for seconds in (3, 1, 2):
            nursery.start_soon(use, seconds)


def test_a_condition_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_arguments: object) -> bool:
        raise KeyError("locked")

    with context(scope=Scope([Policy("act", "*", condition=broken)]), strict=False):
        assert not can("act", "something")
    (record,) = caplog.records
    assert record.name == "csp.security"
    assert "'act' on 'something' is denied" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_a_context_shows_what_it_sets() -> None:
    assert repr(context(actor=ALICE)) == f"<csp.security.context actor={ALICE!r} scope=None strict=None>"
