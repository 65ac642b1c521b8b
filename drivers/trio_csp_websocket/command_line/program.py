"""The command line client as a program: connecting, signals, and the exit status."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from typing import TYPE_CHECKING

import trio

import csp
from csp.errors import Error, InvalidError
from trio_csp_websocket.client.client import Client
from trio_csp_websocket.client.connect import connect
from trio_csp_websocket.command_line.advice import advice, told
from trio_csp_websocket.command_line.arguments import DEMO_URL, parse, program_name
from trio_csp_websocket.command_line.format import Format
from trio_csp_websocket.command_line.history import history_file, open_history
from trio_csp_websocket.command_line.lines import escaped, on_screen
from trio_csp_websocket.command_line.link import Link, ManyConnections, OneConnection
from trio_csp_websocket.command_line.prompt import prompt
from trio_csp_websocket.command_line.request import request
from trio_csp_websocket.command_line.session import Session, Stop
from trio_csp_websocket.command_line.streams import (
    is_console,
    is_typed,
    read_lines,
    screen_columns,
    streams,
    write_text,
)
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.testing.memory import websocket_server

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from prompt_toolkit.history import History

    from trio_csp_websocket.command_line.lines import Show
    from trio_csp_websocket.testing.server_connection import ServerConnection

# Ctrl-C, and on Windows Ctrl-Break.
INTERRUPTS = frozenset({signal.SIGINT, getattr(signal, "SIGBREAK", signal.SIGINT)})
# How long Trio may take to hear of a signal, once it has ended the read of a console.
SIGNAL_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # or the next file to be opened, a socket perhaps, would take its place
    return trio.run(run, parse(sys.argv[1:] if arguments is None else arguments))


async def run(parsed: argparse.Namespace) -> int:
    """Connect, carry the session through, and return the exit status."""
    terminal = screen_columns(1) is not None
    interactive = terminal and is_typed(0)
    if interactive and (parsed.delay or parsed.after_first):
        say("--delay and --after-first are for input from a pipe or a file, and not for what is typed")
        return 2
    form = Format(json=parsed.json, terminal=terminal, reconnect=parsed.reconnect, request=request(parsed))
    show = streams(interactive=interactive)
    stops = csp.Channel[Stop](math.inf)
    interrupted, signalled = 0, trio.Event()

    async def receive_signals(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(*INTERRUPTS, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if interrupted:
                    scope.cancel()
                signalled.set()
                interrupted = 128 + (signal.SIGINT if number in INTERRUPTS else number)
                await stops.send(Stop(0 if interactive and number in INTERRUPTS else interrupted))

    with trio.CancelScope() as scope:
        async with csp.BackgroundNursery() as nursery, contextlib.AsyncExitStack() as stack:
            await nursery.start(receive_signals)
            if parsed.demo:
                await stack.enter_async_context(websocket_server(demo, DEMO_URL))
            link: Link | None
            if parsed.reconnect:
                link = many = ManyConnections(parsed.url or DEMO_URL, parsed.options)
                await stack.enter_async_context(many.feed)
            else:
                link = await open_connection(nursery, parsed, stops, form, show, interactive=interactive)
            if link is None:
                return interrupted or 1
            lines = csp.Channel[str | None](math.inf if interactive else 0)
            above_prompt = await open_prompt(stack, lines, parsed) if interactive else None
            if above_prompt is None:
                nursery.start_soon(read_input, lines, stops, signalled)
            session = Session(
                link,
                lines,
                above_prompt or show,
                stops,
                form,
                interactive=interactive,
                count=parsed.count or math.inf,
                ping=parsed.ping,
                wait=parsed.wait,
                delay=parsed.delay,
                first_within=parsed.timeout if parsed.after_first else None,
            )
            return await session.run()
    return interrupted


async def open_connection(
    nursery: trio.Nursery,
    parsed: argparse.Namespace,
    stops: csp.Channel[Stop],
    form: Format,
    show: Show,
    *,
    interactive: bool,
) -> OneConnection | None:
    """Connect; return None if that fails, which is told, or if a signal comes first."""
    opened = csp.Channel[Client | Error](1)

    async def open_it() -> None:
        try:
            await opened.send(await connect(parsed.url or DEMO_URL, nursery=nursery, **parsed.options))
        except Error as error:
            await opened.send(error)

    nursery.start_soon(open_it)
    # Connecting may take half a minute: a person is told what is happening.
    slow = csp.after("1s") if interactive else csp.never()
    cases = stops.case_receive(), opened.case_receive(), slow.case_receive()
    while (r := await csp.select(*cases)).channel is slow:
        await show([form.connecting()])
    if isinstance(r.value, Client):
        return OneConnection(r.value)
    if isinstance(r.value, Error):
        await tell_failure(r.value, form, show)
    return None


async def tell_failure(error: Error, form: Format, show: Show) -> None:
    """Say why there is no connection, on standard error; if JSON was asked for, also on standard output."""
    if form.json:
        try:
            await show([form.no_connection(error)])
        except BrokenPipeError:
            pass  # its reader has ended
        except OSError as failed:
            say(f"cannot write the output: {failed.strerror}")
    say(f"{told(error)}{advice(error, form.request)}")


async def open_prompt(
    stack: contextlib.AsyncExitStack, lines: csp.Channel[str | None], parsed: argparse.Namespace
) -> Show | None:
    """Open a prompt, and return what shows lines above it; None where there cannot be one."""
    if os.environ.get("TERM") != "dumb":
        try:
            return await stack.enter_async_context(prompt(lines, kept_history(parsed)))
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            hint = "pip install 'trio-csp[cli]'" if missing == "prompt_toolkit" else f"this Python has no {missing}"
            say(f"for line editing, history and colours: {hint}")
    return None


def kept_history(parsed: argparse.Namespace) -> History | None:
    """Return the history that is kept in a file; None for none. Raises ImportError without prompt_toolkit."""
    path = None if parsed.no_history else history_file()
    if path is None:
        return None
    try:
        return open_history(path, request(parsed).pieces)
    except OSError as error:
        say(f"what is typed is not kept in {path}: {error.strerror}")
        return None


async def read_input(lines: csp.Channel[str | None], stops: csp.Channel[Stop], signalled: trio.Event) -> None:
    """Send the lines of standard input, and None at its end."""
    try:
        await read_lines(0, lines.send)
        if is_console(0):  # there a signal looks like the end as well
            with trio.move_on_after(SIGNAL_SECONDS):
                await signalled.wait()
                return
        await lines.send(None)
    except (InvalidError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        await stops.send(Stop(1, f"standard input: {said}"))


def say(text: str) -> None:
    """Print something about the program on standard error."""
    line, columns = f"{program_name()}: {escaped(text)}", screen_columns(2)
    with contextlib.suppress(OSError):
        write_text(2, f"{line if columns is None else on_screen('', line, columns)}\n")


async def demo(connection: ServerConnection) -> None:
    """Serve one client of ``--demo``."""
    await connection.send("Welcome! What you send comes back, and every five seconds a tick.")
    messages, ticks = connection.channel(), csp.tick("5s")
    while True:
        r = await csp.select(messages.case_receive(), ticks.case_receive())
        if r.channel is ticks:
            await connection.send("tick")
        elif isinstance(r.value, Message):
            await connection.send(r.value.data)
        else:
            return
