"""The arguments of the command line, and its help."""

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
from trio_csp_websocket.command_line.compression import COMPRESSION
from trio_csp_websocket.command_line.help_text import DESCRIPTION, EPILOG, JSON_HELP
from trio_csp_websocket.command_line.listening import place, server_options
from trio_csp_websocket.command_line.values import duration, duration_or_forever, header, positive, whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.client.options import ConnectOptions
    from trio_csp_websocket.server.options import ListenOptions

DEMO_URL = "ws://localhost/"
"""What stands for the URL of the demo's server until that listens."""
DEFAULT_TIMEOUT = "30s"
DEFAULT_MAX_REDIRECTS = 10
# With --reconnect: without it, it may take hours to notice that a server has vanished.
KEEPALIVE = "30s"
# How errors of `connect` and `listen` begin that are about arguments.
_OPTIONS = {
    "proxy": "--proxy",
    "unix_socket": "--unix-socket",
    "host_header": "--host-header",
    "max_redirects": "--max-redirects",
    "origins": "--origin",
    "host": "--listen",
}
_OPTION = re.compile(rf"^({'|'.join(_OPTIONS)}) ")
# What only one of the two ends has.
_OF_CLIENT = ("url", "header", "after_first", "reconnect", "timeout", "proxy", "no_proxy", "unix_socket", "host_header",
              "max_redirects", "ca", "insecure", "demo")  # fmt: skip
_OF_SERVER = ("echo", "origin", "cert", "key")


def program_name() -> str:
    """Return what the user wrote to start the program."""
    return "csp-websocket" if Path(sys.argv[0]).stem == "csp-websocket" else "python -m csp.websocket"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. A mistake in it ends the program, with argparse's status 2."""
    parser = _parser()
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
    _check_ends(parser, parsed)
    if "wait" not in parsed:
        parsed.wait = None if parsed.count or parsed.listen else "1s"
    if parsed.unix_socket is not None and (parsed.demo or parsed.proxy is not None):
        parser.error(f"argument --unix-socket: not allowed with argument {'--demo' if parsed.demo else '--proxy'}")
    if parsed.proxy is not None and parsed.demo:
        parser.error("argument --proxy: not allowed with argument --demo")
    if parsed.after_first and parsed.count == 1:
        parser.error("--after-first needs a --count of at least 2: it counts the first message too")
    parsed.timeout = parsed.timeout or DEFAULT_TIMEOUT
    parsed.max_redirects = DEFAULT_MAX_REDIRECTS if parsed.max_redirects is None else parsed.max_redirects
    try:
        if parsed.listen is not None:
            parsed.options, parsed.target = server_options(parsed), None
        else:
            parsed.options = options(parsed)
            parsed.target, _ = check(parsed.url or DEMO_URL, parsed.options)
    except (InvalidError, OSError) as error:
        parser.error(_OPTION.sub(_argument, str(error)))
    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name(),
        usage="%(prog)s [options] URL\n       %(prog)s [options] --listen [HOST:]PORT",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("url", nargs="?", metavar="URL", help="ws://... or wss://...; USER:PASSWORD@ in it goes as Basic credentials")
    add("--listen", metavar="[HOST:]PORT", type=place, help="instead of URL: be a server there, by default on "
        "localhost; port 0 is a free one")  # fmt: skip
    add("--echo", action="store_true", help="send each message back to its sender")
    add("--origin", metavar="ORIGIN", action="append", help="let web pages of this site connect, as "
        "https://app.example.com; may be repeated; '*' for any (default: those of the server's own host and "
        "port)")  # fmt: skip
    add("--cert", metavar="FILE", help="speak TLS, with the certificate in this PEM file")
    add("--key", metavar="FILE", help="the private key that goes with it, unless it is in the same file")
    add("--json", action="store_true", help="write a JSON object a line: " + JSON_HELP)
    add("-H", "--header", metavar="'NAME: VALUE'", type=header, action="append", default=[], help="send a header")
    add("--protocol", metavar="NAME", action="append", help="offer a subprotocol, or choose it if it is offered; "
        "may be repeated")  # fmt: skip
    add("--compress", metavar="[MODE]", choices=COMPRESSION, help="offer compression, or agree to it: takeover, "
        "where a message may refer to those before it (the default), or no-context")  # fmt: skip
    add("--after-first", action="store_true", help="send the input only once a first message has come")
    add("--delay", metavar="DURATION", type=duration, help="wait this long before the first line of "
        "the input is sent, and at least this long between lines")  # fmt: skip
    add("--count", metavar="N", type=positive, help="end after N messages")
    add("--ping", metavar="DURATION", type=duration, help="ping this often, and show the round-trip time")
    add("--wait", metavar="DURATION", type=duration_or_forever, default=argparse.SUPPRESS, help="after the end of the "
        "input, end when nothing has come for this long; or forever (default: 1s, with --count or "
        "--listen forever)")  # fmt: skip
    add("--reconnect", action="store_true", help="connect again when the connection is lost, and keep trying, also if "
        "there is none at first; end when the server closes with 1000, or after an error that will not "
        "pass")  # fmt: skip
    add("--timeout", metavar="DURATION", type=duration, help="give up connecting after this long, "
        f"and waiting for what --after-first waits for (default: {DEFAULT_TIMEOUT})")  # fmt: skip
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--proxy", metavar="URL", help="connect through this proxy: http, https, socks5, socks5h, socks4 "
        "or socks4a://[USER:PASSWORD@]HOST[:PORT] (default: what the environment says: http_proxy, https_proxy, "
        "all_proxy, no_proxy)")  # fmt: skip
    ways.add_argument("--no-proxy", action="store_true", help="connect without a proxy, whatever the environment says")
    add("--unix-socket", metavar="PATH", help="connect to this Unix socket instead of the URL's host and port")
    add("--host-header", metavar="HOST[:PORT]", help="send this Host header instead of the URL's")
    add("--max-redirects", metavar="N", type=whole_number, help="follow at most N redirects of the "
        f"server (default: {DEFAULT_MAX_REDIRECTS})")  # fmt: skip
    add("--ca", metavar="FILE", help="trust the certificate authorities in this PEM file only")
    add("-k", "--insecure", action="store_true", help="do not verify the server's certificate")
    add("--demo", action="store_true", help="instead of URL: a server in this process, which echoes")
    add("--no-history", action="store_true", help="do not keep what is typed for the next time")
    add("--version", action="version", version=f"trio-csp {csp.__version__}")
    return parser


def demo_options(parsed: argparse.Namespace) -> ListenOptions:
    """Return the options of the server of ``--demo``, which agrees to all that its client offers."""
    given: ListenOptions = {"protocols": parsed.protocol}
    if parsed.compress:
        given["compression"] = COMPRESSION[parsed.compress]
    return given


def lead_to(parsed: argparse.Namespace, url: str) -> None:
    """Have the program connect to the server of ``--demo``, and not through a proxy."""
    parsed.url = url
    parsed.options["proxy"] = False
    parsed.target, _ = check(url, parsed.options)


def _check_ends(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End the program unless the arguments make a client or a server."""
    foreign, why = (_OF_SERVER, "only with") if parsed.listen is None else (_OF_CLIENT, "not allowed with")
    for action in parser._actions:  # noqa: SLF001  # argparse has no other list of them
        # By identity: 0 redirects are given, and equal False.
        given = action.dest in foreign and getattr(parsed, action.dest)
        if given is not False and given is not None and given != []:
            name = "/".join(action.option_strings) or action.metavar
            parser.error(f"argument {name}: {why} argument --listen")
    if parsed.listen is None and (parsed.url is None) != parsed.demo:
        parser.error("give either a URL, --listen or --demo")
    if parsed.key and not parsed.cert:
        parser.error("argument --key: only with argument --cert")


def _argument(option: re.Match[str]) -> str:
    """Return how argparse begins an error about an argument, for the option that it becomes."""
    return f"argument {_OPTIONS[option[1]]}: "


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
