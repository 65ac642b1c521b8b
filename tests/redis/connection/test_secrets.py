"""Neither a password nor a user's name is shown, whatever happens."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import pytest

from csp import redis, testing
from csp.errors import Error
from tests.redis import _wire
from tests.redis._fake import answering, bulk, hello, saying, state_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

USER, PASSWORD = "alice7", "secret8"
ECHOED = f"`3`, `AUTH`, `{USER}`, `{PASSWORD}`".encode()


def everything_of(error: BaseException | None) -> Iterator[str]:
    """Return what can be seen of an error: also of what is only its context."""
    while error is not None:
        yield repr(error)
        yield repr(error.args)
        yield repr(vars(error))
        yield "".join(traceback.format_exception(error))
        yield "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
        yield from everything_of(error.__context__)
        error = error.__cause__


def check(shown: str) -> None:
    assert USER not in shown
    assert PASSWORD not in shown


async def fail(url: str, *, dial_timeout: str = "30s") -> list[str]:
    """Use a bus that does not get a connection, or whose server refuses; return all that is seen of it."""
    seen: list[str] = []
    url = url.replace("//", f"//{USER}:{PASSWORD}@")
    async with redis.Bus(url, min_delay="1ms", max_attempts=2, dial_timeout=dial_timeout) as bus:
        state = await state_named(bus, "waiting", "closed", "open")
        jobs, prices = bus.queue("jobs"), bus.topic("prices")
        seen += [repr(bus), repr(bus.state), str(bus.state), repr(state), str(state), bus.url, repr(bus.statistics())]
        seen += [*everything_of(state.error), repr(jobs), repr(prices)]
        seen += [repr(vars(bus)), repr(bus._commands.settings), repr(bus._commands.settings.target)]
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: jobs.send(b"x"),
            jobs.depth,
            lambda: prices.publish(b"x"),
        ]
        for call in calls:
            with pytest.raises(Error) as caught:
                await call()
            seen += everything_of(caught.value)
        async with jobs.work() as deliveries, prices.subscribe() as updates:
            for source in (deliveries, updates):
                assert not (await source.receive()).ok
                seen += [repr(source), *everything_of(source.cause)]
    return seen


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Look at the logs of a test, down to DEBUG, after it."""
    caplog.set_level(logging.DEBUG)
    yield
    assert any(record.name == "csp.redis" for record in caplog.get_records("call"))
    for record in caplog.get_records("call"):
        check(record.getMessage())
        check(logging.Formatter().format(record))


@pytest.mark.parametrize(
    "answers",
    [
        {"HELLO": b"-ERR unknown command `HELLO`, with args beginning with: " + ECHOED + b"\r\n"},
        {"HELLO": b"-NOPERM User " + USER.encode() + b" has no permissions to run the 'hello' command\r\n"},
        {"HELLO": b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"},
        {"HELLO": b"-ERR max number of clients reached\r\n"},
        {"HELLO": hello("6.2.0")},
        {"HELLO": b"?\r\n"},
        {"INFO server": b"-NOPERM User " + USER.encode() + b" has no permissions to run the 'info' command\r\n"},
        {"INFO server": b"-LOADING Redis is loading\r\n"},
        {"INFO persistence": bulk("loading:1\r\n")},
    ],
    ids=lambda answers: next(iter(answers)) + repr(next(iter(answers.values())))[:30],
)
async def test_nothing_shows_it_when_the_server_refuses(answers: dict[str, bytes | None]) -> None:
    async with answering(answers) as place:
        for shown in await fail(place.url):
            check(shown)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"%1\r\n", b"-ERR \xff\r\n"])
async def test_nothing_shows_it_when_there_is_no_redis_server(said: bytes) -> None:
    async with saying(said) as place:
        for shown in await fail(place.url):
            check(shown)


async def test_nothing_shows_it_when_nothing_is_said() -> None:
    async with saying(close=False) as place:
        for shown in await fail(place.url, dial_timeout="20ms"):
            check(shown)


async def test_nothing_shows_it_when_there_is_nobody() -> None:
    async with saying() as place:
        pass
    for shown in await fail(place.url):
        check(shown)


@pytest.mark.parametrize("said", [b"-NOPERM User alice7 has no permissions to run 'eval'\r\n", b"?\r\n"])
async def test_nothing_shows_it_when_a_command_is_refused(said: bytes) -> None:
    async with answering(then=said) as place:
        url = place.url.replace("//", f"//{USER}:{PASSWORD}@")
        async with redis.Bus(url, min_delay="1ms") as bus:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: bus.queue("q").send(b"x"),
                lambda: bus.topic("t").publish(b"x"),
            ]
            for call in calls:
                with pytest.raises(Error) as caught:
                    await call()
                for shown in everything_of(caught.value):
                    check(shown)


@pytest.mark.parametrize(
    "rules",
    [
        ["on", ">wrong"],
        ["off", f">{PASSWORD}", "~*", "+@all"],
        ["on", f">{PASSWORD}"],
        ["on", f">{PASSWORD}", "+info"],
        ["on", f">{PASSWORD}", "+info", "+eval", "+evalsha", "~*"],
        ["on", f">{PASSWORD}", "+info", "+eval", "+evalsha", "+xlen", "+xadd"],
    ],
)
async def test_nothing_shows_it_when_a_real_server_refuses(server: testing.RedisServer, rules: list[str]) -> None:
    await _wire.command(server, "ACL", "SETUSER", USER, "reset", *rules)
    for shown in await fail(server.url):
        check(shown)
