"""What the errors carry, and what survives wrapping, copying and pickling."""

from __future__ import annotations

import copy
import pickle

import pytest
import trio

import csp
from csp import errors

NAMES = [
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "INVALID",
    "PERMISSION_DENIED",
    "UNAVAILABLE",
    "INTERNAL",
    "CANCELED",
    "CONFLICT",
    "TIMEOUT",
    "RATE_LIMITED",
    "UNKNOWN",
]


class StatusError(errors.Error):
    """A subclass as a driver might write it: a signature of its own, a field of its own."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}", kind=errors.UNAVAILABLE, retryable=True, details={"status": status})
        self.status = status


class SocketError(errors.ConnectionFailedError):
    """A subclass of an OSError, whose constructor is a special one, with two arguments of its own."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port} is down", kind=errors.INTERNAL, retryable=True)
        self.host = host
        self.port = port


def test_kinds_are_exactly_the_specified_ones() -> None:
    assert [kind.value for kind in errors.Kind] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_is_its_name_and_a_name_of_the_module(name: str) -> None:
    kind = errors.Kind[name]
    assert kind == name
    assert str(kind) == name
    assert getattr(errors, name) is kind
    assert name in errors.__all__


def test_fields_are_what_was_given() -> None:
    error = errors.Error("too many", kind=errors.RATE_LIMITED, retryable=True, details={"limit": 3})
    assert error.message == str(error) == "too many"
    assert error.kind is errors.RATE_LIMITED
    assert error.retryable is True
    assert error.details == {"limit": 3}


def test_retryable_is_unknown_and_details_are_empty_by_default() -> None:
    error = errors.Error("no", kind=errors.CONFLICT)
    assert error.retryable is None
    assert error.details == {}


def test_details_are_a_copy() -> None:
    details = {"limit": 3}
    error = errors.Error("too many", kind=errors.RATE_LIMITED, details=details)
    details["limit"] = 4
    assert error.details == {"limit": 3}


def test_a_kind_can_be_given_by_name() -> None:
    assert errors.Error("late", kind="TIMEOUT").kind is errors.TIMEOUT


def test_a_kind_that_does_not_exist_is_invalid() -> None:
    with pytest.raises(errors.InvalidError, match="'BOGUS'") as caught:
        errors.Error("x", kind="BOGUS")
    assert caught.value.__suppress_context__


def test_repr_shows_the_state() -> None:
    error = errors.Error("late", kind=errors.TIMEOUT, retryable=True)
    assert repr(error) == "Error('late', kind=TIMEOUT, retryable=True)"


def test_is_kind_compares_the_kind_of_our_errors() -> None:
    error = errors.Error("late", kind=errors.TIMEOUT)
    assert errors.is_kind(error, errors.TIMEOUT)
    assert errors.is_kind(error, "TIMEOUT")
    assert not errors.is_kind(error, errors.INTERNAL)


@pytest.mark.parametrize("other", [None, TimeoutError("late"), trio.Cancelled])
def test_is_kind_is_false_for_anything_else(other: BaseException | None) -> None:
    assert not errors.is_kind(other, errors.TIMEOUT)


@pytest.mark.parametrize(
    ("cls", "builtin", "kind"),
    [
        (errors.InvalidError, ValueError, errors.INVALID),
        (errors.InvalidTypeError, TypeError, errors.INVALID),
        (errors.InvalidTypeError, ValueError, errors.INVALID),
        (errors.PermissionDeniedError, PermissionError, errors.PERMISSION_DENIED),
        (errors.NoContextError, RuntimeError, errors.INTERNAL),
        (errors.ChannelClosedError, trio.ClosedResourceError, errors.UNAVAILABLE),
    ],
)
def test_a_subclass_is_caught_as_the_builtin_and_is_not_retryable(
    cls: type[errors.InvalidError | errors.PermissionDeniedError | errors.NoContextError | errors.ChannelClosedError],
    builtin: type[Exception],
    kind: errors.Kind,
) -> None:
    error = cls("no")
    assert isinstance(error, builtin)
    assert isinstance(error, errors.Error)
    assert error.kind is kind
    assert error.retryable is False


@pytest.mark.parametrize("cls", [errors.ConnectionFailedError, errors.ConnectionTimeoutError])
def test_connection_errors_are_caught_as_connection_error(cls: type[errors.ConnectionFailedError]) -> None:
    assert isinstance(cls("down", kind=errors.INTERNAL), ConnectionError)


@pytest.mark.parametrize("kind", [errors.INTERNAL, errors.TIMEOUT])
def test_a_connection_timeout_is_caught_as_timeout_error_whatever_its_kind(kind: errors.Kind) -> None:
    error = errors.ConnectionTimeoutError("late", kind=kind, retryable=True)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, errors.ConnectionFailedError)
    assert (error.kind, error.retryable) == (kind, True)


@pytest.mark.parametrize("retryable", [True, False])
def test_where_it_cannot_be_listened_the_error_is_an_os_error_with_its_sentence(retryable: bool) -> None:
    details = {"url": "ws://localhost:80/", "errno": 98}
    error = errors.ListenFailedError("in use", kind=errors.UNAVAILABLE, retryable=retryable, details=details)
    assert isinstance(error, OSError)
    assert not isinstance(error, ConnectionError)
    assert str(error) == error.message == "in use"
    assert (error.kind, error.retryable, error.details) == (errors.UNAVAILABLE, retryable, details)
    # The constructor of an OSError would make it of two arguments.
    assert error.errno is None


@pytest.mark.parametrize("details", [None, {"url": "ws://server.test/"}])
def test_a_denial_is_an_os_error_with_its_sentence_and_details(details: dict[str, object] | None) -> None:
    # The constructor of an OSError makes of two arguments an errno and a text.
    error = errors.PermissionDeniedError("not for you", details=details)
    assert isinstance(error, OSError)
    assert str(error) == error.message == "not for you"
    assert error.args == ("not for you",)
    assert error.errno is None
    assert error.details == (details or {})
    assert repr(error) == "PermissionDeniedError('not for you', kind=PERMISSION_DENIED, retryable=False)"


def test_wrap_puts_the_text_in_front_and_leaves_the_original() -> None:
    error = errors.Error("late", kind=errors.TIMEOUT)
    wrapped = errors.wrap(error, "reading")
    assert str(wrapped) == wrapped.message == "reading: late"
    assert wrapped.args == ("reading: late",)
    assert str(error) == error.message == "late"


def test_wrap_keeps_kind_retryable_details_and_cause() -> None:
    error = errors.Error("late", kind=errors.TIMEOUT, retryable=True, details={"seconds": 3})
    error.__cause__ = OSError("root")
    wrapped = errors.wrap(error, "reading")
    assert wrapped.kind is errors.TIMEOUT
    assert wrapped.retryable is True
    assert wrapped.details == {"seconds": 3}
    assert wrapped.__cause__ is error.__cause__


@pytest.mark.parametrize(
    "error",
    [
        StatusError(503),
        SocketError("example.com", 80),
        errors.PermissionDeniedError("not for you", details={"url": "ws://server.test/"}),
    ],
)
def test_wrap_keeps_the_type_and_own_fields_of_a_subclass(error: errors.Error) -> None:
    wrapped = errors.wrap(error, "calling")
    assert type(wrapped) is type(error)
    assert wrapped.message == f"calling: {error.message}"
    assert {**vars(wrapped), "message": error.message} == vars(error)


def test_wrap_starts_without_a_traceback() -> None:
    error = StatusError(500)
    with pytest.raises(StatusError):
        raise error
    assert error.__traceback__ is not None
    assert errors.wrap(error, "calling").__traceback__ is None


def test_wrap_does_not_hide_the_context_of_an_error_without_cause() -> None:
    error = StatusError(500)

    def fail() -> None:
        try:
            raise OSError("root")
        except OSError:
            raise errors.wrap(error, "calling")  # noqa: B904  # the implicit context is the subject

    with pytest.raises(StatusError) as caught:
        fail()
    assert isinstance(caught.value.__context__, OSError)
    assert not caught.value.__suppress_context__


def test_a_note_on_a_wrapped_error_leaves_the_original() -> None:
    error = StatusError(500)
    error.add_note("first")
    errors.wrap(error, "calling").add_note("second")
    assert error.__notes__ == ["first"]


def test_wrap_of_a_foreign_error_is_unknown_and_caused_by_it() -> None:
    error = OSError("root")
    wrapped = errors.wrap(error, "reading")
    assert type(wrapped) is errors.Error
    assert wrapped.message == "reading: root"
    assert wrapped.kind is errors.UNKNOWN
    assert wrapped.retryable is None
    assert wrapped.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        errors.Error("late", kind=errors.TIMEOUT, retryable=True, details={"seconds": 3}),
        errors.InvalidError("bad"),
        errors.InvalidTypeError("bad"),
        errors.NoContextError("where"),
        errors.PermissionDeniedError("not for you", details={"url": "ws://server.test/"}),
        errors.ChannelClosedError("shut", details={"code": 1006}),
        errors.ConnectionFailedError("down", kind=errors.INTERNAL, retryable=True),
        errors.ConnectionTimeoutError("late", kind=errors.INTERNAL, retryable=True),
        errors.ListenFailedError("in use", kind=errors.UNAVAILABLE, retryable=True, details={"errno": 98}),
        StatusError(503),
        SocketError("example.com", 80),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_copies_are_equal_in_every_field(error: errors.Error, how: str) -> None:
    again: errors.Error
    if how == "copy":
        again = copy.copy(error)
    elif how == "deepcopy":
        again = copy.deepcopy(error)
    else:
        again = pickle.loads(pickle.dumps(error))
    assert again is not error
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


def test_the_closed_error_is_exported_at_the_top() -> None:
    assert csp.ChannelClosedError is errors.ChannelClosedError


# What somebody else said ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("", ""),
        ("plain ~ text", "plain ~ text"),
        ("Grüße 世界 🚀", "Grüße 世界 🚀"),
        ("a\r\nb\t\x1b[2J\x7f", r"a\u000d\u000ab\u0009\u001b[2J\u007f"),
        ("\x85\x9b\xa0\xad", r"\u0085\u009b\u00a0\u00ad"),
        ("\u200b\u200d\u202e\u2028\u2029\u2066\ufeff", r"\u200b\u200d\u202e\u2028\u2029\u2066\ufeff"),
        ("\u034f\u115f\u3164\ufe0f\uffa0", r"\u034f\u115f\u3164\ufe0f\uffa0"),
        ("\U000e0041\U000e0100\ud800", r"\udb40\udc41\udb40\udd00\ud800"),
        ("\ue000\u0378", r"\ue000\u0378"),
    ],
)
def test_what_would_not_be_seen_is_an_escape(said: str, text: str) -> None:
    assert errors.shown(said) == errors.shown(said, None) == text


@pytest.mark.parametrize(
    ("said", "limit", "text"),
    [
        ("x" * 200, 200, "x" * 200),
        ("x" * 201, 200, "x" * 200 + "... (1 more characters)"),
        ("x" * 300_000, 200, "x" * 200 + "... (299800 more characters)"),
        ("é" * 201, 200, "é" * 200 + "... (1 more characters)"),
        ("\n" * 33, 200, r"\u000a" * 33),
        ("\n" * 34, 200, r"\u000a" * 33 + "... (1 more characters)"),
        ("x" * 199 + "\n", 200, "x" * 199 + "... (1 more characters)"),
        ("x" * 300_000, None, "x" * 300_000),
        ("abc", 2, "ab... (1 more characters)"),
        ("\n", 0, "... (1 more characters)"),
    ],
)
def test_what_is_long_is_cut_between_escapes(said: str, limit: int | None, text: str) -> None:
    assert errors.shown(said, limit) == text
