"""The arguments of the command line client, and its help."""

from __future__ import annotations

import argparse
import re
import ssl
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import csp
from csp.errors import InvalidError
from trio_csp_websocket.client.connect import check
from trio_csp_websocket.protocol.constants import Compression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.client.options import ConnectOptions

COMPRESSION = {
    "takeover": Compression.CONTEXT_TAKEOVER,
    "no-context": Compression.NO_CONTEXT,
}
DEMO_URL = "wss://demo.invalid/"
# With --reconnect: without it, it may take hours to notice that a server has vanished.
KEEPALIVE = "30s"
# How errors of `connect` begin that are about arguments of the same name.
_OPTION = re.compile(r"^(proxy|unix_socket|host_header|max_redirects) ")
DESCRIPTION = """\
Connect to a WebSocket server, send what is typed or piped in, and show what
comes.

On a terminal, each line typed is sent as a text message; /help lists the
commands. Otherwise each line of standard input is sent, and after its end the
program stays connected until the server closes, --count messages have come,
or, without --count, nothing has come for a second (--wait)."""
JSON_HELP = (
    '{"type": "text", "data": "..."}, "binary" with its data in base64, "pong" with "seconds", and at the end "close" '
    'with "code", "reason" and "error"; where there is no connection, "refused" with "status", "headers" and "body", '
    'or "error", both with "error" and "retryable"; with --reconnect also "open"; "waiting" with "seconds", "attempt" '
    'and "error"; and "gap" with "seconds", "attempts", "missed", "code", "reason" and "error"'
)
EPILOG = """\
Where standard output is not a terminal, it gets one line for each message and
nothing else: the message as it is, including control characters, but with
spaces for its line breaks (--json keeps them); a binary message as hexadecimal
digits. What concerns the connection goes to standard error.
On a terminal a message begins with "< ", and its further lines with spaces;
characters that would control it, or not be seen, are shown as \\u001b.
What is typed at a prompt is kept for the next time, readable for you only, in
~/.local/state/trio-csp/websocket_history (or below $XDG_STATE_HOME, and on
Windows %%LOCALAPPDATA%%). Lines that begin with a space or look like credentials
are not, nor are those with a secret of the command line. Not every secret looks
like one: --no-history.
With --reconnect, standard error tells of each connection that is lost, and of
each attempt that fails. Lines of the input wait for a connection, and none is
sent twice, also not to the next connection. If one may be lost, that is told,
and the exit status is 1. A server that vanishes is noticed after a minute.
The server has two seconds to answer a close.
A DURATION is written 300ms, 10s or 1m30s.
Other users of this machine may see the command line, and credentials in it.
A proxy's credentials may be in the environment instead: https_proxy.

examples:
  %(prog)s wss://echo.example.com
  %(prog)s --demo
  %(prog)s -H 'Authorization: Bearer TOKEN' wss://example.com
  echo '{"subscribe": "prices"}' |
    %(prog)s --count 10 wss://example.com | grep EUR
  %(prog)s --json --wait forever wss://example.com < /dev/null |
    jq 'select(.type == "text").data | fromjson'
  %(prog)s --reconnect --wait forever wss://example.com \\
    < /dev/null

exit status:
  0    closed from here, or by the server with 1000, 1001 or no code
  1    no connection, or it ended with an error, or before --count messages or
       the message for --after-first had come, or a line may be lost, or input
       or output failed; standard error says which
  2    wrong usage
  130  Ctrl-C (but 0 on a terminal, where it closes the connection); 143 after
       SIGTERM; a second signal does not wait for the server to close
"""


def program_name() -> str:
    """Return what the user wrote to start the program."""
    return "csp-websocket" if Path(sys.argv[0]).stem == "csp-websocket" else "python -m csp.websocket"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. A mistake in it ends the program, with argparse's status 2."""
    parser = argparse.ArgumentParser(
        prog=program_name(),
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
    add("--after-first", action="store_true", help="send the input only once a first message has come")
    add("--delay", metavar="DURATION", type=duration, help="wait this long before the first line of "
        "the input is sent, and at least this long between lines")  # fmt: skip
    add("--count", metavar="N", type=positive, help="end after N messages")
    add("--ping", metavar="DURATION", type=duration, help="ping this often, and show the round-trip time")
    add("--wait", metavar="DURATION", type=duration_or_forever, default=argparse.SUPPRESS, help="after the end of the "
        "input, end when nothing has come for this long; or forever (default: 1s, with --count forever)")  # fmt: skip
    add("--reconnect", action="store_true", help="connect again when the connection is lost, and keep trying, also if "
        "there is none at first; end when the server closes with 1000, or after an error that will not "
        "pass")  # fmt: skip
    add("--timeout", metavar="DURATION", type=duration, default="30s", help="give up connecting after this long, "
        "and waiting for what --after-first waits for (default: %(default)s)")  # fmt: skip
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--proxy", metavar="URL", help="connect through this proxy: http, https, socks5, socks5h, socks4 "
        "or socks4a://[USER:PASSWORD@]HOST[:PORT] (default: what the environment says: http_proxy, https_proxy, "
        "all_proxy, no_proxy)")  # fmt: skip
    ways.add_argument("--no-proxy", action="store_true", help="connect without a proxy, whatever the environment says")
    add("--unix-socket", metavar="PATH", help="connect to this Unix socket instead of the URL's host and port")
    add("--host-header", metavar="HOST[:PORT]", help="send this Host header instead of the URL's")
    add("--max-redirects", metavar="N", type=whole_number, default=10, help="follow at most N redirects of the "
        "server (default: %(default)s)")  # fmt: skip
    add("--ca", metavar="FILE", help="trust the certificate authorities in this PEM file only")
    add("-k", "--insecure", action="store_true", help="do not verify the server's certificate")
    add("--demo", action="store_true", help="instead of URL: a server in this process, which echoes; no network")
    add("--no-history", action="store_true", help="do not keep what is typed for the next time")
    add("--version", action="version", version=f"trio-csp {csp.__version__}")
    parsed, unknown = parser.parse_known_args(list(_with_modes(arguments)))
    if unknown:
        # No values are shown: what a shell has split in the wrong place may be part of a secret.
        names = [re.match("--[^=]*|-.|", argument) for argument in unknown]
        options_given = ", ".join(name[0] for name in names if name and name[0])
        parser.error(
            f"there is no option {options_given}"
            if options_given
            else f"too many arguments ({len(unknown)}); quote headers"
        )
    if "wait" not in parsed:
        parsed.wait = None if parsed.count else "1s"
    if (parsed.url is None) != parsed.demo:
        parser.error("give either a URL or --demo")
    if parsed.unix_socket is not None and (parsed.demo or parsed.proxy is not None):
        parser.error(f"argument --unix-socket: not allowed with argument {'--demo' if parsed.demo else '--proxy'}")
    if parsed.proxy is not None and parsed.demo:
        parser.error("argument --proxy: not allowed with argument --demo")
    if parsed.after_first and parsed.count == 1:
        parser.error("--after-first needs a --count of at least 2: it counts the first message too")
    try:
        parsed.options = options(parsed)
        parsed.target, _ = check(parsed.url or DEMO_URL, parsed.options)
    except (InvalidError, OSError) as error:
        parser.error(_OPTION.sub(_argument, str(error)))
    return parsed


def _argument(option: re.Match[str]) -> str:
    """Return how argparse begins an error about an argument, for the option of `connect` that it becomes."""
    return f"argument --{option[1].replace('_', '-')}: "


def _with_modes(arguments: Sequence[str]) -> Sequence[str]:
    """Give each ``--compress`` without a mode the default one; argparse would take the next argument for its mode."""
    return [
        "--compress=takeover" if argument == "--compress" and following not in COMPRESSION else argument
        for argument, following in pairwise([*arguments, ""])
    ]


def options(parsed: argparse.Namespace) -> ConnectOptions:
    """Return the options of `connect`. Raises InvalidError, and OSError for a file that cannot be read."""
    given: ConnectOptions = {
        "headers": parsed.header,
        "protocols": parsed.protocol,
        "dial_timeout": parsed.timeout,
        "close_timeout": "2s",
        "proxy": not parsed.no_proxy if parsed.proxy is None else parsed.proxy,
        "unix_socket": parsed.unix_socket,
        "host_header": parsed.host_header,
        "max_redirects": parsed.max_redirects,
    }
    if parsed.reconnect:
        given["keepalive"] = KEEPALIVE
    if parsed.compress:
        given["compression"] = COMPRESSION[parsed.compress]
    if parsed.ca or parsed.insecure:
        if not (parsed.url or DEMO_URL).lower().startswith("wss:"):
            raise InvalidError("--ca and --insecure need a wss:// URL")
        try:
            given["ssl_context"] = context = ssl.create_default_context(cafile=parsed.ca)
        except ssl.SSLError:
            raise InvalidError(f"--ca {parsed.ca}: no certificates in it") from None
        except OSError as error:
            raise InvalidError(f"--ca {parsed.ca}: {error.strerror}") from None
        if parsed.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    return given


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be 'NAME: VALUE'")  # not shown: it may be a secret
    return name, value.strip()


def duration(text: str) -> str:
    seconds = parse_seconds(text)
    if seconds is None:
        # A number alone has no unit.
        hint = f"; write {text}s" if parse_seconds(f"{text}s") else ""
        raise argparse.ArgumentTypeError(f"must be a duration such as 300ms, 10s or 1m30s, not {text}{hint}")
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return text


def parse_seconds(text: str) -> float | None:
    """Return a duration in seconds; None for what is not a duration."""
    try:
        return csp.parse_duration(text)
    except InvalidError:
        return None


def duration_or_forever(text: str) -> str | None:
    return None if text == "forever" else duration(text)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)
