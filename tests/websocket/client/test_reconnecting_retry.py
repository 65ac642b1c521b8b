"""Connections that come back: a ``retry`` of the user's decides whether they do."""

from __future__ import annotations

import functools
import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import security, testing, websocket
from csp.errors import (
    ChannelBrokenError,
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidTypeError,
    Kind,
    PermissionDeniedError,
)
from csp.websocket import Gap, default_retry, reconnecting
from tests.websocket._server import Server, accepting, close, details, frame, text
from tests.websocket.client._feed import Site, down, refusing, rest, saying, settled, shape, unwilling

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/"
WAITS: dict[str, Any] = {"min_delay": "1s", "max_delay": "1s"}


class Asked:
    """A ``retry`` that notes what it was asked about."""

    def __init__(self, *answers: bool, then: bool = True) -> None:
        self.answers = list(answers)
        self.then = then
        self.errors: list[Error] = []

    def __call__(self, error: Error) -> bool:
        self.errors.append(error)
        assert type(error.details) is dict
        return self.answers.pop(0) if self.answers else self.then

    @property
    def codes(self) -> list[object]:
        return [error.details.get("code", error.details.get("status")) for error in self.errors]


# Seen in the wild -----------------------------------------------------------------------------------------------------


def restarts_with_1000(error: Error) -> bool:
    return error.details.get("code") == 1000 or websocket.default_retry(error)


def all_but_bad_tokens(error: Error) -> bool:
    return error.details.get("status") not in (401, 403) and error.details.get("code") != 4004


def during_a_deploy(error: Error) -> bool:
    return error.details.get("status") == 404 or websocket.default_retry(error)


@pytest.mark.parametrize(
    ("retry", "endings", "taken", "last"),
    [
        # Prosody, Quart and python-socketio restart with 1000.
        (restarts_with_1000, [close(1000), close(1000, "restart"), close(4000)], 3, {"code": 4000}),
        # Binance
        (all_but_bad_tokens, [close(1008, "disconnected"), close(1008), 401], 2, {"status": 401}),
        # Discord
        (all_but_bad_tokens, [close(4000, "unknown error"), close(4004, "no such token")], 2, {"code": 4004}),
        # graphql-ws
        (all_but_bad_tokens, [close(4408, "initialisation timeout"), 403], 1, {"status": 403}),
        # A deploy, in which the route is gone for a while.
        (during_a_deploy, [404, 404, 503, close(1012), close(4400)], 2, {"code": 4400}),
    ],
)
async def test_servers_that_close_in_their_own_ways(
    retry: websocket.Retry,
    endings: list[bytes | int],
    taken: int,
    last: dict[str, int],
    autojump_clock: MockClock,
) -> None:
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        ending = endings[served]
        served += 1
        if isinstance(ending, int):
            await connection.reject(ending)
        else:
            await connection.send_bytes(accepting(connection.headers) + text(f"{served}") + ending)
            connection.drop()

    async with testing.websocket_server(serve), reconnecting(URL, retry=retry, **WAITS) as feed:
        values = await rest(feed)
        cause = feed.channel().cause
    assert served == len(endings)
    assert len([value for value in values if not isinstance(value, Gap)]) == taken
    assert isinstance(cause, ConnectionFailedError)
    assert {name: cause.details[name] for name in last} == last


# What it is asked about -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "reason", "retryable"),
    [
        (close(1000, "done"), 1000, "done", False),
        (close(1001, "bye"), 1001, "bye", True),
        (close(), 1005, "", True),
    ],
)
@pytest.mark.parametrize("answer", [False, True])
async def test_a_quiet_end_is_an_error_for_it_and_none_for_the_feed(
    data: bytes, code: int, reason: str, retryable: bool, answer: bool, autojump_clock: MockClock
) -> None:
    asked = Asked(answer, then=False)
    async with Site(saying(text("a"), data), saying(text("b"), close(4001))).feed(retry=asked) as feed:
        taken = await rest(feed)
        cause = feed.channel().cause
        assert feed.state.error is cause
    (error, *more) = asked.errors
    assert (error.kind, error.details, error.retryable) == (
        Kind.UNAVAILABLE,
        {"code": code, "reason": reason},
        retryable,
    )
    assert str(error).startswith(f"the peer closed the connection with code {code}")
    assert default_retry(error) is retryable
    if answer:
        gap = taken[1]
        assert isinstance(gap, Gap)
        assert (gap.error, gap.code, gap.reason) == (None, code, reason)
        assert [cause] == more
    else:
        assert (taken, cause, more) == (["a"], None, [])


async def test_it_is_asked_once_after_each_end_and_each_failed_attempt(autojump_clock: MockClock) -> None:
    asked = Asked()
    servers: list[Server | Exception] = [
        down(),
        saying(text("a")),
        refusing("401 Unauthorized"),
        saying(text("b"), frame(0xB)),
        unwilling(),
        saying(close(3000)),
        saying(text("c"), close(1001)),
        refusing("503 Busy", "Retry-After: 3"),
        saying(text("d"), close(4000)),
    ]
    asked.answers = [True] * 8 + [False]
    async with Site(*servers).feed(retry=asked, dial_timeout="3s") as feed:
        taken = await rest(feed)
        cause = feed.channel().cause
    assert shape(taken) == ["a", 2, "b", 2, 1, "c", 2, "d"]
    assert asked.codes == [None, 1006, 401, 1002, None, 3000, 1001, 503, 4000]
    assert isinstance(asked.errors[4], ConnectionTimeoutError)
    assert asked.errors[-1] is cause


async def test_it_is_asked_about_a_connection_that_ended_while_subscribing(autojump_clock: MockClock) -> None:
    async def subscribe(client: websocket.Client) -> None:
        await anext(client)

    asked = Asked(then=False)
    async with Site(saying(close(1008, "who are you"))).feed(subscribe, retry=asked) as feed:
        assert await rest(feed) == []
        assert [feed.channel().cause] == asked.errors
    assert asked.codes == [1008]


async def test_it_is_asked_about_what_subscribe_says_is_a_failed_attempt(autojump_clock: MockClock) -> None:
    async def subscribe(_client: websocket.Client) -> None:
        raise errors.pop(0)

    errors: list[Exception] = [
        Error("not yet", kind=Kind.UNAVAILABLE, retryable=True),
        trio.TooSlowError(),
        Error("never", kind=Kind.UNAVAILABLE, retryable=False),
    ]
    first, _, last = errors
    asked = Asked()
    async with Site().feed(subscribe, retry=asked) as feed:
        assert await rest(feed) == []
        assert feed.channel().cause is last
    assert asked.errors[0] is first
    assert [str(error) for error in asked.errors] == ["not yet", "subscribing took too long"]


async def test_messages_of_a_last_connection_all_come_however_slow_the_consumer_is(autojump_clock: MockClock) -> None:
    numbers = [str(number) for number in range(50)]
    asked = Asked(then=False)
    async with Site(saying(*map(text, numbers), close(1012))).feed(retry=asked, channel_capacity=2) as feed:
        await feed.wait_closed()
        assert not feed.channel().closed
        assert await rest(feed) == numbers
        assert [feed.channel().cause] == asked.errors


async def test_what_a_connection_left_is_set_aside_if_it_says_so(autojump_clock: MockClock) -> None:
    numbers = [str(number) for number in range(50)]
    asked = Asked()
    site = Site(saying(*map(text, numbers), close(1008)), saying(text("back"), ends=False))
    async with site.feed(retry=asked, channel_capacity=2) as feed:
        await trio.sleep(100)
        assert feed.state.name == "open"
        taken = [(await feed.receive()).value for _ in range(52)]
    assert [getattr(value, "data", None) for value in taken] == [*numbers, None, "back"]
    assert asked.codes == [1008]


async def test_a_retry_after_of_a_refusal_is_waited_whatever_the_status(autojump_clock: MockClock) -> None:
    site = Site(refusing("404 Not Found", "Retry-After: 120"))
    async with site.feed(retry=Asked()):
        await trio.sleep(200)
    assert site.dialled_at == pytest.approx([0, 121])


# What it is not asked about -------------------------------------------------------------------------------------------


async def test_it_is_not_asked_about_the_last_of_max_attempts(autojump_clock: MockClock) -> None:
    asked = Asked()
    async with Site(down(), refusing("401 Unauthorized"), down()).feed(retry=asked, max_attempts=2) as feed:
        assert await rest(feed) == []
        cause = feed.channel().cause
    assert len(asked.errors) == 1
    assert isinstance(cause, ConnectionFailedError)
    assert cause.status == 401


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_quiet_end_that_is_the_last_of_max_attempts_is_told(code: int, autojump_clock: MockClock) -> None:
    asked = Asked()
    async with Site(saying(close(code)), saying(text("a"), close(code))).feed(retry=asked, max_attempts=2) as feed:
        assert shape(await rest(feed)) == [1, "a"]
        cause = feed.channel().cause
    assert isinstance(cause, ConnectionFailedError)
    assert str(cause).startswith("max_attempts have failed in a row")
    assert details(cause) == {"code": code}
    assert asked.codes == [code]


async def test_the_default_as_retry_is_as_without_it_at_the_last_attempt_too(autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        await connection.close(1000)

    for retry in (None, default_retry):
        async with testing.websocket_server(serve), reconnecting(URL, retry=retry, max_attempts=1) as feed:
            assert await rest(feed) == []
            assert feed.channel().cause is None


async def test_it_is_not_asked_about_a_denial(autojump_clock: MockClock) -> None:
    asked = Asked()
    with security.context(actor=security.Actor("alice"), scope=security.Scope([]), strict=True):
        async with reconnecting(URL, retry=asked) as feed:
            with pytest.raises(PermissionDeniedError):
                await feed.receive_value()
    assert asked.errors == []


@pytest.mark.parametrize("by", ["feed", "client", "client's channel", "block"])
async def test_it_is_not_asked_when_the_user_closes(by: str, autojump_clock: MockClock) -> None:
    asked = Asked()
    site = Site(saying(text("a"), ends=False))
    async with site.feed(retry=asked) as feed:
        await feed.receive()
        assert feed.client is not None
        if by == "feed":
            await feed.close()
        elif by == "client":
            await feed.client.close()
        elif by == "client's channel":
            feed.client.channel().close()
            site.servers[0].send(text("b"))
        if by != "block":
            assert await rest(feed) == []
    assert feed.channel().cause is None
    assert asked.errors == []
    assert len(site.servers) == 1


async def test_it_is_not_asked_when_the_consumer_has_closed_the_channel(autojump_clock: MockClock) -> None:
    asked = Asked()
    site = Site(saying(text("a"), ends=False))
    async with site.feed(retry=asked) as feed:
        await feed.receive()
        feed.channel().close()
        site.servers[0].end()  # nothing is passed on, so that the channel is not looked at before
        await feed.wait_closed()
    assert feed.channel().cause is None
    assert asked.errors == []


async def test_it_is_not_asked_about_what_fails_because_the_feed_is_closed(autojump_clock: MockClock) -> None:
    async def url() -> str:
        try:
            await trio.sleep_forever()
        finally:
            raise Error("interrupted", kind=Kind.CANCELED, retryable=True)

    asked = Asked()
    async with reconnecting(url, retry=asked) as feed:
        await settled()
        await feed.close()
        assert feed.channel().cause is None
    assert asked.errors == []


# What it may not do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", [ValueError("bug"), Error("bug", kind=Kind.INTERNAL, retryable=True), StopIteration()])
@pytest.mark.parametrize("ends", [True, False])
async def test_what_it_raises_ends_the_feed(bug: Exception, ends: bool, autojump_clock: MockClock) -> None:
    def retry(error: Error) -> bool:
        raise bug

    numbers = [str(number) for number in range(40)]
    site = Site(saying(*map(text, numbers), close(1012))) if ends else Site(down())
    async with site.feed(retry=retry, channel_capacity=2) as feed:
        await trio.sleep(1)
        assert await rest(feed) == (numbers if ends else [])
        assert feed.channel().cause is bug
    assert len(site.dialled_at) == 1


async def test_an_answer_without_a_truth_ends_the_feed(autojump_clock: MockClock) -> None:
    class Neither:
        def __bool__(self) -> bool:
            raise LookupError

    def retry(_error: Error) -> Any:
        return Neither()

    async with Site(down()).feed(retry=retry) as feed:
        with pytest.raises(ChannelBrokenError):
            await feed.receive_value()
        assert isinstance(feed.channel().cause, LookupError)


async def later(error: Error) -> bool:
    return default_retry(error)  # pragma: no cover  # it is not awaited


async def many(error: Error) -> Any:
    yield default_retry(error)  # pragma: no cover  # it is not started


class Later:
    async def __call__(self, error: Error) -> bool:
        return default_retry(error)  # pragma: no cover  # it is not awaited


NO_RULES: list[tuple[Any, str]] = [
    (later, "retry must be a plain function, and later is async"),
    (functools.partial(later), "retry must be a plain function, and partial is async"),
    (Later(), "retry must be a plain function, and Later is async"),
    (many, "retry must be a plain function, and many is async"),
    (True, "retry must be a function of an error, or None, not bool"),
    (bool, "retry must be a function of an error, or None, not the class bool"),
    (lambda: True, "retry is called with an error, and .* does not fit: too many positional arguments"),
    (websocket.Feed.send, "retry must be a plain function, and Feed.send is async"),
]


@pytest.mark.parametrize(("retry", "said"), NO_RULES)
def test_what_is_no_rule_is_found_by_the_call(retry: Any, said: str) -> None:
    with pytest.raises(InvalidTypeError, match=said):
        reconnecting(URL, retry=retry)


@pytest.mark.parametrize("returned", ["coroutine", "awaitable"])
async def test_something_to_await_as_an_answer_ends_the_feed_and_does_not_warn(
    returned: str, autojump_clock: MockClock
) -> None:
    class Waiting:
        def __await__(self) -> Any:
            raise AssertionError  # pragma: no cover  # it is not awaited

    def retry(error: Error) -> Any:
        return later(error) if returned == "coroutine" else Waiting()

    async with Site(down()).feed(retry=retry) as feed:
        with pytest.raises(
            InvalidTypeError, match=r"retry must be a plain function: it returned (a coroutine|Waiting)"
        ):
            await feed.receive_value()


async def test_ctrl_c_in_it_comes_out_of_the_block(autojump_clock: MockClock) -> None:
    def retry(_error: Error) -> bool:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it was protected")

    with pytest.raises(KeyboardInterrupt):
        async with Site(saying(text("a"))).feed(retry=retry):
            await trio.sleep_forever()


def test_the_default_takes_errors_only() -> None:
    wrong: Any = ValueError("hunter2")
    with pytest.raises(InvalidTypeError, match=r"error must be a csp\.errors\.Error, not ValueError"):
        default_retry(wrong)
    assert default_retry(Error("a", kind=Kind.TIMEOUT, retryable=True)) is True
    assert default_retry(Error("a", kind=Kind.TIMEOUT)) is False
