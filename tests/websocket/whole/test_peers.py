"""Real servers on loopback: those of `websockets` and `aiohttp`, which share no code with the driver."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._peers import (
    LIMIT_SECONDS,
    AiohttpServer,
    LibraryServer,
    WebsocketsServer,
    connected,
    driver_tasks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=[WebsocketsServer, AiohttpServer], ids=["websockets", "aiohttp"])
def server(request: pytest.FixtureRequest) -> Iterator[LibraryServer]:
    """A server that ends, thread and sockets and all, with the module."""
    kind: type[LibraryServer] = request.param
    with kind().running() as running:
        yield running


MESSAGES: dict[str, str | bytes] = {
    "text": "Hello, Server!",
    "empty text": "",
    "empty binary": b"",
    "every byte": bytes(range(256)),
    "not ASCII": "Grüße, 世界 🌍\0\x7f",
    "125 bytes": b"x" * 125,
    "126 bytes": b"x" * 126,
    "65535 bytes": b"x" * 65_535,
    "65536 bytes": b"x" * 65_536,
    "1 MiB of text": "0123456789abcdé" * (1 << 16),
    "1 MiB": bytes(range(256)) * (1 << 12),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_message_comes_back_as_it_went(server: LibraryServer, name: str) -> None:
    sent = MESSAGES[name]
    async with connected(server.url("/echo")) as client:
        await client.send(sent)
        message, ok = await client.receive()
        assert ok
        assert message == ("text" if isinstance(sent, str) else "binary", sent)


async def test_types_are_as_asked_for(server: LibraryServer) -> None:
    async with connected(server.url("/echo")) as client:
        await client.send("as bytes é", websocket.BINARY)
        await client.send("as text é".encode(), websocket.TEXT)
        await client.send(bytearray(b"array"))
        await client.send(memoryview(b"view"))
        received = [(await client.receive()).value for _ in range(4)]
    assert [tuple(message) for message in received] == [
        ("binary", "as bytes é".encode()),
        ("text", "as text é"),
        ("binary", b"array"),
        ("binary", b"view"),
    ]


async def test_two_thousand_round_trips(server: LibraryServer) -> None:
    async with connected(server.url("/echo")) as client:
        for number in range(2000):
            await client.send(str(number))
            assert (await client.receive()).value.data == str(number)
        statistics = client.statistics()
    assert statistics.messages_sent == statistics.messages_received == 2000


async def test_everything_a_server_sent_before_its_close_is_received(server: LibraryServer) -> None:
    async with connected(server.url("/count/5000"), channel_capacity=1) as client:
        assert [message.data async for message in client] == [str(number) for number in range(5000)]
        assert (client.close_code, client.error) == (1000, None)


async def test_pings_of_the_client_are_answered_and_timed(server: LibraryServer) -> None:
    async with connected(server.url("/echo")) as client:
        answers = [
            await client.ping(),
            await client.ping(b"payload"),
            await client.ping(b"payload"),
            await client.ping(""),
        ]
        for answer in answers:
            seconds, ok = await answer.receive()
            assert ok
            assert 0 <= seconds < LIMIT_SECONDS
            assert not (await answer.receive()).ok
        assert client.latency is not None


async def test_pings_of_the_server_are_answered_while_the_client_idles(server: LibraryServer) -> None:
    async with connected(server.url("/ping")):
        assert await server.reported() == "5 pongs"


async def test_pings_of_the_server_are_answered_while_the_client_sends(server: LibraryServer) -> None:
    messages = [bytes(size) for size in (1, 100_000, 10, 1 << 20, 1000)] * 6 + [b""]
    async with connected(server.url("/pinging")) as client, trio.open_nursery() as nursery:

        async def send() -> None:
            for message in messages:
                await client.send(message)

        nursery.start_soon(send)
        total = 0
        for message in messages:
            total += len(message)
            assert (await client.receive()).value.data == str(total)
        assert await server.reported() == "ponged"


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 1012, 3000, 4999])
async def test_a_servers_close_is_told_with_its_code_and_reason(server: LibraryServer, code: int) -> None:
    async with connected(server.url(f"/close/{code}/because")) as client:
        assert not (await client.receive()).ok
        assert (client.close_code, client.close_reason) == (code, "because")
        if code in (1000, 1001):
            assert client.error is None
        else:
            assert client.error is not None
            assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, code in (1011, 1012))
            with pytest.raises(ConnectionFailedError, match="because"):
                await client.__anext__()


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 1012, 3000, 4999])
async def test_our_close_is_told_to_the_server(server: LibraryServer, code: int) -> None:
    async with connected(server.url("/told")) as client:
        await client.close(code, "Grüße")
        assert await server.reported() == (code, "Grüße")
        # aiohttp answers every close with 1000.
        assert client.close_code == (1000 if server.name == "aiohttp" else code)
        assert client.error is None


async def test_leaving_the_block_closes_with_1000(server: LibraryServer) -> None:
    async with connected(server.url("/told")):
        pass
    assert await server.reported() == (1000, "")


async def test_an_exception_in_the_block_closes_with_1011_and_comes_out_bare(server: LibraryServer) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with connected(server.url("/told")):
            raise KeyError("mine")
    assert await server.reported() == (1011, "")


async def test_a_cancelled_block_closes_with_1001(server: LibraryServer) -> None:
    with trio.CancelScope() as scope:
        async with connected(server.url("/told")) as client:
            scope.cancel()
            await client.receive()
    assert scope.cancelled_caught
    assert await server.reported() == (1001, "")


async def test_a_subprotocol_is_negotiated(server: LibraryServer) -> None:
    async with connected(server.url("/echo"), protocols=["first", "second"]) as client:
        assert client.subprotocol == "second"
    async with connected(server.url("/echo"), protocols=["other"]) as client:
        assert client.subprotocol is None
    async with connected(server.url("/echo")) as client:
        assert client.subprotocol is None


async def test_the_server_sees_the_headers_given(server: LibraryServer) -> None:
    given = [("X-Token", "se cret=,;"), ("X-Many", "1"), ("X-Many", "2"), ("Origin", "https://example.com")]
    async with connected(server.url("/headers?a=b%20c"), headers=given) as client:
        headers = [(name.lower(), value) for name, value in (await client.receive()).value.json()]
    for name, value in given:
        assert (name.lower(), value) in headers
    names = [name for name, _ in headers]
    assert names.count("host") == 1
    assert ("host", f"127.0.0.1:{server.port}") in headers


async def test_credentials_in_the_url_are_sent_as_basic_authorization_and_not_shown(server: LibraryServer) -> None:
    url = server.url("/headers", credentials="us%C3%A9r:p%40ss@")
    async with connected(url) as client:
        headers = {name.lower(): value for name, value in (await client.receive()).value.json()}
        assert headers["authorization"] == "Basic " + base64.b64encode("usér:p@ss".encode()).decode()
        assert client.url == server.url("/headers")
        assert "ss@" not in repr(client)


async def test_the_response_headers_are_there(server: LibraryServer) -> None:
    async with connected(server.url("/echo")) as client:
        assert client.response_headers["UPGRADE"].lower() == "websocket"


@pytest.mark.parametrize(
    ("status", "retryable"), [(302, False), (401, False), (403, False), (404, False), (429, True), (503, True)]
)
async def test_a_refusal_says_status_headers_and_body_at_once(
    server: LibraryServer, status: int, retryable: bool
) -> None:
    with pytest.raises(ConnectionFailedError, match=f"status {status}") as caught:
        async with connected(server.url(f"/refuse/{status}"), dial_timeout=None, max_redirects=0):
            pytest.fail("connected")
    error = caught.value
    assert not isinstance(error, ConnectionTimeoutError)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, retryable)
    assert error.details["status"] == status
    assert error.details["body"] == b"no"
    headers = error.details["headers"]
    assert isinstance(headers, dict)
    assert headers["x-why"] == "because"


async def test_many_tasks_send_at_once_and_nothing_is_mixed(server: LibraryServer) -> None:
    tasks, each = 20, 50
    async with connected(server.url("/echo")) as client, trio.open_nursery() as nursery:

        async def send(task: int) -> None:
            for number in range(each):
                # Of all sizes, so that some go out at once and some through the writer task.
                padding = "." * (200_000 if number % 25 == task else number * task)
                await client.send(f"{task} {number} {len(padding)} {padding}")

        for task in range(tasks):
            nursery.start_soon(send, task)
        numbers: dict[int, list[int]] = {task: [] for task in range(tasks)}
        for _ in range(tasks * each):
            data = (await client.receive()).value.data
            assert isinstance(data, str)
            sender, number, length, padding = data.split(" ")
            assert padding == "." * int(length)
            numbers[int(sender)].append(int(number))
    assert numbers == {task: list(range(each)) for task in range(tasks)}


async def test_a_hundred_connections_into_one_selector(server: LibraryServer) -> None:
    count, each = 100, 10
    async with trio.open_nursery() as nursery:
        clients: list[websocket.Client] = []

        async def open_one() -> None:
            clients.append(await websocket.connect(server.url(f"/count/{each}"), nursery=nursery))

        async with trio.open_nursery() as opening:
            for _ in range(count):
                opening.start_soon(open_one)
        received: dict[object, list[str | bytes]] = {client.channel(): [] for client in clients}
        with csp.Selector(*(client.channel().case_receive() for client in clients)) as selector:
            async for r in selector:
                if r.ok:
                    received[r.channel].append(r.value.data)
    expected = [str(number) for number in range(each)]
    assert list(received.values()) == [expected] * count
    assert {client.close_code for client in clients} == {1000}


async def test_one_select_over_two_connections_a_timer_and_shutdown(server: LibraryServer) -> None:
    shutdown = csp.Channel[str]()
    seen: list[str] = []
    async with (
        connected(server.url("/echo")) as first,
        connected(server.url("/count/3")) as second,
        trio.open_nursery() as nursery,
    ):
        await first.send("echoed")
        heartbeat = csp.tick("20ms")
        second_case = second.channel().case_receive()
        switched: csp.ReceiveCase[websocket.Message] | None = second_case
        while True:
            r = await csp.select(
                first.channel().case_receive(), switched, heartbeat.case_receive(), shutdown.case_receive()
            )
            if r.channel is shutdown:
                break
            if r.channel is heartbeat:
                answer = await first.ping()
                assert (await answer.receive()).ok
                seen.append("tick")
                if seen.count("tick") == 2:
                    nursery.start_soon(shutdown.send, "now")
            elif not r.ok:
                switched = None
                seen.append("closed")
            else:
                assert isinstance(r.value, websocket.Message)
                seen.append(str(r.value.data))
    assert sorted(name for name in seen if name != "tick") == ["0", "1", "2", "closed", "echoed"]
    assert [name for name in seen if name in "012" or name == "closed"] == ["0", "1", "2", "closed"]


async def test_a_connection_in_the_callers_nursery_ends_with_its_close_and_cancels_nothing(
    server: LibraryServer,
) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            client = await websocket.connect(server.url("/echo"), nursery=nursery)
            await client.send("hello")
            assert (await client.receive()).value.data == "hello"
            await client.close()
            assert not nursery.cancel_scope.cancel_called
        failing = trio.Event()
        async with trio.open_nursery() as nursery:
            client = await websocket.connect(server.url("/close/1011/broken"), nursery=nursery)
            assert not (await client.receive()).ok
            assert client.error is not None
            failing.set()
    assert failing.is_set()
    assert driver_tasks() == []


async def test_cancelling_the_callers_nursery_closes_the_connection(server: LibraryServer) -> None:
    async with trio.open_nursery() as nursery:
        client = await websocket.connect(server.url("/told"), nursery=nursery)
        nursery.cancel_scope.cancel()
    assert await server.reported() == (1001, "")
    assert client.channel().closed


async def test_a_refusal_comes_out_of_the_await_bare_and_leaves_the_nursery_alone(server: LibraryServer) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectionFailedError, match="status 403"):
            await websocket.connect(server.url("/refuse/403"), nursery=nursery)
        assert not nursery.cancel_scope.cancel_called
