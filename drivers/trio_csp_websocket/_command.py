"""The command line ``python -m csp.websocket``: its arguments, connecting, and the exit status."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import socket
import ssl
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import trio

import csp
from csp import testing, websocket
from csp.errors import Error, InvalidError
from trio_csp_websocket._session import Session, Stop
from trio_csp_websocket._terminal import Format, Show, escaped, prompt, read_lines, streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csp.websocket import ConnectOptions

PROGRAM = "python -m csp.websocket"
COMPRESSION = {
    "takeover": websocket.COMPRESSION.CONTEXT_TAKEOVER,
    "no-context": websocket.COMPRESSION.NO_CONTEXT,
}
ADVICE = (
    (ConnectionRefusedError, "; is the server running, and on this port?"),
    (socket.gaierror, "; is the host name right?"),
    (ssl.SSLCertVerificationError, "; --ca FILE trusts its authority, --insecure trusts anybody"),
)
DEMO_URL = "wss://demo.invalid/"
DESCRIPTION = """\
Connect to a WebSocket server, send what is typed or piped in, show what comes.

On a terminal, each line typed is sent as a text message; /help lists the
commands. Otherwise each line of standard input is sent, and after its end the
program stays until the server closes, --count messages have come, or nothing
has come for the time of --wait."""
JSON_HELP = (
    '{"type": "text", "data": "..."}, "binary" with its data in base64, "pong" with "seconds", and at the end "close" '
    'with "code", "reason" and "error"'
)
EPILOG = f"""\
Standard output has one line for each message and nothing else; a line break
inside a message is a space there (--json keeps it), and a binary message is
written as hexadecimal digits. What concerns the connection goes to standard
error. A terminal gets control characters as \\u001b.
A DURATION is written 300ms, 10s or 1m30s.

examples:
  {PROGRAM} wss://echo.example.com
  {PROGRAM} --demo
  {PROGRAM} -H 'Authorization: Bearer TOKEN' wss://example.com
  echo '{{"subscribe": "prices"}}' |
    {PROGRAM} --wait forever wss://example.com | grep EUR
  {PROGRAM} --json --wait forever wss://example.com < /dev/null |
    jq 'select(.type == "text").data | fromjson'

exit status:
  0    closed from here, or by the server with 1000, 1001 or no code
  1    no connection, or it ended with an error, or before --count messages
       had come, or input or output failed; standard error says which
  2    wrong usage
  130  Ctrl-C (but 0 on a terminal, where it closes the connection); 143 after
       SIGTERM; a second signal does not wait for the server to close
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; its mistakes end the program, as argparse does it."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s [options] URL",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("url", nargs="?", metavar="URL", help="ws://... or wss://...; USER:PASSWORD@ in it goes as Basic credentials")
    add("--json", action="store_true", help="write a JSON object a line: " + JSON_HELP)
    add("-H", "--header", metavar="'NAME: VALUE'", type=header, action="append", default=[], help="send a header")
    add("--protocol", metavar="NAME", action="append", help="offer a subprotocol; may be repeated")
    add("--compress", metavar="[MODE]", choices=COMPRESSION, help="offer compression: takeover, where a message may "
        "refer to those before it (the default), or no-context")  # fmt: skip
    add("--count", metavar="N", type=positive, help="end after N messages")
    add("--ping", metavar="DURATION", type=duration, help="ping this often, and show the round-trip time")
    add("--wait", metavar="DURATION", type=duration_or_forever, default="1s", help="after the end of the input, end "
        "when nothing has come for this long (default: 1s), or forever for no limit")  # fmt: skip
    add("--ca", metavar="FILE", help="trust the certificate authorities in this PEM file only")
    add("-k", "--insecure", action="store_true", help="do not verify the server's certificate")
    add("--demo", action="store_true", help="instead of URL: a server in this process, which echoes; no network")
    add("--version", action="version", version=f"trio-csp {csp.__version__}")
    parsed = parser.parse_args(list(_with_modes(arguments)))
    if (parsed.url is None) != parsed.demo:
        parser.error("give either a URL or --demo")
    try:
        parsed.options = options(parsed)
        websocket.connect(parsed.url or DEMO_URL, **parsed.options)
    except (InvalidError, OSError) as error:
        parser.error(str(error))
    return parsed


def _with_modes(arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments with the mode of each ``--compress`` that has none; argparse would take what follows."""
    return [
        "--compress=takeover" if argument == "--compress" and following not in COMPRESSION else argument
        for argument, following in pairwise([*arguments, ""])
    ]


def options(parsed: argparse.Namespace) -> ConnectOptions:
    """Return the options of `connect`. Raises InvalidError, and OSError for a file that cannot be read."""
    given: ConnectOptions = {"headers": parsed.header, "protocols": parsed.protocol}
    if parsed.compress:
        given["compression"] = COMPRESSION[parsed.compress]
    if parsed.ca or parsed.insecure:
        if not (parsed.url or DEMO_URL).lower().startswith("wss:"):
            raise InvalidError("--ca and --insecure need a wss:// URL")
        try:
            given["ssl_context"] = context = ssl.create_default_context(cafile=parsed.ca)
        except OSError as error:  # also what is no certificate
            raise InvalidError(f"--ca {parsed.ca}: {error.strerror or 'no certificates in it'}") from None
        if parsed.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    return given


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be 'NAME: VALUE'")  # it may be a secret, so it is not shown
    return name, value.strip()


def duration(text: str) -> str:
    try:
        if csp.parse_duration(text) > 0:
            return text
    except InvalidError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    raise argparse.ArgumentTypeError(f"must be above 0, not {text}")


def duration_or_forever(text: str) -> str | None:
    return None if text == "forever" else duration(text)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # or the next file to be opened, a socket perhaps, would take its place
    return trio.run(run, parse(sys.argv[1:] if arguments is None else arguments))


async def run(parsed: argparse.Namespace) -> int:
    """Connect, carry the session through, and return the exit status."""
    interactive = os.isatty(0) and os.isatty(1)
    stops = csp.Channel[Stop](math.inf)
    interrupted = 0

    async def receive_signals(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if interrupted:
                    scope.cancel()
                interrupted = 128 + number
                await stops.send(Stop(0 if interactive and number == signal.SIGINT else interrupted))

    with trio.CancelScope() as scope:
        async with csp.BackgroundNursery() as nursery, contextlib.AsyncExitStack() as stack:
            await nursery.start(receive_signals)
            if parsed.demo:
                await stack.enter_async_context(testing.websocket_server(demo, DEMO_URL))
            opened = csp.Channel[websocket.Client](1)
            nursery.start_soon(open_connection, nursery, parsed, opened)
            r = await csp.select(stops.case_receive(), opened.case_receive())
            if isinstance(r.value, Stop):
                return interrupted
            if not r.ok:
                say(f"{opened.cause}{advice(opened.cause)}")
                return 1
            lines = csp.Channel[str | None](math.inf if interactive else 0)
            show = await showing(stack, lines, interactive=interactive)
            if show is None:
                nursery.start_soon(read_input, lines, stops)
                show = streams(marked=interactive)
            session = Session(
                r.value,
                lines,
                show,
                stops,
                Format(json=parsed.json, terminal=os.isatty(1)),
                interactive=interactive,
                count=parsed.count or math.inf,
                ping=parsed.ping,
                wait=parsed.wait,
            )
            return await session.run()
    return interrupted


async def open_connection(
    nursery: trio.Nursery, parsed: argparse.Namespace, opened: csp.Channel[websocket.Client]
) -> None:
    """Connect, or close the channel with the error."""
    try:
        await opened.send(await websocket.connect(parsed.url or DEMO_URL, nursery=nursery, **parsed.options))
    except Error as error:
        opened.close(error)


async def showing(
    stack: contextlib.AsyncExitStack, lines: csp.Channel[str | None], *, interactive: bool
) -> Show | None:
    """Return what shows lines above a prompt; None where there cannot be a prompt."""
    if interactive and os.environ.get("TERM") != "dumb":
        try:
            return await stack.enter_async_context(prompt(lines))
        except ImportError:
            say("for line editing, history and colours: pip install 'trio-csp[cli]'")
    return None


async def read_input(lines: csp.Channel[str | None], stops: csp.Channel[Stop]) -> None:
    """Give the lines of standard input, and None at its end."""
    try:
        await read_lines(0, lines.send)
        await lines.send(None)
    except (InvalidError, OSError) as error:
        await stops.send(Stop(1, f"standard input: {error}"))


def say(text: str) -> None:
    """Say something about the program on standard error."""
    print(f"{PROGRAM}: {escaped(text)}", file=sys.stderr)


def advice(error: BaseException | None) -> str:
    """Return what to try after an error of connecting, where that is known."""
    details = (error.details if isinstance(error, Error) else None) or {}
    match details.get("status"):
        case 401 | 403:
            return "; credentials go into --header 'Authorization: ...' or the URL"
        case 301 | 302 | 303 | 307 | 308:
            location = cast("dict[str, str]", details["headers"]).get("location", "nowhere")
            return f"; redirects are not followed, and this one leads to {location}"
        case 404:
            return "; is the path right?"
        case _:
            pass
    while error is not None:
        for kind, text in ADVICE:
            if isinstance(error, kind):
                return text
        error = error.__cause__
    return ""


async def demo(connection: testing.ServerConnection) -> None:
    """Serve one client of ``--demo``."""
    await connection.send("Welcome! What you send comes back, and every five seconds a tick.")
    messages, ticks = connection.channel(), csp.tick("5s")
    while True:
        r = await csp.select(messages.case_receive(), ticks.case_receive())
        if r.channel is ticks:
            await connection.send("tick")
        elif isinstance(r.value, websocket.Message):
            await connection.send(r.value.data)
        else:
            return
