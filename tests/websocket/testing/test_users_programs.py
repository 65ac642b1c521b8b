"""Tests of programs as a user of `csp.testing` writes them, by what its documentation tells."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio.testing import MockClock

URL = "wss://api.example.com/v1"


# Requests and replies -------------------------------------------------------------------------------------------------


class Api:
    """The program: calls over one connection, whose replies may come in any order."""

    def __init__(self, client: websocket.Client) -> None:
        self._client = client
        self._calls: dict[int, csp.Channel[Any]] = {}

    async def call(self, method: str, *arguments: object) -> Any:
        number, reply = len(self._calls), csp.Channel[Any](1)
        self._calls[number] = reply
        await self._client.send(json.dumps({"id": number, "method": method, "arguments": arguments}))
        return await reply.receive_value()

    async def run(self) -> None:
        try:
            async for message in self._client:
                reply = json.loads(message.data)
                self._calls[reply["id"]].send_nowait(reply["result"])
        except ConnectionFailedError as error:
            for call in self._calls.values():
                call.close(error)


@asynccontextmanager
async def open_api() -> AsyncGenerator[Api]:
    async with websocket.connect(URL) as client, csp.BackgroundNursery() as nursery:
        api = Api(client)
        nursery.start_soon(api.run)
        yield api


async def test_replies_may_come_in_any_order(autojump_clock: MockClock) -> None:
    async def reply_backwards(connection: testing.ServerConnection) -> None:
        requests = [json.loads((await connection.receive_value()).data) for _ in range(3)]
        for request in reversed(requests):
            result = sum(request["arguments"])
            await connection.send(json.dumps({"id": request["id"], "result": result}))
        await connection.wait_closed()

    results: dict[int, int] = {}

    async def add(api: Api, number: int) -> None:
        results[number] = await api.call("add", number, number)

    async with testing.websocket_server(reply_backwards, URL), open_api() as api, trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(add, api, number)
    assert results == {0: 0, 1: 2, 2: 4}


async def test_a_call_whose_connection_is_lost_fails(autojump_clock: MockClock) -> None:
    async def lose(connection: testing.ServerConnection) -> None:
        await connection.receive_value()
        connection.drop()

    async with testing.websocket_server(lose, URL), open_api() as api:
        with pytest.raises(ConnectionFailedError, match="without a close frame"):
            await api.call("add", 1, 2)


# A feed that comes back -----------------------------------------------------------------------------------------------


async def follow(prices: dict[str, float]) -> None:
    """The program: keeps the latest prices, and asks for all of them anew after an outage."""

    async def subscribe(client: websocket.Client) -> None:
        await client.send("subscribe")

    async with websocket.reconnecting(URL, subscribe=subscribe, max_delay="10s") as feed:
        async for message in feed:
            if isinstance(message, csp.Gap):
                prices.clear()
            else:
                prices.update(json.loads(message.data))


async def test_prices_are_right_after_outages(autojump_clock: MockClock) -> None:
    connections = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            await connection.reject(503, body="down for maintenance", headers={"Retry-After": "5"})
            return
        assert (await connection.receive_value()).data == "subscribe"
        await connection.send('{"a": 1, "b": 2}' if connections == 1 else '{"a": 3}')
        if connections == 1:
            connection.drop()

    prices: dict[str, float] = {}
    async with testing.websocket_server(serve, URL):
        await follow(prices)
    assert connections == 3
    assert prices == {"a": 3}
    assert trio.current_time() >= 5


# A token that expires -------------------------------------------------------------------------------------------------


class Session:
    """The program: connects with a token, and fetches a new one when the server refuses it."""

    def __init__(self) -> None:
        self.fetched = 0

    async def fetch_token(self) -> str:
        await trio.sleep(1)
        self.fetched += 1
        return f"token-{self.fetched}"

    async def greet(self) -> str:
        for _ in range(2):
            headers = {"Authorization": f"Bearer {await self.fetch_token()}"}
            try:
                async with websocket.connect(URL, headers=headers) as client:
                    return str((await client.receive_value()).data)
            except ConnectionFailedError as error:
                if error.status != 401:
                    raise
        raise PermissionError("no token is accepted")


async def test_a_refused_token_is_fetched_anew(autojump_clock: MockClock) -> None:
    tokens: list[str] = []

    async def authorize(connection: testing.ServerConnection) -> None:
        tokens.append(connection.headers["Authorization"])
        if len(tokens) == 1:
            await connection.reject(401, body='{"error": "expired"}', headers={"Content-Type": "application/json"})
        else:
            await connection.send("welcome")

    async with testing.websocket_server(authorize, URL):
        assert await Session().greet() == "welcome"
    assert tokens == ["Bearer token-1", "Bearer token-2"]


async def test_a_token_that_is_refused_for_ever_is_told(autojump_clock: MockClock) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(401, body="expired")

    async with testing.websocket_server(refuse, URL):
        with pytest.raises(PermissionError):
            await Session().greet()


# Large messages, and compression --------------------------------------------------------------------------------------


async def upload(data: bytes, **options: Any) -> str:
    """The program: sends a large message, and returns what the server says to it."""
    async with websocket.connect(URL, **options) as client:
        await client.send(data)
        return str((await client.receive_value()).data)


async def test_an_upload_arrives_whole(autojump_clock: MockClock) -> None:
    data = bytes(range(256)) * 20_000

    async def store(connection: testing.ServerConnection) -> None:
        message = await connection.receive_value()
        assert message == websocket.Message("binary", data)
        await connection.send("stored")

    async with testing.websocket_server(store, URL):
        assert await upload(data) == "stored"


async def test_an_upload_that_the_server_finds_too_large_says_so(autojump_clock: MockClock) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.receive_value()
        await connection.close(1009, "at most 1 MiB")

    async with testing.websocket_server(refuse, URL):
        with pytest.raises(ConnectionFailedError, match="at most 1 MiB") as raised:
            await upload(bytes(2_000_000))
    assert not raised.value.retryable


async def test_an_upload_is_compressed_if_the_server_agrees(autojump_clock: MockClock) -> None:
    offers: list[str] = []

    async def store(connection: testing.ServerConnection) -> None:
        offers.append(connection.headers["Sec-WebSocket-Extensions"])
        await connection.accept(compression=websocket.COMPRESSION.CONTEXT_TAKEOVER)
        assert len((await connection.receive_value()).data) == 1_000_000
        await connection.send("stored")

    async with testing.websocket_server(store, URL):
        assert await upload(bytes(1_000_000), compression=websocket.COMPRESSION.CONTEXT_TAKEOVER) == "stored"
    assert offers[0].startswith("permessage-deflate")


# Data that is too old -------------------------------------------------------------------------------------------------


async def watch(limit: str) -> list[str]:
    """The program: notes what it hears, and gives up once it has heard nothing for too long."""
    heard: list[str] = []
    async with websocket.connect(URL) as client:
        while True:
            messages, stale = client.channel(), csp.after(limit)
            r = await csp.select(messages.case_receive(), stale.case_receive(), priority=True)
            if not messages.gave(r):
                return [*heard, "stale"]
            heard.append(str(r.value.data))


async def test_silence_is_noticed(autojump_clock: MockClock) -> None:
    async def tick_and_stop(connection: testing.ServerConnection) -> None:
        for number in range(3):
            await connection.send(f"{number}")
            await trio.sleep(20)
        await trio.sleep_forever()

    async with testing.websocket_server(tick_and_stop, URL):
        assert await watch("30s") == ["0", "1", "2", "stale"]
    assert trio.current_time() == pytest.approx(70)


async def test_leaving_says_goodbye(autojump_clock: MockClock) -> None:
    codes: list[int | None] = []

    async def listen(connection: testing.ServerConnection) -> None:
        await connection.send("0")
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with testing.websocket_server(listen, URL):
        assert await watch("5s") == ["0", "stale"]
    assert codes == [1000]
