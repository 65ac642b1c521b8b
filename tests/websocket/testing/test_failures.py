"""What comes out of a block of servers when the program, handlers, or both of them fail."""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import websocket
from csp.errors import ConnectionFailedError, EndOfChannelError
from csp.testing import ServerConnection, websocket_pair, websocket_server
from tests.websocket._server import CLOSE, TEXT, frame
from tests.websocket.testing._handlers import URL, masked, raw_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


async def need_a_message(connection: ServerConnection) -> None:
    await connection.receive_value()


async def need_an_answer(connection: ServerConnection) -> None:
    assert (await connection.receive()).ok


async def need_the_next(connection: ServerConnection) -> None:
    await anext(connection)


async def connect_and_fail() -> NoReturn:
    async with websocket.connect(URL):
        raise KeyError("mine")


# The program fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [need_a_message, need_an_answer, need_the_next])
async def test_a_program_that_fails_comes_out_and_the_handler_that_misses_it_is_its_note(
    handler: Callable[[ServerConnection], Awaitable[object]],
) -> None:
    with pytest.raises(KeyError, match="mine") as raised:
        async with websocket_server(handler):
            await connect_and_fail()
    (note,) = notes(raised.value)
    assert note.startswith("a handler failed too: AssertionError")
    assert f"{__file__}:{handler.__code__.co_firstlineno + 1}" in note
    assert raised.value.__context__ is None


async def test_the_note_tells_how_the_connection_ended() -> None:
    with pytest.raises(KeyError) as raised:
        async with websocket_server(need_a_message):
            await connect_and_fail()
    assert (
        "the handler waits for a message, and the client sends no more: closed with code 1011 ("
        in notes(raised.value)[0]
    )


async def test_each_handler_that_fails_because_of_the_program_is_a_note() -> None:
    async def handler(connection: ServerConnection) -> None:
        try:
            await connection.receive()
        finally:
            raise AssertionError(connection.path)

    async def whole() -> NoReturn:
        async with (
            websocket_server(handler),
            websocket.connect("ws://a.test/1"),
            websocket.connect("ws://a.test/2"),
        ):
            raise KeyError

    with pytest.raises(KeyError) as raised:
        await whole()
    assert sorted(note.partition(" (")[0] for note in notes(raised.value)) == [
        "a handler failed too: AssertionError: /1",
        "a handler failed too: AssertionError: /2",
    ]


async def test_a_note_about_a_group_tells_the_first_and_how_many_there_are() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.receive()
        raise ExceptionGroup("several", [AssertionError("one\nand its rest"), ExceptionGroup("", [ValueError()])])

    with pytest.raises(KeyError) as raised:
        async with websocket_server(handler):
            await connect_and_fail()
    assert notes(raised.value) == ["a handler failed too: AssertionError: one, and 1 more"]


async def test_a_group_of_the_programs_nursery_comes_out_as_it_is() -> None:
    failure = KeyError("mine")

    async def talk() -> None:
        async with websocket.connect(URL):
            raise failure

    with pytest.raises(ExceptionGroup) as raised:
        async with websocket_server(need_a_message), trio.open_nursery() as nursery:
            nursery.start_soon(talk)
    assert raised.value.exceptions == (failure,)
    assert len(notes(raised.value)) == 1


async def test_a_program_that_translates_what_failed_comes_out_with_its_cause() -> None:
    async def whole() -> NoReturn:
        async with websocket_server(need_a_message):
            try:
                await connect_and_fail()
            except KeyError as error:
                raise ValueError("translated") from error

    with pytest.raises(ValueError, match="translated") as raised:
        await whole()
    assert isinstance(raised.value.__cause__, KeyError)
    assert len(notes(raised.value)) == 1


async def test_a_feed_that_fails_comes_out(autojump_clock: MockClock) -> None:
    async def whole() -> NoReturn:
        async with websocket_server(need_a_message), websocket.reconnecting(URL):
            await wait_all_tasks_blocked()
            raise KeyError

    with pytest.raises(KeyError) as raised:
        await whole()
    assert len(notes(raised.value)) == 1


async def test_a_limit_inside_the_block_comes_out(autojump_clock: MockClock) -> None:
    async def whole() -> None:
        async with websocket_server(need_a_message), websocket.connect(URL) as client:
            with trio.fail_after(5):
                await client.receive()

    with pytest.raises(trio.TooSlowError) as raised:
        await whole()
    assert len(notes(raised.value)) == 1


async def test_a_group_comes_out_even_if_the_handler_has_cancelled_what_is_beside_the_failure() -> None:
    failure = KeyError("mine")

    async def linger() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()

    async def talk() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(linger)
            await wait_all_tasks_blocked()
            async with websocket.connect(URL):
                raise failure

    with pytest.raises(ExceptionGroup) as raised:
        async with websocket_server(need_a_message):
            await talk()
    assert raised.value.exceptions == (failure,)
    assert len(notes(raised.value)) == 1


async def test_what_the_program_handled_when_a_handler_cancelled_it_is_a_note() -> None:
    async def whole() -> None:
        async with websocket_server(need_an_answer):
            try:
                await connect_and_fail()
            finally:
                await trio.sleep_forever()

    with pytest.raises(AssertionError) as raised:
        await whole()
    (note,) = notes(raised.value)
    assert note.startswith("the program was cancelled while it handled: KeyError: 'mine' (")


# A handler fails first ------------------------------------------------------------------------------------------------


async def test_a_handler_that_fails_first_comes_out_and_what_the_program_makes_of_it_is_its_note() -> None:
    failure = AssertionError("theirs")

    async def handler(connection: ServerConnection) -> None:
        try:
            await connection.receive()
            raise ValueError("shown with it")
        except ValueError:
            raise failure  # noqa: B904  # what it was raised in the handling of is to be kept

    async def whole() -> None:
        async with websocket_server(handler), websocket.connect(URL) as client:
            try:
                await client.send("hello")
                await client.receive()
            finally:
                raise KeyError("cleaning up")

    with pytest.raises(AssertionError) as raised:
        await whole()
    assert raised.value is failure
    (note,) = notes(failure)
    assert note.startswith("the program failed too: KeyError: 'cleaning up' (")
    assert isinstance(failure.__context__, ValueError)


async def test_a_handler_that_fails_first_comes_out_although_a_shielded_program_sees_the_drop() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        raise AssertionError("theirs")

    async def whole() -> None:
        async with websocket_server(handler):
            with trio.CancelScope(shield=True):
                stream = await raw_client()
                assert await stream.receive_some(100) == b""
                await stream.aclose()
                raise KeyError("dropped")

    with pytest.raises(AssertionError, match="theirs") as raised:
        await whole()
    assert notes(raised.value)[0].startswith("the program failed too: KeyError: 'dropped' (")


async def test_a_handler_that_ended_the_connection_itself_comes_out() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.close(4001)
        assert connection.close_reason == "something"

    async def whole() -> None:
        async with websocket_server(handler), websocket.connect(URL) as client:
            await client.receive_value()

    with pytest.raises(AssertionError) as raised:
        await whole()
    assert "4001" in notes(raised.value)[0]


async def test_where_both_fail_at_the_same_moment_the_handler_comes_out() -> None:
    async def handler(connection: ServerConnection) -> None:
        assert (await connection.receive_value()).data == "right"

    async def whole() -> NoReturn:
        async with websocket_server(handler), websocket.connect(URL) as client:
            await client.send("wrong")
            raise KeyError

    for _ in range(20):  # in whatever order Trio runs the two
        with pytest.raises(AssertionError):
            await whole()


async def test_a_program_that_has_left_in_order_is_cancelled_by_a_handler_and_what_it_then_raises_is_a_note() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        await connection.wait_closed()
        await wait_all_tasks_blocked()
        raise AssertionError

    async def whole() -> None:
        async with websocket_server(handler):
            async with websocket.connect(URL):
                pass
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError

    with pytest.raises(AssertionError) as raised:
        await whole()
    assert notes(raised.value)[0].startswith("the program failed too: KeyError")


async def test_a_handler_that_fails_after_the_program_left_normally_comes_out_as_it_is() -> None:
    failure = AssertionError("theirs")

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        try:
            await trio.sleep_forever()
        finally:
            raise failure

    with pytest.raises(AssertionError) as raised:
        async with websocket_server(handler), websocket.connect(URL):
            pass
    assert raised.value is failure
    assert notes(failure) == []


async def test_of_several_handlers_the_first_to_fail_comes_out() -> None:
    async def handler(connection: ServerConnection) -> None:
        if connection.path == "/first":
            await connection.receive()
            raise AssertionError("first")
        try:
            await connection.receive()
        finally:
            raise AssertionError("second")

    async def whole() -> None:
        async with (
            websocket_server(handler),
            websocket.connect("ws://a.test/second"),
            websocket.connect("ws://a.test/first") as client,
        ):
            await client.send("go")
            await client.receive()

    with pytest.raises(AssertionError, match="first") as raised:
        await whole()
    (note,) = notes(raised.value)
    assert note.startswith("a handler failed too: AssertionError: second (")


async def test_a_handler_with_a_client_that_is_there_comes_before_one_whose_client_has_left() -> None:
    async def handler(connection: ServerConnection) -> None:
        if connection.path == "/stays":
            await connection.receive()
            raise AssertionError("first")
        await connection.receive_value()

    async def whole() -> None:
        async with websocket_server(handler), websocket.connect("ws://a.test/stays") as client:
            await client.send("wrong")
            async with websocket.connect("ws://a.test/leaves"):
                raise KeyError

    with pytest.raises(AssertionError, match="first"):
        await whole()


async def test_a_handlers_own_limit_is_its_failure(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        with trio.fail_after(5):
            await connection.receive()

    with pytest.raises(trio.TooSlowError):
        async with websocket_server(handler), websocket.connect(URL) as client:
            await client.receive()


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="there, contextlib's frames keep the traceback of the Cancelled that ends a block",
)
@pytest.mark.parametrize("handler", [need_a_message, need_an_answer])
async def test_what_has_failed_is_no_reference_cycle(
    handler: Callable[[ServerConnection], Awaitable[object]],
) -> None:
    class Kept:
        pass

    async def hold() -> weakref.ref[Kept]:
        kept = Kept()

        async def fail_with_it(connection: ServerConnection, kept: Kept = kept) -> None:
            await handler(connection)
            raise KeyError(repr(kept))

        with contextlib.suppress(AssertionError):
            async with websocket_server(fail_with_it), websocket.connect(URL):
                pass
        return weakref.ref(kept)

    gc.disable()
    try:
        assert (await hold())() is None
    finally:
        gc.enable()


# Cancelled from outside -----------------------------------------------------------------------------------------------


async def check_at_the_end(connection: ServerConnection) -> None:
    await connection.accept()
    try:
        await trio.sleep_forever()
    finally:
        assert connection.close_code == 1000


async def check_shielded(connection: ServerConnection) -> None:
    await connection.accept()
    with trio.CancelScope(shield=True):
        assert (await connection.receive()).ok


@pytest.mark.parametrize("handler", [check_at_the_end, check_shielded, need_a_message])
async def test_a_limit_around_the_block_is_not_masked(
    handler: Callable[[ServerConnection], Awaitable[object]], autojump_clock: MockClock
) -> None:
    async def whole() -> None:
        async with websocket_server(handler), websocket.connect(URL) as client:
            await client.receive()

    with pytest.raises(trio.TooSlowError), trio.fail_after(60):
        await whole()
    with trio.move_on_after(60) as scope:
        await whole()
    assert scope.cancelled_caught


async def test_a_handler_that_failed_before_the_limit_comes_out(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        raise AssertionError("theirs")

    async def whole() -> None:
        async with websocket_server(handler), websocket.connect(URL):
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
            await trio.sleep_forever()

    with pytest.raises(AssertionError, match="theirs"), trio.fail_after(60):
        await whole()


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


async def test_ctrl_c_in_the_program_is_not_masked() -> None:
    async def whole() -> NoReturn:
        async with websocket_server(need_a_message), websocket.connect(URL):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await whole()


async def test_ctrl_c_in_a_handler_comes_before_the_failure_of_the_program() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.receive()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        async with websocket_server(handler):
            await connect_and_fail()
    assert notes(raised.value)[0].startswith("the program failed too: KeyError: 'mine' (")


# Blocks in blocks, pairs, fixtures ------------------------------------------------------------------------------------


async def test_nested_blocks_hand_on_what_came_first() -> None:
    async def inner(connection: ServerConnection) -> None:
        await connection.receive()
        raise AssertionError("inner")

    async def whole(url: str) -> None:
        async with (
            websocket_server(need_a_message, "ws://outer.test"),
            websocket.connect("ws://outer.test"),
            websocket_server(inner, "ws://inner.test"),
            websocket.connect("ws://inner.test") as client,
        ):
            if url:
                raise KeyError(url)
            await client.send("go")
            await client.receive()

    with pytest.raises(AssertionError, match="inner") as raised:
        await whole("")
    assert len(notes(raised.value)) == 1
    with pytest.raises(KeyError) as failed:
        await whole("program")
    assert len(notes(failed.value)) == 2


async def test_what_fails_in_the_block_of_a_pair_comes_out_as_it_is() -> None:
    failure = KeyError("mine")

    async def whole(error: BaseException | None) -> None:
        async with websocket_pair() as (client, server):
            await client.close()
            if error is not None:
                raise error
            await server.receive_value()

    with pytest.raises(KeyError) as raised:
        await whole(failure)
    assert raised.value is failure
    with pytest.raises(EndOfChannelError, match=r"^the client sends no more messages: closed with code 1000$"):
        await whole(None)


# A wait for a message that does not come ------------------------------------------------------------------------------


async def leave_without_a_word() -> None:
    transport = await raw_client()
    await transport.aclose()


async def leave_with_a_reason() -> None:
    async with websocket.connect(URL) as client:
        await client.close(4001, "enough\u202e")


async def leave_without_a_code() -> None:
    transport = await raw_client()
    await transport.send_all(masked(CLOSE))
    await transport.aclose()


async def break_the_protocol() -> None:
    transport = await raw_client()
    await transport.send_all(frame(TEXT, b"not masked"))
    await transport.aclose()


@pytest.mark.parametrize("wait", [need_a_message, need_the_next])
@pytest.mark.parametrize(
    ("leave", "how"),
    [
        (leave_with_a_reason, r"closed with code 4001 and the reason 'enough\\u202e'"),
        (leave_without_a_code, "closed without a code"),
        (leave_without_a_word, "the connection was lost: the peer closed it without a close frame"),
        (
            break_the_protocol,
            r"this end closed the connection with code 1002 \(PROTOCOL_ERROR\): a frame from the client is not masked",
        ),
    ],
)
async def test_a_wait_for_a_message_that_does_not_come_fails_the_test(
    wait: Callable[[ServerConnection], Awaitable[object]], leave: Callable[[], Awaitable[None]], how: str
) -> None:
    async def whole() -> None:
        async with websocket_server(wait):
            await leave()

    said = f"the handler waits for a message, and the client sends no more: {how}"
    with pytest.raises(AssertionError, match=f"^{said}$") as raised:
        await whole()
    lines = [entry.lineno for entry in raised.traceback if str(entry.path) == __file__]
    assert wait.__code__.co_firstlineno in lines
    assert notes(raised.value) == []


async def test_a_wait_after_the_server_has_ended_the_connection_fails_the_test() -> None:
    async def drop(connection: ServerConnection) -> None:
        await connection.accept()
        connection.drop()
        await connection.receive_value()

    async def reject(connection: ServerConnection) -> None:
        await connection.reject(401)
        await connection.receive_value()

    async def whole(handler: Callable[[ServerConnection], Awaitable[object]]) -> None:
        async with websocket_server(handler):
            with pytest.raises(ConnectionFailedError):
                async with websocket.connect(URL) as client:
                    await client.receive_value()

    for handler in (drop, reject):
        with pytest.raises(AssertionError, match="no more: the server has ended the connection"):
            await whole(handler)


async def test_a_wait_for_a_client_that_left_before_it_was_accepted_fails_the_test(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        await trio.sleep(10)
        await connection.receive_value()

    async def whole() -> None:
        async with websocket_server(handler):
            with pytest.raises(ConnectionFailedError):
                async with websocket.connect(URL, dial_timeout="5s"):
                    pass
            await trio.sleep(10)

    with pytest.raises(AssertionError, match="no more: the connection was not opened: the client has gone"):
        await whole()


async def test_a_vain_wait_in_a_task_of_a_handler_is_an_assertion_in_its_group() -> None:
    async def handler(connection: ServerConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(need_a_message, connection)

    with pytest.raises(ExceptionGroup) as raised:
        async with websocket_server(handler), websocket.connect(URL):
            pass
    assert [str(error) for error in raised.value.exceptions] == [
        "the handler waits for a message, and the client sends no more: closed with code 1000"
    ]


async def test_a_handler_may_catch_that_no_message_comes_and_other_channels_have_ends_of_their_own() -> None:
    other = csp.Channel[str]()
    other.close()

    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(EndOfChannelError) as raised:
            await connection.receive_value()
        assert raised.value.details == {"code": 1000, "reason": ""}
        await other.receive_value()

    with pytest.raises(EndOfChannelError, match="there are no more values"):
        async with websocket_server(handler), websocket.connect(URL):
            pass


async def test_an_anext_of_something_else_that_ends_is_a_failed_wait_too() -> None:
    other = csp.Channel[str]()
    other.close()

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        await anext(aiter(other))

    with pytest.raises(AssertionError, match=r"^the handler waits for a value with anext, and there are no more$"):
        async with websocket_server(handler), websocket.connect(URL) as client:
            await client.receive()
