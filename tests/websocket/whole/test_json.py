"""JSON in messages: what is sent as JSON, what a message is decoded as, and what a server may not do with it."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from csp import errors, testing, websocket
from tests.websocket._server import BINARY, TEXT, frame

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "wss://api.test/"
DEEP = 100_000


async def message_of(payload: bytes, opcode: int = TEXT) -> websocket.Message:
    """Return what a client receives from a server that sends a frame."""

    async def server(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.send_bytes(frame(opcode, payload))
        await connection.wait_closed()

    async with testing.websocket_server(server), websocket.connect(URL) as client:
        return await client.receive_value()


async def sent(value: object, **options: Any) -> list[tuple[str, str | bytes]]:
    """Return the messages that reach a server of what is sent as JSON; none if it is refused, with the error."""
    async with testing.websocket_pair() as (client, server):
        try:
            await client.send_json(value, **options)
        except errors.InvalidError:
            await client.close()
            assert [message async for message in server] == []
            raise
        await client.close()
        return [(message.type, message.data) async for message in server]


# Receiving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_message_is_decoded_as_json(opcode: int) -> None:
    message = await message_of('{"price": 101.5, "names": ["Größe", null, true]}'.encode(), opcode)
    assert message.json() == {"price": 101.5, "names": ["Größe", None, True]}


@pytest.mark.parametrize(
    ("payload", "opcode", "cause", "said"),
    [
        (b"", TEXT, json.JSONDecodeError, "Expecting value: line 1 column 1 (char 0); it is empty"),
        (b"", BINARY, json.JSONDecodeError, "Expecting value: line 1 column 1 (char 0); it is empty"),
        (b"<html>", TEXT, json.JSONDecodeError, "Expecting value: line 1 column 1 (char 0); it begins: <html>"),
        (b"{}\x1b[2J", TEXT, json.JSONDecodeError, r"Extra data: line 1 column 3 (char 2); it begins: {}\u001b[2J"),
        (b'"' + b"\xff" * 50, BINARY, UnicodeDecodeError, r"\xff... (11 more bytes)"),
        (b'"\xed\xa0\x80"', BINARY, UnicodeDecodeError, r'it begins: "\xed\xa0\x80"'),
        ("[1]".encode("utf-16"), BINARY, UnicodeDecodeError, r"it begins: \xff\xfe[\u0000"),
        ("[1]".encode("utf-16-le"), BINARY, json.JSONDecodeError, r"it begins: [\u00001\u0000]\u0000"),
        (b"[" * DEEP, TEXT, RecursionError, f"it begins: {'[' * 40}... ({DEEP - 40} more characters)"),
        (b'{"a":' * DEEP, BINARY, RecursionError, f"({5 * DEEP - 40} more bytes)"),
        (b"9" * 5000, TEXT, ValueError, f"it begins: {'9' * 40}... (4960 more characters)"),
    ],
    ids=[
        "empty",
        "empty bytes",
        "html",
        "escape",
        "latin",
        "surrogate",
        "utf-16",
        "utf-16-le",
        "deep",
        "deep bytes",
        "digits",
    ],
)
async def test_a_message_that_is_not_json_is_an_error_of_ours(
    payload: bytes, opcode: int, cause: type[Exception], said: str
) -> None:
    message = await message_of(payload, opcode)
    with pytest.raises(errors.InvalidError) as caught:
        message.json()
    assert str(caught.value).startswith(f"the message cannot be decoded as JSON: {cause.__name__}: ")
    assert said in str(caught.value)
    assert isinstance(caught.value.__cause__, cause)
    assert (caught.value.kind, caught.value.retryable) == (errors.INVALID, False)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("filler", [b"\x00", b"\x1b", "\u202e".encode(), "\U0001f600".encode(), b"x"])
async def test_of_a_message_that_is_not_json_little_is_shown(filler: bytes, opcode: int) -> None:
    message = await message_of(filler * 25_000 + b"hunter2", opcode)
    with pytest.raises(errors.InvalidError) as caught:
        message.json()
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    assert "hunter2" not in str(caught.value) + repr(caught.value)


@dataclass(frozen=True)
class Price:
    symbol: str
    price: float


def price(data: str | bytes) -> Price:
    return Price(**json.loads(data))


async def test_a_decoder_of_ones_own_gets_the_data_as_it_is() -> None:
    given: list[str | bytes] = []
    for opcode in (TEXT, BINARY):
        (await message_of(b"{}", opcode)).json(loads=given.append)
    assert given == ["{}", b"{}"]
    assert (await message_of(b'{"symbol": "BTC", "price": 1}')).json(loads=price) == Price("BTC", 1)


@pytest.mark.parametrize("payload", [b'{"symbol": "BTC"}', b"[1]", b"{"])
async def test_whatever_a_decoder_raises_is_one_error(payload: bytes) -> None:
    message = await message_of(payload)
    with pytest.raises(errors.InvalidError, match="it begins: ") as caught:
        message.json(loads=price)
    assert isinstance(caught.value.__cause__, TypeError | ValueError)


async def test_numbers_that_are_not_finite_are_taken_as_json_loads_takes_them() -> None:
    values = (await message_of(b"[NaN, -Infinity, 1e999]")).json()
    assert math.isnan(values[0])
    assert values[1:] == [-math.inf, math.inf]


async def test_an_exception_without_a_text_is_told_by_its_name() -> None:
    def refuse(_data: object) -> str:
        raise AssertionError

    with pytest.raises(errors.InvalidError, match=r"decoded as JSON: AssertionError; it begins: {}$"):
        (await message_of(b"{}")).json(loads=refuse)
    async with testing.websocket_pair() as (client, _):
        with pytest.raises(errors.InvalidError, match=r"encoded as JSON: AssertionError$"):
            await client.send_json(1, dumps=refuse)


async def test_a_decoder_must_be_callable() -> None:
    message = await message_of(b"{}")
    with pytest.raises(errors.InvalidTypeError, match="loads must be a function, not str"):
        message.json(loads="orjson")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.parametrize(
    ("item", "times"),
    [("[" * 100 + "]" * 100, 40), ("[" * 900 + "]" * 900, 40), ('{"":{}}', 30), ("[{}]", 30), ("[]", 20), ('"ab"', 10)],
    ids=["nested", "nested deep", "objects", "objects in arrays", "arrays", "strings"],
)
async def test_objects_take_at_most_45_times_what_the_message_takes(item: str, times: int) -> None:
    # The documentation says so. That each comes near to its number shows that the measure measures.
    text = f"[{','.join([item] * (256 * 1024 // (len(item) + 1)))}]"
    message = await message_of(text.encode())
    tracemalloc.start()
    try:
        message.json()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert times * 0.9 * len(text) < peak_bytes < 45 * len(text)


# Sending --------------------------------------------------------------------------------------------------------------


async def test_a_value_is_sent_as_compact_json_in_a_text_message() -> None:
    value = {"subscribe": ["BTC", "Größe 😀"], "depth": 5, "raw": None}
    assert await sent(value) == [("text", '{"subscribe":["BTC","Größe 😀"],"depth":5,"raw":null}')]


@pytest.mark.parametrize("kind", [bytes.decode, bytes, bytearray, memoryview])
async def test_what_an_encoder_returns_is_sent_as_text(kind: Callable[[bytes], Any]) -> None:
    def dumps(value: object) -> Any:
        return kind(json.dumps(value).encode())

    assert await sent({"a": ["é"]}, dumps=dumps) == [("text", '{"a": ["\\u00e9"]}')]


def circle() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


def deep() -> list[object]:
    found: list[object] = []
    for _ in range(DEEP):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ({1, 2}, errors.InvalidTypeError, "TypeError: Object of type set is not JSON serializable"),
        (b"{}", errors.InvalidTypeError, "TypeError: Object of type bytes is not JSON serializable"),
        ({(1, 2): 3}, errors.InvalidTypeError, "TypeError: keys must be str, int, float, bool or None, not tuple"),
        (math.nan, errors.InvalidError, "ValueError: Out of range float values are not JSON compliant"),
        ([-math.inf], errors.InvalidError, "ValueError: Out of range float values are not JSON compliant"),
        (circle(), errors.InvalidError, "ValueError: Circular reference detected"),
        (10**5000, errors.InvalidError, "ValueError: Exceeds the limit (4300 digits)"),
    ],
    ids=["set", "bytes", "key", "nan", "infinity", "circle", "digits"],
)
async def test_a_value_that_is_not_json_is_an_error_and_nothing_is_sent(
    value: object, kind: type[errors.Error], said: str
) -> None:
    with pytest.raises(errors.InvalidError) as caught:
        await sent(value)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"value cannot be encoded as JSON: {said}")
    assert f"{type(caught.value.__cause__).__name__}: " in str(caught.value)


async def test_a_value_that_is_nested_too_deep_is_an_error() -> None:
    with pytest.raises(errors.InvalidError, match="value cannot be encoded as JSON: RecursionError: "):
        await sent(deep())


def same(value: object) -> object:
    return value


def latin(_value: object) -> bytes:
    return b"\xff"


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({}, errors.InvalidError, "value as JSON cannot be encoded as UTF-8: "),
        ({"dumps": same}, errors.InvalidError, "what dumps returns cannot be encoded as UTF-8: "),
        ({"dumps": latin}, errors.InvalidError, "what dumps returns must be UTF-8 to go as text: "),
        ({"dumps": print}, errors.InvalidTypeError, "what dumps returns must be a str or bytes-like, not NoneType"),
        ({"dumps": 5}, errors.InvalidTypeError, "dumps must be a function, not int"),
    ],
)
async def test_what_cannot_go_as_text_is_an_error_and_nothing_is_sent(
    options: dict[str, Any], kind: type[errors.Error], said: str
) -> None:
    with pytest.raises(errors.InvalidError) as caught:
        await sent("\ud800", **options)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(said)


async def test_surrogates_go_as_escapes_if_the_encoder_makes_them() -> None:
    assert await sent("\ud800", dumps=json.dumps) == [("text", '"\\ud800"')]


async def test_a_send_that_is_cancelled_before_it_began_sends_nothing() -> None:
    async with testing.websocket_pair() as (client, server):
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.send_json({"a": 1})
        assert scope.cancelled_caught
        await client.send_json({"b": 2})
        assert (await server.receive_value()).json() == {"b": 2}
        assert client.statistics().messages_sent == 1


async def test_a_connection_that_has_ended_is_told_as_by_send() -> None:
    async with testing.websocket_pair() as (client, server):
        await server.close(4001, "enough")
        with pytest.raises(
            errors.ConnectionFailedError, match=r"sending failed: the connection has ended \(code 4001\)"
        ):
            await client.send_json({"a": 1})


# Both -----------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=20,
)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(JSON, max_size=5))
def test_what_is_sent_as_json_comes_back_as_it_was(values: list[object]) -> None:
    async def exchange() -> None:
        async with testing.websocket_pair(compression=websocket.COMPRESSION.CONTEXT_TAKEOVER) as (client, server):
            for value in values:
                await client.send_json(value)
                message = await server.receive_value()
                assert message.type == "text"
                assert message.json() == value
                await server.send(message.data)
                assert (await client.receive_value()).json() == value

    trio.run(exchange, clock=MockClock(autojump_threshold=0))


async def test_a_feed_sends_and_receives_json_over_its_connections(autojump_clock: MockClock) -> None:
    async def server(connection: testing.ServerConnection) -> None:
        question = (await connection.receive_value()).json()
        await connection.send(json.dumps({"again": question}))
        await connection.close(1012)

    async with testing.websocket_server(server), websocket.reconnecting(URL, min_delay="1s") as feed:
        for number in range(3):
            await feed.send_json({"number": number})
            while isinstance(value := await feed.receive_value(), websocket.Gap):
                pass
            assert value.json() == {"again": {"number": number}}
            while feed.client is not None:
                await feed.states().receive_value()


async def test_a_feed_refuses_at_once_what_is_not_json(autojump_clock: MockClock) -> None:
    async def never_accepts(_connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    async with testing.websocket_server(never_accepts), websocket.reconnecting(URL, dial_timeout="1s") as feed:
        with pytest.raises(errors.InvalidTypeError, match="Object of type set"):
            await feed.send_json({1})
        assert feed.state.name == "connecting"


async def test_a_feed_sends_a_value_as_it_was_at_the_call(autojump_clock: MockClock) -> None:
    async def slow(connection: testing.ServerConnection) -> None:
        await trio.sleep(1)
        received.append((await connection.receive_value()).json())

    received: list[object] = []
    value = {"a": 1}
    async with testing.websocket_server(slow), websocket.reconnecting(URL) as feed, trio.open_nursery() as nursery:
        nursery.start_soon(feed.send_json, value)
        await trio.testing.wait_all_tasks_blocked()
        value["a"] = 2
    assert received == [{"a": 1}]
