"""Ctrl-C, at a client that waits and at the data plane in the middle of its work."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from tests.websocket._peers import (
    BINARY,
    CLOSE,
    LIMIT_SECONDS,
    TEXT,
    Frame,
    Peer,
    close_frame,
    frame,
    parse_close,
    raw_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENT = """
    import sys
    import trio
    import csp
    from csp import websocket

    async def main(url):
        try:
            async with websocket.connect(url) as client:
                shutdown = csp.Channel()
                print((await client.receive()).value.data, flush=True)
                await csp.select(client.channel().case_receive(), shutdown.case_receive())
        except KeyboardInterrupt as error:
            print("bare", type(error.__context__).__name__, client.channel().closed, client.close_code, flush=True)
            raise

    try:
        trio.run(main, sys.argv[1])
    except KeyboardInterrupt:
        print("out", flush=True)
"""

NURSERY_CLIENT = """
    import sys
    import trio
    from csp import websocket

    async def main(url):
        try:
            async with trio.open_nursery() as nursery:
                client = await websocket.connect(url, nursery=nursery)
                print((await client.receive()).value.data, flush=True)
                await client.receive()
        except* KeyboardInterrupt as group:
            while isinstance(group, BaseExceptionGroup):
                group, = group.exceptions
            print("bare NoneType", client.channel().closed, client.close_code, flush=True)

    trio.run(main, sys.argv[1])
    print("out", flush=True)
"""


def environment() -> dict[str, str]:
    # Where nothing is installed, the child must find the checkout as this process did.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def read_line(process: subprocess.Popen[str]) -> str:
    """Wait, but not for ever, for a line."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 30)
    return process.stdout.readline() if ready else "nothing in 30 s"


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be interrupted so there")
@pytest.mark.parametrize("program", [CLIENT, NURSERY_CLIENT], ids=["block", "nursery"])
async def test_ctrl_c_while_waiting_ends_the_client_with_a_bare_keyboard_interrupt(program: str) -> None:
    ended = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"waiting"))
        assert parse_close(await peer.expect(CLOSE)) == (1001, "")
        await peer.expect_end()
        ended.set()

    async with raw_server(server, limit_seconds=60) as url:
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), url]
        with subprocess.Popen(  # noqa: ASYNC220  # starting it takes no time worth waiting for
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as client:
            try:
                assert await trio.to_thread.run_sync(read_line, client) == "waiting\n"
                client.send_signal(signal.SIGINT)
                await ended.wait()
                out, err = await trio.to_thread.run_sync(lambda: client.communicate(timeout=30))
            finally:
                client.kill()
        assert (out, err, client.returncode) == ("bare NoneType True 1006\nout\n", "", 0)


# Within the data plane ----------------------------------------------------------------------------------------------


def interrupting(target: object, name: str, monkeypatch: pytest.MonkeyPatch, *, after: bool, calls: int = 1) -> None:
    """Have Ctrl-C come just before or after this many calls of a function of the data plane."""
    original: Callable[..., Any] = getattr(target, name)
    left = [calls]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        last = left[0] == 0  # it may call itself
        if last and not after:
            signal.raise_signal(signal.SIGINT)
        result = original(*args, **kwargs)
        if last and after:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(target, name, interrupted)


# These have a Trio run of their own: Trio raises a KeyboardInterrupt that was put off in a run's main task.


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["feed", "_finish_frame"])
def test_ctrl_c_while_messages_are_parsed_is_raised_later_and_loses_none(
    name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trio_csp_websocket.protocol.decoder import Decoder

    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.send(b"".join(frame(TEXT, b"%d" % number, fin=False) + frame(0) for number in range(100)))
        await peer.expect(CLOSE)
        await peer.send(close_frame(1000))
        await peer.expect_end()

    async def main() -> None:
        received: list[str | bytes] = []
        interrupts = 0
        async with raw_server(server) as url, websocket.connect(url) as client:
            while len(received) < 100:
                try:
                    received.append((await client.receive()).value.data)
                except KeyboardInterrupt:
                    interrupts += 1
        assert received == [str(number) for number in range(100)]
        assert interrupts == 1

    interrupting(Decoder, name, monkeypatch, after=after)
    trio.run(main)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("send_now", 10), ("encode", 10), ("_write_now", 10)),
        *(("send_now", 24 << 20), ("begin", 24 << 20), ("_write_now", 24 << 20)),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_during_a_send_never_leaves_half_a_frame_on_a_live_connection(
    name: str, after: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trio_csp_websocket.connection.writer import Writer
    from trio_csp_websocket.protocol.encoder import Encoder
    from trio_csp_websocket.transport.socket import SocketTransport

    frames: list[Frame] = []

    async def server(peer: Peer) -> None:
        await peer.accept()
        while (received := await peer.read_frame()) is not None:
            frames.append(received)
            if received.opcode == CLOSE:
                await peer.send(close_frame(1000))

    async def main() -> None:
        async with raw_server(server) as url, websocket.connect(url, close_timeout="2s") as client:
            target = {"send_now": SocketTransport, "_write_now": Writer}.get(name, Encoder)
            interrupting(target, name, monkeypatch, after=after)
            interrupted = False
            try:
                await client.send(b"x" * size)
                # Where it was put off, this is where it comes.
                await trio.sleep(LIMIT_SECONDS)
            except KeyboardInterrupt:
                interrupted = True
            assert interrupted
            await client.send("after")

    trio.run(main)
    assert [one.opcode for one in frames][-2:] == [TEXT, CLOSE]
    assert [one.payload for one in frames if one.opcode == TEXT] == [b"after"]
    assert all(one.payload == b"x" * size for one in frames if one.opcode == BINARY)


INTERRUPTED_AT = {
    "the socket is wrapped": ("transport.socket.SocketTransport.__init__", True),
    "the connection is made": ("connection.connection.Connection.__init__", False),
    "the connection opens": ("client.handshakes.Handshakes.open", False),
    "the connection has opened": ("client.client.Client.__init__", True),
    "the block is left": ("connection.connection.Connection.close", False),
    "the close frame is written": ("connection.writer.Writer.send_close", True),
    "the transport is closed": ("transport.socket.SocketTransport.aclose", False),
    "the connection's tasks are ended": ("client.connect.BackgroundNursery.__aexit__", False),
}


@pytest.mark.parametrize("point", INTERRUPTED_AT)
def test_ctrl_c_while_the_block_is_entered_or_left_leaves_no_socket_and_no_task(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, after = INTERRUPTED_AT[point]
    module, class_name, name = path.rsplit(".", 2)

    async def server(peer: Peer) -> None:
        with contextlib.suppress(AssertionError, trio.BrokenResourceError):
            await peer.accept()
            await peer.expect(CLOSE)
            await peer.send(close_frame(1000))
            await peer.expect_gone()

    async def main() -> None:
        interrupted = False
        async with raw_server(server) as url:
            interrupting(
                getattr(importlib.import_module(f"trio_csp_websocket.{module}"), class_name),
                name,
                monkeypatch,
                after=after,
            )
            try:
                async with websocket.connect(url, close_timeout="100ms"):
                    pass
                # Where it was put off, this is where it comes.
                await trio.sleep(LIMIT_SECONDS)
            except KeyboardInterrupt:
                interrupted = True
        assert interrupted

    trio.run(main)


def test_ctrl_c_while_tcp_connects_is_a_bare_keyboard_interrupt() -> None:
    async def interrupt() -> None:
        await wait_all_tasks_blocked(0.01)
        signal.raise_signal(signal.SIGINT)

    async def main(port: int) -> None:
        trio.lowlevel.spawn_system_task(interrupt)
        async with websocket.connect(f"ws://127.0.0.1:{port}/"):
            pytest.fail("connected")

    # Connecting to a listener whose queue is full has to wait.
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        with pytest.raises(KeyboardInterrupt):
            trio.run(main, listener.getsockname()[1])
