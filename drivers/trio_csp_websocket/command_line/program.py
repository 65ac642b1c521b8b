"""The command line as a program: connecting or listening, signals, and the exit status."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

import csp
from csp.errors import InvalidError
from trio_csp_websocket.command_line.arguments import demo_options, lead_to, parse
from trio_csp_websocket.command_line.conversation import Stop
from trio_csp_websocket.command_line.format import Format
from trio_csp_websocket.command_line.guest_format import GuestFormat
from trio_csp_websocket.command_line.guests import Guests
from trio_csp_websocket.command_line.history import history_file, open_history
from trio_csp_websocket.command_line.hosting import Hosting
from trio_csp_websocket.command_line.link import Link, ManyConnections
from trio_csp_websocket.command_line.opening import Opening
from trio_csp_websocket.command_line.prompt import prompt
from trio_csp_websocket.command_line.request import request
from trio_csp_websocket.command_line.saying import say
from trio_csp_websocket.command_line.session import Session
from trio_csp_websocket.command_line.streams import is_console, is_typed, read_lines, screen_columns, streams

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from prompt_toolkit.history import History

    from trio_csp_websocket.command_line.lines import Show
    from trio_csp_websocket.server.server import Server

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
    """Connect or listen, carry the session through, and return the exit status."""
    terminal = screen_columns(1) is not None
    interactive = terminal and is_typed(0)
    if interactive and (parsed.delay or parsed.after_first):
        say("--delay and --after-first are for input from a pipe or a file, and not for what is typed")
        return 2
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
            opening = Opening(nursery, stops, show, interactive=interactive)
            opened = await open_end(opening, stack, parsed, terminal=terminal)
            if opened is None:
                return interrupted or 1
            end, form = opened
            lines = csp.Channel[str | None](math.inf if interactive else 0)
            above_prompt = await open_prompt(stack, lines, parsed) if interactive else None
            if above_prompt is None:
                nursery.start_soon(read_input, lines, stops, signalled)
            options = {name: getattr(parsed, name) for name in ("ping", "wait", "delay")}
            options |= {"interactive": interactive, "count": parsed.count or math.inf}
            shared = lines, above_prompt or show, stops
            if isinstance(end, Link):
                first_within = parsed.timeout if parsed.after_first else None
                return await Session(end, *shared, form, first_within=first_within, **options).run()
            guests = Guests(end, echo=parsed.echo)
            nursery.start_soon(guests.run)
            return await Hosting(guests, end.url, *shared, GuestFormat(parsed.json, terminal), **options).run()
    return interrupted


async def open_end(
    opening: Opening, stack: contextlib.AsyncExitStack, parsed: argparse.Namespace, *, terminal: bool
) -> tuple[Link | Server, Format] | None:
    """Connect or listen; return what became of it, and how it is told of. None if that fails, or a signal comes."""
    form = Format(json=parsed.json, terminal=terminal, reconnect=parsed.reconnect, request=request(parsed))
    if parsed.demo:
        demo = await opening.demo(demo_options(parsed), form)
        if demo is None:
            return None
        lead_to(parsed, demo.url)
        form = replace(form, request=request(parsed))
    end: Link | Server | None
    if parsed.listen:
        end = await opening.server(parsed.listen.port, parsed.options, form)
    elif parsed.reconnect:
        end = many = ManyConnections(parsed.url, parsed.options)
        await stack.enter_async_context(many.feed)
    else:
        end = await opening.connection(parsed.url, parsed.options, form)
    return None if end is None else (end, form)


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
