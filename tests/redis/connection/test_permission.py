"""Policies of `csp.security`, asked by the calls of a bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import redis
from csp.errors import PermissionDeniedError
from csp.security import Actor, Policy, Scope, context
from tests.redis import _wire
from tests.redis._fake import answering, state_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.redis.conftest import SharedServer

URL = "redis://h.test:6379/0"


async def test_a_bus_is_entered_where_connecting_is_allowed(shared_server: SharedServer) -> None:
    scope = Scope(
        [
            Policy("redis.connect", ""),
            Policy("redis.connect.url", f"redis://127.0.0.1:{shared_server.port}/*"),
            Policy(["redis.send", "redis.receive"], "jobs*"),
        ]
    )
    url = shared_server.url.replace("//", "//:@")
    with context(actor=Actor("a"), scope=scope, strict=True):
        async with redis.Bus(url, prefix="app:") as bus:
            jobs = bus.queue("jobs-1")
            await jobs.send(b"x")
            assert await jobs.depth() == 1
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: bus.queue("other").send(b"x"),
                lambda: bus.topic("other").publish(b"x"),
            ]
            for call in calls:
                with pytest.raises(PermissionDeniedError, match=r"^sending to 'other' is not allowed \(redis.send\)$"):
                    await call()
            for receive in (
                bus.queue("other").work,
                bus.queue("other").dead_letters,
                bus.topic("other").subscribe,
            ):
                with pytest.raises(PermissionDeniedError, match=r"^receiving from 'other' is not allowed"):
                    receive()
            with pytest.raises(PermissionDeniedError, match=r"^receiving from 'other' is not allowed"):
                await bus.queue("other").depth()
            with pytest.raises(PermissionDeniedError, match=r"^sending to 'other' is not allowed"):
                bus.queue("other").outlet()
    assert await _wire.command(shared_server, "KEYS", "*other*") == []


@pytest.mark.parametrize(
    ("policies", "text"),
    [
        ([], r"connections to Redis are not allowed \(redis.connect\)"),
        ([Policy("redis.connect.url", "*")], r"connections to Redis are not allowed \(redis.connect\)"),
        ([Policy("redis.connect", "")], f"the url {URL} is not allowed"),
        ([Policy("redis.connect", ""), Policy("redis.connect.url", "redis://h.test:6379/1")], "is not allowed"),
        ([Policy("*", "*"), Policy("redis.connect.url", "redis://h.test:6379/*", "deny")], "is not allowed"),
        ([Policy("*", "*"), Policy("redis.connect", "", "deny")], "connections to Redis are not allowed"),
    ],
)
async def test_what_is_denied_is_raised_on_entering_and_nothing_is_dialled(
    policies: list[Policy], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("trio_csp_redis.connection.link.dialled")
    bus = redis.Bus("redis://alice7:secret8@h.test")
    with context(actor=Actor("a"), scope=Scope(policies), strict=True):
        with pytest.raises(PermissionDeniedError, match=text) as caught:
            async with bus:
                pytest.fail("it was entered")
        await trio.testing.wait_all_tasks_blocked()
    assert "alice7" not in str(caught.value)


async def test_a_bus_that_was_not_entered_for_a_policy_can_be_entered_where_it_is_allowed() -> None:
    async with answering() as place:
        bus = redis.Bus(place.url)
        with (
            context(scope=Scope([Policy("redis.connect", "", "deny")]), strict=False),
            pytest.raises(PermissionDeniedError),
        ):
            await bus.__aenter__()
        async with bus:
            await state_named(bus, "open")


async def test_a_strict_context_denies_what_no_policy_allows(shared_server: SharedServer) -> None:
    with context(strict=True), pytest.raises(PermissionDeniedError):
        await redis.Bus(shared_server.url).__aenter__()
    async with redis.Bus(shared_server.url) as bus:
        with context(strict=True):
            with pytest.raises(PermissionDeniedError):
                await bus.queue("jobs").send(b"x")
            with pytest.raises(PermissionDeniedError):
                bus.topic("prices").subscribe()
        assert await bus.queue("jobs").depth() == 0


async def test_policies_are_asked_again_as_a_bus_connects_again_and_end_it() -> None:
    asked: list[str] = []
    allowed = True

    def condition(_actor: object, _action: str, resource: str, _meta: object) -> bool:
        asked.append(resource)
        return allowed

    scope = Scope([Policy("redis.connect", ""), Policy("redis.connect.url", "*", condition=condition)])
    async with answering() as place:
        with context(actor=Actor("a"), scope=scope):
            async with redis.Bus(place.url, min_delay="1ms") as bus:
                await state_named(bus, "open")
                # Once on entering, and once for the first connection.
                assert asked == [place.url, place.url]
                await place.cut()
                await state_named(bus, "waiting")
                await state_named(bus, "open")
                assert asked == [place.url] * 3
                allowed = False
                await place.cut()
                state = await state_named(bus, "closed")
                assert isinstance(state.error, PermissionDeniedError)
                assert str(state.error) == f"the url {place.url} is not allowed (redis.connect.url)"
                with pytest.raises(PermissionDeniedError, match="the bus has ended: the url ") as caught:
                    await bus._commands.link()  # what each call does
                assert caught.value.__cause__ is state.error
        assert place.connections == 2


async def test_a_condition_that_raises_denies() -> None:
    def condition(_actor: object, _action: str, _resource: str, _meta: object) -> bool:
        raise ZeroDivisionError

    scope = Scope([Policy("redis.connect", ""), Policy("redis.connect.url", "*", condition=condition)])
    with context(actor=Actor("a"), scope=scope), pytest.raises(PermissionDeniedError):
        await redis.Bus(URL).__aenter__()


async def test_a_policy_is_that_of_the_task_that_calls(shared_server: SharedServer) -> None:
    denied = Scope([Policy("redis.send", "jobs", "deny")])
    async with redis.Bus(shared_server.url) as bus, csp.BackgroundNursery() as nursery:
        done = trio.Event()

        async def elsewhere() -> None:
            with context(scope=denied, strict=False), pytest.raises(PermissionDeniedError):
                await bus.queue("jobs").send(b"x")
            done.set()

        nursery.start_soon(elsewhere)
        await done.wait()
        await bus.queue("jobs").send(b"x")
