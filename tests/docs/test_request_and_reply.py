"""The recipe of `docs/how-to/request-and-reply.md`: attempts to break it."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import errors, testing, websocket
from tests.docs._pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

URL = "wss://calls.test/"
PAGE = (ROOT / "docs" / "how-to" / "request-and-reply.md").read_text(encoding="utf-8")


def recipe(replace: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """Return the names that the page's recipe defines."""
    (block,) = [found for found in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Caller" in found]
    assert replace[0] in block
    names: dict[str, Any] = {}
    exec(compile(block.replace(*replace), "request-and-reply.md", "exec", dont_inherit=True), names)
    return names


calling = recipe()["calling"]


async def test_calls_of_many_tasks_get_their_own_replies_in_any_order_and_some_are_cancelled(
    autojump_clock: MockClock,
) -> None:
    chance = random.Random(1)
    results: dict[int, object] = {}
    cancelled: set[int] = set()

    async def server(connection: testing.ServerConnection) -> None:
        async def reply(request: dict[str, Any], seconds: float) -> None:
            await trio.sleep(seconds)
            for _ in range(2):  # the second one is nobody's
                await connection.send(json.dumps({"id": request["id"], "result": request["params"]}))

        async with trio.open_nursery() as nursery:
            async for message in connection:
                nursery.start_soon(reply, message.json(), chance.uniform(0, 5))
                if chance.random() < 0.5:
                    await connection.send("news")

    async def call(caller: Any, number: int, patience: float) -> None:
        await trio.sleep(number % 7)
        with trio.move_on_after(patience) as scope:
            results[number] = await caller.call("echo", number)
        if scope.cancelled_caught:
            cancelled.add(number)

    async with testing.websocket_server(server, URL), websocket.connect(URL) as client, calling(client) as caller:
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(call, caller, number, chance.uniform(0, 10))
        assert caller._waiting == {}
        assert await caller.call("echo", "last") == "last"
        assert (await caller.others.receive_value()).data == "news"
    assert results == {number: number for number in results}
    assert len(results) > 100
    assert len(cancelled) > 50
    assert set(results) | cancelled == set(range(500))


@pytest.mark.parametrize(
    "data",
    [
        *("", "text", "[1]", "null", "1", b"\xff", "[" * 100_000, "9" * 5000, '{"id": null}', '{"id": [1]}'),
        *('{"id": {}}', '{"id": "1"}', '{"id": true}', '{"id": 1.0}', '{"id": 1, "method": "ping"}', '{"result": 1}'),
    ],
    ids=lambda data: repr(data[:30]),
)
async def test_what_is_no_reply_comes_on_others_and_answers_nobody(
    data: str | bytes, autojump_clock: MockClock
) -> None:
    async def server(connection: testing.ServerConnection) -> None:
        request = (await connection.receive_value()).json()
        await connection.send(data)
        await connection.send(json.dumps({"id": 99, "result": "nobody's"}))
        await connection.send(json.dumps({"id": request["id"], "result": "ours"}))
        await connection.wait_closed()

    async with testing.websocket_server(server, URL), websocket.connect(URL) as client, calling(client) as caller:
        assert await caller.call("x") == "ours"
        assert (await caller.others.receive_value()).data == data
        with pytest.raises(trio.WouldBlock):
            caller.others.receive_nowait()


async def ended_by(
    end: Callable[[testing.ServerConnection], Awaitable[object]],
) -> tuple[list[errors.Error], errors.Error]:
    """Let three calls wait when the server ends the connection; return their errors, and that of a later call."""
    found: list[errors.Error] = []

    async def server(connection: testing.ServerConnection) -> None:
        for _ in range(3):
            await connection.receive_value()
        await end(connection)

    async def call(caller: Any) -> None:
        with pytest.raises(errors.Error) as caught:
            await caller.call("x")
        found.append(caught.value)

    with trio.fail_after(100):
        async with testing.websocket_server(server, URL), websocket.connect(URL) as client, calling(client) as caller:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call, caller)
            with pytest.raises(errors.Error) as later:
                await caller.call("x")
            received = await caller.others.receive()
            assert not received.ok
    return found, later.value


async def test_an_end_with_an_error_fails_all_calls_with_it(autojump_clock: MockClock) -> None:
    found, later = await ended_by(lambda connection: connection.close(4001, "token expired"))
    assert len(found) == 3
    for error in found:
        assert isinstance(error, errors.ConnectionFailedError)
        assert error.details == {"code": 4001, "reason": "token expired"}
    assert isinstance(later, errors.ConnectionFailedError)
    assert isinstance(later.__cause__, errors.ConnectionFailedError)


async def test_a_quiet_end_fails_all_calls_too(autojump_clock: MockClock) -> None:
    found, later = await ended_by(lambda connection: connection.close(1000, "bye"))
    assert [(type(error), error.details) for error in found] == 3 * [
        (errors.EndOfChannelError, {"code": 1000, "reason": "bye"})
    ]
    assert isinstance(later, errors.ConnectionFailedError)


async def test_a_connection_that_drops_fails_all_calls(autojump_clock: MockClock) -> None:
    async def drop(connection: testing.ServerConnection) -> None:
        connection.drop()

    found, _ = await ended_by(drop)
    assert [error.details for error in found] == 3 * [{"code": 1006, "reason": ""}]


async def silent(connection: testing.ServerConnection) -> None:
    async for _ in connection:
        pass


async def test_calls_that_outlive_the_block_fail_and_do_not_wait_for_ever(autojump_clock: MockClock) -> None:
    outcomes: list[object] = []

    async def call(caller: Any) -> None:
        with pytest.raises(errors.Error) as caught:
            await caller.call("x")
        outcomes.append(type(caught.value))

    with trio.fail_after(10):
        async with (
            testing.websocket_server(silent, URL),
            websocket.connect(URL) as client,
            trio.open_nursery() as nursery,
        ):
            async with calling(client) as caller:
                nursery.start_soon(call, caller)
                await trio.testing.wait_all_tasks_blocked()
            await call(caller)
    assert set(outcomes) == {errors.EndOfChannelError, errors.ConnectionFailedError}


async def test_replies_do_not_wait_behind_messages_that_nobody_receives(autojump_clock: MockClock) -> None:
    async def server(connection: testing.ServerConnection) -> None:
        request = (await connection.receive_value()).json()
        for number in range(3000):
            await connection.send(str(number))
        await connection.send(json.dumps({"id": request["id"], "result": "ours"}))
        await connection.wait_closed()

    async with testing.websocket_server(server, URL), websocket.connect(URL) as client, calling(client) as caller:
        assert await caller.call("x") == "ours"
        assert (await caller.others.receive_value()).data == "2000"


async def test_a_channel_that_closes_when_it_is_full_ends_the_block(autojump_clock: MockClock) -> None:
    closing = recipe(('overflow="drop_oldest"', 'overflow="close"'))["calling"]

    async def server(connection: testing.ServerConnection) -> None:
        for number in range(1001):
            await connection.send(str(number))
        await connection.wait_closed()

    async with testing.websocket_server(server, URL):
        with pytest.raises(errors.ChannelClosedError, match="the channel is closed"):
            async with websocket.connect(URL) as client, closing(client):
                await trio.sleep_forever()


async def test_a_reply_with_an_error_raises_it_and_leaves_the_rest_alone(autojump_clock: MockClock) -> None:
    async def server(connection: testing.ServerConnection) -> None:
        async for message in connection:
            request = message.json()
            outcome = {"error": {"code": 7}} if request["method"] == "fail" else {"result": None, "error": None}
            await connection.send(json.dumps({"id": request["id"], **outcome}))

    names = recipe()
    async with (
        testing.websocket_server(server, URL),
        websocket.connect(URL) as client,
        names["calling"](client) as caller,
    ):
        with pytest.raises(names["ReplyError"], match="7"):
            await caller.call("fail")
        assert await caller.call("x") is None
        with pytest.raises(TypeError):
            await caller.call("x", object())
        assert caller._waiting == {}
