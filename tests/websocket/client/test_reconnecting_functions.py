"""Connections that come back: URL and headers that are asked for at each attempt."""

from __future__ import annotations

import functools
import itertools
import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import security, testing, websocket
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from csp.websocket import Gap, reconnecting
from tests.websocket.client._feed import rest, settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

URL = "wss://api.test/"
WAITS: dict[str, Any] = {"min_delay": "1s", "max_delay": "1s"}


class Served:
    """A server that says what it was asked for, and restarts until it has been asked often enough."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.paths: list[str] = []
        self.tokens: list[str | None] = []

    async def __call__(self, connection: testing.ServerConnection) -> None:
        self.paths.append(connection.path)
        self.tokens.append(connection.headers.get("Authorization"))
        await connection.send(f"hello {len(self.paths)}")
        await connection.close(1000 if len(self.paths) == self.times else 1012)


def failing(error: BaseException, *, times: int = 1) -> Callable[[], str]:
    """Return a function that raises an error a few times, and then returns the URL."""
    called = 0

    def url() -> str:
        nonlocal called
        called += 1
        if called <= times:
            raise error
        return URL

    return url


def noting(asked: list[Error]) -> websocket.Retry:
    """Return a rule that notes what it is asked about, and always comes back."""

    def retry(error: Error) -> bool:
        asked.append(error)
        return True

    return retry


# What is asked for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async", "lambda", "partial", "object"])
async def test_url_and_headers_are_asked_at_each_attempt_in_this_order(kind: str, autojump_clock: MockClock) -> None:
    asked: list[str] = []

    def url() -> str:
        asked.append("url")
        return f"{URL}{len(asked)}"

    def headers() -> dict[str, str]:
        asked.append("headers")
        return {"Authorization": f"Bearer {len(asked)}"}

    async def later(function: Callable[[], Any]) -> Any:
        await trio.sleep(0.1)
        return function()

    class Asked:
        def __init__(self, function: Callable[[], Any]) -> None:
            self.function = function

        async def __call__(self) -> Any:
            return await later(self.function)

    async def async_url() -> str:
        return str(await later(url))

    given: dict[str, tuple[Any, Any]] = {
        "plain": (url, headers),
        "async": (async_url, headers),
        "lambda": (lambda: f"{url()}", lambda: later(headers)),
        "partial": (functools.partial(later, url), functools.partial(later, headers)),
        "object": (Asked(url), Asked(headers)),
    }
    served = Served(3)
    give_url, give_headers = given[kind]
    async with testing.websocket_server(served), reconnecting(give_url, headers=give_headers, **WAITS) as feed:
        assert asked == []
        taken = await rest(feed)
        assert feed.channel().cause is None
    assert [value for value in taken if not isinstance(value, Gap)] == ["hello 1", "hello 2", "hello 3"]
    assert asked == ["url", "headers"] * 3
    assert served.paths == ["/1", "/3", "/5"]
    assert served.tokens == ["Bearer 2", "Bearer 4", "Bearer 6"]


async def test_headers_alone_may_be_a_function_and_origin_and_user_agent_are_sent_with_them(
    autojump_clock: MockClock,
) -> None:
    requests: list[testing.ServerConnection] = []
    given: list[Any] = [None, [("X-A", "1"), ("X-A", "2")], {"User-Agent": "mine"}]

    async def serve(connection: testing.ServerConnection) -> None:
        requests.append(connection)
        await connection.close(1012 if given else 1000)

    async with (
        testing.websocket_server(serve),
        reconnecting(URL, headers=lambda: given.pop(0), origin="https://a.test", **WAITS) as feed,
    ):
        assert [value for value in await rest(feed) if not isinstance(value, Gap)] == []
    assert [request.headers.get_all("X-A") for request in requests] == [[], ["1", "2"], []]
    assert {request.headers["Origin"] for request in requests} == {"https://a.test"}
    assert requests[0].headers["User-Agent"].startswith("trio-csp/")
    assert requests[2].headers.get_all("User-Agent") == ["mine"]


async def test_the_url_alone_may_be_a_function_and_iterators_among_the_options_are_read_once(
    autojump_clock: MockClock,
) -> None:
    served = Served(2)
    offered: list[tuple[str, ...]] = []

    async def serve(connection: testing.ServerConnection) -> None:
        offered.append(tuple(connection.protocols))
        await served(connection)

    headers = iter([("Authorization", "fixed")])
    async with (
        testing.websocket_server(serve),
        reconnecting(lambda: URL, headers=headers, protocols=iter(["v2", "v1"]), **WAITS) as feed,
    ):
        await rest(feed)
    assert served.tokens == ["fixed", "fixed"]
    assert offered == [("v2", "v1")] * 2


async def test_a_feed_shows_the_url_that_was_asked_for_last_without_its_query(autojump_clock: MockClock) -> None:
    urls = ["wss://a.test/feed?token=secret", "wss://bob:secret@b.test/feed"]
    feed = reconnecting(lambda: urls.pop(0), **WAITS)
    assert repr(feed) == "<csp.websocket.Feed connecting, a URL not asked for yet>"
    async with testing.websocket_server(Served(3)), feed:
        await feed.receive()
        assert repr(feed).endswith(", wss://a.test/feed?...>")
        await feed.receive()
        assert repr(feed).endswith(", wss://b.test/feed>")


# How they fail --------------------------------------------------------------------------------------------------------


RETRYABLE = Error("no token yet", kind=Kind.UNAVAILABLE, retryable=True)


@pytest.mark.parametrize("option", ["url", "headers"])
async def test_a_retryable_error_is_a_failed_attempt(option: str, autojump_clock: MockClock) -> None:
    ask = failing(RETRYABLE, times=2)
    options: dict[str, Any] = {"headers": lambda: {"X": ask()}} if option == "headers" else {}
    async with (
        testing.websocket_server(Served(1)),
        reconnecting(ask if not options else URL, **options, **WAITS) as feed,
    ):
        waited: list[object] = []
        async for state in feed.states():
            waited += [state.error] * (state.name == "waiting")
            if state.name == "closed":
                break
        assert await rest(feed) == ["hello 1"]
    assert waited == [RETRYABLE, RETRYABLE]


@pytest.mark.parametrize(
    ("option", "said"),
    [("url", "asking for the URL took too long"), ("headers", "asking for the headers took too long")],
)
async def test_a_function_that_takes_too_long_is_a_failed_attempt(
    option: str, said: str, autojump_clock: MockClock
) -> None:
    async def slow() -> Any:
        with trio.fail_after(3):
            await trio.sleep_forever()

    url: Any = slow if option == "url" else URL
    headers: Any = slow if option == "headers" else None
    async with reconnecting(url, headers=headers, max_attempts=2, **WAITS) as feed:
        with pytest.raises(ConnectionTimeoutError, match=said) as caught:
            await feed.receive_value()
        cause = feed.channel().cause
        assert cause is not None
        assert isinstance(cause.__cause__, trio.TooSlowError)
    assert caught.value.kind is Kind.TIMEOUT
    assert trio.current_time() == pytest.approx(7)


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("bug"),
        KeyError("token"),
        Error("no", kind=Kind.NOT_FOUND),
        ConnectionFailedError("refused", kind=Kind.INTERNAL, retryable=False),
        InvalidError("wrong"),
        ExceptionGroup("bugs", [RETRYABLE]),
        StopAsyncIteration(),
        OSError("gone"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("option", ["url", "headers"])
async def test_any_other_exception_ends_the_feed(bug: Exception, option: str, autojump_clock: MockClock) -> None:
    ask = failing(bug)
    url: Any = ask if option == "url" else URL
    headers: Any = ask if option == "headers" else None
    asked: list[Error] = []
    served = Served(1)
    async with (
        testing.websocket_server(served),
        reconnecting(url, headers=headers, retry=noting(asked), **WAITS) as feed,
    ):
        await feed.wait_closed()
        assert feed.channel().cause is bug
        assert feed.state.error is bug
    assert served.paths == []
    assert asked == []


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        (lambda: "http://api.test/", {}, "url must start with"),
        (lambda: None, {}, "url must be a string, not NoneType"),
        (lambda: b"wss://api.test/", {}, "url must be a string, not bytes"),
        (lambda: "ws://api.test/", {"server_hostname": "a.test"}, "for a ws: URL"),
        (lambda: URL, {"headers": lambda: "Authorization"}, "headers must be a mapping"),
        (URL, {"headers": lambda: {"Host": "a"}}, "headers must not contain 'Host'"),
        (URL, {"headers": lambda: {"A": "b\n"}}, "control characters"),
        (URL, {"headers": lambda: [("Origin", "https://b.test")], "origin": "https://a.test"}, "origin must not be"),
        (URL, {"headers": lambda: 5}, "headers must be a mapping or an iterable of pairs, not int"),
    ],
)
async def test_what_a_function_returns_is_checked_as_the_option_is(
    url: Any, options: dict[str, Any], said: str, autojump_clock: MockClock
) -> None:
    asked: list[Error] = []
    async with (
        testing.websocket_server(Served(1)),
        reconnecting(url, retry=noting(asked), **options, **WAITS) as feed,
    ):
        with pytest.raises(InvalidError, match=said):
            await feed.receive_value()
        assert isinstance(feed.channel().cause, InvalidError)
    assert asked == []


async def test_policies_are_asked_about_the_url_of_each_attempt(autojump_clock: MockClock) -> None:
    urls = [URL, f"{URL}denied"]
    asked: list[Error] = []
    policies = [security.Policy("websocket.connect", ""), security.Policy("websocket.connect.url", URL)]
    served = Served(5)
    async with testing.websocket_server(served):
        with security.context(actor=security.Actor("alice"), scope=security.Scope(policies), strict=True):
            async with reconnecting(lambda: urls.pop(0), retry=noting(asked), **WAITS) as feed:
                assert await rest(feed) == ["hello 1"]
                assert isinstance(feed.channel().cause, PermissionDeniedError)
    assert served.paths == ["/"]
    assert [error.details["code"] for error in asked] == [1012]


async def test_what_fails_counts_as_attempts_of_the_gap_and_lengthens_the_waits(autojump_clock: MockClock) -> None:
    times: list[float] = []

    def url() -> str:
        times.append(trio.current_time())
        if 2 <= len(times) <= 4:
            raise RETRYABLE
        return URL

    async with testing.websocket_server(Served(2)), reconnecting(url, min_delay="1s", max_delay="4s") as feed:
        taken = await rest(feed)
    gap = taken[1]
    assert isinstance(gap, Gap)
    assert gap.attempts == 4
    assert gap.code == 1012
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(1 <= wait <= bound for wait, bound in zip(waits, [2, 2, 4, 4], strict=True))


# The call -------------------------------------------------------------------------------------------------------------


async def fetch() -> str:
    return URL  # pragma: no cover  # it is not awaited


def for_attempt(attempt: int, token: str = "") -> str:
    return f"{URL}{attempt}{token}"  # pragma: no cover  # it is not called


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        (for_attempt, {}, "url is called with no arguments, and .* does not fit: missing a required argument"),
        (URL, {"headers": for_attempt}, "headers is called with no arguments, and for_attempt does not fit"),
        (fetch, {"headers": functools.partial(for_attempt, token="a")}, "no arguments, and partial does"),
        (str, {}, "url must be a value or a function .*, not the class str"),
        (URL, {"headers": dict}, "headers must be .*, not the class dict"),
        (7, {}, "url must be a string, not int"),
        (None, {}, "url must be a string, not NoneType"),
        (lambda: URL, {"headers": "X"}, "headers must be a mapping"),
        (lambda: URL, {"subscribe": 5}, "subscribe must be an async function or None, not 5"),
        (lambda: URL, {"nursery": None}, "nursery is no option here"),
        (lambda: URL, {"read_timout": "1s"}, "unknown option 'read_timout'; .* retry"),
        (lambda: URL, {"headers": dict.fromkeys, "keepalive": 3}, "headers is called with no arguments"),
    ],
)
def test_what_does_not_fit_is_found_by_the_call(url: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidTypeError, match=said):
        reconnecting(url, **options)


@pytest.mark.parametrize("option", ["url", "headers", "subscribe", "retry"])
def test_a_coroutine_in_place_of_a_function_is_refused_and_does_not_warn(option: str) -> None:
    options: dict[str, Any] = {"url": URL, option: fetch()}
    with pytest.raises(InvalidTypeError, match="not a coroutine: give the async function itself, without calling it"):
        reconnecting(options.pop("url"), **options)


@pytest.mark.parametrize(
    "options",
    [{"read_limit": -1}, {"dial_timeout": "0s"}, {"origin": "\n"}, {"max_attempts": 0}, {"protocols": ["a b"]}],
)
def test_options_are_checked_by_the_call_whatever_functions_return(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        reconnecting(lambda: URL, headers=dict, **options)


def test_a_function_whose_signature_is_not_known_is_taken() -> None:
    class Odd:
        __signature__ = "of no use"

        def __call__(self) -> str:
            return URL  # pragma: no cover  # it is not asked

    reconnecting(Odd())


async def test_a_mapping_that_can_be_called_is_a_mapping(autojump_clock: MockClock) -> None:
    class Odd(dict[str, str]):
        def __call__(self) -> dict[str, str]:
            raise AssertionError  # pragma: no cover  # it is not asked

    served = Served(1)
    async with testing.websocket_server(served), reconnecting(URL, headers=Odd(Authorization="a")) as feed:
        await rest(feed)
    assert served.tokens == ["a"]


def test_no_error_shows_what_a_function_is_made_of() -> None:
    wrong: Any = functools.partial(for_attempt, token="hunter2")
    with pytest.raises(InvalidTypeError) as caught:
        reconnecting(wrong)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["url", "headers"])
def test_connect_takes_no_functions(name: str) -> None:
    options: dict[str, Any] = {"url": URL, name: dict}
    with pytest.raises(InvalidTypeError, match=f"{name} must be"):
        websocket.connect(options.pop("url"), **options)


# While they are asked -------------------------------------------------------------------------------------------------


async def asked_for_ever() -> Any:
    await trio.sleep_forever()


@pytest.mark.parametrize("option", ["url", "headers"])
@pytest.mark.parametrize("how", ["close", "leave", "cancel", "raise"])
async def test_a_feed_can_be_ended_while_it_asks(option: str, how: str, autojump_clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    url: Any = asked_for_ever if option == "url" else URL
    headers: Any = asked_for_ever if option == "headers" else None
    feed = reconnecting(url, headers=headers)
    try:
        with trio.CancelScope() as scope:
            async with feed:
                await settled()
                assert feed.state.name == "connecting"
                if how == "close":
                    await feed.close()
                    assert feed.channel().closed
                elif how == "cancel":
                    scope.cancel()
                elif how == "raise":
                    raise LookupError
    except LookupError:
        assert how == "raise"
    assert feed.state.name == "closed"
    assert feed.channel().cause is None
    assert trio.current_time() == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_function_may_close_the_feed(autojump_clock: MockClock) -> None:
    async def url() -> str:
        await feed.close()
        return URL  # pragma: no cover  # the feed is cancelled

    async with reconnecting(url) as feed:
        assert await rest(feed) == []
        assert feed.channel().cause is None


async def test_an_error_while_the_feed_is_closed_does_not_become_its_cause(autojump_clock: MockClock) -> None:
    async def url() -> str:
        try:
            await trio.sleep_forever()
        finally:
            raise Error("interrupted", kind=Kind.CANCELED, retryable=False)

    async with reconnecting(url) as feed:
        await settled()
        await feed.close()
        assert feed.channel().cause is None


@pytest.mark.parametrize("option", ["url", "headers"])
async def test_ctrl_c_while_asking_comes_out_of_the_block(option: str, autojump_clock: MockClock) -> None:
    def interrupted() -> Any:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it was protected")

    url: Any = interrupted if option == "url" else URL
    headers: Any = interrupted if option == "headers" else None
    with pytest.raises(KeyboardInterrupt):
        async with reconnecting(url, headers=headers):
            await trio.sleep_forever()


OPERATIONS: list[tuple[str, Callable[[websocket.Feed], Awaitable[object]]]] = [
    ("feed.send", lambda feed: feed.send("a")),
    ("feed.send", lambda feed: feed.send_json(1)),
    ("receiving from the feed", websocket.Feed.receive),
    ("receiving from the feed", websocket.Feed.receive_value),
    ("receiving from the feed", anext),
    ("feed.reconnect", websocket.Feed.reconnect),
]


@pytest.mark.parametrize("function", ["url", "headers", "subscribe"])
@pytest.mark.parametrize(("named", "operation"), OPERATIONS)
@pytest.mark.parametrize("nested", [False, True])
async def test_what_would_wait_for_itself_is_an_error_at_once(
    function: str,
    named: str,
    operation: Callable[[websocket.Feed], Awaitable[object]],
    nested: bool,
    autojump_clock: MockClock,
) -> None:
    caught: list[NoContextError] = []

    async def attempt() -> None:
        with pytest.raises(NoContextError) as error:
            await operation(feed)
        caught.append(error.value)

    async def ask(*_arguments: object) -> Any:
        if not nested:
            await attempt()
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt)
        return {"url": URL, "headers": None, "subscribe": None}[function]

    options: dict[str, Any] = {"url": URL, function: ask}
    async with testing.websocket_server(Served(1)), reconnecting(options.pop("url"), **options) as feed:
        assert await rest(feed) == ["hello 1"]
    assert len(caught) == 1
    assert str(caught[0]).startswith(f"{named} inside {function} would wait for what {function} prepares")


async def test_other_tasks_may_send_while_a_function_is_asked(autojump_clock: MockClock) -> None:
    sent: list[object] = []

    async def url() -> str:
        await wait_all_tasks_blocked()
        return URL

    async def serve(connection: testing.ServerConnection) -> None:
        sent.append((await connection.receive_value()).data)
        await connection.close(1000)

    async with testing.websocket_server(serve), reconnecting(url) as feed, trio.open_nursery() as nursery:
        nursery.start_soon(feed.send, "from another task")
        assert await rest(feed) == []
    assert sent == ["from another task"]


async def test_a_timer_and_a_feed_that_asks_stand_in_one_select(autojump_clock: MockClock) -> None:
    async with reconnecting(asked_for_ever) as feed:
        timeout = csp.after("5s")
        r = await csp.select(feed.channel().case_receive(), timeout.case_receive())
        assert timeout.gave(r)
